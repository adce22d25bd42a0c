"""What tests of two hosts on one domain share."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

import lab.gluster
import lab.sanlock
from lab.gluster import GlusterVolume
from lab.hosts import Hosts
from lab.sanlock import Sanlock
from lab.vdsmd import HostVdsmd, Settings
from tests.shared_pool import LOOK_EVERY_S, SETTINGS, Served, SharedPool


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
    pair = hosts(2)
    brick = pair.base / "gluster/brick"
    with ExitStack() as stack:
        volume = stack.enter_context(GlusterVolume(pair.switch, pair.switch.address, brick.parent))
        brick.chmod(0o755)
        pair.switch.run("chown", "36:36", brick)
        source = f"{pair.switch.address}:/{volume.name}"
        mounted = pair.base / "root/rhev/data-center/mnt/glusterSD" / source.replace("/", "_")
        served = Served("GLUSTERFS", source, mounted, brick, {"vfs_type": "glusterfs"})
        daemons = [
            HostVdsmd(pair, host, {**SETTINGS, "spm": {"watchdog_interval": look_every_s}, **settings}) for host in pair
        ]
        sanlocks = [Sanlock(host.namespaces) for host in pair]
        for daemon, sanlock in zip(daemons, sanlocks, strict=True):
            sanlock.start()
            stack.push(daemon)
            daemon.start(wait=False)
        first, second = SharedPool.describe(served, daemons, sanlocks)
        for pool in (first, second):
            pool.vdsmd.wait_listening()
            pool.vdsmd.wait_ready()
            pool.connect_server()
        first.make()
        for pool in (first, second):
            pool.connect()
        yield first, second
