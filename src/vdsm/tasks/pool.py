"""Long work of storage as tasks: in memory, or of the pool whose SPM this host is; the work is left to storage."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ParamSpec, TypeVar

from vdsm.tasks.errors import AddTaskFailed, UnknownTask
from vdsm.tasks.journal import Journal
from vdsm.tasks.model import SDM, SPM, VIRT_DATA
from vdsm.tasks.ports import Rollbacks
from vdsm.tasks.runner import TaskRunner
from vdsm.tasks.work import Job, JobContext

P = ParamSpec("P")
R = TypeVar("R")


class PoolTasks:
    """Starts tasks for the storage services. Persistent ones need the master's folder, which `take_over` opens."""

    def __init__(self, runner: TaskRunner, owner: tuple[int, int] | None, patience_s: float = 60.0) -> None:
        self._runner = runner
        self._patience_s = patience_s
        self._owner = owner
        self._journal: Journal | None = None
        self._loaded: Journal | None = None

    async def start_in_memory(self, name: str, owner: str, work: Callable[[], Awaitable[None]]) -> str:
        """A task that is gone with the process; returns its id."""

        async def run(_context: JobContext) -> None:
            await work()

        return await self._runner.start(name, [Job(name, run)], owner=owner)

    def require_master(self, owner: str) -> Journal:
        """Raises AddTaskFailed while no task of the pool and this owner can begin: its queue is full, there is no
        master, or what an earlier SPM left there of the same owner is not undone."""
        if self._journal is None:
            raise AddTaskFailed(reason="the SPM is still starting or has stopped")
        self._runner.check_undone(self._journal, owner)
        self._runner.check_room(owner)
        return self._journal

    async def start_persistent(
        self,
        name: str,
        owner: str,
        work: Callable[[Rollbacks, JobContext], None],
        then: Callable[[], Awaitable[None]] | None = None,
        *,
        job: str | None = None,
    ) -> str:
        """A task on the pool's master, on disk when its id is returned. Raises AddTaskFailed."""
        master = self.require_master(owner)

        async def run(context: JobContext) -> None:
            await context.run_in_thread(work, context.rollbacks, context)
            if then is not None:
                await then()

        return await self._runner.start(name, [Job(job or name, run)], owner=owner, kind=SPM, store=master)

    async def start_job(
        self, job_id: str, name: str, owner: str, work: Callable[[JobContext], None], *, of_vms: bool = False
    ) -> None:
        """A task in memory that its caller follows by the id that it gave. Raises JobExists, AddTaskFailed."""

        async def run(context: JobContext) -> None:
            await context.run_in_thread(work, context)

        await self._runner.start(name, [Job(name, run)], owner=owner, kind=VIRT_DATA if of_vms else SDM, task_id=job_id)

    async def run_in_thread(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call what blocks, and wait for its end however long that takes, even when cancelled."""
        return await self._runner.run_in_thread(function, *args, **kwargs)

    async def wait(self, task_id: str) -> object:
        """Until a task has ended. Raises UnknownTask when the SPM stops meanwhile."""
        return await self._runner.wait(task_id)

    def hold(self) -> AbstractContextManager[object]:
        """While this is held, in one thread, no other writes tasks of the pool: their folder may move."""
        return contextlib.nullcontext() if self._journal is None else self._journal.gate

    async def take_over(self, folder: Path) -> None:
        """Finish or undo what an earlier SPM left in this folder, then let tasks of the pool begin.

        What is not undone after a while hangs on a sick domain, whose tasks alone go on to be refused.
        """
        self._loaded = Journal(folder, self._owner)
        await self._runner.load(self._loaded)
        begun = self._runner.recover_loaded(self._loaded)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s):
                for task_id in begun:
                    with contextlib.suppress(UnknownTask):  # recovered, and cleared by a client already
                        await self._runner.wait(task_id)
        self._journal = self._loaded

    async def release(self) -> None:
        """Give the pool's tasks up where they stand; on disk they wait for the next SPM."""
        self._journal = None
        if self._loaded is not None:
            await self._runner.release(self._loaded)
            self._loaded = None
