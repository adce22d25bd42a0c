"""Answers the verbs on tasks and jobs from the runner; starting them is left to the services whose work they do."""

from collections.abc import Callable, Sequence
from typing import cast

import msgspec
from msgspec import UNSET

from vdsm.api import task as api
from vdsm.api.events import Event, JobEnded, TaskChanged
from vdsm.tasks.entry import TaskSnapshot
from vdsm.tasks.errors import TaskAborted
from vdsm.tasks.model import JOB_TYPES, VIRT, TaskState
from vdsm.tasks.runner import TaskRunner

SPM_TAG = "spm"


class TaskService:
    """Implements `api.task.TaskApi`. `require_spm` raises where pool tasks may not be listed (facts: storage §8.3)."""

    def __init__(self, runner: TaskRunner, require_spm: Callable[[], None]) -> None:
        self._runner = runner
        self._require_spm = require_spm

    async def get_status(self, task_id: str) -> api.TaskStatus:
        return format_status(self._runner.get(task_id))

    async def get_info(self, task_id: str) -> api.TaskInfo:
        return api.TaskInfo(task_id=task_id, verb=self._runner.get(task_id).name)

    async def stop(self, task_id: str) -> None:
        await self._runner.stop(task_id)

    async def clear(self, task_id: str) -> None:
        await self._runner.clear(task_id)

    async def revert(self, task_id: str) -> None:
        await self._runner.revert(task_id)

    async def list_statuses(self) -> dict[str, api.TaskStatus]:
        self._require_spm()
        return {task.task_id: format_status(task) for task in self._runner.list_tasks(SPM_TAG)}

    async def list_infos(self) -> dict[str, api.TaskInfo]:
        self._require_spm()
        return {
            task.task_id: api.TaskInfo(task_id=task.task_id, verb=task.name)
            for task in self._runner.list_tasks(SPM_TAG)
        }

    async def list_details(self) -> dict[str, api.TaskDetails]:
        return {task.task_id: _format_details(task) for task in self._runner.list_tasks()}

    async def list_jobs(
        self, job_type: str | None = None, job_ids: Sequence[str] | None = None
    ) -> dict[str, api.JobInfo]:
        types = [job_type] if job_type else JOB_TYPES.values()
        tasks = [task for task in self._runner.list_tasks() if JOB_TYPES.get(task.tag) in types]
        wanted = set(job_ids or ())
        return {task.task_id: format_job(task) for task in tasks if not wanted or task.task_id in wanted}


def format_status(task: TaskSnapshot) -> api.TaskStatus:
    """A task as the status verbs tell it."""
    return api.TaskStatus(
        task_id=task.task_id,
        state=cast(api.StateWord, task.state.reported),
        result=cast(api.ResultWord, task.state.reported_result),
        code=task.code,
        message=task.message,
    )


def _format_details(task: TaskSnapshot) -> api.TaskDetails:
    return api.TaskDetails(
        task_id=task.task_id,
        verb=task.name,
        state=str(task.state),
        code=task.code,
        message=task.message,
        result=task.result,
        reported_result=task.state.reported_result,
        tag=task.tag,
    )


def format_job(task: TaskSnapshot) -> api.JobInfo:
    """A job as `Host.getJobs` tells it (facts: storage §8.6)."""
    status = _get_job_status(task)
    return api.JobInfo(
        job_id=task.task_id,
        status=status,
        description=task.name,
        job_type=cast(api.JobType, JOB_TYPES[task.tag]),
        progress_percent=UNSET if task.progress_percent is UNSET else int(task.progress_percent),
        error=api.JobError(code=task.code, message=task.failure) if status == "failed" else UNSET,
    )


def _get_job_status(task: TaskSnapshot) -> api.JobStatus:
    if task.state is TaskState.FINISHED:
        return "done"
    was_stopped = task.code == TaskAborted.number
    if task.is_done:
        return "aborted" if was_stopped else "failed"
    if task.state.is_active:
        return "running" if task.state is TaskState.RUNNING else "pending"
    return "aborting" if was_stopped else "running"


def format_events(task: TaskSnapshot) -> list[Event]:
    """The events that tell of a change: the end of a job is one for its callers, too, and the only one of a VM's."""
    events: list[Event] = [] if task.tag == VIRT.tag else [_format_change(task)]
    if task.tag in JOB_TYPES and task.is_done:
        events.append(JobEnded(**msgspec.structs.asdict(format_job(task))))
    return events


def _format_change(task: TaskSnapshot) -> TaskChanged:
    return TaskChanged(
        task_id=task.task_id,
        verb=task.name,
        state=task.state.reported,
        result=task.state.reported_result,
        code=task.code,
        message=task.message,
        progress_percent=task.progress_percent,
    )
