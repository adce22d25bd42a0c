"""One task in this process: its record, changed by one thread at a time and saved first; when is the engine's."""

import asyncio
import threading
from collections.abc import Callable

from msgspec import UNSET, Struct, UnsetType

from vdsm.tasks.errors import ActionStopped, TaskAborted, TaskStateError
from vdsm.tasks.model import Rollback, TaskRecord, TaskState
from vdsm.tasks.ports import RollbackEntry, TaskStore
from vdsm.tasks.work import Job


class TaskSnapshot(Struct, frozen=True):
    """A task as it stands: what status, info and events tell. `progress_percent` is there once a job reported it."""

    task_id: str
    name: str
    tag: str
    state: TaskState
    code: int
    message: str
    result: str
    progress_percent: float | UnsetType = UNSET
    failure: str = ""
    """Why the work failed, without what `message` wraps around it; empty when it was stopped."""

    @property
    def is_done(self) -> bool:
        return self.state.is_done


class TaskEntry:
    """A record with what drives it. `change` may be called from any thread; the rest belongs to the loop."""

    def __init__(self, record: TaskRecord, store: TaskStore | None, owner: str, jobs: tuple[Job, ...] = ()) -> None:
        self.record = record
        self.store = store
        self.owner = owner
        """Whose places it takes: what it hangs on, others of this owner hang on, too."""
        self.jobs = jobs
        self.stopping = threading.Event()
        self.settled = asyncio.Event()
        self.references = 0
        self.places: list[asyncio.Semaphore] = []
        """What gave the task its place among the workers, to be given back."""
        self.waits_for = ""
        """Why it has no place yet."""
        self.driver: asyncio.Task[None] | None = None
        self.work: asyncio.Task[BaseException | None] | None = None
        self.progress_percent: float | UnsetType = UNSET
        self.told: TaskSnapshot | None = None
        self.failure = ""
        self.ended_s: float | None = None
        """When it was settled, on the monotonic clock."""
        self._lock = threading.Lock()
        self._closed = False

    @property
    def is_driven(self) -> bool:
        return self.driver is not None and not self.driver.done()

    @property
    def is_closed(self) -> bool:
        return self._closed

    def snapshot(self) -> TaskSnapshot:
        record = self.record
        progress_percent = self.progress_percent
        if record.state is TaskState.FINISHED and progress_percent is not UNSET:
            progress_percent = 100.0
        return TaskSnapshot(
            task_id=record.task_id,
            name=record.name,
            tag=record.kind.tag,
            state=record.state,
            code=record.code,
            message=self.waits_for or record.message,
            result=record.result,
            progress_percent=progress_percent,
            failure=self.failure,
        )

    def change(self, step: Callable[[TaskRecord], TaskRecord]) -> None:
        """Take a step; it counts, and is seen, once it is saved. Blocks while a persistent task is saved.

        Raises what `step` raises, TaskSaveFailed, or TaskAborted once its store was given up; nothing changed then.
        """
        with self._lock:
            if self._closed:
                raise TaskAborted(reason="its store is in use no more")
            record = step(self.record)
            if self.store is not None and record.is_persistent:
                self.store.save(record)
            self.record = record

    def give_up(self) -> None:
        """End in `failed` in memory alone: the record on disk stays for the next SPM to go on from."""
        self.record = self.record.give_up()

    def close(self) -> None:
        """Let no further change through; waits for the one that is being saved."""
        with self._lock:
            self._closed = True

    def remove(self) -> None:
        """Remove the record of a done task from its store, for good; blocks. Another state raises TaskStateError."""
        with self._lock:
            if not self.record.state.is_done:
                raise TaskStateError(request="clear", state=self.record.state)
            if self.store is not None:
                self.store.remove(self.record.task_id)
            self._closed = True

    def cancel(self) -> set["asyncio.Task[None] | asyncio.Task[BaseException | None]"]:
        """Stop the work and what drives it, and return what has not ended yet."""
        self.stop_work()
        if self.driver is not None:
            self.driver.cancel()
        return {task for task in (self.driver, self.work) if task is not None and not task.done()}

    def stop_work(self) -> None:
        """Tell the running job to stop: threads by a flag, coroutines by cancellation."""
        self.stopping.set()
        if self.work is not None:
            self.work.cancel()


class EntryRollbacks:
    """The recorder of one task: durable before it returns for SPM tasks, in memory for others (`ports.Rollbacks`)."""

    def __init__(self, entry: TaskEntry) -> None:
        self._entry = entry

    def push(self, name: str, module: str, object: str, function: str, params: tuple[str, ...]) -> None:
        rollback = Rollback(name, module, object, function, params)
        self._change(lambda record: record.push(rollback))

    def replace_down_to_sentinel(self, *entries: RollbackEntry) -> None:
        rollbacks = [Rollback(one.name, one.module, one.object, one.function, one.params) for one in entries]
        self._change(lambda record: record.replace_down_to_sentinel(*rollbacks))

    def _change(self, step: Callable[[TaskRecord], TaskRecord]) -> None:
        def check_and_step(record: TaskRecord) -> TaskRecord:
            if record.state is TaskState.ABORTING:  # the stop was saved, and is to be told
                raise ActionStopped()
            return step(record)

        if self._entry.stopping.is_set():
            raise ActionStopped()
        self._entry.change(check_and_step)
