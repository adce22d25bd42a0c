"""From the dictionary of 2011 (facts §2.2) to a domain; devices are left to `legacy_devices`, CPUs to `legacy_cpu`."""

from collections.abc import Mapping
from xml.etree.ElementTree import Element

from vdsm.api.errors import CreateFailed, MissingParameter, UnsupportedVmType
from vdsm.api.vm import VmParameters
from vdsm.core.errors import InvalidArgument
from vdsm.core.ids import is_uuid
from vdsm.virt.elements import element
from vdsm.virt.hostedits import HostFacts
from vdsm.virt.legacy.cpu import build_processors
from vdsm.virt.legacy.devices import Defaults, Devices, plan_devices
from vdsm.virt.legacy.values import at_least, given
from vdsm.virt.metadata import Scalar, VmMetadata, set_metadata

_PAGES_KIB = {"x86_64": (2048, 1048576), "ppc64le": (16384, 16777216)}
"""Huge pages that processors have; the first is the usual one, which is what any other figure asks for."""
_BOOT = {"a": "fd", "c": "hd", "d": "cdrom", "n": "network"}


def build_domain(vm_id: str, parameters: VmParameters, host: HostFacts, defaults: Defaults) -> Element:
    """The domain that the dictionary describes; disks on storage domains have an empty source until the VM starts.

    Raises MissingParameter (11) for what must be given, UnsupportedVmType (5), CreateFailed (9) for what cannot be
    made, and InvalidArgument (91) for values out of bounds and text that XML cannot carry.
    """
    if not vm_id:
        raise MissingParameter("vmId")
    if not is_uuid(vm_id):
        raise InvalidArgument("vmId", "must be a UUID")
    if given(parameters.vm_type, "kvm") != "kvm":
        raise UnsupportedVmType(str(parameters.vm_type))
    machine = given(parameters.emulated_machine, "") or "pc"
    devices = plan_devices(vm_id, machine, parameters, defaults)
    domain = element(
        "domain",
        element("name", text=given(parameters.name, "") or vm_id),
        element("uuid", text=vm_id),
        _os(parameters, machine, devices, host),
        *_sysinfo(vm_id, parameters, host),
        *_memory(parameters),
        *_backing(given(parameters.custom, {}), host),
        *build_processors(parameters),
        *_features(parameters),
        _clock(parameters),
        type="kvm" if given(parameters.kvm, True) else "qemu",
    )
    set_metadata(domain, _metadata(parameters, devices))
    domain.append(devices.build())
    return domain


def _os(parameters: VmParameters, machine: str, devices: Devices, host: HostFacts) -> Element:
    """What the VM boots; devices with a boot order of their own rule out the global order, so that is left out then."""
    os = element("os", element("type", text="hvm", arch=host.arch, machine=machine))
    letters = given(parameters.boot, "")
    unknown = sorted(set(letters) - set(_BOOT))
    if unknown:
        raise CreateFailed(f"unknown boot device {unknown[0]!r}")
    if letters == "c" and not any(disk.get("device") == "disk" for disk in devices.find("disk")):
        raise MissingParameter("drives")
    if all(device.find("boot") is None for device in devices.elements):
        os.extend([element("boot", dev=_BOOT[letter]) for letter in letters])
    if given(parameters.boot_menu, False):
        os.append(element("bootmenu", enable=True, timeout=10000))
    if parameters.kernel:
        named = {"kernel": parameters.kernel, "initrd": parameters.initrd, "cmdline": parameters.kernel_arguments}
        os.extend([element(tag, text=text) for tag, text in named.items() if text])
    if host.arch == "x86_64":
        os.append(element("smbios", mode="sysinfo"))
    return os


def _sysinfo(vm_id: str, parameters: VmParameters, host: HostFacts) -> list[Element]:
    """The VM's SMBIOS identity, on x86."""
    if host.arch != "x86_64":
        return []
    entries = {
        "manufacturer": host.manufacturer,
        "product": host.os_name,
        "version": host.os_version,
        "serial": given(parameters.serial, "") or host.uuid,
        "uuid": vm_id,
    }
    system = element("system", *(element("entry", name=name, text=text) for name, text in entries.items() if text))
    return [element("sysinfo", system, type="smbios")]


def _memory(parameters: VmParameters) -> list[Element]:
    """`<maxMemory>` when memory may be plugged later, `<memory>` and `<currentMemory>`."""
    size_mib = given(parameters.memory_mib, 0)
    if not size_mib:
        raise MissingParameter("memSize")
    at_least("memSize", size_mib, 1)
    slots = at_least("maxMemSlots", given(parameters.maximum_memory_slots, 16), 1)
    maximum_mib = given(parameters.maximum_memory_mib, 0)
    sizes = {"memory": size_mib, "currentMemory": size_mib}
    made = [element(tag, text=str(mib * 1024), unit="KiB") for tag, mib in sizes.items()]
    if maximum_mib > size_mib:
        made.insert(0, element("maxMemory", text=str(maximum_mib * 1024), unit="KiB", slots=slots))
    return made


def _backing(custom: Mapping[str, str], host: HostFacts) -> list[Element]:
    """Where the memory comes from: huge pages, and what others may map too, by the properties of facts §2.3."""
    asked = custom.get("hugepages", "").strip()
    made = []
    if asked:
        sizes = _PAGES_KIB.get(host.arch, ())
        size = next((size for size in sizes if asked == str(size)), None)
        made.append(element("hugepages", *([] if size is None else [element("page", size=size, unit="KiB")])))
    if custom.get("hugepages_shared", "").lower() == "true":
        made.append(element("access", mode="shared"))
    return [element("memoryBacking", *made)] if made else []


def _features(parameters: VmParameters) -> list[Element]:
    """ACPI, and what Windows guests like to find."""
    made = [element("acpi")] if given(parameters.acpi, True) else []
    if given(parameters.hyperv, False):
        on = {"state": "on"}
        spinlocks = element("spinlocks", retries=8191, **on)
        made.append(element("hyperv", element("relaxed", **on), element("vapic", **on), spinlocks))
    return [element("features", *made)] if made else []


def _clock(parameters: VmParameters) -> Element:
    """A clock at an offset that the guest may change."""
    return element(
        "clock",
        element("timer", name="rtc", tickpolicy="catchup"),
        element("timer", name="pit", tickpolicy="delay"),
        element("timer", name="hpet", present=False),
        *([element("timer", name="hypervclock", present=True)] if given(parameters.hyperv, False) else []),
        offset="variable",
        adjustment=given(parameters.time_offset_s, 0),
    )


def _metadata(parameters: VmParameters, devices: Devices) -> VmMetadata:
    """What the VM carries with it in libvirt; the owner and the start time are added by `request`."""
    values: dict[str, Scalar] = {"launchPaused": True} if given(parameters.launch_paused, False) else {}
    if parameters.guaranteed_memory_mib:
        values["memGuaranteedSize"] = parameters.guaranteed_memory_mib
    return VmMetadata(values, tuple(devices.metadata), given(parameters.custom, {}))
