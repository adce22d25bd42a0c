"""Long work of storage as tasks: in memory, or of the pool whose SPM this host is; the work is left to storage."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from vdsm.tasks.errors import AddTaskFailed
from vdsm.tasks.journal import Journal
from vdsm.tasks.model import SPM
from vdsm.tasks.ports import Rollbacks
from vdsm.tasks.runner import TaskRunner
from vdsm.tasks.work import Job, JobContext


class PoolTasks:
    """Starts tasks for the storage services. Persistent ones need the master's folder, which `load` opens."""

    def __init__(self, runner: TaskRunner, owner: tuple[int, int] | None) -> None:
        self._runner = runner
        self._owner = owner
        self._journal: Journal | None = None
        self._loaded: Journal | None = None

    async def start_in_memory(self, name: str, work: Callable[[], Awaitable[None]]) -> str:
        """A task that is gone with the process; returns its id."""

        async def run(_context: JobContext) -> None:
            await work()

        return await self._runner.start(name, [Job(name, run)])

    async def start_persistent(self, name: str, work: Callable[[Rollbacks], None]) -> str:
        """A task on the pool's master, on disk when its id is returned. Raises AddTaskFailed without a master."""
        if self._journal is None:
            raise AddTaskFailed(reason="the SPM is still starting or has stopped")

        async def run(context: JobContext) -> None:
            await context.run_in_thread(work, context.rollbacks)

        return await self._runner.start(name, [Job(name, run)], kind=SPM, store=self._journal)

    async def load(self, folder: Path) -> None:
        """Take in what an earlier SPM left."""
        self._loaded = Journal(folder, self._owner)
        await self._runner.load(self._loaded)

    async def recover(self) -> None:
        """Undo or finish what was loaded, then let new tasks begin."""
        if self._loaded is None:
            return
        for task_id in self._runner.recover_loaded(self._loaded):
            await self._runner.wait(task_id)
        self._journal = self._loaded

    async def release(self) -> None:
        """Give the pool's tasks up where they stand; on disk they wait for the next SPM."""
        loaded, self._loaded, self._journal = self._loaded, None, None
        if loaded is not None:
            await self._runner.release(loaded)
