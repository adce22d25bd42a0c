"""Disks of running VMs of the real thing become larger, for the guest and in every record."""

import json
from pathlib import Path

import pytest

from lab import guests
from lab.commands import run
from tests.system.chains import Guest, running
from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import Pool, Vdsmd, make_id, poll
from vdsm.core.ids import BLANK_UUID
from vdsm.wire.client import CallFailed

pytestmark = pytest.mark.skipif(guests.why_not() is not None, reason=str(guests.why_not()))
MIB = 1 << 20


def look(guest: Guest, target: str) -> tuple[int, int, int]:
    """The disk's size as the guest, the file and the record have it."""
    volume = guest.disks[target][-1]
    block = guest.libvirtd.run("virsh", "-q", "domblkinfo", guest.vm_id, target)
    seen = next(line.split()[-1] for line in block.splitlines() if line.startswith("Capacity"))
    file = run("qemu-img", "info", "-U", "--output", "json", guest.pool.get_mounted_path(volume))
    return int(seen), json.loads(file)["virtual-size"], int(guest.pool.get_info(volume)["capacity"])


def extend(guest: Guest, target: str, size_bytes: int | str) -> object:
    return guest.vdsmd.call(
        "VM.diskSizeExtend", vmID=guest.vm_id, driveSpecs=guest.drive(target), newSize=str(size_bytes)
    )


def test_disks_become_larger(vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd) -> None:
    with running(vdsmd, pool, libvirtd) as guest:
        assert extend(guest, "vda", 6 * MIB) == str(6 * MIB)
        assert look(guest, "vda") == (6 * MIB,) * 3
        for bad in (6 * MIB - 1, 0, -1, "many", "", 1 << 70):
            with pytest.raises(CallFailed) as refused:
                extend(guest, "vda", bad)
            assert refused.value.code == 58, bad
        with pytest.raises(CallFailed) as refused:
            extend(guest, "vda", 1 << 61)
        assert refused.value.code == 56 and look(guest, "vda") == (6 * MIB,) * 3
        top = guest.add_top("vda", size_bytes=6 * MIB)
        vdsmd.call("VM.snapshot", vmID=guest.vm_id, snapDrives=[guest.wish("vda", top)], jobUUID=(job_id := make_id()))
        assert guest.wait_job(job_id)["status"] == "done"
        with pytest.raises(CallFailed) as refused:
            extend(guest, "vda", 8 * MIB)  # that volume is not the active one any more
        assert refused.value.code == 13
        guest.disks["vda"].append(top)
        assert extend(guest, "vda", 8 * MIB) == str(8 * MIB)
        assert look(guest, "vda") == (8 * MIB,) * 3 and guest.find_disagreement() == ""
        size = vdsmd.call("VM.refresh_disk", vmID=guest.vm_id, drive=guest.drive("vda"))
        status = Path(pool.get_mounted_path(top)).stat()
        assert size == {"apparentsize": str(status.st_size), "truesize": str(status.st_blocks * 512)}
        vdsmd.restart()
        assert look(guest, "vda") == (8 * MIB,) * 3
        guest.end()


def test_a_raw_disk_follows_its_volume(vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd) -> None:
    with running(vdsmd, pool, libvirtd, disks=1, format="RAW") as guest:
        [volume] = guest.disks["vda"]
        with pytest.raises(CallFailed) as refused:
            extend(guest, "vda", 6 * MIB)
        assert refused.value.code == 56
        task_id = vdsmd.call("Volume.extendSize", **pool.place(volume), newSize=str(6 * MIB))
        assert vdsmd.wait_task(task_id)["code"] == 0
        assert extend(guest, "vda", 6 * MIB) == str(6 * MIB)
        assert look(guest, "vda") == (6 * MIB,) * 3
        guest.end()


def test_a_daemon_that_is_killed_while_a_record_tells_no_size(
    vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd
) -> None:
    """The next one prepares the image again, and the record tells what the file has."""
    with running(vdsmd, pool, libvirtd, disks=1) as guest:
        [volume] = guest.disks["vda"]
        vdsmd.kill()
        record = pool.get_data_path(volume).with_suffix(".meta")
        lines = ["CAP=0" if line.startswith("CAP=") else line for line in record.read_text().split("\n")]
        record.write_text("\n".join(lines))
        vdsmd.start()
        poll(lambda: look(guest, "vda") == (4 * MIB,) * 3, "the record is put right")
        guest.end()


def test_a_volume_that_no_vm_uses(vdsmd: Vdsmd, pool: Pool) -> None:
    volume = pool.create_volume()
    ids = {"poolID": pool.pool_id, "domainID": pool.domain_id, "device": "disk"}
    disk = {**ids, "imageID": volume.image_id, "volumeID": volume.volume_id}
    given = {"vmID": BLANK_UUID, "driveSpecs": disk}
    assert vdsmd.call("VM.diskSizeExtend", **given, newSize=str(2 * MIB)) == str(2 * MIB)
    assert pool.get_info(volume)["capacity"] == str(2 * MIB)
    with pytest.raises(CallFailed) as refused:
        vdsmd.call("VM.diskSizeExtend", **given, newSize=str(MIB))
    assert refused.value.code == 58
