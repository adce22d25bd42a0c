"""Which tasks there are: started, listed, stopped, cleared, loaded with the SPM role; how each goes is `engine`'s."""

import logging
import uuid
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from vdsm.core.clock import Clock
from vdsm.tasks import errors
from vdsm.tasks.engine import Engine
from vdsm.tasks.entry import TaskEntry, TaskSnapshot
from vdsm.tasks.model import HSM, LoadedAction, TaskKind, TaskRecord, TaskState, plan_loaded
from vdsm.tasks.ports import Recover, TaskStore
from vdsm.tasks.work import Job

P = ParamSpec("P")
R = TypeVar("R")
log = logging.getLogger("storage.TaskManager")


class TaskRunner:
    """All tasks of this process. Runs while it is entered; leaving it stops tasks where they are.

    Persisted tasks then wait on disk for the next SPM, others are gone. `recover` runs one rollback. At most
    `worker_count` tasks of a kind and owner work at once, and `queue_length` of an owner may wait, less when others do.
    `on_change` hears, on the loop, of every change that can be seen. Of done tasks that live in memory only, the last
    `kept_count` are remembered, done jobs (under an id of their caller's) for `job_kept_s` at
    most; a negative one keeps them.
    """

    def __init__(
        self,
        recover: Recover,
        clock: Clock,
        *,
        worker_count: int = 10,
        queue_length: int = 500,
        kept_count: int = 2000,
        job_kept_s: float = 3600,
        stop_grace_s: float = 1.0,
        on_change: Callable[[TaskSnapshot], None] | None = None,
    ) -> None:
        self._queue_length = queue_length
        self._kept_count = kept_count
        self._job_kept_s = job_kept_s
        self._clock = clock
        self._stop_grace_s = stop_grace_s
        self._entries: dict[str, TaskEntry] = {}
        self._engine = Engine(recover, clock, worker_count, on_change)

    async def __aenter__(self) -> Self:
        await self._engine.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._engine.close(self._stop_grace_s)

    # What verbs ask.

    def get(self, task_id: str) -> TaskSnapshot:
        """The task as it stands; UnknownTask when there is none."""
        self._forget_expired()
        return self._entry(task_id).snapshot()

    def list_tasks(self, tag: str = "") -> list[TaskSnapshot]:
        """All tasks whose tag contains `tag`, in the order of their arrival."""
        self._forget_expired()
        return [entry.snapshot() for entry in self._entries.values() if tag in entry.record.kind.tag]

    async def start(
        self,
        name: str,
        jobs: Sequence[Job],
        *,
        owner: str = "",
        kind: TaskKind = HSM,
        store: TaskStore | None = None,
        task_id: str | None = None,
    ) -> str:
        """Queue a task and return its id; a persistent one (with a store) is on disk by then.

        `name` is the internal verb name of facts §8.4, `owner` names what it works on. Raises AddTaskFailed when the
        owner's queue is full, TaskSaveFailed when the record cannot be written, JobExists when the given id is in use;
        nothing runs then.
        """
        self._forget_expired()
        task_id = task_id or str(uuid.uuid4())
        if task_id in self._entries:
            raise errors.JobExists(job_id=task_id)
        self.check_room(owner)
        location = store.location if store is not None else ""
        record = TaskRecord(task_id, name, kind, location, jobs=tuple(job.record for job in jobs))
        entry = TaskEntry(record, store, owner, tuple(jobs))
        self._entries[task_id] = entry
        self._engine.waiting.add(entry)
        self._forget_oldest()
        try:
            await self._engine.change(entry, TaskRecord.queue)
        finally:
            if entry.record.state is TaskState.INIT:
                del self._entries[task_id]
                self._engine.waiting.discard(entry)
            elif self._engine.is_open:
                # Also when the caller was cancelled meanwhile: the task is on disk, so it runs and is listed.
                self._engine.run(entry)
        return task_id

    async def wait(self, task_id: str) -> TaskSnapshot:
        """The task once it is done (or waits for somebody to recover it); the waiter counts as a reference.

        Raises UnknownTask when its store is released meanwhile.
        """
        entry = self._entry(task_id)
        entry.references += 1
        try:
            await entry.settled.wait()
        finally:
            entry.references -= 1
        if entry.is_closed and not entry.record.state.is_done:
            raise errors.UnknownTask(task_id=task_id)
        return entry.snapshot()

    async def stop(self, task_id: str) -> bool:
        """Ask a task to stop: its work is cancelled and undone; a recovery ends in `failed` after the rollback at hand.

        False when the task is done already, or past all taking back, as the work of VMs is; it goes on as it was.
        Stopping twice is stopping once.
        """
        entry = self._entry(task_id)
        if not entry.record.kind.can_stop:
            return False
        try:
            await self._engine.change(entry, TaskRecord.request_stop)
        except errors.TaskStateTransition:
            return not (entry.record.state.is_done or entry.record.is_finishing)
        except errors.TaskSaveFailed as error:
            log.error("task %s is stopped although that cannot be saved: %s", task_id, error)
        entry.stop_work()
        if not entry.is_driven:
            self._engine.undo(entry)
        return True

    async def clear(self, task_id: str) -> None:
        """Forget a done task, its record on disk too; another state raises TaskStateError.

        Tasks without a store that are no jobs go in any state and then run on unlisted.
        """
        entry = self._entry(task_id)
        if not entry.record.state.is_done and (entry.store is not None or entry.record.kind.is_job):
            raise errors.TaskStateError(request="clear", state=entry.record.state)
        if entry.store is not None:
            await entry.settled.wait()
            await self._engine.threads.run(entry.remove)
        self._forget(entry)

    async def revert(self, task_id: str) -> None:
        """Undo a task that finished, by its rollbacks; returns when that has begun.

        Raises TaskNotFinished while it is not done, TaskHasReferences while somebody waits for it, TaskStateTransition
        when it was undone already, TaskStateError for a job, which nothing can undo.
        """
        entry = self._entry(task_id)
        state = entry.record.state
        if entry.record.kind.is_job:
            raise errors.TaskStateError(request="revert", state=state)
        if state is not TaskState.WAIT_RECOVER and not state.is_done:
            raise errors.TaskNotFinished(task_id=task_id)
        if entry.references:
            raise errors.TaskHasReferences(task_id=task_id)
        await entry.settled.wait()
        entry.stopping.clear()
        await self._engine.change(entry, TaskRecord.begin_revert)
        self._engine.recover(entry)

    # Coming and going of the SPM role.

    async def load(self, store: TaskStore) -> list[str]:
        """Take in the records of a store, at SPM start, and return their ids; nothing runs until `recover_loaded`.

        One that this process knows from an earlier turn as SPM is read anew: another host may have gone on with it.
        """
        loaded = []
        for record in await self._engine.threads.run(store.load_all):
            known = self._entries.get(record.task_id)
            if known is not None and (known.is_driven or known.store is None):
                log.warning("task %s is already here; its record in %s is left alone", record.task_id, store.location)
                continue
            entry = TaskEntry(record.complete(), store, record.task_id)
            if plan_loaded(record.state) is LoadedAction.NOTHING:
                entry.settled.set()
            self._entries[record.task_id] = entry
            loaded.append(record.task_id)
        return loaded

    def recover_loaded(self, store: TaskStore) -> list[str]:
        """Begin to stop, undo or give up what an earlier SPM left half done in this store (facts §8.4).

        Returns the ids of these tasks; they go on in the background.
        """
        begun = []
        for entry in self._list_of(store):
            record = entry.record
            action = plan_loaded(record.state)
            if entry.is_driven or action is LoadedAction.NOTHING:
                continue
            log.info("task %s (%s) was left %s: %s", record.task_id, record.name, record.state, action.value)
            self._engine.recover(entry, action)
            begun.append(record.task_id)
        return begun

    def check_undone(self, store: TaskStore, owner: str) -> None:
        """Raises AddTaskFailed while a loaded task that is being undone speaks of what `owner` names, word by word."""
        for entry in self._list_of(store):
            params = ",".join(param for rollback in entry.record.rollbacks for param in rollback.params)
            if not entry.jobs and entry.is_driven and any(name in params for name in owner.split()):
                raise errors.AddTaskFailed(reason=f"task {entry.record.task_id} of an earlier SPM is not undone yet")

    async def release(self, store: TaskStore) -> None:
        """The SPM role ends: stop this store's tasks where they are and forget them; on disk they wait for the next.

        When it returns, nothing of them is written any more.
        """
        entries = self._list_of(store)
        for entry in entries:
            entry.stopping.set()
        for entry in entries:
            await self._engine.threads.run(entry.close)
        for entry in entries:
            await self._engine.cancel(entry)
            entry.settled.set()
            self._forget(entry)

    async def run_in_thread(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run blocking work of a rollback; it is waited for even when cancelled, so that `release` waits for it too."""
        return await self._engine.threads.run(function, *args, **kwargs)

    # Small parts.

    def check_room(self, owner: str) -> None:
        """Raises AddTaskFailed while no task of that owner can be queued."""
        own_count = sum(entry.owner == owner for entry in self._engine.waiting)
        if not self._engine.is_open:
            raise errors.AddTaskFailed(reason="the daemon is stopping")
        # Nobody has more room than is left to others, so that there always is some.
        if own_count >= 2 * self._queue_length - len(self._engine.waiting):
            raise errors.AddTaskFailed(reason=f"{own_count} tasks of {owner or 'its kind'} are waiting")

    def _entry(self, task_id: str) -> TaskEntry:
        try:
            return self._entries[task_id]
        except KeyError:
            raise errors.UnknownTask(task_id=task_id) from None

    def _list_of(self, store: TaskStore) -> list[TaskEntry]:
        return [e for e in self._entries.values() if e.store is not None and e.store.location == store.location]

    def _forget(self, entry: TaskEntry) -> None:
        if self._entries.get(entry.record.task_id) is entry:
            del self._entries[entry.record.task_id]

    def _forget_expired(self) -> None:
        if self._job_kept_s < 0:
            return
        kept_since_s = self._clock.monotonic() - self._job_kept_s
        for entry in list(self._entries.values()):
            if entry.record.kind.is_job and entry.ended_s is not None and entry.ended_s <= kept_since_s:
                self._forget(entry)

    def _forget_oldest(self) -> None:
        done = [e for e in self._entries.values() if e.store is None and e.record.state.is_done]
        for entry in done[: max(0, len(done) - self._kept_count)]:
            self._forget(entry)
