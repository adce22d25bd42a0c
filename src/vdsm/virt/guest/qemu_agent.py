"""What the qemu guest agent can be asked, how often, and what its answers mean (facts §2.20), pure; `poller` asks.

Answers come from a guest, so they are read like everything from there: typed, bounded, or BadAnswer.
"""

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Generic, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from vdsm.api.declare import Text
from vdsm.api.guest import GuestInterface, GuestMount, GuestOs, GuestPciDevice, GuestTimezone
from vdsm.virt.guest.figures import MOST_ADDRESSES, OWN_APPLICATIONS, GuestFigures, cut, first, whole
from vdsm.virt.guest.messages import Number, clean

INFO = "guest-info"
LARGEST_ANSWER = 1 << 20
_PARTITION = re.compile(r"(?<=\D)\d+$")
_NVME_PARTITION = re.compile(r"(?<=\d)p\d+$")
_ARCHES = {**dict.fromkeys(("i386", "i586", "i686", "x86"), "x86"), "x86_64": "x86_64"}
_ARCHES |= {name: name for name in ("ppc", "ppcle", "ppc64", "ppc64le")}


T = TypeVar("T")


class BadAnswer(ValueError):
    """What came is no answer to that command; the text says why."""


class _Answer(Struct, Generic[T], frozen=True, rename={"returned": "return"}):
    returned: T


class _Command(Struct, frozen=True):
    name: str
    enabled: bool = False


class _Info(Struct, frozen=True):
    version: str
    supported_commands: list[_Command]


class _Cpu(Struct, frozen=True):
    online: bool


class _PciId(Struct, frozen=True, rename="kebab"):
    device_id: Number = UNSET
    vendor_id: Number = UNSET


class _Device(Struct, frozen=True, rename="kebab"):
    driver_name: str = ""
    driver_version: Text = UNSET
    driver_date: Number = UNSET
    id: _PciId | UnsetType = UNSET


class _Address(Struct, frozen=True, rename="kebab"):
    ip_address: str
    ip_address_type: str = "ipv4"


class _Interface(Struct, frozen=True, rename="kebab"):
    name: str
    hardware_address: str = ""
    ip_addresses: list[_Address] = []


class _HostName(Struct, frozen=True, rename="kebab"):
    host_name: str


class _Os(Struct, frozen=True, rename="kebab"):
    id: str = ""
    name: str = ""
    pretty_name: str = ""
    version_id: str = ""
    variant: str = ""
    machine: str = ""
    kernel_release: str = ""
    kernel_version: str = ""


class _Timezone(Struct, frozen=True):
    offset: Number
    zone: str = ""


class _User(Struct, frozen=True):
    user: str
    domain: str = ""


class _Disk(Struct, frozen=True):
    serial: str = ""
    dev: str = ""


class _FileSystem(Struct, frozen=True, rename="kebab"):
    mountpoint: str
    type: str = ""
    total_bytes: Number = UNSET
    used_bytes: Number = UNSET
    disk: list[_Disk] = []


class _BlockDevice(Struct, frozen=True):
    name: str
    partition: bool = False
    address: _Disk | UnsetType = UNSET


def read_commands(answer: str) -> frozenset[str]:
    """The commands that an answer to `guest-info` lists as enabled. Raises BadAnswer."""
    info = _parse(answer, _Info)
    return frozenset(command.name for command in info.supported_commands if command.enabled and command.name in PERIODS)


def _info(known: GuestFigures, info: _Info) -> GuestFigures:
    return _with_application(known, "qemu-guest-agent-", info.version)


def _with_application(known: GuestFigures, kind: str, version: str) -> GuestFigures:
    """With one of the entries that stand among the applications for what is none."""
    others = [] if known.applications is UNSET else [name for name in known.applications if not name.startswith(kind)]
    return replace(known, applications=sorted([*others, cut(kind + version)], key=lambda name: _rank(name)))


def _rank(name: str) -> int:
    return next(number for number, kind in enumerate(OWN_APPLICATIONS) if name.startswith(kind))


def _cpus(known: GuestFigures, cpus: list[_Cpu]) -> GuestFigures:
    return replace(known, cpus=sum(cpu.online for cpu in cpus))


def _devices(known: GuestFigures, devices: list[_Device]) -> GuestFigures:
    return replace(known, pci_devices=first([device for device in devices if device.id is not UNSET], _pci_device))


def _pci_device(device: _Device) -> GuestPciDevice:
    ids = _PciId() if device.id is UNSET else device.id
    return GuestPciDevice(
        device_id=whole(ids.device_id) or 0,
        vendor_id=whole(ids.vendor_id) or 0,
        driver_name=cut(device.driver_name),
        driver_version=UNSET if device.driver_version is UNSET else cut(device.driver_version),
        driver_date=_date(device.driver_date),
    )


def _date(nanoseconds: Number) -> Text:
    """A day, from ns since the epoch."""
    if nanoseconds is UNSET or not 0 <= nanoseconds < 2**62:
        return UNSET
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).date().isoformat()


def _interfaces(known: GuestFigures, interfaces: list[_Interface]) -> GuestFigures:
    def addresses(interface: _Interface, kind: str) -> list[str]:
        chosen = [address.ip_address for address in interface.ip_addresses if address.ip_address_type == kind]
        return first(chosen, cut, MOST_ADDRESSES)

    found = first(
        interfaces,
        lambda told: GuestInterface(
            name=cut(told.name),
            hardware_address=cut(told.hardware_address),
            ipv4=addresses(told, "ipv4"),
            ipv6=addresses(told, "ipv6"),
        ),
    )
    return replace(known, interfaces=found)


def has_address(known: GuestFigures) -> bool:
    """Whether the guest has an address that others may reach it by."""
    interfaces = [] if known.interfaces is UNSET else known.interfaces
    return any(_is_global(text) for card in interfaces for text in (*card.ipv4, *card.ipv6))


def _is_global(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_link_local or address.is_unspecified)


def _host_name(known: GuestFigures, told: _HostName) -> GuestFigures:
    return replace(known, host_name=cut(told.host_name), fqdn=cut(told.host_name))


def _os(known: GuestFigures, told: _Os) -> GuestFigures:
    arch = _ARCHES.get(told.machine, "unknown")
    if told.id == "mswindows":
        name = cut(told.pretty_name)
        os = GuestOs(type="windows", arch=arch, version=cut(told.kernel_version), codename=name)
        return replace(known, os_version=name, os=os)
    kernel = cut(told.kernel_release)
    os = GuestOs(
        type="linux",
        arch=arch,
        kernel=kernel,
        distribution=cut(told.name),
        version=cut(told.version_id),
        codename=cut(told.variant),
    )
    known = replace(known, os_version=kernel, os=os)
    return _with_application(known, "kernel-", kernel) if kernel else known


def _timezone(known: GuestFigures, told: _Timezone) -> GuestFigures:
    offset = told.offset
    minutes = int(offset / 60) if offset is not UNSET and math.isfinite(offset) else 0
    return replace(known, timezone=GuestTimezone(zone=cut(told.zone), offset_min=minutes))


def _users(known: GuestFigures, users: list[_User]) -> GuestFigures:
    names = first(users, lambda told: f"{told.user}@{told.domain}" if told.domain else told.user)
    return replace(known, user=cut(", ".join(names)))


def _file_systems(known: GuestFigures, found: list[_FileSystem]) -> GuestFigures:
    mounts = []
    for one in found:
        total, used = whole(one.total_bytes), whole(one.used_bytes)
        if total is not UNSET and used is not UNSET:
            mounts.append(GuestMount(path=cut(one.mountpoint), total_bytes=total, used_bytes=used, type=cut(one.type)))
    disks = [disk for one in found for disk in one.disk]
    names = dict(first([disk for disk in disks if disk.serial and disk.dev], _name_disk))
    return replace(known, mounts=first(mounts, lambda mount: mount), disk_names={**names, **known.disk_names})


def _name_disk(disk: _Disk) -> tuple[str, str]:
    pattern = _NVME_PARTITION if "nvme" in disk.dev else _PARTITION
    return cut(disk.serial), cut(pattern.sub("", disk.dev))


def _disks(known: GuestFigures, found: list[_BlockDevice]) -> GuestFigures:
    def name(device: _BlockDevice) -> tuple[str, str]:
        return cut("" if device.address is UNSET else device.address.serial), cut(device.name)

    whole_ones = [one for one in found if not one.partition and one.address is not UNSET and one.address.serial]
    return replace(known, disk_names=dict(first(whole_ones, name)))


PERIODS: Mapping[str, float] = {
    INFO: 300.0,
    "guest-get-vcpus": 60.0,
    "guest-get-devices": 120.0,
    "guest-network-get-interfaces": 120.0,
    "guest-get-host-name": 120.0,
    "guest-get-osinfo": 120.0,
    "guest-get-timezone": 120.0,
    "guest-get-users": 10.0,
    "guest-get-fsinfo": 300.0,
    "guest-get-disks": 300.0,
}
"""Seconds between two answers to each command."""
NETWORK = "guest-network-get-interfaces"
DISKS = ("guest-get-fsinfo", "guest-get-disks")


def _reader(
    kind: type[T], apply: Callable[[GuestFigures, T], GuestFigures]
) -> Callable[[GuestFigures, str], GuestFigures]:
    return lambda known, answer: apply(known, _parse(answer, kind))


_READERS = {
    INFO: _reader(_Info, _info),
    "guest-get-vcpus": _reader(list[_Cpu], _cpus),
    "guest-get-devices": _reader(list[_Device], _devices),
    NETWORK: _reader(list[_Interface], _interfaces),
    "guest-get-host-name": _reader(_HostName, _host_name),
    "guest-get-osinfo": _reader(_Os, _os),
    "guest-get-timezone": _reader(_Timezone, _timezone),
    "guest-get-users": _reader(list[_User], _users),
    "guest-get-fsinfo": _reader(list[_FileSystem], _file_systems),
    "guest-get-disks": _reader(list[_BlockDevice], _disks),
}


def read(known: GuestFigures, command: str, answer: str) -> GuestFigures:
    """The figures with what the agent answered to that command. Raises BadAnswer."""
    return _READERS[command](known, answer)


def _parse(answer: str, kind: type[T]) -> T:
    if len(answer) > LARGEST_ANSWER:
        raise BadAnswer(f"{len(answer)} characters")
    try:
        return msgspec.json.decode(answer, type=_Answer[kind]).returned  # type: ignore[valid-type]
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise BadAnswer(clean(str(error), 200)) from None
    except RecursionError:
        raise BadAnswer("nested too deep") from None
