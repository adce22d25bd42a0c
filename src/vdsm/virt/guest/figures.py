"""What is known of the inside of a VM, and how messages change it (facts §2.20, §3.4), pure.

Everything here came from a guest: texts and lists are cut to what an honest one has, since every client is sent them.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from msgspec import UNSET, Struct, UnsetType, field
from msgspec.structs import asdict, replace

from vdsm.api.declare import Figure, Number, Text
from vdsm.api.guest import GuestContainer, GuestInterface, GuestMount, GuestOs, GuestPciDevice, GuestTimezone
from vdsm.api.vm_types import GuestMemory
from vdsm.virt.guest import messages
from vdsm.virt.guest.messages import Message, Session, clean

LONGEST_TEXT = 256
MOST_APPLICATIONS = 1000
MOST_ADDRESSES = 64
MOST = 128
"""Of interfaces, file systems, disks, containers, devices, each."""
SERIAL_CHARACTERS = 20
"""So many of an image's id fit into the serial of a disk."""

T = TypeVar("T")
R = TypeVar("R")


class GuestFigures(Struct, frozen=True, kw_only=True):
    """What an agent told; what it did not is absent. Times are seconds since the epoch."""

    user: Text = UNSET
    last_login_s: Figure = UNSET
    last_user: Text = UNSET
    last_logout_s: Figure = UNSET
    session: Session | UnsetType = UNSET
    cpus: Number = UNSET
    applications: list[str] | UnsetType = UNSET
    addresses: Text = UNSET
    fqdn: Text = UNSET
    host_name: Text = UNSET
    os_version: Text = UNSET
    os: GuestOs | UnsetType = UNSET
    timezone: GuestTimezone | UnsetType = UNSET
    interfaces: list[GuestInterface] | UnsetType = UNSET
    mounts: list[GuestMount] | UnsetType = UNSET
    containers: list[GuestContainer] | UnsetType = UNSET
    pci_devices: list[GuestPciDevice] | UnsetType = UNSET
    free_mib: Number = UNSET
    memory: GuestMemory | UnsetType = UNSET
    disk_names: Mapping[str, str] = field(default_factory=dict)
    """Serial of a disk to its name inside the guest."""


OWN_APPLICATIONS = ("kernel-", "qemu-guest-agent-")
"""What the qemu agent adds to the applications begins so."""


def merge(ovirt: GuestFigures, qemu: GuestFigures) -> GuestFigures:
    """What is told to clients: the qemu agent's word counts, field by field, and the other's where it says nothing."""
    known = {name: value for name, value in asdict(qemu).items() if value is not UNSET and value != {}}
    merged: GuestFigures = replace(ovirt, **known)
    if ovirt.applications is UNSET or qemu.applications is UNSET:
        return merged
    others = [name for name in ovirt.applications if not name.startswith(OWN_APPLICATIONS)]
    return replace(merged, applications=[*qemu.applications, *others])


def note_reboot(figures: GuestFigures, now_s: float) -> GuestFigures:
    """After a reboot nobody knows who works there; who did is remembered."""
    if figures.user in (UNSET, "", "Unknown"):
        return figures
    return replace(figures, last_user=figures.user, last_logout_s=now_s, user="Unknown")


def apply(figures: GuestFigures, message: Message, now_s: float) -> GuestFigures:
    """The figures after a message of the oVirt agent that came at that time."""
    change = _CHANGES.get(type(message))
    return figures if change is None else change(figures, message, now_s)


def cut(text: str | None) -> str:
    """A text as clients may get it."""
    return clean(text or "", LONGEST_TEXT)


def first(items: Iterable[T], make: Callable[[T], R], most: int = MOST) -> list[R]:
    """So many of the items, made into what clients get."""
    return [make(item) for item, _ in zip(items, range(most), strict=False)]


def whole(number: messages.Number) -> Number:
    """The number as an integer; absent when it is none, or negative."""
    return int(number) if number is not UNSET and math.isfinite(number) and number >= 0 else UNSET


def find_name(disk_names: Mapping[str, str], identity: str) -> str | None:
    """The guest's name for the disk of that identity, of which its serial holds the beginning."""
    short = identity[:SERIAL_CHARACTERS]
    return next((name for serial, name in disk_names.items() if short and short in serial), None)


def _heartbeat(figures: GuestFigures, message: messages.Heartbeat, now_s: float) -> GuestFigures:
    free_mib = whole(message.free_mib)
    memory = figures.memory if message.memory is UNSET else _memory(message.memory)
    return replace(figures, free_mib=figures.free_mib if free_mib is UNSET else free_mib, memory=memory)


def _memory(told: messages.Memory) -> GuestMemory:
    major, faults = whole(told.majflt), whole(told.pageflt)
    return GuestMemory(
        total_kib=whole(told.mem_total),
        unused_kib=whole(told.mem_unused),
        free_kib=whole(told.mem_unused),
        buffers_kib=whole(told.mem_buffers),
        cached_kib=whole(told.mem_cached),
        swap_in_per_s=whole(told.swap_in),
        swap_out_per_s=whole(told.swap_out),
        major_faults_per_s=major,
        minor_faults_per_s=UNSET if major is UNSET or faults is UNSET else max(0, faults - major),
        faults_per_s=faults,
    )


def _host_name(figures: GuestFigures, message: messages.HostName, now_s: float) -> GuestFigures:
    return replace(figures, host_name=cut(message.name))


def _os_version(figures: GuestFigures, message: messages.OsVersion, now_s: float) -> GuestFigures:
    return replace(figures, os_version=cut(message.version))


def _os_info(figures: GuestFigures, message: messages.OsInfo, now_s: float) -> GuestFigures:
    return replace(figures, os=GuestOs(**{name: cut(text) for name, text in asdict(message).items()}))


def _timezone(figures: GuestFigures, message: messages.Timezone, now_s: float) -> GuestFigures:
    offset = message.offset
    minutes = int(offset) if offset is not UNSET and math.isfinite(offset) else 0
    return replace(figures, timezone=GuestTimezone(zone=cut(message.zone), offset_min=minutes))


def _interfaces(figures: GuestFigures, message: messages.Interfaces, now_s: float) -> GuestFigures:
    found = first(
        message.interfaces,
        lambda told: GuestInterface(
            name=cut(told.name),
            hardware_address=cut(told.hw),
            ipv4=first(told.inet, cut, MOST_ADDRESSES),
            ipv6=first(told.inet6, cut, MOST_ADDRESSES),
        ),
    )
    addresses = [address for interface in found for address in interface.ipv4][:MOST]
    return replace(figures, interfaces=found, addresses=" ".join(addresses))


def _applications(figures: GuestFigures, message: messages.Applications, now_s: float) -> GuestFigures:
    return replace(figures, applications=first(message.applications, cut, MOST_APPLICATIONS))


def _active_user(figures: GuestFigures, message: messages.ActiveUser, now_s: float) -> GuestFigures:
    name = cut(message.name)
    if name == figures.user:
        return figures
    return replace(figures, user=name, last_login_s=now_s if name else figures.last_login_s)


def _fqdn(figures: GuestFigures, message: messages.Fqdn, now_s: float) -> GuestFigures:
    return replace(figures, fqdn=cut(message.fqdn))


def _containers(figures: GuestFigures, message: messages.Containers, now_s: float) -> GuestFigures:
    found = first(
        message.containers,
        lambda told: GuestContainer(
            id=cut(told.id),
            names=first(told.names, cut, MOST_ADDRESSES),
            image=cut(told.image),
            status=cut(told.status),
            command=cut(told.command),
        ),
    )
    return replace(figures, containers=found)


def _disks_usage(figures: GuestFigures, message: messages.DisksUsage, now_s: float) -> GuestFigures:
    def mount(told: messages.Disk) -> GuestMount:
        total, used = whole(told.total), whole(told.used)
        return GuestMount(path=cut(told.path), total_bytes=total or 0, used_bytes=used or 0, type=cut(told.fs))

    names = figures.disk_names
    if message.mapping is not UNSET:
        names = dict(first(message.mapping.items(), lambda pair: (cut(pair[0]), cut(pair[1].name))))
    return replace(figures, mounts=first(message.disks, mount), disk_names=names)


def _cpu_count(figures: GuestFigures, message: messages.CpuCount, now_s: float) -> GuestFigures:
    return replace(figures, cpus=whole(message.count))


def _session(figures: GuestFigures, message: messages.SessionChanged, now_s: float) -> GuestFigures:
    return replace(figures, session=message.session)


def _uninstalled(figures: GuestFigures, message: messages.Uninstalled, now_s: float) -> GuestFigures:
    return replace(figures, applications=[])


_CHANGES: Mapping[type, Callable[..., GuestFigures]] = {
    messages.Heartbeat: _heartbeat,
    messages.HostName: _host_name,
    messages.OsVersion: _os_version,
    messages.OsInfo: _os_info,
    messages.Timezone: _timezone,
    messages.Interfaces: _interfaces,
    messages.Applications: _applications,
    messages.ActiveUser: _active_user,
    messages.Fqdn: _fqdn,
    messages.Containers: _containers,
    messages.DisksUsage: _disks_usage,
    messages.CpuCount: _cpu_count,
    messages.SessionChanged: _session,
    messages.Uninstalled: _uninstalled,
}
