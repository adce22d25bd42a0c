"""Limits of real VMs: what the daemon set and tells is what libvirt's tools read, also after the daemon's restart."""

import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

from demo.guest import build_guest
from tests.system.guest_disks import write_to_disk
from tests.system.private_libvirtd import LimitingLibvirtd, PrivateLibvirtd
from tests.system.vdsmd import CallFailed, Pool, Vdsmd, poll

QUICK = {"vars": {"vm_sample_interval": "0.5"}}
BALLOON = {"type": "balloon", "device": "memballoon", "specParams": {"model": "virtio"}}
MIB = 1024


def read_pairs(libvirtd: PrivateLibvirtd, *command: str) -> dict[str, str]:
    """What virsh prints in lines of a name and a value."""
    lines = libvirtd.run("virsh", "-q", *command).replace(":", " ").splitlines()
    return {words[0]: words[1] for words in map(str.split, lines) if len(words) == 2}


def refuse(node: Vdsmd, method: str, **parameters: Any) -> int:
    with pytest.raises(CallFailed) as caught:
        node.call(method, **parameters)
    return caught.value.code


def test_a_disk_is_as_slow_as_it_was_told_to_be(vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd) -> None:
    """Only that it is not faster can be said of a machine that others use, too."""
    vm_id = vdsmd.create_vm(devices=[pool.drive(pool.create_volume(size_bytes=8 << 20))])

    def measure(piece: int, count: int) -> float:
        start_s = time.monotonic()
        for number in range(count):
            write_to_disk(libvirtd, vm_id, f"{number * piece} {piece}")
        return time.monotonic() - start_s

    free_s = measure(1 << 18, 16)
    for limits, piece, count in (({"write_bytes_sec": 1 << 20}, 1 << 18, 16), ({"total_iops_sec": 4}, 4096, 16)):
        every = {"total_bytes_sec": 0, "total_iops_sec": 0, "write_bytes_sec": 0, **limits}
        vdsmd.call("VM.setIoTune", vmID=vm_id, tunables=[{"name": "vda", "ioTune": every}])
        # Four seconds' worth, of which a fraction of a second's is given in advance.
        assert measure(piece, count) > 3.0
    vdsmd.call("VM.setIoTune", vmID=vm_id, tunables=[{"name": "vda", "ioTune": {"total_iops_sec": 0}}])
    assert min(free_s, measure(1 << 18, 16)) < 3.0


def test_disks(vdsmd: Vdsmd, pool: Pool, libvirtd: PrivateLibvirtd) -> None:
    drives = [pool.drive(pool.create_volume(), index=index) for index in (0, 1)]
    vm_id = vdsmd.create_vm(devices=drives)

    def read(target: str) -> dict[str, int]:
        found = read_pairs(libvirtd, "blkdeviotune", vm_id, target)
        return {name: int(value) for name, value in found.items() if value.isdigit() and int(value)}

    libvirtd.run("virsh", "-q", "blkdeviotune", vm_id, "vdb", "--live", "--total-iops-sec", "70")
    some = {"read_bytes_sec": 1_000_000, "write_bytes_sec": 2_000_000, "total_iops_sec": 300}
    path = vdsmd.call("VM.getIoTune", vmID=vm_id)[0]["path"]
    wishes = [{"name": "vdb", "ioTune": {"read_bytes_sec": 5}}, {"path": path, "ioTune": some}]
    vdsmd.call("VM.setIoTune", vmID=vm_id, tunables=wishes)
    assert (read("vda"), read("vdb")) == (some, {"read_bytes_sec": 5, "total_iops_sec": 70})

    too_much = [{"name": "vda", "ioTune": {"read_bytes_sec": 9}}, {"name": "vdb", "ioTune": {"read_bytes_sec": 10**16}}]
    assert refuse(vdsmd, "VM.setIoTune", vmID=vm_id, tunables=too_much) == 64
    assert (read("vda"), read("vdb")) == (some, {"read_bytes_sec": 5, "total_iops_sec": 70})

    ids = {name: drives[0][name] for name in ("poolID", "domainID", "imageID", "volumeID")}
    policy = {"vcpuLimit": 40, "ioTune": [{**ids, "maximum": some}]}
    vdsmd.call("VM.updateVmPolicy", vmID=vm_id, params=policy)
    qos = libvirtd.run("virsh", "-q", "metadata", vm_id, "--uri", "http://ovirt.org/vm/tune/1.0")
    assert "<vcpuLimit>40</vcpuLimit>" in qos and "<write_bytes_sec>2000000</write_bytes_sec>" in qos
    before = vdsmd.call("Host.getAllVmIoTunePolicies")
    vdsmd.restart()
    assert vdsmd.call("Host.getAllVmIoTunePolicies") == before
    [known] = before[vm_id]["policy"]
    assert (known["name"], known["path"], known["maximum"]) == ("vda", path, some)
    assert {name: value for name, value in before[vm_id]["current_values"][0]["ioTune"].items() if value} == some
    assert vdsmd.get_stats(vm_id)["vcpuUserLimit"] == 40
    libvirtd.run("virsh", "-q", "blkdeviotune", vm_id, "vda", "--live", "--total-iops-sec", "0")
    told = lambda: vdsmd.call("Host.getAllVmIoTunePolicies")[vm_id]["current_values"][0]["ioTune"]  # noqa: E731
    poll(lambda: told()["total_iops_sec"] == 0, "what virsh set is seen")
    assert "<total_iops_sec>" not in vdsmd.call("Host.dumpxmls", vmList=[vm_id])[vm_id].partition("vda")[2][:500]


@pytest.mark.skipif(
    shutil.which("apt-get") is None, reason="not installed: apt-get, which the guest's kernel comes from"
)
def test_memory(vdsmd: Vdsmd, libvirtd: PrivateLibvirtd) -> None:
    guest = build_guest().copy_to(vdsmd.root / "guest")
    boot = {"kernel": str(guest.kernel), "initrd": str(guest.initrd), "kernelArgs": guest.arguments}
    vm_id = vdsmd.create_vm(memSize=160, devices=[BALLOON], **boot)

    def read() -> int:
        return int(read_pairs(libvirtd, "dommemstat", vm_id)["actual"])

    assert read() == 160 * MIB
    assert refuse(vdsmd, "VM.setBalloonTarget", vmID=vm_id, target=161 * MIB) == 53
    vdsmd.call("VM.setBalloonTarget", vmID=vm_id, target=120 * MIB)
    poll(lambda: read() == 120 * MIB, "the guest gives memory back")
    poll(lambda: vdsmd.get_stats(vm_id)["balloonInfo"]["balloon_cur"] == str(120 * MIB), "the daemon sees it")
    vdsmd.restart()
    balloon = poll(lambda: vdsmd.get_stats(vm_id).get("balloonInfo"), "the VM is sampled")
    assert (balloon["balloon_target"], balloon["balloon_max"]) == (str(120 * MIB), str(160 * MIB))
    vdsmd.call("VM.setBalloonTarget", vmID=vm_id, target=160 * MIB)
    poll(lambda: read() == 160 * MIB, "the guest has its memory again")

    vdsmd.call("VM.setDestroyOnReboot", vmID=vm_id)
    vdsmd.restart()
    vdsmd.call("VM.reset", vmID=vm_id)
    assert vdsmd.wait_status(vm_id, "Down")["exitReason"] == 13


@pytest.fixture
def limiting(limiting_libvirtd: LimitingLibvirtd) -> Iterator[Vdsmd]:
    with Vdsmd(limiting_libvirtd.uri, QUICK) as daemon:
        yield daemon
        for vm in daemon.call("Host.getVMList"):
            daemon.call("VM.destroy", vmID=vm["vmId"])


def test_processors(limiting: Vdsmd, limiting_libvirtd: LimitingLibvirtd) -> None:
    vm_id = limiting.create_vm()

    def read() -> tuple[str, str]:
        found = read_pairs(limiting_libvirtd, "schedinfo", vm_id)
        return found["vcpu_quota"], found["vcpu_period"]

    limiting.call("VM.setCpuTunePeriod", vmID=vm_id, period=200_000)
    limiting.call("VM.setCpuTuneQuota", vmID=vm_id, quota=50_000)
    assert read() == ("50000", "200000")
    assert refuse(limiting, "VM.setCpuTuneQuota", vmID=vm_id, quota=0) == 62
    limiting.restart()
    stats = limiting.get_stats(vm_id)
    assert (stats["vcpuQuota"], stats["vcpuPeriod"]) == ("50000", 200_000)
    limiting.call("VM.setCpuTuneQuota", vmID=vm_id, quota=-1)
    assert read() == ("-1", "200000")
    assert limiting.get_stats(vm_id)["vcpuQuota"] == "-1"
    limiting_libvirtd.run("virsh", "-q", "schedinfo", vm_id, "--live", "vcpu_quota=70000")
    poll(lambda: limiting.get_stats(vm_id)["vcpuQuota"] == "70000", "what virsh set is seen")


def test_processors_that_cannot_be_limited(vdsmd: Vdsmd) -> None:
    """libvirt has no control groups here."""
    assert refuse(vdsmd, "VM.setCpuTuneQuota", vmID=vdsmd.create_vm(), quota=50_000) == 62
