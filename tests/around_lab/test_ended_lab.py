"""However `make lab` ends, nothing of it stays."""

from collections.abc import Callable

import pytest

from tests.places import ENDS, End, Place, end_at_random, place

__all__ = ["place"]  # a fixture: pytest finds it here

TESTS = "tests/lab/test_loop.py tests/lab/test_nfs.py"
LAST_S = 45.0  # by then some of the tests are done


@pytest.mark.timeout(0)
@pytest.mark.parametrize("end", ENDS)
def test_an_ended_lab_leaves_nothing_behind(place: Place, rounds: Callable[[int, int], int], end: End) -> None:
    before = place.look()
    for _ in range(rounds(1, 10)):
        run = place.begin("make", "lab", f"TEST={TESTS}")
        end_at_random(place, run, end, before, LAST_S)
