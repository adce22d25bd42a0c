"""What the host reports of itself (facts §4.1), put together from readings; asking libvirt is left to the service."""

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import asdict, replace

from vdsm.api.host_types import HostCapabilities, NetworkCapabilities, PackageVersion
from vdsm.host.cpu import Cpus, read_cpus
from vdsm.host.hypervisor import HypervisorFacts
from vdsm.host.ports import Files
from vdsm.host.system import System, read_system

SUPPORTED_ENGINES = ("4.2", "4.3", "4.4", "4.5")
_CLUSTER_LEVELS = ("4.2", "4.3", "4.4", "4.5", "4.6")
DOMAIN_VERSIONS = (3, 4, 5)
# Storage facts §3.2; 0 leaves the choice to the daemon.
BLOCK_SIZES = {
    "FCP": (512,),
    "GLUSTERFS": (0, 512, 4096),
    "ISCSI": (512,),
    "LOCALFS": (0, 512, 4096),
    "NFS": (512,),
    "POSIXFS": (512,),
}


class Release(Struct, frozen=True):
    """The daemon's own name and number."""

    version: str
    revision: str
    name: str


class CapabilitySettings(Struct, frozen=True):
    """The settings that capabilities depend on (`[vars]` of the configuration, facts §7.4)."""

    host_memory_reserve_mib: int = 256
    extra_memory_reserve_mib: int = 65
    guest_overhead_mib: int = 65
    threads_as_cores: bool = False
    fake_kvm: bool = False
    fake_memory_mib: int = 0
    mailbox_events: bool = False


class Machine(Struct, frozen=True):
    """What the machine's files tell at one moment."""

    cpus: Cpus
    kernel: str
    system: System


def read_machine(files: Files) -> Machine:
    """Read it all. Blocks, tens of milliseconds on a large machine."""
    return Machine(read_cpus(files), files.read("/proc/sys/kernel/osrelease") or "", read_system(files))


def list_cluster_levels(libvirt: int, qemu: int) -> list[str]:
    """The cluster levels that this software can serve; versions as libvirt counts them, 0 when not known."""
    levels = list(_CLUSTER_LEVELS)
    if libvirt >= 8_000_000:
        levels.append("4.7")
    if libvirt >= 10_010_000 and qemu >= 9_001_000:
        levels.append("4.8")
    return levels


def list_cpu_flags(cpus: Cpus, hypervisor: HypervisorFacts | None) -> frozenset[str]:
    """The processor's flags, the features that libvirt adds, and `model_<name>` for each model that VMs can have."""
    flags = cpus.processor.flags
    if hypervisor is None:
        return flags
    models = hypervisor.domain.usable_models
    extra = {"spec_ctrl"} if any(model.endswith("-IBRS") for model in models) else set()
    return flags | hypervisor.domain.features | extra | {f"model_{model}" for model in models}


def make_capabilities(
    machine: Machine,
    hypervisor: HypervisorFacts | None,
    networks: NetworkCapabilities,
    settings: CapabilitySettings,
    release: Release,
    packages: dict[str, PackageVersion],
    *,
    kvm: bool,
    client_interface: str,
    host_id: str | UnsetType,
) -> HostCapabilities:
    """Put together what was read; without `hypervisor`, what libvirt alone knows is absent."""
    cpus, system = machine.cpus, machine.system
    initiators = system.hba_inventory.iscsi
    host = hypervisor.host if hypervisor else None
    return HostCapabilities(
        mailbox_events=settings.mailbox_events,
        **asdict(networks),
        **asdict(system),
        kvm=kvm,
        cores=cpus.threads if settings.threads_as_cores else cpus.cores,
        threads=cpus.threads,
        sockets=cpus.sockets,
        online_cpus=",".join(map(str, cpus.online)),
        cpu_topology=list(cpus.topology),
        cpu_mhz=cpus.processor.mhz,
        cpu_model=cpus.processor.model,
        cpu_flags=",".join(sorted(list_cpu_flags(cpus, hypervisor))),
        version_name=release.name,
        software_version=release.version,
        software_revision=release.revision,
        supported_engines=list(SUPPORTED_ENGINES),
        cluster_levels=list_cluster_levels(*((hypervisor.libvirt, hypervisor.qemu) if hypervisor else (0, 0))),
        client_interface=client_interface,
        host_id=host_id,
        packages=packages,
        emulated_machines=list(host.machines) if host else UNSET,
        iscsi_initiator_name=initiators[0].initiator_name if initiators else UNSET,
        reserved_memory_mib=settings.host_memory_reserve_mib + settings.extra_memory_reserve_mib,
        guest_overhead_mib=settings.guest_overhead_mib,
        tsc_hz=host.tsc_hz if host else UNSET,
        tsc_scaling=bool(host and host.tsc_scaling),
        domain_versions=list(DOMAIN_VERSIONS),
        supported_block_sizes={name: list(sizes) for name, sizes in BLOCK_SIZES.items()},
    )


def pretend_kvm(
    capabilities: HostCapabilities, cpus: Cpus, hypervisor: HypervisorFacts | None, settings: CapabilitySettings
) -> HostCapabilities:
    """The same host as if it had KVM and every processor model, for tests of a manager (`fake_kvm_support`)."""
    flags = list_cpu_flags(cpus, hypervisor) | {cpus.processor.virtualization, "nx"}
    if hypervisor is not None:
        flags |= {f"model_{model}" for model in hypervisor.domain.models}
    return replace(
        capabilities,
        kvm=True,
        cpu_flags=",".join(sorted(flags)),
        memory_mib=settings.fake_memory_mib or capabilities.memory_mib,
    )
