"""Refusing bad arguments before anything is changed; pure. What storage itself refuses is left to the operations."""

from msgspec.structs import replace

from vdsm.core.ids import BLANK_UUID, is_uuid
from vdsm.storage import errors, model
from vdsm.storage.errors_pools import StorageDomainDescriptionTooLongError
from vdsm.storage.images.volume_metadata import MAXIMUM_SEQUENCE, check_capacity, check_description
from vdsm.storage.metadata import check_line

POOL_NAME_CHARACTERS = 50
DOMAIN_NAME_CHARACTERS = 1000
"""Managers use 50; file domains never held them to it, but each answer on the domain carries the name."""
MAXIMUM_HOST_ID = 2000
MAXIMUM_CAPACITY_BYTES = 1 << 62
_BLOCK_SIZES_BYTES = {model.DomainType.LOCALFS: (0, 512, 4096), model.DomainType.GLUSTERFS: (0, 512, 4096)}
"""What a domain of version 5 may be asked for, on other storage 512 only (facts: storage §3.2)."""


def check_ids(**ids: str) -> None:
    """Each is a UUID in the one accepted form; InvalidParameterException names the first that is not."""
    for name, value in ids.items():
        if not is_uuid(value):
            raise errors.InvalidParameterException(name, repr(value))


def check_real_ids(**ids: str) -> None:
    """`check_ids`, and none is the blank one."""
    check_ids(**ids)
    for name, value in ids.items():
        if value == BLANK_UUID:
            raise errors.InvalidParameterException(name, repr(value))


def check_host_id(host_id: int) -> None:
    """1 to 2000, as sanlock counts hosts (facts: storage §1.8); else InvalidParameterException."""
    if not 1 <= host_id <= MAXIMUM_HOST_ID:
        raise errors.InvalidParameterException("hostID", str(host_id))


def check_pool_name(name: str) -> None:
    """One line of at most 50 characters: InvalidParameterException, StoragePoolDescriptionTooLongError (327)."""
    check_line("name", name)
    if len(name) > POOL_NAME_CHARACTERS:
        raise errors.StoragePoolDescriptionTooLongError(len(name))


def check_domain_name(name: str) -> None:
    """A new name: one line of at most 50 characters (InvalidParameterException, 387)."""
    check_line("description", name)
    if len(name) > POOL_NAME_CHARACTERS:
        raise StorageDomainDescriptionTooLongError(len(name))


def check_master_version(version: int) -> None:
    """A number that the metadata can keep; else InvalidParameterException."""
    if not 0 <= version < 1 << 63:
        raise errors.InvalidParameterException("masterVersion", str(version)[:40])


def check_new_domain(
    type: model.DomainType, domain_class: str, name: str, version: int, block_size_bytes: int, maximum_hosts: int
) -> None:
    """The arguments of a domain's creation (facts: storage §3.2, §3.3, §6.1)."""
    if domain_class not in set(model.DomainClass):
        raise errors.StorageDomainClassError(domain_class)
    if version not in model.VERSIONS:
        raise errors.UnsupportedDomainVersion(version)
    if block_size_bytes not in (_BLOCK_SIZES_BYTES.get(type, (512,)) if version >= 5 else (512,)):
        raise errors.InvalidParameterException("block_size", str(block_size_bytes))
    if not 1 <= maximum_hosts <= MAXIMUM_HOST_ID:
        raise errors.InvalidParameterException("max_hosts", str(maximum_hosts))
    check_line("name", name)
    if len(name) > DOMAIN_NAME_CHARACTERS:
        raise errors.InvalidParameterException("name", f"{len(name)} characters")


def check_format(format: model.VolumeFormat) -> None:
    """One that data can have; else IncorrectFormat."""
    if format not in (model.VolumeFormat.COW, model.VolumeFormat.RAW):
        raise errors.IncorrectFormat(format)


def get_alignment_bytes(block_size_bytes: int, maximum_hosts: int) -> int:
    """The space that a host's or volume's lease takes up (facts: storage §6.1)."""
    if block_size_bytes == 512:
        return model.DEFAULT_ALIGNMENT_BYTES
    limits = {250: 1, 500: 2, 1000: 4, 2000: 8}
    return next(factor for hosts, factor in limits.items() if maximum_hosts <= hosts) * model.DEFAULT_ALIGNMENT_BYTES


def round_up(size_bytes: int, unit_bytes: int = model.CAPACITY_UNIT_BYTES) -> int:
    """The next multiple of the unit, or the size when it is one."""
    return -(-size_bytes // unit_bytes) * unit_bytes


def check_capacity_request(size_bytes: int) -> int:
    """A virtual size that a volume may be asked to have, rounded up; else InvalidParameterException."""
    if not 1 <= size_bytes <= MAXIMUM_CAPACITY_BYTES:
        raise errors.InvalidParameterException("size", str(size_bytes))
    return round_up(size_bytes)


def check_volume_request(request: model.VolumeRequest) -> model.VolumeRequest:
    """What can be refused without looking at storage (facts: storage §9.1); sizes come back rounded up."""
    check_real_ids(
        storagepoolID=request.pool_id,
        storagedomainID=request.domain_id,
        imageID=request.image_id,
        volumeID=request.volume_id,
    )
    check_ids(srcImgUUID=request.parent_image_id, srcVolUUID=request.parent_id)
    if request.parent_id == request.volume_id:
        raise errors.InvalidParameterException("srcVolUUID", repr(request.parent_id))
    _check_kind(request)
    _check_bitmaps(request)
    check_description(request.description)
    if not 0 <= request.sequence <= MAXIMUM_SEQUENCE:
        raise errors.InvalidParameterException("sequence", str(request.sequence))
    capacity_bytes = check_capacity_request(request.capacity_bytes)
    initial = request.initial_size_bytes
    if initial is not None and initial < 0:
        raise errors.InvalidParameterException("initialSize", str(initial))
    rounded = replace(
        request, capacity_bytes=capacity_bytes, initial_size_bytes=None if initial is None else round_up(initial)
    )
    _check_initial_size(rounded)
    return rounded


def check_copy(source: model.VolumeRef, request: model.VolumeRequest, role: model.VolumeRole) -> None:
    """Whether a volume's contents may become this new volume, as far as that can be told without storage."""
    check_real_ids(storagedomainID=source.domain_id, imageID=source.image_id, volumeID=source.volume_id)
    check_volume_request(request)
    if (source.domain_id, source.image_id) == (request.domain_id, request.image_id):
        raise errors.InvalidParameterException("dstImgUUID", "is the source's")
    if role is model.VolumeRole.INTERNAL:
        raise errors.InvalidParameterException("volType", role)


def check_parent(request: model.VolumeRequest, parent: model.VolumeMetadata, *, on_illegal: bool = False) -> None:
    """Whether the parent takes this layer; with `on_illegal` also an illegal one of the same image."""
    in_other_image = request.source_image_id != request.image_id
    if parent.legality is model.Legality.ILLEGAL and (in_other_image or not on_illegal):
        raise errors.CreateIllegalVolumeSnapshotError(request.parent_id)
    if request.capacity_bytes < check_capacity(parent):
        raise errors.InvalidParameterException(
            "size", f"{request.capacity_bytes} < {parent.capacity_bytes} of the parent"
        )
    if (
        in_other_image
        and parent.role is not model.VolumeRole.SHARED
        and (parent.has_parent or parent.role is not model.VolumeRole.LEAF)
    ):
        raise errors.VolumeNonShareable(request.parent_id)
    if request.add_bitmaps and parent.format is model.VolumeFormat.RAW:
        raise errors.UnsupportedOperation("bitmaps of a raw parent")
    if request.add_bitmaps and (in_other_image or parent.role is model.VolumeRole.SHARED):
        raise errors.UnsupportedOperation("bitmaps of a template")


def _check_kind(request: model.VolumeRequest) -> None:
    check_format(request.format)
    if request.has_parent and request.format is not model.VolumeFormat.COW:
        raise errors.IncorrectFormat(request.format)
    if request.allocation not in (model.Allocation.PREALLOCATED, model.Allocation.SPARSE):
        raise errors.IncorrectType(request.allocation)
    if request.disk_type not in model.DISK_TYPES:
        raise errors.InvalidParameterException("DiskType", request.disk_type)


def _check_bitmaps(request: model.VolumeRequest) -> None:
    if request.add_bitmaps and not request.has_parent:
        raise errors.UnsupportedOperation("addBitmaps without a parent")
    if request.bitmap is not None:
        check_ids(bitmap=request.bitmap)
        if request.format is not model.VolumeFormat.COW:
            raise errors.UnsupportedOperation("a bitmap needs the COW format")


def _check_initial_size(request: model.VolumeRequest) -> None:
    # File storage knows no initial size: what could ask for one is refused, a preallocated base volume ignores it.
    if request.initial_size_bytes is None or request.has_parent:
        return
    if request.allocation is model.Allocation.SPARSE:
        raise errors.InvalidParameterException("initialSize", str(request.initial_size_bytes))
    if request.initial_size_bytes > request.capacity_bytes:
        raise errors.InvalidParameterException(
            "initialSize", f"{request.initial_size_bytes} > {request.capacity_bytes}"
        )
