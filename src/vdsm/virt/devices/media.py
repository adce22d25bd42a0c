"""Discs of drives, changed while the VM runs (facts §2.11).

What is about to be loaded or ejected is written into the drive's metadata before libvirt is asked, and what came of it
after that. So a daemon that is killed in between leaves word of it: whoever finds that looks what is in the drive, and
releases the image of the disc that is not.
"""

import logging
from copy import deepcopy
from xml.etree.ElementTree import Element

from msgspec import UNSET
from msgspec.structs import replace

from vdsm.api import errors
from vdsm.api.updates import Disc, DiscChange
from vdsm.core.errors import InvalidArgument, NodeError
from vdsm.core.ids import is_uuid
from vdsm.virt import hostedits
from vdsm.virt.disks.drives import is_at
from vdsm.virt.domain import DomainView, get_attribute
from vdsm.virt.elements import check_text, element, format_xml, parse_xml, set_child
from vdsm.virt.lifecycle import Request
from vdsm.virt.metadata import CHANGE, DeviceMetadata, VmMetadata, VolumeRef
from vdsm.virt.ports import HypervisorRefused, HypervisorTimeout
from vdsm.virt.power import check_possible, failing_as
from vdsm.virt.shared import Shared
from vdsm.virt.vm import Vm

log = logging.getLogger(__name__)

_BUS_LETTERS = {"ide": "hd", "scsi": "sd", "sata": "sd", "virtio": "vd", "fdc": "fd"}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Media:
    """Changes the discs of VMs."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def change(self, vm: Vm, kind: str, wanted: DiscChange) -> None:
        """Put a disc into a drive of that kind (`cdrom`, `floppy`), or take it out, whether the guest likes it or not.

        Raises ImageIsEmpty (13) for a path without a file, CdImageFailed (1630), ChangeDiskFailed (41).
        """
        target, disc = find_target(wanted), read_disc(wanted)
        async with vm.changing:
            check_possible(self._shared, vm, Request.PLUG)
            with failing_as(vm, errors.ChangeDiskFailed):
                record = await self._shared.hypervisor.get_domain(vm.vm_id)
                drive = find_drive(parse_xml(record.xml), kind, target)
                await self._change(vm, drive, disc)

    async def _change(self, vm: Vm, drive: Element, disc: VolumeRef | str) -> None:
        shared, target = self._shared, get_attribute(drive, "target", "dev")
        volume = disc if isinstance(disc, VolumeRef) else None
        known = vm.metadata.device(devtype="disk", name=target)
        if volume is not None or (known is not None and known.volume is not None):
            change = {"state": "ejecting"} if volume is None else {"state": "loading", **volume.ids}
            told = (known or DeviceMetadata({"devtype": "disk", "name": target})).with_part(CHANGE, change)
            vm.has_images = True
            await shared.store(vm, vm.metadata.with_device(told))
        try:
            new = await self._build(drive, disc)
            await self._put(vm, new, force_only=bool(disc))
        except HypervisorTimeout:
            raise
        except NodeError:
            await self._look(vm)
            raise
        await self._look(vm)

    async def _build(self, drive: Element, disc: VolumeRef | str) -> Element:
        """The drive with the disc in it."""
        new = deepcopy(drive)
        for child in [*new.findall("source"), *new.findall("backingStore")]:
            new.remove(child)
        if isinstance(disc, VolumeRef):
            try:
                image = await self._shared.prepare(disc)
            except NodeError as error:
                raise errors.CdImageFailed(str(error)) from error
            images = {get_attribute(new, "target", "dev"): image}
            root = element("domain", element("devices", new))
            hostedits.set_images(root, images, relabel=self._shared.settings.relabel_disks)
            return new
        new.set("type", "file")
        if disc:
            if await self._shared.images.find_kind(disc) != "file":
                raise errors.ImageIsEmpty(disc)
            set_child(new, "source").set("file", disc)
        return new

    async def _put(self, vm: Vm, drive: Element, *, force_only: bool) -> None:
        xml, update = format_xml(drive), self._shared.hypervisor.update_device
        if not force_only:
            try:
                await update(vm.vm_id, xml)
                return
            except HypervisorRefused as error:
                log.info("VM %s: the guest does not open the drive, which is now forced: %s", vm.vm_id, error)
        await update(vm.vm_id, xml, force=True)

    async def _look(self, vm: Vm) -> None:
        if await self._shared.refresh(vm) is not None:
            await settle_changes(self._shared, vm)


async def settle_changes(shared: Shared, vm: Vm) -> None:
    """Write down what is in drives whose discs were being changed, and release the images of what is not; and the
    networks of cards that were being changed.

    For who holds `vm.changing`, when the VM's XML has been read.
    """
    if vm.view is None or vm.is_external or not vm.is_alive:
        return
    settled, released = decide(vm.metadata, vm.view)
    for volume in released:
        await shared.release_image(vm, volume)
    if settled is not vm.metadata:
        await shared.save_metadata(vm, settled)


def decide(metadata: VmMetadata, view: DomainView) -> tuple[VmMetadata, list[VolumeRef]]:
    """The metadata without changes that are over, and the volumes that are in no drive."""
    paths = {disk.target: disk.path for disk in view.disks}
    bridges = {card.mac_address.lower(): card.network for card in view.interfaces}
    released: list[VolumeRef] = []
    for device in metadata.devices:
        change = device.find_part(CHANGE)
        if change is None:
            continue
        if "bridge" in change:
            is_done = bridges.get(device.attributes.get("mac_address", "").lower()) == change["bridge"]
            values = {**device.values, **({"network": change["network"]} if is_done else {})}
            metadata = metadata.with_device(replace(device.with_part(CHANGE, None), values=values))
            continue
        path = paths.get(device.attributes.get("name", ""), "")
        volumes = (device.find_part_volume(CHANGE), device.volume)
        inside = next((volume for volume in volumes if volume is not None and is_at(path, volume)), None)
        released += [volume for volume in volumes if volume is not None and volume != inside]
        metadata = metadata.with_device(device.with_part(CHANGE, None).with_volume(inside))
    used = {device.volume.image_id for device in metadata.devices if device.volume is not None}
    return metadata, [volume for volume in released if volume.image_id not in used]


def find_target(wanted: DiscChange) -> str | None:
    """The name of the drive at that place of that bus; None for any. Raises InvalidArgument (91)."""
    if wanted.interface is UNSET or wanted.index is UNSET:
        return None
    if not 0 <= wanted.index < len(_LETTERS):
        raise InvalidArgument("driveSpec.index", f"must be between 0 and {len(_LETTERS) - 1}")
    return _BUS_LETTERS.get(wanted.interface, "hd") + _LETTERS[wanted.index]


def read_disc(wanted: DiscChange) -> VolumeRef | str:
    """The volume, or the path that is empty for no disc. Raises InvalidArgument (91) for half of a volume."""
    disc: Disc = wanted if wanted.disc is UNSET else wanted.disc
    ids = (disc.pool_id, disc.domain_id, disc.image_id, disc.volume_id)
    if any(ids):
        known = [text for text in ids if text is not UNSET and is_uuid(text)]
        if len(known) != len(ids):
            raise InvalidArgument("driveSpec", "poolID, domainID, imageID and volumeID must all be UUIDs")
        return VolumeRef(*known)
    path = "" if disc.path is UNSET else check_text("driveSpec.path", disc.path)
    if path and not path.startswith("/"):
        raise InvalidArgument("driveSpec.path", "must be an absolute path")
    return path


def find_drive(domain: Element, kind: str, target: str | None) -> Element:
    """The drive of that kind and name, or the first one. Raises ChangeDiskFailed."""
    for drive in domain.iterfind("devices/disk"):
        if drive.get("device") == kind and target in (None, get_attribute(drive, "target", "dev")):
            return drive
    raise errors.ChangeDiskFailed(f"the VM has no {kind} drive {target or ''}".rstrip())
