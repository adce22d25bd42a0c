"""What the storage services need besides the repository: an engine for long work, and a memory across restarts."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from vdsm.storage.ports import Rollbacks


class LongWork(Protocol):
    """Runs what outlives its verb; each start returns the task's id."""

    async def start_in_memory(self, name: str, work: Callable[[], Awaitable[None]]) -> str:
        """A task that is gone with the process."""
        ...

    async def start_persistent(self, name: str, work: Callable[[Rollbacks], None]) -> str:
        """A task of the pool, on disk with its rollbacks before each step; `work` blocks and runs in a thread."""
        ...

    async def load(self, folder: Path) -> None:
        """Take in what an earlier SPM left in the master's folder of tasks."""
        ...

    async def recover(self) -> None:
        """Begin to finish or undo what was loaded."""
        ...

    async def release(self) -> None:
        """Give the pool's tasks up where they stand; when it returns nothing of them is written any more."""
        ...
