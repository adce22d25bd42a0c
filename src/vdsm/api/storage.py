"""The surface of storage: servers, pools, domains, images and volumes."""

from typing import Annotated, Protocol

from msgspec import Meta

from vdsm.api import storage_types as types
from vdsm.api.declare import group, ovirt, verb, xmlrpc
from vdsm.core.context import Right
from vdsm.core.ids import BLANK_UUID, DomainId, ImageId, PoolId, TaskId, Uuid, VolumeId

_Pool = Annotated[PoolId, ovirt("storagepoolID"), "the pool's id"]
_Domain = Annotated[DomainId, ovirt("storagedomainID"), "the domain's id"]
_Image = Annotated[ImageId, ovirt("imageID"), "the image's id"]
_Target = Annotated[DomainId, ovirt("dstSdUUID"), "the other domain"]
_Volume = Annotated[VolumeId, ovirt("volumeID"), "the volume's id"]
_Format = Annotated[types.VolumeFormat, ovirt("volFormat", words=types.VOLUME_FORMAT_WORDS), "COW (4) or RAW (5)"]
_Allocation = Annotated[
    types.Allocation, ovirt("preallocate", words=types.ALLOCATION_WORDS), "PREALLOCATED (1) or SPARSE (2)"
]
_Type = Annotated[
    types.DomainType, ovirt("domainType", words=types.DOMAIN_TYPE_WORDS), "the kind of storage, by name or number"
]
_Host = Annotated[int, ovirt("hostID"), "this host's number in the pool, 1 to 250"]
_Subchain = Annotated[types.Subchain, ovirt("subchainInfo"), "the two layers"]
_ScsiKey = Annotated[str, ovirt("scsiKey"), "ignored"]

_DOMAIN = ("storage-domain-does-not-exist", "invalid-parameter")
_POOL = ("storage-pool-unknown", "invalid-parameter")
_VOLUME = (*_DOMAIN, "volume-does-not-exist", "image-path-error")
_SPM = ("secure-error", "storage-pool-unknown")
_DELETED = (*_SPM, *_VOLUME, "volume-image-has-children", "cannot-delete-shared-volume")
_MOVE = (*_DOMAIN, "image-does-not-exist-in-sd", "image-is-not-legal-chain")


@group("pool", "/storage", invalid="invalid-parameter")
class PoolApi(Protocol):
    """Storage servers, storage pools and the SPM role."""

    @verb("StoragePool.connectStorageServer", "POST /connections", fails=("invalid-parameter",))
    @xmlrpc("connectStorageServer", "domain_type pool_id connections _", member="statuslist")
    async def connect_server(
        self,
        pool_id: Annotated[str, ovirt("storagepoolID"), "ignored; any text"],
        domain_type: _Type,
        connections: Annotated[list[types.Connection], ovirt("connectionParams"), "the servers to connect"],
    ) -> list[types.ConnectionStatus]:
        """Connect storage servers; succeeds as a whole, each connection tells its own status."""

    @verb("StoragePool.disconnectStorageServer", "POST /connections/disconnect", fails=("invalid-parameter",))
    @xmlrpc("disconnectStorageServer", "domain_type pool_id connections _", member="statuslist")
    async def disconnect_server(
        self,
        pool_id: Annotated[str, ovirt("storagepoolID"), "ignored; any text"],
        domain_type: _Type,
        connections: Annotated[list[types.Connection], ovirt("connectionParams"), "the servers to disconnect"],
    ) -> list[types.ConnectionStatus]:
        """Disconnect storage servers."""

    @verb(
        "StoragePool.create",
        "POST /pools",
        needs=Right.ADMINISTER,
        fails=(*_DOMAIN, "storage-domain-already-attached", "mixed-sd-version-error"),
    )
    @xmlrpc(
        "createStoragePool",
        "_ pool_id name master_domain_id domain_ids master_version _ renewal_s lease_s io_timeout_s lease_retries _",
    )
    async def create(
        self,
        pool_id: _Pool,
        name: Annotated[str, ovirt("name"), "at most 50 characters"],
        master_domain_id: Annotated[DomainId, ovirt("masterSdUUID"), "the domain that carries the pool's data"],
        master_version: Annotated[int, ovirt("masterVersion"), "starts at 1"],
        domain_ids: Annotated[list[DomainId], ovirt("domainList"), "all domains, the master too"],
        renewal_s: Annotated[int | None, ovirt("lockRenewalIntervalSec"), "kept for old lease code"],
        lease_s: Annotated[int | None, ovirt("leaseTimeSec"), "kept for old lease code"],
        io_timeout_s: Annotated[int | None, ovirt("ioOpTimeoutSec"), "kept for old lease code"],
        lease_retries: Annotated[int | None, ovirt("leaseRetries"), "kept for old lease code"],
    ) -> None:
        """Make a pool of unattached domains."""

    @verb(
        "StoragePool.connect",
        "POST /pools/{pool_id}/connect",
        needs=Right.ADMINISTER,
        fails=(*_DOMAIN, "cannot-connect-multiple-pools", "storage-pool-wrong-master", "storage-pool-master-not-found"),
    )
    @xmlrpc("connectStoragePool", "pool_id host_id scsi_key master_domain_id master_version domains _")
    async def connect(
        self,
        pool_id: _Pool,
        host_id: _Host,
        scsi_key: _ScsiKey,
        master_domain_id: Annotated[DomainId, ovirt("masterSdUUID"), "the master as the caller knows it"],
        master_version: Annotated[int, ovirt("masterVersion"), "its version"],
        domains: Annotated[
            dict[
                str, Annotated[types.DomainStatus, ovirt("status", words=types.DOMAIN_STATUS_WORDS, declared="string")]
            ]
            | None,
            ovirt("domainDict"),
            "every domain's status; without it the map on the master counts",
        ] = None,
    ) -> None:
        """Join this host to a pool; repeating it refreshes the map."""

    @verb("StoragePool.disconnect", "POST /pools/{pool_id}/disconnect", needs=Right.ADMINISTER, fails=("is-spm",))
    @xmlrpc("disconnectStoragePool", "pool_id host_id scsi_key remove _")
    async def disconnect(
        self,
        pool_id: _Pool,
        host_id: _Host,
        scsi_key: _ScsiKey,
        remove: Annotated[bool, ovirt("remove"), "ignored"] = False,
    ) -> None:
        """Leave a pool; not while this host is its SPM. A pool that is not connected is success."""

    @verb("StoragePool.getInfo", "GET /pools/{pool_id}", fails=_POOL)
    @xmlrpc("getStoragePoolInfo", "pool_id _")
    async def get_info(self, pool_id: _Pool) -> types.PoolFullInfo:
        """A connected pool and its domains."""

    @verb("StoragePool.getSpmStatus", "GET /pools/{pool_id}/spm", fails=_POOL)
    @xmlrpc("getSpmStatus", "pool_id _", member="spm_st")
    async def get_spm_status(self, pool_id: _Pool) -> types.SpmStatus:
        """Whether this host is the pool's SPM, and who is."""

    @verb(
        "StoragePool.spmStart",
        "POST /pools/{pool_id}/spm/start",
        needs=Right.ADMINISTER,
        task=True,
        fails=(*_POOL, "is-spm", "acquire-lock-failure"),
    )
    @xmlrpc(
        "spmStart",
        "pool_id previous_id previous_lease_version _ scsi_fencing maximum_host_id domain_version _",
        member="uuid",
    )
    async def spm_start(
        self,
        pool_id: _Pool,
        previous_id: Annotated[int, ovirt("prevID"), "logged only"],
        previous_lease_version: Annotated[int, ovirt("prevLver", as_=str), "logged only"],
        scsi_fencing: Annotated[str, ovirt("enableScsiFencing"), "ignored"],
        maximum_host_id: Annotated[int | None, ovirt("maxHostID"), "how many mailboxes are read"] = None,
        domain_version: Annotated[int | None, ovirt("domVersion", as_=str), "upgrade the pool to this version"] = None,
    ) -> TaskId:
        """Become the one writer of the pool's metadata."""

    @verb("StoragePool.spmStop", "POST /pools/{pool_id}/spm/stop", needs=Right.ADMINISTER, fails=_POOL)
    @xmlrpc("spmStop", "pool_id _")
    async def spm_stop(self, pool_id: _Pool) -> None:
        """Give the SPM role up; tasks stay on the master for the next SPM."""

    @verb("StoragePool.prepareMerge", "POST /pools/{pool_id}/prepare-merge", task=True, fails=(*_SPM, *_DOMAIN))
    async def prepare_merge(self, pool_id: _Pool, subchain: _Subchain) -> TaskId:
        """Make the lower of two layers large enough for `SDM.merge` (SPM only)."""

    @verb("StoragePool.finalizeMerge", "POST /pools/{pool_id}/finalize-merge", task=True, fails=(*_SPM, *_DOMAIN))
    async def finalize_merge(self, pool_id: _Pool, subchain: _Subchain) -> TaskId:
        """Take the upper of two layers out of its chain after `SDM.merge`; it can be deleted then (SPM only)."""


@group("domain", "/storage/domains", invalid="invalid-parameter", needs=Right.ADMINISTER)
class DomainApi(Protocol):
    """Storage domains."""

    @verb(
        "StorageDomain.create",
        "POST",
        fails=(
            "storage-domain-already-exists",
            "storage-domain-not-empty",
            "storage-domain-type-error",
            "invalid-parameter",
        ),
    )
    @xmlrpc("createStorageDomain", "domain_type domain_id name arguments domain_class version _")
    async def create(
        self,
        domain_id: _Domain,
        domain_type: _Type,
        arguments: Annotated[types.DomainArguments, ovirt("typeArgs"), "where it lives"],
        name: Annotated[str, ovirt("name"), "shown to people"],
        domain_class: Annotated[
            types.DomainClass, ovirt("domainClass", words=types.DOMAIN_CLASS_WORDS), "what it is for"
        ],
        version: Annotated[int | None, ovirt("version"), "on-disk version 3, 4 or 5"] = None,
        block_size_bytes: Annotated[int, ovirt("blockSize"), "512, 4096, or 0 to detect"] = 512,
        maximum_hosts: Annotated[int, ovirt("maxHosts"), "1 to 2000"] = 2000,
    ) -> None:
        """Make a storage domain on a connected server."""

    @verb("StorageDomain.getInfo", "GET /{domain_id}", fails=_DOMAIN)
    @xmlrpc("getStorageDomainInfo", "domain_id _", member="info")
    async def get_info(self, domain_id: _Domain) -> types.DomainInfo:
        """A domain's identity, read from the domain."""

    @verb("StorageDomain.getStats", "GET /{domain_id}/stats", fails=_DOMAIN)
    @xmlrpc("getStorageDomainStats", "domain_id _", member="stats")
    async def get_stats(self, domain_id: _Domain) -> types.DomainStats:
        """A domain's space."""

    @verb("StorageDomain.getImages", "GET /{domain_id}/images", fails=_DOMAIN)
    @xmlrpc("getImagesList", "domain_id _", member="imageslist")
    async def list_images(self, domain_id: _Domain) -> list[str]:
        """The ids of a domain's images."""

    @verb("StorageDomain.getVolumes", "GET /{domain_id}/volumes", fails=_DOMAIN)
    @xmlrpc("getVolumesList", "domain_id pool_id image_id", member="uuidlist")
    async def list_volumes(self, domain_id: _Domain, pool_id: _Pool, image_id: _Image = BLANK_UUID) -> list[str]:
        """The ids of an image's volumes; of all volumes when the image is blank."""

    @verb("StorageDomain.activate", "POST /{domain_id}/activate", fails=(*_DOMAIN, *_SPM))
    @xmlrpc("activateStorageDomain", "domain_id pool_id _")
    async def activate(self, domain_id: _Domain, pool_id: _Pool) -> None:
        """Put an attached domain to use (SPM only)."""

    @verb(
        "StorageDomain.attach", "POST /{domain_id}/attach", fails=(*_DOMAIN, *_SPM, "storage-domain-already-attached")
    )
    @xmlrpc("attachStorageDomain", "domain_id pool_id _")
    async def attach(self, domain_id: _Domain, pool_id: _Pool) -> None:
        """Make a domain part of a pool (SPM only)."""

    @verb("StorageDomain.validate", "POST /{domain_id}/validate", needs=Right.VIEW, fails=_DOMAIN)
    @xmlrpc("validateStorageDomain", "domain_id _")
    async def validate(self, domain_id: _Domain) -> None:
        """Check that the domain is there and its layout whole."""


@group("volume", "/storage/domains/{domain_id}/images/{image_id}/volumes", invalid="invalid-parameter")
class VolumeApi(Protocol):
    """Volumes: the layers of disk images."""

    @verb(
        "Volume.create",
        "POST",
        task=True,
        fails=(*_SPM, *_DOMAIN, "incorrect-format", "incorrect-type", "volume-already-exists", "volume-creation-error"),
    )
    @xmlrpc(
        "createVolume",
        "domain_id pool_id image_id size_bytes format allocation disk_type volume_id description "
        "parent_image_id parent_id initial_size_bytes",
        member="uuid",
    )
    async def create(
        self,
        volume_id: _Volume,
        pool_id: _Pool,
        domain_id: _Domain,
        image_id: _Image,
        size_bytes: Annotated[int, Meta(ge=0), ovirt("size", as_=str, text_only=True), "virtual size"],
        format: _Format,
        allocation: _Allocation,
        disk_type: Annotated[str, ovirt("diskType"), "what the disk holds, such as DATA"],
        description: Annotated[str, ovirt("desc"), "at most 210 characters are kept"],
        parent_image_id: Annotated[Uuid, ovirt("srcImgUUID"), "the parent's image; blank for this one"] = BLANK_UUID,
        parent_id: Annotated[Uuid, ovirt("srcVolUUID"), "the parent volume; blank for none"] = BLANK_UUID,
        initial_size_bytes: Annotated[
            Annotated[int, Meta(ge=0)] | None, ovirt("initialSize", as_=str), "for block storage"
        ] = None,
        add_bitmaps: Annotated[bool, ovirt("addBitmaps"), "copy the parent's bitmaps"] = False,
        legal: Annotated[bool, ovirt("legal"), "whether it may be used at once"] = True,
        sequence: Annotated[int, Meta(ge=0, le=4294967295), ovirt("sequence"), "order among layers"] = 0,
        bitmap: Annotated[Uuid | None, ovirt("bitmap"), "name of a bitmap to start"] = None,
    ) -> TaskId:
        """Make a volume: an image's base, or a layer on a parent (SPM only)."""

    @verb("Volume.getInfo", "GET /{volume_id}", fails=_VOLUME)
    @xmlrpc("getVolumeInfo", "domain_id pool_id image_id volume_id", member="info")
    async def get_info(
        self, volume_id: _Volume, pool_id: _Pool, domain_id: _Domain, image_id: _Image
    ) -> types.VolumeInfo:
        """A volume's metadata and sizes."""

    @verb("Volume.getSize", "GET /{volume_id}/size", fails=_VOLUME)
    @xmlrpc("getVolumeSize", "domain_id pool_id image_id volume_id")
    async def get_size(
        self, volume_id: _Volume, pool_id: _Pool, domain_id: _Domain, image_id: _Image
    ) -> types.VolumeSize:
        """A volume's size and what it takes up."""

    @verb("Volume.getQemuImageInfo", "GET /{volume_id}/qemu-info", fails=_VOLUME)
    async def get_qemu_info(
        self, volume_id: _Volume, pool_id: _Pool, domain_id: _Domain, image_id: _Image
    ) -> types.QemuImageInfo:
        """What qemu tells of a volume's file; also while a VM uses it."""

    @verb(
        "Volume.measure",
        "GET /{volume_id}/measure",
        fails=(*_VOLUME, "unsupported-storage-operation", "image-is-not-legal-chain"),
    )
    async def measure(
        self,
        volume_id: _Volume,
        pool_id: _Pool,
        domain_id: _Domain,
        image_id: _Image,
        format: Annotated[
            types.VolumeFormat, ovirt("dstVolFormat", words=types.VOLUME_FORMAT_WORDS), "the copy's format"
        ],
        backing_chain: Annotated[bool, ovirt("backing_chain"), "with all that is below it"] = True,
        base_id: Annotated[VolumeId | None, ovirt("baseID"), "with this parent and no more"] = None,
    ) -> types.VolumeMeasure:
        """What a copy of a volume needs; also while a VM uses it."""

    @verb(
        "Volume.verify_untrusted",
        "POST /{volume_id}/verify",
        needs=Right.VIEW,
        fails=(*_VOLUME, "image-verification-error"),
    )
    async def verify_untrusted(self, pool_id: _Pool, domain_id: _Domain, image_id: _Image, volume_id: _Volume) -> None:
        """Check that data from elsewhere is what the volume's metadata tells, and leads nowhere else."""

    @verb("Volume.setDescription", "POST /{volume_id}/description", fails=(*_SPM, *_VOLUME))
    @xmlrpc("setVolumeDescription", "domain_id pool_id image_id volume_id description")
    async def set_description(
        self,
        volume_id: _Volume,
        pool_id: _Pool,
        domain_id: _Domain,
        image_id: _Image,
        description: Annotated[str, ovirt("description"), "at most 210 characters are kept"],
    ) -> None:
        """Describe a volume (SPM only); new callers take `SDM.update_volume`."""

    @verb("Volume.setLegality", "POST /{volume_id}/legality", fails=(*_SPM, *_VOLUME))
    @xmlrpc("setVolumeLegality", "domain_id pool_id image_id volume_id legality")
    async def set_legality(
        self,
        volume_id: _Volume,
        pool_id: _Pool,
        domain_id: _Domain,
        image_id: _Image,
        legality: Annotated[types.VolumeLegality, ovirt("legality"), "LEGAL or ILLEGAL"],
    ) -> None:
        """Say whether a volume may be used (SPM only); new callers take `SDM.update_volume`."""

    @verb(
        "Volume.copy",
        "POST /{volume_id}/copy",
        task=True,
        fails=(*_SPM, *_VOLUME, "image-is-not-legal-chain", "overwrite-image-error", "copy-image-error"),
    )
    @xmlrpc(
        "copyImage",
        "domain_id pool_id _ image_id volume_id target_image_id target_volume_id description target_domain_id "
        "role format allocation zero force",
        member="uuid",
    )
    async def copy(
        self,
        volume_id: _Volume,
        pool_id: _Pool,
        domain_id: _Domain,
        image_id: _Image,
        target_domain_id: Annotated[DomainId, ovirt("dstSdUUID"), "the copy's domain; blank for the same"],
        target_image_id: Annotated[ImageId, ovirt("dstImgUUID"), "the copy's image, another one"],
        target_volume_id: Annotated[VolumeId, ovirt("dstVolUUID"), "the copy"],
        description: Annotated[str, ovirt("desc"), "at most 210 characters are kept"],
        role: Annotated[
            types.VolumeRole, ovirt("volType", words=types.VOLUME_ROLE_WORDS), "SHARED (6): a template, or LEAF (8)"
        ],
        format: _Format,
        allocation: _Allocation,
        zero: Annotated[bool, ovirt("postZero"), "overwrite what is replaced (block storage)"],
        force: Annotated[bool, ovirt("force"), "replace an image in the copy's place"],
        discard: Annotated[bool, ovirt("discard"), "discard what is replaced (block storage)"] = False,
    ) -> TaskId:
        """Collapse a volume and all below it into one new volume, as templates are made (SPM only)."""

    @verb(
        "Volume.extendSize",
        "POST /{volume_id}/extend",
        task=True,
        fails=(*_SPM, *_VOLUME, "volume-non-writable", "volume-resize-value-error"),
    )
    @xmlrpc("extendVolumeSize", "pool_id domain_id image_id volume_id size_bytes", member="uuid")
    async def extend_size(
        self,
        pool_id: _Pool,
        domain_id: _Domain,
        image_id: _Image,
        volume_id: _Volume,
        size_bytes: Annotated[int, Meta(ge=0), ovirt("newSize", as_=str, text_only=True), "new virtual size"],
    ) -> TaskId:
        """Make a raw or preallocated volume larger (SPM only); a sparse COW one needs nothing."""

    @verb("Volume.refresh", "POST /{volume_id}/refresh", fails=_VOLUME)
    @xmlrpc("refreshVolume", "domain_id pool_id image_id volume_id")
    async def refresh(self, volume_id: _Volume, pool_id: _Pool, domain_id: _Domain, image_id: _Image) -> None:
        """See a volume as large as another host made it; files always are."""

    @verb("Volume.teardown", "POST /{volume_id}/teardown", fails=("invalid-parameter",))
    @xmlrpc("teardownVolume", "domain_id _ image_id volume_id")
    async def teardown(self, domain_id: _Domain, image_id: _Image, volume_id: _Volume) -> None:
        """Put one volume away that a live merge took out of its chain; a file needs nothing."""

    @verb("Volume.delete", "DELETE /{volume_id}", task=True, fails=_DELETED)
    async def delete(
        self,
        volume_id: _Volume,
        pool_id: _Pool,
        domain_id: _Domain,
        image_id: _Image,
        zero: Annotated[bool, ovirt("postZero"), "overwrite its blocks first (block storage)"],
        force: Annotated[bool, ovirt("force"), "also when it has children or is shared"],
        discard: Annotated[bool, ovirt("discard"), "discard its blocks (block storage)"] = False,
    ) -> TaskId:
        """Remove a volume (SPM only)."""


@group("image", "/storage/domains/{domain_id}/images/{image_id}", invalid="invalid-parameter")
class ImageApi(Protocol):
    """Images: a virtual disk's chain of volumes."""

    @verb("Image.prepare", "POST /prepare", fails=(*_VOLUME, "prepare-illegal-volume-error", "storage-pool-unknown"))
    @xmlrpc("prepareImage", "pool_id domain_id image_id volume_id allow_illegal")
    async def prepare(
        self,
        pool_id: _Pool,
        domain_id: _Domain,
        image_id: _Image,
        volume_id: _Volume,
        allow_illegal: Annotated[bool, ovirt("allowIllegal"), "also a volume that is not valid"] = False,
    ) -> types.PreparedImage:
        """Make an image ready for use on this host and tell its path."""

    @verb("Image.teardown", "POST /teardown", fails=_DOMAIN)
    @xmlrpc("teardownImage", "pool_id domain_id image_id volume_id")
    async def teardown(
        self,
        pool_id: _Pool,
        domain_id: _Domain,
        image_id: _Image,
        volume_id: Annotated[VolumeId | None, ovirt("volumeID"), "ignored"] = None,
    ) -> None:
        """Undo `prepare`."""

    @verb("Image.reconcileVolumeChain", "POST /reconcile", fails=(*_SPM, *_VOLUME, "unexpected-volume-state"))
    @xmlrpc("reconcileVolumeChain", "pool_id domain_id image_id leaf_id", member="volumes")
    async def reconcile_chain(
        self,
        pool_id: _Pool,
        domain_id: _Domain,
        image_id: _Image,
        leaf_id: Annotated[VolumeId, ovirt("leafVolID"), "the chain's top"],
    ) -> list[str]:
        """Let the records tell the chain that the files have, and tell it, base first; no VM may use it (SPM only)."""

    @verb("Image.getVolumes", "GET /volumes", fails=_DOMAIN)
    async def list_volumes(self, image_id: _Image, pool_id: _Pool, domain_id: _Domain) -> list[str]:
        """The ids of an image's volumes."""

    @verb(
        "Image.delete",
        "DELETE",
        task=True,
        fails=(*_SPM, *_DOMAIN, "image-does-not-exist-in-sd", "cannot-delete-shared-volume"),
    )
    @xmlrpc("deleteImage", "domain_id pool_id image_id zero force", member="uuid")
    async def delete(
        self,
        image_id: _Image,
        pool_id: _Pool,
        domain_id: _Domain,
        zero: Annotated[bool, ovirt("postZero"), "overwrite its blocks first (block storage)"],
        force: Annotated[bool, ovirt("force"), "ignored"],
        discard: Annotated[bool, ovirt("discard"), "discard its blocks (block storage)"] = False,
    ) -> TaskId:
        """Remove an image with all its volumes: gone when this returns, its space is freed by the task (SPM only)."""

    @verb(
        "Image.move",
        "POST /move",
        task=True,
        fails=(*_SPM, *_MOVE, "overwrite-image-error", "copy-image-error", "move-template-image-error"),
    )
    @xmlrpc("moveImage", "pool_id domain_id target_domain_id image_id _ operation zero force discard", member="uuid")
    async def move(
        self,
        image_id: _Image,
        pool_id: _Pool,
        domain_id: _Domain,
        target_domain_id: _Target,
        operation: Annotated[
            types.ImageOperation,
            ovirt("operation", words=types.IMAGE_OPERATION_WORDS),
            "COPY (1), or MOVE (2): the source goes",
        ],
        zero: Annotated[bool, ovirt("postZero"), "overwrite what goes (block storage)"] = False,
        force: Annotated[bool, ovirt("force"), "replace an image in its place"] = False,
        discard: Annotated[bool, ovirt("discard"), "discard what goes (block storage)"] = False,
    ) -> TaskId:
        """Make an image anew on another domain of the pool, volumes under their ids (SPM only)."""

    @verb("Image.cloneStructure", "POST /clone-structure", task=True, fails=(*_SPM, *_MOVE))
    @xmlrpc("cloneImageStructure", "pool_id domain_id image_id target_domain_id", member="uuid")
    async def clone_structure(
        self, image_id: _Image, pool_id: _Pool, domain_id: _Domain, target_domain_id: _Target
    ) -> TaskId:
        """Make an image's volumes anew on another domain, without their data (SPM only)."""

    @verb("Image.syncData", "POST /sync-data", task=True, fails=(*_SPM, *_MOVE, "copy-image-error"))
    @xmlrpc("syncImageData", "pool_id domain_id image_id target_domain_id which", member="uuid")
    async def sync_data(
        self,
        image_id: _Image,
        pool_id: _Pool,
        domain_id: _Domain,
        target_domain_id: _Target,
        which: Annotated[types.SyncedVolumes, ovirt("syncType"), "ALL, INTERNAL: all but the leaf, or LEAF"],
    ) -> TaskId:
        """Copy an image's data into the volumes that `cloneStructure` made (SPM only)."""

    @verb("Image.deleteVolumes", "POST /delete-volumes", task=True, fails=_DELETED)
    @xmlrpc("deleteVolume", "domain_id pool_id image_id volume_ids zero force", member="uuid")
    async def delete_volumes(
        self,
        image_id: _Image,
        pool_id: _Pool,
        domain_id: _Domain,
        volume_ids: Annotated[list[VolumeId], ovirt("volumeList"), "the volumes, leaf first"],
        zero: Annotated[bool, ovirt("postZero"), "overwrite their blocks first (block storage)"] = False,
        force: Annotated[bool, ovirt("force"), "also when they have children or are shared"] = False,
        discard: Annotated[bool, ovirt("discard"), "discard their blocks (block storage)"] = False,
    ) -> TaskId:
        """Remove volumes of an image, in the order given (SPM only)."""
