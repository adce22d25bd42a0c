"""Events: what the node tells without being asked; one bus carries them to every dialect."""

from typing import Annotated

from msgspec import UNSET, Struct, UnsetType

from vdsm.api.declare import ovirt
from vdsm.api.task import JobInfo
from vdsm.api.vm_types import VmStats


class IoError(Struct, frozen=True, kw_only=True):
    """The disk that stopped a VM."""

    alias: str
    name: str | UnsetType = UNSET
    path: str | UnsetType = UNSET


class VmStatusChanged(Struct, frozen=True, kw_only=True, tag_field="event", tag="vm.status"):
    """A VM's status changed (facts §1.8). `stats` is there when it started or was found again."""

    vm_id: Annotated[str, ovirt("vmId")]
    status: str
    pause_code: Annotated[str | UnsetType, ovirt("pauseCode")] = UNSET
    io_error: Annotated[IoError | UnsetType, ovirt("ioerror")] = UNSET
    exit_code: Annotated[int | UnsetType, ovirt("exitCode")] = UNSET
    exit_message: Annotated[str | UnsetType, ovirt("exitMessage")] = UNSET
    exit_reason: Annotated[int | UnsetType, ovirt("exitReason")] = UNSET
    time_offset_s: Annotated[int | UnsetType, ovirt("timeOffset", as_=str)] = UNSET
    stats: VmStats | UnsetType = UNSET


class MigrationProgressed(Struct, frozen=True, kw_only=True, tag_field="event", tag="vm.migration"):
    """How far a migration out of this host is; `downtime_ms`, once it is done, is how long the guest stood still."""

    vm_id: Annotated[str, ovirt("vmId")]
    progress: int
    """Percent."""
    post_copy: Annotated[bool, ovirt("postcopy")] = False
    downtime_ms: Annotated[int | UnsetType, ovirt("downtime")] = UNSET


class TaskChanged(Struct, frozen=True, kw_only=True, tag_field="event", tag="task.changed"):
    """A task moved on."""

    task_id: Annotated[str, ovirt("taskID")]
    verb: str
    state: Annotated[str, ovirt("taskState")]
    result: Annotated[str, ovirt("taskResult")]
    code: int
    message: str
    progress_percent: Annotated[float | UnsetType, ovirt("progress")] = UNSET


class DomainStatusChanged(Struct, frozen=True, kw_only=True, tag_field="event", tag="domain.status"):
    """A watched storage domain was found valid or invalid: the first verdict, then each that differs from the last."""

    domain_id: Annotated[str, ovirt("sdUUID")]
    valid: bool
    code: int
    """0, or the number of the failure."""
    message: str


class JobEnded(JobInfo, frozen=True, kw_only=True, tag_field="event", tag="job.ended"):
    """A job is done, failed or aborted (facts: storage §8.6)."""


VmEvent = VmStatusChanged | MigrationProgressed
Event = VmEvent | TaskChanged | DomainStatusChanged | JobEnded

OVIRT_NAMES: dict[type[Event], str] = {
    VmStatusChanged: "|virt|VM_status|",
    MigrationProgressed: "|virt|VM_migration_status|",
    TaskChanged: "|storage|task_status|",
    DomainStatusChanged: "|storage|domain_status|",
    JobEnded: "|jobs|status|",
}
"""The method of the JSON-RPC notification; the object's id follows."""
EVENTS: tuple[type[Event], ...] = tuple(OVIRT_NAMES)
