"""Laying out an empty volume's data (facts: storage §9.2); making the volume is left to `volume`."""

from functools import partial

from vdsm.storage import checks
from vdsm.storage.domain import Domain
from vdsm.storage.errors import VolumeCreationError, qemu_failing_as
from vdsm.storage.model import RAW_HEAD_BYTES, Allocation, VolumeFormat, VolumeMetadata
from vdsm.storage.ports import QemuImg

OLD_COMPAT = "0.10"
NEW_COMPAT = "1.1"
_CLUSTER_BYTES = 65536


def get_compat(domain: Domain) -> str:
    """The version of qcow2 that new files of the domain have."""
    return NEW_COMPAT if domain.metadata.version >= 4 else OLD_COMPAT


def format_data(
    domain: Domain,
    qemu_img: QemuImg,
    image_id: str,
    volume_id: str,
    metadata: VolumeMetadata,
    parent_format: VolumeFormat | None,
) -> None:
    """Let the volume's file read as zeros, or as its parent, and take the space that it is to have.

    What was in it is lost. Raises VolumeCreationError (205), NoSpaceLeftOnDomain (397).
    """
    data = domain.backend.data
    is_cow = metadata.format is VolumeFormat.COW
    with qemu_failing_as(partial(VolumeCreationError, volume_id)):
        qemu_img.create(
            data.get_path(image_id, volume_id),
            metadata.format.qemu,
            metadata.capacity_bytes,
            compat=get_compat(domain) if is_cow else None,
            backing=metadata.parent_id if parent_format else None,
            backing_format=parent_format.qemu if parent_format else None,
        )
    if metadata.allocation is Allocation.PREALLOCATED and parent_format is None:
        size_bytes = data.get_size(image_id, volume_id).apparent_bytes
        start_bytes = checks.round_up(size_bytes, _CLUSTER_BYTES) if is_cow else RAW_HEAD_BYTES
        data.preallocate(image_id, volume_id, start_bytes, metadata.capacity_bytes)
