"""From the domains that libvirt has to the VMs that this daemon knows (facts §2.8), as a plan.

Nothing is ever destroyed: a living domain that cannot be understood is adopted with what is known of it, and says so.
"""

from collections.abc import Iterable
from enum import Enum

from msgspec import Struct
from msgspec.structs import replace

from vdsm.virt.domain import AGENT_CHANNEL, GUESTFS_CHANNEL, DomainInvalid, DomainView, parse_domain
from vdsm.virt.lifecycle import ExitInfo, ExitReason, PauseCode, Status, VmState, exit_of_shut_off
from vdsm.virt.metadata import VmMetadata
from vdsm.virt.ports import DomainRecord, DomainState

NEVER_STARTED = "The daemon was interrupted while it started the VM"

_RUNNING_POST_COPY = 10
_PAUSED_MIGRATION, _PAUSED_IO_ERROR, _PAUSED_STARTING, _PAUSED_POST_COPY, _PAUSED_POST_COPY_FAILED = 2, 5, 11, 12, 13


class Belonging(Enum):
    """Whose a domain is."""

    OURS = "ours"
    EXTERNAL = "external"
    """Somebody else's: tracked read-only while it runs."""
    HIDDEN = "hidden"
    """Of no interest: libguestfs's appliances, and others' domains that do not run."""


class Stage(Enum):
    """How far a VM is that comes from another host."""

    EXPECTED = "expected"
    COMING = "coming"
    HERE = "here"
    SPLIT = "split"
    """It ran here before its memory was here, and the rest of that is lost."""
    LOST = "lost"


class Adoption(Struct, frozen=True):
    """One VM to take over.

    `asks_why` says that the pause code must still be asked for, `writes_exit` that its end is not recorded yet,
    `problem` why its definition could not be understood.
    """

    record: DomainRecord
    view: DomainView | None
    state: VmState
    is_external: bool
    asks_why: bool = False
    writes_exit: bool = False
    problem: str = ""

    @property
    def names_owner(self) -> bool:
        """Whether the domain itself tells whose it is."""
        return self.view is not None and self.view.metadata is not None and "owner" in self.view.metadata.values


def plan_recovery(records: Iterable[DomainRecord], owner: str) -> list[Adoption]:
    """What to adopt of these domains for the daemon of that root."""
    plans = (plan_adoption(record, owner) for record in records)
    return [plan for plan in plans if plan is not None]


def plan_adoption(record: DomainRecord, owner: str) -> Adoption | None:
    """How to adopt one domain, or None to leave it alone."""
    try:
        view = parse_domain(record.xml)
    except DomainInvalid as error:
        return _adopt_unreadable(record, str(error))
    belonging = judge(record, view, owner)
    if belonging is Belonging.HIDDEN:
        return None
    adoption = Adoption(record, view, VmState(), is_external=belonging is Belonging.EXTERNAL)
    return _with_state(adoption, view.metadata)


def judge(record: DomainRecord, view: DomainView, owner: str) -> Belonging:
    """Whose the domain is: ours when its metadata names this root; oVirt's without an owner belong to the root `/`.

    A domain with the channel of oVirt's agent and no metadata at all is taken as the root's too, as the facts do.
    """
    if GUESTFS_CHANNEL in view.channels:
        return Belonging.HIDDEN
    holder = view.metadata.owner if view.metadata is not None else "/" if AGENT_CHANNEL in view.channels else None
    if holder == owner:
        return Belonging.OURS
    return Belonging.EXTERNAL if is_alive(record.state) else Belonging.HIDDEN


def is_alive(state: DomainState) -> bool:
    """Whether a qemu process stands behind the domain."""
    return state is not DomainState.SHUT_OFF


def state_of(state: DomainState, reason: int) -> VmState:
    """The state that libvirt's tells of a living domain; a crashed guest that libvirt preserves stands still."""
    if state is DomainState.CRASHED:
        return VmState(Status.PAUSED, cpus_stopped=True, pause_code=PauseCode.OTHER)
    if state is not DomainState.PAUSED:
        incoming = state is DomainState.RUNNING and reason == _RUNNING_POST_COPY
        return VmState(Status.MIGRATION_DESTINATION if incoming else Status.UP)
    if reason == _PAUSED_MIGRATION:
        return VmState(Status.MIGRATION_SOURCE, cpus_stopped=True)
    if reason == _PAUSED_POST_COPY:
        return VmState(Status.MIGRATION_SOURCE, cpus_stopped=True, pause_code=PauseCode.POST_COPY, post_copy=True)
    codes = {_PAUSED_IO_ERROR: PauseCode.OTHER, _PAUSED_POST_COPY_FAILED: PauseCode.POST_COPY}
    return VmState(Status.PAUSED, cpus_stopped=True, pause_code=codes.get(reason, PauseCode.BY_REQUEST))


def judge_arrival(record: DomainRecord) -> Stage:
    """How far a VM from another host is, by its domain here: one that never ran is off for no reason."""
    if not is_alive(record.state):
        return Stage.LOST if record.reason else Stage.EXPECTED
    if record.state is DomainState.PAUSED:
        if record.reason in (_PAUSED_MIGRATION, _PAUSED_STARTING):
            return Stage.COMING
        return Stage.SPLIT if record.reason == _PAUSED_POST_COPY_FAILED else Stage.HERE
    return Stage.COMING if record.reason == _RUNNING_POST_COPY else Stage.HERE


def exit_of(record: DomainRecord, metadata: VmMetadata | None) -> ExitInfo:
    """How a domain that is off ended: as recorded, or else as libvirt tells."""
    recorded = None if metadata is None else metadata.exit
    if recorded is not None:
        return recorded
    reason = exit_of_shut_off(record.reason)
    never_ran = reason is ExitReason.GENERIC_ERROR and record.reason == 0
    return ExitInfo.of(reason, NEVER_STARTED if never_ran else "")


def _with_state(adoption: Adoption, metadata: VmMetadata | None) -> Adoption:
    record = adoption.record
    if metadata is not None and metadata.is_incoming and metadata.exit is None and not adoption.is_external:
        match judge_arrival(record):
            case Stage.EXPECTED | Stage.COMING:
                return replace(adoption, state=VmState(Status.MIGRATION_DESTINATION))
            case Stage.LOST:
                state = VmState(Status.DOWN, exit=ExitInfo.of(ExitReason.MIGRATION_FAILED))
                return replace(adoption, state=state, writes_exit=True)
    if is_alive(record.state):
        asks = record.state is DomainState.PAUSED and record.reason == _PAUSED_IO_ERROR
        state = state_of(record.state, record.reason)
        if metadata is not None and metadata.migrates_to is not None and not adoption.is_external:
            state = replace(state, status=Status.MIGRATION_SOURCE)
        if metadata is not None and metadata.saved_while is not None and not adoption.is_external:
            state = replace(state, status=Status.SAVING)
        return replace(adoption, state=state, asks_why=asks)
    unrecorded = metadata is None or metadata.exit is None
    state = VmState(Status.DOWN, exit=exit_of(record, metadata))
    return replace(adoption, state=state, writes_exit=unrecorded and not adoption.is_external)


def _adopt_unreadable(record: DomainRecord, problem: str) -> Adoption | None:
    """Nobody knows whose it is, so it is only watched; one that does not run is none of our business."""
    if not is_alive(record.state):
        return None
    return Adoption(record, None, state_of(record.state, record.reason), is_external=True, problem=problem)
