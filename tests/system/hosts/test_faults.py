"""Whatever a host may suffer, done to one of two: what it loses, what it keeps, and that it comes back."""

import contextlib
import itertools
import os
from collections.abc import Callable
from functools import partial
from xml.etree import ElementTree

import libvirt
import pytest

from lab.commands import PartFailed, wait_for
from lab.hosts import Host, Hosts, make_hardware
from lab.vdsmd import ConnectionFailed, HostVdsmd
from tests.system.hosts.machines import make_idle_xml

PATIENCE_S = 1.0


def start_daemons(hosts: Hosts, stack: contextlib.ExitStack) -> list[HostVdsmd]:
    """A daemon on each host, all started at once; their logs are shown when the test fails."""
    daemons = [HostVdsmd(hosts, host) for host in hosts]
    for daemon in daemons:
        stack.push(daemon)
        daemon.start(wait=False)
    for daemon in daemons:
        daemon.wait_listening()
        daemon.wait_ready()
    return daemons


def ping(caller: HostVdsmd, callee: HostVdsmd) -> bool:
    """Ask a daemon from another host; False when nothing comes back in time."""
    try:
        with caller.connect_to(callee, PATIENCE_S) as client:
            return bool(client.call("Host.ping2"))
    except ConnectionFailed:
        return False


def wait_pinged(caller: HostVdsmd, callee: HostVdsmd) -> None:
    """Until a daemon answers another host, which a busy machine may hold up once."""
    wait_for(lambda: ping(caller, callee), f"{caller.host.name} hears {callee.host.name}")


def is_reachable(caller: Host, callee: Host) -> bool:
    """Whether libvirtd of one host can be connected to from another."""
    try:
        caller.run("timeout", str(PATIENCE_S), "bash", "-c", f"</dev/tcp/{callee.address}/16509")
    except PartFailed:
        return False
    return True


def create_machine(host: Host, name: str) -> int:
    """An idle machine; its qemu."""
    with contextlib.closing(libvirt.open(host.uri)) as connection:
        connection.createXML(make_idle_xml(name))
    pid = host.libvirtd.qemu_pid(name)
    assert pid is not None
    return pid


def list_machines(host: Host) -> list[str]:
    with contextlib.closing(libvirt.open(host.uri)) as connection:
        return [machine.name() for machine in connection.listAllDomains()]


def read_identity(host: Host) -> str:
    """The host's UUID, as libvirt tells it."""
    with contextlib.closing(libvirt.open(host.uri)) as connection:
        uuid = ElementTree.fromstring(connection.getCapabilities()).findtext("host/uuid")
    assert uuid is not None
    return uuid


def test_hosts_differ(hosts: Callable[[int], Hosts]) -> None:
    three = hosts(3)
    assert len({read_identity(host) for host in three}) == 3
    assert [host.run("hostname").strip() for host in three] == ["host1", "host2", "host3"]
    for caller, callee in itertools.product(three, three):
        wait_for(partial(is_reachable, caller, callee), f"{caller.name} reaches {callee.name}")
    for host in three:
        host.run("bash", "-c", f"hostname >{host.root}/name")
    assert [(host.root_outside / "name").read_text().strip() for host in three] == ["host1", "host2", "host3"]


def test_the_servers_keep_their_address_when_hosts_come_and_go(hosts: Callable[[int], Hosts]) -> None:
    all_hosts = hosts(2)
    switch = all_hosts.switch
    addresses = set[str]()
    for host in all_hosts:
        addresses.add(switch.run("cat", "/sys/class/net/bridge/address").strip())
        host.kill()
    assert addresses == {make_hardware(switch.address)}, "who is left would have to learn where the servers are"


def test_a_cut_network_drops_packets_and_heals(hosts: Callable[[int], Hosts]) -> None:
    first, second, third = hosts(3)
    first.cut()
    assert not is_reachable(first, second) and not is_reachable(second, first)
    wait_for(lambda: is_reachable(second, third), "others are not cut")
    wait_for(lambda: is_reachable(first, first), "the host reaches itself")
    carrier = first.run("cat", "/sys/class/net/eth0/carrier")
    assert carrier.strip() == "1", "the host was told of the cut"
    first.heal()
    wait_for(lambda: is_reachable(first, second), "the network has healed")
    wait_for(lambda: is_reachable(second, first), "in both directions")


def test_a_daemon_that_is_cut_off_or_frozen_does_not_answer_and_comes_back(hosts: Callable[[int], Hosts]) -> None:
    with contextlib.ExitStack() as stack:
        first, second = start_daemons(hosts(2), stack)
        wait_pinged(first, second)
        wait_pinged(second, first)
        first.host.cut()
        assert not ping(second, first) and not ping(first, second)
        assert first.call("Host.ping2") is True, "its own socket is no matter of the network"
        first.host.heal()
        wait_pinged(second, first)
        first.spawned.freeze()
        assert not ping(second, first)
        first.spawned.thaw()
        wait_pinged(second, first)
        first.kill()
        assert not ping(second, first)
        first.start()
        wait_pinged(second, first)
        first.host.kill()
        assert first.process.wait(PATIENCE_S) != 0
        first.host.start()
        first.start()
        wait_pinged(second, first)


def test_a_frozen_host_stands_still_and_goes_on(hosts: Callable[[int], Hosts]) -> None:
    [host] = hosts(1)
    ticker = host.spawn("bash", "-c", f"while :; do date +%N >{host.root}/tick; sleep 0.01; done")
    tick_file = host.root_outside / "tick"
    wait_for(tick_file.exists, "the ticker ticks")
    host.freeze()
    tick = tick_file.read_text()
    with pytest.raises(PartFailed, match="not done within"):
        host.run("virsh", "-q", "list", timeout_s=PATIENCE_S)
    assert tick_file.read_text() == tick and ticker.process.poll() is None
    host.thaw()
    host.run("virsh", "-q", "list")
    wait_for(lambda: tick_file.read_text() not in ("", tick), "the ticker goes on")


def test_machines_survive_their_libvirtd(hosts: Callable[[int], Hosts]) -> None:
    [host] = hosts(1)
    qemu = create_machine(host, "survivor")
    host.libvirtd.kill()
    assert host.libvirtd.pid is None and host.libvirtd.qemu_pid("survivor") == qemu
    host.libvirtd.start()
    assert list_machines(host) == ["survivor"]
    os.kill(qemu, 0)


def test_power_loss_ends_machines_and_mounts_and_spares_the_disk(hosts: Callable[[int], Hosts]) -> None:
    [host] = hosts(1)
    qemu = create_machine(host, "victim")
    with contextlib.closing(libvirt.open(host.uri)) as connection:
        connection.defineXML(make_idle_xml("defined"))
    host.mount("-t", "tmpfs", "tmpfs", host.root / "memory")
    assert str(host.root / "memory") in host.run("cat", "/proc/self/mounts")
    (host.root_outside / "written").write_text("kept")
    before = read_identity(host)
    host.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(qemu, 0)
    host.start()
    assert list_machines(host) == ["defined"]
    assert str(host.root / "memory") not in host.run("cat", "/proc/self/mounts")
    assert host.run("cat", host.root / "written") == "kept"
    assert read_identity(host) == before
