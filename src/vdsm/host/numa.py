"""NUMA nodes: their memory, their distances, and whether the kernel balances between them."""

from typing import Literal

from vdsm.api.host_types import NumaHugepages, NumaHugepageStats, NumaMemoryStats, NumaNode
from vdsm.host.cpu import list_nodes
from vdsm.host.memory import get_used_percent, list_hugepage_sizes, parse_meminfo
from vdsm.host.ports import Files

_NODES = "/sys/devices/system/node"


def read_nodes(files: Files) -> dict[str, NumaNode]:
    """The nodes by number, with the memory that each has."""
    return {
        str(number): NumaNode(
            cpus=list(cpus),
            memory_mib=_read_meminfo(files, number).get("MemTotal", 0) // 1024,
            hugepages={
                str(size): NumaHugepages(pages=_read_pages(files, number, size, "nr_hugepages"))
                for size in list_hugepage_sizes(files, _hugepages(number))
            },
        )
        for number, cpus in list_nodes(files).items()
    }


def read_memory(files: Files) -> dict[str, NumaMemoryStats]:
    """The nodes by number, with the memory that each has left."""
    found = {}
    for number in list_nodes(files):
        meminfo = _read_meminfo(files, number)
        free_kib = meminfo.get("MemFree", 0)
        found[str(number)] = NumaMemoryStats(
            free_mib=free_kib // 1024,
            used_percent=get_used_percent(free_kib, meminfo.get("MemTotal", 0)),
            hugepages={
                str(size): NumaHugepageStats(free_pages=_read_pages(files, number, size, "free_hugepages"))
                for size in list_hugepage_sizes(files, _hugepages(number))
            },
        )
    return found


def read_distances(files: Files) -> dict[str, list[int]]:
    """For each node its distance to every node, itself first having 10."""
    return {
        str(number): [int(word) for word in (files.read(f"{_NODES}/node{number}/distance") or "").split()]
        for number in list_nodes(files)
    }


def read_balancing(files: Files) -> Literal[0, 1, 2]:
    """0 off, 1 on, 2 unknown."""
    match files.read_number("/proc/sys/kernel/numa_balancing"):
        case None:
            return 2
        case 0:
            return 0
        case _:
            return 1


def _read_meminfo(files: Files, node: int) -> dict[str, int]:
    return parse_meminfo(files.read(f"{_NODES}/node{node}/meminfo") or "")


def _hugepages(node: int) -> str:
    return f"{_NODES}/node{node}/hugepages"


def _read_pages(files: Files, node: int, size_kib: int, name: str) -> int:
    return files.read_number(f"{_hugepages(node)}/hugepages-{size_kib}kB/{name}") or 0
