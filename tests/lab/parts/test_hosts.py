"""Several hosts inside the lab VM, as on any machine: joined, cut off, without power; a lease among them."""

import pytest

from lab.commands import PartFailed, wait_for
from lab.hosts import Host, Hosts
from lab.loop import scratch
from lab.sanlock import Lease, LeaseRefused, Sanlock

pytestmark = pytest.mark.timeout(400)  # each host starts a libvirtd, and a busy machine makes the VM slower still


def is_reachable(caller: Host, callee: Host) -> bool:
    """Whether libvirtd of one host can be connected to from another."""
    try:
        caller.run("timeout", "3", "bash", "-c", f"</dev/tcp/{callee.address}/16509")
    except PartFailed:
        return False
    return True


def test_hosts_are_joined_hold_a_lease_are_cut_and_lose_their_power() -> None:
    with scratch() as disk, Hosts(2, disk) as hosts:  # /tmp is in memory, and knows no direct I/O
        first, second = hosts
        assert is_reachable(first, second) and is_reachable(second, first)
        first.cut()
        assert not is_reachable(second, first)
        first.heal()
        wait_for(lambda: is_reachable(second, first), "the network has healed")
        pass_a_lease_on(hosts)
        (first.root_outside / "written").write_text("kept")
        first.kill()
        first.start()
        assert first.run("cat", first.root / "written") == "kept" and is_reachable(second, first)


def pass_a_lease_on(hosts: Hosts) -> None:
    """One host has it at a time: the second when the first one's holder has ended."""
    lease = Lease(hosts.shared)
    lease.make_files()
    holders = []
    for host in hosts:
        sanlock = Sanlock(host.namespaces)
        sanlock.start()
        holders.append(sanlock.register())
    first, second = holders
    first.format(lease)
    first.join(lease, 1)
    second.join(lease, 2)
    first.acquire(lease)
    with pytest.raises(LeaseRefused):
        second.acquire(lease)
    first.kill()
    second.acquire(lease)
