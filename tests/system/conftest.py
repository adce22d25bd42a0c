"""What tests on the real thing share: a libvirtd of our own for the session."""

from collections.abc import Iterator

import pytest

from tests.system.private_libvirtd import PrivateLibvirtd, why_not


@pytest.fixture(scope="session")
def _libvirtd_of_session() -> Iterator[PrivateLibvirtd]:
    reason = why_not()
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
