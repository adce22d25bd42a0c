"""The values of the image repository: enumerations, records, reports; their look on disk is left to `metadata`."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Self

from msgspec import Struct, field

from vdsm.core.errors import NodeError
from vdsm.core.ids import BLANK_UUID

ISO_IMAGE = "11111111-1111-1111-1111-111111111111"
"""The one pseudo image that holds the files of an ISO domain."""

NEWEST_VERSION = 5
VERSIONS = (3, 4, 5)
"""On-disk versions of domains that are served."""

XLEASES_VERSION = 4
"""The first version of shared domains that have external leases."""

DEFAULT_BLOCK_SIZE_BYTES = 512
DEFAULT_ALIGNMENT_BYTES = 1 << 20
BLOCK_SIZES_BYTES = (512, 4096)
ALIGNMENTS_BYTES = tuple(factor << 20 for factor in (1, 2, 4, 8))
CAPACITY_UNIT_BYTES = 4096
"""Capacities and initial sizes are rounded up to a multiple of this (facts: storage §1.7)."""
RAW_HEAD_BYTES = 4096
"""qemu-img allocates the first page of a raw file itself, with zeros."""


class _Word(StrEnum):
    """A word of the on-disk formats; looked up without regard to case."""

    @classmethod
    def parse(cls, word: str) -> Self:
        """Raises ValueError for a word that is none."""
        return cls(word.upper())


class DomainType(_Word):
    """What a storage domain lies on (facts: storage §1.2)."""

    UNKNOWN = "UNKNOWN"
    NFS = "NFS"
    FCP = "FCP"
    ISCSI = "ISCSI"
    LOCALFS = "LOCALFS"
    CIFS = "CIFS"
    POSIXFS = "POSIXFS"
    GLUSTERFS = "GLUSTERFS"

    @property
    def number(self) -> int:
        return list(DomainType).index(self)


class ServerConnection(Struct, frozen=True):
    """How one server or folder is reached (facts: storage §13.1); which fields count depends on the kind.

    Several connections may lead to one place: it stays connected until all of them, told apart by their ids, are gone.
    """

    place: str
    id: str = BLANK_UUID
    options: str = ""
    filesystem: str = ""
    protocol_version: str = "3"
    retransmissions: int = 3
    timeout_ds: int = 100


class DomainClass(StrEnum):
    """What a storage domain is for; compared with its case (facts: storage §1.3)."""

    DATA = "Data"
    ISO = "Iso"
    BACKUP = "Backup"


class DomainRole(StrEnum):
    """Whether a domain carries its pool's keys and tasks."""

    MASTER = "Master"
    REGULAR = "Regular"


class DomainStatus(StrEnum):
    """A domain's status in a pool's map."""

    ACTIVE = "Active"
    ATTACHED = "Attached"
    UNATTACHED = "Unattached"
    UNKNOWN = "Unknown"

    @classmethod
    def parse(cls, word: str) -> "DomainStatus":
        """Case does not matter; the old word `Inactive` means attached. Raises ValueError."""
        capitalized = word.capitalize()
        return cls.ATTACHED if capitalized == "Inactive" else cls(capitalized)


class VolumeFormat(_Word):
    """How a volume's data is laid out (facts: storage §1.5); UNKNOWN is never stored by us."""

    UNKNOWN = "UNKNOWN"
    COW = "COW"
    RAW = "RAW"

    @property
    def qemu(self) -> str:
        """What qemu calls it."""
        return "qcow2" if self is VolumeFormat.COW else "raw"


class Allocation(_Word):
    """Whether a volume's space is taken when it is made; UNKNOWN is never stored by us."""

    UNKNOWN = "UNKNOWN"
    PREALLOCATED = "PREALLOCATED"
    SPARSE = "SPARSE"


class VolumeRole(_Word):
    """Where a volume is in its chain: a template, a layer with children, or the writable top."""

    SHARED = "SHARED"
    INTERNAL = "INTERNAL"
    LEAF = "LEAF"


class Legality(_Word):
    """Whether a volume's contents may be used; FAKE stands for a template on a backup domain."""

    LEGAL = "LEGAL"
    ILLEGAL = "ILLEGAL"
    FAKE = "FAKE"


class VolumeStatus(StrEnum):
    """What is reported of a volume, stored nowhere."""

    OK = "OK"
    INVALID = "INVALID"
    ILLEGAL = "ILLEGAL"


class SpmRole(StrEnum):
    """This host's part in writing a pool's metadata."""

    FREE = "Free"
    CONTEND = "Contend"
    SPM = "SPM"


DISK_TYPES = frozenset("DATA ISOF MEMD MEMM OVFS HEVD HESD HEMD HECI SCRD 1 2".split())
"""What a disk may hold (facts: storage §1.6); the numbers are of old managers."""


class VolumeMetadata(Struct, frozen=True):
    """One volume's record (facts: storage §4)."""

    domain_id: str
    image_id: str
    parent_id: str
    capacity_bytes: int
    format: VolumeFormat
    allocation: Allocation
    role: VolumeRole
    disk_type: str
    description: str
    legality: Legality
    created_s: int
    generation: int = 0
    sequence: int = 0

    @property
    def has_parent(self) -> bool:
        return self.parent_id != BLANK_UUID


class VolumeRequest(Struct, frozen=True):
    """What `create` is asked for (facts: storage §9.1). A blank parent image stands for the same image."""

    pool_id: str
    domain_id: str
    image_id: str
    volume_id: str
    capacity_bytes: int
    format: VolumeFormat
    allocation: Allocation
    disk_type: str = "DATA"
    description: str = ""
    parent_image_id: str = BLANK_UUID
    parent_id: str = BLANK_UUID
    initial_size_bytes: int | None = None
    add_bitmaps: bool = False
    legal: bool = True
    sequence: int = 0
    bitmap: str | None = None

    @property
    def has_parent(self) -> bool:
        return self.parent_id != BLANK_UUID

    @property
    def source_image_id(self) -> str:
        """The image that has the parent."""
        return self.image_id if self.parent_image_id == BLANK_UUID else self.parent_image_id


class VolumeRef(Struct, frozen=True):
    """A volume that an operation is about, and the generation that its caller saw."""

    domain_id: str
    image_id: str
    volume_id: str
    generation: int | None = None


class ImageMove(Struct, frozen=True):
    """An image that is to be on another domain of its pool (facts: storage §9.6)."""

    pool_id: str
    source_id: str
    target_id: str
    image_id: str

    @property
    def ids(self) -> tuple[str, str, str]:
        """The image, from where, and where to."""
        return self.image_id, self.source_id, self.target_id


class NbdConfig(Struct, frozen=True):
    """A volume that is to be served, and how (facts: storage §15.3)."""

    domain_id: str
    image_id: str
    volume_id: str
    read_only: bool = False
    discard: bool = False
    detect_zeroes: bool = False
    backing_chain: bool = True
    bitmap: str | None = None


class ExternalPlace(Struct, frozen=True):
    """What lies outside of all domains, and the lease that keeps the state of the job on it (facts: storage §10.1)."""

    url: str
    lease: tuple[str, str]
    generation: int
    format: str = "raw"
    is_sparse: bool = False
    create: bool = True
    is_zero: bool = False


class Subchain(Struct, frozen=True):
    """Two layers of one image of which the upper is to be merged into the lower (facts: storage §9.7)."""

    domain_id: str
    image_id: str
    top_id: str
    base_id: str
    base_generation: int | None = None

    @property
    def base(self) -> VolumeRef:
        return VolumeRef(self.domain_id, self.image_id, self.base_id, self.base_generation)


class VolumeChange(Struct, frozen=True):
    """New attributes of a volume; None leaves one as it is, and counts the generation."""

    description: str | None = None
    legality: Legality | None = None
    role: VolumeRole | None = None
    generation: int | None = None


class VolumeSize(Struct, frozen=True):
    """A volume's apparent size and the space that it takes up."""

    apparent_bytes: int
    allocated_bytes: int


class VolumeLease(Struct, frozen=True):
    """Where a volume's lease lies, how often it was taken, and the host that holds it; absent what is not known."""

    path: Path
    offset_bytes: int = 0
    version: int | None = None
    holder: int | None = None


class VolumeInfo(Struct, frozen=True):
    """A volume's record and sizes; sizes are 0 and the status INVALID when storage does not tell them."""

    volume_id: str
    metadata: VolumeMetadata
    size: VolumeSize
    status: VolumeStatus
    lease: VolumeLease | None = None


class VolumeLocation(Struct, frozen=True):
    """One volume of a prepared chain."""

    domain_id: str
    image_id: str
    volume_id: str
    path: Path
    lease: VolumeLease | None = None


class NetworkPlace(Struct, frozen=True):
    """Where qemu finds something without a mount: a name, and the servers that have it, the mount's own first."""

    name: str
    servers: tuple[str, ...]
    protocol: str = "gluster"
    transport: str = "tcp"


class PreparedImage(Struct, frozen=True):
    """An image ready for qemu, by its path (`kind` is file or block), and by the network where that can be."""

    path: Path
    kind: str
    format: VolumeFormat
    chain: tuple[VolumeLocation, ...]
    network: NetworkPlace | None = None


class DomainSpace(Struct, frozen=True):
    """Space on a domain's file system."""

    total_bytes: int
    free_bytes: int


class LeaseSettings(Struct, frozen=True):
    """Numbers that only old lease code reads; kept in the domain's metadata."""

    renewal_s: int = 5
    lease_s: int = 60
    io_timeout_s: int = 10
    retries: int = 3


class SpmStatus(Struct, frozen=True):
    """This host's role and who writes the pool's metadata; -1 stands for nobody and for unknown."""

    role: SpmRole
    host_id: int
    lease_version: int


class PoolDomain(Struct, frozen=True):
    """One domain of a connected pool; version and space are absent when it cannot be read."""

    status: DomainStatus
    version: int | None = None
    space: DomainSpace | None = None
    alerts: tuple[NodeError, ...] = ()
    iso_folder: Path | None = None
    """Where an ISO domain has its files."""


class PoolInfo(Struct, frozen=True):
    """A connected pool."""

    pool_id: str
    name: str
    type: DomainType
    master_id: str
    master_version: int
    version: int
    spm: SpmStatus
    domains: Mapping[str, PoolDomain] = field(default_factory=dict)
