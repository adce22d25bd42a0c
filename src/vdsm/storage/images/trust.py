"""Whether an image file is what its volume's record says; pure (facts: storage §9.8).

qemu opens whatever a header names. So a header is read, and compared with the records, before qemu sees the file.
"""

from vdsm.storage.model import VolumeFormat, VolumeMetadata
from vdsm.storage.ports import ImageFile


def find_foreign_name(image: ImageFile, record: VolumeMetadata, parent: VolumeMetadata | None) -> str | None:
    """What would lead qemu elsewhere than to the volume's own parent; None when nothing does."""
    if image.format != record.format.qemu:
        return f"it is {image.format}, not {record.format.qemu}"
    if image.has_data_file:
        return "its data is in another file"
    # Old images name their parent by way of the image's own folder.
    names = {record.parent_id, f"../{record.image_id}/{record.parent_id}"} if record.has_parent else {None}
    if image.backing_file not in names:
        return f"its backing file is {image.backing_file!r}"
    if parent is not None and image.backing_format != parent.format.qemu:
        # Without a format qemu would guess; what a guest wrote into a raw parent must not be what it finds.
        if image.backing_format is not None or parent.format is VolumeFormat.RAW:
            return f"its backing format is {image.backing_format!r}"
    return None


def find_mismatch(
    image: ImageFile, record: VolumeMetadata, parent: VolumeMetadata | None, compats: tuple[str, ...]
) -> str | None:
    """All that a volume whose data came from elsewhere has to be; None when it is."""
    if image.format != record.format.qemu:
        return f"it is {image.format}, not {record.format.qemu}"
    if image.virtual_size_bytes > record.capacity_bytes:
        return f"it has {image.virtual_size_bytes} bytes, more than {record.capacity_bytes}"
    if image.compat is not None and image.compat not in compats:
        return f"compat {image.compat} is not allowed on this domain"
    return find_foreign_name(image, record, parent)
