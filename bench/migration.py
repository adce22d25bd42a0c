"""Figures of live migration: a guest that writes goes to and fro between two hosts, by `VM.migrate` and by virsh.

The hosts are namespaces of this machine whose daemons share a domain on GlusterFS. Two VMs, alike but for who looks
after them, take turns to move the same way, over the same network, with the same limits.
"""

import io
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import lab.gluster
import lab.guests
import lab.hosts
import lab.sanlock
from bench.machines import rename
from bench.report import Figure, at_most
from lab.commands import wait_for
from lab.guests import Writer
from lab.hosts import Hosts
from lab.pools import Volume
from lab.shared_pool import SharedPool, on_gluster, trust
from lab.vdsmd import make_id

MEMORY_MIB = 128
RATE = 1 << 20
"""Bytes a second that the guest writes, from memory that it fills anew for each write."""
BANDWIDTH_MIB_PER_S = 52
DOWNTIME_MS = 300
"""qemu's own limit, which virsh leaves alone."""
MORE_MS, MORE_DOWNTIME_MS = 500, 50
"""The design has no floors for these: our own aims, both daemons beside libvirt on one machine."""


def why_not() -> str | None:
    """Why there can be no such hosts here, or None."""
    return lab.hosts.why_not() or lab.sanlock.why_not() or lab.gluster.why_not() or lab.guests.why_not()


def measure_migration(rounds: int = 8) -> list[Figure]:
    """From the request until the VM runs there and is gone from here; and how long its guest stood still meanwhile."""
    with _quiet(), Hosts(2) as hosts, on_gluster(hosts, {}) as pools:
        trust(pools)
        here, there = pools
        assert here.try_spm() == 0
        moves = list(zip(_make_vms(here, hosts.shared), (_migrate, _migrate_with_virsh), strict=True))
        turns = []
        for number in range(rounds + 1):
            order = moves if number % 2 else moves[::-1]
            found = {move: _measure_move(move, vm_id, here, there) for vm_id, move in order}
            turns.append([*found[_migrate], *found[_migrate_with_virsh]])
            here, there = there, here
    # The first turn warms caches.
    ours, downtime, theirs, their_downtime = (statistics.median(column) for column in zip(*turns[1:], strict=True))
    rival = "virsh migrate --live --p2p"
    floors = (
        at_most(round(theirs + MORE_MS), ours, "ms"),
        at_most(round(their_downtime + MORE_DOWNTIME_MS), downtime, "ms"),
    )
    return [
        Figure("VM.migrate until it runs there", ours, "ms", rival, theirs, *floors[0]),
        Figure("downtime of its guest", downtime, "ms", rival, their_downtime, *floors[1]),
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """What daemons print at their end, their logs, is of interest when something failed."""
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            yield
    except BaseException:
        print(said.getvalue())
        raise


def _make_vms(here: SharedPool, shared: Path) -> tuple[str, str]:
    """The ids of two running VMs, one of the daemon's and one that only libvirt knows."""
    writer = Writer(slots=64, verifies=False).at_rate(RATE)
    boot = shared / "boot-sector"
    boot.write_bytes(writer.make_sector())
    volumes = [here.create_volume(Volume(format="RAW"), writer.end_bytes) for _ in range(2)]
    for volume in volumes:
        to = f"of={here.get_mounted_path(volume)}"
        here.run_on_host("dd", f"if={boot}", to, "conv=notrunc,fsync", "status=none")
    vm_id = here.vdsmd.create_vm(devices=[here.drive(volumes[0])], memSize=MEMORY_MIB)
    domain = ElementTree.fromstring(here.run_on_host("virsh", "dumpxml", "--migratable", vm_id))  # noqa: S314 - ours
    rival_id = make_id()
    rename(domain, rival_id)
    for metadata in domain.findall("metadata"):
        domain.remove(metadata)
    source = domain.find("devices/disk[@device='disk']/source")
    assert source is not None
    source.set("file", str(here.get_mounted_path(volumes[1])))
    file = shared / "rival.xml"
    file.write_bytes(ElementTree.tostring(domain))
    here.run_on_host("virsh", "create", file)
    return vm_id, rival_id


def _measure_move(
    move: Callable[[str, SharedPool, SharedPool], None], vm_id: str, here: SharedPool, there: SharedPool
) -> tuple[float, float]:
    """The ms that it took, and those that the guest stood still by libvirt's figures, which come along with it."""
    start = time.perf_counter()
    move(vm_id, here, there)
    took_s = time.perf_counter() - start
    assert there.run_on_host("virsh", "-q", "domstate", vm_id).split() == ["running"]
    if move is _migrate:
        here.vdsmd.call("VM.destroy", vmID=vm_id)
        there.vdsmd.wait_status(vm_id, "Up", "Powering up")
    told = there.run_on_host("virsh", "-q", "domjobinfo", "--completed", "--rawstats", vm_id)
    figures = dict(line.split(": ") for line in told.splitlines() if line)
    return took_s * 1000, float(figures["downtime"])


def _migrate(vm_id: str, here: SharedPool, there: SharedPool) -> None:
    convergence = {"init": [{"name": "setDowntime", "params": [str(DOWNTIME_MS)]}], "stalling": []}
    limits = {"maxBandwidth": BANDWIDTH_MIB_PER_S, "convergenceSchedule": convergence}
    here.vdsmd.call("VM.migrate", vmID=vm_id, params={"vmId": vm_id, "dst": there.host.address, **limits})

    def find_end() -> dict[str, Any] | None:
        stats = here.vdsmd.get_stats(vm_id)
        return None if stats["status"] == "Migration Source" else stats

    stats = wait_for(find_end, "it is gone", pause_s=0.005)
    assert stats["status"] == "Down" and stats["exitReason"] == 4, stats  # it is there


def _migrate_with_virsh(vm_id: str, here: SharedPool, there: SharedPool) -> None:
    address = there.host.address
    limits = ("--bandwidth", str(BANDWIDTH_MIB_PER_S))
    to = (f"qemu+tls://{address}/system", f"tcp://{address}")
    here.run_on_host("virsh", "migrate", "--live", "--p2p", *limits, vm_id, *to)
