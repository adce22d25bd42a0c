"""Discs of files in real VMs: they are there while the VM is, also when the daemon is killed at any moment."""

import random
import subprocess
from collections.abc import Callable

import pytest

from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import CallFailed, Vdsmd, kill_during, make_id, poll

FILES = {"openstack/latest/user_data": "I2Nsb3VkLWNvbmZpZwo=", "openstack/latest/meta_data.json": "e30="}
CD = {
    "type": "disk",
    "device": "cdrom",
    "iface": "ide",
    "specParams": {"vmPayload": {"volId": "config-2", "file": FILES}},
}
FLOPPY = {"type": "disk", "device": "floppy", "specParams": {"vmPayload": {"file": {"a.txt": "aGk="}}}}


def list_discs(vdsmd: Vdsmd) -> list[str]:
    folder = vdsmd.paths.run / "payload"
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


def test_discs_are_there_while_the_vm_is(vdsmd: Vdsmd, libvirtd: PrivateLibvirtd) -> None:
    vm_id = vdsmd.create_vm(devices=[CD, FLOPPY])
    discs = [f"{vm_id}-fda.img", f"{vm_id}-hdc.img"]
    assert list_discs(vdsmd) == discs
    folder = vdsmd.paths.run / "payload"
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o660}
    known = libvirtd.run("virsh", "-q", "domblklist", vm_id)
    assert all(str(folder / disc) in known for disc in discs)
    read = ["isoinfo", "-R", "-x", "/openstack/latest/user_data", "-i", folder / discs[1]]
    assert subprocess.run(read, capture_output=True, check=True).stdout == b"#cloud-config\n"
    vdsmd.restart()
    assert list_discs(vdsmd) == discs
    vdsmd.call("VM.destroy", vmID=vm_id)
    assert list_discs(vdsmd) == []


def test_a_vm_that_ends_while_there_is_no_daemon(vdsmd: Vdsmd, libvirtd: PrivateLibvirtd) -> None:
    vm_id = vdsmd.create_vm(devices=[CD])
    vdsmd.kill()
    libvirtd.run("virsh", "-q", "destroy", vm_id)
    vdsmd.start()
    assert list_discs(vdsmd) == []


def test_what_cannot_be_a_disc_makes_no_vm(vdsmd: Vdsmd) -> None:
    for files, number in (({"../../../etc/passwd": "aGk="}, 9), ({"a": "nonsense!"}, 9)):
        bad = {**CD, "specParams": {"vmPayload": {"file": files}}}
        with pytest.raises(CallFailed) as refused:
            vdsmd.create_vm(devices=[bad])
        assert refused.value.code == number
    assert list_discs(vdsmd) == [] and vdsmd.call("Host.getVMList") == []


@pytest.mark.timeout(600)
def test_a_daemon_that_is_killed_while_it_makes_discs(
    vdsmd: Vdsmd, libvirtd: PrivateLibvirtd, rounds: Callable[[int, int], int]
) -> None:
    def come_and_go() -> None:
        while True:
            vm_id = make_id()
            vdsmd.create_vm(vm_id=vm_id, devices=[CD, FLOPPY])
            vdsmd.call("VM.destroy", vmID=vm_id)

    def agree() -> bool:
        running = libvirtd.run("virsh", "-q", "list", "--uuid").split()
        return list_discs(vdsmd) == sorted(f"{vm_id}-{name}.img" for vm_id in running for name in ("fda", "hdc"))

    for _ in range(rounds(4, 30)):
        kill_during(vdsmd, random.uniform(0.05, 0.6), come_and_go)
        vdsmd.start()
        poll(agree, "discs are those of VMs that run")
        for vm in vdsmd.call("Host.getVMList"):
            vdsmd.call("VM.destroy", vmID=vm["vmId"])
        assert list_discs(vdsmd) == []
