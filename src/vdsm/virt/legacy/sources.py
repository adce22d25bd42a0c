"""Elements of drives of the dictionary form, from what is wanted of them; images are prepared at the start."""

from collections.abc import Iterable, Mapping
from xml.etree.ElementTree import Element

from msgspec import Struct, field

from vdsm.api.errors import CreateFailed
from vdsm.api.tuning import IoLimits
from vdsm.api.vm import DiskSecret, DiskServer
from vdsm.virt.devices.payload import PLACEHOLDER, build_branch
from vdsm.virt.elements import check_text, element
from vdsm.virt.legacy.values import given
from vdsm.virt.metadata import VOLUME_KEYS, Branch, DeviceMetadata, Scalar
from vdsm.virt.qos import list_limits

DRIVER_TYPES = {"cow": "qcow2", "raw": "raw"}


class Drive(Struct, frozen=True):
    """One drive, as its element and what the metadata keeps of it, if there is such."""

    element: Element
    metadata: DeviceMetadata | None


class DriveWish(Struct, frozen=True, kw_only=True):
    """What a caller wants of a drive; neither a volume nor a path means an empty tray."""

    kind: str = "disk"
    target: str
    bus: str
    volume: tuple[str, ...] = ()
    path: str = ""
    type: str = "file"
    """libvirt's: file, block or network; a volume may turn out to be something else when it is prepared."""
    protocol: str = ""
    hosts: tuple[DiskServer, ...] = ()
    secret: DiskSecret | None = None
    lun_id: str = ""
    rbd: str = ""
    sgio: str | None = None
    format: str = "raw"
    readonly: bool = False
    shared: str = ""
    optional: bool = False
    serial: str = ""
    cache: str
    discard: bool = False
    error_policy: str = "stop"
    limits: IoLimits | None = None
    io_thread: int | None = None
    volume_id: str = ""
    contents: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_removable(self) -> bool:
        return self.kind in ("cdrom", "floppy")


def build_drive(wish: DriveWish, places: Iterable[Element] = ()) -> Drive:
    """The drive's element; `places` say where it sits. Raises CreateFailed for what cannot be, InvalidArgument."""
    made = element("disk", type=wish.type, device=wish.kind, snapshot="no", sgio=wish.sgio)
    if wish.path or wish.volume:
        made.append(_source(wish))
    if wish.secret is not None:
        secret = element("secret", type=wish.secret.type, uuid=wish.secret.uuid)
        made.append(element("auth", secret, username=wish.secret.username))
    made.append(element("target", dev=wish.target, bus=wish.bus))
    if wish.shared == "shared":
        made.append(element("shareable"))
    if wish.readonly or wish.kind == "cdrom":
        made.append(element("readonly"))
    if wish.serial:
        made.append(element("serial", text=wish.serial))
    made.append(_driver(wish))
    limits = {} if wish.limits is None else {name: value for name, value in list_limits(wish.limits).items() if value}
    if limits:
        made.append(element("iotune", *(element(name, text=str(value)) for name, value in limits.items())))
    made.extend(places)
    return Drive(made, _metadata(wish))


def _source(wish: DriveWish) -> Element:
    if wish.type == "network" and not wish.volume:
        if not wish.hosts:
            raise CreateFailed(f"drive {wish.target} is of the network and lacks hosts")
        hosts = [
            element("host", name=host.name, port=given(host.port, None), transport=given(host.transport, None))
            for host in wish.hosts
        ]
        return element("source", *hosts, protocol=wish.protocol, name=wish.path)
    is_optional = not wish.volume and wish.path != PLACEHOLDER and (wish.is_removable or wish.optional)
    source = element("source", startupPolicy="optional" if is_optional and wish.type == "file" else None)
    source.set("dev" if wish.type == "block" else "file", check_text("disk.path", wish.path))
    return source


def _driver(wish: DriveWish) -> Element:
    if wish.is_removable:
        return element("driver", name="qemu", type="raw", error_policy="report" if wish.kind == "cdrom" else None)
    return element(
        "driver",
        name="qemu",
        type=DRIVER_TYPES[wish.format],
        cache=wish.cache,
        io="native" if wish.type == "block" else "threads",
        error_policy=None if wish.kind == "lun" else wish.error_policy,  # libvirt has none for LUNs
        discard="unmap" if wish.discard else None,
        iothread=wish.io_thread,
    )


def _metadata(wish: DriveWish) -> DeviceMetadata | None:
    values: dict[str, Scalar] = dict(zip(VOLUME_KEYS, wish.volume, strict=False))
    if wish.lun_id:
        values |= {"GUID": wish.lun_id, "imageID": wish.lun_id}
    if wish.rbd:
        values["RBD"] = wish.rbd
    if values:
        values["format"] = wish.format
    if wish.shared == "exclusive":
        values["shared"] = wish.shared
    nested: tuple[Branch, ...] = (build_branch(wish.volume_id, wish.contents),) if wish.path == PLACEHOLDER else ()
    told = DeviceMetadata({"devtype": "disk", "name": wish.target}, values, nested)
    return told if values or nested else None
