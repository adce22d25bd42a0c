"""A real Gluster mount that says that it zeroed and did not is refused, and used where that is accepted."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import lab.gluster
import lab.sanlock
from lab.gluster import GlusterVolume
from lab.hosts import Hosts
from lab.sanlock import Sanlock
from lab.shared_pool import SETTINGS, Served, SharedPool
from lab.vdsmd import CallFailed, HostVdsmd, make_id

_missing = lab.sanlock.why_not() or lab.gluster.why_not()
pytestmark = pytest.mark.skipif(_missing is not None, reason=str(_missing))

REFUSED = 399
BLANK = {**SETTINGS, "storage": {}}
WARNING = "Accepted: Storage domain target is unsupported"


@pytest.fixture
def pool(hosts: Callable[[int], Hosts]) -> Iterator[SharedPool]:
    """A Gluster volume, and a daemon that was not told to accept false zeroes; nothing is connected."""
    place = hosts(1)
    [host] = place
    with ExitStack() as stack:
        volume = stack.enter_context(GlusterVolume(place.switch, place.switch.address, place.base / "gluster"))
        brick = place.base / "gluster/brick"
        place.switch.run("chown", "36:36", brick)
        sanlock = stack.enter_context(Sanlock(host.namespaces))
        daemon = stack.enter_context(HostVdsmd(place, host, BLANK))
        source = f"{place.switch.address}:/{volume.name}"
        mounted = place.base / "root/rhev/data-center/mnt/glusterSD" / source.replace("/", "_")
        [pool] = SharedPool.describe(
            Served("GLUSTERFS", source, mounted, brick, {"vfs_type": "glusterfs"}), [daemon], [sanlock]
        )
        yield pool


def connect(pool: SharedPool, kind: str) -> int:
    place = {"id": make_id(), "connection": pool.served.source, **pool.served.options}
    ids = {"storagepoolID": pool.pool_id, "domainType": kind}
    [answer] = pool.vdsmd.call("StoragePool.connectStorageServer", **ids, connectionParams=[place])
    return int(answer["status"])


def mount(pool: SharedPool, folder: Path) -> None:
    pool.host.run("mkdir", "-p", folder)
    pool.host.run("mount", "-t", "glusterfs", pool.served.source, folder)


def has_false_zeroes(pool: SharedPool) -> bool:
    """As qemu sees it, on a mount of our own."""
    folder = pool.host.root / "tried"
    mount(pool, folder)
    file = folder / "file"
    write = ("-c", "write -P 85 0 64k", "-c", "write -z 0 64k")
    pool.host.run("qemu-img", "create", "-q", "-f", "raw", file, "64k")
    pool.host.run("qemu-io", "-t", "none", "-f", "raw", *write, file)
    said = pool.host.run("bash", "-c", f"qemu-io -t none -f raw -c 'read -P 0 0 64k' {file}; true")
    pool.host.run("rm", file)
    pool.host.run("umount", folder)
    return "verification failed" in said


def test_false_zeroes_are_refused_unless_they_are_accepted(pool: SharedPool) -> None:
    if not has_false_zeroes(pool):
        assert connect(pool, "GLUSTERFS") == 0
        pytest.skip("this machine's mount zeroes, or refuses to")
    for kind in ("GLUSTERFS", "POSIXFS"):
        assert connect(pool, kind) == REFUSED
    assert "accept_false_zeroes" in pool.vdsmd.read_log()
    assert "glusterSD" not in pool.host.run("cat", "/proc/self/mounts")
    mount(pool, pool.served.mounted)
    with pytest.raises(CallFailed, match="accept_false_zeroes") as caught:
        pool.make()
    assert caught.value.code == REFUSED
    assert connect(pool, "GLUSTERFS") == REFUSED
    assert "glusterSD" in pool.host.run("cat", "/proc/self/mounts"), "somebody may use it"
    visible = [path.name for path in pool.served.folder.iterdir()]
    assert visible == [".glusterfs"], "nothing is left there"

    pool.daemon.configure({"libvirt": {"uri": "qemu:///system"}}, SETTINGS)
    pool.vdsmd.restart()
    for count in (1, 2):
        assert connect(pool, "GLUSTERFS") == 0
        assert pool.vdsmd.read_log().count(WARNING) == count
    pool.make()
    pool.connect()
    pool.start_spm()
    pool.create_volume()
