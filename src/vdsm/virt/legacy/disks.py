"""The drives of the dictionary form (facts §2.2): their names, and what is wanted; elements are `legacy_sources`'."""

import re
from binascii import b2a_base64
from collections.abc import Iterable, Iterator
from string import ascii_lowercase

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from vdsm.api.errors import CreateFailed
from vdsm.api.vm import DeviceParameters, DeviceSpec, DriveSpec, VmParameters, VmPayload
from vdsm.core.errors import InvalidArgument
from vdsm.core.ids import is_uuid
from vdsm.virt.devices.payload import PLACEHOLDER
from vdsm.virt.legacy.sources import DRIVER_TYPES, Drive, DriveWish, build_drive
from vdsm.virt.legacy.values import given, list_places
from vdsm.virt.metadata import VOLUME_KEYS

_PREFIXES = {"ide": "hd", "scsi": "sd", "sata": "sd", "usb": "sd", "virtio": "vd", "fdc": "fd", "spapr-vscsi": "sd"}
_ERROR_POLICIES = {"on": "enospace", "report": "report"}
_DEVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+-]*")
_CDROM_INDEX = 2
_SERIAL_LENGTH = 20


class DrivePlanner:
    """Plans drives one after another, and hands out their names: a prefix by bus and a letter by index, each once.

    What it raises is CreateFailed or InvalidArgument.
    """

    def __init__(self, cache: str, cdrom_bus: str, custom: dict[str, str]) -> None:
        self._cache = cache
        self._virtio_cache = custom.get("viodiskcache") or cache
        self._cdrom_bus = cdrom_bus
        self._taken: set[str] = set()
        self._reserved: set[str] = set()

    def reserve(self, devices: Iterable[DeviceSpec]) -> None:
        """Keep the names of drives that ask for an index, so that those without one do not get them."""
        for device in devices:
            if device.type == "disk" and device.index is not UNSET:
                self._reserved.add(_target(self._bus(device, _kind(device)), device.index))

    def plan_device(self, device: DeviceSpec) -> Drive:
        """A device of type `disk`."""
        kind = _kind(device)
        bus = self._bus(device, kind)
        if device.shared == "transient":
            raise CreateFailed("transient disks are not supported")
        wish = self._wish(device, kind, bus, self._cache_of(bus) if device.cache is UNSET else device.cache)
        wishes = given(device.parameters, DeviceParameters())
        if wishes.payload is not UNSET:
            wish = _with_payload(wish, wishes.payload)
        is_block = device.disk_type == "block" or kind == "lun" or bool(_device_path(device))
        is_network = device.disk_type == "network" and bool(wish.volume or wish.path)
        wish = replace(
            wish,
            type="block" if is_block else "network" if is_network else "file",
            protocol=given(device.protocol, "gluster"),
            hosts=tuple(given(device.hosts, [])),
            secret=given(device.auth, None),
            lun_id=given(device.lun_id, ""),
            rbd=given(device.rbd, ""),
            sgio=given(device.sgio, None) if kind == "lun" else None,
            readonly=device.readonly is True,
            shared="shared" if device.shared == "true" else given(device.shared, ""),
            optional=device.optional is True,
            discard=device.discard is True,
            limits=given(wishes.io_limits, None),
            io_thread=given(wishes.io_thread, None),
        )
        return build_drive(wish, list_places(device))

    def plan_old(self, parameters: VmParameters, *, is_old_style: bool) -> Iterator[Drive]:
        """The oldest keys: `hda` to `hdd`, `drives`, `cdrom` (always there in the old style) and `floppy`."""
        for index, path in enumerate((parameters.hda, parameters.hdb, parameters.hdc, parameters.hdd)):
            if path:
                yield build_drive(DriveWish(target=self._take("ide", index), bus="ide", path=path, cache=self._cache))
        for drive in given(parameters.drives, []):
            bus = given(drive.interface, "") or "ide"
            yield build_drive(self._wish(drive, "disk", bus, self._cache_of(bus)))
        bus = self._cdrom_bus
        path, takes_cdrom = given(parameters.cdrom, ""), not parameters.hdc or bus != "ide"
        if path or (is_old_style and takes_cdrom):
            target = self._take(bus, UNSET, is_cdrom=True)
            yield build_drive(DriveWish(kind="cdrom", target=target, bus=bus, path=path, cache=self._cache))
        floppy = DriveWish(kind="floppy", target="fda", bus="fdc", path=given(parameters.floppy, ""), cache=self._cache)
        if parameters.sysprep:
            content = b2a_base64(parameters.sysprep.encode(), newline=False).decode()
            floppy = _with_payload(replace(floppy, path=""), VmPayload(files={"sysprep.inf": content}))
        if floppy.path:
            self._take("fdc", 0)
            yield build_drive(floppy)

    def _wish(self, drive: DeviceSpec | DriveSpec, kind: str, bus: str, cache: str) -> DriveWish:
        volume, path = _volume(drive), given(drive.path, "")
        if isinstance(drive, DeviceSpec):
            path = _device_path(drive) or path
        if not volume and not path and kind in ("disk", "lun"):
            raise CreateFailed("a disk needs a volume (poolID, domainID, imageID, volumeID), a GUID or a path")
        own_serial = volume[2][-_SERIAL_LENGTH:] if volume and kind == "disk" else ""
        return DriveWish(
            kind=kind,
            target=self._take(bus, drive.index, is_cdrom=kind == "cdrom"),
            bus="scsi" if bus == "spapr-vscsi" else bus,
            volume=volume,
            path=path,
            format=_format(drive.format),
            serial=given(drive.serial, "") or own_serial,
            cache=cache,
            error_policy=_ERROR_POLICIES.get(given(drive.propagate_errors, ""), "stop"),
        )

    def _cache_of(self, bus: str) -> str:
        return self._virtio_cache if bus == "virtio" else self._cache

    def _bus(self, device: DeviceSpec, kind: str) -> str:
        return given(device.interface, {"cdrom": self._cdrom_bus, "floppy": "fdc"}.get(kind, "virtio"))

    def _take(self, bus: str, index: int | UnsetType, *, is_cdrom: bool = False) -> str:
        name = self._free(bus, is_cdrom) if index is UNSET else _target(bus, index)
        if name in self._taken:
            raise CreateFailed(f"two drives want to be {name}")
        self._taken.add(name)
        return name

    def _free(self, bus: str, is_cdrom: bool) -> str:
        """The third place of an IDE or SATA bus is kept for the CD."""
        keeps_cdrom = bus == self._cdrom_bus
        order = [_CDROM_INDEX] if is_cdrom and keeps_cdrom else []
        order += [index for index in range(26 * 26) if is_cdrom or not keeps_cdrom or index != _CDROM_INDEX]
        used = self._taken | self._reserved
        names = (_target(bus, index) for index in order)
        free = next((name for name in names if name not in used), None)
        if free is None:
            raise CreateFailed(f"no name is left for another drive on bus {bus[:40]!r}")
        return free


def _with_payload(wish: DriveWish, payload: VmPayload) -> DriveWish:
    """The drive with a disc of these files, which is made when the VM starts."""
    if wish.volume or wish.path:
        raise CreateFailed(f"drive {wish.target} cannot be a payload and an image; a payload's place is not chosen")
    return replace(
        wish, path=PLACEHOLDER, volume_id=given(payload.volume_id, ""), contents=dict(given(payload.files, {}))
    )


def _device_path(device: DeviceSpec) -> str:
    """Of a LUN, a file system or a mapped RBD image; empty when the drive is none of these."""
    found = [("GUID", device.lun_id, "/dev/mapper/"), ("UUID", device.file_system_id, "/dev/disk/by-uuid/")]
    for name, value, folder in found:
        if value:
            if _DEVICE_NAME.fullmatch(value) is None:
                raise InvalidArgument(name, "cannot name a device")
            return folder + value
    return given(device.rbd, "")


def _kind(device: DeviceSpec) -> str:
    kind = given(device.device, "disk")
    if kind not in ("disk", "cdrom", "floppy", "lun"):
        raise CreateFailed(f"unknown kind of drive {kind!r}")
    return kind


def _target(bus: str, index: int) -> str:
    if not 0 <= index < 26 * 26:
        raise CreateFailed(f"a drive's index must be between 0 and 675, not {index}")
    high, low = divmod(index, 26)
    return _PREFIXES.get(bus, "hd") + (ascii_lowercase[high - 1] if high else "") + ascii_lowercase[low]


def _volume(drive: DeviceSpec | DriveSpec) -> tuple[str, ...]:
    values = [given(value, "") for value in (drive.pool_id, drive.domain_id, drive.image_id, drive.volume_id)]
    if not any(values):
        return ()
    for name, value in zip(VOLUME_KEYS, values, strict=True):
        if not value:
            raise CreateFailed(f"a drive on a storage domain lacks {name}")
        if not is_uuid(value):
            raise InvalidArgument(name, "must be a UUID")
    return tuple(values)


def _format(name: str | UnsetType) -> str:
    format = given(name, "") or "raw"
    if format not in DRIVER_TYPES:
        raise CreateFailed(f"unknown disk format {format!r}")
    return format
