"""What all tests share: unit tests that touch the machine fail loudly, and one switch between quick and full counts."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.rounds import SOAK_FACTOR, pytest_itemcollected, rounds

__all__ = ["pytest_itemcollected", "rounds"]  # a hook and a fixture: pytest finds them here

UNIT_TESTS = Path(__file__).parent / "unit"
FORBIDDEN_EVENTS = {
    **dict.fromkeys(("subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec"), "starts a process"),
    "os.system": "starts a shell",
    **dict.fromkeys(("socket.connect", "socket.bind", "socket.sendto"), "uses the network"),
    **dict.fromkeys(("socket.getaddrinfo", "socket.gethostbyname"), "asks for an address"),
}

# The same examples every time in quick runs, so that a change is blamed for what it broke; others in soak.
_patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", _patient, max_examples=50, derandomize=True)
settings.register_profile("soak", _patient, max_examples=max(50, round(5000 * SOAK_FACTOR)))
settings.load_profile("soak" if SOAK_FACTOR else "ci")


_offences: list[str] | None = None  # while a unit test runs: what it did and may not


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if _offences is None or event not in FORBIDDEN_EVENTS:
        return
    if event.startswith("socket.") and isinstance(arguments[-1], (str, bytes)) and arguments[-1]:
        return  # a unix socket: a file of this test
    offence = f"{event}{arguments!r}"[:300]
    _offences.append(offence)
    raise RuntimeError(f"a unit test {FORBIDDEN_EVENTS[event]}: {offence}; pass a fake, or move it to tests/contract")


sys.addaudithook(_watch)


@pytest.fixture(autouse=True)
def _unit_tests_leave_the_machine_alone(request: pytest.FixtureRequest) -> Iterator[None]:
    """Refuses processes and the network in tests/unit, also when the code under test hides the refusal."""
    global _offences
    if not request.path.is_relative_to(UNIT_TESTS):
        yield
        return
    _offences = []
    try:
        yield
        offences = _offences
    finally:
        _offences = None
    assert not offences, f"a unit test touched the machine: {offences}"
