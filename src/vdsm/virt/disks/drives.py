"""Disks that stand on volumes: which volume each is now and what lies below it; pure, changing them is left to others.

libvirt's XML is the truth, also of what a daemon asked for that is gone: the end of a layer's path names its volume.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from xml.etree.ElementTree import Element

from msgspec import Struct
from msgspec.structs import replace

from vdsm.core.ids import is_uuid
from vdsm.virt import hostedits
from vdsm.virt.domain import DiskView, DomainView
from vdsm.virt.elements import element
from vdsm.virt.metadata import Branch, DeviceMetadata, VmMetadata, VolumeRef
from vdsm.virt.ports import PreparedImage


class Drive(Struct, frozen=True):
    """A disk on a volume: `volume` is the one that the guest writes to."""

    disk: DiskView
    volume: VolumeRef

    @property
    def target(self) -> str:
        return self.disk.target

    @property
    def chain(self) -> list[str]:
        """The volumes, top first; a layer of another image, or of none, is an empty text."""
        return [get_volume_id(layer.path, self.volume.image_id) for layer in self.disk.layers]


def get_volume_id(path: str, image_id: str) -> str:
    """The volume that the end of a path names; empty when it is none of that image."""
    *_, folder, name = ("", "", *PurePosixPath(path).parts)
    return name if folder == image_id and is_uuid(name) else ""


def is_at(path: str, volume: VolumeRef) -> bool:
    """Whether that path leads to that volume; in another domain there may be one of the same ids."""
    parts = PurePosixPath(path).parts
    return volume.domain_id in parts and parts[-2:] == (volume.image_id, volume.volume_id)


def list_drives(view: DomainView | None, metadata: VmMetadata) -> list[Drive]:
    """The VM's disks on volumes."""
    drives = []
    for disk in () if view is None else view.disks:
        known = _find_metadata(metadata, disk.target)
        if known is not None and known.volume is not None:
            volume_id = get_volume_id(disk.path, known.volume.image_id) or known.volume.volume_id
            drives.append(Drive(disk, replace(known.volume, volume_id=volume_id)))
    return drives


def find_drive(view: DomainView | None, metadata: VmMetadata, volume: VolumeRef) -> Drive | None:
    """The disk whose active volume that is; of a pool that is not told, any."""
    for drive in list_drives(view, metadata):
        if replace(drive.volume, pool_id=volume.pool_id) == volume:
            return drive
    return None


def correct_volumes(view: DomainView | None, metadata: VmMetadata) -> VmMetadata:
    """Metadata that tells of each disk the volume that it has; what it says of chains that are no more is dropped."""
    for drive in list_drives(view, metadata):
        metadata = set_volume(metadata, drive.target, drive.volume)
    return metadata


def set_volume(
    metadata: VmMetadata, target: str, volume: VolumeRef, chain: Sequence[Mapping[str, str]] = ()
) -> VmMetadata:
    """Metadata in which the disk has that volume, and that chain, base first, where one is given."""
    known = _find_metadata(metadata, target)
    if known is None or (known.volume == volume and not chain):
        return metadata
    nested = [branch for branch in known.nested if branch.tag != "volumeChain"]
    if chain:
        nodes = (_build_node(node) for node in chain)
        nested.append(Branch("volumeChain", {}, "", tuple(nodes)))
    return metadata.with_device(replace(known.with_volume(volume), nested=tuple(nested)))


def _build_node(texts: Mapping[str, str]) -> Branch:
    hints = {"leaseOffset": {"type": "int"}}
    leaves = (Branch(name, hints.get(name, {}), text, ()) for name, text in sorted(texts.items()))
    return Branch("volumeChainNode", {}, "", tuple(leaves))


def build_disk(drive: Drive, image: PreparedImage, *, relabel: bool) -> Element:
    """A disk element like the drive's, on another image."""
    disk = element("disk", element("target", dev=drive.target), type=drive.disk.kind, device=drive.disk.device)
    root = element("domain", element("devices", disk))
    hostedits.set_images(root, {drive.target: image}, relabel=relabel)
    return disk


def _find_metadata(metadata: VmMetadata, target: str) -> DeviceMetadata | None:
    return metadata.device(devtype="disk", name=target)
