"""The later life of pools and domains: what managers ask beside making and using them (`api.storage`)."""

from typing import Annotated, Literal, Protocol

from msgspec import UNSET, Struct, UnsetType

from vdsm.api.declare import Number, Text, group, ovirt, verb, xmlrpc
from vdsm.api.storage_types import DOMAIN_STATUS_WORDS, DomainInfo, DomainStatus
from vdsm.core.context import Right
from vdsm.core.ids import BLANK_UUID, DomainId, ImageId, PoolId, TaskId, Uuid

_Pool = Annotated[PoolId, ovirt("storagepoolID"), "the pool's id"]
_Domain = Annotated[DomainId, ovirt("storagedomainID"), "the domain's id"]
_Place = Annotated[DomainId, ovirt("storagedomainID"), "a Backup domain, or blank for the master"]
_Host = Annotated[int, ovirt("hostID"), "this host's number in the pool"]
_NewMaster = Annotated[DomainId, ovirt("masterSdUUID"), "the new master, for a domain that is it now; or blank"]
_NewVersion = Annotated[int, ovirt("masterVersion"), "the new master's version"]

_DOMAIN = ("storage-domain-does-not-exist", "invalid-parameter")
_POOL = ("storage-pool-unknown", "invalid-parameter")
_DEFINITION = (*_POOL, "vm-path-not-exists", "storage-domain-type-not-backup", "storage-domain-not-active")
_EXTEND = (*_DOMAIN, "secure-error", "storage-pool-unknown", "unsupported-storage-operation")
_MEMBER = ("secure-error", "storage-pool-unknown", "storage-domain-not-member-of-pool", "invalid-parameter")


class FileStats(Struct, frozen=True, kw_only=True):
    """One file of an ISO domain; the status is 0, or 469 when qemu may not read it."""

    size_bytes: Annotated[int, ovirt("size", as_=str, declared="uint")]
    changed_s: Annotated[int, ovirt("ctime", as_=str, declared="uint")]
    status: int


class VolumeDump(Struct, frozen=True, kw_only=True):
    """One volume as storage has it; what cannot be read is absent and the status INVALID."""

    image_id: Annotated[str, ovirt("image")]
    status: str
    size_bytes: Annotated[int, ovirt("apparentsize")]
    allocated_bytes: Annotated[int, ovirt("truesize")]
    capacity_bytes: Annotated[Number, ovirt("capacity")] = UNSET
    parent_id: Annotated[Text, ovirt("parent")] = UNSET
    description: Text = UNSET
    disk_type: Annotated[Text, ovirt("disktype")] = UNSET
    legality: Text = UNSET
    created_s: Annotated[Number, ovirt("ctime")] = UNSET
    format: Text = UNSET
    allocation: Annotated[Text, ovirt("type")] = UNSET
    role: Annotated[Text, ovirt("voltype")] = UNSET
    generation: Number = UNSET
    sequence: Number = UNSET
    metadata_slot: Annotated[Number, ovirt("mdslot")] = UNSET


class LeaseDump(Struct, frozen=True, kw_only=True):
    """A lease or a host's place as sanlock has it on storage."""

    offset: int
    lockspace: str
    resource: str
    timestamp: int
    own: int
    gen: int
    lver: Number = UNSET


class ExternalLeaseDump(Struct, frozen=True, kw_only=True):
    """Where an external lease is, and whether it is being changed."""

    offset: int
    updating: bool


class DomainDump(Struct, frozen=True, kw_only=True):
    """A domain with all its volumes; leases only where the kind of storage has them."""

    metadata: DomainInfo
    volumes: dict[str, VolumeDump]
    leases: Annotated[list[LeaseDump] | UnsetType, ovirt("leases", declared="LeaseDump")] = UNSET
    lockspace: Annotated[list[LeaseDump] | UnsetType, ovirt("lockspace", declared="LeaseDump")] = UNSET
    external_leases: Annotated[dict[str, ExternalLeaseDump] | UnsetType, ovirt("xleases")] = UNSET


class VmDefinition(Struct, frozen=True, kw_only=True):
    """A VM's definition as managers keep it; the images are those that the text names."""

    vm_id: Annotated[Uuid, ovirt("vm")]
    ovf: str
    images: Annotated[str, ovirt("imglist")] = ""


@group("domain", "/storage/domains/{domain_id}", invalid="invalid-parameter", needs=Right.ADMINISTER)
class DomainLifeApi(Protocol):
    """Domains that are put out of use, looked at, renamed or removed."""

    @verb("StorageDomain.deactivate", "POST /deactivate", fails=_MEMBER)
    @xmlrpc("deactivateStorageDomain", "domain_id pool_id master_domain_id master_version _")
    async def deactivate(
        self, domain_id: _Domain, pool_id: _Pool, master_domain_id: _NewMaster, master_version: _NewVersion
    ) -> None:
        """Put a domain out of use (SPM only). The master stays as it is, unless another domain is to take its place."""

    @verb(
        "StorageDomain.detach",
        "POST /detach",
        fails=(*_MEMBER, "storage-domain-illegal-state-error", "cannot-detach-master-storage-domain"),
    )
    @xmlrpc("detachStorageDomain", "domain_id pool_id _ _ _")
    @xmlrpc("forcedDetachStorageDomain", "domain_id pool_id _")
    async def detach(
        self,
        domain_id: _Domain,
        pool_id: Annotated[PoolId, ovirt("storagepoolID"), "the pool; blank with force: all that the domain tells of"],
        master_domain_id: Annotated[DomainId | None, ovirt("masterSdUUID"), "ignored"] = None,
        master_version: Annotated[int, ovirt("masterVersion"), "ignored"] = 0,
        force: Annotated[bool, ovirt("force"), "change the pool's map alone"] = False,
    ) -> None:
        """Take a domain out of a pool (SPM only)."""

    @verb(
        "StorageDomain.format",
        "POST /format",
        fails=(
            *_DOMAIN,
            "cannot-format-attached-storage-domain",
            "cannot-format-storage-domain-in-connected-pool",
            "misc-dir-cleanup-failure",
        ),
    )
    @xmlrpc("formatStorageDomain", "domain_id detach _")
    async def format(
        self,
        domain_id: _Domain,
        detach: Annotated[bool, ovirt("autoDetach"), "also one that belongs to a pool"] = False,
    ) -> None:
        """Remove a domain with all that is on it."""

    @verb(
        "StorageDomain.setDescription",
        "POST /description",
        needs=Right.OPERATE,
        fails=(*_DOMAIN, "storage-domain-description-too-long-error", "secure-error"),
    )
    @xmlrpc("setStorageDomainDescription", "domain_id description _")
    async def set_description(
        self, domain_id: _Domain, description: Annotated[str, ovirt("description"), "one line, at most 50 characters"]
    ) -> None:
        """Change a domain's name; that of a pool's domain on its SPM only."""

    @verb("StorageDomain.getFileStats", "GET /files", fails=(*_DOMAIN, "get-file-stats-error"))
    @xmlrpc("getFileStats", "domain_id pattern case_sensitive _", member="fileStats")
    async def list_files(
        self,
        domain_id: _Domain,
        pattern: Annotated[str, ovirt("pattern"), "what names fit, as in a shell"] = "*",
        case_sensitive: Annotated[bool, ovirt("caseSensitive"), "whether case matters"] = False,
    ) -> dict[str, FileStats]:
        """The files of an ISO domain, by path."""

    @verb("StorageDomain.dump", "GET /dump", fails=_DOMAIN)
    async def dump(
        self,
        domain_id: Annotated[DomainId, ovirt("sd_id"), "the domain's id"],
        full: Annotated[bool, ovirt("full"), "with leases"] = False,
    ) -> DomainDump:
        """All that a domain's metadata tells."""

    @verb("StorageDomain.extend", "POST /extend", fails=_EXTEND)
    @xmlrpc("extendStorageDomain", "domain_id pool_id devices force _")
    async def extend(
        self,
        domain_id: _Domain,
        pool_id: _Pool,
        devices: Annotated[list[str], ovirt("devlist"), "devices to add"],
        force: Annotated[bool, ovirt("force"), "also devices that are in use"] = False,
    ) -> None:
        """Add devices to a block domain; a file domain is as large as its file system."""

    @verb("StorageDomain.resizePV", "POST /resize-device", fails=_EXTEND)
    @xmlrpc("resizePV", "domain_id pool_id device _", member="size")
    async def resize_device(
        self, domain_id: _Domain, pool_id: _Pool, device: Annotated[str, ovirt("guid"), "the device that grew"]
    ) -> int:
        """Use all of a block domain's device that has grown; returns its size in bytes."""


@group("pool", "/storage/pools/{pool_id}", invalid="invalid-parameter", needs=Right.ADMINISTER)
class PoolLifeApi(Protocol):
    """Pools that change their master or end."""

    @verb(
        "StoragePool.destroy",
        "POST /destroy",
        fails=(*_POOL, "host-id-mismatch", "storage-domain-access-error", "acquire-lock-failure"),
    )
    @xmlrpc("destroyStoragePool", "pool_id host_id scsi_key _")
    async def destroy(
        self, pool_id: _Pool, host_id: _Host, scsi_key: Annotated[str, ovirt("scsiKey"), "ignored"]
    ) -> None:
        """Take all domains out of a connected pool, which is no more then."""

    @verb(
        "StoragePool.refresh",
        "POST /refresh",
        fails=(*_POOL, "storage-pool-wrong-master", "storage-pool-master-not-found"),
    )
    @xmlrpc("refreshStoragePool", "pool_id master_domain_id master_version _")
    async def refresh(
        self,
        pool_id: _Pool,
        master_domain_id: Annotated[DomainId, ovirt("masterSdUUID"), "the master as the caller knows it"],
        master_version: Annotated[int, ovirt("masterVersion"), "its version"],
    ) -> None:
        """Look at a connected pool's master and domains again."""

    @verb(
        "StoragePool.reconstructMaster",
        "POST /reconstruct-master",
        fails=(
            "storage-pool-connected",
            "storage-domain-does-not-exist",
            "storage-domain-already-attached",
            "acquire-lock-failure",
            "invalid-parameter",
        ),
    )
    @xmlrpc(
        "reconstructMaster",
        "pool_id name master_domain_id domains master_version _ renewal_s lease_s io_timeout_s lease_retries host_id _",
    )
    async def reconstruct(
        self,
        pool_id: _Pool,
        host_id: Annotated[int | None, ovirt("hostId"), "the number under which this host takes the master's lock"],
        name: Annotated[str, ovirt("name"), "the pool's name, at most 50 characters"],
        master_domain_id: Annotated[DomainId, ovirt("masterSdUUID"), "the new master"],
        master_version: _NewVersion,
        domains: Annotated[
            dict[str, Annotated[DomainStatus, ovirt("status", words=DOMAIN_STATUS_WORDS, declared="string")]],
            ovirt("domainDict"),
            "every domain's status, the new master's too",
        ],
        renewal_s: Annotated[int | None, ovirt("lockRenewalIntervalSec"), "kept for old lease code"],
        lease_s: Annotated[int | None, ovirt("leaseTimeSec"), "kept for old lease code"],
        io_timeout_s: Annotated[int | None, ovirt("ioOpTimeoutSec"), "kept for old lease code"],
        lease_retries: Annotated[int | None, ovirt("leaseRetries"), "kept for old lease code"],
    ) -> None:
        """Make another domain the master of a pool that lost its own; the pool is not connected here."""

    @verb(
        "StoragePool.switchMaster",
        "POST /switch-master",
        task=True,
        fails=(
            *_POOL,
            "secure-error",
            "storage-pool-wrong-master",
            "storage-domain-not-active",
            "acquire-lock-failure",
        ),
    )
    async def switch_master(
        self,
        pool_id: _Pool,
        old_domain_id: Annotated[DomainId, ovirt("oldMasterUUID"), "the master now"],
        new_domain_id: Annotated[DomainId, ovirt("newMasterUUID"), "an active data domain"],
        master_version: Annotated[int, ovirt("masterVersion"), "above the present one"],
    ) -> TaskId:
        """Make another domain the master (SPM only)."""

    @verb(
        "StoragePool.upgrade",
        "POST /upgrade",
        fails=(
            *_POOL,
            "secure-error",
            "unsupported-domain-version",
            "current-version-too-advanced-error",
            "pool-upgrade-in-progress",
        ),
    )
    @xmlrpc("upgradeStoragePool", "pool_id version", member="upgradeStatus")
    async def upgrade(
        self, pool_id: _Pool, version: Annotated[int, ovirt("targetDomVersion"), "on-disk version 3, 4 or 5"]
    ) -> Literal["started"]:
        """Bring the pool's domains to a newer version (SPM only): the master at once, the others in the background."""

    @verb("StoragePool.setDescription", "POST /description", needs=Right.OPERATE)
    @xmlrpc("setStoragePoolDescription", "pool_id description _")
    async def set_description(
        self, pool_id: _Pool, description: Annotated[str, ovirt("description"), "ignored"]
    ) -> None:
        """Nothing: managers keep a pool's name; the call is there for old ones."""

    @verb("StoragePool.getDomainsContainingImage", "GET /images/{image_id}/domains", fails=_POOL)
    @xmlrpc("getImageDomainsList", "pool_id image_id _", member="domainslist")
    async def find_image(
        self, pool_id: _Pool, image_id: Annotated[ImageId, ovirt("imageID"), "the image's id"]
    ) -> list[str]:
        """The ids of a connected pool's active data domains that have an image."""


@group("definition", "/storage/pools/{pool_id}/definitions", invalid="invalid-parameter")
class DefinitionApi(Protocol):
    """VM definitions on a pool's master and on Backup domains."""

    @verb("StoragePool.updateVMs", "POST", fails=(*_DEFINITION, "secure-error", "no-space-left-on-domain"))
    @xmlrpc("updateVM", "pool_id vms domain_id _")
    async def update(
        self,
        pool_id: _Pool,
        vms: Annotated[list[VmDefinition], ovirt("vmList"), "what to write"],
        domain_id: Annotated[DomainId | None, ovirt("storagedomainID"), "a Backup domain; else the master"] = None,
    ) -> None:
        """Write VM definitions, in the place of earlier ones (SPM only)."""

    @verb("StoragePool.removeVM", "DELETE /{vm_id}", fails=(*_DEFINITION, "secure-error"))
    @xmlrpc("removeVM", "pool_id vm_id domain_id _")
    async def remove(
        self,
        pool_id: _Pool,
        vm_id: Annotated[Uuid, ovirt("vmUUID"), "the VM's id"],
        domain_id: Annotated[DomainId | None, ovirt("storagedomainID"), "a Backup domain; else the master"] = None,
    ) -> None:
        """Remove a VM's definition (SPM only); nothing when there is none."""

    @verb("StoragePool.getBackedUpVmsList", "GET", fails=_DEFINITION)
    @xmlrpc("getVmsList", "pool_id domain_id _", member="vmlist")
    async def list_vms(self, pool_id: _Pool, domain_id: _Place = BLANK_UUID) -> list[str]:
        """The ids of VMs whose definitions are there."""

    @verb(
        "StoragePool.getBackedUpVmsInfo",
        "POST /read",
        needs=Right.VIEW,
        fails=(*_DEFINITION, "missing-ovf-file-from-vm"),
    )
    @xmlrpc("getVmsInfo", "pool_id domain_id vm_ids _", member="vmlist")
    async def read(
        self,
        pool_id: _Pool,
        domain_id: _Place = BLANK_UUID,
        vm_ids: Annotated[list[Uuid] | None, ovirt("vmList"), "these VMs, or all when none is named"] = None,
    ) -> dict[str, str]:
        """Definitions by VM; VMs that have none are left out."""
