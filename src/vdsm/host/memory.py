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


def read_hugepages(files: Files, reserved: Mapping[int, int]) -> dict[str, HugepageStats]:
    """The counters of huge pages by size in KiB; `reserved` pages by size are not for VMs."""
    found = {}
    for size in list_hugepage_sizes(files):
        counters = {name: files.read_number(f"{_HUGEPAGES}/hugepages-{size}kB/{name}") for name in _COUNTERS}
        free = counters["free_hugepages"] or 0
        mempolicy = counters["nr_hugepages_mempolicy"]
        found[str(size)] = HugepageStats(
            pages=counters["nr_hugepages"] or 0,
            free=free,
            reserved=counters["resv_hugepages"] or 0,
            surplus=counters["surplus_hugepages"] or 0,
            overcommit=counters["nr_overcommit_hugepages"] or 0,
            mempolicy=UNSET if mempolicy is None else mempolicy,
            free_for_vms=max(0, free - reserved.get(size, 0)),
        )
    return found


_COUNTERS = (
    "nr_hugepages",
    "free_hugepages",
    "resv_hugepages",
    "surplus_hugepages",
    "nr_overcommit_hugepages",
    "nr_hugepages_mempolicy",
)


def read_ksm(files: Files) -> dict[str, int]:
    """run, pages_to_scan, merge_across_nodes and pages_sharing of page merging; empty where it is not built in."""
    names = ("run", "pages_to_scan", "merge_across_nodes", "pages_sharing")
    numbers = {name: files.read_number(f"{_KSM}/{name}") for name in names}
    return {name: number for name, number in numbers.items() if number is not None}
