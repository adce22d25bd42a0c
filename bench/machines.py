"""Figures of virtual machines: starting one, sampling many, what many cost, taking them over again."""

import asyncio
import json
import statistics
import time
import uuid
from contextlib import suppress
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import libvirt
import psutil

from bench.report import Figure, at_most
from demo.libvirtd import URI, LibvirtError, virsh
from demo.node import Node
from lab.commands import wait_for
from vdsm import client
from vdsm.adapters.libvirt.hypervisor import LibvirtHypervisor
from vdsm.testing.bootsector import SECTOR_BYTES, SECTORS_PER_WRITE, create_writer_disk

MEMORY_MIB = 16
IDLE_VMS = 100
"""For the CPU figure; all others of many VMs are of more, where more are wanted."""
MIB = 1 << 20
LONGEST_CYCLE_S = 60.0
"""On a busy machine too, a cycle is measured whole."""


def warm_up() -> None:
    """Let libvirt measure its emulators, which it does once after it started, before anything is timed."""
    connection = libvirt.open(URI)
    connection.getDomainCapabilities(None, None, None, "qemu")
    connection.getAllDomainStats()
    connection.close()


def _parameters(folder: Path, vm_id: str) -> dict[str, object]:
    disk = folder / f"{vm_id}.img"
    create_writer_disk(disk, 64 * MIB, writes=1)
    return {
        "vmId": vm_id,
        "vmName": f"bench-{vm_id[:8]}",
        "memSize": MEMORY_MIB,
        "kvmEnable": "false",
        "devices": [{"type": "disk", "device": "disk", "iface": "ide", "index": 0, "format": "raw", "path": str(disk)}],
    }


def _status(node: Node, vm_id: str) -> str:
    stats = node.call("VM.getStats", {"vmID": vm_id})
    assert isinstance(stats, list)
    return str(stats[0]["status"])


def create_vm(node: Node, folder: Path) -> str:
    """Create a VM of a boot sector and return its id once its status has left WaitForLaunch."""
    vm_id = str(uuid.uuid4())
    node.call("VM.create", {"vmID": vm_id, "vmParams": _parameters(folder, vm_id)})
    while (status := _status(node, vm_id)) == "WaitForLaunch":
        time.sleep(0.005)
    if status == "Down":
        raise RuntimeError(f"VM {vm_id} is down: {node.call('VM.getStats', {'vmID': vm_id})}")
    return vm_id


def rename(domain: ElementTree.Element, vm_id: str) -> None:
    """Make another VM of one; its id is its name, too."""
    for element in (domain.find("name"), domain.find("uuid"), domain.find("sysinfo/system/entry[@name='uuid']")):
        if element is not None:
            element.text = vm_id
    for seclabel in domain.findall("seclabel"):
        domain.remove(seclabel)


def _create_with_virsh(xml: str, folder: Path) -> float:
    domain = ElementTree.fromstring(xml)  # noqa: S314 - of our own making
    vm_id = str(uuid.uuid4())
    rename(domain, vm_id)
    file = folder / "rival.xml"
    file.write_bytes(ElementTree.tostring(domain))
    start = time.perf_counter()
    virsh("create", str(file))
    took_s = time.perf_counter() - start
    virsh("destroy", vm_id)
    return took_s


def measure_create(node: Node, folder: Path, rounds: int = 7) -> list[Figure]:
    """`VM.create` until the status leaves WaitForLaunch, and `virsh create` of the same XML, in turn."""
    ours, theirs = [], []
    for number in range(rounds + 1):
        start = time.perf_counter()
        vm_id = create_vm(node, folder)
        took_s = time.perf_counter() - start
        xml = virsh("dumpxml", "--inactive", vm_id)
        node.call("VM.destroy", {"vmID": vm_id})
        rival_s = _create_with_virsh(xml, folder)
        if number:  # the first pair warms caches
            ours.append(took_s * 1000)
            theirs.append(rival_s * 1000)
    value, rival = statistics.median(ours), statistics.median(theirs)
    floor, holds = at_most(round(rival + 150), value, "ms")
    return [Figure("VM.create until it runs", value, "ms", "virsh create", rival, floor, holds)]


def _create_until(node: Node, folder: Path, vm_ids: list[str], count: int) -> None:
    """Until there are so many: the next is created when the guest has made its one write, and is idle from then on.

    All that boot at once would keep a small machine from anything else.
    """
    while len(vm_ids) < count:
        vm_ids.append(create_vm(node, folder))
        wait_for(partial(_has_written, folder / f"{vm_ids[-1]}.img"), "the guest is idle")


def _has_written(disk: Path) -> bool:
    return disk.stat().st_blocks * 512 >= SECTORS_PER_WRITE * SECTOR_BYTES


def _remove(node: Node, vm_id: str) -> None:
    """Also where the daemon cannot any more."""
    try:
        node.call("VM.destroy", {"vmID": vm_id})
    except (client.Error, OSError):
        for command in ("destroy", "undefine"):
            with suppress(LibvirtError):
                virsh(command, vm_id)


def measure_many(node: Node, folder: Path, count: int, idle_s: float) -> list[Figure]:
    """Sampling, memory and CPU with so many VMs, and a restart that takes them over."""
    vm_ids: list[str] = []
    try:
        _create_until(node, folder, vm_ids, min(count, IDLE_VMS))
        figures = [_measure_idle(node, len(vm_ids), idle_s)]
        _create_until(node, folder, vm_ids, count)
        figures += measure_sampling(count)
        figures.append(_measure_stats(node, count))
        memory = get_resident_mib(node)
        figures.append(Figure(f"resident memory, {count} VMs", memory, "MiB", "", None, *at_most(150, memory, "MiB")))
        figures.append(_measure_restart(node, vm_ids))
    finally:
        for vm_id in vm_ids:
            _remove(node, vm_id)
    return figures


def measure_sampling(count: int, rounds: int = 9) -> list[Figure]:
    """One sampling cycle beside one bare bulk call, in turn."""

    async def sample() -> tuple[list[float], list[float]]:
        hypervisor = LibvirtHypervisor(URI, sample_timeout_s=LONGEST_CYCLE_S)
        await hypervisor.open()
        connection = libvirt.open(URI)
        ours, theirs = [], []
        for number in range(rounds + 1):
            start = time.perf_counter()
            taken = await hypervisor.sample()
            took_s = time.perf_counter() - start
            if len(taken.stats) < count:
                continue  # a VM that just started is busy and left out: no full cycle to compare
            start = time.perf_counter()
            connection.getAllDomainStats(0, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
            if number:
                ours.append(took_s * 1000)
                theirs.append((time.perf_counter() - start) * 1000)
        connection.close()
        await hypervisor.close()
        return ours, theirs

    ours, theirs = asyncio.run(sample())
    value, rival = statistics.median(ours), statistics.median(theirs)
    floor, holds = at_most(1.3, value / rival, "x")
    return [Figure(f"sampling {count} VMs", value, "ms", "one bulk call", rival, floor, holds)]


def _measure_stats(node: Node, count: int) -> Figure:
    took = []
    for _ in range(9):
        start = time.perf_counter()
        stats = node.call("Host.getAllVmStats")
        took.append((time.perf_counter() - start) * 1000)
        assert isinstance(stats, list) and len(stats) >= count
    value = statistics.median(took)
    return Figure(
        f"Host.getAllVmStats of {count} VMs, connecting included", value, "ms", "", None, *at_most(50, value, "ms")
    )


def _find_libvirtd() -> psutil.Process:
    """The system's: hosts in namespaces have theirs, too."""
    return psutil.Process(int(Path("/run/libvirtd.pid").read_text()))


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def get_resident_mib(node: Node) -> float:
    """Resident memory of vdsmd."""
    assert node.process is not None
    return float(psutil.Process(node.process.pid).memory_info().rss / MIB)


def _measure_idle(node: Node, count: int, idle_s: float) -> Figure:
    assert node.process is not None
    vdsmd, libvirtd = psutil.Process(node.process.pid), _find_libvirtd()
    before, rival_before, start = _cpu_s(vdsmd), _cpu_s(libvirtd), time.perf_counter()
    time.sleep(idle_s)
    elapsed_s = time.perf_counter() - start
    value = (_cpu_s(vdsmd) - before) / elapsed_s * 100
    rival = (_cpu_s(libvirtd) - rival_before) / elapsed_s * 100
    return Figure(f"CPU of vdsmd, {count} idle VMs", value, "%", "libvirtd beside it", rival, *at_most(5, value, "%"))


def _measure_restart(node: Node, vm_ids: list[str]) -> Figure:
    assert node.process is not None
    node.process.kill()
    node.process.wait()
    start = time.perf_counter()
    node.start()
    value = time.perf_counter() - start
    known = {vm["vmId"] for vm in json.loads(json.dumps(node.call("Host.getVMList")))}
    assert known >= set(vm_ids), "VMs were not taken over"
    return Figure(f"restart until {len(vm_ids)} VMs are known", value, "s", "", None, *at_most(5, value, "s"))
