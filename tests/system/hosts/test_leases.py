"""A lease is held by one host, is given back when its holder dies, and is lost with its storage or its life."""

import signal
import time
from collections.abc import Callable

import pytest

import lab.gluster
import lab.sanlock
from lab.gluster import GlusterVolume
from lab.hosts import Host, Hosts
from lab.sanlock import KILL_AFTER_S, TAKE_OVER_AFTER_S, Holder, Lease, LeaseRefused, Sanlock
from tests.rounds import SOAK_FACTOR

pytestmark = pytest.mark.skipif(lab.sanlock.why_not() is not None, reason=str(lab.sanlock.why_not()))

SLACK_S = 15.0


def join(hosts: Hosts, lease: Lease) -> list[Holder]:
    """A holder on each host, members of the lockspace, which is made first; nobody holds the lease."""
    holders = []
    for host in hosts:
        sanlock = Sanlock(host.namespaces)
        sanlock.start()
        holders.append(sanlock.register())
    holders[0].format(lease)
    for number, holder in enumerate(holders, start=1):
        holder.join(lease, number)
    return holders


def take_over(holder: Holder, lease: Lease, limit_s: float) -> float:
    """Try until the lease is had; the seconds that it took."""
    begin = time.monotonic()
    while True:
        try:
            holder.acquire(lease)
        except LeaseRefused:
            assert time.monotonic() - begin < limit_s, f"not taken over within {limit_s:.0f} s"
            time.sleep(0.1)
        else:
            return time.monotonic() - begin


def mount_volume(hosts: Hosts, volume: GlusterVolume) -> Lease:
    """The volume on each host, with the files of a lease."""
    place = hosts.base / "volume"
    hosts.mount(*volume.mount_words, place)
    lease = Lease(place)
    next(iter(hosts)).run("truncate", "--size", "1M", lease.ids, lease.leases)
    return lease


def test_a_lease_is_given_back_when_its_holder_dies(hosts: Callable[[int], Hosts]) -> None:
    pair = hosts(2)
    lease = Lease(pair.shared)
    lease.make_files()
    first, second = join(pair, lease)
    first.acquire(lease)
    assert first.inquire() == [lease.resource]
    with pytest.raises(LeaseRefused):
        second.acquire(lease)
    first.release(lease)
    second.acquire(lease)
    assert (first.inquire(), second.inquire()) == ([], [lease.resource])
    second.kill()
    # Had it not been given back, that would take until the holder counts as dead; a moment is sanlock's own.
    assert take_over(first, lease, SLACK_S) < KILL_AFTER_S


@pytest.mark.skipif(lab.gluster.why_not() is not None, reason=str(lab.gluster.why_not()))
def test_who_loses_the_storage_of_its_lease_is_killed(hosts: Callable[[int], Hosts]) -> None:
    pair = hosts(2)
    with GlusterVolume(pair.switch, pair.switch.address, pair.base / "gluster") as volume:
        lease = mount_volume(pair, volume)
        first, second = join(pair, lease)
        first.acquire(lease)
        next(iter(pair)).cut()
        assert first.wait_killed(KILL_AFTER_S + SLACK_S) == signal.SIGTERM
        assert second.spawned.process.poll() is None


@pytest.mark.skipif(not SOAK_FACTOR, reason="takes over a minute: only in soak")
@pytest.mark.parametrize("fault", [Host.kill, Host.cut, Host.freeze])
def test_a_lease_is_taken_over_from_a_lost_host(hosts: Callable[[int], Hosts], fault: Callable[[Host], None]) -> None:
    pair = hosts(2)
    with GlusterVolume(pair.switch, pair.switch.address, pair.base / "gluster") as volume:
        lease = mount_volume(pair, volume)
        first, second = join(pair, lease)
        first.acquire(lease)
        fault(next(iter(pair)))
        assert TAKE_OVER_AFTER_S - KILL_AFTER_S < take_over(second, lease, TAKE_OVER_AFTER_S + 2 * SLACK_S)
