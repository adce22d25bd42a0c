"""Devices are plugged into running VMs of the real thing and unplugged; a daemon that is killed amid that undoes it."""

import random
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import Pool, Vdsmd, Volume, kill_during, poll
from vdsm.wire.client import CallFailed

VM = "http://ovirt.org/vm/1.0"
SCSI = {"type": "controller", "device": "scsi", "model": "virtio-scsi", "index": "0"}


def format_document(vm_id: str, device: str, metadata: str = "") -> dict[str, str]:
    known = f"<metadata><v:vm xmlns:v='{VM}'>{metadata}</v:vm></metadata>"
    return {"vmId": vm_id, "xml": f"<hotplug><devices>{device}</devices>{known}</hotplug>"}


def make_disk(pool: Pool, volume: Volume, vm_id: str) -> dict[str, str]:
    """A disk that lives on a SCSI bus: no guest has to let go of that."""
    ids = {"pool": pool.pool_id, "domain": pool.domain_id, "image": volume.image_id, "volume": volume.volume_id}
    told = "".join(f"<v:{name}ID>{value}</v:{name}ID>" for name, value in ids.items())
    device = "<disk type='file' device='disk' snapshot='no'><driver name='qemu' type='qcow2' cache='none'/>"
    device += "<source file='/guessed'/><target dev='sda' bus='scsi'/></disk>"
    return format_document(vm_id, device, f"<v:device devtype='disk' name='sda'>{told}</v:device>")


def find_sources(libvirtd: PrivateLibvirtd, vm_id: str) -> dict[str, str]:
    """The disks that libvirt knows, by target."""
    domain = ElementTree.fromstring(libvirtd.run("virsh", "-q", "dumpxml", vm_id))
    found = {}
    for disk in domain.iterfind("devices/disk"):
        target, source = disk.find("target"), disk.find("source")
        assert target is not None
        found[target.get("dev", "")] = "" if source is None else source.get("file", "")
    return found


def list_told(libvirtd: PrivateLibvirtd, vm_id: str) -> list[str]:
    """The disks that the VM's metadata tells of."""
    domain = ElementTree.fromstring(libvirtd.run("virsh", "-q", "dumpxml", vm_id))
    devices = domain.iterfind(f"metadata/{{{VM}}}vm/{{{VM}}}device[@devtype='disk']")
    return sorted(device.get("name", "") for device in devices)


def is_prepared(vdsmd: Vdsmd, pool: Pool, volume: Volume) -> bool:
    return any(Path(vdsmd.root, "run/vdsm/storage", pool.domain_id).glob(volume.image_id))


def test_a_disk_comes_and_goes(vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd) -> None:
    volume = pool.create_volume()
    vm_id = vdsmd.create_vm(devices=[SCSI])
    assert vdsmd.call("VM.hotplugDisk", vmID=vm_id, params=make_disk(pool, volume, vm_id)) == {}
    assert Path(find_sources(libvirtd, vm_id)["sda"]).resolve() == pool.get_data_path(volume)
    assert is_prepared(vdsmd, pool, volume)
    shown = poll(lambda: vdsmd.get_stats(vm_id).get("disks", {}).get("sda"), "its figures are told")
    assert shown["imageID"] == volume.image_id
    with pytest.raises(CallFailed) as refused:
        vdsmd.call("VM.hotplugDisk", vmID=vm_id, params=make_disk(pool, volume, vm_id))
    assert refused.value.code == 45
    vdsmd.restart()
    poll(lambda: is_prepared(vdsmd, pool, volume), "the image is prepared again")
    assert vdsmd.call("VM.hotunplugDisk", vmID=vm_id, params=make_disk(pool, volume, vm_id)) == {}
    assert "sda" not in find_sources(libvirtd, vm_id) and not is_prepared(vdsmd, pool, volume)
    assert list_told(libvirtd, vm_id) == []
    with pytest.raises(CallFailed) as refused:
        vdsmd.call("VM.hotunplugDisk", vmID=vm_id, params=make_disk(pool, volume, vm_id))
    assert refused.value.code == 46


def test_what_libvirt_refuses_leaves_nothing(vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd) -> None:
    volume, missing = pool.create_volume(), Volume()
    vm_id = vdsmd.create_vm(devices=[SCSI])
    bad = make_disk(pool, volume, vm_id)
    bad["xml"] = bad["xml"].replace("bus='scsi'", "bus='nonsense'")
    for document, number in ((bad, 45), (make_disk(pool, missing, vm_id), 100)):
        with pytest.raises(CallFailed) as refused:
            vdsmd.call("VM.hotplugDisk", vmID=vm_id, params=document)
        assert refused.value.code == number
    assert list_told(libvirtd, vm_id) == [] and not is_prepared(vdsmd, pool, volume)
    card = "<interface type='bridge'><source bridge='nowhere0'/><mac address='02:00:00:00:00:07'/></interface>"
    with pytest.raises(CallFailed) as refused:
        vdsmd.call("VM.hotplugNic", vmID=vm_id, params=format_document(vm_id, card))
    assert refused.value.code == 49


@pytest.mark.timeout(600)
def test_a_daemon_that_is_killed_amid_plugging(
    vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd, rounds: Callable[[int, int], int]
) -> None:
    volume = pool.create_volume()
    vm_id = vdsmd.create_vm(devices=[SCSI])
    document = make_disk(pool, volume, vm_id)

    def plug_and_unplug() -> None:
        while True:
            vdsmd.call("VM.hotplugDisk", vmID=vm_id, params=document)
            vdsmd.call("VM.hotunplugDisk", vmID=vm_id, params=document)

    for _ in range(rounds(5, 30)):
        kill_during(vdsmd, random.uniform(0, 0.5), plug_and_unplug)
        vdsmd.start()
        # What libvirt was asked for it does all the same, a moment later.
        poll(lambda: agree(vdsmd, pool, libvirtd, volume, vm_id), "disk, metadata and image agree")
        if "sda" in find_sources(libvirtd, vm_id):
            vdsmd.call("VM.hotunplugDisk", vmID=vm_id, params=document)
        assert agree(vdsmd, pool, libvirtd, volume, vm_id)


def agree(vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd, volume: Volume, vm_id: str) -> bool:
    is_there = "sda" in find_sources(libvirtd, vm_id)
    return (list_told(libvirtd, vm_id) == ["sda"]) == is_prepared(vdsmd, pool, volume) == is_there
