"""However `make lab` and `make check` end, nothing of them stays."""

from collections.abc import Callable

import pytest

from tests.places import ENDS, End, Place, end_at_random, place
from tests.rounds import SOAK_FACTOR

__all__ = ["place"]  # a fixture: pytest finds it here

LAB = ("lab", "VMS=2", "TEST=tests/lab/parts/test_loop.py tests/lab/parts/test_nfs.py")
LAB_S = 45.0  # by then some of the tests are done
CHECK_S = 400.0 if SOAK_FACTOR else 45.0


@pytest.mark.timeout(0)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("target, last_s", [(LAB, LAB_S), (("check",), CHECK_S)], ids=["lab", "check"])
def test_an_ended_run_leaves_nothing_behind(
    place: Place, rounds: Callable[[int, int], int], target: tuple[str, ...], last_s: float, end: End
) -> None:
    before = place.look()
    for _ in range(rounds(1, 5)):
        end_at_random(place, place.begin("make", *target), end, before, last_s)
