"""What a VM's libvirt metadata holds (facts §2.3): parsed, changed, formatted; writing it to libvirt is left to others.

State that must survive the daemon lives here: the owner, when the VM started, how it ended, what the client asked for.
"""

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Self, TypeVar
from xml.etree.ElementTree import Element, register_namespace

from msgspec import Struct, field
from msgspec.structs import astuple, replace

from vdsm.core.errors import InvalidArgument
from vdsm.virt.elements import check_text, element, format_xml, parse_int
from vdsm.virt.lifecycle import ExitInfo, ExitReason

VM_URI = "http://ovirt.org/vm/1.0"
VM_PREFIX = "ovirt-vm"
ROOT_OWNER = "/"
"""The daemon of the root `/`; VMs that carry oVirt's metadata and no owner are its own."""

T = TypeVar("T")
Scalar = str | int | float | bool
CHANGE = "change"
"""Nested in a drive's metadata while its disc is changed."""
REPLICA = "diskReplicate"
"""Nested in a disk's metadata while it is copied to other storage."""
VOLUME_KEYS = ("poolID", "domainID", "imageID", "volumeID")
LOCK_SCREEN = "LOCK_SCREEN"
_NAME = "{" + VM_URI + "}"
_XML_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})")
_REASONS = {int(reason): reason for reason in ExitReason}
register_namespace(VM_PREFIX, VM_URI)


class MetadataInvalid(ValueError):
    """The metadata cannot be read; the text says where."""


class ResumeBehavior(StrEnum):
    """What becomes of a VM that an I/O error paused, once its storage is back."""

    AUTO_RESUME = "auto_resume"
    LEAVE_PAUSED = "leave_paused"
    KILL = "kill"


class VolumeRef(Struct, frozen=True):
    """A disk image on a storage domain: pool, domain, image and volume."""

    pool_id: str
    domain_id: str
    image_id: str
    volume_id: str

    @property
    def image(self) -> tuple[str, str]:
        """Domain and image: what is prepared and released as one."""
        return self.domain_id, self.image_id

    @property
    def ids(self) -> dict[str, str]:
        """By the names that metadata has for them."""
        return dict(zip(VOLUME_KEYS, astuple(self), strict=True))


class Branch(Struct, frozen=True):
    """An element that we carry along without knowing its meaning."""

    tag: str
    attributes: Mapping[str, str]
    text: str
    children: tuple["Branch", ...]


class DeviceMetadata(Struct, frozen=True):
    """What is known of one device beside libvirt's own XML; `attributes` select the device."""

    attributes: Mapping[str, str]
    values: Mapping[str, Scalar] = field(default_factory=dict)
    nested: tuple[Branch, ...] = ()

    @property
    def volume(self) -> VolumeRef | None:
        """The volume of a disk, when all four ids are there."""
        return read_volume(self.values)

    def find_part(self, tag: str) -> Mapping[str, str] | None:
        """What is nested under that name, as far as it is text."""
        found = next((branch for branch in self.nested if branch.tag == tag), None)
        return None if found is None else {child.tag: child.text for child in found.children}

    def find_part_volume(self, tag: str) -> VolumeRef | None:
        """The volume that is nested under that name."""
        return read_volume(self.find_part(tag) or {})

    def with_part(self, tag: str, part: Mapping[str, str] | None) -> Self:
        """A copy with that nested under the name; None removes it. Raises InvalidArgument for what XML cannot carry."""
        others = tuple(branch for branch in self.nested if branch.tag != tag)
        if part is None:
            return replace(self, nested=others)
        children = tuple(Branch(_check_name(key), {}, check_text(key, text), ()) for key, text in part.items())
        return replace(self, nested=(*others, Branch(tag, {}, "", children)))

    def with_volume(self, volume: VolumeRef | None) -> Self:
        """A copy that is that volume; with None it is none."""
        others = {key: value for key, value in self.values.items() if key not in VOLUME_KEYS}
        return replace(self, values=others if volume is None else {**others, **volume.ids})


class VmMetadata(Struct, frozen=True):
    """The `vm` element: scalars by name, devices, custom properties."""

    values: Mapping[str, Scalar] = field(default_factory=dict)
    devices: tuple[DeviceMetadata, ...] = ()
    custom: Mapping[str, str] = field(default_factory=dict)

    def changed(self, **values: Scalar | None) -> Self:
        """A copy with these scalars set; None removes one."""
        merged = {**self.values, **values}
        return replace(self, values={key: value for key, value in merged.items() if value is not None})

    def device(self, **attributes: str) -> DeviceMetadata | None:
        """The one device that has all these attributes; MetadataInvalid when there are several."""
        found = [device for device in self.devices if attributes.items() <= device.attributes.items()]
        if len(found) > 1:
            raise MetadataInvalid(f"several devices match {attributes}")
        return found[0] if found else None

    def with_device(self, device: DeviceMetadata) -> Self:
        """A copy that tells this of the device, and nothing else of it."""
        others = self.without_devices(lambda other: other.attributes == device.attributes).devices
        return replace(self, devices=(*others, device))

    def without_devices(self, is_gone: Callable[[DeviceMetadata], bool]) -> Self:
        """A copy without what is told of these devices."""
        return replace(self, devices=tuple(device for device in self.devices if not is_gone(device)))

    @property
    def owner(self) -> str:
        """The id of the root whose daemon the VM belongs to."""
        return str(self.values.get("owner", ROOT_OWNER))

    @property
    def started_at_s(self) -> float | None:
        """When the VM started, or last rebooted, in seconds since the epoch."""
        return self._float("startTime")

    @property
    def paused_at_s(self) -> float | None:
        """When an I/O error paused the VM, on the monotonic clock."""
        return self._float("pauseTime")

    @property
    def cluster_version(self) -> tuple[int, int]:
        """What the manager of this host and its like expects of them; (0, 0) when it does not tell."""
        found = _VERSION.fullmatch(str(self.values.get("clusterVersion", "")))
        return (int(found[1]), int(found[2])) if found else (0, 0)

    @property
    def migrates_to(self) -> str | None:
        """Where the VM was to go when a migration began; until it is known what became of that."""
        return self._get("migratesTo", str)

    @property
    def memory_volumes(self) -> str | None:
        """The volumes that the VM's memory is written to, or read from, as a handle; until they are released."""
        return self._get("memoryVolumes", str)

    @property
    def saved_while(self) -> str | None:
        """What the VM did when it was to be saved to disk; until it is known what became of that."""
        return self._get("savedWhile", str)

    @property
    def is_incoming(self) -> bool:
        """Whether it comes from another host; until it is here for good."""
        return self.values.get("incoming") is True

    @property
    def launch_paused(self) -> bool:
        return self.values.get("launchPaused") is True

    @property
    def resume_behavior(self) -> ResumeBehavior:
        """What is to become of it after an I/O error; words that nobody knows count as the usual one."""
        try:
            return ResumeBehavior(str(self.values.get("resumeBehavior", "")))
        except ValueError:
            return ResumeBehavior.AUTO_RESUME

    @property
    def destroy_on_reboot(self) -> bool:
        return self.values.get("destroy_on_reboot") is True

    @property
    def guaranteed_memory_mib(self) -> int | None:
        value = self.values.get("minGuaranteedMemoryMb", self.values.get("memGuaranteedSize"))
        return value if isinstance(value, int) else None

    @property
    def ballooning(self) -> bool:
        return self.values.get("ballooningEnabled") is not False

    @property
    def balloon_target_kib(self) -> int | None:
        return self._get("balloonTarget", int)

    @property
    def parting(self) -> tuple[str, int]:
        """What to do when the last viewer has left, as was said with the last ticket: `NONE`, `LOCK_SCREEN`, `LOGOUT`,
        `REBOOT` or `SHUTDOWN`, which waits for so many minutes more."""
        return self._get("disconnectAction", str) or LOCK_SCREEN, self._get("disconnectDelay", int) or 0

    @property
    def agent_version(self) -> int:
        """The API version of the oVirt agent, as last agreed on."""
        return self._get("guestAgentAPIVersion", int) or 0

    @property
    def exit(self) -> ExitInfo | None:
        """How the VM ended, when it has."""
        code, reason = self._get("exitCode", int), self._get("exitReason", int)
        if code is None or reason is None:
            return None
        known = _REASONS.get(reason, ExitReason.GENERIC_ERROR)
        return ExitInfo(code, known, str(self.values.get("exitMessage", "")))

    def with_exit(self, exit_info: ExitInfo) -> Self:
        """A copy that tells how the VM ended."""
        return self.changed(
            exitCode=exit_info.code, exitReason=int(exit_info.reason), exitMessage=exit_info.message, pauseTime=None
        )

    def without_exit(self) -> Self:
        """A copy for a VM that lives."""
        return self.changed(exitCode=None, exitReason=None, exitMessage=None)

    def _get(self, key: str, kind: type[T]) -> T | None:
        value = self.values.get(key)
        return value if isinstance(value, kind) else None

    def _float(self, key: str) -> float | None:
        value = self.values.get(key)
        return float(value) if isinstance(value, int | float) else None


def read_volume(values: Mapping[str, Scalar]) -> VolumeRef | None:
    """The volume that four ids name, when all are there."""
    ids = [str(values.get(key, "")) for key in VOLUME_KEYS]
    return VolumeRef(*ids) if all(ids) else None


def find_metadata(domain: Element) -> VmMetadata | None:
    """The metadata of a domain's XML, or None when it carries none; raises MetadataInvalid."""
    found = domain.find(f"metadata/{_NAME}vm")
    return None if found is None else parse_metadata(found)


def parse_metadata(vm: Element) -> VmMetadata:
    """Parse a `vm` element; elements that are neither scalar nor known are dropped, as the facts say."""
    values: dict[str, Scalar] = {}
    devices: list[DeviceMetadata] = []
    custom: dict[str, str] = {}
    for child in vm:
        tag = _local(child.tag)
        if tag == "device":
            devices.append(_parse_device(child))
        elif tag == "custom":
            custom |= {_local(item.tag): item.text or "" for item in child}
        elif len(child) == 0:
            values[tag] = _parse_scalar(child)
    return VmMetadata(values, tuple(devices), custom)


def format_metadata(metadata: VmMetadata) -> str:
    """The `vm` element as libvirt's metadata call wants it: without namespaces, which libvirt adds."""
    return format_xml(_build(metadata, ""))


def set_metadata(domain: Element, metadata: VmMetadata) -> None:
    """Put the metadata into a domain's XML in place of what was there; metadata of others stays."""
    parent = domain.find("metadata")
    if parent is None:
        parent = element("metadata")
        domain.append(parent)
    for old in parent.findall(f"{_NAME}vm"):
        parent.remove(old)
    parent.append(_build(metadata, _NAME))


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _parse_device(device: Element) -> DeviceMetadata:
    values: dict[str, Scalar] = {}
    nested: list[Branch] = []
    for child in device:
        if len(child) == 0 and not set(child.attrib) - {"type"}:
            values[_local(child.tag)] = _parse_scalar(child)
        else:
            nested.append(_parse_branch(child))
    return DeviceMetadata(dict(device.attrib), values, tuple(nested))


def _parse_branch(node: Element) -> Branch:
    return Branch(_local(node.tag), dict(node.attrib), (node.text or "").strip(), tuple(map(_parse_branch, node)))


def _parse_scalar(node: Element) -> Scalar:
    text = node.text or ""
    hint = node.get("type", "str")
    try:
        if hint == "bool":
            return text.lower() == "true" or (text.lower() != "false" and _is_nonzero(text))
        if hint == "int":
            return parse_int(text)
        if hint == "float":
            return _parse_float(text)
    except ValueError as error:
        raise MetadataInvalid(f"{_local(node.tag)}: {text[:40]!r} is no {hint}") from error
    return text


def _parse_float(text: str) -> float:
    number = float(text)
    if not -(2.0**63) <= number < 2.0**63:  # nor is it NaN
        raise ValueError("out of range")
    return number


def _is_nonzero(text: str) -> bool:
    if not text:
        raise ValueError("empty")
    try:
        return parse_int(text) != 0
    except ValueError:
        return False


def _build(metadata: VmMetadata, namespace: str) -> Element:
    vm = Element(f"{namespace}vm")
    vm.extend(_build_scalars(metadata.values, namespace))
    for device in metadata.devices:
        if not device.values and not device.nested:
            continue
        made = Element(f"{namespace}device", {key: check_text(key, value) for key, value in device.attributes.items()})
        made.extend(_build_scalars(device.values, namespace))
        made.extend([_build_branch(branch, namespace) for branch in device.nested])
        vm.append(made)
    if metadata.custom:
        custom = Element(f"{namespace}custom")
        custom.extend(_build_scalars(metadata.custom, namespace))
        vm.append(custom)
    return vm


def _build_scalars(values: Mapping[str, Scalar], namespace: str) -> list[Element]:
    # A list: an error raised in a generator that feeds Element.extend would become a TypeError.
    scalars = []
    for name, value in sorted(values.items()):
        made = Element(f"{namespace}{_check_name(name)}")
        if not isinstance(value, str):
            made.set("type", type(value).__name__)
        made.text = check_text(name, str(value))
        scalars.append(made)
    return scalars


def _build_branch(branch: Branch, namespace: str) -> Element:
    made = Element(f"{namespace}{branch.tag}", dict(branch.attributes))
    made.text = branch.text or None
    made.extend([_build_branch(child, namespace) for child in branch.children])
    return made


def _check_name(name: str) -> str:
    if _XML_NAME.fullmatch(name) is None:
        raise InvalidArgument(name, "cannot name a value in XML")
    return name
