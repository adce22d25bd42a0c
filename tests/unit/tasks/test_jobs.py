"""Jobs: tasks in memory under an id of their caller's, told in the words of facts §8.6."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from vdsm.api.events import Event, JobEnded, TaskChanged
from vdsm.core.errors import NodeError
from vdsm.tasks.entry import TaskSnapshot
from vdsm.tasks.errors import ActionStopped, AddTaskFailed, JobExists, TaskStateError, UnknownTask
from vdsm.tasks.model import SPM, TaskState
from vdsm.tasks.pool import PoolTasks
from vdsm.tasks.runner import TaskRunner
from vdsm.tasks.service import TaskService, format_events, format_job
from vdsm.tasks.work import Job, JobContext
from vdsm.testing.clock import VirtualClock
from vdsm.testing.tasks import MemoryTaskStore

ONE, TWO = (f"{digit * 8}-0000-4000-8000-000000000000" for digit in "12")


class GenerationDiffers(NodeError, code="test-generation", number=911, text="generation {found}"):
    found: int


class Jobs:
    """A runner, and what it told."""

    def __init__(self, clock: VirtualClock, **options: float) -> None:
        self.clock = clock
        self.events: list[Event] = []
        self.runner = TaskRunner(_no_rollbacks, clock, stop_grace_s=0, on_change=self._hear, **options)  # type: ignore[arg-type]
        self.work = PoolTasks(self.runner, None)
        self.service = TaskService(self.runner, lambda: None)

    def _hear(self, snapshot: TaskSnapshot) -> None:
        self.events += format_events(snapshot)

    @property
    def ended(self) -> list[JobEnded]:
        return [event for event in self.events if isinstance(event, JobEnded)]

    async def start(self, job_id: str, work: Callable[[JobContext], None]) -> None:
        await self.work.start_job(job_id, "copy_data", "", work)


async def _no_rollbacks(module: str, object: str, function: str, params: tuple[str, ...]) -> None:
    raise AssertionError("jobs have none")


@asynccontextmanager
async def running(**options: float) -> AsyncIterator[Jobs]:
    jobs = Jobs(VirtualClock(), **options)
    async with jobs.runner:
        yield jobs


def succeed(context: JobContext) -> None:
    context.report_progress(41.7)


def fail(context: JobContext) -> None:
    context.report_progress(12)
    raise GenerationDiffers(found=3)


def break_down(context: JobContext) -> None:
    raise LookupError("list index out of range")


def wait_for_stop(context: JobContext) -> None:
    assert context.stopping.wait(20)
    raise ActionStopped


async def test_a_job_that_is_done_tells_it_once() -> None:
    async with running() as jobs:
        await jobs.start(ONE, succeed)
        await jobs.runner.wait(ONE)
        [(job_id, info)] = (await jobs.service.list_jobs()).items()
    assert (job_id, info.job_id, info.status, info.description, info.job_type) == (
        ONE,
        ONE,
        "done",
        "copy_data",
        "storage",
    )
    assert info.progress_percent == 100
    assert [(event.job_id, event.status) for event in jobs.ended] == [(ONE, "done")]
    assert 41.7 in [event.progress_percent for event in jobs.events if isinstance(event, TaskChanged)]


async def test_a_job_that_fails_tells_its_error_as_it_is() -> None:
    async with running() as jobs:
        await jobs.start(ONE, fail)
        assert (await jobs.runner.wait(ONE)).message == "value=generation 3 abortedcode=911"
        info = (await jobs.service.list_jobs())[ONE]
    assert (info.status, info.progress_percent, info.error.code, info.error.message) == (
        "failed",
        12,
        911,
        "generation 3",
    )
    [event] = jobs.ended
    assert (event.status, event.error) == ("failed", info.error)


async def test_an_unforeseen_failure_is_number_100() -> None:
    async with running() as jobs:
        await jobs.start(ONE, break_down)
        await jobs.runner.wait(ONE)
        info = (await jobs.service.list_jobs())[ONE]
    assert (info.status, info.error.code, info.error.message) == ("failed", 100, "list index out of range")


async def test_a_running_job_is_aborted_by_stopping_its_task() -> None:
    async with running() as jobs:
        await jobs.start(ONE, wait_for_stop)
        while format_job(jobs.runner.get(ONE)).status != "running":
            await asyncio.sleep(0)
        with pytest.raises(TaskStateError):
            await jobs.runner.clear(ONE)
        await jobs.service.stop(ONE)
        assert format_job(jobs.runner.get(ONE)).status == "aborting"
        assert jobs.ended == []
        await jobs.runner.wait(ONE)
        info = (await jobs.service.list_jobs())[ONE]
    assert (info.status, info.error) == ("aborted", jobs.ended[0].error)
    assert [event.status for event in jobs.ended] == ["aborted"]
    assert not info.error


async def test_a_job_on_disks_of_vms_is_told_as_one_of_virt_and_can_be_aborted() -> None:
    async with running() as jobs:
        await jobs.work.start_job(ONE, "seal_vm", "", wait_for_stop, of_vms=True)
        while format_job(jobs.runner.get(ONE)).status != "running":
            await asyncio.sleep(0)
        assert list(await jobs.service.list_jobs("virt")) == [ONE]
        assert await jobs.service.list_jobs("storage") == {}
        await jobs.service.stop(ONE)
        await jobs.runner.wait(ONE)
    [ended] = jobs.events
    assert isinstance(ended, JobEnded)
    assert (ended.status, ended.description, ended.job_type) == ("aborted", "seal_vm", "virt")


async def test_a_pending_job_is_aborted_before_it_begins() -> None:
    async with running(worker_count=1) as jobs:
        await jobs.start(ONE, wait_for_stop)
        await jobs.start(TWO, succeed)
        assert format_job(jobs.runner.get(TWO)).status == "pending"
        await jobs.service.stop(TWO)
        await jobs.runner.wait(TWO)
        assert [(event.job_id, event.status) for event in jobs.ended] == [(TWO, "aborted")]
        await jobs.service.stop(ONE)
        await jobs.runner.wait(ONE)


async def test_jobs_hold_up_no_task_of_the_pool() -> None:
    async with running(worker_count=1) as jobs:
        await jobs.start(ONE, wait_for_stop)

        async def create(context: JobContext) -> str:
            return "made"

        task_id = await jobs.runner.start("createVolume", [Job("create", create)], kind=SPM, store=MemoryTaskStore())
        assert (await jobs.runner.wait(task_id)).state is TaskState.FINISHED
        await jobs.service.stop(ONE)
        await jobs.runner.wait(ONE)


async def test_an_id_in_use_is_refused_and_its_job_goes_on() -> None:
    async with running() as jobs:
        await jobs.start(ONE, wait_for_stop)
        for work in (succeed, fail):
            with pytest.raises(JobExists) as caught:
                await jobs.start(ONE, work)
            assert caught.value.number == 100
        await jobs.service.stop(ONE)
        await jobs.runner.wait(ONE)
        with pytest.raises(JobExists):
            await jobs.start(ONE, succeed)
        await jobs.runner.clear(ONE)
        await jobs.start(ONE, succeed)
        await jobs.runner.wait(ONE)


async def test_a_full_queue_refuses_and_remembers_nothing() -> None:
    async with running(worker_count=1, queue_length=1) as jobs:
        await jobs.start(ONE, wait_for_stop)
        while format_job(jobs.runner.get(ONE)).status != "running":
            await asyncio.sleep(0)
        await jobs.start(TWO, wait_for_stop)
        with pytest.raises(AddTaskFailed):
            await jobs.start("other", succeed)
        assert set(await jobs.service.list_jobs()) == {ONE, TWO}
        for job_id in (TWO, ONE):
            await jobs.service.stop(job_id)
            await jobs.runner.wait(job_id)


@pytest.mark.parametrize(("kept_s", "gone_after_s"), [(3600.0, 3600), (0.0, 0), (-1.0, None)])
async def test_finished_jobs_are_forgotten_in_time(kept_s: float, gone_after_s: int | None) -> None:
    async with running(job_kept_s=kept_s) as jobs:
        await jobs.start(ONE, succeed)
        await jobs.runner.wait(ONE)
        await jobs.start(TWO, wait_for_stop)
        if gone_after_s:
            await jobs.clock.advance(gone_after_s - 1)
            assert set(await jobs.service.list_jobs()) == {ONE, TWO}
        await jobs.clock.advance(1_000_000)
        assert set(await jobs.service.list_jobs()) == ({TWO} if gone_after_s is not None else {ONE, TWO})
        if gone_after_s is not None:
            with pytest.raises(UnknownTask):
                jobs.runner.get(ONE)
        await jobs.service.stop(TWO)
        await jobs.runner.wait(TWO)


async def test_a_job_cannot_be_reverted() -> None:
    async with running() as jobs:
        await jobs.start(ONE, succeed)
        await jobs.runner.wait(ONE)
        with pytest.raises(TaskStateError):
            await jobs.runner.revert(ONE)
        assert format_job(jobs.runner.get(ONE)).status == "done"


async def test_jobs_are_listed_by_id_and_type() -> None:
    async with running() as jobs:
        for job_id in (ONE, TWO):
            await jobs.start(job_id, succeed)
            await jobs.runner.wait(job_id)
        await jobs.runner.start("spmStart", [])
        for ids, found in (([ONE], {ONE}), ([TWO, "unknown"], {TWO}), ([], {ONE, TWO}), (None, {ONE, TWO})):
            assert set(await jobs.service.list_jobs("storage", ids)) == found
        assert await jobs.service.list_jobs("v2v") == {}
