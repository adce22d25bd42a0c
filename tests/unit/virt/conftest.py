"""`pytest tests/unit/virt --regenerate` rewrites the golden domain XML instead of comparing with it."""

from contextlib import suppress

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    with suppress(ValueError):  # another room's tests declared it already
        parser.addoption("--regenerate", action="store_true", help="rewrite golden files instead of comparing")


@pytest.fixture
def regenerate(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be rewritten."""
    return bool(request.config.getoption("--regenerate", default=False))
