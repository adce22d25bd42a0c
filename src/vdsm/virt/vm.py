"""One VM as the daemon knows it: definition, state, figures; acting on it is left to the other files of this room."""

import asyncio
from collections.abc import Mapping

from msgspec import UNSET, Struct, UnsetType, field

from vdsm.api.events import IoError
from vdsm.api.vm_types import WatchdogEvent
from vdsm.virt.disks.merge_plan import Merge
from vdsm.virt.domain import DomainView
from vdsm.virt.guest.figures import GuestFigures, merge
from vdsm.virt.kept_data import KeptData
from vdsm.virt.lifecycle import STARTING, ExitInfo, ExitReason, PauseCode, Status, VmState
from vdsm.virt.metadata import VmMetadata
from vdsm.virt.migration.departure import Departure
from vdsm.virt.ports import VolumeSize
from vdsm.virt.stats import Window


class Vm(Struct, eq=False):
    """What is known of one VM. Times ending in `_s` are of the monotonic clock."""

    vm_id: str
    name: str
    xml: str
    """The last XML read from libvirt; before the start, the one that will be started."""
    view: DomainView | None
    """What the XML tells; None when it could not be understood."""
    metadata: VmMetadata = field(default_factory=VmMetadata)
    is_external: bool = False
    """Somebody else's: its metadata is never written and its definition never removed."""
    has_domain: bool = False
    """Whether libvirt knows a domain that stands for this VM."""
    has_images: bool = False
    """Whether images may be prepared for it."""

    state: VmState = field(default_factory=VmState)
    started_s: float | None = None
    """When it started or last rebooted; None when nobody knows."""
    first_offset_s: int = 0
    """Where the guest's clock stood from ours when it started, or when this daemon found it."""
    added_offset_s: int = 0
    """What the caller wants added to the offsets that libvirt tells."""
    told_offset_s: int | None = None
    """The offset after the guest's last change of its clock."""
    guest: GuestFigures = field(default_factory=GuestFigures)
    """What the oVirt agent told."""
    qemu_guest: GuestFigures = field(default_factory=GuestFigures)
    """What the qemu agent told."""
    guest_news: tuple[object, ...] = ()
    """What was told of the guest last, to know when there is news."""
    guest_told_at_s: float = float("-inf")
    agent_version: int = 0
    """The highest API version that the oVirt agent and we know."""
    hears_of_moves: bool = False
    """Whether its guest is to be told that it has moved here."""
    agent_connected: bool = False
    """Whether the guest has opened the qemu agent's channel, as libvirt tells."""
    agent_epoch: int = 0
    """How often it did, as far as we were told."""
    kept_data: Mapping[str, KeptData] = field(default_factory=dict)
    """Of its TPM and its NVRAM, by kind."""
    client_address: str = ""
    viewers: set[tuple[str, str]] = field(default_factory=set)
    """Who looks at its displays: addresses and ports."""
    watchdog: WatchdogEvent | UnsetType = UNSET
    io_error: IoError | UnsetType = UNSET
    pending_pause_code: PauseCode | None = None
    """The code of an I/O error that libvirt told of before it told of the pause."""
    volume_sizes: Mapping[str, VolumeSize] = field(default_factory=dict)
    """Of disks on volumes, by target name, as storage told last."""
    window: Window = field(default_factory=Window)
    monitor_failed: bool = False
    """A call on it timed out since its last sample."""
    is_stale: bool = False
    """Its XML changed and has not been read again yet."""

    merges: dict[str, Merge] = field(default_factory=dict)
    """The merges of its layers that go on, by the ids that their callers chose."""
    tuning: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while its limits change, for what is new depends on what was."""
    announced: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when libvirt knows of it, or when that came to nothing."""
    is_starting: bool = False
    """Whether its start has reached libvirt, from where nobody can call it back."""
    early_end: ExitInfo | None = None
    """How it ended, told by libvirt before its start came back."""
    shutdown_requested: bool = False
    destroy_requested: bool = False
    ends_with: ExitReason | None = None
    """Why it is about to end, when we know better than libvirt's event will."""
    departure: Departure | None = None
    """Its last migration out of here."""
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever libvirt told of its life, for who waits to see what became of it."""
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    rebooted: asyncio.Event = field(default_factory=asyncio.Event)
    device_removed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever the guest let go of a device."""
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by who changes its devices, so that nobody takes what is half done for what was left behind."""
    launch: asyncio.Task[None] | None = None
    cleanup: asyncio.Task[None] | None = None
    thawing: asyncio.Task[None] | None = None
    power: asyncio.Task[None] | None = None
    parting_task: asyncio.Task[None] | None = None

    @property
    def guest_figures(self) -> GuestFigures:
        """What both agents told."""
        return merge(self.guest, self.qemu_guest)

    @property
    def time_offset_s(self) -> int:
        """Where the guest's clock stands from ours."""
        return self.first_offset_s if self.told_offset_s is None else self.told_offset_s + self.added_offset_s

    @property
    def is_launching(self) -> bool:
        """Whether libvirt may be starting it just now."""
        return self.is_starting and self.launch is not None and not self.launch.done()

    @property
    def is_leaving(self) -> bool:
        """Whether it is being sent away, or to disk: who does that decides what becomes of its state."""
        return self.departure is not None and not self.departure.is_over

    @property
    def is_moving(self) -> bool:
        """Whether libvirt may be sending it away: it lets whatever would change the VM wait meanwhile."""
        return self.is_alive and self.is_leaving and self.departure is not None and self.departure.is_moving

    @property
    def is_alive(self) -> bool:
        """Whether a qemu process of this host stands behind it for good, as far as we know."""
        return self.state.status not in (Status.DOWN, *STARTING)
