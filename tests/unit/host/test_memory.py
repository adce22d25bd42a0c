"""Memory, huge pages and page merging on recorded machines."""

from vdsm.adapters.procfs import MachineFiles
from vdsm.host.memory import (
    get_free_kib,
    get_used_percent,
    list_hugepage_sizes,
    parse_meminfo,
    read_hugepages,
    read_ksm,
)
from vdsm.host.numa import read_balancing, read_distances, read_memory, read_nodes


def test_meminfo_of_the_machine_and_of_a_node() -> None:
    assert parse_meminfo("MemTotal:  100 kB\nActive(anon): 7 kB\nHugePages_Total:  3\nnonsense\n") == {
        "MemTotal": 100,
        "Active(anon)": 7,
        "HugePages_Total": 3,
    }
    assert parse_meminfo("Node 1 MemFree:  42 kB") == {"MemFree": 42}


def test_free_memory_counts_what_can_be_dropped(machine) -> None:
    meminfo = parse_meminfo(machine("two-sockets").read("/proc/meminfo"))
    free_kib = get_free_kib(meminfo)
    assert free_kib == 8388608 + 4194304 + 1048576 + 1048576
    assert get_used_percent(free_kib, meminfo["MemTotal"]) == 57  # 56.25 % is used: rounded up


def test_a_machine_without_memory_figures_is_not_full() -> None:
    assert get_used_percent(0, 0) == 0


def test_hugepages_are_counted_by_size(machine) -> None:
    files = machine("two-sockets")
    assert list_hugepage_sizes(files) == [2048, 1048576]
    small = read_hugepages(files)["2048"]
    assert (small.pages, small.free, small.reserved, small.overcommit, small.mempolicy) == (1024, 900, 10, 4, 1024)
    assert small.free_for_vms == 900


def test_page_merging(machine) -> None:
    assert read_ksm(machine("two-sockets")) == {
        "run": 1,
        "pages_to_scan": 600,
        "merge_across_nodes": 0,
        "pages_sharing": 262144,
    }


def test_nodes_have_their_own_memory_and_pages(machine) -> None:
    files = machine("two-sockets")
    nodes = read_nodes(files)
    assert {name: (node.cpus, node.memory_mib) for name, node in nodes.items()} == {
        "0": ([0, 1, 2, 3], 16384),
        "1": ([4, 6, 7], 16384),
    }
    assert nodes["1"].hugepages["1048576"].pages == 1
    memory = read_memory(files)
    assert (memory["0"].free_mib, memory["0"].used_percent) == (4096, 75)
    assert (memory["1"].free_mib, memory["1"].used_percent) == (2048, 88)
    assert memory["1"].hugepages["2048"].free_pages == 400


def test_distances_and_balancing(machine, tmp_path) -> None:
    files = machine("two-sockets")
    assert read_distances(files) == {"0": [10, 21], "1": [21, 10]}
    assert read_balancing(files) == 1
    assert read_balancing(machine("small-vm")) == 0
    assert read_balancing(MachineFiles(tmp_path / "nothing")) == 2
