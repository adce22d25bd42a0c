"""More of the storage family of failures: what the later life of pools and domains may meet (facts: storage §12.2)."""

from vdsm.core.errors import Failure, NodeError
from vdsm.storage.errors import DomainFailed, OfDomain, OfDomainInPool, OfPath, OfPool, PathFailed


class MissingOvfFileFromVm(NodeError, number=320, http=409, text="Missing OVF file from VM:"):
    """A VM's folder on the domain lacks a definition that can be read."""

    vm_id: str
    reason: str


class VmPathNotExists(OfPath, number=322, http=409, text="vms dir not exists:"):
    """The domain has no place for VM definitions: it is no master and no active Backup domain."""


class GetFileStatsError(DomainFailed, number=330, http=409, text="Failed to get file stats:"):
    """The files of an ISO domain could not be listed."""


class TarCommandError(Failure, number=331, text="Copying the master's files failed:"):
    """The master's files could not be copied; the old master is still the master."""


class StorageDomainIllegalStateError(NodeError, number=347, http=409):
    """The domain's status in the pool does not permit this."""

    text = "Domain's status does not permit this: (domain {domain_id!r}, status {status!r})"
    domain_id: str
    status: str


class StorageDomainNotActive(OfDomain, number=369, http=409, text="Storage domain not active:"):
    """The domain must be active for this."""


class StorageDomainTypeNotBackup(OfDomain, number=378, http=409, text="Storage domain type not backup:"):
    """Only a Backup domain will do."""


class CannotDetachMasterStorageDomain(OfDomain, number=383, http=409):
    """The master stays as long as its pool; another domain must become the master first."""

    text = "Illegal action: cannot detach the master domain:"


class StorageDomainDescriptionTooLongError(NodeError, number=387, http=400):
    """A domain's name has at most 50 characters."""

    text = "Storage domain description too long:"
    length: int


class CannotFormatAttachedStorageDomain(OfDomainInPool, number=391, http=409):
    """The domain belongs to a pool."""

    text = "Cannot format attached storage domain: ({domain_id!r}, of pool {pool_id!r})"


class CannotFormatStorageDomainInConnectedPool(OfDomain, number=392, http=409):
    """The domain is in the map of the pool that this host is connected to."""

    text = "Cannot format storage domain in connected pool:"


class PoolUpgradeInProgress(OfPool, number=396, http=409, retry=True):
    """The pool's domains are being upgraded already."""

    text = "Cannot upgrade pool, an upgrade is running already:"


class HostIdMismatch(NodeError, number=700, http=409):
    """The pool is connected as another host."""

    text = "Host id mismatch: (connected as {connected!r}, not {given!r})"
    connected: int
    given: int


class MiscDirCleanupFailure(PathFailed, number=2008, text="Directory cleanup failure:"):
    """The domain is gone, but some of its files are left; making a domain in that place removes them."""
