"""However a run of the tests with hosts and daemons ends, nothing of it stays."""

import sys
from collections.abc import Callable

import pytest

import lab.hosts
from lab.commands import wait_for
from tests.places import ENDS, End, Place, end_at_random, place

__all__ = ["place"]  # a fixture: pytest finds it here

TESTS = ("tests/system/hosts/test_faults.py", "tests/system/daemon/test_restart.py")
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile")
LAST_S = 8.0


@pytest.fixture(autouse=True)
def _hosts_are_possible() -> None:
    if reason := lab.hosts.why_not():
        pytest.skip(reason)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("end", ENDS)
def test_an_ended_run_leaves_nothing_behind(place: Place, rounds: Callable[[int, int], int], end: End) -> None:
    before = place.look()
    for _ in range(rounds(1, 30)):
        run = place.begin(sys.executable, *PYTEST, *TESTS)  # on two workers, as `make system` runs them
        wait_for(lambda: any((place.root / "tmp").glob("vdsm-scratch-*")), "the first host or daemon is made")
        end_at_random(place, run, end, before, LAST_S)
