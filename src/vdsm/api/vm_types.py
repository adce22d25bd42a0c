"""Statistics of virtual machines as the surface gives them; figures that are not known are absent."""

from typing import Annotated, Literal

from msgspec import UNSET, Struct, UnsetType

from vdsm.api.declare import Figure, Number, Text, ovirt
from vdsm.api.guest import GuestContainer, GuestInterface, GuestMount, GuestOs, GuestPciDevice, GuestTimezone


class DisplayInfo(Struct, frozen=True, kw_only=True):
    """One display: ports as libvirt prints them, `-1` for none and empty when there is no such attribute."""

    type: str
    port: str
    tls_port: Annotated[str, ovirt("tlsPort")]
    address: Annotated[str, ovirt("ipAddress")]


class BalloonInfo(Struct, frozen=True, kw_only=True):
    """The memory balloon, in KiB."""

    maximum_kib: Annotated[Number, ovirt("balloon_max", as_=str)] = UNSET
    minimum_kib: Annotated[Number, ovirt("balloon_min", as_=str)] = UNSET
    current_kib: Annotated[Number, ovirt("balloon_cur", as_=str)] = UNSET
    target_kib: Annotated[Number, ovirt("balloon_target", as_=str)] = UNSET
    enabled: Annotated[bool, ovirt("ballooning_enabled")] = True


class GuestMemory(Struct, frozen=True, kw_only=True):
    """Memory as the guest sees it; sizes in KiB, the rest events a second."""

    total_kib: Annotated[Number, ovirt("mem_total", as_=str)] = UNSET
    unused_kib: Annotated[Number, ovirt("mem_unused", as_=str)] = UNSET
    free_kib: Annotated[Number, ovirt("mem_free", as_=str)] = UNSET
    buffers_kib: Annotated[Number, ovirt("mem_buffers", as_=str)] = UNSET
    cached_kib: Annotated[Number, ovirt("mem_cached", as_=str)] = UNSET
    swap_in_per_s: Annotated[Number, ovirt("swap_in")] = UNSET
    swap_out_per_s: Annotated[Number, ovirt("swap_out")] = UNSET
    major_faults_per_s: Annotated[Number, ovirt("majflt")] = UNSET
    minor_faults_per_s: Annotated[Number, ovirt("minflt")] = UNSET
    faults_per_s: Annotated[Number, ovirt("pageflt")] = UNSET


class VmNetworkStats(Struct, frozen=True, kw_only=True):
    """Counters of one network card, seen from the host."""

    name: str
    mac_address: Annotated[str, ovirt("macAddr")]
    speed_mbps: Annotated[int, ovirt("speed", as_=str)]
    state: str
    received_bytes: Annotated[int, ovirt("rx", as_=str)]
    sent_bytes: Annotated[int, ovirt("tx", as_=str)]
    receive_errors: Annotated[int, ovirt("rxErrors", as_=str)]
    send_errors: Annotated[int, ovirt("txErrors", as_=str)]
    receive_dropped: Annotated[int, ovirt("rxDropped", as_=str)]
    send_dropped: Annotated[int, ovirt("txDropped", as_=str)]
    sample_time_s: Annotated[float, ovirt("sampleTime")]


class VmDiskStats(Struct, frozen=True, kw_only=True):
    """Counters and sizes of one disk; rates in bytes a second, latencies in ns a request."""

    allocated_bytes: Annotated[Number, ovirt("truesize", as_=str)] = UNSET
    size_bytes: Annotated[Number, ovirt("apparentsize", as_=str)] = UNSET
    image_id: Annotated[Text, ovirt("imageID")] = UNSET
    lun_id: Annotated[Text, ovirt("lunGUID")] = UNSET
    read_bytes_per_s: Annotated[float, ovirt("readRate", as_=str)] = 0.0
    write_bytes_per_s: Annotated[float, ovirt("writeRate", as_=str)] = 0.0
    read_latency_ns: Annotated[float, ovirt("readLatency", as_=str)] = 0.0
    write_latency_ns: Annotated[float, ovirt("writeLatency", as_=str)] = 0.0
    flush_latency_ns: Annotated[float, ovirt("flushLatency", as_=str)] = 0.0
    reads: Annotated[int, ovirt("readOps", as_=str)] = 0
    writes: Annotated[int, ovirt("writeOps", as_=str)] = 0
    read_bytes: Annotated[int, ovirt("readBytes", as_=str)] = 0
    written_bytes: Annotated[int, ovirt("writtenBytes", as_=str)] = 0


class VmDiskLimits(Struct, frozen=True, kw_only=True):
    """What a disk may move in a second; 0 for any amount."""

    total_bytes_per_s: Annotated[int, ovirt("total_bytes_sec", as_=str)] = 0
    read_bytes_per_s: Annotated[int, ovirt("read_bytes_sec", as_=str)] = 0
    write_bytes_per_s: Annotated[int, ovirt("write_bytes_sec", as_=str)] = 0
    total_operations_per_s: Annotated[int, ovirt("total_iops_sec", as_=str)] = 0
    read_operations_per_s: Annotated[int, ovirt("read_iops_sec", as_=str)] = 0
    write_operations_per_s: Annotated[int, ovirt("write_iops_sec", as_=str)] = 0


class VmDiskTune(Struct, frozen=True, kw_only=True):
    """A disk that is limited, by its name and its path."""

    name: str
    path: str
    limits: Annotated[VmDiskLimits, ovirt("ioTune")]


class WatchdogEvent(Struct, frozen=True, kw_only=True):
    """The last bite of the VM's watchdog."""

    time_s: Annotated[float, ovirt("time")]
    action: str


class BlockJob(Struct, frozen=True, kw_only=True):
    """A live merge (facts §2.15): how much of a layer of the disk is written into the one below; speed in MiB/s."""

    job_id: Annotated[str, ovirt("id")]
    job_type: Annotated[str, ovirt("jobType")] = "block"
    kind: Annotated[str, ovirt("blockJobType")] = "commit"
    disk: Annotated[str, ovirt("drive")]
    image_id: Annotated[str, ovirt("imgUUID")]
    bandwidth_mib: Annotated[int, ovirt("bandwidth")]
    done_bytes: Annotated[int, ovirt("cur", as_=str)]
    end_bytes: Annotated[int, ovirt("end", as_=str)]


class VmStats(Struct, frozen=True, kw_only=True):
    """Figures of one VM (facts §3.2); of one that is down only the first ones."""

    vm_id: Annotated[str, ovirt("vmId")]
    status: str
    status_time_ms: Annotated[int, ovirt("statusTime", as_=str)]
    exit_code: Annotated[Number, ovirt("exitCode")] = UNSET
    exit_message: Annotated[Text, ovirt("exitMessage")] = UNSET
    exit_reason: Annotated[Number, ovirt("exitReason")] = UNSET
    name: Annotated[Text, ovirt("vmName")] = UNSET
    vm_type: Annotated[Text, ovirt("vmType")] = UNSET
    kvm: Annotated[bool | UnsetType, ovirt("kvmEnable", as_=str)] = UNSET
    acpi: Annotated[bool | UnsetType, ovirt("acpiEnable", as_=str)] = UNSET
    elapsed_s: Annotated[Number, ovirt("elapsedTime", as_=str)] = UNSET
    monitor_response: Annotated[Number, ovirt("monitorResponse", as_=str)] = UNSET
    sample_age_s: Annotated[Figure, ovirt("sampleAge")] = UNSET
    client_address: Annotated[Text, ovirt("clientIp")] = UNSET
    time_offset_s: Annotated[Number, ovirt("timeOffset", as_=str)] = UNSET
    pause_code: Annotated[Text, ovirt("pauseCode")] = UNSET
    migration_progress: Annotated[Number, ovirt("migrationProgress")] = UNSET
    pid: Annotated[Number, ovirt("pid", as_=str)] = UNSET
    cpu_user_percent: Annotated[Figure, ovirt("cpuUser", as_=str, format="%.2f")] = UNSET
    cpu_system_percent: Annotated[Figure, ovirt("cpuSys", as_=str, format="%.2f")] = UNSET
    cpu_usage_ns: Annotated[Number, ovirt("cpuUsage", as_=str)] = UNSET
    cpu_actual: Annotated[bool | UnsetType, ovirt("cpuActual")] = UNSET
    cpus: Annotated[Number, ovirt("vcpuCount", as_=str)] = UNSET
    cpu_limit_percent: Annotated[Number, ovirt("vcpuUserLimit")] = UNSET
    cpu_quota_us: Annotated[Number, ovirt("vcpuQuota", as_=str)] = UNSET
    cpu_period_us: Annotated[Number, ovirt("vcpuPeriod")] = UNSET
    memory_used_percent: Annotated[Number, ovirt("memUsage", as_=str)] = UNSET
    balloon: Annotated[BalloonInfo | UnsetType, ovirt("balloonInfo")] = UNSET
    guest_memory: Annotated[GuestMemory | UnsetType, ovirt("memoryStats")] = UNSET
    network: dict[str, VmNetworkStats] | UnsetType = UNSET
    disks: dict[str, VmDiskStats] | UnsetType = UNSET
    io_tune: Annotated[list[VmDiskTune] | UnsetType, ovirt("ioTune")] = UNSET
    display_info: Annotated[list[DisplayInfo] | UnsetType, ovirt("displayInfo")] = UNSET
    display_type: Annotated[Text, ovirt("displayType")] = UNSET
    display_address: Annotated[Text, ovirt("displayIp")] = UNSET
    display_port: Annotated[Text, ovirt("displayPort")] = UNSET
    display_secure_port: Annotated[Text, ovirt("displaySecurePort")] = UNSET
    hash: Annotated[Text, ovirt("hash")] = UNSET
    tpm_hash: Annotated[Text, ovirt("tpmHash")] = UNSET
    nvram_hash: Annotated[Text, ovirt("nvramHash")] = UNSET
    watchdog: Annotated[WatchdogEvent | UnsetType, ovirt("watchdogEvent")] = UNSET
    guest_user: Annotated[Text, ovirt("username")] = UNSET
    guest_addresses: Annotated[Text, ovirt("guestIPs")] = UNSET
    guest_name: Annotated[Text, ovirt("guestFQDN")] = UNSET
    guest_host_name: Annotated[Text, ovirt("guestName")] = UNSET
    guest_os_version: Annotated[Text, ovirt("guestOs")] = UNSET
    guest_os: Annotated[GuestOs | UnsetType, ovirt("guestOsInfo")] = UNSET
    guest_timezone: Annotated[GuestTimezone | UnsetType, ovirt("guestTimezone")] = UNSET
    guest_interfaces: Annotated[list[GuestInterface] | UnsetType, ovirt("netIfaces")] = UNSET
    guest_mounts: Annotated[list[GuestMount] | UnsetType, ovirt("disksUsage")] = UNSET
    guest_containers: Annotated[list[GuestContainer] | UnsetType, ovirt("guestContainers")] = UNSET
    guest_pci_devices: Annotated[list[GuestPciDevice] | UnsetType, ovirt("pci_devices")] = UNSET
    guest_cpus: Annotated[Number, ovirt("guestCPUCount")] = UNSET
    last_login_s: Annotated[Figure, ovirt("lastLogin")] = UNSET
    last_user: Annotated[Text, ovirt("lastUser")] = UNSET
    last_logout_s: Annotated[Figure, ovirt("lastLogout")] = UNSET
    session: Literal["Active", "Locked", "LoggedOff", "Unknown", "UserLoggedOn"] | UnsetType = UNSET
    guest_applications: Annotated[list[str] | UnsetType, ovirt("appsList")] = UNSET
    jobs: Annotated[dict[str, BlockJob] | UnsetType, ovirt("vmJobs")] = UNSET
    """By the ids that their callers chose; none means that all are over."""
