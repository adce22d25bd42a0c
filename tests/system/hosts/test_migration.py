"""A running machine moves from host to host over a shared folder and the network between them."""

import contextlib
import shutil
from collections.abc import Callable

import libvirt
import pytest

from demo.guest import build_guest
from lab.hosts import Hosts
from tests.system.hosts.machines import Console, make_linux_xml

LIVE = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
UNSAFE = libvirt.VIR_MIGRATE_UNSAFE  # libvirt cannot see that the folder is shared


@pytest.mark.skipif(
    shutil.which("apt-get") is None, reason="not installed: apt-get, where the guest's kernel comes from"
)
def test_a_running_machine_moves_with_its_memory_and_its_disk(hosts: Callable[[int], Hosts]) -> None:
    pair = hosts(2)
    source, target = pair
    disk = pair.shared / "disk"
    with disk.open("wb") as file:
        file.truncate(1 << 20)
    with (
        contextlib.closing(libvirt.open(source.uri)) as here,
        contextlib.closing(libvirt.open(target.uri)) as there,
    ):
        machine = here.createXML(make_linux_xml("traveller", build_guest(), disk))
        with Console(source) as console:
            console.wait("guest: ready")
            console.type("memory=$((41 + 1)); echo on disk >/dev/vda; sync; echo written $memory")
            console.wait("written 42")
        machine.migrateToURI3(target.network_uri, {}, LIVE | UNSAFE)
        assert here.listAllDomains() == [] and source.libvirtd.qemu_pid("traveller") is None
        [moved] = there.listAllDomains()
        assert moved.UUID() == machine.UUID() and moved.state()[0] == libvirt.VIR_DOMAIN_RUNNING
        with Console(target) as console:
            console.type("echo still $memory $(head -n 1 /dev/vda)")
            console.wait("still 42 on disk")
