"""Memory: what the kernel tells of it, huge pages and page merging; per-node figures are left to `numa`."""

import os
from collections.abc import Mapping

from msgspec import UNSET

from vdsm.api.host_types import HugepageStats
from vdsm.host.ports import Files

_HUGEPAGES = "/sys/kernel/mm/hugepages"
_KSM = "/sys/kernel/mm/ksm"
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MIB_BYTES = 1024 * 1024


def parse_meminfo(text: str) -> dict[str, int]:
    """/proc/meminfo, or a node's, by name: sizes in KiB, the huge page counters as they are."""
    figures = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        words = value.split()
        if colon and words and words[0].isdecimal():
            figures[name.split()[-1]] = int(words[0])
    return figures


def get_free_kib(meminfo: Mapping[str, int]) -> int:
    """What the kernel could give away at once: free, or cache that it can drop (facts §4.3)."""
    return sum(meminfo.get(name, 0) for name in ("MemFree", "Cached", "Buffers", "SReclaimable"))


def get_used_percent(free_kib: int, total_kib: int) -> int:
    """The part that is not free, in whole percent rounded up."""
    return 100 - 100 * free_kib // total_kib if total_kib else 0


def list_hugepage_sizes(files: Files, folder: str = _HUGEPAGES) -> list[int]:
    """The sizes of huge pages that the kernel has, in KiB, ascending; `folder` may be a NUMA node's."""
    names = files.list_names(folder)
    return sorted(int(name[10:-2]) for name in names if name.startswith("hugepages-") and name.endswith("kB"))


def read_hugepages(files: Files) -> dict[str, HugepageStats]:
    """The counters of huge pages by size in KiB."""
    return {str(size): _read_counters(files, f"{_HUGEPAGES}/hugepages-{size}kB") for size in list_hugepage_sizes(files)}


def _read_counters(files: Files, folder: str) -> HugepageStats:
    def read(name: str) -> int:
        return files.read_number(f"{folder}/{name}") or 0

    mempolicy = files.read_number(f"{folder}/nr_hugepages_mempolicy")
    return HugepageStats(
        pages=read("nr_hugepages"),
        free=read("free_hugepages"),
        reserved=read("resv_hugepages"),
        surplus=read("surplus_hugepages"),
        overcommit=read("nr_overcommit_hugepages"),
        mempolicy=UNSET if mempolicy is None else mempolicy,
        free_for_vms=read("free_hugepages"),  # none are kept for others
    )


def read_ksm(files: Files) -> dict[str, int]:
    """run, pages_to_scan, merge_across_nodes and pages_sharing of page merging; empty where it is not built in."""
    names = ("run", "pages_to_scan", "merge_across_nodes", "pages_sharing")
    numbers = {name: files.read_number(f"{_KSM}/{name}") for name in names}
    return {name: number for name, number in numbers.items() if number is not None}
