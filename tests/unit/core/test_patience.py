"""Calls that block cost their caller a failure and one thread, and what comes late is not lost."""

import threading

import pytest

from vdsm.core.patience import Patience

BRIEF_S = 0.02
LONG_S = 20.0


def test_results_and_failures_come_back() -> None:
    patience = Patience(OSError)
    assert patience.call("name", lambda: 7, LONG_S) == 7

    def fail() -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        patience.call("name", fail, LONG_S)


def test_of_several_that_are_late_the_last_one_frees_the_name() -> None:
    patience, gates = Patience(), [threading.Event(), threading.Event()]
    threads: dict[int, threading.Thread] = {}

    def call(number: int) -> None:
        def hang() -> None:
            threads[number] = threading.current_thread()
            gates[number].wait(LONG_S)

        with pytest.raises(TimeoutError, match="not done after"):
            patience.call("sick", hang, 0.3)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for number, is_stuck in ((0, True), (1, False)):
        gates[number].set()
        threads[number].join(LONG_S)
        assert patience.is_stuck("sick") is is_stuck


def test_one_that_is_late_blocks_its_own_name_until_it_comes_back() -> None:
    patience, gate, came = Patience(), threading.Event(), threading.Event()
    late: list[str] = []

    def hang() -> str:
        gate.wait(LONG_S)
        return "late"

    def take(result: str) -> None:
        late.append(result)
        came.set()

    before = threading.active_count()
    with pytest.raises(TimeoutError, match="not done after"):
        patience.call("sick", hang, BRIEF_S, take)
    for _ in range(3):
        with pytest.raises(TimeoutError, match="has not come back"):
            patience.call("sick", hang, LONG_S, take)
    assert patience.is_stuck("sick") and threading.active_count() == before + 1
    assert patience.call("well", lambda: 1, LONG_S) == 1
    gate.set()
    assert came.wait(LONG_S) and late == ["late"]
    while patience.is_stuck("sick"):
        pass
    assert patience.call("sick", lambda: 2, LONG_S) == 2
