"""More of the storage family of failures: what the later life of pools and domains may meet (facts: storage §12.2)."""

from vdsm.core.errors import NodeError


class MissingOvfFileFromVm(NodeError):
    """A VM's folder on the domain lacks a definition that can be read."""

    code, number, http, text = "missing-ovf-file-from-vm", 320, 409, "Missing OVF file from VM: ({vm_id!r}, {reason!r})"
    vm_id: str
    reason: str


class VmPathNotExists(NodeError):
    """The domain has no place for VM definitions: it is no master and no active Backup domain."""

    code, number, http, text = "vm-path-not-exists", 322, 409, "vms dir not exists: ({path!r},)"
    path: str


class GetFileStatsError(NodeError):
    """The files of an ISO domain could not be listed."""

    code, number, http = "get-file-stats-error", 330, 409
    text = "Failed to get file stats: ({domain_id!r}, {reason!r})"
    domain_id: str
    reason: str


class TarCommandError(NodeError):
    """The master's files could not be copied; the old master is still the master."""

    code, number, text = "tar-command-error", 331, "Copying the master's files failed: ({reason!r},)"
    reason: str


class StorageDomainIllegalStateError(NodeError):
    """The domain's status in the pool does not permit this."""

    code, number, http = "storage-domain-illegal-state-error", 347, 409
    text = "Domain's status does not permit this: (domain {domain_id!r}, status {status!r})"
    domain_id: str
    status: str


class StorageDomainNotActive(NodeError):
    """The domain must be active for this."""

    code, number, http, text = "storage-domain-not-active", 369, 409, "Storage domain not active: ({domain_id!r},)"
    domain_id: str


class StorageDomainTypeNotBackup(NodeError):
    """Only a Backup domain will do."""

    code, number, http = "storage-domain-type-not-backup", 378, 409
    text = "Storage domain type not backup: ({domain_id!r},)"
    domain_id: str


class CannotDetachMasterStorageDomain(NodeError):
    """The master stays as long as its pool; another domain must become the master first."""

    code, number, http = "cannot-detach-master-storage-domain", 383, 409
    text = "Illegal action: cannot detach the master domain: ({domain_id!r},)"
    domain_id: str


class StorageDomainDescriptionTooLongError(NodeError):
    """A domain's name has at most 50 characters."""

    code, number, http = "storage-domain-description-too-long-error", 387, 400
    text = "Storage domain description too long: ({length!r},)"
    length: int


class CannotFormatAttachedStorageDomain(NodeError):
    """The domain belongs to a pool."""

    code, number, http = "cannot-format-attached-storage-domain", 391, 409
    text = "Cannot format attached storage domain: ({domain_id!r}, of pool {pool_id!r})"
    domain_id: str
    pool_id: str


class CannotFormatStorageDomainInConnectedPool(NodeError):
    """The domain is in the map of the pool that this host is connected to."""

    code, number, http = "cannot-format-storage-domain-in-connected-pool", 392, 409
    text = "Cannot format storage domain in connected pool: ({domain_id!r},)"
    domain_id: str


class PoolUpgradeInProgress(NodeError):
    """The pool's domains are being upgraded already."""

    code, number, http, retry = "pool-upgrade-in-progress", 396, 409, True
    text = "Cannot upgrade pool, an upgrade is running already: ({pool_id!r},)"
    pool_id: str


class HostIdMismatch(NodeError):
    """The pool is connected as another host."""

    code, number, http, text = (
        "host-id-mismatch",
        700,
        409,
        "Host id mismatch: (connected as {connected!r}, not {given!r})",
    )
    connected: int
    given: int


class StorageDomainIsMemberOfPool(NodeError):
    """The domain is in the map of the pool that this host is connected to."""

    code, number, http = "storage-domain-is-member-of-pool", 900, 409
    text = "Storage domain is a member of the pool: ('domain={domain_id}, pool={pool_id}',)"
    domain_id: str
    pool_id: str


class MiscDirCleanupFailure(NodeError):
    """The domain is gone, but some of its files are left; making a domain in that place removes them."""

    code, number, text = "misc-dir-cleanup-failure", 2008, "Directory cleanup failure: ({path!r}, {reason!r})"
    path: str
    reason: str
