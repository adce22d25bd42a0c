"""What this host changes in a VM's XML before it starts (facts §2.4), pure; preparing images is left to `launch`."""

from collections.abc import Callable, Iterator, Mapping
from xml.etree.ElementTree import Element

from msgspec import Struct

from vdsm.virt.domain import DomainView
from vdsm.virt.elements import check_text, element, set_child
from vdsm.virt.metadata import VmMetadata, set_metadata
from vdsm.virt.ports import PreparedImage

MAXIMUM_DEVICES = 1000
MAXIMUM_COUNTS = {"vcpu": 4096, "iothreads": 4096, "devices/disk/address@controller": 255}
"""libvirt makes what these count one by one, before anything refuses them: 2^32 cost it all memory of the host."""
LONGEST_TARGET = 5
"""Letters of a disk's name, `sdzzz` at most: its place tells how many controllers libvirt adds."""
LOCKED_PASSWORD = "*****"
"""Of a display that nobody may use yet."""

_DRIVER_TYPES = {"cow": "qcow2", "raw": "raw"}
_PATH_ATTRIBUTES = ("file", "dev", "dir", "path", "evdev")
_PATH_TEXTS = (
    "os/kernel",
    "os/initrd",
    "os/dtb",
    "os/loader",
    "os/nvram",
    "os/acpi/table",
    "devices/memory/source/path",
)
_NOT_GIVEN = ("filesystem", "interface", "hostdev")
_SOURCE_ATTRIBUTES = {"file": "file", "block": "dev", "network": "name"}  # by type of disk


LeaseKey = tuple[str, str]
"""Of a lease: its own id, and that of its storage domain."""
LeasePlace = tuple[str, str]
"""Path and offset."""


class HostFacts(Struct, frozen=True):
    """What this host puts into a VM's identity (SMBIOS) and machine."""

    uuid: str = ""
    os_name: str = "oVirt Node"
    os_version: str = ""
    """`<version>-<release>`."""
    manufacturer: str = "oVirt"
    arch: str = "x86_64"


def set_identity(domain: Element, host: HostFacts, serial: str | None) -> None:
    """Fill the SMBIOS placeholders `OS-NAME:`, `OS-VERSION:` and `HOST-SERIAL:`; only x86 has SMBIOS."""
    answers = {
        ("product", "OS-NAME:"): host.os_name,
        ("version", "OS-VERSION:"): host.os_version,
        ("serial", "HOST-SERIAL:"): serial or host.uuid,
    }
    for entry in domain.iterfind("sysinfo/system/entry"):
        for (name, placeholder), answer in answers.items():
            if entry.get("name") == name and (entry.text or "").startswith(placeholder):
                entry.text = check_text(name, answer)


def take_reboot_policy(domain: Element) -> bool:
    """Remove `<on_reboot>`, since the daemon sees to it; whether it said to destroy the VM."""
    destroys = False
    for policy in domain.findall("on_reboot"):
        destroys = destroys or (policy.text or "").strip() == "destroy"
        domain.remove(policy)
    return destroys


def avoid_kvm(domain: Element) -> None:
    """Make a `kvm` domain one of plain qemu; the CPU becomes one that emulation can give."""
    if domain.get("type") != "kvm":
        return
    domain.set("type", "qemu")
    cpu = domain.find("cpu")
    if cpu is None:
        return
    if cpu.get("mode") in ("host-passthrough", "host-model", "maximum"):
        cpu.set("mode", "maximum")
    for attribute in ("check", "migratable", "match"):
        cpu.attrib.pop(attribute, None)
    for child in list(cpu):
        if child.tag in ("feature", "cache", "maxphysaddr", "vendor"):
            cpu.remove(child)


def set_images(domain: Element, images: Mapping[str, PreparedImage], *, relabel: bool) -> None:
    """Point the disks, by target name, to their prepared images; all else of the elements stays as it is.

    A disk that is to be of the network becomes one where its image can be opened that way, else one of a path.
    Unless `relabel`, libvirt is told to leave owner and mode of the images alone.
    """
    for disk in domain.iterfind("devices/disk"):
        target = disk.find("target")
        image = None if target is None else images.get(target.get("dev", ""))
        if image is None:
            continue
        source = set_child(disk, "source")
        is_floppy = disk.get("device") == "floppy"
        network = image.network if disk.get("type") == "network" and not is_floppy else None
        if not is_floppy:
            disk.set("type", "network" if network else image.kind)
            for attribute in (*_SOURCE_ATTRIBUTES.values(), "protocol"):
                source.attrib.pop(attribute, None)
            driver = set_child(disk, "driver")
            driver.set("type", _DRIVER_TYPES.get(image.format, image.format))
            if not driver.get("name"):
                driver.set("name", "qemu")
            for host in source.findall("host"):
                source.remove(host)
        if network is not None:
            source.set("protocol", network.protocol)
            source.set("name", check_text("disk.path", network.name))
            source.append(element("host", name=network.host, port=0, transport=network.transport))
        else:
            source.set(_SOURCE_ATTRIBUTES[image.kind], check_text("disk.path", image.path))
        if not relabel and source.find("seclabel") is None:
            source.append(element("seclabel", relabel="no", model="dac"))


def drop_floppy_policies(domain: Element) -> None:
    """What becomes of errors of a floppy cannot be chosen: qemu does not start when it is."""
    for driver in domain.iterfind("devices/disk[@device='floppy']/driver[@error_policy]"):
        del driver.attrib["error_policy"]


def manage_host_devices(domain: Element) -> None:
    """Have libvirt take PCI devices from their drivers before the start, and give them back after the end."""
    for path in ("devices/hostdev[@type='pci']", "devices/interface[@type='hostdev']"):
        for device in domain.iterfind(path):
            device.set("managed", "yes")


def list_paths(domain: Element) -> list[str]:
    """The paths of all that libvirt gives to qemu's user, whatever kind of path they are for libvirt: disks and what is
    behind them, what the firmware boots, files of consoles and of memory. Folders that are shared are none of these."""
    sources = [
        source
        for device in domain.iterfind("devices/*")
        if device.tag not in _NOT_GIVEN
        for source in device.iter("source")
    ]
    named = [path for source in sources for name in _PATH_ATTRIBUTES if (path := source.get(name))]
    texts = (found.text for path in _PATH_TEXTS for found in domain.iterfind(path))
    return [*named, *(text.strip() for text in texts if text)]


def find_volume_leases(images: Mapping[str, PreparedImage]) -> dict[LeaseKey, LeasePlace]:
    """The leases of the disks' top volumes."""
    tops = [image.chain[-1] for image in images.values() if image.chain]
    return {
        (top.get("volumeID", ""), top.get("domainID", "")): (top["leasePath"], str(top.get("leaseOffset", "")))
        for top in tops
        if "leasePath" in top
    }


def list_open_leases(domain: Element) -> list[LeaseKey]:
    """The leases with placeholders."""
    return [key for key, _ in _iterate_open_leases(domain)]


def set_leases(domain: Element, leases: Mapping[LeaseKey, LeasePlace]) -> None:
    """Fill the placeholders of these leases; others stay as they are."""
    for key, target in _iterate_open_leases(domain):
        for attribute, value in zip(("path", "offset"), leases.get(key, ()), strict=False):
            if target.get(attribute, "").startswith(f"LEASE-{attribute.upper()}"):
                target.set(attribute, check_text(attribute, value))


def _iterate_open_leases(domain: Element) -> Iterator[tuple[LeaseKey, Element]]:
    for lease in domain.iterfind("devices/lease"):
        target = lease.find("target")
        if target is not None and "LEASE-" in target.get("path", "") + target.get("offset", ""):
            yield (lease.findtext("key", "").strip(), lease.findtext("lockspace", "").strip()), target


def build_placeholder(view: DomainView, metadata: VmMetadata) -> Element:
    """A tiny domain that keeps the VM's id and metadata in libvirt until the real one is defined."""
    domain = element(
        "domain",
        element("name", text=view.name),
        element("uuid", text=view.vm_id),
        element("memory", text="1024", unit="KiB"),
        element("os", element("type", text="hvm")),
        type="qemu",
    )
    set_metadata(domain, metadata)
    return domain


def check_supported(domain: Element) -> str | None:
    """Why this host cannot start such a domain, or None."""
    for check in _CHECKS:
        if (reason := check(domain)) is not None:
            return reason
    return None


def check_extent(domain: Element) -> str | None:
    """Why such a domain, wherever it runs, is too much for this host, or None."""
    return _check_count(domain) or _check_size(domain)


def _check_count(domain: Element) -> str | None:
    """Each device is compared with what the metadata tells of all of them."""
    counts = (len(domain.findall("devices/*")), len(domain.findall("metadata/*/*")))
    return f"more than {MAXIMUM_DEVICES} devices" if max(counts) > MAXIMUM_DEVICES else None


def _check_size(domain: Element) -> str | None:
    """Numbers that are none are left for libvirt to refuse."""
    for place, most in MAXIMUM_COUNTS.items():
        path, _, attribute = place.partition("@")
        for found in domain.iterfind(path):
            text = (found.get(attribute) if attribute else found.text) or ""
            if _parse_count(text) > most:
                return f"{place} is {text.strip()[:40]}, more than {most}"
    names = [target.get("dev", "") for target in domain.iterfind("devices/disk/target")]
    return next((f"no disk can be {name[:40]!r}" for name in names if len(name) > LONGEST_TARGET), None)


def _parse_count(text: str) -> int:
    """As libvirt reads it: decimal, or with the prefix of another base."""
    for base in (10, 0):
        try:
            return int(text.strip(), base)
        except ValueError:
            continue
    return 0


def _check_vnc(domain: Element) -> str | None:
    """A VNC display without an expiry would be open to everybody until the first ticket."""
    for display in domain.iterfind("devices/graphics"):
        if display.get("type") == "vnc" and display.get("passwdValidTo") is None:
            return "a VNC display needs passwdValidTo"
    return None


def _check_transient(domain: Element) -> str | None:
    """What a guest writes to a transient disk is to be thrown away, not to be written to its image."""
    shared = domain.iterfind("metadata/{*}vm/{*}device/{*}shared")
    return "transient disks are not supported" if any(mode.text == "transient" for mode in shared) else None


_CHECKS: tuple[Callable[[Element], str | None], ...] = (
    *(_check_count, _check_size),
    *(_check_vnc, _check_transient),
)
