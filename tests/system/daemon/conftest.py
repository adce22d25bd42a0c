"""Daemons for the tests on the real thing; each has a root of its own, and libvirtd is shared by the session."""

from collections.abc import Iterator

import pytest

from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import Pool, Vdsmd

QUICK = {"vars": {"vm_sample_interval": "0.5", "host_sample_stats_interval": "1"}}


@pytest.fixture
def vdsmd(libvirtd: PrivateLibvirtd) -> Iterator[Vdsmd]:
    """A daemon for one test, which may kill it; VMs end with the test."""
    with Vdsmd(libvirtd.uri, QUICK) as daemon:
        yield daemon


@pytest.fixture
def pool(vdsmd: Vdsmd) -> Pool:
    """A pool on that daemon."""
    return Pool.create(vdsmd)
