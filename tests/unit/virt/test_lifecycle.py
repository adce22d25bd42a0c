"""States of a VM under any sequence of happenings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.virt.lifecycle import (
    MOVES,
    ExitInfo,
    ExitReason,
    Happening,
    PauseCode,
    Refusal,
    Request,
    Status,
    VmState,
    check_request,
    exit_of_event,
    exit_of_shut_off,
    pause_code_of,
)

HAPPENINGS = st.lists(st.tuples(st.sampled_from(Happening), st.sampled_from([None, *PauseCode])), max_size=30)
STARTS = st.sampled_from([Status.WAIT_FOR_LAUNCH, Status.RESTORING, Status.MIGRATION_DESTINATION])


@given(STARTS, HAPPENINGS)
def test_any_sequence(start: Status, happenings: list[tuple[Happening, PauseCode | None]]) -> None:
    state = VmState(start)
    was_down = False
    for happening, code in happenings:
        before = state
        state = state.after(happening, pause_code=code)
        assert state.status is MOVES.get((before.status, happening), before.status)
        if was_down:
            assert state is before
        was_down = was_down or happening is Happening.STOPPED
        assert (state.status is Status.DOWN) == was_down
        assert (state.exit is not None) == was_down
        if state.status is Status.UP:
            assert not state.cpus_stopped and state.pause_code is None
        if state.status is Status.PAUSED:
            assert state.cpus_stopped and state.pause_code is not None


@given(HAPPENINGS, st.lists(st.tuples(st.sampled_from(Status), st.floats(0, 1000)), max_size=5), st.floats(0, 2000))
def test_only_a_running_vm_is_told_apart_by_its_guest(
    happenings: list[tuple[Happening, PauseCode | None]], seen: list[tuple[Status, float]], now_s: float
) -> None:
    state = VmState()
    for happening, code in happenings:
        state = state.after(happening, pause_code=code)
    for event, at_s in seen:
        state = state.seen(event, at_s)
    if state.status is not Status.UP:
        assert state.effective(now_s) is state.status


@pytest.mark.parametrize(
    ("event", "age_s", "agent", "effective"),
    [
        (None, 0, None, Status.UP),
        (Status.POWERING_UP, 59, None, Status.POWERING_UP),
        (Status.POWERING_UP, 60, None, Status.UP),
        (Status.POWERING_UP, 5, Status.UP, Status.UP),
        (Status.REBOOTING, 59, None, Status.REBOOTING),
        (Status.REBOOTING, 5, Status.UP, Status.UP),
        (Status.POWERING_DOWN, 299, Status.UP, Status.POWERING_DOWN),
        (Status.POWERING_DOWN, 300, None, Status.UP),
    ],
)
def test_effective_status(event: Status | None, age_s: float, agent: Status | None, effective: Status) -> None:
    state = VmState(Status.UP, guest_event=event, guest_event_at_s=100.0, agent_state=agent, qemu_agent_answers=True)
    assert state.effective(100.0 + age_s) is effective


def test_stopped_processors_are_reported_as_paused() -> None:
    assert VmState(Status.UP, cpus_stopped=True).effective(0) is Status.PAUSED
    assert VmState(Status.MIGRATION_SOURCE, post_copy=True).effective(0) is Status.PAUSED


def test_what_libvirt_says_now_counts() -> None:
    paused = VmState(Status.PAUSED, cpus_stopped=True, pause_code=PauseCode.BY_REQUEST)
    up = VmState(Status.UP, guest_event=Status.REBOOTING, guest_event_at_s=5.0)
    assert up.aligned(VmState(Status.UP)) is up
    seen = up.aligned(paused)
    assert (seen.status, seen.cpus_stopped, seen.pause_code) == (Status.PAUSED, True, PauseCode.BY_REQUEST)
    assert seen.aligned(VmState(Status.UP)) == up
    stranded = VmState(Status.MIGRATION_SOURCE, cpus_stopped=True, pause_code=PauseCode.POST_COPY, post_copy=True)
    assert stranded.aligned(VmState(Status.UP)) == VmState(Status.UP)


def test_the_first_end_counts() -> None:
    first, second = ExitInfo.of(ExitReason.SAVED), ExitInfo.of(ExitReason.LOST_QEMU)
    state = VmState(Status.UP).after(Happening.STOPPED, exit_info=first)
    assert state.after(Happening.STOPPED, exit_info=second).exit == first


@pytest.mark.parametrize("status", Status)
def test_requests_that_do_not_fit_are_refused(status: Status) -> None:
    state = VmState(status)
    starting = status in (Status.WAIT_FOR_LAUNCH, Status.RESTORING, Status.MIGRATION_DESTINATION)
    for request in set(Request) - {Request.RESUME}:
        expected = Refusal.IS_DOWN if status is Status.DOWN else Refusal.WRONG_STATE if starting else None
        moves = (Request.PLUG, Request.SNAPSHOT, Request.MIGRATE)
        if request in moves and status is Status.MIGRATION_DESTINATION:
            expected = Refusal.MIGRATES
        if request not in (Request.PAUSE, Request.AGENT) and status is Status.MIGRATION_SOURCE:
            expected = Refusal.MIGRATES
        if request is not Request.AGENT and status is Status.SAVING:
            expected = Refusal.MIGRATES
        if request is Request.MIGRATE and status in (Status.WAIT_FOR_LAUNCH, Status.RESTORING):
            expected = Refusal.IS_DOWN
        assert check_request(state, request) is expected
    refused = starting or status in (Status.SAVING, Status.DOWN, Status.MIGRATION_SOURCE)
    assert check_request(state, Request.RESUME) is (Refusal.WRONG_STATE if refused else None)


def test_a_migrating_vm_resumes_only_after_an_io_error() -> None:
    assert check_request(VmState(Status.MIGRATION_SOURCE, pause_code=PauseCode.NO_SPACE), Request.RESUME) is None
    by_request = VmState(Status.MIGRATION_SOURCE, pause_code=PauseCode.BY_REQUEST)
    assert check_request(by_request, Request.RESUME) is Refusal.WRONG_STATE


def test_exit_codes() -> None:
    normal = {reason for reason in ExitReason if ExitInfo.of(reason).code == 0}
    assert normal == {0, 4, 5, 6, 7, 13}
    assert all(ExitInfo.of(reason).message for reason in ExitReason)
    assert ExitInfo.of(ExitReason.GENERIC_ERROR, "why").message == "why"


def test_reasons_of_libvirt() -> None:
    assert [exit_of_event(detail) for detail in range(7)] == [7, 6, 2, 4, 5, 2, 1]
    assert [exit_of_shut_off(reason) for reason in range(9)] == [1, 7, 6, 1, 4, 5, 3, 1, 1]


def test_pause_codes() -> None:
    assert [pause_code_of(text) for text in ("enospc", "ENOSPC", "eio", "eperm", "", "eother")] == [
        PauseCode.NO_SPACE,
        PauseCode.NO_SPACE,
        PauseCode.IO_ERROR,
        PauseCode.NO_PERMISSION,
        PauseCode.OTHER,
        PauseCode.OTHER,
    ]
