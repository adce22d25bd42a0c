"""What libvirt is told of a backup or a checkpoint, and what it tells (facts §2.18), pure; `backups` acts."""

from collections.abc import Mapping
from xml.etree.ElementTree import Element

from msgspec import UNSET, Struct

from vdsm.api.backup import BackupConfig, BackupDisk, Checkpoint, ScratchDisk
from vdsm.api.errors import BackupFailed, CheckpointFailed
from vdsm.virt.domain import DiskView, DomainView, get_attribute
from vdsm.virt.elements import element, format_xml, parse_xml
from vdsm.virt.ports import BackupPlace


class PlannedDisk(Struct, frozen=True):
    """A disk of the VM that is to be backed up."""

    view: DiskView
    wanted: BackupDisk
    is_incremental: bool

    @property
    def target(self) -> str:
        return self.view.target


def plan_disks(config: BackupConfig, view: DomainView) -> list[PlannedDisk]:
    """The disks that are meant; raises BackupFailed for those that are not the VM's, twice there or have no start."""
    planned: list[PlannedDisk] = []
    for wanted in config.disks:
        disk = _find(wanted, view)
        if disk is None:
            raise BackupFailed(f"the VM has no disk of image {_ids(wanted)[1]}")
        if any(other.target == disk.target for other in planned):
            raise BackupFailed(f"disk {disk.target} is named twice")
        mode = wanted.mode
        if mode == "incremental" and config.from_checkpoint_id is UNSET:
            raise BackupFailed(f"disk {disk.target}: an incremental backup needs from_checkpoint_id")
        is_incremental = config.from_checkpoint_id is not UNSET and mode != "full"
        planned.append(PlannedDisk(disk, wanted, is_incremental))
    if not planned:
        raise BackupFailed("no disk is named")
    return planned


def build_backup(config: BackupConfig, disks: list[PlannedDisk], place: BackupPlace) -> str:
    """The `domainbackup` of these disks; the VM's others take no part in it."""
    since = None if config.from_checkpoint_id is UNSET else config.from_checkpoint_id
    parts = [element("incremental", text=since)] if since and any(disk.is_incremental for disk in disks) else []
    parts.append(element("server", transport="unix", socket=place.socket))
    listed = [_build_disk(disk, since, place) for disk in disks]
    return format_xml(element("domainbackup", *parts, element("disks", *listed), mode="pull"))


def build_checkpoint(name: str, config: BackupConfig, view: DomainView) -> str:
    """The `domaincheckpoint` that tracks the disks that ask for it; raises BackupFailed when none does."""
    tracked = {disk.target for disk in plan_disks(config, view) if disk.wanted.checkpoint}
    if not tracked:
        raise BackupFailed("no disk asks for a checkpoint")
    # The VM's disks that are not named would be tracked, too.
    disks = [
        element("disk", name=disk.target, checkpoint="bitmap", bitmap=name)
        if disk.target in tracked
        else element("disk", name=disk.target, checkpoint="no")
        for disk in view.disks
    ]
    parts = [element("name", text=name), element("description", text=f"checkpoint for backup '{config.backup_id}'")]
    if config.creation_time_s is not UNSET:
        parts.append(element("creationTime", text=str(config.creation_time_s)))
    return format_xml(element("domaincheckpoint", *parts, element("disks", *disks)))


def read_checkpoint(checkpoint: Checkpoint, view: DomainView) -> str:
    """The XML to tell libvirt of it again; raises CheckpointFailed."""
    if checkpoint.xml:
        try:
            root = parse_xml(checkpoint.xml)
        except ValueError as error:
            raise CheckpointFailed(f"{checkpoint.id}: {error}") from error
        if root.tag != "domaincheckpoint" or (root.findtext("name") or "").strip() != checkpoint.id:
            raise CheckpointFailed(f"{checkpoint.id}: its XML is of another checkpoint")
        return format_xml(root)
    if checkpoint.config is UNSET:
        raise CheckpointFailed(f"{checkpoint.id}: neither its XML nor its configuration is given")
    try:
        return build_checkpoint(checkpoint.id, checkpoint.config, view)
    except BackupFailed as error:
        raise CheckpointFailed(f"{checkpoint.id}: {error.reason}") from error


def read_backup(xml: str, view: DomainView) -> tuple[str, dict[str, str]]:
    """The socket of a backup that goes on, and the addresses of its disks by their images' ids."""
    root = parse_xml(xml)
    socket = get_attribute(root, "server", "socket")
    images = {disk.target: disk.volume.image_id for disk in view.disks if disk.volume is not None}
    served = [disk for disk in root.iterfind("disks/disk") if disk.get("backup", "yes") == "yes"]
    addresses: dict[str, str] = {}
    for disk in served:
        target = disk.get("name", "")
        if target in images:
            addresses[images[target]] = f"nbd:unix:{socket}:exportname={disk.get('exportname', target)}"
    return socket, addresses


def list_scratch_sizes(disks: list[PlannedDisk], sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes of the scratch disks that the caller did not bring."""
    return {disk.target: sizes[disk.target] for disk in disks if disk.wanted.scratch_disk is UNSET}


def _build_disk(disk: PlannedDisk, since: str | None, place: BackupPlace) -> Element:
    scratch = disk.wanted.scratch_disk
    type, path = ("file", place.scratch_disks[disk.target]) if scratch is UNSET else (scratch.type, scratch.path)
    attribute = "dev" if type == "block" else "file"
    incremental = {"backupmode": "incremental", "incremental": since} if disk.is_incremental else {"backupmode": "full"}
    scratch_disk = element("scratch", **{attribute: path})
    return element("disk", element("driver", type="qcow2"), scratch_disk, name=disk.target, type=type, **incremental)


def _find(wanted: BackupDisk, view: DomainView) -> DiskView | None:
    domain_id, image_id, volume_id = _ids(wanted)
    for disk in view.disks:
        volume = disk.volume
        if volume and (volume.domain_id, volume.image_id, volume.volume_id) == (domain_id, image_id, volume_id):
            return disk
    return None


def _ids(wanted: BackupDisk) -> tuple[object, object, object]:
    """By the names that are read, or else by those that the schema publishes."""
    pairs = (
        (wanted.domain_id, wanted.published_domain_id),
        (wanted.image_id, wanted.published_image_id),
        (wanted.volume_id, wanted.published_volume_id),
    )
    domain_id, image_id, volume_id = (read if read is not UNSET else published for read, published in pairs)
    return domain_id, image_id, volume_id


def list_own_scratch(disks: list[PlannedDisk]) -> list[ScratchDisk]:
    """The scratch disks that the caller brought."""
    return [disk.wanted.scratch_disk for disk in disks if disk.wanted.scratch_disk is not UNSET]
