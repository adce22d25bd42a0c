"""From looks at the counters to figures (facts §4.3).

With one look only, the CPU figures are averages since the machine's (or the daemon's) start, as `vmstat` prints them:
true from the first answer on.
"""

from collections.abc import Mapping

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import asdict

from vdsm.api.host_types import CpuCoreStats, HostedEngineStats, HostStats, NetworkStatistics, StorageDomainVitals
from vdsm.host.memory import MIB_BYTES, PAGE_BYTES, get_free_kib, get_used_percent
from vdsm.host.ports import VmCounts
from vdsm.host.samples import TICKS_PER_S, CpuTimes, HostSample, ProcessTimes

NO_HOSTED_ENGINE = HostedEngineStats(
    configured=False, active=False, score=0, global_maintenance=False, local_maintenance=False
)


class Load(Struct, frozen=True):
    """Percent of a processor's time."""

    user: float
    system: float

    @property
    def idle(self) -> float:
        return max(0.0, 100.0 - self.user - self.system)


class Moment(Struct, frozen=True):
    """What is known at the moment of the question, beside the samples."""

    elapsed_s: float
    sample_age_s: float
    date_time: str
    vms: VmCounts
    storage_domains: dict[str, StorageDomainVitals]


def get_cpu_load(before: CpuTimes | None, after: CpuTimes) -> Load:
    """The load between two looks, or since boot when no time is between them; a counter that ran back stood still."""
    start = before if before is not None and before.total < after.total else CpuTimes()
    total = after.total - start.total
    if total <= 0:
        return Load(0.0, 0.0)
    return Load(_percent(after.user - start.user, total), _percent(after.system - start.system, total))


def get_process_load(
    then: ProcessTimes | None, now: ProcessTimes | None, elapsed_s: float, uptime_s: float
) -> Load | None:
    """The load that a process put on one CPU between two looks, or since it started when it is new; None without it."""
    if now is None:
        return None
    if then is not None and then.started == now.started and elapsed_s > 0:
        ticks = elapsed_s * TICKS_PER_S
        return Load(_percent(now.user - then.user, ticks), _percent(now.system - then.system, ticks))
    ticks = uptime_s * TICKS_PER_S - now.started
    return Load(_percent(now.user, ticks), _percent(now.system, ticks)) if ticks > 0 else None


def get_core_loads(before: HostSample | None, after: HostSample) -> dict[str, CpuCoreStats]:
    """The load of each logical CPU that is on."""
    found = {}
    for cpu, times in after.cpus.items():
        load = get_cpu_load(before.cpus.get(cpu) if before else None, times)
        found[str(cpu)] = CpuCoreStats(
            numa_node=after.node_of.get(cpu, 0),
            user_percent=load.user,
            system_percent=load.system,
            idle_percent=load.idle,
        )
    return found


def _percent(part: float, whole: float) -> float:
    return max(0.0, 100.0 * part / whole)


def _get_merged_mib(ksm: Mapping[str, int]) -> int | UnsetType:
    return ksm["pages_sharing"] * PAGE_BYTES // MIB_BYTES if "pages_sharing" in ksm else UNSET


def _get_flag(ksm: Mapping[str, int], name: str) -> bool | UnsetType:
    # run is 0 off, 1 on, 2 off and everything unmerged
    return ksm[name] == 1 if name in ksm else UNSET


def make_stats(before: HostSample | None, after: HostSample, networks: NetworkStatistics, moment: Moment) -> HostStats:
    """Every figure of `Host.getStats` from the last look, the one before it, and what is known now."""
    cpu = get_cpu_load(before.cpu if before else None, after.cpu)
    elapsed_s = after.taken_at_s - before.taken_at_s if before else 0.0
    daemon = get_process_load(before.daemon if before else None, after.daemon, elapsed_s, after.uptime_s)
    ksmd = get_process_load(before.ksmd if before else None, after.ksmd, elapsed_s, after.uptime_s)
    free_kib = get_free_kib(after.meminfo)
    ksm = after.ksm
    return HostStats(
        **asdict(networks),
        cpu_user_percent=cpu.user,
        cpu_system_percent=cpu.system,
        cpu_idle_percent=cpu.idle,
        daemon_user_percent=daemon.user if daemon else UNSET,
        daemon_system_percent=daemon.system if daemon else UNSET,
        load=after.load,
        elapsed_s=moment.elapsed_s,
        sample_age_s=moment.sample_age_s,
        memory_used_percent=get_used_percent(free_kib, after.meminfo.get("MemTotal", 0)),
        memory_free_mib=free_kib // 1024,
        swap_total_mib=after.meminfo.get("SwapTotal", 0) // 1024,
        swap_free_mib=after.meminfo.get("SwapFree", 0) // 1024,
        anonymous_hugepages_mib=after.meminfo.get("AnonHugePages", 0) // 1024,
        hugepages=dict(after.hugepages),
        disks=dict(after.disks),
        transparent_hugepages=after.hugepage_mode,
        boot_time_s=after.boot_time_s,
        numa_memory=dict(after.numa_memory),
        cpus=get_core_loads(before, after),
        storage_domains=moment.storage_domains,
        **asdict(moment.vms),
        date_time=moment.date_time,
        policy_status="inactive",
        ksm_running=_get_flag(ksm, "run"),
        ksm_pages_to_scan=ksm.get("pages_to_scan", UNSET),
        ksm_merge_across_nodes=_get_flag(ksm, "merge_across_nodes"),
        ksm_shared_mib=_get_merged_mib(ksm),
        ksm_cpu_percent=int(ksmd.user + ksmd.system) if ksmd else UNSET,
        uncommitted_changes=False,  # no network can be changed yet
        hosted_engine=NO_HOSTED_ENGINE,
    )
