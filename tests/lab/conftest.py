"""What tests in the lab VM share: each leaves it as it was."""

from collections.abc import Iterator

import pytest

from lab.remains import nothing_left
from lab.turns import (
    pytest_collection_finish,
    pytest_collection_modifyitems,
    pytest_runtest_logreport,
    pytest_runtest_protocol,
)
from tests.rounds import pytest_itemcollected, rounds

__all__ = [  # pytest finds them here: fixtures and hooks
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "pytest_itemcollected",
    "pytest_runtest_logreport",
    "pytest_runtest_protocol",
    "rounds",
]


@pytest.fixture(autouse=True)
def _leaves_nothing_behind() -> Iterator[None]:
    with nothing_left():
        yield
