"""The drives of the dictionary form (facts §2.2): where their images are and which names they get."""

from collections.abc import Iterable, Iterator
from string import ascii_lowercase

from msgspec import UNSET, UnsetType

from vdsm.api.errors import CreateFailed
from vdsm.api.vm import DeviceSpec, DriveSpec, VmParameters
from vdsm.core.errors import InvalidArgument
from vdsm.core.ids import is_uuid
from vdsm.virt.spec import Address, Disk, DiskDevice, VolumeRef

_PREFIXES = {"ide": "hd", "scsi": "sd", "sata": "sd", "usb": "sd", "virtio": "vd", "fdc": "fd", "spapr-vscsi": "sd"}
_CDROM_INDEX = 2
_SERIAL_LENGTH = 20


class DiskPlanner:
    """Hands out the names of drives: a prefix by bus and a letter by index, each once."""

    def __init__(self, cache: str, cdrom_bus: str) -> None:
        self.cache = cache
        self.cdrom_bus = cdrom_bus
        self._taken: set[str] = set()
        self._reserved: set[str] = set()

    def reserve(self, devices: Iterable[DeviceSpec]) -> None:
        """Keep the names of drives that ask for an index, so that those without one do not get them."""
        for device in devices:
            if device.type == "disk" and device.index is not UNSET:
                bus = device.interface if device.interface is not UNSET else _default_bus(_kind(device), self.cdrom_bus)
                self._reserved.add(_target(bus, device.index))

    def take(self, bus: str, index: int | UnsetType, *, is_cdrom: bool = False) -> str:
        """The name for a drive; raises CreateFailed when its index is in use or out of bounds."""
        if index is not UNSET:
            name = _target(bus, index)
            if name in self._taken:
                raise CreateFailed(f"two drives want to be {name}")
        else:
            name = self._free(bus, is_cdrom)
        self._taken.add(name)
        return name

    def _free(self, bus: str, is_cdrom: bool) -> str:
        """The third place of an IDE or SATA bus is kept for the CD."""
        keeps_cdrom = bus == self.cdrom_bus
        order = [_CDROM_INDEX] if is_cdrom and keeps_cdrom else []
        order += [index for index in range(26 * 26) if is_cdrom or not keeps_cdrom or index != _CDROM_INDEX]
        used = self._taken | self._reserved
        names = (_target(bus, index) for index in order)
        free = next((name for name in names if name not in used), None)
        if free is None:
            raise CreateFailed(f"no name is left for another drive on bus {bus[:40]!r}")
        return free


def plan_disk(planner: DiskPlanner, device: DeviceSpec, address: Address | None) -> Disk:
    """The drive that a device of type `disk` describes; raises CreateFailed or InvalidArgument."""
    kind = _kind(device)
    bus = device.interface if device.interface is not UNSET else _default_bus(kind, planner.cdrom_bus)
    volume = _volume(device)
    path = "" if device.path is UNSET else device.path
    if volume is None and not path and kind in (DiskDevice.DISK, DiskDevice.LUN):
        raise CreateFailed("a disk needs a volume (poolID, domainID, imageID, volumeID) or a path")
    return Disk(
        device=kind,
        target=planner.take(bus, device.index, is_cdrom=kind is DiskDevice.CDROM),
        bus=_bus(bus),
        volume=volume,
        path=path,
        is_block=device.disk_type == "block" or kind is DiskDevice.LUN,
        format=_format(device.format),
        readonly=device.readonly is True,
        shareable=device.shared in ("shared", "true"),
        serial=_serial(device.serial, volume, kind),
        cache=planner.cache if device.cache is UNSET else device.cache,
        discard=device.discard is True,
        error_policy=_error_policy(device.propagate_errors),
        boot_order=None if device.boot_order is UNSET else device.boot_order,
        address=address,
        alias=None if device.alias is UNSET else device.alias,
    )


def plan_old_disks(planner: DiskPlanner, parameters: VmParameters, *, is_old_style: bool) -> Iterator[Disk]:
    """The drives of the oldest keys: `drives`, `hda` to `hdd`, `cdrom` (always there in the old style) and `floppy`."""
    for index, path in enumerate((parameters.hda, parameters.hdb, parameters.hdc, parameters.hdd)):
        if path is not UNSET and path:
            yield Disk(target=planner.take("ide", index), bus="ide", path=path, cache=planner.cache)
    for drive in [] if parameters.drives is UNSET else parameters.drives:
        yield _plan_drive(planner, drive)
    cdrom = "" if parameters.cdrom is UNSET else parameters.cdrom
    takes_cdrom = parameters.hdc is UNSET or not parameters.hdc or planner.cdrom_bus != "ide"
    if cdrom or (is_old_style and takes_cdrom):
        target = planner.take(planner.cdrom_bus, UNSET, is_cdrom=True)
        yield Disk(device=DiskDevice.CDROM, target=target, bus=planner.cdrom_bus, path=cdrom, readonly=True)
    if parameters.floppy is not UNSET and parameters.floppy:
        yield Disk(device=DiskDevice.FLOPPY, target=planner.take("fdc", 0), bus="fdc", path=parameters.floppy)


def _plan_drive(planner: DiskPlanner, drive: DriveSpec) -> Disk:
    volume = _volume(drive)
    path = "" if drive.path is UNSET else drive.path
    if volume is None and not path:
        raise CreateFailed("a drive needs a volume (poolID, domainID, imageID, volumeID) or a path")
    bus = "ide" if drive.interface is UNSET or not drive.interface else drive.interface
    return Disk(
        target=planner.take(bus, drive.index),
        bus=_bus(bus),
        volume=volume,
        path=path,
        format=_format(drive.format),
        serial=_serial(drive.serial, volume, DiskDevice.DISK),
        cache=planner.cache,
        error_policy=_error_policy(drive.propagate_errors),
    )


def _kind(device: DeviceSpec) -> DiskDevice:
    name = "disk" if device.device is UNSET else device.device
    try:
        return DiskDevice(name)
    except ValueError as error:
        raise CreateFailed(f"unknown kind of drive {name!r}") from error


def _default_bus(kind: DiskDevice, cdrom_bus: str) -> str:
    return {DiskDevice.CDROM: cdrom_bus, DiskDevice.FLOPPY: "fdc"}.get(kind, "virtio")


def _bus(interface: str) -> str:
    return "scsi" if interface == "spapr-vscsi" else interface


def _target(bus: str, index: int) -> str:
    if not 0 <= index < 26 * 26:
        raise CreateFailed(f"a drive's index must be between 0 and 675, not {index}")
    high, low = divmod(index, 26)
    return _PREFIXES.get(bus, "hd") + (ascii_lowercase[high - 1] if high else "") + ascii_lowercase[low]


def _volume(drive: DeviceSpec | DriveSpec) -> VolumeRef | None:
    ids = {
        "poolID": drive.pool_id,
        "domainID": drive.domain_id,
        "imageID": drive.image_id,
        "volumeID": drive.volume_id,
    }
    missing = [name for name, value in ids.items() if value is UNSET or not value]
    if len(missing) == len(ids):
        return None
    if missing:
        raise CreateFailed(f"a drive on a storage domain lacks {missing[0]}")
    for name, value in ids.items():
        if not is_uuid(str(value)):
            raise InvalidArgument(name, "must be a UUID")
    return VolumeRef(*(str(value) for value in ids.values()))


def _format(name: str | UnsetType) -> str:
    if name is UNSET or not name:
        return "raw"
    if name not in ("cow", "raw"):
        raise CreateFailed(f"unknown disk format {name!r}")
    return name


def _serial(serial: str | UnsetType, volume: VolumeRef | None, kind: DiskDevice) -> str | None:
    if serial is not UNSET and serial:
        return serial
    return volume.image_id[-_SERIAL_LENGTH:] if volume is not None and kind is DiskDevice.DISK else None


def _error_policy(propagate: str | UnsetType) -> str:
    if propagate == "on":
        return "enospace"
    return "report" if propagate == "report" else "stop"
