"""Domains on a disk with sectors of 4096 bytes: found out, never assumed; leases, chains and copies there."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import lab.gluster
import lab.sanlock
from lab.gluster import GlusterVolume
from lab.hosts import Hosts
from lab.loop import loop_disk
from lab.namespaces import Namespaces
from lab.sanlock import Sanlock
from lab.shared_pool import SETTINGS, Served, SharedPool
from lab.vdsmd import SOURCES, HostVdsmd, make_id
from tests.system.vdsmd import FORMATS, CallFailed, Volume

MIB = 1 << 20
SECTOR_BYTES = 4096


def mount(device: Path, place: Namespaces, folder: Path) -> None:
    """Make an ext4 for disks on a device, and mount it on a folder of that place."""
    place.run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-E", "nodiscard,lazy_itable_init=1", "-m0", device)
    place.run("mkdir", "-p", folder)
    place.run("mount", device, folder)
    place.run("rmdir", folder / "lost+found")


def serve(stack: ExitStack, machines: Hosts, kind: str, device: Path) -> Served:
    [host] = machines
    if kind == "LOCALFS":
        folder = host.root / "large"
        mount(device, host.namespaces, folder)
        host.run("chown", "36:36", folder)
        return Served(kind, str(folder), folder, folder)
    brick = machines.base / "gluster/brick"
    mount(device, machines.switch, brick.parent)
    volume = stack.enter_context(GlusterVolume(machines.switch, machines.switch.address, brick.parent))
    machines.switch.run("chmod", "755", brick)
    machines.switch.run("chown", "36:36", brick)
    source = f"{machines.switch.address}:/{volume.name}"
    mounted = machines.base / "root/rhev/data-center/mnt/glusterSD" / source.replace("/", "_")
    return Served(kind, source, mounted, brick, {"vfs_type": "glusterfs"})


@pytest.fixture(params=["LOCALFS", "GLUSTERFS"])
def pool(hosts: Callable[[int], Hosts], request: pytest.FixtureRequest) -> Iterator[SharedPool]:
    """A pool on a server with such a disk, which is connected; its domain is not made yet."""
    if missing := lab.sanlock.why_not() or lab.gluster.why_not():
        pytest.skip(missing)
    machines = hosts(1)
    [host] = machines
    with ExitStack() as stack:
        device = stack.enter_context(loop_disk(2 << 30, SECTOR_BYTES)).path
        stack.callback(machines.close)  # before the device goes: servers there hold it
        served = serve(stack, machines, request.param, device)
        daemon, sanlock = HostVdsmd(machines, host, SETTINGS), Sanlock(host.namespaces)
        sanlock.start()
        stack.push(daemon)
        daemon.start()
        [pool] = SharedPool.describe(served, [daemon], [sanlock])
        pool.connect_server()
        yield pool


def read(pool: SharedPool, volume: Volume, *commands: str) -> None:
    """See that what these commands of qemu-io read is what they say."""
    words = [word for command in commands for word in ("-c", command)]
    path = pool.get_mounted_path(volume)
    said = pool.host.run("qemu-io", "-t", "none", "-r", "-f", FORMATS[volume.format], *words, path)
    assert "failed" not in said and said.count("read ") >= len(commands), said


def test_a_domain_with_large_sectors_lives_as_any_other(pool: SharedPool) -> None:
    is_shared = pool.served.kind == "GLUSTERFS"
    with pytest.raises(CallFailed) as caught:
        pool.make(blockSize=512)
    assert caught.value.code == 348
    pool.make(blockSize=0)
    info = pool.vdsmd.call("StorageDomain.getInfo", storagedomainID=pool.domain_id)
    assert (int(info["block_size"]), int(info["alignment"])) == (SECTOR_BYTES, MIB)
    pool.connect()
    pool.start_spm()
    base = pool.create_volume(Volume(format="RAW"), size_bytes=8 * MIB)
    pool.write(base, "write -P 65 0 1M", "write -P 66 4M 4k")
    top = pool.create_volume(Volume(image_id=base.image_id, parent_id=base.volume_id), size_bytes=8 * MIB)
    pool.write(top, "write -P 67 512 512", "write -P 68 7M 64k")
    patterns = (
        "read -P 65 0 512",
        "read -P 67 512 512",
        "read -P 65 1k 1023k",
        "read -P 66 4M 4k",
        "read -P 68 7M 64k",
    )
    for format in FORMATS:
        copy = pool.create_volume(Volume(format=format), size_bytes=8 * MIB)
        pool.copy_data(top, copy, 0)
        read(pool, copy, *patterns)
    if is_shared:
        name = {"sd_id": pool.domain_id, "lease_id": make_id()}
        assert pool.vdsmd.wait_task(pool.vdsmd.call("Lease.create", lease=name))["code"] == 0
        found = pool.vdsmd.call("Lease.info", lease=name)
        assert (found["sd_id"], found["offset"]) == (pool.domain_id, 3 * MIB)
        geometry = ("-Z", str(SECTOR_BYTES), "-A", "1M")
        path = str(pool.folder / pool.domain_id / "dom_md/leases").replace(":", "\\:")
        dumped = pool.host.run("sanlock", "direct", "dump", f"{path}:0:{2 * MIB}", *geometry)
        assert f"{MIB:08d} {pool.domain_id}" in dumped and "SDM" in dumped
    pool.vdsmd.kill()
    pool.come_back()
    pool.start_spm()
    step = pool.vdsmd.wait_task(pool.begin_merge_step("prepareMerge", top, base))
    assert step["code"] == 0, step
    pool.merge_data(top, base, int(pool.get_info(base)["generation"]))
    assert pool.vdsmd.wait_task(pool.begin_merge_step("finalizeMerge", top, base))["code"] == 0
    read(pool, base, *patterns)
    assert pool.vdsmd.wait_task(pool.begin_delete(top))["code"] == 0
    command = [sys.executable, "-m", "vdsm.cli.tool", "--root", str(pool.host.root), "check-domain", pool.domain_id]
    told = pool.host.run("bash", "-c", f"cd {SOURCES} && {shlex.join(command)} 2>&1; echo $?")
    assert told.split() == ["Nothing.", "0"], told


def test_other_shared_file_systems_take_small_sectors_only(hosts: Callable[[int], Hosts]) -> None:
    machines = hosts(1)
    [host] = machines
    with ExitStack() as stack:
        device = stack.enter_context(loop_disk(256 << 20, SECTOR_BYTES)).path
        stack.callback(machines.close)
        folder = host.root / "disk"
        mount(device, host.namespaces, folder)
        host.run("chown", "36:36", folder)
        host.run("umount", folder)
        daemon, sanlock = HostVdsmd(machines, host, SETTINGS), Sanlock(host.namespaces)
        sanlock.start()
        stack.push(daemon)
        daemon.start()
        mounted = host.root / "rhev/data-center/mnt" / str(device).replace("/", "_")
        served = Served("POSIXFS", str(device), mounted, mounted, {"vfs_type": "ext4"})
        [pool] = SharedPool.describe(served, [daemon], [sanlock])
        pool.connect_server()
        pool.connect_server()  # harmless, also where the source is a loop device: it is mounted once
        assert host.run("cat", "/proc/self/mounts").count(f"{device} ") == 1
        for size_bytes, code in ((512, 348), (SECTOR_BYTES, 1000), (0, 1000)):
            with pytest.raises(CallFailed) as caught:
                pool.make(blockSize=size_bytes)
            assert caught.value.code == code, size_bytes
        assert host.run("ls", "-A", mounted) == ""
