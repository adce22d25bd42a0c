"""What a task's work is and what it is given to do it with; running it is the engine's."""

import threading
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from msgspec import Struct

from vdsm.tasks.model import JobRecord
from vdsm.tasks.ports import Rollbacks
from vdsm.tasks.threads import Threads

P = ParamSpec("P")
R = TypeVar("R")


class JobContext(Struct, frozen=True):
    """What a running job holds: its rollbacks, a way to tell its progress, a thread for blocking work."""

    task_id: str
    rollbacks: Rollbacks
    report_progress: Callable[[float], None]
    """Tell how many per cent of this job are done; from any thread."""
    stopping: threading.Event
    """Set once the task is to stop."""
    threads: Threads

    async def run_in_thread(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run blocking work and wait for its end even when the task is stopped: rollbacks never run beside it."""
        return await self.threads.run(function, *args, **kwargs)


class Job(Struct, frozen=True):
    """One step of a task. `run` returns the job's result as text; None counts as empty.

    Stopping cancels `run`. It must have no work left going on anywhere when it ends, since rollbacks run next.
    """

    name: str
    run: Callable[[JobContext], Awaitable[str | None]]
    description: str = ""

    @property
    def record(self) -> JobRecord:
        return JobRecord(self.name, self.description)
