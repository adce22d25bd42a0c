"""One migration out of this host, as far as it is known; whoever acts on it keeps it true."""

import asyncio

from msgspec import UNSET, Struct, UnsetType, field

from vdsm.api.errors import MigrationFailed
from vdsm.api.migration import MigrationOutcome, MigrationStats
from vdsm.virt.migration.schedule import Steps
from vdsm.virt.ports import Place

CANCELED = 47
UNDER_WAY, DONE, SAVED = "Migration in progress", "Migration done", "SaveState done"


class Departure(Struct, eq=False):
    """A VM's way to another host. `code` is 0 while all is well, and `message` tells what it means."""

    place: Place | None
    """None when nobody knows, or when the VM is saved to disk."""
    code: int = 0
    message: str = UNDER_WAY
    progress: int = 0
    downtime_ms: int | UnsetType = UNSET
    is_over: bool = False
    has_announced: bool = False
    """Whether the guest was told that it moves."""
    bandwidth_mib_per_s: int | None = None
    """What a caller wants of it since it began."""
    has_asked: bool = False
    """Whether the other host may have heard of the VM."""
    is_moving: bool = False
    """Whether libvirt may be at it."""
    canceled: asyncio.Event = field(default_factory=asyncio.Event)
    steps: Steps | None = None
    """What is done for it to come to an end."""
    cleaning: asyncio.Task[None] | None = None
    """Sees to it that nothing is left on the other host."""

    def check_wanted(self) -> None:
        """Raise MigrationFailed with 47 when it was canceled."""
        if self.canceled.is_set():
            raise MigrationFailed("Migration canceled", CANCELED)

    def finish(self, message: str = DONE) -> None:
        """The VM runs there, or is on disk."""
        self.code, self.message, self.progress, self.is_over = 0, message, 100, True

    def fail(self, code: int, message: str) -> None:
        """The VM does not run there."""
        self.code, self.message, self.is_over = code, message, True

    def tell(self) -> MigrationStats:
        """How it stands, for callers."""
        progress = self.progress if self.downtime_ms is UNSET else 100
        status = MigrationOutcome(code=self.code, message=self.message)
        return MigrationStats(status=status, progress=progress, downtime_ms=self.downtime_ms)
