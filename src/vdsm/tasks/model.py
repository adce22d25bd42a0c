"""What a task is and which state may follow which (facts §8.1, §8.2); running, saving and reporting are left to others.

init → preparing → acquiring → queued ⇄ running → finished
            │           │         │        │          │ (revert)
            └───────────┴─ aborting ───────┘          │
                             │   └→ waitrecover ─┐    │
                             └────→ racquiring ←─┴────┘
                                        │
                                   recovering → recovered | failed          (raborting cuts a recovery short → failed)
"""

from enum import Enum, StrEnum
from typing import Self

from msgspec import Struct
from msgspec.structs import replace

from vdsm.tasks.errors import InvalidRollback, TaskAborted, TaskStateTransition

SENTINEL = "rollback sentinel"
"""The name of the entry that marks where one operation's rollbacks begin; running it has no effect."""

FINISHING = "finish the work"
"""The name of entries that do what is left of work that goes one way only by now: they may run again and again."""

INITIAL_MESSAGE = "Task is initializing"


class TaskState(StrEnum):
    """The internal states, as they are written to disk."""

    UNKNOWN = "unknown"
    INIT = "init"
    PREPARING = "preparing"
    BLOCKED = "blocked"
    ACQUIRING = "acquiring"
    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    ABORTING = "aborting"
    WAIT_RECOVER = "waitrecover"
    RECOVERY_ACQUIRING = "racquiring"
    RECOVERING = "recovering"
    RECOVERY_ABORTING = "raborting"
    RECOVERED = "recovered"
    FAILED = "failed"

    @property
    def reported(self) -> str:
        """The word for `taskState`."""
        return _REPORTED[self][0]

    @property
    def reported_result(self) -> str:
        """The word for `taskResult`; empty while the task is not done."""
        return _REPORTED[self][1]

    @property
    def is_done(self) -> bool:
        return self in DONE_STATES

    @property
    def is_active(self) -> bool:
        """Whether the work itself may be going on, so that it can be stopped and then undone."""
        return self in ACTIVE_STATES

    def may_become(self, new: "TaskState") -> bool:
        return self in MOVES[new]


_S = TaskState

MOVES: dict[TaskState, frozenset[TaskState]] = {
    _S.UNKNOWN: frozenset(),
    _S.INIT: frozenset(),
    _S.PREPARING: frozenset({_S.INIT, _S.BLOCKED}),
    _S.BLOCKED: frozenset({_S.PREPARING}),
    _S.ACQUIRING: frozenset({_S.PREPARING, _S.ACQUIRING}),
    _S.QUEUED: frozenset({_S.ACQUIRING, _S.RUNNING}),
    _S.RUNNING: frozenset({_S.QUEUED}),
    _S.FINISHED: frozenset({_S.RUNNING, _S.PREPARING}),
    _S.ABORTING: frozenset({_S.PREPARING, _S.BLOCKED, _S.ACQUIRING, _S.QUEUED, _S.RUNNING}),
    _S.WAIT_RECOVER: frozenset({_S.ABORTING}),
    _S.RECOVERY_ACQUIRING: frozenset({_S.ABORTING, _S.FINISHED, _S.RECOVERY_ACQUIRING, _S.WAIT_RECOVER}),
    _S.RECOVERING: frozenset({_S.RECOVERY_ACQUIRING}),
    _S.RECOVERY_ABORTING: frozenset({_S.RECOVERY_ACQUIRING, _S.RECOVERING, _S.WAIT_RECOVER}),
    _S.RECOVERED: frozenset({_S.RECOVERING}),
    _S.FAILED: frozenset({_S.RECOVERING, _S.ABORTING, _S.RECOVERY_ABORTING}),
}
"""For each state, those that it may follow."""

DONE_STATES = frozenset({_S.FINISHED, _S.RECOVERED, _S.FAILED})
ACTIVE_STATES = MOVES[_S.ABORTING]

_REPORTED: dict[TaskState, tuple[str, str]] = {
    _S.UNKNOWN: ("unknown", ""),
    _S.INIT: ("init", ""),
    **dict.fromkeys(ACTIVE_STATES, ("running", "")),
    _S.FINISHED: ("finished", "success"),
    _S.ABORTING: ("aborting", ""),
    _S.WAIT_RECOVER: ("cleaning", ""),
    _S.RECOVERY_ACQUIRING: ("cleaning", ""),
    _S.RECOVERING: ("cleaning", ""),
    _S.RECOVERY_ABORTING: ("aborting", ""),
    _S.RECOVERED: ("finished", "cleanSuccess"),
    _S.FAILED: ("finished", "cleanFailure"),
}


class Policy(StrEnum):
    """The three words of each policy (facts §8.2)."""

    NONE = "none"
    MANUAL = "manual"
    AUTO = "auto"


class Priority(StrEnum):
    """Kept in the record; all tasks are served in the order of their arrival."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class TaskKind(Struct, frozen=True):
    """The tag and the policies that one kind of task has."""

    tag: str
    persist: Policy
    clean: Policy
    recovery: Policy = Policy.AUTO
    priority: Priority = Priority.LOW
    can_stop: bool = True

    @property
    def is_job(self) -> bool:
        return self.tag in JOB_TYPES


SPM = TaskKind("spm", persist=Policy.AUTO, clean=Policy.MANUAL)
HSM = TaskKind("hsm", persist=Policy.NONE, clean=Policy.AUTO)
SDM = TaskKind("sdm", persist=Policy.NONE, clean=Policy.AUTO)
VIRT = TaskKind("virt", persist=Policy.NONE, clean=Policy.AUTO, can_stop=False)
VIRT_DATA = TaskKind("virt", persist=Policy.NONE, clean=Policy.AUTO)
"""Work on the disks of VMs that do not run."""
JOB_TYPES = {SDM.tag: "storage", VIRT.tag: "virt"}
"""The kinds of tasks that are jobs: their callers chose the ids."""


class JobRecord(Struct, frozen=True):
    """A job by name and description; jobs are never run again from disk."""

    name: str
    description: str = ""


class Rollback(Struct, frozen=True):
    """One step of undoing: what to call with which texts (facts §8.5)."""

    name: str
    module: str
    object: str
    function: str
    params: tuple[str, ...]


class TaskRecord(Struct, frozen=True):
    """All of a task that can survive its process. Values: every change makes a new record."""

    task_id: str
    name: str
    kind: TaskKind
    store: str = ""
    state: TaskState = TaskState.INIT
    jobs: tuple[JobRecord, ...] = ()
    rollbacks: tuple[Rollback, ...] = ()
    code: int = 0
    message: str = INITIAL_MESSAGE
    result: str = ""

    def move(self, *states: TaskState) -> Self:
        """The record after these moves; one that the table lacks raises TaskStateTransition."""
        state = self.state
        for new in states:
            if not state.may_become(new):
                raise TaskStateTransition(old=state, new=new)
            state = new
        return replace(self, state=state)

    def fail(self, code: int, message: str) -> Self:
        """The record on its way to being undone, with the reason."""
        return replace(self.move(TaskState.ABORTING), code=code, message=format_failure(code, message))

    def queue(self) -> Self:
        """A new record ready for a worker; one without jobs is done at once."""
        if not self.jobs:
            return self.move(TaskState.PREPARING).finish("")
        return self.move(TaskState.PREPARING, TaskState.ACQUIRING, TaskState.QUEUED)

    def begin_revert(self) -> Self:
        """The record of a finished task (or one that waits for its recovery) on its way back."""
        if self.state is TaskState.RECOVERY_ACQUIRING:
            raise TaskStateTransition(old=self.state, new=TaskState.RECOVERY_ACQUIRING)
        return replace(self.move(TaskState.RECOVERY_ACQUIRING), message="reverted on request", result="")

    def begin_job(self, number: int) -> Self:
        """The record with job `number` (from 1) running, after the one before it when there was one."""
        moves = (TaskState.RUNNING,) if number == 1 else (TaskState.QUEUED, TaskState.RUNNING)
        return replace(self.move(*moves), message=f"running job {number} of {len(self.jobs)}")

    def finish(self, result: str) -> Self:
        """The record of a task whose work is done; `result` is that of its last job."""
        left = tuple(entry for entry in self.rollbacks if entry.name != FINISHING)
        message = format_success(len(self.jobs))
        return replace(self.move(TaskState.FINISHED), code=0, message=message, result=result, rollbacks=left)

    def request_stop(self) -> Self:
        """The record once somebody asked to stop: the work gives way to its rollbacks, a recovery is cut short."""
        if self.is_finishing:
            raise TaskStateTransition(old=self.state, new=TaskState.ABORTING)
        if self.state in MOVES[TaskState.RECOVERY_ABORTING]:
            return self.move(TaskState.RECOVERY_ABORTING)
        stopped = TaskAborted()
        return self.fail(stopped.number, str(stopped))

    def begin_recovery(self) -> Self:
        """The next step of a task that was aborted, reverted or found in recovery; its recovery policy decides."""
        if self.state is TaskState.RECOVERING:
            return self
        if self.state is TaskState.RECOVERY_ABORTING:
            return self.move(TaskState.FAILED)
        if self.state is TaskState.ABORTING:
            if self.kind.recovery is Policy.NONE:
                return self.move(TaskState.FAILED)
            if self.kind.recovery is Policy.MANUAL:
                return self.move(TaskState.WAIT_RECOVER)
        return self.move(TaskState.RECOVERY_ACQUIRING, TaskState.RECOVERING)

    def end_recovery(self, *, clean: bool) -> Self:
        """The record after its rollbacks: `recovered` when all of them ran and nobody cut them short."""
        good = clean and self.state is TaskState.RECOVERING
        return self.move(TaskState.RECOVERED if good else TaskState.FAILED)

    def give_up(self) -> Self:
        """The record in `failed`, wherever it was: the one way around the table, for what nothing can be done about."""
        return replace(self, state=TaskState.FAILED)

    def complete(self) -> Self:
        """A record as loaded, with the words that its files do not keep."""
        if self.state in (TaskState.RECOVERED, TaskState.FAILED):
            lost = TaskAborted(reason="it ended before this daemon started, the cause was not kept")
            return replace(self, code=lost.number, message=format_failure(lost.number, str(lost)))
        if self.state is TaskState.FINISHED:
            return replace(self, message=self.message or format_success(len(self.jobs)))
        return replace(self, message=INITIAL_MESSAGE)

    def push(self, rollback: Rollback) -> Self:
        return replace(self, rollbacks=(*self.rollbacks, rollback))

    def replace_down_to_sentinel(self, *rollbacks: Rollback) -> Self:
        """The record with all entries from the last sentinel on replaced; none there raises InvalidRollback."""
        positions = [number for number, entry in enumerate(self.rollbacks) if entry.name == SENTINEL]
        if not positions:
            raise InvalidRollback(reason=f"task {self.task_id} has no {SENTINEL!r}")
        return replace(self, rollbacks=(*self.rollbacks[: positions[-1]], *rollbacks))

    def drop_rollback(self, position: int) -> Self:
        return replace(self, rollbacks=self.rollbacks[:position] + self.rollbacks[position + 1 :])

    @property
    def is_finishing(self) -> bool:
        """Whether the work is past all taking back, though not at its end."""
        return self.state.is_active and any(entry.name == FINISHING for entry in self.rollbacks)

    @property
    def is_persistent(self) -> bool:
        return bool(self.store) and self.kind.persist is Policy.AUTO

    @property
    def is_cleaned_by_itself(self) -> bool:
        """Whether the record on disk goes as soon as the task is done."""
        return self.is_persistent and self.kind.clean is Policy.AUTO and self.state.is_done


def format_success(job_count: int) -> str:
    """A success's text as managers know it."""
    return f"{job_count} jobs completed successfully" if job_count else "OK"


def format_failure(code: int, message: str) -> str:
    """A failure's text as managers know it."""
    return f"value={message} abortedcode={code}"


class LoadedAction(Enum):
    """What the next SPM does with a task that it finds (facts §8.4)."""

    NOTHING = "nothing"
    STOP = "stop"
    """Stop it: its rollbacks run."""
    RESTART_RECOVERY = "restart recovery"
    GIVE_UP = "give up"
    """It ends in `failed`; there is nothing that could be run."""


def plan_loaded(state: TaskState) -> LoadedAction:
    """What to do with a task found in this state.

    `aborting` is stopped like a running one (the facts' table leaves it open): its work had stopped and none of its
    rollbacks had begun, and giving up would leave half-made things behind.
    """
    if state.is_done or state is TaskState.WAIT_RECOVER:
        return LoadedAction.NOTHING
    if state.is_active or state is TaskState.ABORTING:
        return LoadedAction.STOP
    if state in (TaskState.RECOVERY_ACQUIRING, TaskState.RECOVERING):
        return LoadedAction.RESTART_RECOVERY
    return LoadedAction.GIVE_UP
