"""Test files that the pytests of several VMs share: a file is run by the one that claims it first, those that may take
longest first, and what was collected and what ran is written down, so that no test is lost or runs twice.

The hooks are for tests/lab/conftest.py; they do nothing unless the VM was given its turn: its name, in a folder that
all see.
"""

import functools
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

VARIABLE = "LAB_TURN"
_CLAIMED, _COLLECTED, _RAN = "claimed-", "collected-", "ran-"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files in front that have the highest limit of a test, then those whose limits add up to most.

    The last ones should be short.
    """
    limits_s: dict[Path, list[int]] = {}
    for item in items:
        limits_s.setdefault(item.path, []).append(_find_limit(item))
    ranks = {path: (-max(found), -sum(found)) for path, found in limits_s.items()}
    items.sort(key=lambda item: ranks[item.path])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write down what there is to be run."""
    _tell(_COLLECTED, *(item.nodeid for item in session.items))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Pass over what another VM has claimed: for pytest that is done."""
    turn = _find_turn()
    if turn is None or _claim(turn.parent, item.path.name):
        return None
    # The folder of the test before may have been left as it was for this one, and the next is in another.
    item.session._setupstate.teardown_exact(nextitem)
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write down a test that has been set up, run and taken down, however these went."""
    if report.when == "teardown":
        _tell(_RAN, report.nodeid)


def list_lost(folder: Path) -> list[str]:
    """The tests that were to be run and did not run to their end, or ran twice."""
    ran = Counter(_read(folder, _RAN))
    times = {test: ran[test] for test in sorted({*_read(folder, _COLLECTED), *ran})}
    return [f"{test}: ran {count} times" for test, count in times.items() if count != 1]


def count(folder: Path) -> int:
    """How many tests ran to their end."""
    return sum(1 for _ in _read(folder, _RAN))


def _find_limit(item: pytest.Item) -> int:
    marker = item.get_closest_marker("timeout")
    return int(marker.args[0] if marker else item.config.getini("timeout"))


def _find_turn() -> Path | None:
    turn = os.environ.get(VARIABLE)
    return Path(turn) if turn else None


@functools.cache
def _claim(folder: Path, file: str) -> bool:
    """Whether the file is ours: of those who make one folder one succeeds."""
    try:
        (folder / f"{_CLAIMED}{file}").mkdir()
    except FileExistsError:
        return False
    return True


def _tell(kind: str, *tests: str) -> None:
    if turn := _find_turn():
        with turn.with_name(f"{kind}{turn.name}").open("a") as file:
            file.writelines(f"{test}\n" for test in tests)


def _read(folder: Path, kind: str) -> Iterator[str]:
    for file in folder.glob(f"{kind}*"):
        yield from file.read_text().splitlines()
