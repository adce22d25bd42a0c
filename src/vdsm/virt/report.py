"""What is told of a VM: figures, definition, events, from what is known of it; asking libvirt is left to others."""

from typing import get_args

from msgspec import UNSET, UnsetType
from msgspec.structs import asdict, replace

from vdsm.api.events import IoError, VmStatusChanged
from vdsm.api.guest import GuestDisk
from vdsm.api.vm import DeviceInfo, VmInfo, VmStatus
from vdsm.api.vm_types import BalloonInfo, GuestMemory, VmStats
from vdsm.core.clock import Clock
from vdsm.virt import stats
from vdsm.virt.domain import DomainView
from vdsm.virt.kept_data import get_hash, has_device
from vdsm.virt.lifecycle import Status
from vdsm.virt.vm import Vm

_TIME_BASE_MS = 2**31 - 1
_STATUSES: dict[Status, VmStatus] = {Status(name): name for name in get_args(VmStatus)}


def format_time(monotonic_s: float) -> int:
    """The ordering time of facts §1.8, in ms."""
    return _TIME_BASE_MS + int(monotonic_s * 1000)


def build_stats(vm: Vm, clock: Clock, command_timeout_s: float) -> VmStats:
    """The VM's figures (facts §3.2); of one that is down, how it ended."""
    now_s = clock.monotonic()
    if vm.state.status is Status.DOWN:
        return _build_exit_stats(vm, now_s)
    view, window = vm.view, vm.window
    cpu = stats.get_cpu(window)
    guest_memory = _guest_memory(vm, now_s)
    cpus = None if window.last is None else window.last.number("vcpu.current")
    first = view.graphics[0] if view is not None and view.graphics else None
    figures = VmStats(
        vm_id=vm.vm_id,
        name=vm.name,
        status=vm.state.effective(now_s),
        status_time_ms=format_time(now_s),
        vm_type="kvm",
        kvm=UNSET if view is None else view.type == "kvm",
        acpi=UNSET if view is None else view.acpi,
        elapsed_s=UNSET if vm.started_s is None else int(now_s - vm.started_s),
        monitor_response=_monitor_response(vm, now_s, command_timeout_s),
        sample_age_s=UNSET if window.last is None else round(now_s - window.last.taken_at_s, 3),
        client_address=vm.client_address,
        time_offset_s=vm.time_offset_s,
        pause_code=_pause_code(vm, now_s),
        migration_progress=_migration_progress(vm),
        cpu_user_percent=cpu.user_percent or 0.0,  # nothing, until `cpu_actual` says that it is measured (facts §3.2)
        cpu_system_percent=cpu.system_percent or 0.0,
        cpu_usage_ns=cpu.usage_ns or 0,
        cpu_actual=cpu.usage_ns is not UNSET,
        cpus=cpus if cpus is not None else UNSET if view is None else view.cpus,
        cpu_limit_percent=UNSET if view is None else view.policy.cpu_limit_percent,
        cpu_quota_us=UNSET if view is None else view.cpu_quota_us,
        cpu_period_us=UNSET if view is None else view.cpu_period_us,
        memory_used_percent=_memory_used(vm, guest_memory),
        balloon=UNSET if view is None else _balloon(vm, view),
        guest_memory=guest_memory,
        network=UNSET if view is None else stats.list_networks(window, view),
        disks=UNSET if view is None else stats.list_disks(window, view, vm.volume_sizes),
        io_tune=UNSET if view is None else stats.list_tunes(view),
        display_info=UNSET if view is None else list(view.graphics),
        display_type=UNSET if first is None else "vnc" if first.type == "vnc" else "qxl",
        display_address=UNSET if first is None else first.address,
        display_port=UNSET if first is None else first.port,
        display_secure_port=UNSET if first is None else first.tls_port,
        hash=UNSET if view is None or not vm.is_alive else view.hash,
        tpm_hash=_hash_of(vm, "tpm"),
        nvram_hash=_hash_of(vm, "nvram"),
        watchdog=vm.watchdog,
        jobs=UNSET if vm.is_external else {merge.record.id: merge.describe() for merge in vm.merges.values()},
    )
    return _with_guest(figures, vm)


def build_guest_stats(vm: Vm, clock: Clock) -> VmStats:
    """What is known of the VM's inside (facts §3.4), and nothing else."""
    now_s = clock.monotonic()
    memory = _guest_memory(vm, now_s)
    figures = VmStats(
        vm_id=vm.vm_id,
        status=vm.state.effective(now_s),
        status_time_ms=format_time(now_s),
        memory_used_percent=_memory_used(vm, memory),
        guest_memory=memory,
    )
    return _with_guest(figures, vm)


def _with_guest(figures: VmStats, vm: Vm) -> VmStats:
    """With what agents told; where they did not, clients get the words that facts §2.20 name."""
    guest = vm.guest_figures
    return replace(
        figures,
        guest_user=guest.user if guest.user is not UNSET else "Unknown",
        guest_addresses=guest.addresses if guest.addresses is not UNSET else "",
        guest_name=guest.fqdn if guest.fqdn is not UNSET else "",
        guest_applications=guest.applications if guest.applications is not UNSET else [],
        guest_cpus=guest.cpus if guest.cpus is not UNSET else -1,
        session=guest.session if guest.session is not UNSET else "Unknown",
        guest_host_name=guest.host_name,
        guest_os_version=guest.os_version,
        guest_os=guest.os,
        guest_timezone=guest.timezone,
        guest_interfaces=guest.interfaces,
        guest_mounts=guest.mounts,
        guest_containers=guest.containers,
        guest_pci_devices=guest.pci_devices,
        last_login_s=guest.last_login_s,
        last_user=guest.last_user,
        last_logout_s=guest.last_logout_s,
    )


def _guest_memory(vm: Vm, now_s: float) -> GuestMemory | UnsetType:
    """The guest's memory as its agent tells, while it does, and as its balloon tells, which counts more."""
    told = vm.guest.memory if vm.state.is_responsive(now_s) else UNSET
    if told is UNSET and vm.state.is_responsive(now_s):
        told = GuestMemory()
    balloon = stats.get_guest_memory(vm.window)
    if balloon is UNSET or told is UNSET:
        return told if balloon is UNSET else balloon
    return replace(told, **{name: value for name, value in asdict(balloon).items() if value is not UNSET})


def _memory_used(vm: Vm, memory: GuestMemory | UnsetType) -> int:
    """In percent; 0 while nobody knows (facts §3.2)."""
    size_kib = 0 if vm.view is None else vm.view.memory_kib
    if vm.guest.free_mib is not UNSET:
        memory = GuestMemory(free_kib=vm.guest.free_mib * 1024)
    percent = stats.get_memory_used_percent(memory, size_kib)
    return 0 if percent is UNSET else percent


def build_event(
    vm: Vm, clock: Clock, figures: VmStats | UnsetType = UNSET, *, io_error: IoError | UnsetType = UNSET
) -> VmStatusChanged:
    """The event that tells of the VM's status (facts §1.8)."""
    now_s = clock.monotonic()
    end = vm.state.exit
    return VmStatusChanged(
        vm_id=vm.vm_id,
        status=vm.state.effective(now_s),
        pause_code=_pause_code(vm, now_s),
        io_error=io_error,
        exit_code=UNSET if end is None else end.code,
        exit_message=UNSET if end is None else end.message,
        exit_reason=UNSET if end is None else int(end.reason),
        time_offset_s=UNSET if end is None else vm.time_offset_s,
        stats=figures,
    )


def build_short_info(vm: Vm, clock: Clock) -> VmInfo:
    """Id and status alone."""
    now_s = clock.monotonic()
    return VmInfo(vm_id=vm.vm_id, status=_STATUSES[vm.state.effective(now_s)], status_time_ms=format_time(now_s))


def build_info(vm: Vm, clock: Clock) -> VmInfo:
    """The VM's definition and state."""
    now_s = clock.monotonic()
    view, end = vm.view, vm.state.exit
    if view is None:
        return build_short_info(vm, clock)
    first = view.graphics[0] if view.graphics else None
    maximum_kib = view.maximum_memory_kib
    guaranteed_mib = vm.metadata.guaranteed_memory_mib
    guest = vm.guest_figures
    return VmInfo(
        vm_id=vm.vm_id,
        status=_STATUSES[vm.state.effective(now_s)],
        status_time_ms=format_time(now_s),
        xml=vm.xml,
        name=vm.name,
        vm_type="kvm",
        arch=view.arch or UNSET,
        memory_mib=view.memory_kib // 1024,
        maximum_memory_mib=UNSET if maximum_kib is None else maximum_kib // 1024,
        guaranteed_memory_mib=UNSET if guaranteed_mib is None else guaranteed_mib,
        kvm=view.type == "kvm",
        cpus=view.cpus,
        maximum_cpus=view.maximum_cpus,
        cores_per_socket=view.cores,
        threads_per_core=view.threads,
        cpu_type=view.cpu_model or UNSET,
        emulated_machine=view.machine or UNSET,
        acpi=view.acpi,
        time_offset_s=vm.time_offset_s,
        display=UNSET if first is None else "vnc" if first.type == "vnc" else "qxl",
        display_address=UNSET if first is None else first.address,
        display_port=UNSET if first is None else _port(first.port),
        display_secure_port=UNSET if first is None else _port(first.tls_port),
        display_info=list(view.graphics),
        devices=_list_devices(view),
        custom=dict(vm.metadata.custom),
        client_address=vm.client_address,
        pause_code=_pause_code(vm, now_s),
        exit_code=UNSET if end is None else end.code,
        exit_message=UNSET if end is None else end.message,
        exit_reason=UNSET if end is None else int(end.reason),
        guest_name=guest.fqdn,
        guest_addresses=guest.addresses,
        guest_user=guest.user,
        guest_timezone=guest.timezone,
        guest_os=guest.os,
        guest_disks={serial: GuestDisk(name=name) for serial, name in guest.disk_names.items()} or UNSET,
    )


def _build_exit_stats(vm: Vm, now_s: float) -> VmStats:
    end = vm.state.exit
    return VmStats(
        vm_id=vm.vm_id,
        status=Status.DOWN,
        status_time_ms=format_time(now_s),
        exit_code=UNSET if end is None else end.code,
        exit_message=UNSET if end is None else end.message,
        exit_reason=UNSET if end is None else int(end.reason),
        time_offset_s=vm.time_offset_s,
    )


def _hash_of(vm: Vm, kind: str) -> str | UnsetType:
    """Of what a device keeps that the VM has."""
    if not has_device(vm.view, kind):
        return UNSET
    return get_hash(vm.kept_data[kind].stable) if kind in vm.kept_data else ""


def _monitor_response(vm: Vm, now_s: float, command_timeout_s: float) -> int:
    """-1 when a call timed out or the figures are older than a call may last; a new VM has that long, too."""
    last_s = vm.window.last.taken_at_s if vm.window.last is not None else vm.started_s
    is_old = vm.is_alive and last_s is not None and now_s - last_s > command_timeout_s
    return -1 if vm.monitor_failed or is_old else 0


def _pause_code(vm: Vm, now_s: float) -> str | UnsetType:
    is_paused = vm.state.effective(now_s) is Status.PAUSED
    return vm.state.pause_code.value if is_paused and vm.state.pause_code is not None else UNSET


def _migration_progress(vm: Vm) -> int | UnsetType:
    return UNSET if vm.departure is None or vm.departure.is_over else vm.departure.progress


def _balloon(vm: Vm, view: DomainView) -> BalloonInfo | UnsetType:
    guaranteed_mib = vm.metadata.guaranteed_memory_mib
    return stats.get_balloon(
        vm.window,
        view,
        minimum_kib=None if guaranteed_mib is None else guaranteed_mib * 1024,
        target_kib=vm.metadata.balloon_target_kib,
        enabled=vm.metadata.ballooning,
    )


def _port(text: str) -> int | UnsetType:
    return int(text) if text.lstrip("-").isdecimal() else UNSET


def _list_devices(view: DomainView) -> list[DeviceInfo]:
    disks = [
        DeviceInfo(
            type="disk",
            device=disk.device,
            alias=disk.alias or UNSET,
            name=disk.target,
            path=disk.path,
            format={"qcow2": "cow"}.get(disk.format, disk.format) or UNSET,
            interface=disk.bus,
            pool_id=UNSET if disk.volume is None else disk.volume.pool_id,
            domain_id=UNSET if disk.volume is None else disk.volume.domain_id,
            image_id=UNSET if disk.volume is None else disk.volume.image_id,
            volume_id=UNSET if disk.volume is None else disk.volume.volume_id,
        )
        for disk in view.disks
    ]
    cards = [
        DeviceInfo(
            type="interface",
            device="bridge" if card.network else card.kind,
            alias=card.alias or UNSET,
            name=card.tap or UNSET,
            mac_address=card.mac_address or UNSET,
            nic_model=card.model or UNSET,
            network=card.network or UNSET,
        )
        for card in view.interfaces
    ]
    return disks + cards + [DeviceInfo(type="graphics", device=display.type) for display in view.graphics]
