"""What tests of two hosts on one domain share."""

from collections.abc import Callable, Iterator

import pytest

import lab.gluster
import lab.sanlock
from lab.hosts import Hosts
from lab.shared_pool import LOOK_EVERY_S, SharedPool, on_gluster
from lab.vdsmd import Settings


@pytest.fixture
def look_every_s() -> float:
    """So often an SPM looks at its lease; a test may want another pace."""
    return LOOK_EVERY_S


@pytest.fixture
def settings() -> Settings:
    """What both daemons are told beside the usual; a test may have its own."""
    return {}


@pytest.fixture
def pools(
    hosts: Callable[[int], Hosts], look_every_s: float, settings: Settings
) -> Iterator[tuple[SharedPool, SharedPool]]:
    """A pool on a new domain of a Gluster volume; both hosts have connected it, none is the SPM."""
    if missing := lab.sanlock.why_not() or lab.gluster.why_not():
        pytest.skip(missing)
    with on_gluster(hosts(2), {"spm": {"watchdog_interval": look_every_s}, **settings}) as (first, second):
        yield first, second
