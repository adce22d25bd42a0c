"""A store of tasks that is only memory and fails on demand; fits `tasks.ports.TaskStore`."""

from msgspec.structs import replace

from vdsm.tasks.errors import TaskSaveFailed
from vdsm.tasks.model import TaskRecord


class MemoryTaskStore:
    """Keeps the last record of each task; `saved` is the whole history, `fail_next(n)` lets the next n saves fail."""

    def __init__(self, location: str = "/memory/master/tasks") -> None:
        self.location = location
        self.records: dict[str, TaskRecord] = {}
        self.saved: list[TaskRecord] = []
        self._failures = 0

    def fail_next(self, count: int = 1) -> None:
        self._failures = count

    def save(self, record: TaskRecord) -> None:
        if self._failures:
            self._failures -= 1
            raise TaskSaveFailed(task_id=record.task_id, reason="failing on demand")
        self.records[record.task_id] = record
        self.saved.append(record)

    def load_all(self) -> list[TaskRecord]:
        return [replace(record, store=self.location) for _, record in sorted(self.records.items())]

    def remove(self, task_id: str) -> None:
        self.records.pop(task_id, None)
