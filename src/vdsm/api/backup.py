"""The surface of backups of running VMs and of the checkpoints that they start from (facts §2.18)."""

from typing import Annotated, Literal, Protocol

from msgspec import UNSET, Meta, Struct, UnsetType

from vdsm.api.declare import Text, group, ovirt, verb
from vdsm.core.ids import Uuid, VmId

_Id = Uuid | UnsetType


class ScratchDisk(Struct, frozen=True, kw_only=True):
    """Where a disk's old contents are kept during a backup: a qcow2 image of the caller's, as large as the disk."""

    path: str
    type: Annotated[Literal["file", "block"], ovirt("type", words={"FILE": "file", "BLOCK": "block"})]
    domain_id: Annotated[Text, ovirt("domainID")] = UNSET
    image_id: Annotated[Text, ovirt("imageID")] = UNSET
    volume_id: Annotated[Text, ovirt("volumeID")] = UNSET


class BackupDisk(Struct, frozen=True, kw_only=True):
    """A disk to back up; `checkpoint` says whether its changes are tracked from now on."""

    domain_id: Annotated[_Id, ovirt("domainID")] = UNSET
    image_id: Annotated[_Id, ovirt("imageID")] = UNSET
    volume_id: Annotated[_Id, ovirt("volumeID")] = UNSET
    published_domain_id: Annotated[_Id, ovirt("sd_id")] = UNSET
    published_image_id: Annotated[_Id, ovirt("img_id")] = UNSET
    published_volume_id: Annotated[_Id, ovirt("vol_id")] = UNSET
    checkpoint: bool = False
    mode: Annotated[Literal["full", "incremental"] | UnsetType, ovirt("backup_mode")] = UNSET
    scratch_disk: ScratchDisk | UnsetType = UNSET


class BackupConfig(Struct, frozen=True, kw_only=True):
    """Which disks; what has changed since `from_checkpoint_id`, or all; `to_checkpoint_id` is where the next can begin.
    The guest's file systems are frozen for a moment when it can, and must be with `require_consistency`."""

    backup_id: Uuid
    disks: list[BackupDisk] = []
    from_checkpoint_id: _Id = UNSET
    to_checkpoint_id: _Id = UNSET
    parent_checkpoint_id: _Id = UNSET
    require_consistency: bool = False
    creation_time_s: Annotated[Annotated[int, Meta(ge=0)] | UnsetType, ovirt("creation_time")] = UNSET


class BackupInfo(Struct, frozen=True, kw_only=True):
    """Where the disks are served, by their images' ids, and the XML of the new checkpoint."""

    disks: dict[str, str]
    checkpoint: Text = UNSET


class CheckpointInfo(Struct, frozen=True, kw_only=True):
    """A checkpoint's XML."""

    checkpoint: str


class Checkpoint(Struct, frozen=True, kw_only=True):
    """A checkpoint to tell libvirt of again: by its XML, or by the backup that made it."""

    id: Uuid
    xml: Text = UNSET
    config: BackupConfig | UnsetType = UNSET


class CheckpointError(Struct, frozen=True, kw_only=True):
    """libvirt's error."""

    code: int
    message: str


class CheckpointsDone(Struct, frozen=True, kw_only=True):
    """The checkpoints that were treated, up to the first that failed."""

    checkpoint_ids: Annotated[list[str], ovirt("checkpoint_ids", declared="UUID")]
    error: Annotated[CheckpointError | UnsetType, ovirt("error", listed=True)] = UNSET


_KNOWN = ("no-such-vm", "vm-is-down", "wrong-state", "hypervisor-down", "vm-request-failed")
_FAILS = (*_KNOWN, "migration-in-progress")
_Vm = Annotated[VmId, ovirt("vmID"), "the VM's id"]
_Backup = Annotated[Uuid, ovirt("backup_id"), "the caller's name of the backup"]
_Ids = Annotated[list[Uuid], ovirt("checkpoint_ids"), "the base first"]


@group("backup", "/vms", invalid="backup-invalid")
class BackupApi(Protocol):
    """Disks of a running VM, served as they were at one moment. A VM has one backup at a time."""

    @verb("VM.start_backup", "POST /{vm_id}/backups", fails=(*_FAILS, "backup-failed", "inconsistent-checkpoint"))
    async def start(
        self, vm_id: _Vm, config: Annotated[BackupConfig, ovirt("config"), "disks and checkpoints"]
    ) -> BackupInfo:
        """Serve disks as they are now over NBD, until the backup is stopped."""

    @verb("VM.stop_backup", "DELETE /{vm_id}/backups/{backup_id}", fails=(*_FAILS, "backup-failed"))
    async def stop(self, vm_id: _Vm, backup_id: _Backup) -> None:
        """Stop serving; success, too, when there is no such backup."""

    @verb(
        "VM.backup_info",
        "GET /{vm_id}/backups/{backup_id}",
        fails=(*_FAILS, "no-such-backup", "no-such-checkpoint"),
    )
    async def get_info(
        self,
        vm_id: _Vm,
        backup_id: _Backup,
        checkpoint_id: Annotated[Uuid | None, ovirt("checkpoint_id"), "a checkpoint to tell of, too"] = None,
    ) -> BackupInfo:
        """Where the disks of a backup are served."""

    @verb("VM.list_checkpoints", "GET /{vm_id}/checkpoints", fails=(*_KNOWN, "checkpoint-failed"))
    async def list_checkpoints(self, vm_id: _Vm) -> list[Uuid]:
        """The ids of all checkpoints, the base first."""

    @verb("VM.dump_checkpoint", "GET /{vm_id}/checkpoints/{checkpoint_id}", fails=(*_KNOWN, "no-such-checkpoint"))
    async def dump_checkpoint(
        self, vm_id: _Vm, checkpoint_id: Annotated[Uuid, ovirt("checkpoint_id"), "the checkpoint's id"]
    ) -> CheckpointInfo:
        """A checkpoint's XML."""

    @verb("VM.delete_checkpoints", "POST /{vm_id}/delete-checkpoints", fails=(*_FAILS, "checkpoint-failed"))
    async def delete_checkpoints(self, vm_id: _Vm, checkpoint_ids: _Ids) -> CheckpointsDone:
        """Stop to track changes since these checkpoints; those that are not there count as deleted."""

    @verb("VM.redefine_checkpoints", "POST /{vm_id}/redefine-checkpoints", fails=(*_FAILS, "checkpoint-failed"))
    async def redefine_checkpoints(
        self, vm_id: _Vm, checkpoints: Annotated[list[Checkpoint], ovirt("checkpoints"), "the base first"]
    ) -> CheckpointsDone:
        """Tell libvirt of checkpoints that another host made; their bitmaps must be in the images."""
