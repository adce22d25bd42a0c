"""States of a VM and the moves between them (facts §2.6, §2.7), pure; acting on them is left to the service.

    WaitForLaunch --started--> Up <--resumed/suspended--> Paused
    Up, Paused --leaves--> Migration Source, or --saves--> Saving State --stays--> as libvirt shows it
    every state --stopped--> Down, which is final

A VM that is found while it migrates or is saved or restored has that state until libvirt shows it Up or Paused.

The status that callers see is the effective one: Up is told apart further by what the guest was last seen to do.
"""

from collections.abc import Mapping
from enum import Enum, IntEnum, StrEnum
from typing import Self

from msgspec import Struct
from msgspec.structs import replace

from vdsm.core.errors import shorten


class Status(StrEnum):
    """A VM's status as the surface names it."""

    WAIT_FOR_LAUNCH = "WaitForLaunch"
    POWERING_UP = "Powering up"
    UP = "Up"
    POWERING_DOWN = "Powering down"
    REBOOTING = "RebootInProgress"
    PAUSED = "Paused"
    MIGRATION_SOURCE = "Migration Source"
    MIGRATION_DESTINATION = "Migration Destination"
    SAVING = "Saving State"
    RESTORING = "Restoring state"
    DOWN = "Down"


class PauseCode(StrEnum):
    """Why a VM's processors stand still."""

    BY_REQUEST = "NOERR"
    IO_ERROR = "EIO"
    NO_PERMISSION = "EPERM"
    NO_SPACE = "ENOSPC"
    OTHER = "EOTHER"
    POST_COPY = "POSTCOPY"


class ExitReason(IntEnum):
    """Why a VM is down; `text` is the message that belongs to it, `is_error` whether it went wrong."""

    text: str
    is_error: bool

    def __new__(cls, number: int, text: str, is_error: bool) -> Self:
        reason = int.__new__(cls, number)
        reason._value_, reason.text, reason.is_error = number, text, is_error
        return reason

    SUCCESS = 0, "The VM ended normally", False
    GENERIC_ERROR = 1, "The VM ended with an error", True
    LOST_QEMU = 2, "The VM's qemu process is gone", True
    START_REFUSED = 3, "libvirt refused to start the VM", True
    MIGRATED = 4, "The VM moved to another host", False
    SAVED = 5, "The VM's state was saved to disk", False
    SHUT_DOWN_BY_ADMINISTRATOR = 6, "The VM was shut down by the administrator", False
    SHUT_DOWN_BY_GUEST = 7, "The VM was shut down from inside the guest", False
    MIGRATION_FAILED = 8, "The VM's migration failed", True
    DOMAIN_MISSING = 9, "libvirt no longer knows the VM", True
    DESTROYED_DURING_STARTUP = 10, "The VM was destroyed while it started", True
    HOST_SHUTS_DOWN = 11, "The VM ended because the host is shutting down", True
    POST_COPY_FAILED = 12, "The VM's post-copy migration failed", True
    DESTROYED_ON_REBOOT = 13, "The VM was destroyed because it rebooted", False
    PAUSED_TOO_LONG = 14, "The VM was paused for too long", True


class ExitInfo(Struct, frozen=True):
    """How a VM ended: `code` 0 is normal, 1 an error."""

    code: int
    reason: ExitReason
    message: str

    @classmethod
    def of(cls, reason: ExitReason, message: str = "") -> Self:
        """The exit of that reason, with its own text unless there is a better one."""
        return cls(int(reason.is_error), reason, shorten(message or reason.text))


class Happening(Enum):
    """What can befall a VM."""

    STARTED = "started"
    STARTED_PAUSED = "started paused"
    SUSPENDED = "suspended"
    RESUMED = "resumed"
    LEAVES = "leaves"
    SAVES = "saves"
    LEFT_BEHIND = "left behind"  # the guest runs on the other host, its memory is here in part
    STOPPED = "stopped"


STARTING = (Status.WAIT_FOR_LAUNCH, Status.RESTORING, Status.MIGRATION_DESTINATION)
"""Of a VM that is not here for good yet."""

MOVES: Mapping[tuple[Status, Happening], Status] = {
    **{(status, Happening.STARTED): Status.UP for status in STARTING},
    **{(status, Happening.STARTED_PAUSED): Status.PAUSED for status in STARTING},
    (Status.UP, Happening.SUSPENDED): Status.PAUSED,
    (Status.PAUSED, Happening.SUSPENDED): Status.PAUSED,
    (Status.PAUSED, Happening.RESUMED): Status.UP,
    (Status.UP, Happening.RESUMED): Status.UP,
    (Status.UP, Happening.LEAVES): Status.MIGRATION_SOURCE,
    (Status.PAUSED, Happening.LEAVES): Status.MIGRATION_SOURCE,
    (Status.UP, Happening.SAVES): Status.SAVING,
    (Status.PAUSED, Happening.SAVES): Status.SAVING,
    (Status.MIGRATION_SOURCE, Happening.LEFT_BEHIND): Status.MIGRATION_SOURCE,
    **{(status, Happening.STOPPED): Status.DOWN for status in Status if status is not Status.DOWN},
}
"""Raw status and happening to the next raw status; what is not listed changes nothing."""

POWERING_DOWN_SEEN_S = 300
GUEST_EVENT_SEEN_S = 60
RESPONSIVE_S = 120


class VmState(Struct, frozen=True):
    """What is known of a VM's life; `status` is the raw one, times are of the monotonic clock."""

    status: Status = Status.WAIT_FOR_LAUNCH
    cpus_stopped: bool = False
    pause_code: PauseCode | None = None
    exit: ExitInfo | None = None
    guest_event: Status | None = None
    guest_event_at_s: float = 0.0
    agent_state: Status | None = None
    """What an agent in the guest made of it last; None when none ever spoke."""
    heard_at_s: float | None = None
    """When the oVirt agent said something last."""
    qemu_agent_answers: bool = False
    """Whether the qemu agent answered when it was last asked."""
    post_copy: bool = False

    def after(
        self, happening: Happening, *, pause_code: PauseCode | None = None, exit_info: ExitInfo | None = None
    ) -> Self:
        """The state after that; the same object when it changes nothing."""
        status = MOVES.get((self.status, happening))
        if status is None:
            return self
        if happening is Happening.STOPPED:
            return replace(
                self, status=status, exit=exit_info or ExitInfo.of(ExitReason.GENERIC_ERROR), pause_code=None
            )
        if happening in (Happening.LEAVES, Happening.SAVES):
            return replace(self, status=status)
        if happening is Happening.LEFT_BEHIND:
            return replace(self, post_copy=True, cpus_stopped=True, pause_code=PauseCode.POST_COPY)
        if happening in (Happening.SUSPENDED, Happening.STARTED_PAUSED):
            code = pause_code or self.pause_code or PauseCode.BY_REQUEST
            return replace(self, status=status, cpus_stopped=True, pause_code=code)
        return replace(self, status=status, cpus_stopped=False, pause_code=None)

    def aligned(self, found: Self) -> Self:
        """The state with what libvirt says of the processors now; the same object when that is known already."""
        if found.status is self.status and found.post_copy == self.post_copy:
            return self
        return replace(
            self,
            status=found.status,
            cpus_stopped=found.cpus_stopped,
            pause_code=self.pause_code or found.pause_code if found.pause_code is PauseCode.OTHER else found.pause_code,
            post_copy=found.post_copy,
        )

    def seen(self, guest_event: Status, now_s: float) -> Self:
        """The state after the guest was seen to power up, reboot or power down; agents know of a reboot no sooner."""
        seen = replace(self, guest_event=guest_event, guest_event_at_s=now_s)
        if guest_event is not Status.REBOOTING or self.agent_state is None:
            return seen
        return replace(seen, agent_state=guest_event, qemu_agent_answers=False)

    def heard(self, now_s: float, agent_state: Status | None = None) -> Self:
        """The state after a message of the oVirt agent, which may say that the guest is up."""
        return replace(self, heard_at_s=now_s, agent_state=agent_state or self.agent_state)

    def asked(self, answers: bool) -> Self:
        """The state after the qemu agent answered, or did not; the same object when that changes nothing."""
        if not answers:
            return replace(self, qemu_agent_answers=False) if self.qemu_agent_answers else self
        if self.qemu_agent_answers and self.agent_state is Status.UP:
            return self
        return replace(self, qemu_agent_answers=True, agent_state=Status.UP)

    def is_responsive(self, now_s: float) -> bool:
        """Whether the oVirt agent speaks."""
        return self.heard_at_s is not None and now_s - self.heard_at_s < RESPONSIVE_S

    def effective(self, now_s: float) -> Status:
        """The status that callers see (facts §2.6)."""
        if self.status is Status.MIGRATION_SOURCE and self.post_copy:
            return Status.PAUSED
        if self.status is not Status.UP:
            return self.status
        if self.cpus_stopped:
            return Status.PAUSED
        age_s = now_s - self.guest_event_at_s
        if self.guest_event is Status.POWERING_DOWN and age_s < POWERING_DOWN_SEEN_S:
            return Status.POWERING_DOWN
        if self.agent_state is not None and (self.qemu_agent_answers or self.is_responsive(now_s)):
            return self.agent_state
        if self.guest_event is not None and age_s < GUEST_EVENT_SEEN_S:
            return self.guest_event
        return Status.UP


class Request(Enum):
    """What a caller may want of a VM; its value names it in messages."""

    PAUSE = "pause"
    RESUME = "cont"
    SHUTDOWN = "shutdown"
    RESET = "reset"
    TICKET = "setTicket"
    PLUG = "changing devices"
    SNAPSHOT = "snapshot"
    MERGE = "merge"
    AGENT = "asking the guest"
    TUNE = "tuning"
    MIGRATE = "migrate"


class Refusal(Enum):
    """Why a request cannot be."""

    IS_DOWN = "down"
    WRONG_STATE = "wrong state"
    MIGRATES = "migrates"


_KEEP_IT = (Request.PLUG, Request.SNAPSHOT, Request.MIGRATE)


def check_request(state: VmState, request: Request) -> Refusal | None:
    """Whether the request fits the state (facts §2.9); None means it does."""
    if request is Request.RESUME:
        io_paused = state.pause_code not in (None, PauseCode.BY_REQUEST, PauseCode.POST_COPY)
        refused = state.status in (Status.SAVING, Status.DOWN, *STARTING)
        if refused or (state.status is Status.MIGRATION_SOURCE and not io_paused):
            return Refusal.WRONG_STATE
        return None
    if state.status is Status.DOWN:
        return Refusal.IS_DOWN
    if request in _KEEP_IT and state.status is Status.MIGRATION_DESTINATION:
        return Refusal.MIGRATES
    if request is Request.MIGRATE and state.status in (Status.WAIT_FOR_LAUNCH, Status.RESTORING):
        return Refusal.IS_DOWN
    if state.status is Status.SAVING and request is not Request.AGENT:
        return Refusal.MIGRATES
    if state.status is Status.MIGRATION_SOURCE and request not in (Request.PAUSE, Request.AGENT):
        return Refusal.MIGRATES  # libvirt would let it wait, and everybody who wants something of the VM
    if state.status in STARTING:
        return Refusal.WRONG_STATE
    return None


_STOPPED_EXITS = {
    0: ExitReason.SHUT_DOWN_BY_GUEST,
    1: ExitReason.SHUT_DOWN_BY_ADMINISTRATOR,
    2: ExitReason.LOST_QEMU,
    3: ExitReason.MIGRATED,
    4: ExitReason.SAVED,
    5: ExitReason.LOST_QEMU,
}
_SHUT_OFF_EXITS = {
    1: ExitReason.SHUT_DOWN_BY_GUEST,
    2: ExitReason.SHUT_DOWN_BY_ADMINISTRATOR,
    4: ExitReason.MIGRATED,
    5: ExitReason.SAVED,
    6: ExitReason.START_REFUSED,
}


def exit_of_event(detail: int) -> ExitReason:
    """Why a VM stopped, from the detail of libvirt's `stopped` event."""
    return _STOPPED_EXITS.get(detail, ExitReason.GENERIC_ERROR)


def exit_of_shut_off(reason: int) -> ExitReason:
    """Why a VM is off, from libvirt's reason (facts §2.8, the meant values)."""
    return _SHUT_OFF_EXITS.get(reason, ExitReason.GENERIC_ERROR)


def pause_code_of(reason: str) -> PauseCode:
    """The code for libvirt's reason of an I/O error; an unknown or empty one is OTHER."""
    by_text = {"enospc": PauseCode.NO_SPACE, "eio": PauseCode.IO_ERROR, "eperm": PauseCode.NO_PERMISSION}
    return by_text.get(reason.lower(), PauseCode.OTHER)
