"""The machine around the processors: memory, distribution, firmware, kernel switches, adapters to storage."""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from vdsm.api import host_types
from vdsm.host.memory import list_hugepage_sizes, parse_meminfo
from vdsm.host.numa import read_balancing, read_distances, read_nodes
from vdsm.host.ports import Files

_DMI = "/sys/class/dmi/id"
_VULNERABILITIES = "/sys/devices/system/cpu/vulnerabilities"
_OVN_CERTIFICATES = "/etc/pki/vdsm/ovn"


class System(Struct, frozen=True):
    """What files tell of the machine and its distribution; one field for each capability of that name."""

    memory_mib: int
    hugepage_sizes_kib: list[int]
    numa_nodes: dict[str, host_types.NumaNode]
    numa_distances: dict[str, list[int]]
    numa_balancing: Literal[0, 1, 2]
    daemon_cpus: list[int]
    operating_system: host_types.OperatingSystem
    kernel_arguments: str | UnsetType
    kernel_features: dict[str, str]
    realtime_kernel: bool
    nested_virtualization: bool
    selinux: host_types.SelinuxStatus
    kdump_status: Literal[-1, 0, 1]
    fips_enabled: bool
    vnc_encrypted: bool
    device_passthrough: bool
    rng_sources: list[Literal["hwrng", "random"]]
    hba_inventory: host_types.HbaInventory
    hosted_engine_deployed: bool
    boot_partition_id: str | UnsetType
    ovn_configured: bool | UnsetType


def read_system(files: Files) -> System:
    """Read it all. Blocks, tens of milliseconds on a large machine."""
    return System(
        memory_mib=parse_meminfo(files.read("/proc/meminfo") or "").get("MemTotal", 0) // 1024,
        hugepage_sizes_kib=list_hugepage_sizes(files),
        numa_nodes=read_nodes(files),
        numa_distances=read_distances(files),
        numa_balancing=read_balancing(files),
        daemon_cpus=files.list_affinity(),
        operating_system=read_operating_system(files),
        kernel_arguments=files.read("/proc/cmdline") or UNSET,
        kernel_features=read_kernel_features(files),
        realtime_kernel=files.read("/sys/kernel/realtime") == "1",
        nested_virtualization=read_nested(files),
        selinux=host_types.SelinuxStatus(mode=read_selinux_mode(files)),
        kdump_status=read_kdump_status(files),
        fips_enabled=files.read("/proc/sys/crypto/fips_enabled") == "1",
        vnc_encrypted=_parse_settings(files.read("/etc/libvirt/qemu.conf") or "").get("vnc_tls") == "1",
        device_passthrough=bool(files.list_names("/sys/kernel/iommu_groups") and files.list_names("/sys/class/iommu")),
        rng_sources=read_rng_sources(files),
        hba_inventory=read_hba_inventory(files),
        hosted_engine_deployed=files.exists("/etc/ovirt-hosted-engine/hosted-engine.conf"),
        boot_partition_id=read_boot_partition_id(files),
        ovn_configured=read_ovn_configured(files),
    )


def _parse_settings(text: str) -> dict[str, str]:
    lines = (line.partition("=") for line in text.splitlines() if not line.lstrip().startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, equals, value in lines if equals}


def read_operating_system(files: Files) -> host_types.OperatingSystem:
    """The distribution after /etc/os-release. `release` is the finer number where the distribution has one."""
    release = _parse_settings(files.read("/etc/os-release") or files.read("/usr/lib/os-release") or "")
    name = _name_system(release)
    finer = files.read("/etc/debian_version") if name == "Debian" else release.get("BUILD_ID")
    version = release.get("VERSION_ID", "")
    return host_types.OperatingSystem(
        name=name, version=version, release=finer or version, pretty_name=release.get("PRETTY_NAME", "")
    )


def _name_system(release: dict[str, str]) -> host_types.OsName:
    if release.get("VARIANT_ID") == "ovirt-node":
        return "oVirt Node"
    match release.get("ID"):
        case "debian":
            return "Debian"
        case "fedora":
            return "Fedora"
    family = {release.get("ID"), *release.get("ID_LIKE", "").split()}
    return "RHEL" if family & {"rhel", "centos"} else "unknown"


def read_hardware(files: Files) -> host_types.HardwareInfo:
    """The firmware's tables. Serial number and UUID can be read by root alone; what cannot be read is absent."""

    def read(name: str, elsewhere: str = "") -> str | UnsetType:
        return files.read(f"{_DMI}/{name}") or (elsewhere and files.read(f"/proc/device-tree/{elsewhere}")) or UNSET

    return host_types.HardwareInfo(
        manufacturer=read("sys_vendor"),
        product_name=read("product_name", "model"),
        version=read("product_version"),
        serial_number=read("product_serial", "system-id"),
        uuid=read("product_uuid"),
        family=read("product_family"),
    )


def read_kernel_features(files: Files) -> dict[str, str]:
    """The processor's known weaknesses and what the kernel does about each."""
    texts = {name: files.read(f"{_VULNERABILITIES}/{name}") for name in files.list_names(_VULNERABILITIES)}
    return {name.upper(): f"({text})" for name, text in texts.items() if text}


def read_nested(files: Files) -> bool:
    """Whether guests may run guests."""
    modules = ("kvm_intel", "kvm_amd", "kvm_hv", "kvm")
    return any(files.read(f"/sys/module/{name}/parameters/nested") in ("1", "Y") for name in modules)


def read_selinux_mode(files: Files) -> int:
    """1 enforcing, 0 permissive, -1 disabled or not built in."""
    mode = files.read_number("/sys/fs/selinux/enforce")
    return -1 if mode is None else mode


def read_kdump_status(files: Files) -> Literal[-1, 0, 1]:
    """1 when a crash kernel is loaded that will tell other hosts, 0 when not, -1 when that is not known."""
    match files.read("/sys/kernel/kexec_crash_loaded"):
        case None:
            return -1
        case "1" if any(
            line.startswith("fence_kdump_nodes") for line in (files.read("/etc/kdump.conf") or "").splitlines()
        ):
            return 1
        case _:
            return 0


def read_rng_sources(files: Files) -> list[Literal["hwrng", "random"]]:
    """The devices that can feed a guest's random number generator."""
    sources: list[Literal["hwrng", "random"]] = []
    if files.exists("/dev/hwrng"):
        sources.append("hwrng")
    if files.exists("/dev/random"):
        sources.append("random")
    return sources


def read_hba_inventory(files: Files) -> host_types.HbaInventory:
    """The host's iSCSI initiator and its fibre channel ports."""
    initiator = _parse_settings(files.read("/etc/iscsi/initiatorname.iscsi") or "").get("InitiatorName")
    ports = []
    for host in files.list_names("/sys/class/fc_host"):
        port, node = (files.read(f"/sys/class/fc_host/{host}/{name}") for name in ("port_name", "node_name"))
        model = files.read(f"/sys/class/fc_host/{host}/symbolic_name") or ""
        if port and node:
            names = port.removeprefix("0x"), node.removeprefix("0x")
            ports.append(host_types.FcHba(model=model, port_name=names[0], node_name=names[1]))
    return host_types.HbaInventory(fc=ports, iscsi=[host_types.IscsiHba(initiator_name=initiator)] if initiator else [])


def read_boot_partition_id(files: Files) -> str | UnsetType:
    """The UUID of the file system that holds /boot; absent when udev does not know it."""
    mounts = [line.split() for line in (files.read("/proc/mounts") or "").splitlines()]
    devices = {words[1]: words[0] for words in mounts if len(words) > 1}
    device = devices.get("/boot") or devices.get("/") or ""
    if not device.startswith("/dev/"):
        return UNSET
    wanted = files.link(device) or device.rpartition("/")[2]
    by_id = "/dev/disk/by-uuid"
    return next((name for name in files.list_names(by_id) if files.link(f"{by_id}/{name}") == wanted), UNSET)


def read_ovn_configured(files: Files) -> bool | UnsetType:
    """False without OVN's certificates; with them it takes more than files to know."""
    names = ("ovn-key.pem", "ovn-cert.pem", "ca-cert.pem")
    return UNSET if all(files.exists(f"{_OVN_CERTIFICATES}/{name}") for name in names) else False
