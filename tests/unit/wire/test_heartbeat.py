"""Heart-beats on a clock that jumps (facts: rpc §1.3)."""

import heapq
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.wire.heartbeat import LONGEST_MS, HeartBeat, parse_heartbeat


class Handle:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class JumpingLoop:
    """The time side of an event loop; `run_to` fires what is due on the way."""

    def __init__(self) -> None:
        self.now = 100.0
        self._due: list[tuple[float, int, Callable[[], object], Handle]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object]) -> Handle:
        handle = Handle()
        heapq.heappush(self._due, (when, len(self._due), callback, handle))
        return handle

    def run_to(self, when: float) -> None:
        while self._due and self._due[0][0] <= when:
            self.now, _, callback, handle = heapq.heappop(self._due)
            if not handle.cancelled:
                callback()
        self.now = when

    @property
    def idle(self) -> bool:
        return all(handle.cancelled for *_, handle in self._due)


class Side:
    def __init__(self, send_ms: int, receive_ms: int) -> None:
        self.loop = JumpingLoop()
        self.beats: list[float] = []
        self.lost: list[float] = []
        note = lambda log: lambda: log.append(self.loop.now)  # noqa: E731
        self.heartbeat = HeartBeat(self.loop, send_ms, receive_ms, note(self.beats), note(self.lost))


@pytest.mark.parametrize(
    ("text", "periods"),
    [
        ("0,0", (0, 0)),
        ("1,0", (1000, 0)),
        ("0,24000", (0, 24000)),
        ("5000,999", (5000, 1000)),
        ("99999999999999999,0", (LONGEST_MS, 0)),
    ],
)
def test_periods_are_raised_and_capped(text, periods):
    assert parse_heartbeat(text, 1000) == periods


@given(st.text(max_size=30))
def test_nonsense_means_none(text):
    first, second = parse_heartbeat(text, 1000)
    assert first in range(LONGEST_MS + 1) and second in range(LONGEST_MS + 1)
    if not text or text[0] not in "0123456789":
        assert (first, second) == (0, 0)


def test_beats_when_nothing_else_was_written():
    side = Side(1000, 0)
    side.loop.run_to(103.5)
    assert side.beats == [101, 102, 103]


def test_what_is_written_counts_as_a_beat():
    side = Side(1000, 0)
    side.loop.run_to(100.6)
    side.heartbeat.wrote()
    side.loop.run_to(101.5)
    assert side.beats == []
    side.loop.run_to(101.7)
    assert side.beats == [101.6]


def test_silence_is_judged_once_without_grace():
    side = Side(0, 1000)
    side.loop.run_to(100.9)
    side.heartbeat.heard()
    side.loop.run_to(101.8)
    assert side.lost == []
    side.loop.run_to(110)
    assert side.lost == [101.9]
    assert side.loop.idle


def test_nothing_happens_after_stop_or_without_periods():
    side = Side(1000, 1000)
    side.heartbeat.stop()
    side.loop.run_to(200)
    assert side.beats == side.lost == []
    assert Side(0, 0).loop.idle
