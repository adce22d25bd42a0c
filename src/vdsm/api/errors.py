"""Failures of hosts, VMs and the call itself (facts: rpc §10); storage and tasks declare their own families."""

from vdsm.core.errors import Failure, NodeError


class _OfVm(NodeError):
    """What is told of a VM."""

    vm_id: str


class _VmFailure(_OfVm):
    """What a reason tells of, of a VM."""

    reason: str


class _OfDisk(NodeError):
    """What is told of a disk."""

    disk: str


class _Misfit(NodeError):
    """A value that does not fit: `where` names the parameter."""

    where: str
    reason: str


class NoSuchVm(_OfVm, number=1, http=404, text="Virtual machine does not exist: {{'vmId': '{vm_id}'}}"):
    """No VM of that id is known to this daemon."""


class VmExists(_OfVm, number=4, http=409, text="Virtual machine already exists: {{'vmId': '{vm_id}'}}"):
    """A VM of that id is already here."""


class VmIsDown(_OfVm, number=1, http=409, text="Virtual machine is down: {{'vmId': '{vm_id}'}}"):
    """The VM is down; only its exit information and `destroy` are left."""


class VmIsNotRunning(_OfVm, number=6, http=409, text="Virtual machine is not running: {{'vmId': '{vm_id}'}}"):
    """The VM is down, or does not run yet."""


class CreateFailed(Failure, number=9, http=400, text="Error creating the requested VM: {reason}"):
    """The VM cannot be created as described."""


class UnsupportedVmType(NodeError, number=5, http=400, text="Unsupported VM type: {vm_type}"):
    """Only `kvm` is a known kind of VM."""

    vm_type: str


class MissingParameter(NodeError, number=11, http=400, text="Missing required parameter: {name}"):
    """A mandatory key is missing or empty."""

    name: str


class WrongState(NodeError, number=16, http=409, retry=True, text="{request} is not possible while the VM is {status}"):
    """The request does not fit what the VM is doing now."""

    request: str
    status: str


class TicketFailed(Failure, number=18, http=409, text="Failed to set the display ticket: {reason}"):
    """The display's password could not be set."""


class AgentNotResponding(_OfVm, number=19, http=409, retry=True, text="Guest agent non-responsive"):
    """No agent in the guest listens; what was to be said was sent all the same where it could be."""


class DestroyFailed(_VmFailure, number=42, retry=True, text="Failed to destroy VM {vm_id}: {reason}"):
    """The VM could not be ended; its qemu may be stuck in the kernel."""


class ResetFailed(_VmFailure, number=90, retry=True, text="Failed to reset VM {vm_id}: {reason}"):
    """The VM could not be reset."""


class MigrationInProgress(_OfVm, number=51, http=409, retry=True, text="Not possible while VM {vm_id} migrates"):
    """The VM is on its way to another host, or comes from one."""


class MigrationFailed(NodeError, number=12, http=409, text="Fatal error during migration: {reason}"):
    """The VM stays where it is; `failure` is the number that its migration's status tells."""

    reason: str
    failure: int = 12


class MigrationCancelFailed(Failure, number=47, http=409, text="Migration not in progress: {reason}"):
    """There is no migration to cancel, or it cannot be taken back any more."""


class MemoryHandleInvalid(_Misfit, number=100, http=400, text="{where}: {reason}"):
    """The volumes for a VM's memory are not told as they have to be."""


class NotMigrating(_OfVm, number=81, http=409, text="Migration of VM {vm_id} is not in progress"):
    """The VM does not migrate."""


class MigrationLimit(NodeError, number=82, http=409, retry=True, text="Incoming migration limit exceeded: {limit}"):
    """So many VMs are on their way to this host already."""

    limit: int


class TransientDisks(NodeError, number=59, http=409, text="Not possible with transient disks: {disks}"):
    """What a guest wrote to a transient disk is on this host only."""

    disks: str


class SnapshotFailed(Failure, number=48, http=409, text="Snapshot failed: {reason}"):
    """The disks are as they were, or as libvirt tells."""


class ImageUnknown(NodeError, number=13, http=404, text="Drive image file could not be found: {what}"):
    """No disk of the VM has that volume as its active one."""

    what: str


class MergeFailed(Failure, number=52, http=409, text="Merge failed: {reason}"):
    """The disk's chain is as libvirt tells; nothing of it is lost."""


class MergeBaseTooSmall(NodeError, number=79, http=409, text="Base volume {volume_id} has to be extended first"):
    """It is raw and smaller than what is to be merged into it."""

    volume_id: str


class ReplicationFailed(Failure, number=55, http=409, text="Replication of the disk failed: {reason}"):
    """The guest writes to the disk as before."""


class ReplicationNotInProgress(_OfDisk, number=88, http=409, text="Disk {disk} has no replica"):
    """Nothing is there to be finished."""


class ReplicaNotReady(_OfDisk, number=40, http=409, retry=True, text="The replica of {disk} lacks data still"):
    """The guest cannot go over to it yet."""


class DiskHoldsLease(_OfDisk, number=44, http=409, text="Not possible: disk {disk} holds a lease on its volume"):
    """The lease would stay with the volume that the disk leaves."""


class DiskIsTransient(_OfDisk, number=59, http=409, text="Not possible: disk {disk} is transient"):
    """What is written to it is thrown away."""


class ResizeRefused(_Misfit, number=58, http=400, text="Bad size of a disk: {where}: {reason}"):
    """It is no number of bytes, or less than the disk has."""


class DiskRefreshFailed(Failure, number=1640, http=409, text="Failed to read the disk anew: {reason}"):
    """Its size on storage is not known."""


class UnsupportedByAgent(_VmFailure, number=75, http=409, text="The agent of VM {vm_id} cannot do that: {reason}"):
    """The guest's agent, or this libvirt, does not know the command."""


class FreezeFailed(_VmFailure, number=76, http=409, text="Failed to freeze VM {vm_id}: {reason}"):
    """The guest's file systems are not frozen, as far as anybody can tell."""


class ThawFailed(_VmFailure, number=77, http=409, retry=True, text="Failed to thaw VM {vm_id}: {reason}"):
    """The guest's file systems may be frozen still."""


class PlugDiskFailed(Failure, number=45, http=409, text="Failed to plug the disk: {reason}"):
    """The disk is not there; nothing of it is left."""


class UnplugDiskFailed(Failure, number=46, http=409, text="Failed to unplug the disk: {reason}"):
    """The disk is still there, or there is no such disk."""


class PlugNicFailed(Failure, number=49, http=409, text="Failed to plug the network card: {reason}"):
    """The network card is not there."""


class UnplugNicFailed(Failure, number=50, http=409, text="Failed to unplug the network card: {reason}"):
    """The network card is still there, or there is no such card."""


class PlugMemoryFailed(Failure, number=70, http=409, text="Failed to plug memory: {reason}"):
    """The module is not there."""


class UnplugMemoryFailed(Failure, number=85, http=409, text="Failed to unplug memory: {reason}"):
    """The guest could not be asked to let go of the module."""


class PlugLeaseFailed(Failure, number=86, http=409, text="Failed to plug the lease: {reason}"):
    """The VM does not hold the lease."""


class UnplugLeaseFailed(Failure, number=87, http=409, text="Failed to unplug the lease: {reason}"):
    """The VM holds the lease still, or never did."""


class ImageIsEmpty(NodeError, number=13, http=404, text="There is no such disc: {path}"):
    """What should be put into a drive is no file."""

    path: str


class ChangeDiskFailed(Failure, number=41, http=409, text="Failed to change the disc: {reason}"):
    """The drive holds what it held before."""


class CdImageFailed(Failure, number=1630, http=409, text="The disc's image cannot be used: {reason}"):
    """The image could not be prepared; the drive holds what it held before."""


class DeviceNotUpdatable(NodeError, number=44, http=400, text="Devices of type {type} cannot be updated"):
    """Only network cards and displays can."""

    type: str


class OnlyWithoutVm(NodeError, number=44, http=400, text="Only possible with the id of no VM (all zeros)"):
    """A disk that a VM may be writing to is not looked at."""


class UpdateDeviceFailed(Failure, number=56, http=409, text="Failed to update the device: {reason}"):
    """The device is as before."""


class VmRequestFailed(Failure, number=100, http=409, text="General Exception:"):
    """The hypervisor refused a request on a VM."""


class SecretBadRequest(_Misfit, number=72, http=400, text="Bad secret request: {where}: {reason}"):
    """A secret is not as secrets are; none was changed."""


class SecretRegisterFailed(Failure, number=73, http=409, text="Failed to register secrets: {reason}"):
    """libvirt refused one; those before it are registered."""


class SecretUnregisterFailed(Failure, number=74, http=409, text="Failed to unregister secrets: {reason}"):
    """libvirt did not let one go; those before it are gone."""


class ExternalDataFailed(NodeError, number=89, http=409, text="External data of kind {kind!r}: {reason}"):
    """What a VM's TPM or its firmware keeps cannot be told, or is not what they keep."""

    kind: str
    reason: str


class BalloonFailed(_Misfit, number=53, http=400, text="Failed to set the balloon: {where}: {reason}"):
    """The memory balloon's target could not be set."""


class CpuTuneFailed(_Misfit, number=62, http=400, text="Failed to tune the processors: {where}: {reason}"):
    """A limit of the VM's processors could not be set."""


class CpuCountFailed(_Misfit, number=60, http=409, text="Failed to set the CPUs: {where}: {reason}"):
    """Not all processors are there, or gone; a guest that is slow may follow later."""


class VmPolicyFailed(_Misfit, number=63, http=400, text="Failed to update the VM's policy: {where}: {reason}"):
    """What the VM may use at most could not be recorded."""


class IoTuneFailed(_Misfit, number=64, http=400, text="Failed to tune disks: {where}: {reason}"):
    """Limits of the VM's disks could not be read, or set: then they are as before."""


class BackupFailed(Failure, number=1600, http=409, text="Backup failed: {reason}"):
    """The backup was not started, or goes on; nothing of one that was not started is left."""


class BackupInvalid(_Misfit, number=100, http=400, text="{where}: {reason}"):
    """A value of a backup's or checkpoint's description does not fit; `where` names it."""


class NoSuchBackup(NodeError, number=1601, http=404, text="VM {vm_id} has no backup {backup_id}"):
    """The VM has no backup of that id."""

    vm_id: str
    backup_id: str


class CheckpointFailed(Failure, number=1610, http=409, text="Checkpoint failed: {reason}"):
    """Checkpoints could not be read or told of."""


class NoSuchCheckpoint(NodeError, number=1611, http=404, text="VM {vm_id} has no checkpoint {checkpoint_id}"):
    """The VM has no checkpoint of that id."""

    vm_id: str
    checkpoint_id: str


class InconsistentCheckpoint(Failure, number=1612, http=409, text="Checkpoints are of no use: {reason}"):
    """The bitmaps of the checkpoints are missing or not whole: a full backup is needed."""


class HardwareInfoFailed(Failure, number=57, text="Failed to read hardware information: {reason}"):
    """The machine's identity could not be read."""
