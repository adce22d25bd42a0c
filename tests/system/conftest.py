"""What tests on the real thing share: a libvirtd of our own for the session, and hosts for a test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

import lab.hosts
import lab.libvirtd
from lab.hosts import Hosts
from tests.system.private_libvirtd import GROUPS, LimitingLibvirtd, PrivateLibvirtd


@pytest.fixture(scope="session")
def _libvirtd_of_session() -> Iterator[PrivateLibvirtd]:
    reason = lab.libvirtd.why_not()
    if reason is not None:
        pytest.skip(reason)
    with PrivateLibvirtd() as libvirtd:
        yield libvirtd


@pytest.fixture
def libvirtd(_libvirtd_of_session: PrivateLibvirtd) -> Iterator[PrivateLibvirtd]:
    """A running libvirtd without domains. Tests may stop, kill or freeze it and its qemus: the next finds it whole."""
    _libvirtd_of_session.start()
    yield _libvirtd_of_session
    if _libvirtd_of_session.pid is not None:
        _libvirtd_of_session.thaw()
    _libvirtd_of_session.start()
    _libvirtd_of_session.kill_guests()


@pytest.fixture(scope="session")
def limiting_libvirtd() -> Iterator[LimitingLibvirtd]:
    """A libvirtd that can limit processors; tests leave no domains."""
    reason = lab.libvirtd.why_not() or (None if GROUPS.is_dir() else "no control groups of version 1")
    if reason is not None:
        pytest.skip(reason)
    with LimitingLibvirtd() as libvirtd:
        yield libvirtd


@pytest.fixture
def hosts() -> Iterator[Callable[[int], Hosts]]:
    """`hosts(2)`: so many hosts, joined by a network, until the end of the test."""
    reason = lab.hosts.why_not()
    if reason is not None:
        pytest.skip(reason)
    with ExitStack() as stack:
        yield lambda count: stack.enter_context(Hosts(count))
