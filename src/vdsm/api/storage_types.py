"""Requests and answers of storage: connections, pools, domains, images and volumes."""

from typing import Annotated, Literal, get_args

from msgspec import UNSET, Meta, Struct, UnsetType

from vdsm.api.declare import Number, Text, ovirt
from vdsm.core.ids import DomainId, ImageId, VolumeId

DomainType = Literal["UNKNOWN", "NFS", "FCP", "ISCSI", "LOCALFS", "CIFS", "POSIXFS", "GLUSTERFS"]
DOMAIN_TYPE_WORDS = {str(number): word for number, word in enumerate(get_args(DomainType))} | {"SHAREDFS": "POSIXFS"}
"""What callers write for a domain's type (facts: storage §1.2)."""

DomainClass = Literal["Data", "Iso", "Backup", "Unknown"]
DOMAIN_CLASS_WORDS = {"1": "Data", "2": "Iso", "3": "Backup"} | {word.upper(): word for word in get_args(DomainClass)}

DomainStatus = Literal["Active", "Attached", "Unattached", "Unknown"]
DOMAIN_STATUS_WORDS = {word.upper(): word for word in get_args(DomainStatus)} | {"INACTIVE": "Attached"}

VolumeFormat = Literal["COW", "RAW"]
VOLUME_FORMAT_WORDS = {"4": "COW", "5": "RAW"}
VolumeLegality = Literal["LEGAL", "ILLEGAL", "FAKE"]
Generation = Annotated[int, Meta(ge=0, le=999)]
"""How many operations on a volume's data have ended; it wraps."""

VolumeRole = Literal["SHARED", "INTERNAL", "LEAF"]
VOLUME_ROLE_WORDS = {"6": "SHARED", "7": "INTERNAL", "8": "LEAF"}
Allocation = Literal["PREALLOCATED", "SPARSE"]
ALLOCATION_WORDS = {"1": "PREALLOCATED", "2": "SPARSE"}
ImageOperation = Literal["UNKNOWN", "COPY", "MOVE"]
IMAGE_OPERATION_WORDS = {"0": "UNKNOWN", "1": "COPY", "2": "MOVE"}
SyncedVolumes = Literal["ALL", "INTERNAL", "LEAF"]


class Connection(Struct, frozen=True, kw_only=True):
    """One storage server connection; which fields count depends on the domain type (facts: storage §13.1)."""

    id: str
    connection: Text = UNSET
    path: Text = UNSET
    spec: Text = UNSET
    export: Text = UNSET
    protocol_version: Text = UNSET
    retransmissions: Annotated[Number, ovirt("retrans")] = UNSET
    timeout_ds: Annotated[Number, ovirt("timeout")] = UNSET
    mount_options: Annotated[Text, ovirt("mnt_options")] = UNSET
    filesystem_type: Annotated[Text, ovirt("vfs_type")] = UNSET
    portal: Text = UNSET
    port: Text = UNSET
    iqn: Text = UNSET
    portal_group: Annotated[Text, ovirt("tpgt")] = UNSET
    user: Text = UNSET
    password: Text = UNSET
    interface_name: Annotated[Text, ovirt("ifaceName")] = UNSET
    initiator_name: Annotated[Text, ovirt("initiatorName")] = UNSET
    network_interface: Annotated[Text, ovirt("netIfaceName")] = UNSET


class ConnectionStatus(Struct, frozen=True, kw_only=True):
    """What became of one connection: 0, or the number of the failure."""

    id: str
    status: int


class DomainArguments(Struct, frozen=True, kw_only=True):
    """Where a new domain lives: a path or export for file domains, a volume group for block domains."""

    remote_path: Annotated[Text, ovirt("remotePath")] = UNSET
    volume_group: Annotated[Text, ovirt("vgUUID")] = UNSET


class DomainInfo(Struct, frozen=True, kw_only=True):
    """A storage domain's identity (facts: storage §3.6)."""

    domain_id: Annotated[str, ovirt("uuid")]
    type: Annotated[str, ovirt("type")]
    domain_class: Annotated[str, ovirt("class")]
    name: str
    role: str
    pools: Annotated[list[str], ovirt("pool")]
    version: Annotated[int, ovirt("version", as_=str, declared="int")]
    block_size_bytes: Annotated[int, ovirt("block_size")]
    alignment_bytes: Annotated[int, ovirt("alignment")]
    remote_path: Annotated[Text, ovirt("remotePath")] = UNSET
    lease_version: Annotated[Number, ovirt("lver")] = UNSET
    spm_host_id: Annotated[Number, ovirt("spm_id")] = UNSET
    master_version: Annotated[Number, ovirt("master_ver")] = UNSET
    metadata_device: Annotated[Text, ovirt("metadataDevice")] = UNSET
    vg_metadata_device: Annotated[Text, ovirt("vgMetadataDevice")] = UNSET


class DomainStats(Struct, frozen=True, kw_only=True):
    """Space on a storage domain, in bytes."""

    total_bytes: Annotated[int, ovirt("disktotal", as_=str, declared="int")]
    free_bytes: Annotated[int, ovirt("diskfree", as_=str, declared="int")]
    metadata_area_bytes: Annotated[int, ovirt("mdasize")] = 0
    metadata_area_free_bytes: Annotated[int, ovirt("mdafree")] = 0
    metadata_area_valid: Annotated[bool, ovirt("mdavalid")] = True
    metadata_area_threshold: Annotated[bool, ovirt("mdathreshold")] = True


class PoolInfo(Struct, frozen=True, kw_only=True):
    """A connected pool (facts: storage §7.1)."""

    name: str
    type: str
    master_domain_id: Annotated[str, ovirt("master_uuid")]
    master_version: Annotated[int, ovirt("master_ver")]
    domains: str
    """`<domain>:<status>` joined by commas."""
    status: Annotated[str, ovirt("pool_status")]
    spm_host_id: Annotated[int, ovirt("spm_id")]
    lease_version: Annotated[int, ovirt("lver")]
    version: Annotated[int, ovirt("version", as_=str)]
    iso_prefix: Annotated[str, ovirt("isoprefix")] = ""


class PoolDomainAlert(Struct, frozen=True, kw_only=True):
    """Something about a domain that somebody should look at."""

    code: int
    message: str


class PoolDomainInfo(Struct, frozen=True, kw_only=True):
    """One domain of a pool; figures only when it is monitored."""

    status: str
    alerts: list[PoolDomainAlert] = []
    iso_prefix: Annotated[str, ovirt("isoprefix")] = ""
    version: Number = UNSET
    total_bytes: Annotated[Number, ovirt("disktotal", as_=str)] = UNSET
    free_bytes: Annotated[Number, ovirt("diskfree", as_=str)] = UNSET


class PoolFullInfo(Struct, frozen=True, kw_only=True):
    """A pool and its domains."""

    info: PoolInfo
    domains: Annotated[dict[str, PoolDomainInfo], ovirt("dominfo")]


class SpmStatus(Struct, frozen=True, kw_only=True):
    """This host's storage role and who holds it; -1 stands for nobody and for unknown."""

    status: Annotated[Literal["Free", "Contend", "SPM"], ovirt("spmStatus")]
    host_id: Annotated[int, ovirt("spmId")]
    lease_version: Annotated[int, ovirt("spmLver")]


class VolumeLease(Struct, frozen=True, kw_only=True):
    """A volume's lease and its holders."""

    path: str
    offset: int
    owners: list[int] | UnsetType = UNSET
    version: Number = UNSET


class VolumeInfo(Struct, frozen=True, kw_only=True):
    """One volume (facts: storage §4.4); sizes in bytes."""

    volume_id: Annotated[str, ovirt("uuid")]
    image_id: Annotated[str, ovirt("image")]
    domain_id: Annotated[str, ovirt("domain")]
    pool_id: Annotated[str, ovirt("pool")]
    parent_id: Annotated[str, ovirt("parent")]
    children: list[str]
    format: str
    allocation: Annotated[str, ovirt("type")]
    disk_type: Annotated[str, ovirt("disktype")]
    role: Annotated[str, ovirt("voltype")]
    legality: str
    status: str
    description: str
    capacity_bytes: Annotated[int, ovirt("capacity", as_=str, declared="uint")]
    size_bytes: Annotated[int, ovirt("apparentsize", as_=str, declared="uint")]
    allocated_bytes: Annotated[int, ovirt("truesize", as_=str, declared="uint")]
    created_s: Annotated[int, ovirt("ctime", as_=str, declared="int")]
    modified_s: Annotated[int, ovirt("mtime", as_=str, declared="uint")]
    generation: int
    sequence: int
    allocation_type: Annotated[Text, ovirt("allocType")] = UNSET
    lease: VolumeLease | UnsetType = UNSET


class VolumeSize(Struct, frozen=True, kw_only=True):
    """A volume's sizes in bytes."""

    size_bytes: Annotated[int, ovirt("apparentsize", as_=str, declared="uint")]
    allocated_bytes: Annotated[int, ovirt("truesize", as_=str, declared="uint")]


class Subchain(Struct, frozen=True, kw_only=True):
    """A volume and its parent, into which it is to be merged."""

    domain_id: Annotated[DomainId, ovirt("sd_id")]
    image_id: Annotated[ImageId, ovirt("img_id")]
    top_id: VolumeId
    base_id: VolumeId
    base_generation: Generation | UnsetType = UNSET


class QemuBitmap(Struct, frozen=True, kw_only=True):
    """A dirty bitmap of a qcow2 file; the oVirt dialects carry it as a list of name, granularity and flags."""

    name: str
    granularity_bytes: Annotated[int, ovirt("granularity")]
    flags: list[str]


class QemuImageInfo(Struct, frozen=True, kw_only=True):
    """What qemu tells of a volume's file (facts: storage §4.4)."""

    format: Literal["raw", "qcow2"]
    capacity_bytes: Annotated[int, ovirt("virtualsize")]
    cluster_size_bytes: Annotated[Number, ovirt("clustersize")] = UNSET
    backing_file: Annotated[Text, ovirt("backingfile")] = UNSET
    compat: Text = UNSET
    bitmaps: list[QemuBitmap] | UnsetType = UNSET


class VolumeMeasure(Struct, frozen=True, kw_only=True):
    """What a copy of a volume needs, in bytes."""

    required_bytes: Annotated[int, ovirt("required")]
    full_bytes: Annotated[int, ovirt("fully-allocated")]
    bitmaps_bytes: Annotated[Number, ovirt("bitmaps")] = UNSET


class VolumeLocation(Struct, frozen=True, kw_only=True):
    """One volume of a prepared chain."""

    domain_id: Annotated[str, ovirt("domainID")]
    image_id: Annotated[str, ovirt("imageID")]
    volume_id: Annotated[str, ovirt("volumeID")]
    path: str
    lease_path: Annotated[str | UnsetType, ovirt("leasePath")] = UNSET
    lease_offset_bytes: Annotated[int | UnsetType, ovirt("leaseOffset")] = UNSET


class NetworkHost(Struct, frozen=True, kw_only=True):
    """A server that has an image."""

    name: str
    port: str = "0"
    transport: str = "tcp"


class PathInfo(Struct, frozen=True, kw_only=True):
    """How qemu opens a prepared image; of a network, by a name there, from the first host."""

    type: Literal["file", "block", "network"]
    path: str
    protocol: str | UnsetType = UNSET
    hosts: list[NetworkHost] | UnsetType = UNSET


class PreparedImage(Struct, frozen=True, kw_only=True):
    """An image ready for use; the oVirt JSON-RPC dialect carries the path only (facts: storage §9.4)."""

    path: str
    info: PathInfo
    chain: Annotated[list[VolumeLocation], ovirt("imgVolumesInfo")]
