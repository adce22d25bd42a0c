"""What a host says of itself: capabilities, statistics, hardware; making the figures is left to `host` and `network`.

A field that may be `UNSET` is absent whenever its figure is not known. Sizes in MiB, KiB and bytes are powers of two.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Struct, UnsetType, field

from vdsm.api.declare import Figure, Flag, Number, Text, ovirt

OsName = Literal["Debian", "Fedora", "RHEL", "RHEV Hypervisor", "oVirt Node", "unknown"]


class HardwareInfo(Struct, frozen=True, kw_only=True):
    """The machine's identity as its firmware tells it (facts §4.4)."""

    manufacturer: Annotated[Text, ovirt("systemManufacturer")] = UNSET
    product_name: Annotated[Text, ovirt("systemProductName")] = UNSET
    version: Annotated[Text, ovirt("systemVersion")] = UNSET
    serial_number: Annotated[Text, ovirt("systemSerialNumber")] = UNSET
    uuid: Annotated[Text, ovirt("systemUUID")] = UNSET
    family: Annotated[Text, ovirt("systemFamily")] = UNSET


class CpuPlace(Struct, frozen=True, kw_only=True):
    """Where one logical CPU sits."""

    cpu: Annotated[int, ovirt("cpu_id")]
    numa_node: Annotated[int, ovirt("numa_cell_id")]
    socket: Annotated[int, ovirt("socket_id")]
    die: Annotated[int, ovirt("die_id")]
    core: Annotated[int, ovirt("core_id")]


class NumaHugepages(Struct, frozen=True, kw_only=True):
    """Huge pages of one size on one NUMA node."""

    pages: Annotated[int, ovirt("totalPages", as_=str)]


class NumaNode(Struct, frozen=True, kw_only=True):
    """One NUMA node; `hugepages` by page size in KiB."""

    cpus: list[int]
    memory_mib: Annotated[int, ovirt("totalMemory", as_=str)]
    hugepages: dict[str, NumaHugepages]


class OperatingSystem(Struct, frozen=True, kw_only=True):
    """The distribution; rebuilds of RHEL are `RHEL`."""

    name: OsName
    release: str
    version: str
    pretty_name: str


class PackageVersion(Struct, frozen=True, kw_only=True):
    """One installed piece of software."""

    version: str
    release: str


class SelinuxStatus(Struct, frozen=True, kw_only=True):
    """1 enforcing, 0 permissive, -1 disabled."""

    mode: Annotated[int, ovirt("mode", as_=str)]


class FcHba(Struct, frozen=True, kw_only=True):
    """One fibre channel port of this host."""

    model: str
    port_name: Annotated[str, ovirt("wwpn")]
    node_name: Annotated[str, ovirt("wwnn")]


class IscsiHba(Struct, frozen=True, kw_only=True):
    """One iSCSI initiator of this host."""

    initiator_name: Annotated[str, ovirt("InitiatorName")]


class HbaInventory(Struct, frozen=True, kw_only=True):
    """The doors to block storage."""

    fc: Annotated[list[FcHba], ovirt("FC")]
    iscsi: Annotated[list[IscsiHba], ovirt("iSCSI")]


class HookScript(Struct, frozen=True, kw_only=True):
    """One hook program; the checksum is SHA-256 in hex."""

    checksum: str


class ConnectorInfo(Struct, frozen=True, kw_only=True):
    """How managed volumes reach this host."""

    initiator: str
    address: Annotated[str, ovirt("ip")]
    platform: str
    os_type: str
    attach_locally: Annotated[bool, ovirt("do_local_attach")]
    host: str
    multipath: bool


class BandwidthCurve(Struct, frozen=True, kw_only=True):
    """One service curve: bits a second, microseconds."""

    later_bps: Annotated[int, ovirt("m2")]
    first_bps: Annotated[Number, ovirt("m1")] = UNSET
    first_us: Annotated[Number, ovirt("d")] = UNSET


class HostBandwidth(Struct, frozen=True, kw_only=True):
    """The share, the upper limit and the guaranteed rate of one network."""

    link_share: Annotated[BandwidthCurve, ovirt("ls")]
    upper_limit: Annotated[BandwidthCurve | UnsetType, ovirt("ul")] = UNSET
    real_time: Annotated[BandwidthCurve | UnsetType, ovirt("rt")] = UNSET


class HostQos(Struct, frozen=True, kw_only=True):
    """Limits of traffic that leaves the host."""

    outbound: Annotated[HostBandwidth | UnsetType, ovirt("out")] = UNSET


class DeviceQos(Struct, frozen=True, kw_only=True):
    """The limits of one VLAN on a device; -1 is untagged traffic."""

    host_qos: Annotated[HostQos, ovirt("hostQos")]
    vlan: int = -1


class IpAddresses(Struct, frozen=True, kw_only=True):
    """The addresses of one device (facts §5.1 of networks); empty text and `::` for none."""

    address: Annotated[str, ovirt("addr")]
    netmask: str
    ipv4_addresses: Annotated[list[str], ovirt("ipv4addrs")]
    ipv6_addresses: Annotated[list[str], ovirt("ipv6addrs")]
    gateway: str
    ipv6_gateway: Annotated[str, ovirt("ipv6gateway")]
    ipv4_default_route: Annotated[bool, ovirt("ipv4defaultroute")]
    dhcpv4: bool
    dhcpv6: bool
    ipv6_autoconf: Annotated[bool, ovirt("ipv6autoconf")]


class Nic(IpAddresses, frozen=True, kw_only=True):
    """One network card; the speed is absent when the link is down or tells none."""

    mtu: Annotated[int, ovirt("mtu", as_=str)]
    mac_address: Annotated[str, ovirt("hwaddr")]
    permanent_mac_address: Annotated[Text, ovirt("permhwaddr")] = UNSET
    speed_mbps: Annotated[Number, ovirt("speed")] = UNSET
    aggregator_id: Annotated[Text, ovirt("ad_aggregator_id")] = UNSET
    qos: list[DeviceQos] | UnsetType = UNSET


class Bonding(IpAddresses, frozen=True, kw_only=True):
    """One bond: numeric `mode` always, other options where they differ from their defaults."""

    mtu: Annotated[int, ovirt("mtu", as_=str)]
    mac_address: Annotated[str, ovirt("hwaddr")]
    slaves: list[str]
    active_slave: str
    options: Annotated[dict[str, str], ovirt("opts")]
    switch: Text = UNSET
    speed_mbps: Annotated[Number, ovirt("speed")] = UNSET
    aggregator_id: Annotated[Text, ovirt("ad_aggregator_id")] = UNSET
    partner_mac_address: Annotated[Text, ovirt("ad_partner_mac")] = UNSET
    qos: list[DeviceQos] | UnsetType = UNSET


class Vlan(IpAddresses, frozen=True, kw_only=True):
    """One VLAN device on `iface`; its MTU travels as text, whatever the published schema says."""

    mtu: Annotated[int, ovirt("mtu", as_=str, declared="uint")]
    iface: str
    vlan_id: Annotated[int, ovirt("vlanid")]


class Bridge(IpAddresses, frozen=True, kw_only=True):
    """One bridge of the kernel."""

    mtu: Annotated[int, ovirt("mtu", as_=str)]
    ports: list[str]
    stp: Literal["on", "off"]
    options: Annotated[dict[str, str] | UnsetType, ovirt("opts")] = UNSET
    host_qos: Annotated[HostQos | UnsetType, ovirt("hostQos")] = UNSET
    bridged: Flag = UNSET
    iface: Text = UNSET
    switch: Text = UNSET


class Network(IpAddresses, frozen=True, kw_only=True):
    """One network that a manager has set up; `interface` without a bridge, `ports` and `stp` with one."""

    mtu: Annotated[int, ovirt("mtu", as_=str)]
    iface: str
    bridged: bool
    switch: Literal["legacy", "ovs"]
    southbound: Text = UNSET
    vlan_id: Annotated[Number, ovirt("vlanid")] = UNSET
    interface: Text = UNSET
    ports: list[str] | UnsetType = UNSET
    stp: Literal["on", "off"] | UnsetType = UNSET
    host_qos: Annotated[HostQos | UnsetType, ovirt("hostQos")] = UNSET


class NetworkCapabilities(Struct, frozen=True, kw_only=True):
    """The devices and networks of this host, each map by name (facts §4.2)."""

    networks: dict[str, Network]
    bridges: dict[str, Bridge]
    bondings: dict[str, Bonding]
    nics: dict[str, Nic]
    vlans: dict[str, Vlan]
    nameservers: list[str]
    ipv6_supported: Annotated[bool, ovirt("supportsIPv6")]
    uncommitted_changes: Annotated[bool, ovirt("netConfigDirty", as_=str, format="%s")]


class HostCapabilities(NetworkCapabilities, frozen=True, kw_only=True):
    """What this host can do (facts §4.1). What libvirt alone knows is absent while libvirt is down.

    The last ones tell what this daemon's own verbs serve: a default turns true in the change that makes it so.
    """

    kvm: Annotated[bool, ovirt("kvmEnabled", as_=str)]
    cores: Annotated[int, ovirt("cpuCores", as_=str)]
    threads: Annotated[int, ovirt("cpuThreads", as_=str)]
    sockets: Annotated[int, ovirt("cpuSockets", as_=str)]
    online_cpus: Annotated[str, ovirt("onlineCpus")]
    cpu_topology: Annotated[list[CpuPlace], ovirt("cpuTopology")]
    cpu_mhz: Annotated[Figure, ovirt("cpuSpeed", as_=str, format="%.3f")] = UNSET
    cpu_model: Annotated[Text, ovirt("cpuModel")] = UNSET
    cpu_flags: Annotated[str, ovirt("cpuFlags")]
    daemon_cpus: Annotated[list[int], ovirt("vdsmToCpusAffinity")]
    version_name: str
    software_version: str
    software_revision: str
    supported_engines: Annotated[list[str], ovirt("supportedENGINEs")]
    cluster_levels: Annotated[list[str], ovirt("clusterLevels")]
    client_interface: Annotated[str, ovirt("lastClientIface")]
    hooks: dict[str, Annotated[dict[str, HookScript], ovirt("scripts", declared="HookScripts")]] = {}
    operating_system: Annotated[OperatingSystem, ovirt("operatingSystem")]
    host_id: Annotated[Text, ovirt("uuid")] = UNSET
    packages: Annotated[dict[str, PackageVersion], ovirt("packages2")]
    realtime_kernel: Annotated[bool, ovirt("realtimeKernel")]
    kernel_arguments: Annotated[Text, ovirt("kernelArgs")] = UNSET
    kernel_features: Annotated[dict[str, str], ovirt("kernelFeatures")]
    nested_virtualization: Annotated[bool, ovirt("nestedVirtualization")]
    emulated_machines: Annotated[list[str] | UnsetType, ovirt("emulatedMachines")] = UNSET
    iscsi_initiator_name: Annotated[Text, ovirt("ISCSIInitiatorName")] = UNSET
    hba_inventory: Annotated[HbaInventory, ovirt("HBAInventory")]
    vm_types: Annotated[list[Literal["kvm"]], ovirt("vmTypes")] = field(default_factory=lambda: ["kvm"])
    memory_mib: Annotated[int, ovirt("memSize", as_=str)]
    reserved_memory_mib: Annotated[int, ovirt("reservedMem", as_=str)]
    guest_overhead_mib: Annotated[int, ovirt("guestOverhead", as_=str)]
    rng_sources: Annotated[list[Literal["hwrng", "random"]], ovirt("rngSources")]
    numa_nodes: Annotated[dict[str, NumaNode], ovirt("numaNodes")]
    numa_distances: Annotated[dict[str, list[int]], ovirt("numaNodeDistance")]
    numa_balancing: Annotated[Literal[0, 1, 2], ovirt("autoNumaBalancing")]
    selinux: SelinuxStatus
    kdump_status: Annotated[Literal[-1, 0, 1], ovirt("kdumpStatus")]
    device_passthrough: Annotated[bool, ovirt("hostdevPassthrough", as_=str)]
    additional_features: Annotated[list[str], ovirt("additionalFeatures")] = []
    hosted_engine_deployed: Annotated[bool, ovirt("hostedEngineDeployed")]
    hugepage_sizes_kib: Annotated[list[int], ovirt("hugepages")]
    vnc_encrypted: Annotated[bool, ovirt("vncEncrypted", as_=str)]
    connector: Annotated[ConnectorInfo | UnsetType, ovirt("connector_info")] = UNSET
    fips_enabled: Annotated[bool, ovirt("fipsEnabled")]
    boot_partition_id: Annotated[Text, ovirt("boot_uuid")] = UNSET
    tsc_hz: Annotated[Text, ovirt("tscFrequency")] = UNSET
    tsc_scaling: Annotated[bool, ovirt("tscScaling")]
    ovn_configured: Annotated[Flag, ovirt("ovnConfigured")] = UNSET
    domain_versions: list[int]
    supported_block_sizes: Annotated[dict[str, list[int]], ovirt("supported_block_size")]
    live_snapshot: Annotated[bool, ovirt("liveSnapshot", as_=str)] = False
    live_merge: Annotated[bool, ovirt("liveMerge", as_=str)] = False
    deferred_preallocation: bool = False
    backup_enabled: Annotated[bool, ovirt("backupEnabled")] = False
    cold_backup_enabled: Annotated[bool, ovirt("coldBackupEnabled")] = False
    clear_bitmaps_enabled: Annotated[bool, ovirt("clearBitmapsEnabled")] = False
    cd_change_by_image: Annotated[bool, ovirt("cd_change_pdiv")] = False
    refresh_disk_supported: bool = False
    replicate_extend: bool = False
    measure_subchain: bool = False
    measure_active: bool = False
    image_info_bitmaps: Annotated[bool, ovirt("qemu_image_info_bitmaps")] = False
    mailbox_events: bool = False
    zero_copy_migrations: Annotated[bool, ovirt("zerocopy_migrations")] = False


class CpuCoreStats(Struct, frozen=True, kw_only=True):
    """Load of one logical CPU in percent of it."""

    numa_node: Annotated[int, ovirt("nodeIndex")]
    user_percent: Annotated[float, ovirt("cpuUser", as_=str, format="%.2f")]
    system_percent: Annotated[float, ovirt("cpuSys", as_=str, format="%.2f")]
    idle_percent: Annotated[float, ovirt("cpuIdle", as_=str, format="%.2f")]


class DeviceStats(Struct, frozen=True, kw_only=True):
    """Counters of one network device since it was made; 1000 Mb/s when it tells no speed."""

    name: str
    state: Literal["down", "up", "unknown"]
    speed_mbps: Annotated[int, ovirt("speed", as_=str)]
    duplex: str
    received_bytes: Annotated[int, ovirt("rx", as_=str)]
    sent_bytes: Annotated[int, ovirt("tx", as_=str)]
    receive_errors: Annotated[int, ovirt("rxErrors", as_=str)]
    send_errors: Annotated[int, ovirt("txErrors", as_=str)]
    receive_dropped: Annotated[int, ovirt("rxDropped", as_=str)]
    send_dropped: Annotated[int, ovirt("txDropped", as_=str)]
    sample_time_s: Annotated[float, ovirt("sampleTime")]


class NetworkStatistics(Struct, frozen=True, kw_only=True):
    """Counters of every network device, and their sums; absent until the first sample."""

    network: dict[str, DeviceStats] | UnsetType = UNSET
    receive_dropped: Annotated[Number, ovirt("rxDropped", as_=str)] = UNSET
    send_dropped: Annotated[Number, ovirt("txDropped", as_=str)] = UNSET


class HugepageStats(Struct, frozen=True, kw_only=True):
    """The kernel's counters of huge pages of one size, and how many VMs may still take."""

    pages: Annotated[int, ovirt("nr_hugepages")]
    free: Annotated[int, ovirt("free_hugepages")]
    reserved: Annotated[int, ovirt("resv_hugepages")]
    surplus: Annotated[int, ovirt("surplus_hugepages")]
    overcommit: Annotated[int, ovirt("nr_overcommit_hugepages")]
    mempolicy: Annotated[Number, ovirt("nr_hugepages_mempolicy")] = UNSET
    free_for_vms: Annotated[int, ovirt("vm.free_hugepages")]


class NumaHugepageStats(Struct, frozen=True, kw_only=True):
    """Free huge pages of one size on one NUMA node."""

    free_pages: Annotated[int, ovirt("freePages", as_=str)]


class NumaMemoryStats(Struct, frozen=True, kw_only=True):
    """Memory of one NUMA node; `hugepages` by page size in KiB."""

    free_mib: Annotated[int, ovirt("memFree", as_=str)]
    used_percent: Annotated[int, ovirt("memPercent")]
    hugepages: dict[str, NumaHugepageStats]


class PathStats(Struct, frozen=True, kw_only=True):
    """Room left on the file system of one folder."""

    free_mib: Annotated[int, ovirt("free", as_=str)]


class StorageDomainVitals(Struct, frozen=True, kw_only=True):
    """The health of one storage domain, as last seen; `code` 0 is well."""

    code: int
    checked_ago_s: Annotated[float, ovirt("lastCheck", as_=str, format="%.1f")]
    delay_s: Annotated[float, ovirt("delay", as_=str, format="%.9g")]
    valid: bool
    version: int
    acquired: bool
    actual: bool


class HostedEngineStats(Struct, frozen=True, kw_only=True):
    """The state of the hosted engine's agent on this host."""

    configured: bool
    active: bool
    score: int
    global_maintenance: Annotated[bool, ovirt("globalMaintenance")]
    local_maintenance: Annotated[bool, ovirt("localMaintenance")]


class MultipathHealth(Struct, frozen=True, kw_only=True):
    """One multipath device with faults."""

    valid_paths: int
    failed_paths: list[str]


class V2vJob(Struct, frozen=True, kw_only=True):
    """One import of a VM from elsewhere."""

    job_id: Annotated[str, ovirt("id")]
    status: str
    description: str
    progress_percent: Annotated[int, ovirt("progress")]


class HostStats(NetworkStatistics, frozen=True, kw_only=True):
    """What this host is doing (facts §4.3), from the last sample; sampled figures are absent until there is one."""

    cpu_user_percent: Annotated[Figure, ovirt("cpuUser", as_=str, format="%.2f")] = UNSET
    cpu_system_percent: Annotated[Figure, ovirt("cpuSys", as_=str, format="%.2f")] = UNSET
    cpu_idle_percent: Annotated[Figure, ovirt("cpuIdle", as_=str, format="%.2f")] = UNSET
    daemon_user_percent: Annotated[Figure, ovirt("cpuUserVdsmd", as_=str, format="%.2f")] = UNSET
    daemon_system_percent: Annotated[Figure, ovirt("cpuSysVdsmd", as_=str, format="%.2f")] = UNSET
    load: Annotated[Figure, ovirt("cpuLoad", as_=str, format="%.2f")] = UNSET
    elapsed_s: Annotated[float, ovirt("elapsedTime", as_=str, format="%.2f")]
    sample_age_s: Annotated[Figure, ovirt("sampleAge")] = UNSET
    memory_used_percent: Annotated[Number, ovirt("memUsed", as_=str)] = UNSET
    memory_free_mib: Annotated[Number, ovirt("memFree")] = UNSET
    swap_total_mib: Annotated[Number, ovirt("swapTotal")] = UNSET
    swap_free_mib: Annotated[Number, ovirt("swapFree")] = UNSET
    anonymous_hugepages_mib: Annotated[Number, ovirt("anonHugePages", as_=str)] = UNSET
    hugepages: dict[str, HugepageStats] | UnsetType = UNSET
    disks: Annotated[dict[str, PathStats] | UnsetType, ovirt("diskStats")] = UNSET
    transparent_hugepages: Annotated[Literal["always", "madvise", "never"] | UnsetType, ovirt("thpState")] = UNSET
    boot_time_s: Annotated[Number, ovirt("bootTime", as_=str)] = UNSET
    numa_memory: Annotated[dict[str, NumaMemoryStats] | UnsetType, ovirt("numaNodeMemFree")] = UNSET
    cpus: Annotated[dict[str, CpuCoreStats] | UnsetType, ovirt("cpuStatistics")] = UNSET
    storage_domains: Annotated[dict[str, StorageDomainVitals] | UnsetType, ovirt("storageDomains")] = UNSET
    multipath_health: Annotated[dict[str, MultipathHealth] | UnsetType, ovirt("multipathHealth")] = UNSET
    v2v_jobs: Annotated[list[dict[str, V2vJob]] | UnsetType, ovirt("v2vJobs")] = UNSET
    vms: Annotated[int, ovirt("vmCount")]
    vms_active: Annotated[int, ovirt("vmActive")]
    vms_migrating: Annotated[int, ovirt("vmMigrating")]
    incoming_migrations: Annotated[int, ovirt("incomingVmMigrations")]
    outgoing_migrations: Annotated[int, ovirt("outgoingVmMigrations")]
    date_time: Annotated[str, ovirt("dateTime")]
    policy_status: Annotated[Literal["active", "disabled", "inactive"], ovirt("momStatus")]
    ksm_running: Annotated[Flag, ovirt("ksmState")] = UNSET
    ksm_pages_to_scan: Annotated[Number, ovirt("ksmPages")] = UNSET
    ksm_merge_across_nodes: Annotated[Flag, ovirt("ksmMergeAcrossNodes")] = UNSET
    ksm_shared_mib: Annotated[Number, ovirt("memShared")] = UNSET
    ksm_cpu_percent: Annotated[Number, ovirt("ksmCpu")] = UNSET
    uncommitted_changes: Annotated[bool, ovirt("netConfigDirty", as_=str, format="%s")]
    hosted_engine: Annotated[HostedEngineStats, ovirt("haStats")]
    hosted_engine_score: Annotated[Number, ovirt("haScore")] = UNSET
