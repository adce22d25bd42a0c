"""Tasks of a pool while one of its domains is sick."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from vdsm.tasks.errors import AddTaskFailed
from vdsm.tasks.journal import Journal
from vdsm.tasks.model import SPM, JobRecord, Rollback, TaskRecord, TaskState
from vdsm.tasks.pool import PoolTasks
from vdsm.tasks.ports import Rollbacks
from vdsm.tasks.runner import TaskRunner
from vdsm.tasks.work import JobContext
from vdsm.testing.clock import VirtualClock

SICK, HEALTHY = "5ac50000-0000-4000-8000-000000000000", "6ea17400-0000-4000-8000-000000000000"


class Storage:
    """Undoes what concerns the healthy domain; what concerns the sick one hangs until it is well."""

    def __init__(self) -> None:
        self.is_well = threading.Event()
        self.undone: list[str] = []

    async def recover(self, module: str, object: str, function: str, params: tuple[str, ...]) -> None:
        if SICK in ",".join(params):
            await asyncio.to_thread(self.is_well.wait, 30)
        self.undone.append(function)

    def hang(self, rollbacks: Rollbacks, context: JobContext) -> None:
        assert self.is_well.wait(30)


def work(rollbacks: Rollbacks, context: JobContext) -> None:
    return None


def leave(folder: Path, task_id: str, param: str) -> None:
    """What an SPM that was killed left."""
    journal = Journal(folder)
    record = TaskRecord(task_id, "createVolume", SPM, journal.location, TaskState.RUNNING, (JobRecord("createVolume"),))
    journal.save(record.push(Rollback("n", "fileVolume", "FileVolume", "createVolumeMetadataRollback", (param,))))


async def test_a_sick_domain_holds_up_neither_the_spm_nor_tasks_of_others(tmp_path: Path) -> None:
    """Ten recoveries that hang take nobody's place; their domain alone has no new task before they are done."""
    storage = Storage()
    for number in range(10):
        leave(tmp_path, f"hangs{number}", f"/rhev/pool/{SICK}/images/image/volume")
    leave(tmp_path, "late", f"/rhev/pool/{HEALTHY}/images/image/volume")
    async with TaskRunner(storage.recover, VirtualClock(), worker_count=1) as runner:
        tasks = PoolTasks(runner, None, patience_s=0.2)
        await tasks.take_over(tmp_path)
        assert (await runner.wait("late")).state is TaskState.RECOVERED
        assert storage.undone == ["createVolumeMetadataRollback"]
        done = await runner.wait(await tasks.start_persistent("createVolume", HEALTHY, work))
        assert done.state is TaskState.FINISHED
        for owner in (SICK, f"{HEALTHY} {SICK}"):
            with pytest.raises(AddTaskFailed, match="of an earlier SPM is not undone yet"):
                await tasks.start_persistent("copyImage", owner, work)
        storage.is_well.set()
        for number in range(10):
            assert (await runner.wait(f"hangs{number}")).state is TaskState.RECOVERED
        done = await runner.wait(await tasks.start_persistent("createVolume", SICK, work))
        assert done.state is TaskState.FINISHED


async def test_tasks_that_hang_on_a_sick_domain_hold_up_no_other(tmp_path: Path) -> None:
    storage = Storage()
    async with TaskRunner(storage.recover, VirtualClock(), worker_count=1, queue_length=4) as runner:
        tasks = PoolTasks(runner, None)
        await tasks.take_over(tmp_path)
        stuck = [await tasks.start_persistent("createVolume", SICK, storage.hang)]
        while runner.get(stuck[0]).state is not TaskState.RUNNING:
            await asyncio.sleep(0.001)
        stuck += [await tasks.start_persistent("createVolume", SICK, storage.hang) for _ in range(4)]
        with pytest.raises(AddTaskFailed, match=f"4 tasks of {SICK} are waiting"):
            await tasks.start_persistent("createVolume", SICK, storage.hang)
        while runner.get(stuck[-1]).message != f"waiting, all 1 places of {SICK} are taken":
            await asyncio.sleep(0.001)
        for owner in (HEALTHY, f"{SICK} {HEALTHY}"):
            done = await runner.wait(await tasks.start_persistent("createVolume", owner, work))
            assert done.state is TaskState.FINISHED
        storage.is_well.set()
        assert {(await runner.wait(task_id)).message for task_id in stuck} == {"1 jobs completed successfully"}


async def test_however_many_owners_are_sick_the_queue_is_bounded_and_another_finds_room(tmp_path: Path) -> None:
    storage = Storage()
    async with TaskRunner(storage.recover, VirtualClock(), worker_count=1, queue_length=100) as runner:
        tasks = PoolTasks(runner, None)
        counts = []
        for number in range(6):
            waiting = len(runner.list_tasks())
            with pytest.raises(AddTaskFailed):
                while True:
                    await tasks.start_job(
                        f"{number}-{len(runner.list_tasks())}", "copy", f"sick{number}", _hang(storage)
                    )
            counts.append(len(runner.list_tasks()) - waiting)
        storage.is_well.set()
        for task in runner.list_tasks():
            await runner.wait(task.task_id)
    assert counts[0] in (100, 101)
    assert sum(counts) <= 2 * 100 + 6
    assert all(counts), counts


def _hang(storage: Storage) -> Callable[[JobContext], None]:
    return lambda context: storage.hang(context.rollbacks, context)


async def test_who_must_not_begin_what_cannot_be_queued_is_told_before(tmp_path: Path) -> None:
    """As who sets an image aside, which does not come back."""
    storage = Storage()
    async with TaskRunner(storage.recover, VirtualClock(), worker_count=1, queue_length=1) as runner:
        tasks = PoolTasks(runner, None)
        with pytest.raises(AddTaskFailed, match="the SPM is still starting"):
            tasks.require_master(HEALTHY)
        await tasks.take_over(tmp_path)
        stuck = [await tasks.start_persistent("deleteImage", SICK, storage.hang)]
        while runner.get(stuck[0]).state is not TaskState.RUNNING:
            await asyncio.sleep(0.001)
        stuck.append(await tasks.start_persistent("deleteImage", SICK, storage.hang))
        with pytest.raises(AddTaskFailed, match="are waiting"):
            tasks.require_master(SICK)
        tasks.require_master(HEALTHY)
        storage.is_well.set()
        for task_id in stuck:
            await runner.wait(task_id)
