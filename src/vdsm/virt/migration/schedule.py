"""What is done for a migration to come to an end (facts §2.19, "Convergence schedule"), pure; doing it is left to
`source`."""

from typing import Self

from msgspec import Struct

from vdsm.api.migration import ConvergenceAction, ConvergenceSchedule
from vdsm.core.errors import InvalidArgument

_WHERE = "params.convergenceSchedule"
_LAST_LIMIT = 42
"""Rounds at the longest downtime before the legacy schedule gives up."""


class Action(Struct, frozen=True):
    """`setDowntime` with its ms, `postcopy` or `abort`."""

    name: str
    downtime_ms: int = 0


class Schedule(Struct, frozen=True):
    """Actions for the beginning, and those for later with the number of rounds that must have passed before each."""

    init: tuple[Action, ...] = ()
    stalling: tuple[tuple[int, Action], ...] = ()

    @classmethod
    def parse(cls, given: ConvergenceSchedule) -> Self:
        """What a caller wants; raises InvalidArgument (91)."""
        return cls(
            tuple(_parse(action) for action in given.init),
            tuple((item.limit, _parse(item.action)) for item in given.stalling),
        )

    @classmethod
    def compute(cls, downtime_ms: int, steps: int) -> Self:
        """The legacy schedule: longer and longer downtimes up to that one, and in the end `abort`."""
        first, *others = (Action("setDowntime", step_ms) for step_ms in list_downtimes_ms(downtime_ms, steps))
        rising = tuple(enumerate(others, start=1))
        last = (others or [first])[-1]
        return cls((first,), (*rising, (_LAST_LIMIT, last), (-1, Action("abort"))))

    @property
    def has_post_copy(self) -> bool:
        """Whether the guest may run there before its memory is there."""
        return any(action.name == "postcopy" for action in (*self.init, *(action for _, action in self.stalling)))


def list_downtimes_ms(downtime_ms: int, steps: int) -> list[int]:
    """The downtimes of the legacy schedule."""
    if steps <= 1:
        return [downtime_ms]
    offset = downtime_ms / steps
    base = (downtime_ms - offset) ** (1 / (steps - 1))
    return [int(offset + base**step) for step in range(steps)]


class Steps:
    """Goes through the later part of a schedule as rounds pass; one action for each new round at most.

    `first` is the round that was seen first when another daemon looked; what was due since then is due again.
    """

    def __init__(self, schedule: Schedule, first: int | None = None) -> None:
        self._left = list(schedule.stalling)
        self._first, self._last = first, first or 0

    def find_due(self, iteration: int) -> Action | None:
        """What is due now that this round is on."""
        if self._first is None:
            self._first = self._last = iteration
        if iteration <= self._last:
            return None
        self._last = iteration
        if not self._left or self._left[0][0] >= iteration - self._first:
            return None
        _, action = self._left.pop(0)
        if action.name == "postcopy":
            self._left.clear()
        return action


def compute_progress(total_bytes: int, remaining_bytes: int, before: int) -> int:
    """Percent of a migration under way; it never becomes less."""
    if total_bytes <= 0:
        return before
    return max(before, 100 if remaining_bytes == 0 else min(99, 100 - 100 * remaining_bytes // total_bytes))


def _parse(given: ConvergenceAction) -> Action:
    if given.name != "setDowntime":
        return Action(given.name)
    [text] = given.parameters if len(given.parameters) == 1 else [""]
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:10]) == int(text) < 2**31):
        raise InvalidArgument(_WHERE, "setDowntime takes one number of ms")
    return Action(given.name, int(text))
