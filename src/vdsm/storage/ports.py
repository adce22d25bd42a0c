"""What the repository needs from outside, and the shapes that its backends have."""

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from msgspec import Struct, field

from vdsm.core.errors import Failure, NodeError
from vdsm.storage.model import DomainSpace, DomainType, NetworkPlace, ServerConnection, VolumeLease, VolumeSize

Steps = Callable[[str], None]
"""Told the name of each durable step before it is taken; tests end the process there."""


class Watch(Protocol):
    """Whoever waits for long work, from any thread."""

    @property
    def report_progress(self) -> Callable[[float], None]:
        """Is told how many per cent are done."""

    @property
    def stopping(self) -> threading.Event:
        """Set once the work is not wanted any more: it ends within 2 s, with a failure."""


class Unwatched(Struct, frozen=True):
    """`Watch` of work that nobody looks at."""

    report_progress: Callable[[float], None] = lambda _: None
    stopping: threading.Event = field(default_factory=threading.Event)


UNWATCHED = Unwatched()


class QemuImgFailed(NodeError, number=100, text="qemu-img failed: {reason}"):
    """qemu-img refused or failed; `full` when the storage has no space left."""

    reason: str
    full: bool = False


class Bitmap(Struct, frozen=True):
    """A dirty bitmap of a qcow2 file; one that was not saved after its last use is no longer valid."""

    name: str
    granularity_bytes: int
    flags: tuple[str, ...] = ("auto",)

    @property
    def is_valid(self) -> bool:
        return "auto" in self.flags and "in-use" not in self.flags


class ImageFile(Struct, frozen=True):
    """What an image file tells of itself (unsafe: also one that a VM uses)."""

    format: str
    virtual_size_bytes: int
    backing_file: str | None = None
    backing_format: str | None = None
    compat: str | None = None
    cluster_size_bytes: int | None = None
    bitmaps: tuple[Bitmap, ...] = ()
    has_data_file: bool = False
    """Whether the guest's data is in another file, which this one names."""


Part = tuple[int, int]
"""Where in a file something begins, and its bytes."""


class Layer(Struct, frozen=True):
    """An image file, opened as that format and no other."""

    path: Path
    format: str
    part: Part | None = None
    """Of a file that has more than the image."""


class Conversion(Struct, frozen=True):
    """One copy (facts: storage §9.6): of the source's top layer when the target has a backing file, else of its chain.

    The target is formatted already.
    """

    source: Layer
    target: Layer
    backing: str | None = None
    """The target's backing file, a name in its folder."""
    is_zero: bool = False
    """Whether the target reads as zeros now."""
    copy_bitmaps: bool = False


class Measure(Struct, frozen=True):
    """What an image needs in another format, in bytes; `bitmaps_bytes` where the target could have them."""

    required_bytes: int
    full_bytes: int
    bitmaps_bytes: int | None = None


class QemuImg(Protocol):
    """Image files; formats are qemu's words, `raw` and `qcow2`. Every call may raise QemuImgFailed."""

    def create(
        self,
        path: Path,
        format: str,
        capacity_bytes: int,
        *,
        compat: str | None = None,
        backing: str | None = None,
        backing_format: str | None = None,
    ) -> None:
        """Format the existing empty file. `backing` is a name in the same folder and is not opened."""

    def info(self, path: Path, format: str) -> ImageFile:
        """What qemu tells, within bounds of time and memory. Files that it names are not opened, but for a data file:
        `inspect` what is not trusted."""

    def inspect(self, path: Path, part: Part | None = None) -> ImageFile:
        """What the file's own first bytes tell, without a process: the format, also a foreign one's word, and what
        other files it names. Nothing is followed. Bitmaps are left out."""

    def get_virtual_size(self, path: Path, format: str, part: Part | None = None) -> int:
        """Bytes that a guest sees, read from the file itself without a process."""

    def read(self, layer: Layer, begin_bytes: int, length_bytes: int) -> bytes:
        """What a guest reads there, in whole sectors of 512 bytes; less, or nothing, behind the end."""

    def add_bitmap(self, path: Path, name: str, granularity_bytes: int | None = None) -> None:
        """Add an enabled bitmap."""

    def remove_bitmap(self, path: Path, name: str) -> None: ...

    def merge_bitmap(self, source: Layer, path: Path, name: str, watch: Watch) -> None:
        """Add what the source's bitmap has to the bitmap of that name in the other file."""

    def convert(self, conversion: Conversion, watch: Watch) -> None:
        """Copy data. A target that was not finished is good for nothing; the source is not touched."""

    def transfer(
        self, source: str, format: str, target: str, target_format: str, options: Sequence[str], watch: Watch
    ) -> None:
        """Copy between a file and an address that qemu understands, with further options of `qemu-img convert`."""

    def commit(self, top: Layer, base: str | None, watch: Watch) -> None:
        """Write what the layer has into its base, a name in its folder, or into its backing file; the top stays."""

    def rebase(self, child: Path, backing: str, backing_format: str) -> None:
        """Let the child name another backing file, which is not opened."""

    def amend(self, path: Path, compat: str, watch: Watch) -> None:
        """Turn a qcow2 file into that version of the format, in place."""

    def measure(self, layers: Sequence[Layer], format: str) -> Measure:
        """What the layers, top first and no others, need as one image of that format."""


class RemoteFailed(Failure, number=100, text="HTTP transfer failed: {reason}"):
    """An HTTP server, or the way to it, failed."""


class RemotePlace(Struct, frozen=True):
    """Where an HTTP server keeps a file, and what it wants to be told."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Remote(Protocol):
    """Files on HTTP servers. Every call may raise RemoteFailed; a server that is silent for a minute has failed."""

    def get_size(self, place: RemotePlace) -> int: ...

    def fetch(self, place: RemotePlace, write: Callable[[bytes], None], watch: Watch) -> None:
        """Hand the file's bytes to `write`, in pieces."""

    def put(self, place: RemotePlace, path: Path, watch: Watch) -> None:
        """Let the server have the bytes of a file of ours."""


class NbdExport(Struct, frozen=True):
    """Layers that are served as one disk, top first."""

    layers: tuple[Layer, ...]
    read_only: bool = False
    discard: bool = False
    detect_zeroes: bool = False
    bitmap: str | None = None


class NbdServers(Protocol):
    """NBD servers of this host, each on a socket of its own; they outlive this process."""

    def start(self, socket: Path, export: NbdExport) -> None:
        """Returns when clients can connect. Raises QemuImgFailed, and leaves nothing then."""

    def is_running(self, socket: Path) -> bool: ...

    def stop(self, socket: Path) -> None:
        """Nothing when it does not run."""


class ImageDaemonFailed(Failure, number=481, code="image-tickets-error", text="Image tickets error:"):
    """ovirt-imageio does not answer."""


class ImageDaemonRefused(Failure, number=482, code="image-daemon-error", text="Image daemon request failed:"):
    """ovirt-imageio refused."""


class ImageDaemonUnsupported(NodeError, number=483, http=501, text="Image daemon is unsupported:"):
    """No ovirt-imageio runs here."""

    path: str


class Tickets(Protocol):
    """ovirt-imageio's door for tickets."""

    def ask(self, method: str, ticket_id: str, body: bytes | None = None) -> bytes:
        """One request on a ticket and its answer. Raises 481, 482, 483."""


class GuestToolFailed(NodeError, number=100, text="{reason}"):
    """A program that works inside of images is not there, or failed; the images are whole, as qemu sees them."""

    reason: str


Sparsify = Callable[[Layer, Watch], bool]
"""Gives space back that an image does not use, in place; False when no program here can. May raise GuestToolFailed."""

Seal = Callable[[Sequence[Layer], Watch], None]
"""Takes from the disks of one guest what is that machine's alone, in place. May raise GuestToolFailed."""


class Ownership(Protocol):
    """Who owns what the repository makes; needs privileges, so it is asked for here only."""

    def give(self, path: Path) -> None:
        """Hand a file or folder (never what a link leads to) to the owner of disks. Raises OSError."""

    def check_access(self, folder: Path) -> str | None:
        """None when the owner of disks may read, write and search the folder and qemu may read it; else why not."""

    def can_read(self, status: os.stat_result) -> bool:
        """Whether qemu may read a file with this owner and mode."""


class LeaseFailed(NodeError, code="sanlock-inquire-error", number=704, retry=True, text="sanlock: {reason} ({error})"):
    """sanlock refused, or does not run or answer; `number` is its reason, an errno or one of its own."""

    reason: str
    error: int = 0


class Lockspace(Struct, frozen=True):
    """Where the hosts that share a domain show that they live; its name is the domain's id (facts: storage §6.1)."""

    name: str
    path: Path
    block_size_bytes: int
    alignment_bytes: int


class Lease(Struct, frozen=True):
    """A resource that one host of a lockspace holds at most (facts: storage §6.2)."""

    lockspace: Lockspace
    name: str
    path: Path
    offset_bytes: int = 0


class LeaseState(Struct, frozen=True):
    """How often a lease was taken, and the host that holds it, if one does."""

    version: int
    holder: int | None = None


class Leases(Protocol):
    """sanlock, the judge between hosts. Every call may raise LeaseFailed and ends in bounded time.

    What is acquired belongs to this process: it is given back when the process ends, however that ends, and the process
    is killed when it is lost.
    """

    def write_lockspace(self, lockspace: Lockspace) -> None:
        """Format an empty lockspace."""

    def write_lease(self, lease: Lease) -> None:
        """Format a lease that nobody holds."""

    def clear_lease(self, lease: Lease) -> None:
        """Leave no lease in its place."""

    def read_lease_name(self, lease: Lease) -> tuple[str, str] | None:
        """Names of the lockspace and of the lease that lies at that place; None where none does."""

    def join(self, lockspace: Lockspace, host_id: int, *, wait: bool = True) -> None:
        """Become a live host of the lockspace, which takes a few io_timeouts; nothing when this host is one already."""

    def leave(self, lockspace: Lockspace, host_id: int) -> None:
        """Be a host of the lockspace no more; nothing when this host is none. Fails while a lease in it is held."""

    def is_member(self, lockspace: Lockspace, host_id: int) -> bool:
        """Whether this host lives in the lockspace under that id."""

    def acquire(self, lease: Lease, *, with_value: bool = False) -> None:
        """Take the lease, at once or not at all; `with_value` before its value is read or written."""

    def read_value(self, lease: Lease) -> bytes:
        """The 512 bytes that are stored in a lease that is held."""

    def write_value(self, lease: Lease, data: bytes) -> None:
        """Store up to 512 bytes in a lease that is held."""

    def release(self, lease: Lease) -> None: ...

    def is_held(self, lease: Lease) -> bool:
        """Whether this process holds the lease, as sanlock knows without looking at storage."""

    def inspect(self, lease: Lease) -> LeaseState:
        """Who holds the lease, read from storage; a host that is dead holds nothing (facts: storage §6.2)."""


class MountFailed(Failure, code="mount-error", number=477, retry=True, text="Problem while trying to mount target:"):
    """A file system could not be mounted or unmounted, or does not answer."""


class Mounted(Struct, frozen=True):
    """A file system that is mounted: the source as the kernel tells it, or the file behind a loop device."""

    source: str
    target: Path
    filesystem: str
    device: str = ""
    """The loop device, where the source is the file behind it."""


class Mounts(Protocol):
    """The mounts of this host. Every call ends in bounded time."""

    def list_mounted(self) -> Sequence[Mounted]:
        """In the order of mounting; one may hide another at the same place."""

    def mount(self, source: str, target: Path, *, filesystem: str, options: str) -> None:
        """Mount over an empty folder; nothing there may be run, nor give anybody rights. Raises MountFailed (477)."""

    def unmount(self, target: Path) -> None:
        """Take it away also when it is used or its server does not answer. Raises MountFailed (477)."""

    def has_false_zeroes(self, target: Path) -> bool:
        """Whether the file system there says that it zeroed a range of a file, and leaves what was there.

        Tried on a small hidden file, which is removed, also when an earlier call was killed. Raises OSError.
        """


class GlusterInfo(Struct, frozen=True):
    """What a Gluster server tells of a volume."""

    servers: tuple[str, ...]
    replica_count: int = 1
    transport: str = "tcp"
    is_dispersed: bool = False


class Gluster(Protocol):
    """Gluster's own command."""

    def get_info(self, server: str, volume: str) -> GlusterInfo | None:
        """None when the command is not installed or the server does not tell."""


class Rollback(Struct, frozen=True):
    """One recorded reversal, named as other implementations name it."""

    name: str
    module: str
    object: str
    function: str
    params: tuple[str, ...]


class Rollbacks(Protocol):
    """Records how a running operation is taken back (facts: storage §8.5).

    Each call returns when the entry is durable, and covers the step that follows it. When the operation fails, or the
    next SPM finds it unfinished, the entries are run in reverse through `Recovery.recover`.
    """

    def push(self, name: str, module: str, object: str, function: str, params: tuple[str, ...]) -> None: ...

    def replace_down_to_sentinel(self, *entries: Rollback) -> None:
        """Replace the entries from the last one back to the `rollback sentinel`, included, by these, at once."""


class Traits(Struct, frozen=True):
    """How one kind of storage differs from others."""

    type: DomainType
    recovery_module: str
    recovery_object: str
    supports_discard: bool = False


class PathCheck(Struct, frozen=True):
    """How one read from a domain went: its seconds, or why it failed. One that is late goes on."""

    delay_s: float = 0.0
    failure: str = ""
    is_late: bool = False


class PathChecker(Protocol):
    """Reads from domains on a schedule, where no read that hangs can hurt anybody (facts: storage §11.1)."""

    def watch(self, path: Path, tell: Callable[[PathCheck], None]) -> None:
        """Read from it at once and at every interval; tell how it went, and at every tick that a read is late."""

    def forget(self, path: Path) -> None:
        """Tell no more; nothing for a path that is not watched."""

    async def run(self) -> None:
        """Do it until cancelled."""


class HostIds(Protocol):
    """Whether this host's id is held in the domains' lockspaces (facts: storage §6.1). No call waits for storage."""

    def is_held(self, domain_id: str) -> bool: ...

    def acquire(self, domain_id: str, host_id: int) -> None:
        """Begin to join, unless that goes on. Repeating it is harmless, and joins again what sanlock dropped."""

    def check(self, domain_id: str) -> None:
        """Begin to see whether it is held still; nothing where it is not, nor while it is taken or given up."""

    def release(self, domain_id: str) -> None:
        """Begin to leave; nothing where it did not join."""


class DomainStore(Protocol):
    """One domain's own files. OSErrors come out as storage failures."""

    @property
    def domain_id(self) -> str: ...

    @property
    def path(self) -> Path:
        """The folder that pool links lead to."""

    @property
    def checked_path(self) -> Path:
        """What the checker reads from."""

    def read_metadata(self) -> bytes: ...

    def write_metadata(self, data: bytes) -> None:
        """Replace the metadata atomically; on disk when it returns."""

    def check_layout(self) -> None:
        """Raises StorageDomainLayoutError (371) naming what is missing."""

    def get_block_size_bytes(self) -> int:
        """Probe the storage: 512 or 4096, 1 when it does not tell. Raises StorageDomainTargetUnsupported (399)."""

    def get_space(self) -> DomainSpace: ...

    def join_hosts(self, host_id: int, *, wait: bool = True) -> None:
        """Become one of the hosts that share the domain, or, without `wait`, begin to. Nothing on local storage, nor
        when this host is one. Raises AcquireHostIdFailure (661)."""

    def leave_hosts(self, host_id: int) -> None:
        """Be none of them any more; nothing when it is none. Raises ReleaseHostIdFailure (662)."""

    def is_joined(self, host_id: int) -> bool:
        """Whether this host is one of them now; storage is not asked. Raises LeaseFailed when that cannot be told."""

    def acquire_lock(self, host_id: int) -> None:
        """Become the one metadata writer, at once or not at all (AcquireLockFailure, 651); ends with the process.

        A host that is not among the domain's joins them first, and leaves them when it releases the lock.
        """

    def release_lock(self) -> None:
        """Nothing when the lock is not held. Raises ReleaseLockFailure (660)."""

    def has_lock(self) -> bool:
        """Whether this process still is the one metadata writer, for sanlock and, where it can be read, on storage.

        Raises LeaseFailed when sanlock does not tell.
        """

    def inspect_lock(self) -> LeaseState | None:
        """Who is the writer, on any host; None where a lock does not tell (local storage). Raises LeaseFailed."""

    def create_master_tree(self) -> None:
        """Make the master's folders, of VM definitions and tasks, and its mailboxes, where they are missing."""


class VolumeStore(Protocol):
    """Images and volume records of one domain: an image is a folder of records, a record makes a volume exist."""

    def list_images(self) -> list[str]:
        """Ids of all image folders, also of ones without a volume of their own."""

    def list_records(self, image_id: str) -> list[str]:
        """Ids of volumes with a record in that image, shared ones included; none for an image that is not there."""

    def has_image(self, image_id: str) -> bool: ...

    def create_image(self, image_id: str) -> None: ...

    def remove_image(self, image_id: str) -> bool:
        """Remove the image's folder when it is empty; tells whether it is gone."""

    def set_aside(self, image_id: str) -> None:
        """Take an image out of everybody's sight with all that is in it, at once; on disk when it returns."""

    def purge(self, image_id: str) -> None:
        """Remove for good what was set aside; nothing when nothing was, or when that was done already."""

    def get_image_path(self, image_id: str) -> Path: ...

    def create_lease(self, image_id: str, volume_id: str) -> None:
        """Make the volume's lease, which goes with its record; nothing on local storage. Raises 701."""

    def get_lease(self, image_id: str, volume_id: str) -> VolumeLease | None:
        """A volume's lease and its holder, which are not known while sanlock does not tell; None on local storage."""

    def find_lease(self, image_id: str, volume_id: str) -> VolumeLease | None:
        """`get_lease` without its holder: nobody is asked."""

    def read_record(self, image_id: str, volume_id: str) -> bytes:
        """Raises VolumeDoesNotExist, VolumeMetadataReadError."""

    def write_record(self, image_id: str, volume_id: str, record: bytes) -> None:
        """Create or replace a record atomically; on disk when it returns. Raises VolumeMetadataWriteError."""

    def remove_record(self, image_id: str, volume_id: str) -> None:
        """Nothing when there is none."""

    def share(self, volume_id: str, source_image_id: str, image_id: str) -> None:
        """Let a template's volume appear in another image. Raises CannotShareVolume."""

    def hold_lease(self, image_id: str, volume_id: str) -> AbstractContextManager[None]:
        """For the block, be the one host that works on the volume; at once or not at all: AcquireLockFailure (651).

        Nothing where no other host is, or no such volume. The process is killed when the lease is lost.
        """

    def is_shared(self, image_id: str, volume_id: str) -> bool:
        """Whether the volume's data stays when this image is removed: another image has it, too."""

    def unshare(self, image_id: str, volume_id: str) -> None:
        """Take a template's volume out of an image that uses it; the template is not touched."""


class DataStore(Protocol):
    """Volume data of one domain."""

    def get_path(self, image_id: str, volume_id: str) -> Path: ...

    def has_data(self, image_id: str, volume_id: str) -> bool: ...

    def create_data(self, image_id: str, volume_id: str) -> None:
        """Make an empty volume, a draft until `open_access`. Raises VolumeAlreadyExists."""

    def preallocate(self, image_id: str, volume_id: str, start_bytes: int, end_bytes: int) -> None:
        """Allocate storage between the offsets and let the volume be at least that long."""

    def settle_data(self, image_id: str, volume_id: str) -> None:
        """Owner as it must be, contents on disk."""

    def remove_data(self, image_id: str, volume_id: str) -> None:
        """Nothing when there is none."""

    def rename_data(self, image_id: str, volume_id: str, new_id: str) -> None:
        """Let a volume's data be another's, which has none. Raises VolumeAccessError."""

    def open_access(self, image_id: str, volume_id: str) -> None:
        """Before use: the group may do what the owner may."""

    def get_size(self, image_id: str, volume_id: str) -> VolumeSize: ...

    def extend(self, image_id: str, volume_id: str, size_bytes: int) -> None:
        """Let the volume be at least that long; what is new reads as zeros. Raises VolumeExtendingError (206)."""

    def is_zero(self, image_id: str, volume_id: str) -> bool:
        """Whether nothing but zeros is in it; False also where the storage does not tell."""


class HalfMade(Struct, frozen=True):
    """What a killed operation left in one image folder."""

    image_id: str
    drafts: tuple[str, ...] = ()
    """Data without a record that a creation of ours had begun, or that another image has, too: it may go."""
    records_without_data: tuple[str, ...] = ()
    data_without_record: tuple[str, ...] = ()
    """Other data, whose record was lost: only an administrator can tell what it is."""


class Leftovers(Protocol):
    """Finding what operations left that were killed and that no task tells of."""

    def clean_temporaries(self) -> None:
        """Remove what is never looked at: temporary files, images being purged, leases of no volume."""

    def list_half_made(self) -> Iterable[HalfMade]: ...


class ExternalLeases(Protocol):
    """A domain's leases for VMs and jobs (facts: storage §6.5). Raises StorageDomainAccessError, InvalidMetadata."""

    def lookup(self, lease_id: str) -> Lease:
        """Raises NoSuchLease (936)."""

    def add(self, lease_id: str, fill: Callable[[Lease], None]) -> bool:
        """Make a lease, unless it is there, and tell whether it is new; a new one is filled before it is found."""

    def remove(self, lease_id: str) -> bool:
        """Whether there was such a lease."""

    def rebuild(self) -> None:
        """Make index and leases agree."""

    def list_all(self) -> Mapping[str, tuple[int, bool]]:
        """Where each lease lies, by its id, and whether its record is flagged as being changed."""

    def find_faults(self) -> Iterable[str]:
        """Where they do not, in words."""


class Backend(Struct, frozen=True):
    """One domain as the repository works with it, split by capability."""

    traits: Traits
    domain: DomainStore
    volumes: VolumeStore
    data: DataStore
    leftovers: Leftovers
    open_external_leases: Callable[[], ExternalLeases] | None = None
    """Of shared storage, from version 4 on; raises what reading metadata raises."""
    create_external_leases: Callable[[], None] | None = None
    """Make them anew, empty, for a domain that becomes one of version 4. Raises ClusterLockInitError (701)."""
    find_network: Callable[[], NetworkPlace] | None = None
    """What is mounted, as the network has it: where qemu can do without the mount."""


class DomainPlan(Struct, frozen=True):
    """A domain to create, checked."""

    domain_id: str
    remote_path: str
    metadata: bytes
    iso_image: bool
    version: int = 5
    block_size_bytes: int = 512
    alignment_bytes: int = 1 << 20


class Kind(Protocol):
    """One kind of storage: how its servers are connected, its domains found and made."""

    def connect(self, connection: ServerConnection) -> None:
        """Make a server's or folder's domains reachable; repeating it is harmless."""

    def disconnect(self, connection: ServerConnection) -> bool:
        """Whether the place is connected no more: True also when it never was, False while others use it."""

    def list_domains(self) -> Mapping[str, Path]:
        """Domains on connected servers and where they are; one for each server."""

    def open_domain(self, domain_id: str, path: Path) -> Backend: ...

    def check_new(self, remote_path: str) -> int:
        """Check that a domain can be made there; returns the probed block size (1: not told)."""

    def create_domain(self, plan: DomainPlan) -> None:
        """Make the domain; it is found only when it is whole and on disk."""
