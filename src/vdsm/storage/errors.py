"""The storage family of failures (facts: storage §12.2): the facts' names and numbers, our stable codes and fields.

Task failures are left to `tasks`; how a failure travels is left to `wire`.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vdsm.core.errors import NodeError
from vdsm.storage.ports import QemuImgFailed

# Volumes and images ---------------------------------------------------------------------------------------------------


class VolumeDoesNotExist(NodeError):
    """No such volume in that image."""

    code, number, http, text = "volume-does-not-exist", 201, 404, "Volume does not exist: ({volume_id!r},)"
    volume_id: str


class IncorrectFormat(NodeError):
    """The volume format is unknown, or not allowed here."""

    code, number, http, text = "incorrect-format", 202, 400, "Incorrect Volume format: ({format!r},)"
    format: str


class VolumeImageHasChildren(NodeError):
    """The volume still has child layers."""

    code, number, http = "volume-image-has-children", 204, 409
    text = "Cannot delete volume which has children (non-forced): (volume {volume_id!r}, children {children!r})"
    volume_id: str
    children: tuple[str, ...]


class VolumeCreationError(NodeError):
    """The volume could not be created; what was begun is undone."""

    code, number, text = "volume-creation-error", 205, "Error creating a new volume: ({volume_id!r}, {reason!r})"
    volume_id: str
    reason: str


class VolumeExtendingError(NodeError):
    """The volume could not be made larger; it is as it was."""

    code, number, text = "volume-extending-error", 206, "Error extending volume: ({volume_id!r}, {reason!r})"
    volume_id: str
    reason: str


class VolumeMetadataReadError(NodeError):
    """The volume's record could not be read from storage."""

    code, number = "volume-metadata-read-error", 207
    text = "Error while reading volume metadata: ({volume_id!r}, {reason!r})"
    volume_id: str
    reason: str


class VolumeMetadataWriteError(NodeError):
    """The volume's record could not be written; the old one is whole."""

    code, number = "volume-metadata-write-error", 208
    text = "Error while writing volume metadata: ({volume_id!r}, {reason!r})"
    volume_id: str
    reason: str


class VolumeAccessError(NodeError):
    """The volume's data cannot be reached."""

    code, number, text = "volume-access-error", 209, "Unable to access volume: ({volume_id!r}, {reason!r})"
    volume_id: str
    reason: str


class VolumeAlreadyExists(NodeError):
    """The volume's id is already used in that image."""

    code, number, http, text = "volume-already-exists", 212, 409, "Volume already exists: ({volume_id!r},)"
    volume_id: str


class VolumeNonShareable(NodeError):
    """The parent is in another image and is neither a template nor able to become one."""

    code, number, http = "volume-non-shareable", 214, 409
    text = "Volume cannot be shared, it's not Shared/Template volume: ({volume_id!r},)"
    volume_id: str


class CannotShareVolume(NodeError):
    """A template's volume could not be linked into another image."""

    code, number, text = "cannot-share-volume", 218, "Cannot share volume: ({volume_id!r}, {reason!r})"
    volume_id: str
    reason: str


class SharedVolumeNonWritable(NodeError):
    """A template's volume is never written again."""

    code, number, http = "shared-volume-non-writable", 219, 409
    text = "Shared volume is not writable: ({volume_id!r},)"
    volume_id: str


class InternalVolumeNonWritable(NodeError):
    """Only the top of a chain may be written so."""

    code, number, http = "internal-volume-non-writable", 220, 409
    text = "Internal volume is not writable: ({volume_id!r},)"
    volume_id: str


class CannotDeleteVolume(NodeError):
    """The volume could not be removed; it is illegal from now on, and removing it again finishes the work."""

    code, number, text = "cannot-delete-volume", 222, "Cannot delete volume: ({volume_id!r}, {reason!r})"
    volume_id: str
    reason: str


class CannotDeleteSharedVolume(NodeError):
    """A template's volume is only removed with force."""

    code, number, http = "cannot-delete-shared-volume", 223, 409
    text = "Shared Volume cannot be deleted: ({volume_id!r},)"
    volume_id: str


class CreateIllegalVolumeSnapshotError(NodeError):
    """An illegal volume takes no new layer."""

    code, number, http = "create-illegal-volume-snapshot-error", 226, 409
    text = "Cannot create snapshot of illegal volume: ({volume_id!r},)"
    volume_id: str


class PrepareIllegalVolumeError(NodeError):
    """An illegal volume is only prepared when the caller allows it."""

    code, number, http = "prepare-illegal-volume-error", 227, 409
    text = "Cannot prepare illegal volume: ({volume_id!r},)"
    volume_id: str


class IncorrectType(NodeError):
    """The allocation policy is unknown, or not allowed here."""

    code, number, http, text = "incorrect-type", 231, 400, "Incorrect Volume Preallocate Type: ({allocation!r},)"
    allocation: str


class InvalidVolumeUpdate(NodeError):
    """The change of a volume's attributes does not fit what the volume is."""

    code, number, http = "invalid-volume-update", 235, 409
    text = "Invalid volume update: ({volume_id!r}, {reason!r})"
    volume_id: str
    reason: str


class ImagePathError(NodeError):
    """The image's directory is missing or cannot be used."""

    code, number, http = "image-path-error", 254, 404
    text = "Image path does not exist or cannot be accessed/created: ({path!r},)"
    path: str


class CopyImageError(NodeError):
    """The data could not be copied; the target stays illegal, the source is untouched."""

    code, number, text = "copy-image-error", 261, "Low level image copy failed: ({volume_id!r}, {reason!r})"
    volume_id: str
    reason: str


class ImageIsNotLegalChain(NodeError):
    """The image's chain is broken: a loop, a missing layer or an unusable one."""

    code, number, http = "image-is-not-legal-chain", 262, 409
    text = "Image is not a legal chain: ({image_id!r}, {reason!r})"
    image_id: str
    reason: str


# Pools ----------------------------------------------------------------------------------------------------------------


class StoragePoolMasterNotFound(NodeError):
    """The master domain is not on any connected server."""

    code, number, http = "storage-pool-master-not-found", 304, 404
    text = "Cannot find master domain: ('spUUID={pool_id}, msdUUID={domain_id}',)"
    pool_id: str
    domain_id: str


class StoragePoolUnknown(NodeError):
    """The pool is not connected here."""

    code, number, http, text = "storage-pool-unknown", 309, 404, "Unknown pool id, pool not connected: ({pool_id!r},)"
    pool_id: str


class StoragePoolNotConnected(NodeError):
    """This host is connected to no pool."""

    code, number, http, text = "storage-pool-not-connected", 313, 409, "Storage pool not connected: ()"


class IsoCannotBeMasterDomain(NodeError):
    """A domain of ISO images cannot carry a pool."""

    code, number, http = "iso-cannot-be-master-domain", 317, 409
    text = "ISO domain cannot be a master storage domain: ({domain_id!r},)"
    domain_id: str


class BackupCannotBeMasterDomain(NodeError):
    """A backup domain cannot carry a pool."""

    code, number, http = "backup-cannot-be-master-domain", 319, 409
    text = "Backup domain cannot be a master storage domain: ({domain_id!r},)"
    domain_id: str


class CannotConnectMultiplePools(NodeError):
    """This host is connected to another pool."""

    code, number, http = "cannot-connect-multiple-pools", 323, 409
    text = "Cannot connect pool, already connected to another pool: ({pool_id!r},)"
    pool_id: str


class StoragePoolWrongMaster(NodeError):
    """The named master is not this pool's master, or not of that version."""

    code, number, http = "storage-pool-wrong-master", 324, 409
    text = "Wrong Master domain or its version: ({domain_id!r}, {reason!r})"
    domain_id: str
    reason: str


class StoragePoolConnected(NodeError):
    """Not possible while the pool is connected like this."""

    code, number, http = "storage-pool-connected", 325, 409
    text = "Cannot perform action while storage pool is connected: ({pool_id!r}, {reason!r})"
    pool_id: str
    reason: str


class StoragePoolDescriptionTooLongError(NodeError):
    """A pool's name has at most 50 characters."""

    code, number, http = "storage-pool-description-too-long-error", 327, 400
    text = "Storage pool description too long: ({length!r},)"
    length: int


class TooManyDomainsInStoragePoolError(NodeError):
    """The pool has as many domains as it may have."""

    code, number, http = "too-many-domains-in-storage-pool-error", 328, 409
    text = "Too many domains in storage pool: (limit {limit!r},)"
    limit: int


class ImagesNotSupportedError(NodeError):
    """The domain holds no disk images."""

    code, number, http, text = "images-not-supported-error", 329, 409, "Images are not supported: ({domain_id!r},)"
    domain_id: str


# Domains --------------------------------------------------------------------------------------------------------------


class StorageDomainBlockSizeMismatch(NodeError):
    """The block size asked for or recorded is not the storage's."""

    code, number, http = "storage-domain-block-size-mismatch", 348, 409
    text = "Block size does not match storage block size: (asked {block_size}, storage {storage_block_size})"
    block_size: int
    storage_block_size: int


class DiscardIsNotSupported(NodeError):
    """File storage discards nothing."""

    code, number, http, text = "discard-is-not-supported", 349, 409, "Discard is not supported: ({domain_id!r},)"
    domain_id: str


class StorageDomainCreationError(NodeError):
    """The domain could not be created; nothing is left of it."""

    code, number = "storage-domain-creation-error", 351
    text = "Error creating a storage domain: ({domain_id!r}, {reason!r})"
    domain_id: str
    reason: str


class StorageDomainNotInPool(NodeError):
    """The domain does not belong to that pool."""

    code, number, http = "storage-domain-not-in-pool", 353, 409
    text = "Storage domain not in pool: ('domain={domain_id}, pool={pool_id}',)"
    domain_id: str
    pool_id: str


class StorageDomainDoesNotExist(NodeError):
    """No connected server has that domain."""

    code, number, http = "storage-domain-does-not-exist", 358, 404
    text = "Storage domain does not exist: ({domain_id!r},)"
    domain_id: str


class StorageDomainFsNotMounted(NodeError):
    """The server or directory of the domain is not connected."""

    code, number, http = "storage-domain-fs-not-mounted", 360, 409
    text = "Storage domain remote path not mounted: ({path!r},)"
    path: str


class StorageDomainNotEmpty(NodeError):
    """The directory already holds a storage domain."""

    code, number, http = "storage-domain-not-empty", 361, 409
    text = "Storage domain not empty - requires cleaning: ({path!r},)"
    path: str


class StorageDomainMetadataNotFound(NodeError):
    """The domain's metadata file is missing or cannot be read."""

    code, number = "storage-domain-metadata-not-found", 364
    text = "Storage domain metadata not found: ({domain_id!r}, {reason!r})"
    domain_id: str
    reason: str


class StorageDomainAlreadyExists(NodeError):
    """The domain's id is already used."""

    code, number, http = "storage-domain-already-exists", 365, 409
    text = "Storage domain already exists: ({domain_id!r},)"
    domain_id: str


class StorageDomainLayoutError(NodeError):
    """A part of the domain's directory tree is missing."""

    code, number = "storage-domain-layout-error", 371
    text = "Storage domain layout corrupted: ({domain_id!r}, {missing!r})"
    domain_id: str
    missing: str


class StorageDomainTypeError(NodeError):
    """The kind of storage is unknown or not served."""

    code, number, http = "storage-domain-type-error", 372, 400
    text = "Storage domain type is not supported: ({type!r},)"
    type: str


class StorageDomainNotMemberOfPool(NodeError):
    """The pool's map does not have the domain."""

    code, number, http = "storage-domain-not-member-of-pool", 375, 409
    text = "Domain is not member in pool: ('pool={pool_id}, domain={domain_id}',)"
    pool_id: str
    domain_id: str


class StorageDomainStatusError(NodeError):
    """A status word that no domain can have."""

    code, number, http, text = "storage-domain-status-error", 376, 400, "Unknown storage domain status: ({status!r},)"
    status: str


class StorageDomainAccessError(NodeError):
    """The domain is partly or wholly out of reach."""

    code, number = "storage-domain-access-error", 379
    text = "Domain is either partially accessible or entirely inaccessible: ({domain_id!r},)"
    domain_id: str


class StorageDomainAlreadyAttached(NodeError):
    """The domain belongs to another pool."""

    code, number, http = "storage-domain-already-attached", 380, 409
    text = "Storage domain already attached to pool: ('domain={domain_id}, pool={pool_id}',)"
    domain_id: str
    pool_id: str


class FileStorageDomainStaleNfsHandle(NodeError):
    """The NFS server no longer knows what the mount refers to."""

    code, number, retry = "file-storage-domain-stale-nfs-handle", 384, True
    text = "Stale NFS file handle: ({reason!r},)"
    reason: str


class StorageDomainClassError(NodeError):
    """A domain class that does not exist."""

    code, number, http = "storage-domain-class-error", 386, 400
    text = "Invalid storage domain class: ({domain_class!r},)"
    domain_class: str


class StorageDomainIllegalRemotePath(NodeError):
    """A local domain's path is absolute and normalized."""

    code, number, http, text = "storage-domain-illegal-remote-path", 390, 400, "Remote path is illegal: ({path!r},)"
    path: str


class UnsupportedDomainVersion(NodeError):
    """The domain's on-disk version is not served."""

    code, number, http, text = "unsupported-domain-version", 394, 400, "Domain version is unsupported: ({version!r},)"
    version: int


class NoSpaceLeftOnDomain(NodeError):
    """The storage is full."""

    code, number, http, text = "no-space-left-on-domain", 397, 507, "No space left on domain: ({reason!r},)"
    reason: str


class CurrentVersionTooAdvancedError(NodeError):
    """The pool's master is newer than the version asked for."""

    code, number, http = "current-version-too-advanced-error", 395, 409
    text = "Current domain version too advanced: ({domain_id!r}, version {version}, asked {wanted})"
    domain_id: str
    version: int
    wanted: int


class MixedSdVersionError(NodeError):
    """All data domains of a pool are of its master's version."""

    code, number, http = "mixed-sd-version-error", 398, 409
    text = "Domain version differs from its master: ({domain_id!r}, version {version}, master {master_version})"
    domain_id: str
    version: int
    master_version: int


class StorageDomainTargetUnsupported(NodeError):
    """The storage knows no direct I/O."""

    code, number, http = "storage-domain-target-unsupported", 399, 409
    text = "Storage domain target is unsupported: ({path!r},)"
    path: str


# Servers, SPM, locks, metadata, arguments -----------------------------------------------------------------------------


class AccessTimeout(NodeError):
    """The storage did not answer in time; other domains are not affected."""

    code, number, http, retry, text = "access-timeout", 3, 504, True, "Repository access timed out: ({domain_id!r},)"
    domain_id: str


class StorageServerAccessPermissionError(NodeError):
    """The owner of disks may not use the directory."""

    code, number, http = "storage-server-access-permission-error", 469, 409
    text = "Permission settings on the specified path do not allow access to the storage: ({path!r}, {reason!r})"
    path: str
    reason: str


class ImageVerificationError(NodeError):
    """The volume's data is not what its record says, or names what is not its own."""

    code, number, http = "image-verification-error", 484, 409
    text = "Image verification failed: ({volume_id!r}, {reason!r})"
    volume_id: str
    reason: str


class AcquireLockFailure(NodeError):
    """Another host or process is the pool's metadata writer."""

    code, number, http, retry = "acquire-lock-failure", 651, 409, True
    text = "Cannot obtain lock: ({lock_id!r}, {reason!r})"
    lock_id: str
    reason: str


class ReleaseLockFailure(NodeError):
    """The domain's lease could not be given back."""

    code, number, retry, text = "release-lock-failure", 660, True, "Cannot release lock: ({lock_id!r}, {reason!r})"
    lock_id: str
    reason: str


class AcquireHostIdFailure(NodeError):
    """This host could not join those that share the domain."""

    code, number, retry = "acquire-host-id-failure", 661, True
    text = "Cannot acquire host id: ({domain_id!r}, {host_id}, {reason!r})"
    domain_id: str
    host_id: int
    reason: str


class ReleaseHostIdFailure(NodeError):
    """This host could not leave those that share the domain."""

    code, number, retry = "release-host-id-failure", 662, True
    text = "Cannot release host id: ({domain_id!r}, {host_id}, {reason!r})"
    domain_id: str
    host_id: int
    reason: str


class ClusterLockInitError(NodeError):
    """A lease could not be made on the storage."""

    code, number, text = "cluster-lock-init-error", 701, "Could not initialize cluster lock: ({reason!r},)"
    reason: str


class SpmStatusError(NodeError):
    """Only the SPM may do this, and this host is not."""

    code, number, http, text = "secure-error", 654, 409, "Not SPM: ({pool_id!r},)"
    pool_id: str


class IsSpm(NodeError):
    """Not possible on the SPM."""

    code, number, http, text = "is-spm", 656, 409, "Operation not allowed while SPM is active: ({pool_id!r},)"
    pool_id: str


class InvalidMetadata(NodeError):
    """A metadata key is missing, or its value is bad."""

    code, number, text = "invalid-metadata", 751, "Invalid metadata: ({key!r}, {reason!r})"
    key: str
    reason: str


class MetaDataSealIsBroken(NodeError):
    """The domain metadata does not match its checksum."""

    code, number = "meta-data-seal-is-broken", 752
    text = "Meta Data seal is broken (checksum mismatch): ('cksum = {found}, computed_cksum = {computed}',)"
    found: str
    computed: str


class MetaDataValidationError(NodeError):
    """Metadata values contradict each other or make no sense."""

    code, number, text = "meta-data-validation-error", 753, "Meta data is invalid: ({reason!r},)"
    reason: str


class MetadataOverflowError(NodeError):
    """A volume's record has at most 512 bytes; a shorter description helps."""

    code, number, http, text = "metadata-overflow-error", 756, 400, "Metadata is too big: ({length!r},)"
    length: int


class ResourceTimeout(NodeError):
    """Another operation held the domain, image or volume for too long."""

    code, number, http, retry, text = "resource-timeout", 851, 503, True, "Resource timeout: ({resource!r},)"
    resource: str


class InvalidParameterException(NodeError):
    """An argument is malformed or does not fit; nothing was changed."""

    code, number, http, text = "invalid-parameter", 1000, 400, "Invalid parameter: ('{name}={value}',)"
    name: str
    value: str


class StorageDomainIsMemberOfPool(NodeError):
    """The domain is watched as one of the connected pool."""

    code, number, http = "storage-domain-is-member-of-pool", 900, 409
    text = "Storage domain is member of pool: ({domain_id!r},)"
    domain_id: str


class MiscFileReadException(NodeError):
    """A file on storage could not be read, or not in time."""

    code, number, retry, text = (
        "misc-file-read-exception",
        2001,
        True,
        "Internal file read failure: ({path!r}, {reason!r})",
    )
    path: str
    reason: str


class MiscFileWriteException(NodeError):
    """A file on storage could not be written."""

    code, number, retry, text = (
        "misc-file-write-exception",
        2002,
        True,
        "Internal file write failure: ({path!r}, {reason!r})",
    )
    path: str
    reason: str


class UnsupportedOperation(NodeError):
    """Not supported in this situation."""

    code, number, http = "unsupported-storage-operation", 2009, 409
    text = "Operation not supported in this situation: ({reason!r},)"
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
