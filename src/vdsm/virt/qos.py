"""What a VM may use at most, as its libvirt metadata says (`qos`, facts §2.3): parsed, changed, formatted.

Who decides on limits reads it and sets them; a value that cannot be read is as if it were not there.
"""

from collections.abc import Mapping
from xml.etree.ElementTree import Element, register_namespace

from msgspec import UNSET, Struct, UnsetType, structs

from vdsm.api.tuning import DiskPolicy, IoLimits
from vdsm.virt.elements import element, format_xml, parse_int

TUNE_URI = "http://ovirt.org/vm/tune/1.0"
TUNE_PREFIX = "ovirt-tune"
register_namespace(TUNE_PREFIX, TUNE_URI)

LIBVIRT_NAMES: Mapping[str, str] = {
    "total_bytes_per_s": "total_bytes_sec",
    "read_bytes_per_s": "read_bytes_sec",
    "write_bytes_per_s": "write_bytes_sec",
    "total_operations_per_s": "total_iops_sec",
    "read_operations_per_s": "read_iops_sec",
    "write_operations_per_s": "write_iops_sec",
}
"""Our names of limits to those that metadata, domains and libvirt's calls use."""


class Policy(Struct, frozen=True):
    """A VM's `qos`; disks by their target names and paths."""

    cpu_limit_percent: int | UnsetType = UNSET
    disks: tuple[DiskPolicy, ...] = ()


def find_policy(domain: Element) -> Policy:
    """The policy of a domain's XML; an empty one when it has none."""
    found = domain.find(f"metadata/{{{TUNE_URI}}}qos")
    if found is None:
        return Policy()
    return Policy(
        cpu_limit_percent=_parse(found.findtext("{*}vcpuLimit")),
        disks=tuple(
            DiskPolicy(
                name=disk.get("name", UNSET),
                path=disk.get("path", UNSET),
                maximum=_find_limits(disk, "{*}maximum"),
                guaranteed=_find_limits(disk, "{*}guaranteed"),
            )
            for disk in found.iterfind("{*}ioTune/{*}device")
        ),
    )


def format_policy(policy: Policy) -> str:
    """The `qos` element as libvirt's metadata call wants it: without namespaces, which libvirt adds."""
    qos = element("qos")
    if policy.cpu_limit_percent is not UNSET:
        qos.append(element("vcpuLimit", text=str(policy.cpu_limit_percent)))
    if policy.disks:
        qos.append(element("ioTune", *(_build_disk(disk) for disk in policy.disks)))
    return format_xml(qos)


def read_limits(parent: Element | None, prefix: str = "") -> IoLimits:
    """The limits that stand in the children of an element, `prefix` before their tags."""
    if parent is None:
        return IoLimits()
    return IoLimits(**{ours: _parse(parent.findtext(prefix + name)) for ours, name in LIBVIRT_NAMES.items()})


def list_limits(limits: IoLimits) -> dict[str, int]:
    """The limits that are given, by libvirt's names."""
    found = ((name, getattr(limits, ours)) for ours, name in LIBVIRT_NAMES.items())
    return {name: value for name, value in found if value is not UNSET}


def merge(old: IoLimits, new: IoLimits) -> IoLimits:
    """The old limits with those of the new ones that are given."""
    given = {name: value for name, value in structs.asdict(new).items() if value is not UNSET}
    return structs.replace(old, **given)


def _find_limits(disk: Element, path: str) -> IoLimits | UnsetType:
    found = disk.find(path)
    return UNSET if found is None else read_limits(found, "{*}")


def _build_disk(disk: DiskPolicy) -> Element:
    limits = {"maximum": disk.maximum, "guaranteed": disk.guaranteed}
    parts = [
        element(tag, *(element(name, text=str(value)) for name, value in list_limits(given).items()))
        for tag, given in limits.items()
        if given is not UNSET
    ]
    name, path = (None if text is UNSET else text for text in (disk.name, disk.path))
    return element("device", *parts, name=name, path=path)


def _parse(text: str | None) -> int | UnsetType:
    try:
        number = parse_int(text or "")
    except ValueError:
        return UNSET
    return number if number >= 0 else UNSET
