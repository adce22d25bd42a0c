"""What a table shows of each shape, by our names of the fields; how it is drawn is left to `tables`.

A shape without an entry shows all its plain fields.
"""

from vdsm.api import host_types
from vdsm.api.task import TaskDetails, TaskInfo, TaskStatus
from vdsm.api.vm import DeviceInfo, VmInfo
from vdsm.api.vm_types import VmDiskStats, VmNetworkStats, VmStats

_ADDRESSES = ("ipv4_addresses", "ipv6_addresses", "mtu")
_PORT = (*_ADDRESSES, "mac_address", "speed_mbps")


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


COLUMNS: dict[type, tuple[str, ...]] = {
    VmInfo: ("name", "vm_id", "status", "memory_mib", "cpus", "pid", "guest_addresses", "exit_message"),
    VmStats: _names(
        "name vm_id status elapsed_s cpu_user_percent cpu_system_percent memory_used_percent display_info "
        "guest_addresses pause_code exit_message"
    ),
    VmDiskStats: ("size_bytes", "allocated_bytes", "read_bytes_per_s", "write_bytes_per_s", "reads", "writes"),
    VmNetworkStats: _names("mac_address state speed_mbps received_bytes sent_bytes receive_errors send_errors"),
    DeviceInfo: ("type", "device", "alias", "name", "path", "network", "mac_address"),
    TaskStatus: ("task_id", "state", "result", "code", "message"),
    TaskInfo: ("task_id", "verb"),
    TaskDetails: ("task_id", "verb", "state", "result", "code", "message", "tag"),
    host_types.Nic: _PORT,
    host_types.Bonding: ("slaves", "active_slave", *_PORT),
    host_types.Vlan: ("iface", "vlan_id", *_ADDRESSES),
    host_types.Bridge: ("ports", *_ADDRESSES),
    host_types.Network: ("iface", "bridged", "vlan_id", *_ADDRESSES),
    host_types.NumaNode: ("cpus", "memory_mib"),
    host_types.DeviceStats: ("state", "speed_mbps", "received_bytes", "sent_bytes", "receive_errors", "send_errors"),
    host_types.StorageDomainVitals: ("valid", "acquired", "version", "delay_s", "checked_ago_s", "code"),
}
"""Columns where many of a shape are listed; one that is empty in every row is left out."""

SUMMARIES: dict[type, tuple[str, ...]] = {
    host_types.HostCapabilities: _names(
        "host_id version_name software_version operating_system cpu_model cpu_mhz sockets cores threads kvm "
        "nested_virtualization memory_mib reserved_memory_mib guest_overhead_mib vm_types cluster_levels "
        "domain_versions iscsi_initiator_name selinux realtime_kernel fips_enabled nameservers numa_nodes "
        "networks bondings vlans bridges nics packages"
    ),
    host_types.HostStats: _names(
        "date_time elapsed_s boot_time_s load cpu_user_percent cpu_system_percent cpu_idle_percent "
        "daemon_user_percent daemon_system_percent memory_used_percent memory_free_mib swap_total_mib "
        "swap_free_mib anonymous_hugepages_mib ksm_running ksm_shared_mib vms vms_active vms_migrating "
        "policy_status sample_age_s disks storage_domains network"
    ),
    VmStats: _names(
        "name vm_id status elapsed_s pid cpus cpu_user_percent cpu_system_percent memory_used_percent kvm "
        "display_info client_address guest_name guest_addresses guest_user pause_code exit_code exit_reason "
        "exit_message sample_age_s balloon disks network"
    ),
    VmInfo: _names(
        "name vm_id status vm_type arch pid memory_mib maximum_memory_mib cpus maximum_cpus kvm "
        "emulated_machine cpu_type display_info client_address guest_name guest_addresses guest_os pause_code "
        "exit_code exit_reason exit_message custom devices"
    ),
}
"""Fields where one of a shape is shown alone."""
