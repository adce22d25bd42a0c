"""What tests in the lab VM share: each leaves it as it was."""

from collections.abc import Iterator

import pytest

from lab.remains import nothing_left
from tests.rounds import rounds

__all__ = ["rounds"]  # a fixture: pytest finds it here


@pytest.fixture(autouse=True)
def _leaves_nothing_behind() -> Iterator[None]:
    with nothing_left():
        yield
