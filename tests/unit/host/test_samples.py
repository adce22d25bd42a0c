"""Counters out of /proc."""

import pytest
from msgspec import UNSET

from vdsm.adapters.procfs import MachineFiles
from vdsm.host.samples import (
    CpuTimes,
    ProcessTimes,
    find_ksmd,
    parse_boot_time,
    parse_cpu_times,
    parse_hugepage_mode,
    parse_process_times,
    take_sample,
)


def test_user_has_nice_and_system_has_interrupts_and_stolen_time() -> None:
    #                              user nice sys idle iowait irq softirq steal guest guest_nice
    all_cpus, cpus = parse_cpu_times("cpu  10 1 20 70 5 2 3 4 6 1\ncpu0 10 1 20 70 5 2 3 4 6 1\nintr 99\ncpu1 1 1 1 1")
    assert all_cpus == CpuTimes(user=11, system=29, total=115)
    assert cpus == {0: all_cpus}


def test_an_old_kernel_has_fewer_columns() -> None:
    assert parse_cpu_times("cpu  10 1 20 70")[0] == CpuTimes(user=11, system=20, total=101)
    assert parse_cpu_times("") == (CpuTimes(), {})


def test_a_process_may_be_called_anything() -> None:
    stat = "77 (a) b (c d) S 1 2 3 4 5 6 7 8 9 10 310 120 0 0 20 0 8 0 190000 3 4"
    assert parse_process_times(stat) == ProcessTimes(user=310, system=120, started=190000)


@pytest.mark.parametrize(
    ("text", "mode"), [("[always] madvise never", "always"), ("always madvise [never]", "never"), ("", UNSET)]
)
def test_mode_of_transparent_pages(text: str, mode: object) -> None:
    assert parse_hugepage_mode(text) == mode


def test_boot_time() -> None:
    assert parse_boot_time("cpu 1\nbtime 1700000000\nprocesses 3") == 1700000000
    assert parse_boot_time("cpu 1") is UNSET


def test_the_merging_thread_is_found_by_its_name(machine) -> None:
    assert find_ksmd(machine("two-sockets")) == 212
    assert find_ksmd(machine("small-vm")) is None


def test_one_look_at_everything(machine, tmp_path) -> None:
    sample = take_sample(
        machine("two-sockets"),
        now_s=5.0,
        ksmd_pid=212,
        disks={"/tmp": tmp_path, "/run/vdsm": tmp_path / "is not there"},
    )
    assert (sample.taken_at_s, sample.uptime_s, sample.load) == (5.0, 2000.0, 2.5)
    assert sorted(sample.cpus) == [0, 1, 2, 3, 4, 6, 7]
    assert (sample.node_of[3], sample.node_of[6]) == (0, 1)
    assert sample.ksmd == ProcessTimes(user=0, system=6000, started=310)
    assert sample.hugepage_mode == "always"
    assert list(sample.disks) == ["/tmp"], "a folder that cannot be asked has no figure"


def test_a_look_at_nothing_invents_nothing(tmp_path) -> None:
    sample = take_sample(MachineFiles(tmp_path), now_s=1.0, ksmd_pid=7, disks={})
    assert sample.load is UNSET and sample.boot_time_s is UNSET and sample.hugepage_mode is UNSET
    assert sample.daemon is None and sample.ksmd is None
    assert not (sample.cpus or sample.meminfo or sample.ksm or sample.hugepages or sample.numa_memory)
