"""How often a test repeats: a tenth or so in quick runs, in full in soak.

`VDSM_SOAK=FACTOR` (set by `make soak`) multiplies the full counts; without it the quick ones hold.
"""

import os
from collections.abc import Callable

import pytest

SOAK_FACTOR = float(os.environ.get("VDSM_SOAK") or 0)


@pytest.fixture
def rounds() -> Callable[[int, int], int]:
    """How often to repeat: `rounds(30, 1000)` is 30 in quick runs, 1,000 times the factor in soak."""

    def choose(quick: int, full: int) -> int:
        return max(quick, round(full * SOAK_FACTOR)) if SOAK_FACTOR else quick

    return choose


def pytest_itemcollected(item: pytest.Item) -> None:
    """A hook for conftest.py: full counts take their time, so limits of single tests hold in quick runs only."""
    if SOAK_FACTOR:
        item.add_marker(pytest.mark.timeout(0), append=False)
