"""From the dictionary of 2011 (facts §2.2) to a specification; its devices are left to `legacy_devices`."""

from typing import TypeVar

from msgspec import UNSET, UnsetType

from vdsm.api.errors import CreateFailed, MissingParameter, UnsupportedVmType
from vdsm.api.vm import VmParameters
from vdsm.core.errors import InvalidArgument
from vdsm.core.ids import is_uuid
from vdsm.virt.legacy_devices import Defaults, plan_devices
from vdsm.virt.spec import Cpu, DirectKernel, Memory, NumaCell, NumaTuning, VmSpec

T = TypeVar("T")

_BOOT = {"a": "fd", "c": "hd", "d": "cdrom", "n": "network"}
_SHARES_PER_NICE = 51


def given(value: T | UnsetType, default: T) -> T:
    """The value, or the default when the caller gave none."""
    return default if value is UNSET else value


def uses_kvm(parameters: VmParameters) -> bool:
    """Whether the caller wants KVM, which is the default."""
    return given(parameters.kvm, True)


def plan_spec(vm_id: str, parameters: VmParameters, defaults: Defaults) -> VmSpec:
    """The specification that the dictionary describes.

    Raises MissingParameter (11) for what must be given, UnsupportedVmType (5), CreateFailed (9) for what cannot be
    made, and InvalidArgument (91) for values out of bounds.
    """
    if not vm_id:
        raise MissingParameter("vmId")
    if not is_uuid(vm_id):
        raise InvalidArgument("vmId", "must be a UUID")
    if given(parameters.vm_type, "kvm") != "kvm":
        raise UnsupportedVmType(str(parameters.vm_type))
    machine = given(parameters.emulated_machine, "pc") or "pc"
    devices = plan_devices(vm_id, machine, parameters, defaults)
    boot = _boot(parameters, has_disks=any(disk.device.value == "disk" for disk in devices.disks))
    return VmSpec(
        vm_id=vm_id,
        name=given(parameters.name, "") or vm_id,
        memory=_memory(parameters),
        cpu=_cpu(parameters),
        machine=machine,
        boot_devices=boot,
        boot_menu=given(parameters.boot_menu, False),
        kernel=_kernel(parameters),
        acpi=given(parameters.acpi, True),
        hyperv=given(parameters.hyperv, False),
        time_offset_s=given(parameters.time_offset_s, 0),
        tablet=given(parameters.tablet, False),
        serial=given(parameters.serial, "") or None,
        disks=tuple(devices.disks),
        interfaces=tuple(devices.interfaces),
        graphics=tuple(devices.graphics),
        videos=tuple(devices.videos),
        sounds=tuple(devices.sounds),
        controllers=tuple(devices.controllers),
        channels=tuple(devices.channels),
        console=devices.console,
        rng=devices.rng,
        balloon=devices.balloon,
        watchdog=devices.watchdog,
        smartcard=devices.smartcard,
        usb_redirections=devices.usb_redirections,
        custom=given(parameters.custom, {}),
        launch_paused=given(parameters.launch_paused, False),
    )


def _memory(parameters: VmParameters) -> Memory:
    size_mib = given(parameters.memory_mib, 0)
    if not size_mib:
        raise MissingParameter("memSize")
    _at_least("memSize", size_mib, 1)
    return Memory(
        size_mib=size_mib,
        maximum_mib=parameters.maximum_memory_mib or None,
        slots=_at_least("maxMemSlots", given(parameters.maximum_memory_slots, 16), 1),
        guaranteed_mib=parameters.guaranteed_memory_mib or None,
    )


def _cpu(parameters: VmParameters) -> Cpu:
    count = _at_least("smp", given(parameters.cpus, 1), 1)
    maximum = _at_least("maxVCpus", given(parameters.maximum_cpus, count), count)
    cores = _at_least("smpCoresPerSocket", given(parameters.cores_per_socket, 1), 1)
    threads = _at_least("smpThreadsPerCore", given(parameters.threads_per_core, 1), 1)
    if maximum % (cores * threads):
        raise InvalidArgument("maxVCpus", f"{maximum} is no multiple of {cores} cores with {threads} threads each")
    return Cpu(
        count=count,
        maximum=maximum,
        cores=cores,
        threads=threads,
        model=given(parameters.cpu_type, "qemu64") or "qemu64",
        pinning=given(parameters.cpu_pinning, {}),
        shares=_shares(parameters),
        io_threads=_at_least("numOfIoThreads", given(parameters.io_threads, 0), 0),
        cells=_cells(parameters),
        tuning=_tuning(parameters),
    )


def _shares(parameters: VmParameters) -> int | None:
    """None when nobody asked: the default share of `nice` 0 is as good as the kernel's, and needs no CPU cgroup."""
    if parameters.cpu_shares is not UNSET and parameters.cpu_shares:
        return parameters.cpu_shares
    if parameters.nice is UNSET:
        return None
    return (20 - min(max(parameters.nice, 0), 19)) * _SHARES_PER_NICE


def _cells(parameters: VmParameters) -> tuple[NumaCell, ...]:
    nodes = given(parameters.guest_numa_nodes, [])
    return tuple(NumaCell(index=node.index, cpus=node.cpus, memory_mib=node.memory_mib) for node in nodes)


def _tuning(parameters: VmParameters) -> NumaTuning | None:
    tune = parameters.numa_tune
    if tune is UNSET:
        return None
    return NumaTuning(
        mode=tune.mode, nodeset=tune.nodeset, cells={node.guest_node: node.nodeset for node in tune.memory_nodes}
    )


def _kernel(parameters: VmParameters) -> DirectKernel | None:
    kernel = given(parameters.kernel, "")
    if not kernel:
        return None
    return DirectKernel(
        kernel=kernel,
        initrd=given(parameters.initrd, "") or None,
        arguments=given(parameters.kernel_arguments, "") or None,
    )


def _boot(parameters: VmParameters, *, has_disks: bool) -> tuple[str, ...]:
    letters = given(parameters.boot, "")
    unknown = sorted(set(letters) - set(_BOOT))
    if unknown:
        raise CreateFailed(f"unknown boot device {unknown[0]!r}")
    if letters == "c" and not has_disks:
        raise MissingParameter("drives")
    return tuple(_BOOT[letter] for letter in letters)


def _at_least(name: str, value: int, least: int) -> int:
    if value < least:
        raise InvalidArgument(name, f"must be at least {least}, not {value}")
    return value
