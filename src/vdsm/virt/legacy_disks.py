"""The drives of the dictionary form (facts §2.2): their names, and their elements; images are prepared at the start."""

from collections.abc import Iterable, Iterator
from string import ascii_lowercase
from xml.etree.ElementTree import Element

from msgspec import UNSET, Struct, UnsetType, structs
from msgspec.structs import replace

from vdsm.api.errors import CreateFailed
from vdsm.api.vm import DeviceAddress, DeviceSpec, DriveSpec, VmParameters
from vdsm.core.errors import InvalidArgument
from vdsm.core.ids import is_uuid
from vdsm.virt.elements import check_text, element
from vdsm.virt.legacy_values import given
from vdsm.virt.metadata import DeviceMetadata

_PREFIXES = {"ide": "hd", "scsi": "sd", "sata": "sd", "usb": "sd", "virtio": "vd", "fdc": "fd", "spapr-vscsi": "sd"}
_DRIVER_TYPES = {"cow": "qcow2", "raw": "raw"}
_ERROR_POLICIES = {"on": "enospace", "report": "report"}
_VOLUME_KEYS = ("poolID", "domainID", "imageID", "volumeID")
_CDROM_INDEX = 2
_SERIAL_LENGTH = 20


class Drive(Struct, frozen=True):
    """One drive, as its element and what the metadata keeps of it; there is such only for a volume."""

    element: Element
    metadata: DeviceMetadata | None


class _Wish(Struct, frozen=True, kw_only=True):
    """What a caller wants of a drive; neither a volume nor a path means an empty tray."""

    kind: str = "disk"
    target: str
    bus: str
    volume: tuple[str, ...] = ()
    path: str = ""
    is_block: bool = False
    is_network: bool = False
    format: str = "raw"
    readonly: bool = False
    shareable: bool = False
    serial: str = ""
    cache: str
    discard: bool = False
    error_policy: str = "stop"

    @property
    def is_removable(self) -> bool:
        return self.kind in ("cdrom", "floppy")


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
        wish = replace(
            wish,
            is_block=device.disk_type == "block" or kind == "lun",
            is_network=device.disk_type == "network" and bool(wish.volume),
            readonly=device.readonly is True,
            shareable=device.shared in ("shared", "true"),
            discard=device.discard is True,
        )
        return _build(wish, list_places(device))

    def plan_old(self, parameters: VmParameters, *, is_old_style: bool) -> Iterator[Drive]:
        """The oldest keys: `hda` to `hdd`, `drives`, `cdrom` (always there in the old style) and `floppy`."""
        for index, path in enumerate((parameters.hda, parameters.hdb, parameters.hdc, parameters.hdd)):
            if path:
                yield _build(_Wish(target=self._take("ide", index), bus="ide", path=path, cache=self._cache))
        for drive in given(parameters.drives, []):
            bus = given(drive.interface, "") or "ide"
            yield _build(self._wish(drive, "disk", bus, self._cache_of(bus)))
        bus = self._cdrom_bus
        path, takes_cdrom = given(parameters.cdrom, ""), not parameters.hdc or bus != "ide"
        if path or (is_old_style and takes_cdrom):
            target = self._take(bus, UNSET, is_cdrom=True)
            yield _build(_Wish(kind="cdrom", target=target, bus=bus, path=path, cache=self._cache))
        if parameters.floppy:
            target = self._take("fdc", 0)
            yield _build(_Wish(kind="floppy", target=target, bus="fdc", path=parameters.floppy, cache=self._cache))

    def _wish(self, drive: DeviceSpec | DriveSpec, kind: str, bus: str, cache: str) -> _Wish:
        volume, path = _volume(drive), given(drive.path, "")
        if not volume and not path and kind in ("disk", "lun"):
            raise CreateFailed("a disk needs a volume (poolID, domainID, imageID, volumeID) or a path")
        own_serial = volume[2][-_SERIAL_LENGTH:] if volume and kind == "disk" else ""
        return _Wish(
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


def list_places(device: DeviceSpec) -> list[Element]:
    """`<boot>`, `<alias>` (libvirt takes only those of users, `ua-…`) and `<address>`, as far as given."""
    places = [] if device.boot_order is UNSET else [element("boot", order=device.boot_order)]
    if device.alias is not UNSET and device.alias.startswith("ua-"):
        places.append(element("alias", name=device.alias))
    return places + list_addresses(device.address)


def list_addresses(address: DeviceAddress | UnsetType) -> list[Element]:
    """`<address>`, if the caller wants a certain one."""
    if address is UNSET or address.type is UNSET:
        return []
    parts = {name: value for name, value in structs.asdict(address).items() if value is not UNSET}
    return [element("address", **parts)]


def _build(wish: _Wish, places: Iterable[Element] = ()) -> Drive:
    type = "block" if wish.is_block else "network" if wish.is_network else "file"
    made = element("disk", type=type, device=wish.kind, snapshot="no")
    if wish.path or wish.volume:
        source = element("source", startupPolicy="optional" if wish.is_removable and not wish.volume else None)
        source.set("dev" if wish.is_block else "file", check_text("disk.path", wish.path))
        made.append(source)
    made.append(element("target", dev=wish.target, bus=wish.bus))
    if wish.shareable:
        made.append(element("shareable"))
    if wish.readonly or wish.kind == "cdrom":
        made.append(element("readonly"))
    if wish.serial:
        made.append(element("serial", text=wish.serial))
    made.append(_driver(wish))
    made.extend(places)
    ids = dict(zip(_VOLUME_KEYS, wish.volume, strict=False))
    known = DeviceMetadata({"devtype": "disk", "name": wish.target}, {**ids, "format": wish.format}) if ids else None
    return Drive(made, known)


def _driver(wish: _Wish) -> Element:
    if wish.is_removable:
        return element("driver", name="qemu", type="raw", error_policy="report")
    return element(
        "driver",
        name="qemu",
        type=_DRIVER_TYPES[wish.format],
        cache=wish.cache,
        io="native" if wish.is_block else "threads",
        error_policy=wish.error_policy,
        discard="unmap" if wish.discard else None,
    )


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
    for name, value in zip(_VOLUME_KEYS, values, strict=True):
        if not value:
            raise CreateFailed(f"a drive on a storage domain lacks {name}")
        if not is_uuid(value):
            raise InvalidArgument(name, "must be a UUID")
    return tuple(values)


def _format(name: str | UnsetType) -> str:
    format = given(name, "") or "raw"
    if format not in _DRIVER_TYPES:
        raise CreateFailed(f"unknown disk format {format!r}")
    return format
