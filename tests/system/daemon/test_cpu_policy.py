"""Processors of real VMs leave those that another VM has for itself, and come back when it has gone."""

import os

import pytest

from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import Vdsmd, make_id, poll
from vdsm.core.cpu_lists import parse_cpu_list

DEDICATED = """<domain type='kvm' xmlns:v='http://ovirt.org/vm/1.0'><name>{id}</name><uuid>{id}</uuid>
<metadata><v:vm><v:cpuPolicy>dedicated</v:cpuPolicy></v:vm></metadata><memory unit='MiB'>16</memory><vcpu>1</vcpu>
<cputune><vcpupin vcpu='0' cpuset='{cpu}'/></cputune><os><type arch='x86_64' machine='pc'>hvm</type></os></domain>"""


def read_pins(libvirtd: PrivateLibvirtd, vm_id: str) -> list[set[int]]:
    lines = libvirtd.run("virsh", "-q", "vcpupin", vm_id, "--live").splitlines()
    return [set(parse_cpu_list(line.split()[-1])) for line in lines if line.strip()]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU cannot be shared out")
def test_a_vm_has_a_cpu_for_itself(vdsmd: Vdsmd, libvirtd: PrivateLibvirtd) -> None:
    host = os.sched_getaffinity(0)
    own = min(host)
    vm_id, dedicated = vdsmd.create_vm(smp="2"), make_id()
    assert read_pins(libvirtd, vm_id) == [host, host]
    vdsmd.call("VM.create", vmID=dedicated, vmParams={"xml": DEDICATED.format(id=dedicated, cpu=own)})
    poll(lambda: read_pins(libvirtd, vm_id) == [host - {own}] * 2, "the other VM has left the CPU")
    assert read_pins(libvirtd, dedicated) == [{own}]
    vdsmd.restart()
    third = vdsmd.create_vm()
    poll(lambda: read_pins(libvirtd, third) == [host - {own}], "a VM that comes later leaves it too")
    vdsmd.call("VM.destroy", vmID=dedicated)
    poll(lambda: read_pins(libvirtd, vm_id) == [host, host], "the CPU is there for all again")
