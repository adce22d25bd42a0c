"""Devices of real VMs are changed where they are; a daemon that is killed while a disc is changed leaves all agreed."""

import random
from collections.abc import Callable
from itertools import cycle

import pytest

from tests.system.daemon.test_devices import find_sources, format_document, is_prepared, list_told
from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import CallFailed, Pool, Vdsmd, Volume, kill_during, poll

CD = {"type": "disk", "device": "cdrom", "iface": "ide", "index": 2, "path": ""}
CARD = {"type": "interface", "device": "bridge", "macAddr": "02:00:00:00:00:09", "nicModel": "virtio", "network": ""}


def make_change(pool: Pool, volume: Volume | None) -> dict[str, object]:
    drive: dict[str, object] = {"iface": "ide", "index": 2}
    if volume is not None:
        drive["drive_spec"] = {"device": "cdrom", **{name: pool.drive(volume)[name] for name in IDS}}
    return drive


IDS = ("poolID", "domainID", "imageID", "volumeID")


def agree(vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd, discs: list[Volume], vm_id: str) -> bool:
    """Whether the drive, the metadata and the prepared images tell of the same disc, or of none."""
    path = find_sources(libvirtd, vm_id).get("hdc", "")
    inside = [disc for disc in discs if path.endswith(f"/{disc.image_id}/{disc.volume_id}")]
    prepared = [disc for disc in discs if is_prepared(vdsmd, pool, disc)]
    told = list_told(libvirtd, vm_id) == (["hdc"] if inside else [])
    metadata = libvirtd.run("virsh", "-q", "dumpxml", vm_id)
    return prepared == inside and told and ":change>" not in metadata


def test_discs_come_and_go(vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd) -> None:
    discs = [pool.create_volume(Volume(format="RAW")) for _ in range(2)]
    vm_id = vdsmd.create_vm(devices=[CD])
    for disc in (discs[0], discs[1], None, discs[0]):
        assert vdsmd.call("VM.changeCD", vmID=vm_id, driveSpec=make_change(pool, disc)) == {}
        path = find_sources(libvirtd, vm_id).get("hdc", "")
        assert path.endswith(f"/{disc.volume_id}") if disc else path == ""
        assert agree(vdsmd, pool, libvirtd, discs, vm_id)
    vdsmd.restart()
    poll(lambda: agree(vdsmd, pool, libvirtd, discs, vm_id), "the disc is still there")
    for path, number in ((pool.path, 13), ("/no/such/disc", 13)):
        with pytest.raises(CallFailed) as refused:
            vdsmd.call("VM.changeCD", vmID=vm_id, driveSpec=str(path))
        assert refused.value.code == number
    with pytest.raises(CallFailed) as refused:
        vdsmd.call("VM.changeCD", vmID=vm_id, driveSpec=make_change(pool, Volume()))
    assert refused.value.code == 1630
    assert agree(vdsmd, pool, libvirtd, discs, vm_id)
    image = vdsmd.root / "one.iso"
    image.write_bytes(bytes(1 << 20))
    assert vdsmd.call("VM.changeCD", vmID=vm_id, driveSpec=str(image)) == {}
    assert find_sources(libvirtd, vm_id)["hdc"] == str(image) and list_told(libvirtd, vm_id) == []
    assert vdsmd.call("VM.changeCD", vmID=vm_id, driveSpec="") == {}
    assert agree(vdsmd, pool, libvirtd, discs, vm_id)


@pytest.mark.timeout(600)
def test_a_daemon_that_is_killed_amid_a_change(
    vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd, rounds: Callable[[int, int], int]
) -> None:
    discs = [pool.create_volume(Volume(format="RAW")) for _ in range(2)]
    vm_id = vdsmd.create_vm(devices=[CD])
    wishes = cycle([*discs, None])

    def change() -> None:
        for wish in wishes:
            vdsmd.call("VM.changeCD", vmID=vm_id, driveSpec=make_change(pool, wish))

    for _ in range(rounds(4, 30)):
        kill_during(vdsmd, random.uniform(0, 0.4), change)
        vdsmd.start()
        # What libvirt was asked for it does all the same, a moment later.
        poll(lambda: agree(vdsmd, pool, libvirtd, discs, vm_id), "drive, metadata and images agree")


def test_cards_displays_and_processors(vdsmd: Vdsmd, libvirtd: PrivateLibvirtd) -> None:
    vm_id = vdsmd.create_vm(devices=[CARD, {"type": "graphics", "device": "vnc"}], smp="1", maxVCpus="3")
    card = {"deviceType": "interface", "alias": "net0"}

    def read_link() -> str:
        return libvirtd.run("virsh", "-q", "domif-getlink", vm_id, CARD["macAddr"]).split()[-1]

    for state in ("up", "down"):
        assert vdsmd.call("VM.updateDevice", vmID=vm_id, params={**card, "linkActive": state == "up"}) == {}
        assert read_link() == state
    with pytest.raises(CallFailed) as refused:
        vdsmd.call("VM.updateDevice", vmID=vm_id, params={**card, "network": "nowhere0", "linkActive": True})
    assert refused.value.code == 56 and read_link() == "down"
    ticket = {"deviceType": "graphics", "graphicsType": "vnc", "password": "secret7", "ttl": 60, "params": {}}
    assert vdsmd.call("VM.updateDevice", vmID=vm_id, params=ticket) == {}
    assert 'passwd="secret7"' in libvirtd.run("virsh", "-q", "dumpxml", "--security-info", vm_id).replace("'", '"')
    assert vdsmd.call("VM.setNumberOfCpus", vmID=vm_id, numberOfCpus=3, cpusets=["0", "0", "0"]) == {}
    assert libvirtd.run("virsh", "-q", "vcpucount", vm_id, "--live", "--current").strip() == "3"
    pins = [line.split() for line in libvirtd.run("virsh", "-q", "vcpupin", vm_id).splitlines()]
    assert [pin[-1] for pin in pins if pin] == ["0", "0", "0"]
    with pytest.raises(CallFailed) as refused:
        vdsmd.call("VM.setNumberOfCpus", vmID=vm_id, numberOfCpus=4)
    assert refused.value.code == 60
    poll(lambda: vdsmd.get_stats(vm_id).get("vcpuCount") == "3", "its processors are told")


def test_devices_that_this_host_does_not_have(vdsmd: Vdsmd, libvirtd: PrivateLibvirtd) -> None:
    vm_id = vdsmd.create_vm()
    address = "<source><address domain='0x7fff' bus='0xfe' slot='0x1f' function='0x7'/></source>"
    device = f"<hostdev mode='subsystem' type='pci'>{address}</hostdev>"
    document = format_document(vm_id, device)["xml"]
    assert vdsmd.call("VM.hotplugHostdev", vmID=vm_id, devices=[document]) == []
    assert "<hostdev" not in libvirtd.run("virsh", "-q", "dumpxml", vm_id)
