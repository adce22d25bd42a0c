"""Drives; preparing their images and setting their final paths is left to `hostedits`."""

from xml.etree.ElementTree import Element

from vdsm.virt.domxml import address
from vdsm.virt.elements import check_text, element
from vdsm.virt.spec import Disk, DiskDevice, VmSpec

_DRIVER_TYPES = {"cow": "qcow2", "raw": "raw"}


def build(spec: VmSpec) -> list[Element]:
    """One `<disk>` for each drive."""
    return [_disk(disk) for disk in spec.disks]


def _disk(disk: Disk) -> Element:
    kind = "block" if disk.is_block else "file"
    made = element("disk", type=kind, device=disk.device.value, snapshot="no")
    removable = disk.device in (DiskDevice.CDROM, DiskDevice.FLOPPY)
    if disk.path or disk.volume is not None:
        source = element("source", startupPolicy="optional" if removable and disk.volume is None else None)
        source.set("dev" if disk.is_block else "file", check_text("disk.path", disk.path))
        made.append(source)
    made.append(element("target", dev=disk.target, bus=disk.bus))
    if disk.shareable:
        made.append(element("shareable"))
    if disk.readonly or disk.device is DiskDevice.CDROM:
        made.append(element("readonly"))
    if disk.serial is not None:
        made.append(element("serial", text=disk.serial))
    made.append(_driver(disk, removable))
    made.extend(address.build(disk.address, disk.alias, disk.boot_order))
    return made


def _driver(disk: Disk, removable: bool) -> Element:
    if removable:
        return element("driver", name="qemu", type="raw", error_policy="report")
    return element(
        "driver",
        name="qemu",
        type=_DRIVER_TYPES.get(disk.format, disk.format),
        cache=disk.cache,
        io=("native" if disk.is_block else "threads"),
        error_policy=disk.error_policy,
        discard="unmap" if disk.discard else None,
    )
