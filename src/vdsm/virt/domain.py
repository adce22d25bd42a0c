"""What a domain's XML tells of a VM, parsed once into values; what it does now is left to `lifecycle` and `stats`."""

import hashlib
from collections.abc import Iterator, Mapping
from uuid import UUID
from xml.etree.ElementTree import Element

from msgspec import UNSET, Struct, UnsetType

from vdsm.api.tuning import IoLimits
from vdsm.api.vm_types import DisplayInfo
from vdsm.core.cpu_lists import parse_cpu_list
from vdsm.virt.elements import parse_int, parse_xml
from vdsm.virt.metadata import MetadataInvalid, VmMetadata, VolumeRef, find_metadata
from vdsm.virt.qos import Policy, find_policy, read_limits

AGENT_CHANNEL = "com.redhat.rhevm.vdsm"
NEW_AGENT_CHANNEL = "ovirt-guest-agent.0"
QEMU_AGENT_CHANNEL = "org.qemu.guest_agent.0"
GUESTFS_CHANNEL = "org.libguestfs.channel.0"


class DomainInvalid(ValueError):
    """The domain XML cannot be understood; the text says why."""


class DiskLayer(Struct, frozen=True):
    """One layer of a drive that runs: where it is, and by which number qemu knows it (`vda[3]`)."""

    path: str
    index: str


class DiskView(Struct, frozen=True):
    """One drive: `target` names it, `format` is libvirt's (qcow2, raw)."""

    target: str
    device: str
    kind: str
    path: str
    format: str
    bus: str
    alias: str
    volume: VolumeRef | None
    lun_id: str | None
    serial: str
    limits: IoLimits
    is_transient: bool = False
    layers: tuple[DiskLayer, ...] = ()
    """Top first; the lower ones only while it runs."""
    mirror: str = ""
    """The job that fills a mirror, `active-commit` or `copy`; empty without one."""
    is_mirrored: bool = False
    """Whether the mirror has all that the disk has."""


class InterfaceView(Struct, frozen=True):
    """One network card: `tap` is its name on the host, empty before the VM runs."""

    mac_address: str
    tap: str
    model: str
    network: str
    alias: str
    kind: str


class DomainView(Struct, frozen=True):
    """One VM as its XML tells."""

    vm_id: str
    name: str
    type: str
    arch: str
    machine: str
    memory_kib: int
    maximum_memory_kib: int | None
    cpus: int
    maximum_cpus: int
    cores: int
    threads: int
    cpu_quota_us: int | UnsetType
    cpu_period_us: int | UnsetType
    cpu_model: str
    pins: Mapping[int, frozenset[int]]
    """Of processors that are pinned, to which CPUs of the host; none where that cannot be read."""
    acpi: bool
    time_offset_s: int
    has_balloon: bool
    disks: tuple[DiskView, ...]
    interfaces: tuple[InterfaceView, ...]
    graphics: tuple[DisplayInfo, ...]
    display_networks: frozenset[str]
    """libvirt's names of the networks that displays listen on."""
    channels: Mapping[str, str]
    """Target name to the path of the socket at which qemu listens; empty for channels of other kinds."""
    qemu_agent_connected: bool
    """Whether the guest has opened the qemu agent's channel."""
    leases: frozenset[str]
    """The ids of what leases are held on: volumes, and external leases."""
    nvram: str
    """The file that keeps the firmware's variables; empty for none."""
    has_tpm: bool
    """Whether it has a TPM of its own, made by software."""
    metadata: VmMetadata | None
    policy: Policy
    hash: str
    """Changes whenever a device does."""

    @property
    def agent_socket(self) -> str:
        """Where the oVirt agent's messages come and go; empty when there is no such channel."""
        return self.channels.get(NEW_AGENT_CHANNEL) or self.channels.get(AGENT_CHANNEL, "")


def parse_domain(xml: str) -> DomainView:
    """Parse a domain's XML; raises DomainInvalid."""
    try:
        return read_domain(parse_xml(xml))
    except ValueError as error:
        raise DomainInvalid(str(error)) from error


def read_domain(domain: Element) -> DomainView:
    """Read a parsed domain; raises DomainInvalid."""
    try:
        metadata = find_metadata(domain)
        return DomainView(
            vm_id=str(UUID(domain.findtext("uuid", "").strip())),
            name=domain.findtext("name", "").strip(),
            type=domain.get("type", ""),
            arch=get_attribute(domain, "os/type", "arch"),
            machine=get_attribute(domain, "os/type", "machine"),
            memory_kib=_kib(domain, "memory") or 0,
            maximum_memory_kib=_kib(domain, "maxMemory"),
            cpus=parse_int(get_attribute(domain, "vcpu", "current") or domain.findtext("vcpu") or "1"),
            maximum_cpus=parse_int(domain.findtext("vcpu") or "1"),
            cores=parse_int(get_attribute(domain, "cpu/topology", "cores") or "1"),
            threads=parse_int(get_attribute(domain, "cpu/topology", "threads") or "1"),
            cpu_quota_us=_number(domain, "cputune/quota"),
            cpu_period_us=_number(domain, "cputune/period"),
            pins=dict(_list_pins(domain)),
            cpu_model=domain.findtext("cpu/model", ""),
            acpi=domain.find("features/acpi") is not None,
            time_offset_s=_time_offset(domain),
            has_balloon=get_attribute(domain, "devices/memballoon", "model") not in ("", "none"),
            disks=tuple(list_disk_views(domain, metadata)),
            interfaces=tuple(_interface(card) for card in domain.iterfind("devices/interface")),
            graphics=tuple(_graphics(display) for display in domain.iterfind("devices/graphics")),
            display_networks=frozenset(
                listen.get("network", "") for listen in domain.iterfind("devices/graphics/listen[@type='network']")
            ),
            channels=dict(_channel(channel) for channel in domain.iterfind("devices/channel")),
            qemu_agent_connected=any(
                (target.get("name"), target.get("state")) == (QEMU_AGENT_CHANNEL, "connected")
                for target in domain.iterfind("devices/channel/target")
            ),
            leases=frozenset(lease.findtext("key", "").strip() for lease in domain.iterfind("devices/lease")),
            nvram=domain.findtext("os/nvram", "").strip(),
            has_tpm=any(backend.get("type") == "emulator" for backend in domain.iterfind("devices/tpm/backend")),
            metadata=metadata,
            policy=find_policy(domain),
            hash=_hash(domain),
        )
    except MetadataInvalid as error:
        raise DomainInvalid(f"metadata: {error}") from error
    except ValueError as error:
        raise DomainInvalid(f"domain XML: {error}") from error


def get_attribute(domain: Element, path: str, name: str) -> str:
    """An attribute of the first element at that path; empty when either is missing."""
    found = domain.find(path)
    return "" if found is None else found.get(name, "")


_KIB = {"b": 1 / 1024, "bytes": 1 / 1024, "KB": 1000 / 1024, "k": 1, "KiB": 1, "MB": 1e6 / 1024, "M": 1024, "MiB": 1024}
_KIB |= {"GB": 1e9 / 1024, "G": 1024**2, "GiB": 1024**2, "TB": 1e12 / 1024, "T": 1024**3, "TiB": 1024**3}


def _kib(domain: Element, path: str) -> int | None:
    found = domain.find(path)
    if found is None:
        return None
    unit = found.get("unit", "KiB")
    if unit not in _KIB:
        raise DomainInvalid(f"{path}: unknown unit {unit!r}")
    return int(parse_int(found.text or "0") * _KIB[unit])


def _number(domain: Element, path: str) -> int | UnsetType:
    text = domain.findtext(path)
    return UNSET if text is None else parse_int(text)


def _list_pins(domain: Element) -> Iterator[tuple[int, frozenset[int]]]:
    for pin in domain.iterfind("cputune/vcpupin"):
        try:
            cpus = frozenset(parse_cpu_list(pin.get("cpuset", "")))
        except ValueError:
            cpus = frozenset()
        yield parse_int(pin.get("vcpu", "")), cpus


def _time_offset(domain: Element) -> int:
    adjustment = get_attribute(domain, "clock", "adjustment")
    return parse_int(adjustment) if adjustment.lstrip("-").isdecimal() else 0


def list_disk_views(domain: Element, metadata: VmMetadata | None) -> Iterator[DiskView]:
    """The drives of a parsed domain, or of anything of its shape."""
    for disk in domain.iterfind("devices/disk"):
        target = get_attribute(disk, "target", "dev")
        known = None if metadata is None else metadata.device(devtype="disk", name=target)
        lun = None if known is None else known.values.get("GUID")
        mirror = disk.find("mirror")
        yield DiskView(
            target=target,
            device=disk.get("device", "disk"),
            kind=disk.get("type", ""),
            path=_path(disk),
            format=get_attribute(disk, "driver", "type"),
            bus=get_attribute(disk, "target", "bus"),
            alias=get_attribute(disk, "alias", "name"),
            volume=None if known is None else known.volume,
            lun_id=None if lun is None else str(lun),
            serial=disk.findtext("serial", "").strip(),
            limits=read_limits(disk.find("iotune")),
            is_transient=known is not None and known.values.get("shared") == "transient",
            layers=tuple(_list_layers(disk)),
            mirror="" if mirror is None else mirror.get("job", "copy"),
            is_mirrored=mirror is not None and mirror.get("ready") == "yes",
        )


def _list_layers(disk: Element) -> Iterator[DiskLayer]:
    index = get_attribute(disk, "source", "index")
    layer: Element | None = disk
    while layer is not None and (path := _path(layer)):
        yield DiskLayer(path, layer.get("index") or index)
        layer = layer.find("backingStore")


def _path(disk: Element) -> str:
    source = disk.find("source")
    if source is None:
        return ""
    return source.get("file") or source.get("dev") or source.get("name") or ""


def _interface(card: Element) -> InterfaceView:
    source = card.find("source")
    return InterfaceView(
        mac_address=get_attribute(card, "mac", "address"),
        tap=get_attribute(card, "target", "dev"),
        model=get_attribute(card, "model", "type"),
        network="" if source is None else source.get("bridge") or source.get("network") or source.get("dev") or "",
        alias=get_attribute(card, "alias", "name"),
        kind=card.get("type", ""),
    )


def _channel(channel: Element) -> tuple[str, str]:
    source = channel.find("source")
    listens = channel.get("type") == "unix" and source is not None and source.get("mode") != "connect"
    path = source.get("path", "") if listens and source is not None else ""
    return get_attribute(channel, "target", "name"), path


def _graphics(display: Element) -> DisplayInfo:
    listen = display.find("listen")
    return DisplayInfo(
        type=display.get("type", ""),
        port=display.get("port", ""),
        tls_port=display.get("tlsPort", ""),
        address="0" if listen is None else listen.get("address", "0"),
    )


_VOLATILE = frozenset({"passwd", "passwdValidTo", "connected", "state"})
"""Attributes that change without the devices changing: tickets, and whether an agent is there."""


def _hash(domain: Element) -> str:
    digest = hashlib.sha256()
    for node in domain.iterfind("devices//"):
        stable = sorted((name, value) for name, value in node.items() if name not in _VOLATILE)
        digest.update(repr((node.tag, stable, (node.text or "").strip())).encode())
    names = sorted(
        node.text or "" for node in domain.iterfind("metadata//") if node.tag.rpartition("}")[2] == "guestName"
    )
    digest.update(repr(names).encode())
    return str(int.from_bytes(digest.digest()[:8], "big", signed=True))
