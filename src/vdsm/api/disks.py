"""The surface of disks of VMs that run: snapshots of them, and what guests write through before one is taken."""

from typing import Annotated, Protocol

from msgspec import UNSET, Meta, Struct

from vdsm.api.declare import Text, group, ovirt, verb, xmlrpc
from vdsm.api.storage_types import VolumeSize
from vdsm.core.ids import Uuid, VmId


class SnapshotDrive(Struct, frozen=True, kw_only=True):
    """A disk's volume now, and the one that was made to become its top; both of the same image.

    Disks that are named by the ids of LUNs, or by ids of their own, are not found.
    """

    domain_id: Annotated[Text, ovirt("domainID")] = UNSET
    image_id: Annotated[Text, ovirt("imageID")] = UNSET
    base_volume_id: Annotated[Text, ovirt("baseVolumeID")] = UNSET
    volume_id: Annotated[Text, ovirt("volumeID")] = UNSET
    base_lun_id: Annotated[Text, ovirt("baseGUID")] = UNSET
    lun_id: Annotated[Text, ovirt("GUID")] = UNSET
    base_disk_id: Annotated[Text, ovirt("baseUUID")] = UNSET
    disk_id: Annotated[Text, ovirt("UUID")] = UNSET


class ActiveVolume(Struct, frozen=True, kw_only=True):
    """A disk of a VM, by the volume that the guest writes to."""

    pool_id: Annotated[str, ovirt("poolID")]
    domain_id: Annotated[str, ovirt("domainID")]
    image_id: Annotated[str, ovirt("imageID")]
    volume_id: Annotated[str, ovirt("volumeID")]
    device: Text = "disk"


_Size = Annotated[int, Meta(ge=1, le=1 << 62)]
_Bandwidth = Annotated[int, Meta(ge=0, le=1 << 20)]
_Minutes = Annotated[int, Meta(ge=1, le=1 << 20)]
_FAILS = ("no-such-vm", "vm-is-down", "wrong-state")
_REPLICATION = (
    *("migration-in-progress", "image-unknown", "disk-holds-lease", "disk-is-transient"),
    "replication-failed",
)
_AGENT = ("agent-not-responding", "unsupported-by-agent")
_Vm = Annotated[VmId, ovirt("vmID"), "the VM's id"]


@group("disk", "/vms")
class DiskApi(Protocol):
    """Disks of a VM that runs. What a daemon that is killed meanwhile leaves half done, the next one ends."""

    @verb(
        "VM.snapshot",
        "POST /{vm_id}/snapshot",
        fails=(*_FAILS, "migration-in-progress", "job-exists", "memory-handle-invalid"),
    )
    @xmlrpc("snapshot", "vm_id drives memory frozen")
    async def snapshot(
        self,
        vm_id: _Vm,
        drives: Annotated[list[SnapshotDrive], ovirt("snapDrives"), "the disks, all at the same moment"],
        memory: Annotated[
            str | None,
            ovirt("snapMemory"),
            "where the memory goes, too: a handle as VM.hibernate takes it",
        ] = None,
        frozen: Annotated[bool, "the caller froze the guest's file systems, and thaws them"] = False,
        job_id: Annotated[Uuid | None, ovirt("jobUUID"), "the job's id; without one it gets any"] = None,
        timeout_minutes: Annotated[_Minutes, ovirt("timeout"), "for the memory"] = 30,
        freeze_timeout_minutes: Annotated[
            _Minutes, ovirt("freeze_timeout"), "how long file systems may be frozen before it is given up"
        ] = 8,
    ) -> None:
        """Begin to put new tops on disks: a job, which fails with 48. Disks that have their new top already stay. While
        its memory is written the VM stands still, and is not frozen before."""

    @verb(
        "VM.merge",
        "POST /{vm_id}/merge",
        fails=(*_FAILS, "image-unknown", "merge-failed", "merge-base-too-small"),
    )
    @xmlrpc("merge", "vm_id disk base_id top_id bandwidth_mib job_id")
    async def merge(
        self,
        vm_id: _Vm,
        disk: Annotated[ActiveVolume, ovirt("drive"), "the disk"],
        base_id: Annotated[Uuid, ovirt("baseVolUUID"), "the volume that stays"],
        top_id: Annotated[Uuid, ovirt("topVolUUID"), "the uppermost volume that goes"],
        bandwidth_mib: Annotated[_Bandwidth, ovirt("bandwidth"), "at most so many MiB/s, 0 for any"] = 0,
        job_id: Annotated[Uuid | None, ovirt("jobUUID"), "the job's id; without one it gets any"] = None,
    ) -> None:
        """Begin to write layers of a disk into the volume below: a job among the VM's figures until it is over, however
        that is; the volumes tell then which ones are left. They are for the caller to remove."""

    @verb("VM.diskReplicateStart", "POST /{vm_id}/replicate", fails=(*_FAILS, *_REPLICATION))
    @xmlrpc("diskReplicateStart", "vm_id source replica")
    async def start_replication(
        self,
        vm_id: _Vm,
        source: Annotated[ActiveVolume, ovirt("srcDisk"), "the disk"],
        replica: Annotated[ActiveVolume, ovirt("dstDisk"), "the top of a copy of the disk's chain"],
        extend: Annotated[bool, ovirt("needExtend"), "of no effect: volumes that are files grow by themselves"] = True,
    ) -> None:
        """Begin to write what the disk's top has, and gets, to the replica, too."""

    @verb(
        "VM.diskReplicateFinish",
        "POST /{vm_id}/finish-replication",
        fails=(*_FAILS, *_REPLICATION, "replication-not-in-progress", "replica-not-ready", "change-disk-failed"),
    )
    @xmlrpc("diskReplicateFinish", "vm_id source target")
    async def finish_replication(
        self,
        vm_id: _Vm,
        source: Annotated[ActiveVolume, ovirt("srcDisk"), "the disk"],
        target: Annotated[ActiveVolume, ovirt("dstDisk"), "its replica; the disk itself to drop that"],
    ) -> None:
        """Let the guest write to the replica alone, or to what it had; the other image is released."""

    @verb(
        "VM.diskSizeExtend",
        "POST /{vm_id}/extend-disk",
        fails=(*_FAILS, "image-unknown", "resize-refused", "update-device-failed"),
        invalid="resize-refused",
    )
    @xmlrpc("diskSizeExtend", "vm_id disk size_bytes", member="size")
    async def extend(
        self,
        vm_id: _Vm,
        disk: Annotated[ActiveVolume, ovirt("driveSpecs"), "the disk"],
        size_bytes: Annotated[_Size, ovirt("newSize", as_=str, text_only=True), "new size"],
    ) -> str:
        """Let the guest see a larger disk, and tell its size then. A raw volume has to be extended before. With a blank
        VM id, the volume's record alone tells the size from now on."""

    @verb("VM.refresh_disk", "POST /{vm_id}/refresh-disk", fails=("no-such-vm", "image-unknown", "disk-refresh-failed"))
    async def refresh(self, vm_id: _Vm, disk: Annotated[ActiveVolume, ovirt("drive"), "the disk"]) -> VolumeSize:
        """The size of a disk's volume, read from storage now."""

    @verb("VM.getDiskAlignment", "POST /{vm_id}/disk-alignment", fails=("only-without-vm",))
    @xmlrpc("getDiskAlignment", "vm_id disk", member="alignment")
    async def get_alignment(
        self, vm_id: _Vm, disk: Annotated[ActiveVolume, ovirt("disk"), "the disk"]
    ) -> dict[str, bool]:
        """Whether each partition of a disk that no VM uses begins at a multiple of 64 KiB; `vm_id` is all zeros."""

    @verb("VM.freeze", "POST /{vm_id}/freeze", fails=(*_FAILS, *_AGENT, "freeze-failed"))
    @xmlrpc("freeze", "vm_id")
    async def freeze(self, vm_id: _Vm) -> None:
        """Have the guest's agent write all through, and hold back further writes."""

    @verb("VM.thaw", "POST /{vm_id}/thaw", fails=(*_FAILS, *_AGENT, "thaw-failed"))
    @xmlrpc("thaw", "vm_id")
    async def thaw(self, vm_id: _Vm) -> None:
        """Let the guest write again."""
