"""What is wrong between the records of one image, and between a record and its file's header; pure (facts: §4.3)."""

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from vdsm.storage.images.chain import Records
from vdsm.storage.images.trust import find_foreign_name
from vdsm.storage.model import Legality, VolumeFormat, VolumeMetadata, VolumeRole
from vdsm.storage.ports import ImageFile


class Fault(Struct, frozen=True):
    """What is wrong with a volume (a blank one: with the whole image), and the record that would be right, if sure."""

    kind: str
    volume_id: str
    text: str
    right: VolumeMetadata | None = None


def find_faults(domain_id: str, image_id: str, records: Records) -> Iterator[Fault]:
    """All that the records of an image's folder, with its template's, say wrong of each other."""
    own = {volume_id: record for volume_id, record in records.items() if record.image_id == image_id}
    parents = [record.parent_id for record in own.values()]
    leaves = [volume_id for volume_id in own if volume_id not in parents]
    if len(leaves) > 1:
        yield Fault("chain", "", f"{len(leaves)} volumes have no child: {', '.join(sorted(leaves))}")
    for volume_id, record in own.items():
        if record.domain_id != domain_id:
            yield Fault("record", volume_id, f"it names the domain {record.domain_id}")
        if record.legality is Legality.ILLEGAL:
            yield Fault("illegal", volume_id, "its data is not whole, or it is out of its chain")
        if record.has_parent:
            yield from _find_parent_faults(volume_id, record, records)
        role = VolumeRole.LEAF if volume_id in leaves else VolumeRole.INTERNAL
        if record.role not in (VolumeRole.SHARED, role):
            yield Fault("role", volume_id, f"{record.role}, not {role}", replace(record, role=role))


def _find_parent_faults(volume_id: str, record: VolumeMetadata, records: Records) -> Iterator[Fault]:
    parent = records.get(record.parent_id)
    if parent is None:
        yield Fault("chain", volume_id, f"its parent {record.parent_id} is missing")
    elif parent.image_id != record.image_id and parent.role is not VolumeRole.SHARED:
        yield Fault("chain", volume_id, f"its parent {record.parent_id} is of another image and no template")
    if record.format is VolumeFormat.RAW or record.role is VolumeRole.SHARED:
        yield Fault("chain", volume_id, f"{record.format} {record.role} with a parent")
    seen, above = {volume_id}, record
    while above.parent_id in records:
        if above.parent_id in seen:
            yield Fault("chain", volume_id, f"{above.parent_id} is its own ancestor")
            return
        seen.add(above.parent_id)
        above = records[above.parent_id]


def find_header_fault(
    volume_id: str, record: VolumeMetadata, image: ImageFile, parent: VolumeMetadata | None
) -> Fault | None:
    """What a file's first bytes and size say against its record, if anything."""
    size_bytes = image.virtual_size_bytes
    if record.format is VolumeFormat.COW and (text := find_foreign_name(image, record, parent)) is not None:
        return Fault("data", volume_id, text)
    if size_bytes == record.capacity_bytes:
        return None
    is_sure = size_bytes > record.capacity_bytes and record.role is not VolumeRole.SHARED
    right = replace(record, capacity_bytes=size_bytes) if is_sure else None
    return Fault("capacity", volume_id, f"{size_bytes} bytes, the record tells {record.capacity_bytes}", right)
