"""Backups begin whole or not at all, and leave nothing behind; checkpoints are told as libvirt has them."""

import pytest
from msgspec import UNSET

from tests.unit.virt.builders import VM_ID, VOLUME
from tests.unit.virt.world import World, create, settle
from vdsm.api import backup as api
from vdsm.api import errors
from vdsm.core.errors import GeneralFailure, InvalidArgument, NodeError
from vdsm.testing.storage import make_id
from vdsm.virt.disks.backups import BackupService
from vdsm.virt.disks.freezing import FROZEN
from vdsm.virt.elements import parse_xml
from vdsm.virt.ports import HypervisorRefused, HypervisorTimeout
from vdsm.virt.service import VmService

SECOND = {**VOLUME, "image_id": "55555555-0000-4000-8000-000000000005", "index": 1}
BACKUP, FIRST, LATER = (f"{digit * 8}-0000-4000-8000-000000000000" for digit in "abc")
IDS = {name: VOLUME[name] for name in ("domain_id", "image_id", "volume_id")}


def fits(service: BackupService) -> api.BackupApi:
    """For the type checker: the service implements the group."""
    return service


def config(**changes: object) -> api.BackupConfig:
    disk = api.BackupDisk(checkpoint=True, **IDS)  # type: ignore[arg-type]
    return api.BackupConfig(**{"backup_id": BACKUP, "disks": [disk], **changes})  # type: ignore[arg-type]


async def make(service: VmService) -> BackupService:
    disks = [
        {"type": "disk", "device": "disk", "interface": "ide", "format": "cow", **drive}
        for drive in ({**VOLUME, "index": 0}, SECOND)
    ]
    await create(service, devices=disks)
    return service.backups


def is_clean(world: World) -> bool:
    domain = world.hypervisor.domains[VM_ID]
    return not world.images.scratch and domain.backup is None and FROZEN not in world.stored().values


async def test_a_backup_and_the_next_one() -> None:
    world = World()
    async with world.ready() as service:
        backups = await make(service)
        made = await backups.start(VM_ID, config(to_checkpoint_id=FIRST, creation_time_s=7))
        address = f"nbd:unix:/run/backup/{BACKUP}:exportname=hda"
        assert made.disks == {VOLUME["image_id"]: address}
        checkpoint = parse_xml(made.checkpoint if made.checkpoint is not UNSET else "")
        assert checkpoint.findtext("creationTime") == "7" and checkpoint.findtext("name") == FIRST
        assert [disk.attrib for disk in checkpoint.iterfind("disks/disk")] == [
            {"name": "hda", "checkpoint": "bitmap", "bitmap": FIRST},
            {"name": "hdb", "checkpoint": "no"},
        ]
        assert world.images.scratch == {f"/scratch/{VM_ID}/{BACKUP}.hda"} and FROZEN not in world.stored().values
        assert await backups.get_info(VM_ID, BACKUP) == api.BackupInfo(disks=made.disks)
        assert (await backups.get_info(VM_ID, BACKUP, FIRST)).checkpoint == made.checkpoint
        with pytest.raises(errors.BackupFailed, match="already"):
            await backups.start(VM_ID, config(backup_id=make_id()))
        await backups.stop(VM_ID, BACKUP)
        await backups.stop(VM_ID, BACKUP)
        assert is_clean(world)
        await backups.start(VM_ID, config(from_checkpoint_id=FIRST, to_checkpoint_id=LATER))
        [disk] = parse_xml(world.hypervisor.domains[VM_ID].backup or "").iterfind("disks/disk")
        assert (disk.get("backupmode"), disk.get("incremental")) == ("incremental", FIRST)
        await backups.stop(VM_ID, make_id())  # of somebody else's: nothing happens
        assert world.hypervisor.domains[VM_ID].backup is not None
        assert await backups.list_checkpoints(VM_ID) == [FIRST, LATER]
        world.hypervisor.end_guest(VM_ID)
        await settle()
        assert not world.images.scratch


async def test_a_scratch_disk_of_the_caller() -> None:
    world = World()
    scratch = api.ScratchDisk(path="/run/scratch", type="block")
    disk = api.BackupDisk(scratch_disk=scratch, **IDS)  # type: ignore[arg-type]
    async with world.ready() as service:
        backups = await make(service)
        await backups.start(VM_ID, config(disks=[disk]))
        [made] = parse_xml(world.hypervisor.domains[VM_ID].backup or "").iterfind("disks/disk")
        place = made.find("scratch")
        assert made.get("type") == "block" and place is not None and place.attrib == {"dev": "/run/scratch"}
        assert not world.images.scratch
        await backups.stop(VM_ID, BACKUP)
        world.images.missing.add("/run/scratch")
        with pytest.raises(errors.BackupFailed, match="no file"):
            await backups.start(VM_ID, config(disks=[disk]))


PUBLISHED = api.BackupDisk(
    published_domain_id=IDS["domain_id"], published_image_id=IDS["image_id"], published_volume_id=IDS["volume_id"]
)


async def test_the_names_that_the_schema_publishes() -> None:
    world = World()
    async with world.ready() as service:
        backups = await make(service)
        assert list((await backups.start(VM_ID, config(disks=[PUBLISHED]))).disks) == [VOLUME["image_id"]]


@pytest.mark.parametrize(
    "changes",
    [
        {"disks": []},
        {"disks": [api.BackupDisk(**{**IDS, "image_id": make_id()})]},
        {"disks": [api.BackupDisk()]},
        {"disks": [PUBLISHED, PUBLISHED]},
        {"disks": [api.BackupDisk(**IDS, mode="incremental")]},
        {"disks": [api.BackupDisk(**IDS)], "to_checkpoint_id": FIRST},
        {"from_checkpoint_id": FIRST},
        {"require_consistency": True},
    ],
)
async def test_what_cannot_begin_leaves_nothing(changes: dict[str, object]) -> None:
    world = World()
    async with world.ready() as service:
        backups = await make(service)
        with pytest.raises(errors.BackupFailed):
            await backups.start(VM_ID, config(**changes))
        assert is_clean(world)


@pytest.mark.parametrize(
    ("method", "error", "told"),
    [
        ("begin_backup", HypervisorRefused("no"), errors.BackupFailed),
        ("begin_backup", HypervisorRefused("bitmap is missing", 109), errors.InconsistentCheckpoint),
        ("get_disk_size", HypervisorRefused("no"), errors.BackupFailed),
        ("get_domain", HypervisorTimeout(VM_ID, "look", 60), errors.BackupFailed),
        ("set_metadata", HypervisorRefused("no"), errors.BackupFailed),
        ("images", GeneralFailure("full"), errors.BackupFailed),
    ],
)
async def test_a_start_that_fails_leaves_nothing(method: str, error: NodeError, told: type[NodeError]) -> None:
    world = World()
    async with world.ready() as service:
        backups = await make(service)
        world.hypervisor.agents.add(VM_ID)
        if method == "images":
            world.images.failures.append(error)
        else:
            world.hypervisor.fail_next(method, error)
        with pytest.raises(told):
            await backups.start(VM_ID, config(to_checkpoint_id=FIRST))
        assert is_clean(world) and not world.hypervisor.held
        await backups.start(VM_ID, config(to_checkpoint_id=FIRST))


async def test_a_guest_is_frozen_while_its_backup_begins() -> None:
    world = World()
    held: list[bool] = []
    async with world.ready() as service:
        backups = await make(service)
        world.hypervisor.agents.add(VM_ID)
        begin = world.hypervisor.begin_backup

        async def look(vm_id: str, xml: str, checkpoint_xml: str | None) -> None:
            held.append(VM_ID in world.hypervisor.held and world.stored().values.get(FROZEN) is True)
            await begin(vm_id, xml, checkpoint_xml)

        world.hypervisor.begin_backup = look  # type: ignore[method-assign]
        await backups.start(VM_ID, config(require_consistency=True))
        assert held == [True] and not world.hypervisor.held


async def test_a_silent_agent_is_asked_until_it_thaws() -> None:
    """The backup does not wait for it, and neither does the next one, whose own frost is left alone."""
    world = World()
    async with world.ready() as service:
        backups = await make(service)
        world.hypervisor.agents.add(VM_ID)
        world.hypervisor.fail_next("thaw_filesystems", HypervisorTimeout(VM_ID, "thaw", 60.0))
        await backups.start(VM_ID, config())
        assert world.hypervisor.held == {VM_ID} and world.stored().values[FROZEN] is True
        await world.clock.advance(5)
        assert not world.hypervisor.held and FROZEN not in world.stored().values
        await backups.stop(VM_ID, BACKUP)
        world.hypervisor.fail_next("thaw_filesystems", HypervisorTimeout(VM_ID, "thaw", 60.0))
        await backups.start(VM_ID, config())
        await service.disks.freeze(VM_ID)
        await world.clock.advance(60)
        assert world.hypervisor.held == {VM_ID}


@pytest.mark.parametrize("begins", [True, False])
async def test_a_daemon_that_ends_while_a_backup_begins(begins: bool) -> None:
    """The next one thaws the guest, and removes the scratch disks of what did not begin."""
    world = World()
    async with world.ready() as service:
        backups = await make(service)
        world.hypervisor.agents.add(VM_ID)
        if begins:
            await backups.start(VM_ID, config())
        else:
            await world.images.prepare_backup(VM_ID, BACKUP, {"hda": 1})
        vm = service._shared.vms[VM_ID]
        await service._shared.record(vm, **{FROZEN: True})
        await world.hypervisor.freeze_filesystems(VM_ID)
    async with world.ready() as service:
        await settle()
        assert not world.hypervisor.held and FROZEN not in world.stored().values
        assert bool(world.images.scratch) == begins
        if begins:
            await service.backups.stop(VM_ID, BACKUP)
        assert is_clean(world)


async def test_checkpoints_are_deleted_and_told_again() -> None:
    world = World()
    async with world.ready() as service:
        backups = await make(service)
        for before, name in ((UNSET, FIRST), (FIRST, LATER)):
            await backups.start(VM_ID, config(from_checkpoint_id=before, to_checkpoint_id=name))
            await backups.stop(VM_ID, BACKUP)
        xml = (await backups.dump_checkpoint(VM_ID, FIRST)).checkpoint
        gone = make_id()
        done = await backups.delete_checkpoints(VM_ID, [gone, FIRST])
        assert done == api.CheckpointsDone(checkpoint_ids=[gone, FIRST])
        assert await backups.list_checkpoints(VM_ID) == [LATER]
        with pytest.raises(errors.NoSuchCheckpoint):
            await backups.dump_checkpoint(VM_ID, FIRST)
        world.hypervisor.fail_next("delete_checkpoint", HypervisorRefused("bitmap is busy", 9))
        done = await backups.delete_checkpoints(VM_ID, [LATER, gone])
        assert done.checkpoint_ids == [] and done.error == api.CheckpointError(code=9, message="bitmap is busy")
        again = [api.Checkpoint(id=FIRST, xml=xml), api.Checkpoint(id=gone, config=config())]
        assert (await backups.redefine_checkpoints(VM_ID, again)).checkpoint_ids == [FIRST, gone]


@pytest.mark.parametrize(
    "checkpoint",
    [
        api.Checkpoint(id=FIRST),
        api.Checkpoint(id=FIRST, xml="<domain"),
        api.Checkpoint(id=FIRST, xml="<domain/>"),
        api.Checkpoint(id=FIRST, xml=f"<domaincheckpoint><name>{LATER}</name></domaincheckpoint>"),
        api.Checkpoint(id=FIRST, config=config(disks=[])),
    ],
)
async def test_checkpoints_that_are_none(checkpoint: api.Checkpoint) -> None:
    world = World()
    async with world.ready() as service:
        backups = await make(service)
        with pytest.raises(errors.CheckpointFailed):
            await backups.redefine_checkpoints(VM_ID, [api.Checkpoint(id=LATER, config=config()), checkpoint])
        assert await backups.list_checkpoints(VM_ID) == []


async def test_of_vms_that_are_down_or_unknown() -> None:
    world = World()
    async with world.ready() as service:
        backups = await make(service)
        with pytest.raises(errors.NoSuchBackup):
            await backups.get_info(VM_ID, BACKUP)
        with pytest.raises(errors.NoSuchVm):
            await backups.start(make_id(), config())
        hostile = api.ScratchDisk(path="/a\0b", type="file")
        with pytest.raises(InvalidArgument):
            await backups.start(VM_ID, config(disks=[api.BackupDisk(scratch_disk=hostile, **IDS)]))  # type: ignore[arg-type]
        world.hypervisor.end_guest(VM_ID)
        await settle()
        for request in (backups.start(VM_ID, config()), backups.get_info(VM_ID, BACKUP)):
            with pytest.raises(errors.VmIsDown):
                await request
        await backups.stop(VM_ID, BACKUP)
