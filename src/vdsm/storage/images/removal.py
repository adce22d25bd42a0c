"""Removing volumes (facts: storage §9.3), in an order that any kill leaves finishable."""

from msgspec.structs import replace

from vdsm.storage import errors
from vdsm.storage.images.chain import Images
from vdsm.storage.images.volume_metadata import format_volume_metadata
from vdsm.storage.model import Legality, VolumeMetadata, VolumeRole
from vdsm.storage.ports import Steps


def check_removal(images: Images, image_id: str, volume_id: str, *, force: bool) -> None:
    """Raises VolumeDoesNotExist (201); without force CannotDeleteSharedVolume (223), VolumeImageHasChildren (204)."""
    try:
        record = images.read(image_id, volume_id)
    except errors.InvalidMetadata:
        if force:
            return
        raise
    if force:
        return
    if record.role is VolumeRole.SHARED or record.image_id != image_id:
        raise errors.CannotDeleteSharedVolume(volume_id)
    children = images.list_children(image_id, volume_id)
    if children:
        raise errors.VolumeImageHasChildren(volume_id, tuple(children))


def remove_volume(images: Images, image_id: str, volume_id: str, step: Steps) -> None:
    """Remove a volume that may be removed, or finish removing it; nothing when it is gone.

    First it becomes illegal, so that nobody uses what is left. Then its parent becomes a leaf again, while the record
    still tells who the parent is. The record goes last: as long as anything is left, it is found and removing goes on.
    """
    volumes = images.backend.volumes
    try:
        record = images.read(image_id, volume_id)
    except errors.VolumeDoesNotExist:
        return
    except errors.InvalidMetadata:
        record = None  # removed with force: who its parent was is not known
    if record is not None and record.image_id != image_id:
        step("remove links")
        volumes.unshare(image_id, volume_id)
        return
    if record is not None:
        _make_illegal(images, image_id, volume_id, record, step)
        if record.has_parent:
            step("release parent")
            images.evaluate_role(image_id, record.parent_id, without={volume_id})
    step("remove data")
    images.backend.data.remove_data(image_id, volume_id)
    step("remove record")
    volumes.remove_record(image_id, volume_id)


def remove_empty_image(images: Images, image_id: str, step: Steps) -> None:
    """Remove the folder of an image that has no volume of its own left, with its links to a template."""
    volumes = images.backend.volumes
    records = images.read_all(image_id)
    if any(record.image_id == image_id for record in records.values()):
        return
    if set(records) != set(volumes.list_records(image_id)):
        return  # a record that cannot be read may be the image's own
    for volume_id in records:
        step("remove links")
        volumes.unshare(image_id, volume_id)
    step("remove image")
    volumes.remove_image(image_id)


def _make_illegal(images: Images, image_id: str, volume_id: str, record: VolumeMetadata, step: Steps) -> None:
    if record.legality is Legality.ILLEGAL:
        return
    step("make illegal")
    illegal = replace(record, legality=Legality.ILLEGAL)
    try:
        format_volume_metadata(illegal, images.version)
    except errors.MetadataOverflowError:
        illegal = replace(illegal, description="")  # two more characters must not make a volume irremovable
    images.change(image_id, volume_id, illegal)
