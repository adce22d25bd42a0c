"""Failures of tasks, numbered as in facts §12 (storage, 400 to 443); failures of the work itself are its owner's."""

from vdsm.core.errors import NodeError


class UnknownTask(NodeError):
    """No task of that id is known: never started, cleared, or gone with the process that ran it."""

    code, number, http, text = "unknown-task", 401, 404, "Task id unknown: ({task_id!r},)"
    task_id: str


class TaskNotFinished(NodeError):
    """Only a done task can be reverted."""

    code, number, http, retry, text = "task-not-finished", 403, 409, True, "Task is not finished: ({task_id!r},)"
    task_id: str


class AddTaskFailed(NodeError):
    """The queue of tasks is full, or a task of that id is already here; nothing was started."""

    code, number, http, retry, text = "task-not-added", 405, 503, True, "Cannot add task: {reason}"
    reason: str


class TaskSaveFailed(NodeError):
    """The task's record could not be made durable; what depended on it was not done."""

    code, number, http, retry, text = "task-save-failed", 407, 500, True, "Cannot save task {task_id}: {reason}"
    task_id: str
    reason: str


class TaskLoadFailed(NodeError):
    """A task's folder holds no record that can be read."""

    code, number, http, text = "task-load-failed", 408, 500, "Cannot load task {task_id}: {reason}"
    task_id: str
    reason: str


class TaskDirectoryError(NodeError):
    """The folder of tasks cannot be read."""

    code, number, http, retry, text = "task-directory-error", 409, 500, True, "Task directory error: {path}: {reason}"
    path: str
    reason: str


class TaskStateError(NodeError):
    """The request does not fit the task's state."""

    code, number, http, text = (
        "task-state-error",
        410,
        409,
        "Operation is not allowed in this task state: {request} in state {state}",
    )
    request: str
    state: str


class JobExists(NodeError):
    """A job or task of that id is already here; nothing was started."""

    code, number, http, text = "job-exists", 100, 409, "Job already exists: ({job_id!r},)"
    job_id: str


class TaskAborted(NodeError):
    """The task was stopped before it came to its end."""

    code, number, http, text = "task-aborted", 411, 409, "Task is aborted: {reason}"
    reason: str = "stopped on request"


class InvalidRollback(NodeError):
    """A rollback cannot be written so that another host would read the same."""

    code, number, http, text = "invalid-rollback", 430, 500, "Invalid recovery: {reason}"
    reason: str


class TaskStateTransition(NodeError):
    """The table of moves has no such move."""

    code, number, http, text = (
        "task-state-transition",
        441,
        409,
        "Task state transition is not allowed: from {old} to {new}",
    )
    old: str
    new: str


class TaskHasReferences(NodeError):
    """Somebody still waits for the task."""

    code, number, http, retry, text = "task-has-references", 442, 409, True, "Task is still referenced: ({task_id!r},)"
    task_id: str


class ActionStopped(NodeError):
    """A step of a task noticed that its task is to stop."""

    code, number, http, text = "action-stopped", 443, 409, "Action was stopped"
