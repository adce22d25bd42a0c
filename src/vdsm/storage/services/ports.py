"""What the storage services need besides the repository: an engine for long work, and a memory across restarts."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from vdsm.storage.ports import Rollbacks, Watch

P = ParamSpec("P")
R = TypeVar("R")


class LongWork(Protocol):
    """Runs what outlives its verb; each start returns the task's id. `owner` names, with blanks between, the domains or
    the pool that the work may hang on: so many of an owner run at once, and hold up no other's."""

    async def start_in_memory(self, name: str, owner: str, work: Callable[[], Awaitable[None]]) -> str:
        """A task that is gone with the process."""

    def require_master(self, owner: str) -> object:
        """Raises what `start_persistent` would while no task of the pool and this owner can begin."""

    async def start_persistent(
        self,
        name: str,
        owner: str,
        work: Callable[[Rollbacks, Watch], None],
        then: Callable[[], Awaitable[None]] | None = None,
        *,
        job: str | None = None,
    ) -> str:
        """A task of the pool, on disk with its rollbacks before each step; `work` blocks and runs in a thread.

        `then` follows on the loop, as part of the task. Its one job is named like the task where `job` is not given.
        """

    async def start_job(
        self, job_id: str, name: str, owner: str, work: Callable[[Watch], None], *, of_vms: bool = False
    ) -> None:
        """A task in memory under its caller's id; `work` blocks and runs in a thread. An id in use is refused.

        `of_vms` is the type of the job that callers see: one of virt, not of storage.
        """

    async def run_in_thread(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call what blocks, and wait for its end however long that takes, even when cancelled."""

    async def wait(self, task_id: str) -> object:
        """Until a task has ended. Raises UnknownTask when the SPM stops meanwhile."""

    def hold(self) -> AbstractContextManager[object]:
        """While one thread holds this, no other writes tasks of the pool: their folder may move."""

    async def take_over(self, folder: Path) -> None:
        """Finish or undo what an earlier SPM left in this folder of tasks, then let tasks of the pool begin."""

    async def release(self) -> None:
        """Give the pool's tasks up where they stand; when it returns nothing of them is written any more."""
