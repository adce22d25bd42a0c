"""The VMs of tests/golden/domxml, started for real as far as this host can, and looked at."""

from collections.abc import Iterator
from xml.etree.ElementTree import Element, fromstring

import pytest

import lab.libvirtd
from lab.scratch import Scratch
from tests.domains import FILES, Case, list_cases
from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import Vdsmd, make_id, poll
from vdsm import pki

STARTED = [case for case in list_cases() if case.is_started]
AT_ONCE = 8
_FURNITURE = r"""
set -e
mkdir -p /run/forms/usual /run/ovirt-vmconsole-console
cd /run/forms/usual
truncate -s 1M a.raw c.raw floppy.img cd.iso initrd
qemu-img create -q -f qcow2 b.qcow2 1M
# as much of a Linux kernel as qemu reads before it starts one
head -c 8192 /dev/zero >kernel
printf 'HdrS\x02\x02' | dd of=kernel bs=1 seek=514 conv=notrunc status=none
qemu-nbd --fork --persistent --export-name disk --format raw c.raw
for case in "${@:2}"; do cp -r /run/forms/usual "/run/forms/$case"; done
for bridge in br0 br1; do ip link add $bridge type bridge; ip link set $bridge up; done
ip address add 192.0.2.1/24 dev br0  # SPICE asks for an address of the network before it listens on any
sed -i '/^spice_tls\|^vnc_tls/d' /etc/libvirt/qemu.conf
for kind in spice vnc; do
  printf '%s\n' "${kind}_tls = 1" "${kind}_tls_x509_cert_dir = \"$1\"" >>/etc/libvirt/qemu.conf
done
"""
UNSAID = {"type", "snapshot", "defaultMode", "port", "tlsPort", "passwd", "passwdValidTo", "connected"}
"""Attributes that libvirt, or the host without KVM, has another word for."""


@pytest.fixture(scope="module")
def furnished() -> Iterator[PrivateLibvirtd]:
    """A libvirtd whose displays speak TLS, with the disks and bridges that the cases name."""
    reason = lab.libvirtd.why_not()
    if reason is not None:
        pytest.skip(reason)
    with Scratch() as scratch, PrivateLibvirtd() as libvirtd:
        pki.ensure(scratch.path, names=("localhost",))
        libvirtd.stop()
        libvirtd.run(
            "bash", "-c", _FURNITURE, "furniture", str(scratch.path / "libvirt-spice"), *(case.name for case in STARTED)
        )
        libvirtd.start()
        yield libvirtd


@pytest.mark.timeout(300)
def test_every_case_that_can_start_does(furnished: PrivateLibvirtd) -> None:
    faults: dict[str, list[str]] = {}
    with Vdsmd(furnished.uri) as vdsmd:
        for begin in range(0, len(STARTED), AT_ONCE):
            ids = {make_id(): case for case in STARTED[begin : begin + AT_ONCE]}
            for vm_id, case in ids.items():
                vdsmd.call("VM.create", vmID=vm_id, vmParams=case.read(vm_id, f"{FILES}/{case.name}"))
            faults |= {case.name: list(find_faults(vdsmd, vm_id, case)) for vm_id, case in ids.items()}
            for vm_id in ids:
                vdsmd.call("VM.destroy", vmID=vm_id)
        assert vdsmd.call("Host.getVMList") == []
        poll(lambda: not furnished.run("virsh", "-q", "net-list", "--all").strip(), "no network is left")
    told = [f"{name}: {line}" for name, lines in faults.items() for line in lines]
    assert not told, "\n".join(told)
    assert furnished.run("virsh", "-q", "list", "--all").strip() == ""


def find_faults(vdsmd: Vdsmd, vm_id: str, case: Case) -> Iterator[str]:
    """Why the VM did not start, or what libvirt made of it that is not what was wanted."""
    stats = vdsmd.wait_status(vm_id, "Up", "Powering up", "Paused", "Down")
    if stats["status"] == "Down":
        yield stats["exitMessage"]
        return
    found = poll(lambda: read_live(vdsmd, vm_id), f"what became of {case.name} is read")
    text = case.read_expected(vm_id, f"{FILES}/{case.name}")
    wanted = fromstring(text.replace("/run/vdsm", str(vdsmd.paths.run)))
    for path in ("iothreads", "memoryBacking", "numatune", "devices"):
        yield from [line for part in wanted.findall(path) for line in list_lacking(part, found.findall(path))]


def read_live(vdsmd: Vdsmd, vm_id: str) -> Element | None:
    """The domain as libvirt has it, once the daemon has read that."""
    domain = fromstring(vdsmd.call("Host.dumpxmls", vmList=[vm_id])[vm_id])
    return None if domain.get("id") is None else domain


def list_lacking(wanted: Element, found: list[Element], where: str = "") -> list[str]:
    """What is wanted and is in none of these."""
    if wanted.tag == "seclabel":
        return []  # here libvirt gives the disks to qemu
    if any(one.get("startupPolicy") == "optional" for one in (wanted, *wanted.iterfind("source"))):
        return []  # libvirt leaves out what is missing
    place = f"{where}/{wanted.tag}"
    alike = [one for one in found if one.tag == wanted.tag and fits(wanted, one)]
    tries = [[line for child in wanted for line in list_lacking(child, list(one), place)] for one in alike]
    return min(tries, key=len, default=[f"{place} {wanted.attrib} {(wanted.text or '').strip()}"])


def fits(wanted: Element, found: Element) -> bool:
    attributes = all(found.get(name) == value for name, value in wanted.items() if name not in UNSAID)
    return attributes and (wanted.text or "").strip() in ("", (found.text or "").strip())
