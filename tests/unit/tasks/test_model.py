"""The table of moves, and that no sequence of requests leads around it."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from vdsm.tasks.errors import InvalidRollback, TaskStateTransition
from vdsm.tasks.model import (
    HSM,
    MOVES,
    SENTINEL,
    SPM,
    JobRecord,
    LoadedAction,
    Policy,
    Rollback,
    TaskRecord,
    TaskState,
    format_failure,
    plan_loaded,
)

NEW = TaskRecord("t", "createVolume", SPM, "/store", jobs=(JobRecord("createVolume"),))

# The table of facts §8.1, typed in from there: state, taskState, taskResult, may move from.
FACTS = """
preparing   running  -            init blocked
blocked     running  -            preparing
acquiring   running  -            preparing acquiring
queued      running  -            acquiring running
running     running  -            queued
finished    finished success      running preparing
aborting    aborting -            preparing blocked acquiring queued running
waitrecover cleaning -            aborting
racquiring  cleaning -            aborting finished racquiring waitrecover
recovering  cleaning -            racquiring
raborting   aborting -            racquiring recovering waitrecover
recovered   finished cleanSuccess recovering
failed      finished cleanFailure recovering aborting raborting
"""


@pytest.mark.parametrize("line", FACTS.strip().splitlines())
def test_states_report_and_move_as_the_facts_tell(line: str) -> None:
    word, reported, result, *sources = line.split()
    state = TaskState(word)
    assert (state.reported, state.reported_result or "-") == (reported, result)
    for old in TaskState:
        assert old.may_become(state) == (old.value in sources)
    assert state.is_done == (reported == "finished")


def test_a_wrong_move_is_refused_with_both_ends() -> None:
    with pytest.raises(TaskStateTransition) as refusal:
        NEW.move(TaskState.PREPARING, TaskState.FINISHED, TaskState.RUNNING)
    assert refusal.value.data() == {"old": "finished", "new": "running"}
    assert refusal.value.number == 441


def test_the_way_of_a_good_task() -> None:
    record = replace(NEW, jobs=(JobRecord("a"), JobRecord("b"))).queue()
    assert (record.state, record.code) == (TaskState.QUEUED, 0)
    record = record.begin_job(1)
    assert record.message == "running job 1 of 2"
    record = record.begin_job(2)
    assert record.message == "running job 2 of 2"
    record = record.finish("done")
    assert (record.state, record.code, record.message, record.result) == (
        TaskState.FINISHED,
        0,
        "2 jobs completed successfully",
        "done",
    )


def test_a_task_without_jobs_is_ok_at_once() -> None:
    assert replace(NEW, jobs=()).queue().message == "OK"


@pytest.mark.parametrize(
    ("policy", "state"),
    [(Policy.AUTO, TaskState.RECOVERING), (Policy.NONE, TaskState.FAILED), (Policy.MANUAL, TaskState.WAIT_RECOVER)],
)
def test_the_recovery_policy_decides_after_a_failure(policy: Policy, state: TaskState) -> None:
    record = replace(NEW, kind=replace(SPM, recovery=policy)).queue().begin_job(1).fail(212, "exists")
    assert record.message == "value=exists abortedcode=212"
    assert record.begin_recovery().state is state


def _rollback(name: str) -> Rollback:
    return Rollback(name, "fileVolume", "FileVolume", name.replace(" ", ""), ("sd",))


def test_the_last_sentinel_and_all_after_it_give_way_to_one_entry() -> None:
    record = NEW
    for name in ("image", SENTINEL, "old", SENTINEL, "halfbaked", "metadata"):
        record = record.push(_rollback(name))
    replaced = record.replace_down_to_sentinel(_rollback("create"))
    assert [r.name for r in replaced.rollbacks] == ["image", SENTINEL, "old", "create"]
    with pytest.raises(InvalidRollback):
        NEW.push(_rollback("image")).replace_down_to_sentinel(_rollback("create"))


@pytest.mark.parametrize("state", list(TaskState))
def test_what_the_next_spm_does(state: TaskState) -> None:
    expected = {
        **dict.fromkeys(("finished", "recovered", "failed", "waitrecover"), LoadedAction.NOTHING),
        **dict.fromkeys(("preparing", "blocked", "acquiring", "queued", "running", "aborting"), LoadedAction.STOP),
        **dict.fromkeys(("racquiring", "recovering"), LoadedAction.RESTART_RECOVERY),
        **dict.fromkeys(("unknown", "init", "raborting"), LoadedAction.GIVE_UP),
    }
    assert plan_loaded(state) is expected[state.value]


REQUESTS: dict[str, Callable[[TaskRecord], TaskRecord]] = {
    "queue": TaskRecord.queue,
    "first": lambda record: record.begin_job(1),
    "next": lambda record: record.begin_job(2),
    "finish": lambda record: record.finish("r"),
    "fail": lambda record: record.fail(100, "x"),
    "stop": TaskRecord.request_stop,
    "recover": TaskRecord.begin_recovery,
    "end clean": lambda record: record.end_recovery(clean=True),
    "end dirty": lambda record: record.end_recovery(clean=False),
    "revert": TaskRecord.begin_revert,
}


def _reachable(old: TaskState, new: TaskState, steps: int) -> bool:
    if old is new:
        return True
    return steps > 0 and any(_reachable(old, middle, steps - 1) for middle in MOVES[new])


@given(
    st.lists(st.sampled_from(sorted(REQUESTS)), max_size=30),
    st.sampled_from(list(Policy)),
    st.sampled_from([SPM, HSM]),
)
def test_no_sequence_of_requests_leaves_the_table(names: list[str], recovery: Policy, kind: object) -> None:
    record = replace(NEW, kind=replace(SPM if kind is SPM else HSM, recovery=recovery))
    for name in names:
        before = record
        try:
            record = REQUESTS[name](record)
        except TaskStateTransition:
            assert record is before
            continue
        assert _reachable(before.state, record.state, 3)
        if before.state.is_done:
            assert (before.state, name) == (TaskState.FINISHED, "revert")
        if record.state is TaskState.RECOVERED:
            assert name == "end clean"
        if record.state.is_done and record.code == 0:
            assert record.state is TaskState.FINISHED or record.message == "reverted on request"


def test_lost_words_are_found_again_after_a_load() -> None:
    failed = replace(NEW, state=TaskState.RECOVERED, message="").complete()
    assert (failed.code, failed.message.endswith("abortedcode=411")) == (411, True)
    assert replace(NEW, state=TaskState.FINISHED, message="").complete().message == "1 jobs completed successfully"
    assert format_failure(100, "a") == "value=a abortedcode=100"
