"""The storage family of failures (facts: storage §12.2): the facts' names and numbers, our stable codes and fields.

Task failures are left to `tasks`; how a failure travels is left to `wire`.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vdsm.core.errors import Failure, NodeError
from vdsm.storage.ports import QemuImgFailed

# Families of failures by what they name -------------------------------------------------------------------------------


class OfVolume(NodeError):
    """A failure that names a volume."""

    volume_id: str


class VolumeFailed(OfVolume):
    """A failure that names a volume, and why."""

    reason: str


class OfDomain(NodeError):
    """A failure that names a domain."""

    domain_id: str


class DomainFailed(OfDomain):
    """A failure that names a domain, and why."""

    reason: str


class OfDomainInPool(OfDomain):
    """A failure that names a domain and a pool."""

    pool_id: str


class OfPool(NodeError):
    """A failure that names a pool."""

    pool_id: str


class OfPath(NodeError):
    """A failure that names a file or a folder."""

    path: str


class PathFailed(OfPath):
    """A failure that names a file or a folder, and why."""

    reason: str


# Volumes and images ---------------------------------------------------------------------------------------------------


class VolumeDoesNotExist(OfVolume, number=201, http=404, text="Volume does not exist:"):
    """No such volume in that image."""


class IncorrectFormat(NodeError, number=202, http=400, text="Incorrect Volume format:"):
    """The volume format is unknown, or not allowed here."""

    format: str


class VolumeImageHasChildren(NodeError, number=204, http=409):
    """The volume still has child layers."""

    text = "Cannot delete volume which has children (non-forced): (volume {volume_id!r}, children {children!r})"
    volume_id: str
    children: tuple[str, ...]


class VolumeCreationError(VolumeFailed, number=205, text="Error creating a new volume:"):
    """The volume could not be created; what was begun is undone."""


class VolumeExtendingError(VolumeFailed, number=206, text="Error extending volume:"):
    """The volume could not be made larger; it is as it was."""


class VolumeMetadataReadError(VolumeFailed, number=207, text="Error while reading volume metadata:"):
    """The volume's record could not be read from storage."""


class VolumeMetadataWriteError(VolumeFailed, number=208, text="Error while writing volume metadata:"):
    """The volume's record could not be written; the old one is whole."""


class VolumeAccessError(VolumeFailed, number=209, text="Unable to access volume:"):
    """The volume's data cannot be reached."""


class VolumeAlreadyExists(OfVolume, number=212, http=409, text="Volume already exists:"):
    """The volume's id is already used in that image."""


class VolumeNonShareable(OfVolume, number=214, http=409):
    """The parent is in another image and is neither a template nor able to become one."""

    text = "Volume cannot be shared, it's not Shared/Template volume:"


class CannotShareVolume(VolumeFailed, number=218, text="Cannot share volume:"):
    """A template's volume could not be linked into another image."""


class SharedVolumeNonWritable(OfVolume, number=219, http=409, text="Shared volume is not writable:"):
    """A template's volume is never written again."""


class InternalVolumeNonWritable(OfVolume, number=220, http=409, text="Internal volume is not writable:"):
    """Only the top of a chain may be written so."""


class CannotDeleteVolume(VolumeFailed, number=222, text="Cannot delete volume:"):
    """The volume could not be removed; it is illegal from now on, and removing it again finishes the work."""


class CannotDeleteSharedVolume(OfVolume, number=223, http=409, text="Shared Volume cannot be deleted:"):
    """A template's volume is only removed with force."""


class CreateIllegalVolumeSnapshotError(OfVolume, number=226, http=409):
    """An illegal volume takes no new layer."""

    text = "Cannot create snapshot of illegal volume:"


class PrepareIllegalVolumeError(OfVolume, number=227, http=409, text="Cannot prepare illegal volume:"):
    """An illegal volume is only prepared when the caller allows it."""


class IncorrectType(NodeError, number=231, http=400, text="Incorrect Volume Preallocate Type:"):
    """The allocation policy is unknown, or not allowed here."""

    allocation: str


class InvalidVolumeUpdate(VolumeFailed, number=235, http=409, text="Invalid volume update:"):
    """The change of a volume's attributes does not fit what the volume is."""


class ImagePathError(OfPath, number=254, http=404, text="Image path does not exist or cannot be accessed/created:"):
    """The image's directory is missing or cannot be used."""


class CopyImageError(VolumeFailed, number=261, text="Low level image copy failed:"):
    """The data could not be copied; the target stays illegal, the source is untouched."""


class ImageIsNotLegalChain(NodeError, number=262, http=409, text="Image is not a legal chain:"):
    """The image's chain is broken: a loop, a missing layer or an unusable one."""

    image_id: str
    reason: str


# Pools ----------------------------------------------------------------------------------------------------------------


class StoragePoolMasterNotFound(NodeError, number=304, http=404):
    """The master domain is not on any connected server."""

    text = "Cannot find master domain: ('spUUID={pool_id}, msdUUID={domain_id}',)"
    pool_id: str
    domain_id: str


class StoragePoolUnknown(OfPool, number=309, http=404, text="Unknown pool id, pool not connected:"):
    """The pool is not connected here."""


class StoragePoolNotConnected(NodeError, number=313, http=409, text="Storage pool not connected: ()"):
    """This host is connected to no pool."""


class IsoCannotBeMasterDomain(OfDomain, number=317, http=409, text="ISO domain cannot be a master storage domain:"):
    """A domain of ISO images cannot carry a pool."""


class BackupCannotBeMasterDomain(OfDomain, number=319, http=409):
    """A backup domain cannot carry a pool."""

    text = "Backup domain cannot be a master storage domain:"


class CannotConnectMultiplePools(OfPool, number=323, http=409):
    """This host is connected to another pool."""

    text = "Cannot connect pool, already connected to another pool:"


class StoragePoolWrongMaster(DomainFailed, number=324, http=409, text="Wrong Master domain or its version:"):
    """The named master is not this pool's master, or not of that version."""


class StoragePoolConnected(NodeError, number=325, http=409):
    """Not possible while the pool is connected like this."""

    text = "Cannot perform action while storage pool is connected:"
    pool_id: str
    reason: str


class StoragePoolDescriptionTooLongError(NodeError, number=327, http=400, text="Storage pool description too long:"):
    """A pool's name has at most 50 characters."""

    length: int


class TooManyDomainsInStoragePoolError(NodeError, number=328, http=409):
    """The pool has as many domains as it may have."""

    text = "Too many domains in storage pool: (limit {limit!r},)"
    limit: int


class ImagesNotSupportedError(OfDomain, number=329, http=409, text="Images are not supported:"):
    """The domain holds no disk images."""


# Domains --------------------------------------------------------------------------------------------------------------


class StorageDomainBlockSizeMismatch(NodeError, number=348, http=409):
    """The block size asked for or recorded is not the storage's."""

    text = "Block size does not match storage block size: (asked {block_size}, storage {storage_block_size})"
    block_size: int
    storage_block_size: int


class DiscardIsNotSupported(OfDomain, number=349, http=409, text="Discard is not supported:"):
    """File storage discards nothing."""


class StorageDomainCreationError(DomainFailed, number=351, text="Error creating a storage domain:"):
    """The domain could not be created; nothing is left of it."""


class StorageDomainNotInPool(OfDomainInPool, number=353, http=409):
    """The domain does not belong to that pool."""

    text = "Storage domain not in pool: ('domain={domain_id}, pool={pool_id}',)"


class StorageDomainDoesNotExist(OfDomain, number=358, http=404, text="Storage domain does not exist:"):
    """No connected server has that domain."""


class StorageDomainFsNotMounted(OfPath, number=360, http=409, text="Storage domain remote path not mounted:"):
    """The server or directory of the domain is not connected."""


class StorageDomainNotEmpty(OfPath, number=361, http=409, text="Storage domain not empty - requires cleaning:"):
    """The directory already holds a storage domain."""


class StorageDomainMetadataNotFound(DomainFailed, number=364, text="Storage domain metadata not found:"):
    """The domain's metadata file is missing or cannot be read."""


class StorageDomainAlreadyExists(OfDomain, number=365, http=409, text="Storage domain already exists:"):
    """The domain's id is already used."""


class StorageDomainLayoutError(NodeError, number=371, text="Storage domain layout corrupted:"):
    """A part of the domain's directory tree is missing."""

    domain_id: str
    missing: str


class StorageDomainTypeError(NodeError, number=372, http=400, text="Storage domain type is not supported:"):
    """The kind of storage is unknown or not served."""

    type: str


class StorageDomainNotMemberOfPool(NodeError, number=375, http=409):
    """The pool's map does not have the domain."""

    text = "Domain is not member in pool: ('pool={pool_id}, domain={domain_id}',)"
    pool_id: str
    domain_id: str


class StorageDomainStatusError(NodeError, number=376, http=400, text="Unknown storage domain status:"):
    """A status word that no domain can have."""

    status: str


class StorageDomainAccessError(OfDomain, number=379):
    """The domain is partly or wholly out of reach."""

    text = "Domain is either partially accessible or entirely inaccessible:"


class StorageDomainAlreadyAttached(OfDomainInPool, number=380, http=409):
    """The domain belongs to another pool."""

    text = "Storage domain already attached to pool: ('domain={domain_id}, pool={pool_id}',)"


class FileStorageDomainStaleNfsHandle(Failure, number=384, retry=True, text="Stale NFS file handle:"):
    """The NFS server no longer knows what the mount refers to."""


class StorageDomainClassError(NodeError, number=386, http=400, text="Invalid storage domain class:"):
    """A domain class that does not exist."""

    domain_class: str


class StorageDomainIllegalRemotePath(OfPath, number=390, http=400, text="Remote path is illegal:"):
    """A local domain's path is absolute and normalized."""


class UnsupportedDomainVersion(NodeError, number=394, http=400, text="Domain version is unsupported:"):
    """The domain's on-disk version is not served."""

    version: int


class NoSpaceLeftOnDomain(Failure, number=397, http=507, text="No space left on domain:"):
    """The storage is full."""


class CurrentVersionTooAdvancedError(NodeError, number=395, http=409):
    """The pool's master is newer than the version asked for."""

    text = "Current domain version too advanced: ({domain_id!r}, version {version}, asked {wanted})"
    domain_id: str
    version: int
    wanted: int


class MixedSdVersionError(NodeError, number=398, http=409):
    """All data domains of a pool are of its master's version."""

    text = "Domain version differs from its master: ({domain_id!r}, version {version}, master {master_version})"
    domain_id: str
    version: int
    master_version: int


class StorageDomainTargetUnsupported(PathFailed, number=399, http=409, text="Storage domain target is unsupported:"):
    """The storage knows no direct I/O, or does not do what it says it does."""


# Servers, SPM, locks, metadata, arguments -----------------------------------------------------------------------------


class AccessTimeout(OfDomain, number=3, http=504, retry=True, text="Repository access timed out:"):
    """The storage did not answer in time; other domains are not affected."""


class StorageServerAccessPermissionError(PathFailed, number=469, http=409):
    """The owner of disks may not use the directory."""

    text = "Permission settings on the specified path do not allow access to the storage:"


class ImageVerificationError(VolumeFailed, number=484, http=409, text="Image verification failed:"):
    """The volume's data is not what its record says, or names what is not its own."""


class AcquireLockFailure(NodeError, number=651, http=409, retry=True, text="Cannot obtain lock:"):
    """Another host or process is the pool's metadata writer."""

    lock_id: str
    reason: str


class ReleaseLockFailure(NodeError, number=660, retry=True, text="Cannot release lock:"):
    """The domain's lease could not be given back."""

    lock_id: str
    reason: str


class AcquireHostIdFailure(NodeError, number=661, retry=True):
    """This host could not join those that share the domain."""

    text = "Cannot acquire host id: ({domain_id!r}, {host_id}, {reason!r})"
    domain_id: str
    host_id: int
    reason: str


class ReleaseHostIdFailure(NodeError, number=662, retry=True):
    """This host could not leave those that share the domain."""

    text = "Cannot release host id: ({domain_id!r}, {host_id}, {reason!r})"
    domain_id: str
    host_id: int
    reason: str


class ClusterLockInitError(Failure, number=701, text="Could not initialize cluster lock:"):
    """A lease could not be made on the storage."""


class SpmStatusError(OfPool, code="secure-error", number=654, http=409, text="Not SPM:"):
    """Only the SPM may do this, and this host is not."""


class IsSpm(OfPool, number=656, http=409, text="Operation not allowed while SPM is active:"):
    """Not possible on the SPM."""


class InvalidMetadata(NodeError, number=751, text="Invalid metadata:"):
    """A metadata key is missing, or its value is bad."""

    key: str
    reason: str


class MetaDataSealIsBroken(NodeError, number=752):
    """The domain metadata does not match its checksum."""

    text = "Meta Data seal is broken (checksum mismatch): ('cksum = {found}, computed_cksum = {computed}',)"
    found: str
    computed: str


class MetaDataValidationError(Failure, number=753, text="Meta data is invalid:"):
    """Metadata values contradict each other or make no sense."""


class MetadataOverflowError(NodeError, number=756, http=400, text="Metadata is too big:"):
    """A volume's record has at most 512 bytes; a shorter description helps."""

    length: int


class ResourceTimeout(NodeError, number=851, http=503, retry=True, text="Resource timeout:"):
    """Another operation held the domain, image or volume for too long."""

    resource: str


class InvalidParameterException(NodeError, code="invalid-parameter", number=1000, http=400):
    """An argument is malformed or does not fit; nothing was changed."""

    text = "Invalid parameter: ('{name}={value}',)"
    name: str
    value: str


class StorageDomainIsMemberOfPool(OfDomain, number=900, http=409, text="Storage domain is member of pool:"):
    """The domain is watched as one of the connected pool."""


class MiscFileReadException(PathFailed, number=2001, retry=True, text="Internal file read failure:"):
    """A file on storage could not be read, or not in time."""


class MiscFileWriteException(PathFailed, number=2002, retry=True, text="Internal file write failure:"):
    """A file on storage could not be written."""


class UnsupportedOperation(NodeError, code="unsupported-storage-operation", number=2009, http=409):
    """Not supported in this situation."""

    text = "Operation not supported in this situation:"
    reason: str


@contextmanager
def io_failing_as(make: Callable[[str], NodeError]) -> Iterator[None]:
    """Turn an OSError of the block into a storage failure: full and stale storage by name, the rest as `make` says."""
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceLeftOnDomain(reason) from error
        if error.errno == errno.ESTALE:
            raise FileStorageDomainStaleNfsHandle(reason) from error
        raise make(reason) from error


@contextmanager
def qemu_failing_as(make: Callable[[str], NodeError]) -> Iterator[None]:
    """Turn a failure of qemu-img in the block into a storage failure: full storage by name, the rest as `make` says."""
    try:
        yield
    except QemuImgFailed as error:
        if error.full:
            raise NoSpaceLeftOnDomain(error.reason) from error
        raise make(error.reason) from error
