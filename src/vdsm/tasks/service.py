"""Answers the task verbs from the runner; starting tasks is left to the services whose work they do."""

from collections.abc import Callable
from typing import cast

from vdsm.api.events import Event, TaskChanged
from vdsm.api.task import ResultWord, StateWord, TaskDetails, TaskInfo, TaskStatus
from vdsm.tasks.entry import TaskSnapshot
from vdsm.tasks.runner import TaskRunner

SPM_TAG = "spm"


class TaskService:
    """Implements `api.task.TaskApi`. `require_spm` raises where pool tasks may not be listed (facts: storage §8.3)."""

    def __init__(self, runner: TaskRunner, require_spm: Callable[[], None]) -> None:
        self._runner = runner
        self._require_spm = require_spm

    async def get_status(self, task_id: str) -> TaskStatus:
        return format_status(self._runner.get(task_id))

    async def get_info(self, task_id: str) -> TaskInfo:
        return TaskInfo(task_id=task_id, verb=self._runner.get(task_id).name)

    async def stop(self, task_id: str) -> None:
        await self._runner.stop(task_id)

    async def clear(self, task_id: str) -> None:
        await self._runner.clear(task_id)

    async def revert(self, task_id: str) -> None:
        await self._runner.revert(task_id)

    async def list_statuses(self) -> dict[str, TaskStatus]:
        self._require_spm()
        return {task.task_id: format_status(task) for task in self._runner.list_tasks(SPM_TAG)}

    async def list_infos(self) -> dict[str, TaskInfo]:
        self._require_spm()
        return {
            task.task_id: TaskInfo(task_id=task.task_id, verb=task.name) for task in self._runner.list_tasks(SPM_TAG)
        }

    async def list_details(self) -> dict[str, TaskDetails]:
        return {task.task_id: _format_details(task) for task in self._runner.list_tasks()}


def format_status(task: TaskSnapshot) -> TaskStatus:
    """A task as the status verbs tell it."""
    return TaskStatus(
        task_id=task.task_id,
        state=cast(StateWord, task.state.reported),
        result=cast(ResultWord, task.state.reported_result),
        code=task.code,
        message=task.message,
    )


def _format_details(task: TaskSnapshot) -> TaskDetails:
    return TaskDetails(
        task_id=task.task_id,
        verb=task.name,
        state=str(task.state),
        code=task.code,
        message=task.message,
        result=task.result,
        reported_result=task.state.reported_result,
        tag=task.tag,
    )


def format_event(task: TaskSnapshot) -> Event:
    """The event that tells of a change."""
    return TaskChanged(
        task_id=task.task_id,
        verb=task.name,
        state=task.state.reported,
        result=task.state.reported_result,
        code=task.code,
        message=task.message,
        progress_percent=task.progress_percent,
    )
