"""Laying out a volume's data, and more of it (facts: storage §9.2, §9.5); making the volume is left to `volume`."""

from functools import partial

from msgspec.structs import replace

from vdsm.storage import checks
from vdsm.storage.domain import Domain
from vdsm.storage.errors import VolumeCreationError, qemu_failing_as
from vdsm.storage.model import RAW_HEAD_BYTES, Allocation, VolumeFormat, VolumeMetadata, VolumeRef
from vdsm.storage.ports import QemuImg, Rollbacks, Steps

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


def extend_data(
    domain: Domain, target: VolumeRef, record: VolumeMetadata, size_bytes: int, rollbacks: Rollbacks, step: Steps
) -> None:
    """Let the volume's file be at least that long; the record of a raw one tells how long it came to be.

    Should this fail or be killed, the next SPM lets the record tell what the file has. Raises 205, 206, 397.
    """
    data, ids = domain.backend.data, (target.image_id, target.volume_id)
    rollbacks.push("Extend size finalize", "volume", "Volume", "extendSizeFinalize", (target.domain_id, *ids))
    step("extend data")
    if record.allocation is Allocation.PREALLOCATED:
        # At once, not as a hole that is filled later: wherever this ends, what the file has is allocated.
        data.preallocate(*ids, data.get_size(*ids).apparent_bytes, size_bytes)
    else:
        data.extend(*ids, size_bytes)
    data.settle_data(*ids)
    if record.format is VolumeFormat.RAW:
        step("write capacity")
        size_bytes = data.get_size(*ids).apparent_bytes
        domain.images.change(*ids, replace(domain.images.read(*ids), capacity_bytes=size_bytes))
