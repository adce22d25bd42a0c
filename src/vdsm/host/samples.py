"""One look at the machine's counters; what two looks say together is left to `stats`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from vdsm.api.host_types import HugepageStats, NumaMemoryStats, PathStats
from vdsm.host.cpu import list_nodes
from vdsm.host.memory import MIB_BYTES, parse_meminfo, read_hugepages, read_ksm
from vdsm.host.numa import read_memory
from vdsm.host.ports import Files

TICKS_PER_S = os.sysconf("SC_CLK_TCK")

HugepageMode = Literal["always", "madvise", "never"]


class CpuTimes(Struct, frozen=True):
    """Ticks since boot: `user` with nice, `system` with interrupts and stolen time, `total` with idle."""

    user: int = 0
    system: int = 0
    total: int = 0


class ProcessTimes(Struct, frozen=True):
    """Ticks that a process has used, and the tick of the uptime at which it started."""

    user: int
    system: int
    started: int


class HostSample(Struct, frozen=True):
    """One look. `taken_at_s` is of the monotonic clock, `uptime_s` the machine's own."""

    taken_at_s: float
    uptime_s: float
    cpu: CpuTimes
    cpus: Mapping[int, CpuTimes]
    node_of: Mapping[int, int]
    daemon: ProcessTimes | None
    ksmd: ProcessTimes | None
    load: float | UnsetType
    meminfo: Mapping[str, int]
    ksm: Mapping[str, int]
    hugepages: Mapping[str, HugepageStats]
    disks: Mapping[str, PathStats]
    hugepage_mode: HugepageMode | UnsetType
    boot_time_s: int | UnsetType
    numa_memory: Mapping[str, NumaMemoryStats]


def parse_cpu_times(stat: str) -> tuple[CpuTimes, dict[int, CpuTimes]]:
    """The CPU lines of /proc/stat: all together, and each that is on. Guest time is in user time already."""
    found: dict[str, CpuTimes] = {}
    for line in stat.splitlines():
        name, *words = line.split()
        if not name.startswith("cpu"):
            break
        user, nice, system, idle, iowait, irq, softirq, steal = [*map(int, words[:8]), *[0] * 8][:8]
        busy = system + irq + softirq + steal
        found[name[3:]] = CpuTimes(user + nice, busy, user + nice + busy + idle + iowait)
    return found.pop("", CpuTimes()), {int(name): times for name, times in found.items()}


def parse_boot_time(stat: str) -> int | UnsetType:
    """When the machine was started, in seconds since the epoch."""
    for line in stat.splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    return UNSET


def parse_process_times(stat: str) -> ProcessTimes:
    """/proc/PID/stat; the command's name may hold anything, blanks and brackets too."""
    words = stat.rpartition(")")[2].split()
    return ProcessTimes(int(words[11]), int(words[12]), int(words[19]))


def parse_hugepage_mode(text: str) -> HugepageMode | UnsetType:
    """The mode in brackets of `always [madvise] never`."""
    modes: tuple[HugepageMode, ...] = ("always", "madvise", "never")
    return next((mode for mode in modes if f"[{mode}]" in text), UNSET)


def find_ksmd(files: Files) -> int | None:
    """The process id of the kernel's page merging thread."""
    for name in files.list_names("/proc"):
        if name.isdecimal() and files.read(f"/proc/{name}/comm") == "ksmd":
            return int(name)
    return None


def take_sample(files: Files, *, now_s: float, ksmd_pid: int | None, disks: Mapping[str, Path]) -> HostSample:
    """Look once at everything; `disks` are folders by the name that they are reported under. Blocks."""
    stat = files.read("/proc/stat") or ""
    cpu, cpus = parse_cpu_times(stat)
    return HostSample(
        taken_at_s=now_s,
        uptime_s=_read_first(files, "/proc/uptime", 0.0),
        cpu=cpu,
        cpus=cpus,
        node_of={cpu_number: node for node, numbers in list_nodes(files).items() for cpu_number in numbers},
        daemon=_read_process(files, "self"),
        ksmd=None if ksmd_pid is None else _read_process(files, str(ksmd_pid)),
        load=_read_load(files),
        meminfo=parse_meminfo(files.read("/proc/meminfo") or ""),
        ksm=read_ksm(files),
        hugepages=read_hugepages(files),
        disks=_read_disks(files, disks),
        hugepage_mode=parse_hugepage_mode(files.read("/sys/kernel/mm/transparent_hugepage/enabled") or ""),
        boot_time_s=parse_boot_time(stat),
        numa_memory=read_memory(files),
    )


def _read_first(files: Files, path: str, otherwise: float) -> float:
    words = (files.read(path) or "").split()
    return float(words[0]) if words else otherwise


def _read_load(files: Files) -> float | UnsetType:
    words = (files.read("/proc/loadavg") or "").split()
    return float(words[1]) if len(words) > 1 else UNSET  # the average of five minutes


def _read_process(files: Files, name: str) -> ProcessTimes | None:
    stat = files.read(f"/proc/{name}/stat")
    return parse_process_times(stat) if stat else None


def _read_disks(files: Files, disks: Mapping[str, Path]) -> dict[str, PathStats]:
    room = {name: files.free_bytes(path) for name, path in disks.items()}
    return {name: PathStats(free_mib=free // MIB_BYTES) for name, free in room.items() if free is not None}
