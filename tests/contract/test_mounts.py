"""What storage relies on of mounts, tried on links in memory and, in a namespace of its own, on the kernel."""

import ctypes
import errno
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

import vdsm.adapters.mount
from lab.commands import run
from vdsm.adapters.gluster import parse_info
from vdsm.adapters.mount import KernelMounts, parse_mounts
from vdsm.storage.ports import GlusterInfo, Mounted, MountFailed, Mounts
from vdsm.testing.mounts import MountsInMemory

PRIVATE = "VDSM_TEST_MOUNTS"
FOLDER = "se:rver _a\\b"


@dataclass
class Place:
    mounts: Mounts
    source: str
    filesystem: str
    target: Path

    def mount(self, options: str = "") -> None:
        self.mounts.mount(self.source, self.target, filesystem=self.filesystem, options=options)


def make_memory(folder: Path) -> Place:
    server = folder / "server"
    server.mkdir()
    return Place(MountsInMemory({"server:/a": server}), "server:/a", "nfs", folder / FOLDER)


def make_kernel(folder: Path) -> Place:
    if PRIVATE not in os.environ:
        pytest.skip("only in a namespace of its own, below")
    return Place(KernelMounts(), "source of", "tmpfs", folder / FOLDER)


@pytest.fixture(params=[make_memory, make_kernel])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    make: Callable[[Path], Place] = request.param
    made = make(tmp_path)
    made.target.mkdir()
    return made


@pytest.mark.skipif(PRIVATE in os.environ, reason="we are in it")
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="mounting needs root")
def test_the_kernel_in_a_namespace_of_its_own() -> None:
    command = ["unshare", "--mount", "--propagation", "private", "env", f"{PRIVATE}=1", ".venv/bin/python"]
    said = run(*command, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__)
    assert "failed" not in said and "passed" in said


def test_what_is_mounted_is_listed_and_hides_the_folder(place: Place) -> None:
    (place.target / "below").touch() if place.filesystem == "tmpfs" else None
    assert place.target not in [one.target for one in place.mounts.list_mounted()]
    place.mount()
    [found] = [one for one in place.mounts.list_mounted() if one.target == place.target]
    assert found.source == place.source and place.filesystem in found.filesystem
    assert list(place.target.iterdir()) == []
    (place.target / "inside").touch()
    place.mounts.unmount(place.target)
    assert place.target not in [one.target for one in place.mounts.list_mounted()]
    assert not (place.target / "inside").exists()


def test_a_mount_is_seen_to_zero_on_a_file_that_is_gone_afterwards_also_after_a_kill(tmp_path: Path) -> None:
    made = make_memory(tmp_path)
    made.target.mkdir()
    made.mount()
    (tmp_path / f".zeroes-{os.uname().nodename}").write_text("left by one that was killed")
    for mounts, folder in ((made.mounts, made.target), (KernelMounts(), tmp_path)):
        before = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        assert not mounts.has_false_zeroes(folder)
        assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize(
    ("answer", "number", "is_false"), [(0, 0, True), (-1, errno.EOPNOTSUPP, False), (-1, errno.EIO, None)]
)
def test_a_file_system_whose_zeroes_are_false(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int, number: int, is_false: bool | None
) -> None:
    def fallocate(*_: object) -> int:
        ctypes.set_errno(number)
        return answer

    monkeypatch.setattr("vdsm.adapters.mount._libc", SimpleNamespace(fallocate=fallocate))
    with pytest.raises(OSError) if is_false is None else nullcontext():
        assert KernelMounts().has_false_zeroes(tmp_path) is is_false
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_mounted_or_is_not(place: Place) -> None:
    with pytest.raises(MountFailed) as raised:
        place.mounts.mount("nowhere:/x", place.target, filesystem="no-such-filesystem", options="")
    assert raised.value.number == 477
    with pytest.raises(MountFailed):
        place.mounts.mount(place.source, place.target / "missing", filesystem=place.filesystem, options="")
    with pytest.raises(MountFailed):
        place.mounts.unmount(place.target)
    assert list(place.target.iterdir()) == []


def test_one_in_use_goes_all_the_same(place: Place) -> None:
    place.mount()
    with (place.target / "used").open("w") as file:
        place.mounts.unmount(place.target)
        file.write("still")


@pytest.mark.skipif(PRIVATE not in os.environ, reason="only in a namespace of its own")
def test_nothing_there_is_run_or_gives_rights(tmp_path: Path) -> None:
    place = make_kernel(tmp_path)
    place.target.mkdir()
    place.mount("size=1m")
    [line] = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "source\\040of" in line]
    assert {"nosuid", "nodev", "noexec"} <= set(line.split()[5].split(","))
    assert "size=1024k" in line
    place.mounts.unmount(place.target)


@pytest.mark.skipif(PRIVATE not in os.environ, reason="only in a namespace of its own")
def test_a_mount_that_hangs_costs_its_caller_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = Path("/usr/sbin/mount.hangs")
    run("mount", "-t", "tmpfs", "hangs", tmp_path)
    (tmp_path / "mount.hangs").write_text("#!/bin/sh\nexec sleep 1000\n")
    (tmp_path / "mount.hangs").chmod(0o755)
    (tmp_path / "target").mkdir()
    run("mount", "-t", "overlay", "o", "-o", f"lowerdir={tmp_path}:/usr/sbin", helper.parent)
    monkeypatch.setattr(vdsm.adapters.mount, "MOUNT_TIMEOUT_S", 0.3)
    with pytest.raises(MountFailed, match="not done after"):
        KernelMounts().mount("a", tmp_path / "target", filesystem="hangs", options="")


def test_the_kernels_table() -> None:
    table = (
        b"server:/a\\040b /rhev/mnt/server:_a\\040b nfs4 rw,vers=4.2 0 0\n"
        b"gl1:/vol.rdma /rhev/mnt/glusterSD/gl1:_vol fuse.glusterfs rw 0 0\n"
        b"tmpfs /gone\\040(deleted) tmpfs rw 0 0\n"
        b"/dev/loop4095 /loop ext4 rw 0 0\n"
        b"\\303\\251:/x /\\134 nfs rw 0 0\n"
        b"nonsense\n"
    )
    assert parse_mounts(table) == [
        Mounted("server:/a b", Path("/rhev/mnt/server:_a b"), "nfs4"),
        Mounted("gl1:/vol.rdma", Path("/rhev/mnt/glusterSD/gl1:_vol"), "fuse.glusterfs"),
        Mounted("tmpfs", Path("/gone"), "tmpfs"),
        Mounted("/dev/loop4095", Path("/loop"), "ext4"),
        Mounted("é:/x", Path("/\\"), "nfs"),
    ]


def test_what_gluster_tells() -> None:
    document = b"""<?xml version="1.0"?><cliOutput><opRet>0</opRet><volInfo><volumes><volume><name>vol</name>
<replicaCount>3</replicaCount><disperseCount>0</disperseCount><bricks><brick uuid="u">one:/b<name>one:/b</name></brick>
<brick uuid="v">two:/b<name>two:/b</name></brick><brick uuid="w">2001:db8::5:/b</brick></bricks></volume></volumes>
</volInfo></cliOutput>"""
    assert parse_info(document) == GlusterInfo(("one", "two", "2001:db8::5"), 3, is_dispersed=False)
    rdma = parse_info(document.replace(b"</name>", b"</name><transport>1</transport>", 1))
    assert rdma is not None and rdma.transport == "rdma"
    for nonsense in (b"", b"<a/>", b"no xml", b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'):
        assert parse_info(nonsense) is None
