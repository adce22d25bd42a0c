"""The engine: what callers see at each step, what is undone, what the next SPM finds."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
from msgspec.structs import replace

from vdsm.core.errors import NodeError
from vdsm.tasks.entry import TaskSnapshot
from vdsm.tasks.errors import (
    ActionStopped,
    AddTaskFailed,
    InvalidRollback,
    TaskHasReferences,
    TaskNotFinished,
    TaskSaveFailed,
    TaskStateError,
    TaskStateTransition,
    UnknownTask,
)
from vdsm.tasks.model import (
    FINISHING,
    SDM,
    SENTINEL,
    SPM,
    JobRecord,
    Policy,
    Rollback,
    TaskKind,
    TaskRecord,
    TaskState,
)
from vdsm.tasks.runner import TaskRunner
from vdsm.tasks.work import Job, JobContext
from vdsm.testing.clock import VirtualClock
from vdsm.testing.tasks import MemoryTaskStore

Run = Callable[[JobContext], Awaitable[str | None]]


class VolumeExists(NodeError, code="test-volume-exists", number=212, text="Volume already exists: {volume}"):
    volume: str


class Undone:
    """Runs rollbacks by remembering them; those in `failing` raise, `gate` holds each until it is set."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[str, ...]]] = []
        self.failing: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()

    async def __call__(self, module: str, object: str, function: str, params: tuple[str, ...]) -> None:
        self.entered.set()
        await self.gate.wait()
        self.calls.append((function, params))
        if function in self.failing:
            raise OSError(f"{function} fails")

    @property
    def functions(self) -> list[str]:
        return [function for function, _ in self.calls]


class Seen:
    """Remembers what the listener heard."""

    def __init__(self) -> None:
        self.snapshots: list[TaskSnapshot] = []

    def __call__(self, snapshot: TaskSnapshot) -> None:
        self.snapshots.append(snapshot)

    @property
    def states(self) -> list[str]:
        states = [snapshot.state.value for snapshot in self.snapshots]
        return [state for before, state in zip(["", *states], states, strict=False) if state != before]


@asynccontextmanager
async def running(undone: Undone | None = None, **options: object) -> AsyncIterator[TaskRunner]:
    async with TaskRunner(undone or Undone(), VirtualClock(), stop_grace_s=0, **options) as runner:  # type: ignore[arg-type]
        yield runner


def push(context: JobContext, *functions: str) -> None:
    for function in functions:
        context.rollbacks.push(SENTINEL if function == "sentinel" else function, "m", "O", function, ("p",))


def job(run: Run, name: str = "createVolume") -> Job:
    return Job(name, run)


def result(text: str) -> Job:
    async def run(context: JobContext) -> str:
        return text

    return job(run)


def failing(*functions: str, error: Exception | None = None) -> Job:
    """Registers rollbacks in a thread as storage work does, then fails."""

    async def run(context: JobContext) -> str | None:
        await context.run_in_thread(push, context, *functions)
        raise error or VolumeExists(volume="v")

    return job(run)


class Held:
    """A job that registers rollbacks and then waits until it is let go or stopped."""

    def __init__(self, *functions: str) -> None:
        self.functions = functions
        self.entered = asyncio.Event()
        self.let_go = asyncio.Event()

    async def __call__(self, context: JobContext) -> str:
        await context.run_in_thread(push, context, *self.functions)
        self.entered.set()
        await self.let_go.wait()
        return "held"


def pass_return(context: JobContext) -> None:
    """Register what can be taken back, then that nothing can be any more."""
    push(context, "sentinel", "undo")
    context.rollbacks.replace_down_to_sentinel(Rollback(FINISHING, "m", "O", "finish", ("p",)))


# A good task.


async def test_a_task_tells_each_step_and_ends_in_success() -> None:
    seen, store = Seen(), MemoryTaskStore()
    async with running(on_change=seen) as runner:
        task_id = await runner.start("createVolume", [result("one"), result("two")], kind=SPM, store=store)
        assert runner.get(task_id).state.reported == "running"
        done = await runner.wait(task_id)
    assert (done.state, done.code, done.message, done.result, done.name, done.tag) == (
        TaskState.FINISHED,
        0,
        "2 jobs completed successfully",
        "two",
        "createVolume",
        "spm",
    )
    assert seen.states == ["queued", "running", "finished"]
    assert [s.message for s in seen.snapshots if s.state is TaskState.RUNNING] == [
        "running job 1 of 2",
        "running job 2 of 2",
    ]


async def test_a_persisted_task_is_saved_before_it_is_told() -> None:
    store = MemoryTaskStore()
    ahead: list[bool] = []

    def listen(snapshot: TaskSnapshot) -> None:
        ahead.append(store.saved[-1].state is snapshot.state)

    async with running(on_change=listen) as runner:
        task_id = await runner.start("createVolume", [result("")], kind=SPM, store=store)
        assert store.saved[0].state is TaskState.QUEUED
        await runner.wait(task_id)
    assert ahead and all(ahead)
    assert store.records[task_id].state is TaskState.FINISHED


async def test_tasks_in_memory_write_nothing_and_tags_select() -> None:
    store = MemoryTaskStore()
    async with running() as runner:
        first = await runner.start("spmStart", [result("")])
        second = await runner.start("sdm_copy_data", [result("")], kind=SDM)
        third = await runner.start("createVolume", [result("")], kind=SPM, store=store)
        assert [task.task_id for task in runner.list_tasks()] == [first, second, third]
        assert [task.task_id for task in runner.list_tasks("spm")] == [third]
        for task_id in (first, second, third):
            await runner.wait(task_id)
    assert list(store.records) == [third]


async def test_a_task_without_jobs_is_ok() -> None:
    async with running() as runner:
        done = await runner.wait(await runner.start("nothing", []))
    assert (done.message, done.state.reported_result) == ("OK", "success")


async def test_progress_is_told_over_all_jobs() -> None:
    seen = Seen()

    async def half(context: JobContext) -> None:
        await context.run_in_thread(context.report_progress, 50)
        await context.run_in_thread(context.report_progress, 5000)

    async with running(on_change=seen) as runner:
        done = await runner.wait(await runner.start("copyImage", [job(half), job(half)]))
    percents = [s.progress_percent for s in seen.snapshots if s.progress_percent is not msgspec.UNSET]
    assert sorted(set(percents)) == [25, 50, 75, 100]
    assert seen.snapshots[0].progress_percent is msgspec.UNSET
    assert done.progress_percent == 100


async def test_no_more_work_at_once_than_there_are_places() -> None:
    held = [Held() for _ in range(4)]
    async with running(worker_count=2, queue_length=2) as runner:
        for each in held[:2]:
            await runner.start("copyImage", [job(each)])
            await each.entered.wait()
        for each in held[2:]:
            await runner.start("copyImage", [job(each)])
        assert not held[2].entered.is_set()
        with pytest.raises(AddTaskFailed) as refusal:
            await runner.start("copyImage", [result("")])
        assert refusal.value.number == 405
        held[1].let_go.set()
        await held[2].entered.wait()
        assert not held[3].entered.is_set()
        await runner.start("copyImage", [result("")])


# A task that fails.


async def test_a_failure_undoes_the_last_registered_first() -> None:
    undone, seen, store = Undone(), Seen(), MemoryTaskStore()
    async with running(undone, on_change=seen) as runner:
        task_id = await runner.start(
            "createVolume", [failing("sentinel", "halfbaked", "metadata"), result("")], kind=SPM, store=store
        )
        done = await runner.wait(task_id)
    assert undone.calls == [("metadata", ("p",)), ("halfbaked", ("p",))]
    assert (done.state, done.code, done.message) == (
        TaskState.RECOVERED,
        212,
        "value=Volume already exists: v abortedcode=212",
    )
    assert seen.states == ["queued", "running", "aborting", "recovering", "recovered"]
    assert (store.records[task_id].state, store.records[task_id].rollbacks) == (TaskState.RECOVERED, ())


async def test_an_unexpected_error_is_code_100(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as runner:
        done = await runner.wait(await runner.start("x", [failing(error=ZeroDivisionError("by zero"))]))
    assert (done.code, done.message, done.state.reported_result) == (
        100,
        "value=by zero abortedcode=100",
        "cleanSuccess",
    )
    assert "ZeroDivisionError" in caplog.text


async def test_a_rollback_that_fails_is_told_and_the_others_run() -> None:
    undone, store = Undone(), MemoryTaskStore()
    undone.failing = {"second"}
    async with running(undone) as runner:
        task_id = await runner.start("x", [failing("first", "second", "third")], kind=SPM, store=store)
        done = await runner.wait(task_id)
    assert undone.functions == ["third", "second", "first"]
    assert (done.state, done.state.reported_result, done.code) == (TaskState.FAILED, "cleanFailure", 212)
    assert [rollback.function for rollback in store.records[task_id].rollbacks] == ["second"]


@pytest.mark.parametrize(
    ("policy", "state"), [(Policy.NONE, TaskState.FAILED), (Policy.MANUAL, TaskState.WAIT_RECOVER)]
)
async def test_other_recovery_policies_run_nothing(policy: Policy, state: TaskState) -> None:
    undone = Undone()
    kind = TaskKind("hsm", Policy.NONE, Policy.AUTO, recovery=policy)
    async with running(undone) as runner:
        task_id = await runner.start("x", [failing("first")], kind=kind)
        assert (await runner.wait(task_id)).state is state
        assert undone.calls == []
        if policy is Policy.MANUAL:
            await runner.revert(task_id)
            assert (await runner.wait(task_id)).state is TaskState.RECOVERED
            assert undone.functions == ["first"]


async def test_registration_is_durable_before_the_work_goes_on() -> None:
    store = MemoryTaskStore()
    found: list[list[str]] = []

    def work(context: JobContext) -> None:
        for function in ("image", "sentinel", "halfbaked", "metadata"):
            push(context, function)
            found.append([rollback.function for rollback in store.records[context.task_id].rollbacks])
        saves = len(store.saved)
        context.rollbacks.replace_down_to_sentinel(Rollback("Create volume rollback", "m", "O", "create", ("p",)))
        assert len(store.saved) == saves + 1
        found.append([rollback.function for rollback in store.records[context.task_id].rollbacks])

    async with running() as runner:
        task_id = await runner.start("x", [job(lambda c: c.run_in_thread(work, c))], kind=SPM, store=store)
        assert (await runner.wait(task_id)).state is TaskState.FINISHED
    assert found[0] == ["image"]
    assert found[3:] == [["image", "sentinel", "halfbaked", "metadata"], ["image", "create"]]
    assert [rollback.function for rollback in store.records[task_id].rollbacks] == ["image", "create"]


async def test_replacing_without_a_sentinel_fails_the_work() -> None:
    undone = Undone()

    async def run(context: JobContext) -> None:
        push(context, "image")
        context.rollbacks.replace_down_to_sentinel(Rollback("n", "m", "O", "create", ()))

    async with running(undone) as runner:
        done = await runner.wait(await runner.start("x", [job(run)]))
    assert (done.code, undone.functions) == (InvalidRollback.number, ["image"])


# Storage that fails under the record.


async def test_a_task_that_cannot_be_saved_is_not_begun() -> None:
    store = MemoryTaskStore()
    store.fail_next()
    async with running() as runner:
        with pytest.raises(TaskSaveFailed):
            await runner.start("x", [result("")], kind=SPM, store=store)
        assert runner.list_tasks() == []


async def test_a_rollback_that_cannot_be_saved_stops_the_work() -> None:
    undone, store = Undone(), MemoryTaskStore()

    def work(context: JobContext) -> None:
        push(context, "first")
        store.fail_next()
        push(context, "second")
        raise AssertionError("the step after a failed registration was taken")

    async with running(undone) as runner:
        task_id = await runner.start("x", [job(lambda c: c.run_in_thread(work, c))], kind=SPM, store=store)
        done = await runner.wait(task_id)
    assert (done.state, done.code, undone.functions) == (TaskState.RECOVERED, TaskSaveFailed.number, ["first"])


async def test_a_success_that_cannot_be_saved_is_undone() -> None:
    undone, store = Undone(), MemoryTaskStore()

    async def run(context: JobContext) -> None:
        push(context, "create")
        store.fail_next()

    async with running(undone) as runner:
        task_id = await runner.start("x", [job(run)], kind=SPM, store=store)
        done = await runner.wait(task_id)
    assert (done.state, done.code, undone.functions) == (TaskState.RECOVERED, 407, ["create"])


async def test_nothing_is_undone_that_the_record_does_not_tell_of() -> None:
    undone, store = Undone(), MemoryTaskStore()

    async def run(context: JobContext) -> None:
        push(context, "create")
        store.fail_next(1000)
        raise VolumeExists(volume="v")

    async with running(undone) as runner:
        task_id = await runner.start("x", [job(run)], kind=SPM, store=store)
        done = await runner.wait(task_id)
        assert (done.state, undone.calls) == (TaskState.FAILED, [])
    store.fail_next(0)
    async with running(undone) as runner:
        await runner.load(store)
        runner.recover_loaded(store)
        assert (await runner.wait(task_id)).state is TaskState.RECOVERED
    assert undone.functions == ["create"]


# Stopping.


async def test_stopping_undoes_what_was_done() -> None:
    undone, seen, held, store = Undone(), Seen(), Held("first", "second"), MemoryTaskStore()
    async with running(undone, on_change=seen) as runner:
        task_id = await runner.start("copyImage", [job(held)], kind=SPM, store=store)
        await held.entered.wait()
        assert await runner.stop(task_id)
        done = await runner.wait(task_id)
        assert not await runner.stop(task_id)
    assert (done.state, done.code, undone.functions) == (TaskState.RECOVERED, 411, ["second", "first"])
    assert done.message.startswith("value=Task is aborted") and done.message.endswith("abortedcode=411")
    assert seen.states == ["queued", "running", "aborting", "recovering", "recovered"]


async def test_stopping_twice_is_stopping_once() -> None:
    held, undone = Held(), Undone()
    undone.gate.clear()
    async with running(undone) as runner:
        task_id = await runner.start("copyImage", [job(held)])
        await held.entered.wait()
        assert await runner.stop(task_id)
        assert runner.get(task_id).state is TaskState.ABORTING
        assert await runner.stop(task_id)
        assert (await runner.wait(task_id)).state is TaskState.RECOVERED


async def test_a_task_that_waits_for_a_place_is_stopped_at_once() -> None:
    held = Held()
    async with running(worker_count=1) as runner:
        await runner.start("copyImage", [job(held)])
        waiting = await runner.start("copyImage", [result("")])
        await held.entered.wait()
        await runner.stop(waiting)
        assert (await runner.wait(waiting)).state is TaskState.RECOVERED
        unborn = await runner.start("copyImage", [result("")])
        await runner.stop(unborn)
        assert (await runner.wait(unborn)).state is TaskState.RECOVERED
        held.let_go.set()


async def test_rollbacks_wait_until_the_thread_has_ended() -> None:
    undone = Undone()
    in_thread, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def work(context: JobContext) -> None:
        push(context, "first")
        in_thread.set()
        go_on.wait(30)
        order.append(f"thread ended after {len(undone.calls)} rollbacks")
        if context.stopping.is_set():
            raise ActionStopped()

    async with running(undone) as runner:
        task_id = await runner.start("copyImage", [job(lambda c: c.run_in_thread(work, c))])
        await asyncio.to_thread(in_thread.wait, 30)
        await runner.stop(task_id)
        for _ in range(50):
            await asyncio.sleep(0)
        assert (runner.get(task_id).state, undone.calls) == (TaskState.ABORTING, [])
        go_on.set()
        await runner.wait(task_id)
    assert (order, undone.functions) == (["thread ended after 0 rollbacks"], ["first"])


async def test_work_that_is_to_stop_registers_nothing_more() -> None:
    undone = Undone()
    in_thread = threading.Event()

    def work(context: JobContext) -> None:
        push(context, "first")
        in_thread.set()
        context.stopping.wait(30)
        push(context, "second")
        raise AssertionError("the step after a refused registration was taken")

    async with running(undone) as runner:
        task_id = await runner.start("x", [job(lambda c: c.run_in_thread(work, c))])
        await asyncio.to_thread(in_thread.wait, 30)
        await runner.stop(task_id)
        assert (await runner.wait(task_id)).code == 411
    assert undone.functions == ["first"]


async def test_work_that_finishes_in_spite_of_a_stop_is_undone() -> None:
    undone = Undone()
    entered = asyncio.Event()

    async def stubborn(context: JobContext) -> str:
        push(context, "create")
        try:
            entered.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "made it"
        raise AssertionError

    async with running(undone) as runner:
        task_id = await runner.start("x", [job(stubborn)])
        await entered.wait()
        await runner.stop(task_id)
        done = await runner.wait(task_id)
    assert (done.state, done.code, done.result, undone.functions) == (TaskState.RECOVERED, 411, "", ["create"])


async def test_a_recovery_can_be_cut_short() -> None:
    undone = Undone()
    undone.gate.clear()
    async with running(undone) as runner:
        task_id = await runner.start("x", [failing("first", "second")])
        await undone.entered.wait()
        assert await runner.stop(task_id)
        assert runner.get(task_id).state is TaskState.RECOVERY_ABORTING
        undone.gate.set()
        assert (await runner.wait(task_id)).state is TaskState.FAILED
    assert undone.functions == ["second"]


async def test_a_job_can_ask_whether_it_is_to_stop() -> None:
    context_of: list[JobContext] = []
    held = Held()

    async def run(context: JobContext) -> str:
        context_of.append(context)
        assert not context.stopping.is_set()
        return await held(context)

    async with running() as runner:
        task_id = await runner.start("x", [job(run)])
        await held.entered.wait()
        await runner.stop(task_id)
        await runner.wait(task_id)
    assert context_of[0].stopping.is_set()


# Clearing and reverting.


async def test_unknown_tasks_are_401() -> None:
    async with running() as runner:
        for ask in (runner.stop, runner.clear, runner.revert, runner.wait):
            with pytest.raises(UnknownTask) as refusal:
                await ask("no such task")
            assert refusal.value.number == 401
        with pytest.raises(UnknownTask):
            runner.get("no such task")


async def test_only_done_tasks_with_a_store_are_cleared() -> None:
    held, store = Held(), MemoryTaskStore()
    async with running() as runner:
        task_id = await runner.start("copyImage", [job(held)], kind=SPM, store=store)
        with pytest.raises(TaskStateError) as refusal:
            await runner.clear(task_id)
        assert refusal.value.number == 410
        held.let_go.set()
        await runner.wait(task_id)
        await runner.clear(task_id)
        assert store.records == {}
        with pytest.raises(UnknownTask):
            runner.get(task_id)


async def test_tasks_without_a_store_are_dropped_in_any_state_and_go_on() -> None:
    held = Held()
    async with running() as runner:
        task_id = await runner.start("spmStart", [job(held)])
        await held.entered.wait()
        await runner.clear(task_id)
        assert runner.list_tasks() == []


async def test_a_finished_task_is_reverted_by_its_rollbacks() -> None:
    undone, store, held = Undone(), MemoryTaskStore(), Held("create")
    async with running(undone) as runner:
        task_id = await runner.start("createVolume", [job(held)], kind=SPM, store=store)
        with pytest.raises(TaskNotFinished) as not_finished:
            await runner.revert(task_id)
        held.let_go.set()
        await runner.wait(task_id)
        undone.gate.clear()
        await runner.revert(task_id)
        assert store.records[task_id].state is TaskState.RECOVERY_ACQUIRING
        undone.gate.set()
        assert (await runner.wait(task_id)).state is TaskState.RECOVERED
        with pytest.raises(TaskStateTransition) as transition:
            await runner.revert(task_id)
    assert undone.functions == ["create"]
    assert (not_finished.value.number, transition.value.number) == (403, 441)


async def test_a_task_that_somebody_waits_for_is_not_reverted() -> None:
    held = Held()
    async with running() as runner:
        task_id = await runner.start("x", [job(held)])
        await held.entered.wait()
        first = asyncio.create_task(runner.wait(task_id))
        await asyncio.sleep(0)
        held.let_go.set()
        while not runner.get(task_id).is_done:
            await asyncio.sleep(0)
        with pytest.raises(TaskHasReferences) as refusal:
            await runner.revert(task_id)
        assert refusal.value.number == 442
        await first
        await runner.revert(task_id)


async def test_a_record_that_cleans_itself_goes_when_done() -> None:
    store = MemoryTaskStore()
    kind = TaskKind("spm", persist=Policy.AUTO, clean=Policy.AUTO)
    async with running() as runner:
        task_id = await runner.start("x", [result("")], kind=kind, store=store)
        assert (await runner.wait(task_id)).state is TaskState.FINISHED
        assert store.records == {}
        await runner.clear(task_id)


async def test_done_tasks_in_memory_are_not_kept_without_end() -> None:
    store = MemoryTaskStore()
    async with running(kept_count=3) as runner:
        kept = await runner.start("createVolume", [result("")], kind=SPM, store=store)
        ids = []
        for _ in range(6):
            ids.append(await runner.start("x", [result("")]))
            await runner.wait(ids[-1])
        await runner.start("x", [result("")])
        assert [task.task_id for task in runner.list_tasks()][:-1] == [kept, *ids[3:]]


# The end of the process and the next SPM.


async def test_leaving_stops_work_and_undoes_nothing() -> None:
    undone, held, store = Undone(), Held("first"), MemoryTaskStore()
    async with running(undone) as runner:
        task_id = await runner.start("x", [job(held)], kind=SPM, store=store)
        await runner.start("y", [job(Held())])
        await held.entered.wait()
    assert undone.calls == []
    assert store.records[task_id].state is TaskState.RUNNING
    with pytest.raises(AddTaskFailed):
        await runner.start("x", [result("")])


async def test_leaving_does_not_wait_for_a_thread_that_hangs() -> None:
    hanging, entered = threading.Event(), threading.Event()

    def work() -> None:
        entered.set()
        hanging.wait(60)

    async with running() as runner:
        await runner.start("x", [job(lambda context: context.run_in_thread(work))])
        await asyncio.to_thread(entered.wait, 30)
    hanging.set()


async def test_what_an_earlier_spm_left_is_finished_by_the_next() -> None:
    undone, store, held = Undone(), MemoryTaskStore(), Held("sentinel", "halfbaked")
    async with running(undone) as runner:
        finished = await runner.start("createVolume", [result("r")], kind=SPM, store=store)
        await runner.wait(finished)
        cut_off = await runner.start("createVolume", [job(held)], kind=SPM, store=store)
        await held.entered.wait()
    async with running(undone) as runner:
        with pytest.raises(UnknownTask):
            runner.get(cut_off)
        assert sorted(await runner.load(store)) == sorted([finished, cut_off])
        assert runner.get(cut_off).state.reported == "running"
        assert runner.recover_loaded(store) == [cut_off]
        done = await runner.wait(cut_off)
        assert (done.state, done.code, undone.functions) == (TaskState.RECOVERED, 411, ["halfbaked"])
        assert runner.get(finished).result == "r"
        await runner.clear(finished)
        await runner.clear(cut_off)
    assert store.records == {}


async def test_work_past_all_taking_back_is_finished_when_it_fails() -> None:
    async def fail(context: JobContext) -> None:
        await context.run_in_thread(pass_return, context)
        raise VolumeExists(volume="v")

    undone, store = Undone(), MemoryTaskStore()
    async with running(undone) as runner:
        task_id = await runner.start("moveImage", [job(fail)], kind=SPM, store=store)
        done = await runner.wait(task_id)
        assert (done.state, done.code, done.message) == (TaskState.FINISHED, 0, "1 jobs completed successfully")
        await runner.revert(task_id)
        await runner.wait(task_id)
    assert undone.functions == ["finish"], "nothing is left to be taken back"
    undone.failing.add("finish")
    async with running(undone) as runner:
        task_id = await runner.start("moveImage", [job(fail)], kind=SPM, store=store)
        failed = await runner.wait(task_id)
    assert (failed.state, failed.code) == (TaskState.FAILED, VolumeExists.number)
    assert [entry.name for entry in store.records[task_id].rollbacks] == [FINISHING]


async def test_work_past_all_taking_back_cannot_be_stopped() -> None:
    undone, entered, go_on = Undone(), threading.Event(), threading.Event()

    def work(context: JobContext) -> None:
        pass_return(context)
        entered.set()
        assert go_on.wait(30) and not context.stopping.is_set()

    async with running(undone) as runner:
        task_id = await runner.start("moveImage", [job(lambda c: c.run_in_thread(work, c))])
        await asyncio.to_thread(entered.wait, 30)
        assert not await runner.stop(task_id)
        go_on.set()
        assert (await runner.wait(task_id)).state is TaskState.FINISHED
    assert undone.calls == []


async def test_a_stop_that_is_saved_lets_nobody_past_all_taking_back() -> None:
    undone, in_thread, go_on, refused = Undone(), threading.Event(), threading.Event(), []

    def work(context: JobContext) -> None:
        push(context, "sentinel", "undo")
        in_thread.set()
        assert go_on.wait(30)
        context.stopping.clear()  # as before it is told of the stop, which counts already
        try:
            pass_return(context)
        except ActionStopped:
            refused.append(True)
            raise

    async with running(undone) as runner:
        task_id = await runner.start("moveImage", [job(lambda c: c.run_in_thread(work, c))])
        await asyncio.to_thread(in_thread.wait, 30)
        assert await runner.stop(task_id)
        go_on.set()
        assert (await runner.wait(task_id)).state is TaskState.RECOVERED
    assert (refused, undone.functions) == ([True], ["undo"])


async def test_work_past_all_taking_back_is_finished_by_the_next_spm() -> None:
    undone, store = Undone(), MemoryTaskStore()

    passed = asyncio.Event()

    async def hang(context: JobContext) -> None:
        await context.run_in_thread(pass_return, context)
        passed.set()
        await asyncio.Event().wait()

    async with running(undone) as runner:
        task_id = await runner.start("moveImage", [job(hang)], kind=SPM, store=store)
        async with asyncio.timeout(30):
            await passed.wait()
        assert store.records[task_id].is_finishing
    async with running(undone) as runner:
        await runner.load(store)
        runner.recover_loaded(store)
        done = await runner.wait(task_id)
    assert (done.state, done.code, undone.functions) == (TaskState.FINISHED, 0, ["finish"])
    assert store.records[task_id].rollbacks == ()


LEFT = TaskRecord(
    "left", "createVolume", SPM, "s", jobs=(JobRecord("j"),), rollbacks=(Rollback("n", "m", "O", "undo", ("p",)),)
)


@pytest.mark.parametrize("state", list(TaskState))
async def test_every_state_that_can_be_left_comes_to_its_end(state: TaskState) -> None:
    undone, store = Undone(), MemoryTaskStore()
    store.records["left"] = replace(LEFT, state=state)
    async with running(undone) as runner:
        await runner.load(store)
        recovered = runner.recover_loaded(store)
        found = await runner.wait("left")
    if state.is_done or state is TaskState.WAIT_RECOVER:
        assert (recovered, found.state, undone.calls) == ([], state, [])
    elif state in (TaskState.UNKNOWN, TaskState.INIT, TaskState.RECOVERY_ABORTING):
        assert (found.state, undone.calls) == (TaskState.FAILED, [])
    else:
        assert (found.state, undone.functions) == (TaskState.RECOVERED, ["undo"])
    assert store.records["left"].state is found.state


async def test_a_recovery_that_was_killed_goes_on_where_it_was() -> None:
    undone, store = Undone(), MemoryTaskStore()
    async with running(undone) as runner:
        task_id = await runner.start("x", [failing("first", "second")], kind=SPM, store=store)
        undone.gate.clear()
        await undone.entered.wait()
    assert store.records[task_id].state is TaskState.RECOVERING
    assert undone.calls == []
    undone.gate.set()
    async with running(undone) as runner:
        await runner.load(store)
        runner.recover_loaded(store)
        assert (await runner.wait(task_id)).state is TaskState.RECOVERED
    assert undone.functions == ["second", "first"]


async def test_becoming_spm_again_does_not_collide() -> None:
    undone, store = Undone(), MemoryTaskStore()
    async with running(undone) as runner:
        finished = await runner.start("createVolume", [result("r")], kind=SPM, store=store)
        await runner.wait(finished)
        await runner.release(store)
        with pytest.raises(UnknownTask):
            runner.get(finished)
        assert await runner.load(store) == [finished]
        # Also when the role went without a word: the disk is believed.
        store.records[finished] = replace(store.records[finished], message="changed by another host")
        assert await runner.load(store) == [finished]
        assert runner.get(finished).message == "changed by another host"
        assert len(runner.list_tasks()) == 1


async def test_releasing_a_store_ends_all_writing_to_it() -> None:
    undone, store = Undone(), MemoryTaskStore()
    in_thread = threading.Event()
    refused: list[str] = []

    def work(context: JobContext) -> None:
        in_thread.set()
        context.stopping.wait(30)
        try:
            while True:
                push(context, "more")
        except NodeError as error:
            refused.append(error.code)

    async with running(undone) as runner:
        task_id = await runner.start("x", [job(lambda c: c.run_in_thread(work, c))], kind=SPM, store=store)
        await runner.start("y", [job(Held())], kind=SPM, store=store)
        other = await runner.start("z", [result("")])
        await asyncio.to_thread(in_thread.wait, 30)
        waiter = asyncio.create_task(runner.wait(task_id))
        await asyncio.sleep(0)
        await runner.release(store)
        saves = len(store.saved)
        with pytest.raises(UnknownTask):
            await waiter
        assert [task.task_id for task in runner.list_tasks()] == [other]
    assert (refused, undone.calls, len(store.saved)) == (["action-stopped"], [], saves)
    assert store.records[task_id].state is TaskState.RUNNING


async def test_releasing_waits_for_a_rollback_in_its_thread() -> None:
    store, in_thread, go_on = MemoryTaskStore(), threading.Event(), threading.Event()
    ended: list[str] = []

    def undo() -> None:
        in_thread.set()
        go_on.wait(30)
        ended.append("undo")

    async def recover(module: str, object: str, function: str, params: tuple[str, ...]) -> None:
        await runner.run_in_thread(undo)

    async with TaskRunner(recover, VirtualClock()) as runner:
        task_id = await runner.start("x", [failing("first")], kind=SPM, store=store)
        await asyncio.to_thread(in_thread.wait, 30)
        release = asyncio.create_task(runner.release(store))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not release.done()
        go_on.set()
        await release
        assert ended == ["undo"]
    assert (store.records[task_id].state, len(store.records[task_id].rollbacks)) == (TaskState.RECOVERING, 1)


async def test_a_task_may_wait_for_recoveries_though_all_places_are_taken() -> None:
    undone, store = Undone(), MemoryTaskStore()
    store.records["left"] = replace(LEFT, state=TaskState.RUNNING)
    async with running(undone, worker_count=1) as runner:

        async def start_spm(context: JobContext) -> None:
            await runner.load(store)
            for task_id in runner.recover_loaded(store):
                await runner.wait(task_id)

        await runner.wait(await runner.start("spmStart", [job(start_spm)]))
    assert undone.functions == ["undo"]


async def test_a_stop_between_loading_and_recovery_is_obeyed() -> None:
    undone, store = Undone(), MemoryTaskStore()
    store.records["left"] = replace(LEFT, state=TaskState.RUNNING)
    async with running(undone) as runner:
        await runner.load(store)
        assert await runner.stop("left")
        assert runner.recover_loaded(store) == []
        assert (await runner.wait("left")).state is TaskState.RECOVERED
    assert undone.functions == ["undo"]


async def test_a_caller_that_goes_away_leaves_the_task_running() -> None:
    saving, go_on = threading.Event(), threading.Event()

    class SlowStore(MemoryTaskStore):
        def save(self, record: TaskRecord) -> None:
            saving.set()
            go_on.wait(30)
            super().save(record)

    store = SlowStore()
    async with running() as runner:
        caller = asyncio.create_task(runner.start("x", [result("")], kind=SPM, store=store))
        await asyncio.to_thread(saving.wait, 30)
        caller.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await caller
        [task] = runner.list_tasks()
        assert (await runner.wait(task.task_id)).state is TaskState.FINISHED


async def test_a_listener_that_fails_harms_no_task() -> None:
    def listen(snapshot: TaskSnapshot) -> None:
        raise ValueError("bad listener")

    async with running(on_change=listen) as runner:
        assert (await runner.wait(await runner.start("x", [result("")]))).state is TaskState.FINISHED
