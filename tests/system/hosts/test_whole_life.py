"""A Debian guest goes through all that a node does with a VM: once with BIOS, once with UEFI, secure boot and TPM."""

import shutil
import time

import pytest

from lab import debian
from lab.commands import run, wait_for
from lab.pictures import Picture
from lab.shared_pool import SharedPool, trust
from tests.rounds import SOAK_FACTOR
from tests.system.hosts.moving import settings
from tests.system.hosts.travelling import BRIDGE, CODE, PATIENCE_S, VM, Traveller
from tests.system.vdsmd import Volume, make_id

__all__ = ["settings"]  # a fixture: pytest finds it here
HAS_UEFI = CODE.exists() and all(map(shutil.which, ("swtpm", "swtpm_setup")))
UEFI = [
    pytest.mark.skipif(not HAS_UEFI, reason="not installed: ovmf, swtpm or swtpm-tools"),
    pytest.mark.skipif(not SOAK_FACTOR, reason="takes minutes: only in soak"),
]
pytestmark = [
    pytest.mark.skipif(debian.why_not() is not None, reason=str(debian.why_not())),
    pytest.mark.timeout(1500),
]
SLEEP_S = 10.0
MAC = "02:00:00:00:00:17"
LONG = {
    "maxBandwidth": 16,
    "convergenceSchedule": {
        "init": [{"name": "setDowntime", "params": ["10"]}],
        "stalling": [{"limit": 2, "action": {"name": "setDowntime", "params": ["3000"]}}],
    },
}
"""Its memory goes on its way round after round, until the guest may stand still for as long as the rest takes."""


def plug(guest: Traveller, verb: str, device: str, metadata: str = "") -> object:
    """Plug or unplug a device, by its document."""
    known = f"<metadata><v:vm xmlns:v='{VM}'>{metadata}</v:vm></metadata>"
    document = {"vmId": guest.vm_id, "xml": f"<hotplug><devices>{device}</devices>{known}</hotplug>"}
    return guest.here.vdsmd.call(verb, vmID=guest.vm_id, params=document)


def see_inside(guest: Traveller, path: str, *, there: bool = True) -> None:
    """Wait until the guest has, or has no longer, what is at a path that may hold patterns."""
    script = f"import glob; print(len(glob.glob({path!r})))"
    wait_for(lambda: (guest.run_inside(script) != "0") is there, f"the guest sees {path}: {there}", PATIENCE_S, 0.5)


def describe_disk(guest: Traveller, volume: Volume) -> tuple[str, str]:
    ids = {**guest.ids, "imageID": volume.image_id, "volumeID": volume.volume_id}
    told = "".join(f"<v:{name}>{value}</v:{name}>" for name, value in ids.items())
    disk = "<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='/x'/>"
    disk += "<target dev='vdc' bus='virtio'/><serial>plugged</serial></disk>"
    return disk, f"<v:device devtype='disk' name='vdc'>{told}</v:device>"


CARD = (
    f"""<interface type='bridge'><source bridge='{BRIDGE}'/><mac address='{MAC}'/><model type='virtio'/></interface>"""
)


@pytest.mark.parametrize("firmware", ["bios", pytest.param("uefi", marks=UEFI)])
def test_a_whole_life(pools: tuple[SharedPool, SharedPool], firmware: str) -> None:
    trust(pools)
    spm = pools[0]
    assert spm.try_spm() == 0
    guest = Traveller.begin(*pools, secure=firmware == "uefi")
    boot(guest)
    extra = plug_all(guest)
    snapshot_and_merge(guest, spm)
    change_discs(guest, spm)
    look_at_picture(guest)
    secrets = guest.read_secrets()
    for way in ({}, {"autoConverge": True, "encrypted": True}):
        guest.migrate_and_arrive(**LONG, **way)
        assert guest.read_secrets() == secrets, "firmware and TPM keep what they kept"
        assert guest.count_devices("interface") == 1
    assert guest.here is spm
    unplug_all(guest, extra)
    sleep_and_wake(guest, spm)
    assert guest.read_secrets() == secrets
    guest.check_chain()
    shut_down(guest)


def boot(guest: Traveller) -> None:
    stats = guest.wait_booted()
    assert stats["guestOsInfo"]["distribution"] == "Debian GNU/Linux"
    assert [card["inet"] for card in stats["netIfaces"] if card["name"] == "lo"] == [["127.0.0.1"]]
    guest.begin_load()
    guest.check_chain()
    guest.write_secrets()
    if guest.secure:
        found = guest.read_secrets()
        assert found["secure boot"][-2:] == "01", "the firmware says that it boots securely"
        assert found["mark"].endswith(b"kept".hex())
        assert set(found["firmware"]) != {"0"} and set(found["register"]) != {"0"}


def plug_all(guest: Traveller) -> tuple[str, str]:
    """Each kind of device that this machine can have; the disk."""
    call = guest.here.vdsmd.call
    extra = describe_disk(guest, guest.here.create_volume(size_bytes=16 << 20))
    plug(guest, "VM.hotplugDisk", *extra)
    see_inside(guest, "/dev/disk/by-id/virtio-plugged")
    plug(guest, "VM.hotplugNic", CARD)
    see_inside(guest, "/sys/class/net/e*")
    memory = {"vmId": guest.vm_id, "memory": {"size": 128, "node": 0}}
    call("VM.hotplugMemory", vmID=guest.vm_id, params=memory)
    see_inside(guest, "/sys/devices/system/memory/memory32")
    # Nothing is written there, so nothing gets lost in a migration (`travelling` tells why it would).
    assert guest.read_inside("/sys/devices/system/memory/memory32/state") == "offline"
    # Firmware with SMM sends a new processor SMI, INIT and SIPI, and waits in SMM until it has come there. qemu's
    # emulation drops an SMI that waits when INIT comes: the firmware waits for ever, and the guest with it.
    if not guest.secure:
        call("VM.setNumberOfCpus", vmID=guest.vm_id, numberOfCpus=2)
        see_inside(guest, "/sys/devices/system/cpu/cpu1")
        guest.run_inside("open('/sys/devices/system/cpu/cpu1/online', 'w').write('1')")
    lease = {"type": "lease", "sd_id": guest.here.domain_id, "lease_id": make_id()}
    name = {"sd_id": lease["sd_id"], "lease_id": lease["lease_id"]}
    assert guest.here.vdsmd.wait_task(call("Lease.create", lease=name))["code"] == 0
    call("VM.hotplugLease", vmID=guest.vm_id, lease=lease)
    assert guest.count_devices("lease") == 1
    call("VM.hotunplugLease", vmID=guest.vm_id, lease=lease)
    assert guest.count_devices("lease") == 0
    # This machine has no devices to give away: libvirt takes the XML and finds none.
    for device in (
        "<hostdev mode='subsystem' type='pci'><source><address domain='0x7fff' bus='0xfe' slot='0x1f' function='0x7'/>"
        "</source></hostdev>",
        "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source>"
        f"<address uuid='{make_id()}'/></source></hostdev>",
    ):
        document = f"<hotplug><devices>{device}</devices></hotplug>"
        assert call("VM.hotplugHostdev", vmID=guest.vm_id, devices=[document]) == []
    assert guest.count_devices("hostdev") == 0
    guest.check()
    return extra


def unplug_all(guest: Traveller, extra: tuple[str, str]) -> None:
    plug(guest, "VM.hotunplugDisk", *extra)
    see_inside(guest, "/dev/disk/by-id/virtio-plugged", there=False)
    plug(guest, "VM.hotunplugNic", CARD)
    see_inside(guest, "/sys/class/net/e*", there=False)
    guest.check()


def snapshot_and_merge(guest: Traveller, spm: SharedPool) -> None:
    base = guest.chain[-1]
    top = spm.create_volume(Volume(image_id=base.image_id, parent_id=base.volume_id), 1 << 30)
    wish = {
        "domainID": spm.domain_id,
        "imageID": top.image_id,
        "baseVolumeID": base.volume_id,
        "volumeID": top.volume_id,
    }
    call, job_id = guest.here.vdsmd.call, make_id()
    call("VM.snapshot", vmID=guest.vm_id, snapDrives=[wish], snapMemory=guest.make_handle(spm), jobUUID=job_id)

    def look() -> str:
        status = str(call("Host.getJobs", job_ids=[job_id])[job_id]["status"])
        return status if status not in ("running", "pending") else ""

    assert wait_for(look, "the snapshot ends", PATIENCE_S, 0.2) == "done"
    guest.chain.append(top)
    guest.check_chain()
    guest.check()
    drive = {**guest.ids, "device": "disk"}
    merge = {"baseVolUUID": base.volume_id, "topVolUUID": top.volume_id, "jobUUID": make_id()}
    call("VM.merge", vmID=guest.vm_id, drive=drive, **merge)
    wait_for(lambda: not guest.here.vdsmd.get_stats(guest.vm_id)["vmJobs"], "the merge ends", PATIENCE_S, 0.2)
    assert guest.chain.pop() == top
    assert spm.vdsmd.wait_task(spm.begin_delete(top))["code"] == 0
    guest.check_chain()
    guest.check()


def change_discs(guest: Traveller, spm: SharedPool) -> None:
    """Put a disc in that the guest reads, and take it out."""
    disc = spm.create_volume(Volume(format="RAW"))
    spm.write(disc, "write -P 0x5a 0 1M")
    place = {**guest.ids, "imageID": disc.image_id, "volumeID": disc.volume_id}
    drive = {"iface": "scsi", "index": 0}
    guest.here.vdsmd.call(
        "VM.changeCD", vmID=guest.vm_id, driveSpec={**drive, "drive_spec": {"device": "cdrom", **place}}
    )
    see_inside(guest, "/dev/sr0")
    script = "print(sum(open('/dev/sr0', 'rb').read()))"
    assert guest.run_inside(script) == str(0x5A << 20)
    guest.here.vdsmd.call("VM.changeCD", vmID=guest.vm_id, driveSpec=drive)
    guest.check()


def look_at_picture(guest: Traveller) -> None:
    before = guest.take_picture()  # black but for a cursor that blinks
    assert before.width >= 640 and before.height >= 400 and not has_red(before)
    guest.run_inside("open('/dev/tty1', 'w').write('\\033[2J\\033[H\\033[1;37;41m the whole life of a VM \\n' * 5)")
    wait_for(lambda: has_red(guest.take_picture()), "the picture shows what the guest writes", PATIENCE_S, 1)


def has_red(picture: Picture) -> bool:
    return any(red > 0x80 > 2 * max(green, blue) for red, green, blue in picture.list_colours())


def sleep_and_wake(guest: Traveller, spm: SharedPool) -> None:
    kept, handle = guest.save_kept(), guest.make_handle(spm)
    guest.here.vdsmd.call("VM.hibernate", vmID=guest.vm_id, hibernationVolHandle=handle)
    stats = guest.wait_down()
    assert (stats["exitCode"], stats["exitReason"]) == (0, 5), stats
    guest.here.vdsmd.call("VM.destroy", vmID=guest.vm_id)
    time.sleep(SLEEP_S)
    guest.launch(hiberVolHandle=handle, **kept)
    guest.here.vdsmd.wait_status(guest.vm_id, "Up")
    wait_for(lambda: find_lag_s(guest) < SLEEP_S / 2, "its clock is set", PATIENCE_S, 1)
    guest.check()


def find_lag_s(guest: Traveller) -> float:
    """How far the guest's clock is behind the host's, as soon as it is told."""
    return time.time() - float(guest.run_inside("import time; print(time.time())"))


def shut_down(guest: Traveller) -> None:
    guest.end_load()
    guest.here.vdsmd.call("VM.shutdown", vmID=guest.vm_id, delay=0, message="", timeout=200)
    stats = guest.wait_down()
    assert (stats["exitCode"], stats["exitReason"]) == (0, 6)
    assert "cannot be shut down" not in guest.here.vdsmd.read_log()
    guest.here.vdsmd.call("VM.destroy", vmID=guest.vm_id)
    assert guest.list_kept() == []
    raw = guest.shared / "raw"
    source = guest.here.get_mounted_path(guest.chain[-1])
    guest.here.host.run("qemu-img", "convert", "-O", "raw", source, raw, timeout_s=300.0)
    run("e2fsck", "-f", "-n", raw, timeout_s=300.0)  # fails when anything is wrong
