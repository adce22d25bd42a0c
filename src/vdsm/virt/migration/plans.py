"""From a caller's request to what libvirt is asked for, and from what arrives to a VM of this host; pure."""

import re
from xml.etree.ElementTree import Element

from msgspec import UNSET, Struct

from vdsm.api.errors import CreateFailed, TransientDisks, VmRequestFailed
from vdsm.api.migration import IncomingVm, MigrationRequest
from vdsm.core.errors import InvalidArgument
from vdsm.virt import hostedits
from vdsm.virt.domain import DomainInvalid, DomainView, parse_domain, read_domain
from vdsm.virt.elements import element, format_xml, parse_xml
from vdsm.virt.metadata import VmMetadata, set_metadata
from vdsm.virt.migration.schedule import Schedule
from vdsm.virt.ports import Move, MoveFlag, Place
from vdsm.virt.request import Wish

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,253}[A-Za-z0-9])?\.?|\[[0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9._-]{1,15})?\]")
_CPU_LIST = re.compile(r"\^?\d{1,5}(-\d{1,5})?(,\^?\d{1,5}(-\d{1,5})?)*")
_CONSOLE = re.compile(r"(spice|vnc)://[A-Za-z0-9.:\[\]_-]+(/\?tlsPort=\d+)?")
_PERSISTS_SINCE = (4, 2)
_ENDED = ("exitCode", "exitReason", "exitMessage", "pauseTime", "migratesTo", "convergence")


class MigrationSettings(Struct, frozen=True, kw_only=True):
    """What the administrator decides for all migrations (facts §7.4); times in s, bandwidth in MiB/s, 0 for any."""

    bandwidth_mib_per_s: int = 52
    downtime_ms: int = 500
    downtime_steps: int = 5
    outgoing_limit: int = 2
    incoming_limit: int = 2
    retry_s: float = 10.0
    monitor_interval_s: float = 10.0
    """0: migrations are not watched."""
    destination_timeout_s: float = 21600.0
    listener_timeout_s: float = 30.0
    listener_disk_timeout_s: float = 2.0
    longest_listener_timeout_s: float = 600.0
    uses_tls: bool = True


class Journey(Struct, frozen=True):
    """A migration that somebody wants."""

    place: Place
    schedule: Schedule
    request: MigrationRequest


def plan_journey(request: MigrationRequest, view: DomainView | None, settings: MigrationSettings) -> Journey:
    """Check the request; raises InvalidArgument (91), VmRequestFailed (100)."""
    if request.mode != "remote":
        raise InvalidArgument("params.mode", "saving to a file is VM.hibernate's")
    if request.memory_host is not UNSET:
        parse_host(request.memory_host, "params.dstqemu")
    if request.console_address is not UNSET and not _CONSOLE.fullmatch(_get_console_uri(request)):
        raise InvalidArgument("params.consoleAddress", "expected host[:port]/[?tlsPort]")
    cpus = None if view is None else view.maximum_cpus
    _check_sets(request.cpu_sets, "params.cpusets", cpus)
    _check_sets(request.node_sets, "params.numaNodesets", None)
    if request.schedule is not None:
        schedule = Schedule.parse(request.schedule)
    else:
        schedule = Schedule.compute(request.downtime_ms or settings.downtime_ms, settings.downtime_steps)
    return Journey(parse_place(request.destination), schedule, request)


def check_disks(metadata: VmMetadata) -> None:
    """Raise TransientDisks (59)."""
    names = [device.attributes.get("name", "") for device in metadata.devices]
    transient = [
        name for name, device in zip(names, metadata.devices, strict=True) if device.values.get("shared") == "transient"
    ]
    if transient:
        raise TransientDisks(", ".join(transient))


def parse_place(text: str) -> Place:
    """`host[:port]`, IPv6 in brackets; raises InvalidArgument."""
    host, separator, port = text.rpartition(":")
    if not separator or text.endswith("]"):
        host, port = text, "54321"
    if not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536):
        raise InvalidArgument("params.dst", "expected host[:port]")
    return Place(parse_host(host, "params.dst"), int(port))


def parse_host(text: str, where: str) -> str:
    """A host's name or address; IPv6, which is in brackets, without them. Raises InvalidArgument."""
    if _NAME.fullmatch(text) is None:
        raise InvalidArgument(where, "expected a host's name or address, IPv6 in brackets")
    return text.strip("[]")


def plan_move(journey: Journey, xml: str, there: VmMetadata | None, settings: MigrationSettings) -> Move:
    """What libvirt is asked for; `xml` is the migratable form, `there` what the other host made of the metadata."""
    request, place = journey.request, journey.place
    scheme = "qemu+tls" if settings.uses_tls else "qemu+tcp"
    memory_host = place.url_host if request.memory_host is UNSET else request.memory_host
    domain = parse_xml(xml)
    metadata = read_domain(domain).metadata or VmMetadata()
    handed_over = {} if there is None else {key: there.values.get(key) for key in ("owner", "incoming")}
    set_metadata(domain, metadata.changed(migratesTo=None, convergence=None, **handed_over))
    _pin(domain, request)
    return Move(
        uri=f"{scheme}://{place.url_host}/system",
        memory_uri="" if request.tunneled else f"tcp://{memory_host}",
        xml=format_xml(domain),
        bandwidth_mib_per_s=request.bandwidth_mib_per_s or settings.bandwidth_mib_per_s,
        connections=request.connections or 0,
        tls_name=place.host if request.encrypted else "",
        graphics_uri="" if request.console_address is UNSET else _get_console_uri(request),
        flags=_choose_flags(journey, metadata),
    )


def plan_arrival(vm: IncomingVm, owner: str, now_s: float) -> Wish:
    """The VM that another host announces, for that owner. Raises VmRequestFailed (100), CreateFailed (9)."""
    xml = vm.live_xml or vm.xml
    if xml is UNSET or not xml:
        raise VmRequestFailed("neither _srcDomXML nor xml is there")
    try:
        domain = parse_xml(xml)
    except ValueError as error:
        raise CreateFailed(str(error)) from error
    if (reason := hostedits.check_extent(domain)) is not None:
        raise CreateFailed(reason)
    try:
        view = read_domain(domain)
    except DomainInvalid as error:
        raise CreateFailed(str(error)) from error
    if domain.tag != "domain" or not view.name:
        raise CreateFailed("the XML describes no domain with a name")
    elapsed_s = 0.0 if vm.elapsed_offset_s is UNSET else vm.elapsed_offset_s
    metadata = arrive(view.metadata or VmMetadata(), owner).changed(incoming=True)
    if metadata.started_at_s is None:
        metadata = metadata.changed(startTime=now_s - elapsed_s)
    set_metadata(domain, metadata)
    return Wish(domain, view, metadata, view.time_offset_s, 0)


def arrive(metadata: VmMetadata, owner: str) -> VmMetadata:
    """The metadata of a VM that runs here now, and came from elsewhere."""
    return metadata.changed(owner=owner, incoming=None, **dict.fromkeys(_ENDED))


def read_handed_over(xml: str) -> VmMetadata | None:
    """What the other host's answer tells of its VM; None when that is nothing."""
    try:
        return parse_domain(xml).metadata
    except DomainInvalid:
        return None


def _choose_flags(journey: Journey, metadata: VmMetadata) -> frozenset[MoveFlag]:
    request = journey.request
    chosen = {
        MoveFlag.TUNNELLED: request.tunneled,
        MoveFlag.ABORT_ON_ERROR: request.abort_on_error,
        MoveFlag.COMPRESSED: request.compressed,
        MoveFlag.AUTO_CONVERGE: request.auto_converge,
        MoveFlag.TLS: request.encrypted,
        MoveFlag.PARALLEL: bool(request.connections),
        MoveFlag.ZERO_COPY: request.zero_copy,
        MoveFlag.PERSIST: metadata.cluster_version >= _PERSISTS_SINCE,
        MoveFlag.POST_COPY: journey.schedule.has_post_copy,
    }
    return frozenset(flag for flag, is_wanted in chosen.items() if is_wanted)


def _get_console_uri(request: MigrationRequest) -> str:
    address = str(request.console_address)
    return address if "://" in address else f"spice://{address}"


def _check_sets(sets: list[str | None] | None, where: str, count: int | None) -> None:
    if sets is None:
        return
    if count is not None and len(sets) != count:
        raise InvalidArgument(where, f"expected {count} of them")
    for number, text in enumerate(sets):
        if text is not None and _CPU_LIST.fullmatch(text) is None:
            raise InvalidArgument(f"{where}[{number}]", "expected a list like 0-3,^2")


def _pin(domain: Element, request: MigrationRequest) -> None:
    """Put the processors and nodes of the other host in place of this one's."""
    for number, cpu_set in enumerate(request.cpu_sets or ()):
        if cpu_set is not None:
            _replace(domain, "cputune", "vcpupin", "vcpu", number, cpuset=cpu_set)
    for number, nodes in enumerate(request.node_sets or ()):
        if nodes is not None:
            _replace(domain, "numatune", "memnode", "cellid", number, mode="strict", nodeset=nodes)


def _replace(domain: Element, parent: str, tag: str, key: str, number: int, **attributes: str) -> None:
    place = domain.find(parent)
    if place is None:
        place = element(parent)
        domain.append(place)
    for old in place.findall(f"{tag}[@{key}='{number}']"):
        attributes = {**old.attrib, **attributes}
        place.remove(old)
    place.append(Element(tag, {**attributes, key: str(number)}))
