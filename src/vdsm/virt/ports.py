"""What virt needs from outside: a hypervisor, prepared disk images, and somebody to tell about changes."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import Literal, Protocol

from msgspec import Struct

from vdsm.core.errors import Failure, NodeError
from vdsm.virt.guest.figures import GuestFigures


class HypervisorDown(Failure, number=16, http=503, retry=True, text="libvirt is not reachable: {reason}"):
    """libvirt cannot be reached; running VMs are not affected."""


class HypervisorTimeout(NodeError, number=100, http=504, retry=True):
    """The VM's monitor did not answer before the deadline; its connection is written off."""

    text = "VM {vm_id}: {call} did not answer within {seconds} s"
    vm_id: str
    call: str
    seconds: float


class HypervisorRefused(NodeError, number=100, http=409, text="{reason}"):
    """libvirt refused the operation; `kind` is libvirt's error number."""

    reason: str
    kind: int = 0


class NoSuchDomain(NodeError, number=1, http=404, text="Virtual machine does not exist: {{'vmId': '{vm_id}'}}"):
    """libvirt knows no domain of that id."""

    vm_id: str


class DomainState(Enum):
    """libvirt's domain state (virDomainState)."""

    NO_STATE = 0
    RUNNING = 1
    BLOCKED = 2
    PAUSED = 3
    SHUTDOWN = 4
    SHUT_OFF = 5
    CRASHED = 6
    SUSPENDED = 7


class DomainRecord(Struct, frozen=True):
    """One libvirt domain as found: `xml` is the live XML, metadata included; `reason` is libvirt's reason number."""

    vm_id: str
    name: str
    state: DomainState
    reason: int
    xml: str


class EventKind(Enum):
    """What libvirt tells of a domain."""

    LIFECYCLE = "lifecycle"  # detail: (event, detail) numbers of virDomainEventType
    REBOOT = "reboot"
    RTC_CHANGE = "rtc_change"  # detail: (utc offset s,)
    IO_ERROR = "io_error"  # text: reason such as ENOSPC; names: (source path, alias)
    GRAPHICS = "graphics"  # detail: (phase,); names: (peer address, type, peer port)
    WATCHDOG = "watchdog"  # detail: (action,)
    DEVICE_REMOVED = "device_removed"  # names: (alias,)
    AGENT = "agent"  # detail: (1 for a channel that the guest opened, 2 for one that it closed, reason)
    TUNED = "tuned"  # limits of its processors or disks changed
    MOVED = "moved"  # a migration out of here is done; detail: (ms in which the guest stood still,)
    BLOCK_JOB = "block_job"  # detail: (type, status) of a disk's job; names: (target,)
    CONNECTED = "connected"  # the event connection is up (again): look at everything anew; vm_id is empty
    DISCONNECTED = "disconnected"  # vm_id is empty


class HypervisorEvent(Struct, frozen=True):
    """One event, delivered on the daemon's loop in libvirt's order."""

    vm_id: str
    kind: EventKind
    detail: tuple[int, ...] = ()
    text: str = ""
    names: tuple[str, ...] = ()


class BulkSample(Struct, frozen=True):
    """One bulk statistics call: libvirt's keys by VM (`cpu.time`, `block.0.rd.reqs`, …), and who did not answer."""

    taken_at_s: float  # of the monotonic clock
    stats: Mapping[str, Mapping[str, int | str | bool]]
    missing: frozenset[str]  # VMs that libvirt left out or whose qemu did not answer in time


class ShutdownMode(Enum):
    """Who in the guest is asked: its agent, or the power button."""

    AGENT = "agent"
    ACPI = "acpi"


class Tunable(Protocol):
    """The part of a hypervisor that limits a running VM. What is set shows in the live XML, and TUNED tells of it."""

    async def set_memory(self, vm_id: str, size_kib: int) -> None:
        """Let the balloon leave that much to the guest, which follows when it can."""

    async def set_cpu_tune(self, vm_id: str, limits: Mapping[str, int]) -> None:
        """`vcpu_quota` (-1 for none) and `vcpu_period`, in µs; one that is not named stays."""

    async def set_cpu_count(self, vm_id: str, count: int) -> None:
        """Plug processors in or out; out takes the guest's will."""

    async def pin_cpu(self, vm_id: str, cpu: int, host_cpus: Collection[int]) -> None:
        """Let a processor run on these CPUs of the host only."""

    async def set_io_tune(self, vm_id: str, target: str, limits: Mapping[str, int]) -> None:
        """libvirt's `total_bytes_sec`, `read_iops_sec` and so on; of bytes, or of operations, all three or none."""


class BlockJobFigures(Struct, frozen=True):
    """How far a block job is, in bytes; its speed in MiB/s, 0 for any."""

    done_bytes: int
    end_bytes: int
    bandwidth_mib: int


class BlockChanger(Protocol):
    """The part of a hypervisor that changes what is below the disks of a running VM."""

    async def snapshot(self, vm_id: str, xml: str, *, has_memory: bool = False) -> None:
        """Put the tops that a `domainsnapshot` names on its disks, all at one moment or none of them; what is to stay
        has to be named, too. The tops are there already and stay what they are; libvirt remembers nothing of it.

        With the VM's memory it stands still meanwhile, which may take long: like `migrate` in all else.
        """

    async def commit_blocks(
        self, vm_id: str, target: str, base: str, top: str, bandwidth_mib: int, *, active: bool
    ) -> None:
        """Begin to write what the layers from `top` down to above `base` have into the base, at so many MiB/s, 0 for
        any; layers are named as in `vda[3]`. From an `active` top, a disk's own, this goes on until it is pivoted."""

    async def copy_blocks(self, vm_id: str, target: str, xml: str) -> None:
        """Begin to write what the disk's top has, and gets, to the image of that `disk` element too, which is there
        already, on a copy of what is below; this goes on until the disk is pivoted to it."""

    async def resize_block(self, vm_id: str, target: str, size_bytes: int) -> int:
        """Let the guest see a disk of that size; the size that it came to be, in bytes."""

    async def find_block_job(self, vm_id: str, target: str) -> BlockJobFigures | None:
        """What the disk's block job has done; None when it has none (any more)."""

    async def end_block_job(self, vm_id: str, target: str, *, pivot: bool) -> None:
        """Abort the disk's block job; with `pivot`, the disk is on its mirror when this returns."""


AGENT_REFUSED = 112
"""libvirt's error number for an agent that answered that it cannot."""


class Picture(Struct, frozen=True):
    """What a display shows."""

    mime_type: str
    data: bytes


class GuestAgents(Protocol):
    """The part of a hypervisor that reaches the qemu agents inside VMs, beside whatever else is asked of a VM."""

    async def ask_agent(self, vm_id: str, command: str) -> str:
        """What the agent answers to a command without arguments: the JSON object that has it as `return`.

        One at a time for a VM, seconds at most. A refusal of the agent itself has the number AGENT_REFUSED.
        """

    async def freeze_filesystems(self, vm_id: str) -> None:
        """Have the agent write all through and hold back writes."""

    async def thaw_filesystems(self, vm_id: str) -> None:
        """Let the guest write again."""


MOST_MOVES = 3
"""So many VMs at once may be on their way out, whoever asks: each takes a connection to libvirt for all the time."""


class MoveFlag(Enum):
    """How a domain moves (virDomainMigrateFlags)."""

    TUNNELLED = "tunnelled"
    ABORT_ON_ERROR = "abort on error"
    COMPRESSED = "compressed"
    AUTO_CONVERGE = "auto converge"
    TLS = "tls"
    PARALLEL = "parallel"
    ZERO_COPY = "zero copy"
    PERSIST = "persist"
    POST_COPY = "post copy"


class Move(Struct, frozen=True, kw_only=True):
    """Where a running domain goes, and how; `xml` is what it becomes there.

    0 for `bandwidth_mib_per_s` and `connections` leaves it to the hypervisor, an empty `memory_uri` to both libvirts.
    """

    uri: str
    """The other libvirt."""
    memory_uri: str = ""
    xml: str
    bandwidth_mib_per_s: int = 0
    connections: int = 0
    tls_name: str = ""
    """The name that the other qemu's certificate must have."""
    graphics_uri: str = ""
    flags: frozenset[MoveFlag] = frozenset()


class MoveJob(Struct, frozen=True):
    """How far a migration out of here is: rounds over the guest's memory, and what is left of this one."""

    iteration: int
    total_bytes: int
    remaining_bytes: int


class Movable(Protocol):
    """The part of a hypervisor that moves running VMs to other hosts, and to disk and back."""

    async def get_migratable_xml(self, vm_id: str) -> str:
        """The live XML in the form that `Move` wants."""

    async def migrate(self, vm_id: str, move: Move) -> None:
        """Returns when the VM runs there and has ended here; that may take hours, and other calls go beside it.

        It goes on when the caller does not wait for it any more. HypervisorRefused of kind 78 is one that was aborted.
        """

    async def get_move(self, vm_id: str) -> MoveJob | None:
        """The migration that goes out, None when there is none."""

    async def abort_move(self, vm_id: str) -> None: ...

    async def set_move_downtime(self, vm_id: str, downtime_ms: int) -> None:
        """How long the guest may stand still at the end."""

    async def set_move_bandwidth(self, vm_id: str, mib_per_s: int) -> None: ...

    async def save(self, vm_id: str, path: str) -> None:
        """Write the VM's memory to that file and end it; like `migrate` in all else."""

    async def read_saved(self, path: str) -> str:
        """The domain whose memory is in that file."""

    async def restore(self, vm_id: str, path: str, xml: str) -> None:
        """Have a VM that was defined go on with the memory in that file."""

    async def start_post_copy(self, vm_id: str) -> None:
        """Let the guest run there at once; it fetches its memory as it needs it."""


class BackupMaker(Protocol):
    """The part of a hypervisor that serves the disks of a running VM as they were, and tracks what changes."""

    async def begin_backup(self, vm_id: str, xml: str, checkpoint_xml: str | None) -> None:
        """Begin a `domainbackup`, and make a checkpoint in the same moment. Scratch disks are there already."""

    async def get_backup(self, vm_id: str) -> str | None:
        """The `domainbackup` that goes on."""

    async def end_backup(self, vm_id: str) -> None:
        """End it; it is over some time after that."""

    async def get_disk_size(self, vm_id: str, target: str) -> int:
        """What the guest sees, in bytes."""

    async def list_checkpoints(self, vm_id: str) -> list[str]:
        """Names, each after the one that it is based on."""

    async def get_checkpoint(self, vm_id: str, name: str) -> str | None:
        """Its XML, or None when there is none."""

    async def delete_checkpoint(self, vm_id: str, name: str) -> None:
        """One that is not there is refused."""

    async def redefine_checkpoint(self, vm_id: str, xml: str) -> None:
        """Tell of a checkpoint that was made before; its bitmaps must be there."""


class SecretStore(Protocol):
    """The part of a hypervisor that keeps secrets for qemus. Every call may raise HypervisorDown, HypervisorRefused."""

    async def list_secrets(self) -> Mapping[str, str]:
        """What each is used for, by UUID."""

    async def set_secret(self, uuid: str, xml: str, value: bytes) -> None:
        """Define it anew, or change it; what it is used for stays."""

    async def remove_secret(self, uuid: str) -> None:
        """One that is not there is success."""


class NetworkStore(Protocol):
    """The part of a hypervisor that knows networks by name."""

    async def start_network(self, name: str, xml: str) -> None:
        """Have the network, by that XML if there is none of that name yet."""

    async def remove_network(self, name: str) -> None:
        """VMs that use it stay as they are; no network of that name is success."""


class Hypervisor(Tunable, BlockChanger, Movable, GuestAgents, BackupMaker, SecretStore, NetworkStore, Protocol):
    """libvirt as virt sees it.

    Every call may raise HypervisorDown; calls on one VM raise NoSuchDomain, HypervisorTimeout, HypervisorRefused.
    At most one call is in flight per VM, the others wait in the order of asking; a call past its deadline is written
    off, and after that only `destroy` reaches that VM until its qemu answers again.
    """

    async def capabilities_xml(self) -> str: ...

    async def domain_capabilities_xml(self, kind: str) -> str:
        """`kind` is the domain type: `kvm` or `qemu`."""

    async def versions(self) -> tuple[int, int]:
        """libvirt's and qemu's version, each as major * 1000000 + minor * 1000 + release."""

    async def list_domains(self) -> list[DomainRecord]: ...

    async def get_domain(self, vm_id: str) -> DomainRecord: ...

    async def define(self, xml: str) -> None: ...

    async def start(self, vm_id: str, *, paused: bool) -> None: ...

    async def undefine(self, vm_id: str) -> None:
        """NVRAM, TPM and checkpoint metadata go too; no domain of that id is success."""

    async def destroy(self, vm_id: str, *, graceful: bool) -> None: ...

    async def shutdown(self, vm_id: str, mode: ShutdownMode) -> None: ...

    async def reboot(self, vm_id: str, mode: ShutdownMode) -> None: ...

    async def reset(self, vm_id: str) -> None: ...

    async def suspend(self, vm_id: str) -> None: ...

    async def resume(self, vm_id: str) -> None: ...

    async def set_metadata(self, vm_id: str, element: str, prefix: str, uri: str) -> None:
        """Replace the element of that namespace in the live and the persistent XML."""

    async def update_device(self, vm_id: str, xml: str, *, force: bool = False) -> None: ...

    async def attach_device(self, vm_id: str, xml: str) -> None:
        """Add a device to the VM that runs; gone when it is off."""

    async def detach_device(self, vm_id: str, xml: str) -> None:
        """Ask the guest to let go of the device, as its XML is now. When it does, DEVICE_REMOVED is told."""

    async def take_screenshot(self, vm_id: str) -> Picture:
        """What the first display shows; HypervisorRefused when there is none."""

    async def block_errors(self, vm_id: str) -> Mapping[str, int]:
        """virDomainGetDiskErrors: target name to error number (2 is no space)."""

    async def sample(self) -> BulkSample:
        """Statistics of all running VMs in one call; written off after 2 s, then a second leaves out the silent."""

    def subscribe(self, listener: Callable[[HypervisorEvent], None]) -> None:
        """Deliver every later event to listener, on the daemon's loop."""


class Channel(Protocol):
    """A connection to a program inside a VM."""

    async def read(self) -> bytes:
        """What came, 64 KiB at most; empty at the end. Nothing is read ahead of who reads. Raises OSError."""

    def send(self, data: bytes) -> bool:
        """Whether it was taken; refused while the other side leaves 64 KiB unread, or when it is gone."""

    def close(self) -> None: ...


class Channels(Protocol):
    """The sockets at which qemu listens for who wants to talk to a VM's inside."""

    async def connect(self, path: str) -> Channel:
        """Raises OSError."""


class ProbeResult(Enum):
    """What the measurement found of KVM."""

    FAST = "fast"
    SLOW = "slow"
    ABSENT = "absent"


class AcceleratorProbe(Protocol):
    """Measures whether KVM runs guest instructions at speed; cached per boot by the one who implements it."""

    async def measure(self) -> ProbeResult: ...


class Processors(Protocol):
    """The host's own."""

    def list_online(self) -> Mapping[int, frozenset[int]]:
        """Each CPU that is online, with all that share its core, itself too. May block."""


class NetworkDevices(Protocol):
    """The host's networks, as it was told to make them."""

    async def find_device(self, network: str) -> tuple[str, bool]:
        """The device where the network is at home on this host, and whether that is a bridge."""


class NetworkDisk(Struct, frozen=True):
    """How qemu opens a disk without a mount."""

    protocol: str
    name: str
    host: str
    transport: str


class PreparedImage(Struct, frozen=True):
    """A disk image ready for qemu, by its path (`kind` is file or block) or by the network; `format` is raw or cow."""

    path: str
    kind: str
    format: str
    chain: tuple[Mapping[str, str], ...] = ()
    """Of every volume, base first: domainID, imageID, volumeID, path; of one with a lease leasePath, leaseOffset."""
    network: NetworkDisk | None = None


DISC_NAME = "{vm_id}-{target}.img"
"""What a disc of files is called; hosts that VMs move between have it at the same place."""


class Payload(Struct, frozen=True):
    """Files for a disc: contents by paths from its top, with `/` between folders. Without `is_floppy` it is a CD."""

    is_floppy: bool
    volume_id: str
    files: Mapping[str, bytes]


PathKind = Literal["folder", "file", "missing"]
"""Whatever is there and no folder counts as a file."""


class HostJobs(Protocol):
    """Work that its caller follows by the id that it chose (facts §4.8)."""

    async def start(self, job_id: str, name: str, vm_id: str, work: Callable[[], Awaitable[None]]) -> None:
        """Begin the work, on this loop; the job ends with it, and fails with what it raises. An id that is in use is
        refused. Nobody but the end of the daemon stops it."""


class BackupPlace(Struct, frozen=True):
    """Where a backup is served, and the scratch disks by the names of their disks."""

    socket: str
    scratch_disks: Mapping[str, str]


class FirmwareUnusable(NodeError, number=89, http=409, text="External data of kind {kind!r} cannot be used: {reason}"):
    """The files of a TPM or of an NVRAM are not as they should be."""

    kind: str
    reason: str


class FirmwareStore(Protocol):
    """What TPMs (`tpm`) and NVRAMs (`nvram`, at that path) keep. Every call may raise FirmwareUnusable."""

    async def read(self, kind: str, vm_id: str, path: str) -> bytes | None:
        """An NVRAM as it is, a TPM as a packed tar; None when there is none."""

    async def write(self, kind: str, vm_id: str, path: str, data: bytes) -> None:
        """Put that in the place of what is there, for a VM that does not run."""

    async def clear(self) -> None:
        """Remove what an interrupted daemon left of a write, as far as that can be; nobody writes meanwhile."""


class VolumeSize(Struct, frozen=True):
    """What a volume takes of its domain, and how large it is as a file or a device; in bytes."""

    allocated: int
    apparent: int


class VolumeFigures(Struct, frozen=True):
    """What a volume's record tells; `format` is raw or cow, templates are shared."""

    capacity_bytes: int
    format: str
    is_shared: bool


class Volumes(Protocol):
    """Records of the volumes that VMs here use; fails with the storage family of errors. Doing it again is harmless."""

    async def get_volume(self, domain_id: str, image_id: str, volume_id: str) -> VolumeFigures: ...

    async def read_sectors(self, domain_id: str, image_id: str, volume_id: str, first: int, count: int) -> bytes:
        """What a guest reads there, in sectors of 512 bytes; less, or nothing, behind the end."""

    async def set_capacity(self, domain_id: str, image_id: str, volume_id: str, capacity_bytes: int) -> None:
        """Let the record tell that capacity."""

    async def sync_chain(self, domain_id: str, image_id: str, leaf_id: str, real: Sequence[str]) -> None:
        """Let the records tell the chain that is real, top first. A leaf that is not in it is illegal from now on, one
        that is in it legal."""


class Images(Volumes, Protocol):
    """Disk images of the repository; fails with the storage family of errors."""

    async def prepare_backup(self, vm_id: str, backup_id: str, sizes: Mapping[str, int]) -> BackupPlace:
        """Make a scratch disk, an empty qcow2 image, of each of these sizes in bytes; all or none."""

    async def clear_backup(self, vm_id: str, backup_id: str = "") -> None:
        """Remove the scratch disks and the socket of that backup, or of all of the VM."""

    async def prepare(self, pool_id: str, domain_id: str, image_id: str, volume_id: str) -> PreparedImage: ...

    async def teardown(self, pool_id: str, domain_id: str, image_id: str) -> None: ...

    async def get_size(self, pool_id: str, domain_id: str, image_id: str, volume_id: str) -> VolumeSize: ...

    async def read(self, domain_id: str, path: str, length: int) -> bytes:
        """The beginning of a volume that is prepared, so long at most."""

    async def write(self, domain_id: str, path: str, content: bytes) -> None:
        """Write to the beginning of a volume that is prepared; on disk when this returns. Never makes it longer."""

    async def pad(self, domain_id: str, path: str) -> None:
        """Let a volume that is prepared end with a whole block of 4 KiB."""

    async def find_lease(self, domain_id: str, lease_id: str) -> tuple[str, int]:
        """Path and offset in bytes of an external lease."""

    async def find_kind(self, path: str) -> PathKind:
        """What a path leads to that a caller names in the place of an image."""

    async def make_payload(self, vm_id: str, target: str, payload: Payload) -> str:
        """Make the disc of a VM's drive, in place of one that is there; its path. Raises NodeError."""

    async def remove_payloads(self, vm_id: str) -> None:
        """Remove the discs that were made for the VM."""

    async def keep_payloads(self, vm_ids: Collection[str]) -> None:
        """Remove the discs of all other VMs, and what an interrupted daemon left of one."""


class PeerUnreachable(NodeError, number=10, http=502, retry=True, text="Host {host} cannot be reached: {reason}"):
    """The daemon of another host does not answer; it may or may not have done what was asked."""

    host: str
    reason: str


class PeerRefused(NodeError, number=12, http=502, text="Host {host} refused: {reason}"):
    """The daemon of another host answered with a failure of that number."""

    host: str
    failure: int
    reason: str


class Place(Struct, frozen=True):
    """Where another host's daemon listens."""

    host: str
    port: int = 54321

    def __str__(self) -> str:
        return f"{self.url_host}:{self.port}"

    @property
    def url_host(self) -> str:
        """The host as it stands in URLs."""
        return f"[{self.host}]" if ":" in self.host else self.host


class Traveller(Struct, frozen=True, kw_only=True):
    """A VM that another host shall get ready for: its live XML, the last one read, what is known of its inside."""

    vm_id: str
    live_xml: str
    xml: str
    elapsed_s: float
    guest: GuestFigures
    guest_events: bool = False


class Peers(Protocol):
    """The daemons of other hosts. Every call may raise PeerUnreachable and PeerRefused."""

    async def ping(self, place: Place) -> None: ...

    async def create_incoming(self, place: Place, traveller: Traveller, incoming_limit: int | None) -> str:
        """Have the VM's images prepared there; the VM's XML as the other host has it, if it tells."""

    async def get_status(self, place: Place, vm_id: str) -> str | None:
        """The VM's status there; None when it is not known there."""

    async def destroy(self, place: Place, vm_id: str) -> None:
        """End the VM there and forget it; one that is not known there is success."""
