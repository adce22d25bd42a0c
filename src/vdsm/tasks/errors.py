"""Failures of tasks, numbered as in facts §12 (storage, 400 to 443); failures of the work itself are its owner's."""

from vdsm.core.errors import Failure, NodeError


class UnknownTask(NodeError, number=401, http=404, text="Task id unknown:"):
    """No task of that id is known: never started, cleared, or gone with the process that ran it."""

    task_id: str


class TaskNotFinished(NodeError, number=403, http=409, retry=True, text="Task is not finished:"):
    """Only a done task can be reverted."""

    task_id: str


class AddTaskFailed(NodeError, code="task-not-added", number=405, http=503, retry=True):
    """The queue of tasks is full, or a task of that id is already here; nothing was started."""

    text = "Cannot add task: {reason}"
    reason: str


class TaskSaveFailed(NodeError, number=407, retry=True, text="Cannot save task {task_id}: {reason}"):
    """The task's record could not be made durable; what depended on it was not done."""

    task_id: str
    reason: str


class TaskLoadFailed(NodeError, number=408, text="Cannot load task {task_id}: {reason}"):
    """A task's folder holds no record that can be read."""

    task_id: str
    reason: str


class TaskDirectoryError(NodeError, number=409, retry=True, text="Task directory error: {path}: {reason}"):
    """The folder of tasks cannot be read."""

    path: str
    reason: str


class TaskStateError(NodeError, number=410, http=409):
    """The request does not fit the task's state."""

    text = "Operation is not allowed in this task state: {request} in state {state}"
    request: str
    state: str


class JobExists(NodeError, number=100, http=409, text="Job already exists:"):
    """A job or task of that id is already here; nothing was started."""

    job_id: str


class TaskAborted(NodeError, number=411, http=409, text="Task is aborted: {reason}"):
    """The task was stopped before it came to its end."""

    reason: str = "stopped on request"


class InvalidRollback(Failure, number=430, text="Invalid recovery: {reason}"):
    """A rollback cannot be written so that another host would read the same."""


class TaskStateTransition(NodeError, number=441, http=409):
    """The table of moves has no such move."""

    text = "Task state transition is not allowed: from {old} to {new}"
    old: str
    new: str


class TaskHasReferences(NodeError, number=442, http=409, retry=True, text="Task is still referenced:"):
    """Somebody still waits for the task."""

    task_id: str


class ActionStopped(NodeError, number=443, http=409, text="Action was stopped"):
    """A step of a task noticed that its task is to stop."""
