"""The surface of tasks and jobs: long storage work that goes on after its verb answered."""

from typing import Annotated, Literal, Protocol

from msgspec import UNSET, Struct, UnsetType

from vdsm.api.declare import Number, group, ovirt, verb, xmlrpc
from vdsm.core.ids import TaskId, Uuid

StateWord = Literal["unknown", "init", "running", "finished", "aborting", "cleaning"]
ResultWord = Literal["", "success", "cleanSuccess", "cleanFailure"]
JobStatus = Literal["pending", "running", "done", "aborting", "aborted", "failed"]
JobType = Literal["storage", "virt", "v2v"]


class TaskStatus(Struct, frozen=True, kw_only=True):
    """Where a task stands (facts: storage §8.1, §8.3)."""

    task_id: Annotated[str, ovirt("taskID")]
    state: Annotated[StateWord, ovirt("taskState")]
    result: Annotated[ResultWord, ovirt("taskResult")]
    code: int
    message: str


class TaskInfo(Struct, frozen=True, kw_only=True):
    """What a task does."""

    task_id: Annotated[str, ovirt("id")]
    verb: str


class TaskDetails(Struct, frozen=True, kw_only=True):
    """All about a task, in-memory ones included; `state` is the internal one."""

    task_id: Annotated[str, ovirt("id")]
    verb: str
    state: str
    code: int
    message: str
    result: str
    reported_result: Annotated[str, ovirt("taskResult")]
    tag: str


class JobError(Struct, frozen=True, kw_only=True):
    """Why a job failed."""

    code: int
    message: str


class JobInfo(Struct, frozen=True, kw_only=True):
    """A job as its caller follows it (facts: storage §8.6)."""

    job_id: Annotated[str, ovirt("id")]
    status: Annotated[JobStatus, ovirt("status")]
    description: str
    """What it does, such as `copy_data`."""
    job_type: JobType
    progress_percent: Annotated[Number, ovirt("progress")] = UNSET
    error: JobError | UnsetType = UNSET


_Task = Annotated[TaskId, ovirt("taskID"), "the task's id"]
_FAILS = ("unknown-task",)


@group("task", invalid="invalid-parameter")
class TaskApi(Protocol):
    """Storage tasks."""

    @verb("Task.getStatus", "GET /tasks/{task_id}", fails=_FAILS)
    @xmlrpc("getTaskStatus", "task_id", member="taskStatus")
    async def get_status(self, task_id: _Task) -> TaskStatus:
        """Where a task stands."""

    @verb("Task.getInfo", "GET /tasks/{task_id}/info", fails=_FAILS)
    @xmlrpc("getTaskInfo", "task_id", member="TaskInfo")
    async def get_info(self, task_id: _Task) -> TaskInfo:
        """What a task does."""

    @verb("Task.stop", "POST /tasks/{task_id}/stop", fails=_FAILS)
    @xmlrpc("stopTask", "task_id")
    async def stop(self, task_id: _Task) -> None:
        """Ask a task to stop; it rolls back what it did. A job ends as `aborted`."""

    @verb("Task.clear", "DELETE /tasks/{task_id}", fails=(*_FAILS, "task-state-error"))
    @xmlrpc("clearTask", "task_id")
    async def clear(self, task_id: _Task) -> None:
        """Forget a task that is done."""

    @verb("Task.revert", "POST /tasks/{task_id}/revert", fails=(*_FAILS, "task-not-finished"))
    @xmlrpc("revertTask", "task_id")
    async def revert(self, task_id: _Task) -> None:
        """Undo a task that is done."""

    @verb("Host.getAllTasksStatuses", "GET /tasks", fails=("secure-error",))
    @xmlrpc("getAllTasksStatuses", member="allTasksStatus")
    async def list_statuses(self) -> dict[str, TaskStatus]:
        """Where every pool task stands (SPM only)."""

    @verb("Host.getAllTasksInfo", "GET /tasks/info", fails=("secure-error",))
    @xmlrpc("getAllTasksInfo", member="allTasksInfo")
    async def list_infos(self) -> dict[str, TaskInfo]:
        """What every pool task does (SPM only)."""

    @verb("Host.getAllTasks", "GET /tasks/details")
    @xmlrpc("getAllTasks", "_", member="tasks")
    async def list_details(self) -> dict[str, TaskDetails]:
        """All tasks of this host, of every kind."""

    @verb("Host.getJobs", "GET /jobs")
    @xmlrpc("getHostJobs", "job_type job_ids", member="jobs")
    async def list_jobs(
        self,
        job_type: Annotated[JobType | None, ovirt("job_type"), "only jobs of that type"] = None,
        job_ids: Annotated[list[Uuid] | None, ovirt("job_ids"), "only these; without any, all"] = None,
    ) -> dict[str, JobInfo]:
        """The jobs of this host, finished ones for a while: tasks in memory, under ids that their callers chose."""
