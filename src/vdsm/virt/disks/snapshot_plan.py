"""What a snapshot of disks is to do, and the note of it that survives the daemon (facts §2.14); pure."""

from collections.abc import Sequence
from typing import Self

import msgspec
from msgspec import Struct, UnsetType
from msgspec.structs import replace

from vdsm.api.disks import SnapshotDrive
from vdsm.core.ids import BLANK_UUID, is_uuid
from vdsm.virt.disks.drives import Drive, list_drives
from vdsm.virt.domain import DomainView
from vdsm.virt.metadata import VmMetadata, VolumeRef, read_volume
from vdsm.virt.ports import PreparedImage
from vdsm.virt.saved import MemoryVolumes

KEY = "snapshot_job"
"""Where a VM's metadata has the note."""


class CannotSnapshot(ValueError):
    """A disk is not fit for this; the text says which and why."""


class NewTop(Struct, frozen=True):
    """A disk, and the volume that is to become its top."""

    drive: Drive
    volume: VolumeRef


class SnapshotRecord(Struct, frozen=True, kw_only=True):
    """A snapshot under way, in oVirt's words. Times in seconds, that of the start on the monotonic clock, as text."""

    startTime: str
    timeout: str
    freezeTimeout: str
    jobUUID: str
    frozen: bool = False
    abort: bool = False
    completed: bool = False
    memoryParams: dict[str, dict[str, str]] = {}
    memoryVolPath: str | None = None
    memoryVol: dict[str, str] | None = None
    newDrives: dict[str, dict[str, str | None]] = {}
    """By target name; before libvirt is asked there are none."""
    vmDrives: dict[str, tuple[str, str]] = {}
    """By target name, the disk's XML and its volume before."""

    def encode(self) -> str:
        return msgspec.json.encode(self).decode()

    @property
    def freezes(self) -> bool:
        """Whether the guest is frozen and thawed for it: not when it stands still anyway."""
        return not self.frozen and not self.memoryParams

    def with_memory(self, path: str) -> Self:
        """The note with the place of the memory."""
        return replace(self, memoryVolPath=path, memoryVol={**self.memoryParams["dst"], "path": path})

    @property
    def memory(self) -> MemoryVolumes | None:
        """The volumes that the VM's memory is written to."""
        refs = [read_volume(self.memoryParams.get(key, {})) for key in ("dst", "dstparams")]
        found = [ref for ref in refs if ref is not None]
        return MemoryVolumes(*found) if len(found) == 2 else None

    @property
    def deadline_s(self) -> float:
        """Until when the memory is to be written."""
        return float(self.startTime) + float(self.timeout)

    def with_drives(self, drives: Sequence[tuple[NewTop, PreparedImage]], xml: dict[str, str]) -> Self:
        """The note as it is to be before libvirt is asked; `xml` has the disks as they are."""
        new = {top.drive.target: _describe(top, image) for top, image in drives}
        old = {top.drive.target: (xml[top.drive.target], top.drive.volume.volume_id) for top, _ in drives}
        return replace(self, newDrives=new, vmDrives=old)

    @property
    def freeze_deadline_s(self) -> float:
        return float(self.startTime) + float(self.freezeTimeout)

    def list_tops(self) -> dict[str, str]:
        """The volumes that are to be on top, by target name."""
        return {target: drive.get("volumeID") or "" for target, drive in self.newDrives.items()}


def find_record(metadata: VmMetadata) -> SnapshotRecord | None:
    """The note in a VM's metadata; None without one, or when it cannot be read."""
    try:
        record = msgspec.json.decode(str(metadata.values.get(KEY, "")), type=SnapshotRecord)
        _ = record.freeze_deadline_s, record.deadline_s
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None
    return record if is_uuid(record.jobUUID) else None


def plan_snapshot(view: DomainView | None, metadata: VmMetadata, wanted: Sequence[SnapshotDrive]) -> list[NewTop]:
    """The disks that get a new top: not those that have it already. Raises CannotSnapshot."""
    drives = list_drives(view, metadata)
    leases = frozenset[str]() if view is None else view.leases
    plan: list[NewTop] = []
    for one in wanted:
        base_id, volume_id, image_id, domain_id = map(
            _known, (one.base_volume_id, one.volume_id, one.image_id, one.domain_id)
        )
        if not (base_id and volume_id and image_id and domain_id):
            raise CannotSnapshot("only disks on volumes can be found, by domainID, imageID, baseVolumeID and volumeID")
        same = [drive for drive in drives if (drive.volume.domain_id, drive.volume.image_id) == (domain_id, image_id)]
        if any(drive.volume.volume_id == volume_id for drive in same):
            continue
        drive = next((drive for drive in same if drive.volume.volume_id == base_id), None)
        if drive is None:
            raise CannotSnapshot(f"no disk of the VM is on volume {base_id} of image {image_id}")
        if base_id in leases:
            raise CannotSnapshot(f"{drive.target} holds a lease on its volume")
        if drive.disk.is_transient or drive.disk.device != "disk":
            raise CannotSnapshot(f"{drive.target} is transient, or no disk")
        if any(top.drive.target == drive.target for top in plan):
            raise CannotSnapshot(f"{drive.target} is named twice")
        plan.append(NewTop(drive, replace(drive.volume, volume_id=volume_id)))
    return plan


def check_image(top: NewTop, image: PreparedImage) -> None:
    """The new top lies on the disk's volume, else the guest would find other data there. Raises CannotSnapshot."""
    if image.format != "cow":
        raise CannotSnapshot(f"volume {top.volume.volume_id} is no qcow2")
    below = [volume.get("volumeID", BLANK_UUID) for volume in image.chain[:-1]]
    if below[-1:] != [top.drive.volume.volume_id]:
        raise CannotSnapshot(f"volume {top.volume.volume_id} does not lie on {top.drive.volume.volume_id}")


def _describe(top: NewTop, image: PreparedImage) -> dict[str, str | None]:
    what = {"type": "disk", "device": "disk", "diskType": image.kind, "format": image.format, "path": image.path}
    return {**top.volume.ids, **what, "name": top.drive.target}


def _known(text: str | UnsetType) -> str:
    return text if isinstance(text, str) else ""
