"""Figures out of two looks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from vdsm.api.host_types import NetworkStatistics
from vdsm.host.ports import VmCounts
from vdsm.host.samples import CpuTimes, ProcessTimes, take_sample
from vdsm.host.stats import Load, Moment, get_cpu_load, get_process_load, make_stats

MOMENT = Moment(
    elapsed_s=60.0,
    sample_age_s=1.0,
    date_time="2023-11-14T22:13:20 GMT",
    vms=VmCounts(vms=5, vms_active=4, vms_migrating=2, incoming_migrations=1, outgoing_migrations=1),
    storage_domains={},
)


@pytest.fixture
def look(machine):
    return take_sample(machine("two-sockets"), now_s=100.0, ksmd_pid=212, disks={})


def test_load_between_two_looks() -> None:
    load = get_cpu_load(CpuTimes(1000, 500, 10000), CpuTimes(1030, 510, 10100))
    assert (load.user, load.system, load.idle) == (30.0, 10.0, 60.0)


def test_load_since_boot_without_time_between() -> None:
    now = CpuTimes(20, 10, 100)
    assert get_cpu_load(None, now) == get_cpu_load(now, now) == Load(20.0, 10.0)
    assert get_cpu_load(None, CpuTimes()) == Load(0.0, 0.0)


times = st.builds(CpuTimes, *[st.integers(0, 10**9)] * 3)


@given(times, times)
def test_no_counters_make_a_negative_figure(before: CpuTimes, after: CpuTimes) -> None:
    load = get_cpu_load(before, after)
    assert load.user >= 0 and load.system >= 0 and 0 <= load.idle <= 100


def test_a_process_is_measured_against_one_cpu() -> None:
    then, now = ProcessTimes(100, 50, 7), ProcessTimes(250, 80, 7)
    assert get_process_load(then, now, 1.5, 999.0) == Load(100.0, 20.0)


def test_a_process_that_is_new_is_measured_since_it_started() -> None:
    now = ProcessTimes(250, 50, started=10_000)
    for then in (None, ProcessTimes(9999, 9999, started=3)):
        assert get_process_load(then, now, 15.0, uptime_s=110.0) == Load(25.0, 5.0)
    assert get_process_load(None, None, 15.0, 110.0) is None
    assert get_process_load(None, now, 0.0, uptime_s=100.0) is None


def test_figures_of_one_look_are_averages_since_boot(look) -> None:
    stats = make_stats(None, look, NetworkStatistics(), MOMENT)
    assert (stats.cpu_user_percent, stats.cpu_system_percent, stats.cpu_idle_percent) == (11.0, 4.5, 84.5)
    assert stats.cpus["6"].numa_node == 1
    assert stats.cpus["6"].idle_percent == 84.5
    assert (stats.daemon_user_percent, stats.daemon_system_percent) == (1.5, 0.5)
    assert stats.ksm_cpu_percent == 3
    assert stats.network is UNSET, "no look at the networks, no figures"


def test_figures_of_two_looks(look) -> None:
    after = replace(
        look,
        taken_at_s=110.0,
        cpu=CpuTimes(look.cpu.user + 3500, look.cpu.system + 700, look.cpu.total + 7000),
        cpus={**look.cpus, 5: CpuTimes(50, 50, 200)},
        daemon=ProcessTimes(1500 + 20, 500 + 10, 100000),
    )
    stats = make_stats(look, after, NetworkStatistics(), MOMENT)
    assert (stats.cpu_user_percent, stats.cpu_system_percent, stats.cpu_idle_percent) == (50.0, 10.0, 40.0)
    assert (stats.daemon_user_percent, stats.daemon_system_percent) == (2.0, 1.0)
    assert stats.cpus["5"].user_percent == 25.0, "a processor that was just switched on counts from its start"


def test_memory_and_merging(look) -> None:
    stats = make_stats(None, look, NetworkStatistics(), MOMENT)
    assert (stats.memory_used_percent, stats.memory_free_mib) == (57, 14336)
    assert (stats.swap_total_mib, stats.swap_free_mib, stats.anonymous_hugepages_mib) == (8191, 7812, 2048)
    assert (stats.ksm_running, stats.ksm_pages_to_scan, stats.ksm_merge_across_nodes) == (True, 600, False)
    assert stats.ksm_shared_mib == 1024
    assert stats.hugepages["2048"].free == 900
    assert stats.numa_memory["1"].free_mib == 2048


def test_what_the_kernel_does_not_have_is_absent(look) -> None:
    bare = replace(look, ksm={}, daemon=None, ksmd=None, load=UNSET)
    stats = make_stats(None, bare, NetworkStatistics(), MOMENT)
    for figure in (stats.ksm_running, stats.ksm_pages_to_scan, stats.ksm_merge_across_nodes, stats.ksm_shared_mib):
        assert figure is UNSET
    for figure in (stats.ksm_cpu_percent, stats.daemon_user_percent, stats.load):
        assert figure is UNSET


def test_merging_that_only_undoes_is_not_running(look) -> None:
    stats = make_stats(None, replace(look, ksm={**look.ksm, "run": 2}), NetworkStatistics(), MOMENT)
    assert stats.ksm_running is False


def test_counts_and_the_absent_manager_of_policies(look) -> None:
    stats = make_stats(None, look, NetworkStatistics(), MOMENT)
    assert (stats.vms, stats.vms_active, stats.vms_migrating) == (5, 4, 2)
    assert (stats.incoming_migrations, stats.outgoing_migrations) == (1, 1)
    assert (stats.policy_status, stats.hosted_engine.configured) == ("inactive", False)
    assert stats.boot_time_s == 1700000000
