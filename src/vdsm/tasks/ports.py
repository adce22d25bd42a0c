"""What tasks ask of others and offer to them: rollbacks, the recorder of rollbacks, and a place for records."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from vdsm.tasks.model import TaskRecord

Recover = Callable[[str, str, str, tuple[str, ...]], Awaitable[object]]
"""Runs one rollback, named by module, object, function and parameters (facts §8.5).

It must bear being run twice. Even when cancelled it may not end while its work goes on: `TaskRunner.run_in_thread`.
"""


class RollbackEntry(Protocol):
    """One rollback as the work registers it."""

    @property
    def name(self) -> str: ...

    @property
    def module(self) -> str: ...

    @property
    def object(self) -> str: ...

    @property
    def function(self) -> str: ...

    @property
    def params(self) -> tuple[str, ...]: ...


class Rollbacks(Protocol):
    """Where work that runs in a thread registers how to undo what it is about to do.

    Both calls block until the registration is as durable as the task is, or raise TaskSaveFailed, InvalidRollback,
    TaskAborted or, once the task is to stop, ActionStopped and register nothing; a step whose rollback could not be
    registered must not be taken.
    """

    def push(self, name: str, module: str, object: str, function: str, params: tuple[str, ...]) -> None:
        """Register a rollback; it runs before all that were registered earlier."""

    def replace_down_to_sentinel(self, *entries: RollbackEntry) -> None:
        """Put these in the place of all down to and including the last `rollback sentinel`, in one durable step."""


class TaskStore(Protocol):
    """Where records of tasks survive the process; calls block and may raise TaskSaveFailed, TaskLoadFailed."""

    @property
    def location(self) -> str:
        """The folder, as written into the records."""

    def save(self, record: TaskRecord) -> None:
        """Make the record durable in the place of the task's earlier one, all or nothing."""

    def load_all(self) -> list[TaskRecord]:
        """Every record that can be read."""

    def remove(self, task_id: str) -> None:
        """Forget the task for good; one that is not there is success."""
