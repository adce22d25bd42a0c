"""A real guest whose agent freezes its file systems: on request, and for snapshots of its disk."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import debian
from lab.commands import PartFailed, run
from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import Pool, Vdsmd, Volume, make_id, poll
from vdsm.wire.client import CallFailed

BOOT_LIMIT_S = 240.0
SIZE_BYTES = 1 << 30
VM = "http://ovirt.org/vm/1.0"
pytestmark = [
    pytest.mark.skipif(debian.why_not() is not None, reason=str(debian.why_not())),
    pytest.mark.timeout(900),  # the first run on a machine makes the guest
]


class Frozen:
    """A VM of the daemon with Debian on a volume."""

    def __init__(self, vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd) -> None:
        self.vdsmd, self.pool, self.libvirtd, self.vm_id = vdsmd, pool, libvirtd, make_id()
        self.base = pool.create_volume(size_bytes=SIZE_BYTES)
        self.top = pool.create_volume(
            Volume(image_id=self.base.image_id, parent_id=self.base.volume_id), size_bytes=SIZE_BYTES
        )
        guest, path = debian.get_guest(), pool.get_mounted_path(self.base)
        overlay = vdsmd.root / "overlay"
        guest.create_overlay(overlay)
        run("qemu-img", "convert", "-n", "-O", "qcow2", overlay, path, timeout_s=300.0)
        ids = {"poolID": pool.pool_id, "domainID": pool.domain_id}
        ids |= {"imageID": self.base.image_id, "volumeID": self.base.volume_id}
        told = "".join(f"<v:{name}>{value}</v:{name}>" for name, value in ids.items())
        device = f"<v:device devtype='disk' name='vda'>{told}</v:device>"
        xml = guest.make_domain("debian", path, vdsmd.root / "console")
        known = f"<uuid>{self.vm_id}</uuid><metadata><v:vm xmlns:v='{VM}'>{device}</v:vm></metadata>"
        xml = xml.replace("</name>", f"</name>{known}", 1)
        vdsmd.call("VM.create", vmID=self.vm_id, vmParams={"xml": xml})
        vdsmd.wait_status(self.vm_id, "Up", "Powering up")

    def call(self, verb: str) -> int:
        """The code of what was answered."""
        try:
            self.vdsmd.call(verb, vmID=self.vm_id)
        except CallFailed as refused:
            return refused.code
        return 0

    def get_status(self) -> str:
        """What the agent says of the file systems."""
        command = json.dumps({"execute": "guest-fsfreeze-status"})
        told = self.libvirtd.run("virsh", "-q", "qemu-agent-command", self.vm_id, command)
        return str(json.loads(told)["return"])


@pytest.fixture
def frozen(vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd) -> Iterator[Frozen]:
    yield Frozen(vdsmd, pool, libvirtd)


def test_a_guest_freezes_and_thaws(frozen: Frozen) -> None:
    vdsmd, pool = frozen.vdsmd, frozen.pool
    assert frozen.call("VM.thaw") == 19
    console = vdsmd.root / "console"
    try:
        poll(lambda: frozen.call("VM.freeze") == 0, "the agent freezes", BOOT_LIMIT_S)
    except PartFailed as error:
        raise AssertionError(console.read_text(errors="replace")[-3000:]) from error
    assert frozen.get_status() == "frozen"
    assert frozen.call("VM.thaw") == 0 and frozen.get_status() == "thawed"

    ids = {"domainID": pool.domain_id, "imageID": frozen.base.image_id}
    drive = {**ids, "baseVolumeID": frozen.base.volume_id, "volumeID": frozen.top.volume_id}
    vdsmd.call("VM.snapshot", vmID=frozen.vm_id, snapDrives=[drive], jobUUID=(job_id := make_id()))
    poll(lambda: vdsmd.call("Host.getJobs", job_ids=[job_id])[job_id]["status"] == "done", "the snapshot is taken")
    assert frozen.get_status() == "thawed" and "could not" not in vdsmd.log.read_text()
    # What was written through before is whole: the file system below needs no replay of its journal.
    raw = Path(vdsmd.root, "raw")
    run("qemu-img", "convert", "-U", "-O", "raw", pool.get_mounted_path(frozen.base), raw, timeout_s=300.0)
    superblock = raw.read_bytes()[1024:2048]
    assert superblock[0x38:0x3A] == b"\x53\xef" and not int.from_bytes(superblock[0x60:0x64], "little") & 4
