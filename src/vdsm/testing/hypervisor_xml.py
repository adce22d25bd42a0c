"""What libvirt adds to a VM that runs: aliases, ports, tap names, figures; state is left to the fake hypervisor."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from defusedxml.ElementTree import fromstring
from msgspec import Struct

HOST_CAPABILITIES = Path(__file__).with_name("host_capabilities.xml").read_text()
_DOMAIN_CAPABILITIES = Path(__file__).with_name("domain_capabilities.xml").read_text()

_ALIAS_PREFIXES = {"interface": "net", "graphics": "", "emulator": "", "memballoon": "balloon", "lease": ""}
_BUS_PREFIXES = {"virtio": "virtio-disk", "ide": "ide0-0-", "sata": "sata0-0-", "scsi": "scsi0-0-0-", "fdc": "fdc0-0-"}
_FIRST_PORT = 5900


class Disk(Struct, frozen=True):
    """A disk as statistics name it."""

    target: str
    path: str


def make_domain_capabilities(kind: str) -> str:
    """`virsh domcapabilities` for that domain type."""
    root = fromstring(_DOMAIN_CAPABILITIES)
    domain = Element("domain")
    domain.text = kind
    root.insert(1, domain)
    return format_xml(root)


def format_xml(root: Element) -> str:
    """The element as indented text."""
    indent(root)
    return tostring(root, encoding="unicode") + "\n"


def make_live(definition: Element, domain_id: int) -> Element:
    """The XML of the running domain: what was defined, plus what libvirt adds at start. Passwords are not shown."""
    live: Element = fromstring(tostring(definition, encoding="unicode"))
    live.set("id", str(domain_id))
    if live.find("currentMemory") is None:
        memory = live.find("memory")
        if memory is not None:
            current = Element("currentMemory", memory.attrib)
            current.text = memory.text
            live.insert(list(live).index(memory) + 1, current)
    devices = live.find("devices")
    if devices is None:
        devices = SubElement(live, "devices")
    counts: Counter[str] = Counter()
    for device in devices:
        complete_device(device, domain_id, counts)
    return live


def list_aliases(devices: Element) -> frozenset[str]:
    """The aliases that are taken."""
    return frozenset(alias.get("name", "") for alias in devices.iterfind("*/alias"))


def complete_device(device: Element, domain_id: int, counts: Counter[str], taken: frozenset[str] = frozenset()) -> None:
    """Add alias, port, tap name or pty to one device, as far as they are missing; aliases that are taken stay so."""
    match device.tag:
        case "graphics":
            _complete_graphics(device, domain_id)
        case "interface":
            if device.find("target") is None and device.get("type") in ("bridge", "network", "ethernet"):
                SubElement(device, "target", {"dev": f"vnet{domain_id * 10 + counts['interface']}"})
        case "console" | "serial":
            if device.get("type") == "pty" and device.find("source") is None:
                SubElement(device, "source", {"path": f"/dev/pts/{domain_id}"})
        case "channel":
            target, source = device.find("target"), device.find("source")
            if target is not None:
                target.set("state", "disconnected")
                if device.get("type") == "unix" and (source is None or source.get("path") is None):
                    path = f"/var/lib/libvirt/qemu/channel/target/domain-{domain_id}/{target.get('name')}"
                    source = SubElement(device, "source", {"mode": "bind"}) if source is None else source
                    source.set("path", path)
    _add_alias(device, counts, taken)


def find_same_device(devices: Element, wanted: Element) -> Element | None:
    """The device that an update means: the disk of that target, the interface of that address, else that type."""
    for device in devices.findall(wanted.tag):
        if _identify(device) == _identify(wanted):
            return device
    return None


def is_at(disk: Element, target: str) -> bool:
    """Whether that is the disk's name."""
    found = disk.find("target")
    return found is not None and found.get("dev") == target


def set_texts(parent: Element, numbers: Mapping[str, int]) -> None:
    """Write numbers into the elements at these paths, which are made where they are missing."""
    for path, number in numbers.items():
        place = parent
        for tag in path.split("/"):
            found = place.find(tag)
            place = SubElement(place, tag) if found is None else found
        place.text = str(number)
        place.attrib.pop("unit", None)


def list_disks(live: Element) -> list[Disk]:
    """The disks with their targets and sources, in order."""
    disks = []
    for disk in live.findall("devices/disk"):
        source, target = disk.find("source"), disk.find("target")
        path = "" if source is None else source.get("file") or source.get("dev") or source.get("name") or ""
        disks.append(Disk("" if target is None else target.get("dev", ""), path))
    return disks


def make_statistics(live: Element, state: int, reason: int, uptime_s: float) -> dict[str, int | str | bool]:
    """Counters that grow with the time that the VM has run, under libvirt's names."""
    uptime_ns = int(uptime_s * 1e9)
    vcpus = int(live.findtext("vcpu", "1"))
    memory_kib = parse_kib(live.find("memory"))
    stats: dict[str, int | str | bool] = {
        "state.state": state,
        "state.reason": reason,
        "cpu.time": uptime_ns // 10,
        "cpu.user": uptime_ns // 50,
        "cpu.system": uptime_ns // 25,
        "balloon.current": parse_kib(live.find("currentMemory")) or memory_kib,
        "balloon.maximum": memory_kib,
        "balloon.rss": 40_000,
        "balloon.last-update": 0,
        "vcpu.current": vcpus,
        "vcpu.maximum": vcpus,
    }
    for number in range(vcpus):
        stats |= {f"vcpu.{number}.state": 1, f"vcpu.{number}.time": uptime_ns // 20, f"vcpu.{number}.wait": 0}
    _add_interfaces(stats, live, int(uptime_s))
    _add_disks(stats, live, int(uptime_s))
    return stats


def _add_interfaces(stats: dict[str, int | str | bool], live: Element, seconds: int) -> None:
    taps = [target.get("dev", "") for target in live.findall("devices/interface/target")]
    stats["net.count"] = len(taps)
    for number, tap in enumerate(taps):
        stats[f"net.{number}.name"] = tap
        for way in ("rx", "tx"):
            figures = {"bytes": 1000 * seconds, "pkts": 10 * seconds, "errs": 0, "drop": 0}
            stats |= {f"net.{number}.{way}.{name}": value for name, value in figures.items()}


def _add_disks(stats: dict[str, int | str | bool], live: Element, seconds: int) -> None:
    disks = list_disks(live)
    stats["block.count"] = len(disks)
    for number, disk in enumerate(disks):
        stats[f"block.{number}.name"] = disk.target
        if not disk.path:
            continue
        stats |= {f"block.{number}.path": disk.path, f"block.{number}.backingIndex": 1}
        for way, factor in (("rd", 2), ("wr", 1)):
            figures = {"reqs": factor * seconds, "bytes": 4096 * factor * seconds, "times": 100_000 * factor * seconds}
            stats |= {f"block.{number}.{way}.{name}": value for name, value in figures.items()}
        stats |= {f"block.{number}.fl.reqs": seconds, f"block.{number}.fl.times": 50_000 * seconds}
        for name in ("allocation", "capacity", "physical"):
            stats[f"block.{number}.{name}"] = 2**20


def _complete_graphics(device: Element, domain_id: int) -> None:
    if device.get("autoport") == "yes" or device.get("port") == "-1":
        device.set("port", str(_FIRST_PORT + 2 * domain_id))
        if device.get("type") == "spice":
            device.set("tlsPort", str(_FIRST_PORT + 2 * domain_id + 1))
    device.set("listen", device.get("listen", "127.0.0.1"))
    if device.find("listen") is None:
        SubElement(device, "listen", {"type": "address", "address": device.get("listen", "")})
    device.attrib.pop("passwd", None)


def _add_alias(device: Element, counts: Counter[str], taken: frozenset[str]) -> None:
    if device.find("alias") is not None:
        return
    prefix = _ALIAS_PREFIXES.get(device.tag, device.tag)
    target = device.find("target")
    if device.tag == "disk" and target is not None:
        prefix = _BUS_PREFIXES.get(target.get("bus", ""), "disk")
    if prefix:
        while f"{prefix}{counts[prefix]}" in taken:
            counts[prefix] += 1
        SubElement(device, "alias", {"name": f"{prefix}{counts[prefix]}"})
        counts[prefix] += 1


def _identify(device: Element) -> str | None:
    match device.tag:
        case "disk":
            target = device.find("target")
            return None if target is None else target.get("dev")
        case "interface":
            mac = device.find("mac")
            return None if mac is None else mac.get("address")
        case "lease":
            return device.findtext("key")
        case "memory":
            alias = device.find("alias")
            return None if alias is None else alias.get("name")
        case _:
            return device.get("type")


def parse_kib(memory: Element | None) -> int:
    """What an element of memory tells; 0 when it is not there."""
    units = {"b": 2**-10, "bytes": 2**-10, "KiB": 1, "k": 1, "MiB": 2**10, "M": 2**10, "GiB": 2**20, "G": 2**20}
    return 0 if memory is None else int(int(memory.text or "0") * units[memory.get("unit", "KiB")])
