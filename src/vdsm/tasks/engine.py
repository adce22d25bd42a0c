"""How a task goes: its place among the workers, its jobs, abort, rollbacks; which tasks there are is `runner`'s.

One task is one coroutine. It waits for a worker's place, runs its jobs one after another, and when one fails or
somebody stops it, runs the registered rollbacks, the last registered first. Every change of a persisted task is on
disk before anybody sees it, so what was told is never taken back by a crash.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine
from functools import partial

from vdsm.core.clock import Clock
from vdsm.core.errors import NodeError
from vdsm.tasks.entry import EntryRollbacks, TaskEntry, TaskSnapshot
from vdsm.tasks.errors import TaskAborted, TaskSaveFailed, TaskStateTransition
from vdsm.tasks.model import SENTINEL, LoadedAction, TaskRecord, TaskState
from vdsm.tasks.places import Places
from vdsm.tasks.ports import Recover
from vdsm.tasks.threads import Threads
from vdsm.tasks.work import JobContext

log = logging.getLogger("storage.TaskManager")

GENERAL_FAILURE = 100
RECOVERY = "recovery"
"""These have places of their own: the task that starts the SPM holds one while it waits for them."""
Course = Callable[[], Coroutine[object, object, None]]


class Engine:
    """Drives entries, `worker_count` of a kind and owner at once at most; `on_change` hears, on the loop, of all that
    can be seen. Kinds have places of their own: copies that take hours hold up neither the pool's tasks nor the SPM."""

    def __init__(
        self, recover: Recover, clock: Clock, worker_count: int, on_change: Callable[[TaskSnapshot], None] | None
    ) -> None:
        self._undo_one = recover
        self.threads = Threads()
        self.waiting: set[TaskEntry] = set()
        """New tasks that have no worker's place yet."""
        self.is_open = True
        self._clock = clock
        self._places: dict[str, Places] = defaultdict(lambda: Places(worker_count))
        self._on_change = on_change
        self._group = asyncio.TaskGroup()
        self._driven: set[TaskEntry] = set()

    async def open(self) -> None:
        """Begin; the same coroutine must `close`."""
        await self._group.__aenter__()

    async def close(self, grace_s: float) -> None:
        """Stop all where it is; threads that go on after so many seconds are left to the end of the process."""
        self.is_open = False
        pending: set[asyncio.Task[None] | asyncio.Task[BaseException | None]] = set()
        for entry in self._driven:
            pending |= entry.cancel()
        grace = asyncio.ensure_future(self._clock.sleep(grace_s))
        while pending and not grace.done():
            await asyncio.wait({*pending, grace}, return_when=asyncio.FIRST_COMPLETED)
            pending = {task for task in pending if not task.done()}
        grace.cancel()
        self.threads.abandon()
        await self._group.__aexit__(None, None, None)

    # The courses that a task can take.

    def run(self, entry: TaskEntry) -> None:
        """Run the jobs of a queued task, and undo them when that fails."""
        self._drive(entry, partial(self._run, entry))

    def undo(self, entry: TaskEntry) -> None:
        """Undo a task that nothing drives, at once."""
        self._drive(entry, partial(self._undo, entry))

    def recover(self, entry: TaskEntry, action: LoadedAction = LoadedAction.RESTART_RECOVERY) -> None:
        """Undo a task in its turn, after `action` on what was loaded."""
        self._drive(entry, partial(self._recover, entry, action))

    async def cancel(self, entry: TaskEntry) -> None:
        """End whatever drives the entry, where it stands, and wait for that."""
        pending = entry.cancel()
        if pending:
            await asyncio.wait(pending)

    async def change(self, entry: TaskEntry, step: Callable[[TaskRecord], TaskRecord]) -> None:
        """`entry.change` beside the loop; tells the listener. A change that began is finished even when cancelled."""
        before = entry.record.state
        try:
            if entry.record.is_persistent:
                await self.threads.run(entry.change, step)
            else:
                entry.change(step)
        finally:
            if entry.record.state is not before:
                log.debug("task %s: %s -> %s", entry.record.task_id, before, entry.record.state)
            self._tell(entry)

    # How they go.

    def _drive(self, entry: TaskEntry, course: Course) -> None:
        if entry.is_driven:  # a stop came first: it drives the task to its end
            return
        entry.settled.clear()
        self._driven.add(entry)
        entry.driver = self._group.create_task(self._guard(entry, course))
        entry.driver.add_done_callback(lambda driver: self._settle(entry))

    async def _guard(self, entry: TaskEntry, course: Course) -> None:
        try:
            await course()
        except Exception:
            if not entry.is_closed:
                log.exception("task %s: the engine failed", entry.record.task_id)
                entry.give_up()

    def _settle(self, entry: TaskEntry) -> None:
        """However its course ended: nothing drives the entry now."""
        self._driven.discard(entry)
        self.waiting.discard(entry)
        while entry.places:
            entry.places.pop().release()
        entry.ended_s = self._clock.monotonic()
        entry.settled.set()
        self._tell(entry)

    async def _run(self, entry: TaskEntry) -> None:
        failure: BaseException | None = None
        if entry.record.state.is_active:
            failure = await self._interruptibly(entry, partial(self._work, entry))
        if entry.record.state is not TaskState.FINISHED:
            await self._abort(entry, failure or TaskAborted())
            await self._undo(entry)
        await self._clean(entry)

    async def _recover(self, entry: TaskEntry, action: LoadedAction) -> None:
        await self._interruptibly(entry, partial(self._take_place, entry, RECOVERY))
        try:
            if action is LoadedAction.GIVE_UP:
                await self.change(entry, TaskRecord.give_up)
            elif entry.record.state.is_active:
                await self._abort(entry, TaskAborted(reason="the host that ran it went away"))
        except TaskSaveFailed as error:
            self._give_up(entry, error)
        await self._undo(entry)
        await self._clean(entry)

    async def _interruptibly(self, entry: TaskEntry, work: Course) -> BaseException | None:
        """Do what a stop of the task may cancel, and return its failure."""
        if entry.stopping.is_set():
            return None
        entry.work = self._group.create_task(_catch(work))
        await asyncio.wait([entry.work])
        return None if entry.work.cancelled() else entry.work.result()

    async def _work(self, entry: TaskEntry) -> None:
        await self._take_place(entry, entry.record.kind.tag)
        result = ""
        for number, job in enumerate(entry.jobs, start=1):
            await self.change(entry, partial(TaskRecord.begin_job, number=number))
            result = await job.run(self._context(entry, number)) or ""
        await self.change(entry, partial(TaskRecord.finish, result=result))

    async def _take_place(self, entry: TaskEntry, kind: str) -> None:
        def tell(reason: str) -> None:
            entry.waits_for = reason
            self._tell(entry)

        try:
            await self._places[kind].take(entry.owner, entry.places, tell)
        finally:
            entry.waits_for = ""
        self.waiting.discard(entry)

    async def _finish(self, entry: TaskEntry) -> None:
        """Do what is left of work that is past all taking back."""
        for rollback in reversed(entry.record.rollbacks):
            await self._undo_one(rollback.module, rollback.object, rollback.function, rollback.params)
        await self.change(entry, partial(TaskRecord.finish, result=""))

    async def _abort(self, entry: TaskEntry, failure: BaseException) -> None:
        if entry.record.state is TaskState.ABORTING:
            return  # stopped on request: that is the reason which counts
        if entry.record.is_finishing:
            log.info("task %s (%s) is finished although: %s", entry.record.task_id, entry.record.name, failure)
            obstacle = await _catch(partial(self._finish, entry))
            if obstacle is None:
                return
            log.error("task %s: what is left of it failed", entry.record.task_id, exc_info=obstacle)
        number = failure.number if isinstance(failure, NodeError) else GENERAL_FAILURE
        text = entry.failure = str(failure) or type(failure).__name__
        if isinstance(failure, NodeError):
            log.info("task %s (%s) failed: %s", entry.record.task_id, entry.record.name, text)
        else:
            log.error("task %s (%s) failed", entry.record.task_id, entry.record.name, exc_info=failure)
        try:
            await self.change(entry, partial(TaskRecord.fail, code=number, message=text))
        except TaskStateTransition:
            return
        except TaskSaveFailed as error:
            self._give_up(entry, error)

    async def _undo(self, entry: TaskEntry) -> None:
        if entry.record.state.is_done:
            return
        try:
            await self.change(entry, TaskRecord.begin_recovery)
            if entry.record.state in (TaskState.RECOVERING, TaskState.RECOVERY_ABORTING):
                clean = await self._run_rollbacks(entry)
                await self.change(entry, partial(TaskRecord.end_recovery, clean=clean))
        except TaskSaveFailed as error:
            self._give_up(entry, error)

    async def _run_rollbacks(self, entry: TaskEntry) -> bool:
        clean = True
        for position in reversed(range(len(entry.record.rollbacks))):
            if entry.record.state is not TaskState.RECOVERING:
                return False
            rollback = entry.record.rollbacks[position]
            if rollback.name != SENTINEL:
                log.info("task %s: rollback %s%r", entry.record.task_id, rollback.function, rollback.params)
                try:
                    await self._undo_one(rollback.module, rollback.object, rollback.function, rollback.params)
                except Exception:
                    # The others go on: each undoes something of its own. This one stays in the record.
                    log.exception("task %s: rollback %s failed", entry.record.task_id, rollback.function)
                    clean = False
                    continue
            await self.change(entry, partial(TaskRecord.drop_rollback, position=position))
        return clean

    async def _clean(self, entry: TaskEntry) -> None:
        """Remove the record of a done task at once when its clean policy says so; the entry in memory stays."""
        if entry.store is None or not entry.record.is_cleaned_by_itself:
            return
        try:
            await self.threads.run(entry.store.remove, entry.record.task_id)
        except TaskSaveFailed as error:
            log.error("task %s: %s", entry.record.task_id, error)

    def _give_up(self, entry: TaskEntry, error: TaskSaveFailed) -> None:
        log.error("task %s is given up here and left to the next SPM: %s", entry.record.task_id, error)
        entry.give_up()

    def _context(self, entry: TaskEntry, number: int) -> JobContext:
        loop = asyncio.get_running_loop()

        def report_progress(percent: float) -> None:
            share = min(max(percent, 0.0), 100.0) / 100
            entry.progress_percent = round((number - 1 + share) / len(entry.jobs) * 100, 1)
            loop.call_soon_threadsafe(self._tell, entry)

        return JobContext(entry.record.task_id, EntryRollbacks(entry), report_progress, entry.stopping, self.threads)

    def _tell(self, entry: TaskEntry) -> None:
        snapshot = entry.snapshot()
        if self._on_change is None or snapshot == entry.told:
            return
        entry.told = snapshot
        try:
            self._on_change(snapshot)
        except Exception:
            log.exception("a listener failed on task %s", snapshot.task_id)


async def _catch(work: Course) -> BaseException | None:
    try:
        await work()
    except Exception as error:
        return error
    return None
