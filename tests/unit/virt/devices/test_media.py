"""Discs come and go in drives of a VM that runs; whatever goes wrong, drive, metadata and images agree."""

import pytest
from msgspec.structs import replace

from tests.unit.virt.builders import VM_ID
from tests.unit.virt.world import World, create, settle
from vdsm.api import errors
from vdsm.api.updates import Disc, DiscChange
from vdsm.core.errors import GeneralFailure, InvalidArgument, NodeError
from vdsm.virt.metadata import CHANGE, DeviceMetadata, VmMetadata, VolumeRef
from vdsm.virt.ports import HypervisorRefused, HypervisorTimeout
from vdsm.virt.service import VmService

POOL, DOMAIN = "11111111-0000-4000-8000-000000000001", "22222222-0000-4000-8000-000000000002"
CD = {"type": "disk", "device": "cdrom", "interface": "ide", "index": 2, "path": ""}
FLOPPY = {"type": "disk", "device": "floppy", "interface": "fdc", "index": 0, "path": ""}


def make_disc(number: int) -> Disc:
    ids = (f"{kind}{number:07x}-0000-4000-8000-000000000000" for kind in "ab")
    image_id, volume_id = ids
    return Disc(pool_id=POOL, domain_id=DOMAIN, image_id=image_id, volume_id=volume_id)


FIRST, SECOND = make_disc(1), make_disc(2)


def load(disc: Disc | None) -> DiscChange:
    return DiscChange(interface="ide", index=2, **({} if disc is None else {"disc": disc}))


def find_path(world: World, target: str = "hdc") -> str:
    drive = world.hypervisor.domains[VM_ID].xml.find(f"devices/disk/target[@dev='{target}']/..")
    source = None if drive is None else drive.find("source")
    return "" if source is None else source.get("file", "")


def agree(world: World, disc: Disc | None) -> bool:
    """Whether drive, metadata and images tell of that disc, and of no other."""
    path = f"/run/{DOMAIN}/{disc.image_id}/{disc.volume_id}" if disc else ""
    told = world.stored().device(devtype="disk", name="hdc")
    volume = None if told is None else told.volume
    same = (None if volume is None else volume.volume_id) == (disc.volume_id if disc else None)
    is_over = told is None or told.find_part(CHANGE) is None
    prepared = set(world.images.prepared)  # once more by each daemon
    return find_path(world) == path and same and is_over and prepared == ({disc.image_id} if disc else set())


async def test_discs_come_and_go() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, devices=[CD])
        for disc in (FIRST, SECOND, FIRST, None, None, SECOND):
            await service.updates.change_cd(VM_ID, load(disc))
            assert agree(world, disc)
        await service.destroy(VM_ID)
        assert world.images.prepared == []


@pytest.mark.parametrize("before", [None, FIRST])
@pytest.mark.parametrize("method", ["update_device", "prepare", "set_metadata"])
async def test_a_disc_that_cannot_be_loaded_leaves_the_one_before(before: Disc | None, method: str) -> None:
    world = World()
    async with world.ready() as service:
        await create(service, devices=[CD])
        if before is not None:
            await service.updates.change_cd(VM_ID, load(before))
        if method == "prepare":
            world.images.failures.append(GeneralFailure("gone"))
        else:
            world.hypervisor.fail_next(method, HypervisorRefused("no"))
        with pytest.raises((errors.ChangeDiskFailed, errors.CdImageFailed)):
            await service.updates.change_cd(VM_ID, load(SECOND))
        assert agree(world, before)
        await service.updates.change_cd(VM_ID, load(SECOND))
        assert agree(world, SECOND)


async def test_a_locked_drive_is_forced_open() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, devices=[CD])
        await service.updates.change_cd(VM_ID, load(FIRST))
        world.hypervisor.fail_next("update_device", HypervisorRefused("tray is locked"))
        await service.updates.change_cd(VM_ID, load(None))
        assert agree(world, None)


@pytest.mark.parametrize("wanted", [SECOND, None])
@pytest.mark.parametrize("reached", [False, True])
async def test_a_daemon_that_ends_amid_a_change(wanted: Disc | None, reached: bool) -> None:
    """The answer never comes, whether libvirt did it or not; the next daemon finds out."""
    world = World()
    async with world.ready() as service:
        await create(service, devices=[CD])
        await service.updates.change_cd(VM_ID, load(FIRST))
        await change_without_an_answer(world, service, wanted, reached)
    async with world.ready():
        await settle()
        assert agree(world, wanted if reached else FIRST)


async def change_without_an_answer(world: World, service: VmService, wanted: Disc | None, reached: bool) -> None:
    update = world.hypervisor.update_device

    async def answer_nothing(vm_id: str, xml: str, *, force: bool = False) -> None:
        if reached:
            await update(vm_id, xml, force=force)
        raise HypervisorTimeout(vm_id, "update device", 60)

    world.hypervisor.update_device = answer_nothing  # type: ignore[method-assign]
    with pytest.raises(errors.ChangeDiskFailed, match="does not answer"):
        await service.updates.change_cd(VM_ID, load(wanted))
    del world.hypervisor.update_device


async def test_a_vm_that_ends_amid_a_change_releases_both_discs() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, devices=[CD])
        await service.updates.change_cd(VM_ID, load(FIRST))
        await change_without_an_answer(world, service, SECOND, False)
        assert len(world.images.prepared) == 2
        world.hypervisor.end_guest(VM_ID)
        await settle()
        assert world.images.prepared == []


async def test_paths_of_the_old_forms() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, devices=[CD, FLOPPY])
        await service.updates.change_cd(VM_ID, load(FIRST))
        await service.updates.change_cd(VM_ID, DiscChange(path="/isos/one.iso"))
        assert find_path(world) == "/isos/one.iso" and world.images.prepared == []
        await service.updates.change_floppy(VM_ID, DiscChange(path="/floppies/one"))
        assert find_path(world, "fda") == "/floppies/one"
        await service.updates.change_cd(VM_ID, DiscChange(path=""))
        await service.updates.change_floppy(VM_ID, DiscChange())
        assert agree(world, None) and find_path(world, "fda") == ""


HALF = DiscChange(interface="ide", index=2, disc=Disc(pool_id=POOL, domain_id=DOMAIN))
HOSTILE = Disc(pool_id=POOL, domain_id=DOMAIN, image_id="../../etc", volume_id="passwd")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (DiscChange(path="/folder"), errors.ImageIsEmpty),
        (DiscChange(path="/missing"), errors.ImageIsEmpty),
        (DiscChange(path="relative"), InvalidArgument),
        (DiscChange(path="/a\0b"), InvalidArgument),
        (HALF, InvalidArgument),
        (DiscChange(disc=HOSTILE), InvalidArgument),
        (DiscChange(interface="ide", index=-1), InvalidArgument),
        (DiscChange(interface="ide", index=10**9), InvalidArgument),
        (DiscChange(interface="ide", index=3, path="/isos/one.iso"), errors.ChangeDiskFailed),
        (DiscChange(interface="virtio", index=0, path="/isos/one.iso"), errors.ChangeDiskFailed),
    ],
)
async def test_what_cannot_be_changes_nothing(change: DiscChange, error: type[NodeError]) -> None:
    world = World()
    world.images.folders.add("/folder")
    world.images.missing.add("/missing")
    async with world.ready() as service:
        await create(service, devices=[CD])
        await service.updates.change_cd(VM_ID, load(FIRST))
        with pytest.raises(error):
            await service.updates.change_cd(VM_ID, change)
        assert agree(world, FIRST)


def test_parts_of_a_devices_metadata() -> None:
    volume = VolumeRef("p", "d", "i", "v")
    device = DeviceMetadata({"devtype": "disk"}).with_part(CHANGE, {"state": "loading", **volume.ids})
    assert device.find_part_volume(CHANGE) == volume and device.volume is None
    assert device.with_part(CHANGE, None).with_volume(volume).volume == volume
    assert VmMetadata().with_device(device).devices[0].with_part(CHANGE, None).with_volume(None).values == {}


async def test_a_copy_on_another_domain_is_another_disc() -> None:
    """It has the ids of what it was copied from, but for the domain's."""
    world = World()
    copy = replace(FIRST, domain_id=POOL)
    async with world.ready() as service:
        await create(service, devices=[CD])
        await service.updates.change_cd(VM_ID, load(FIRST))
        world.hypervisor.fail_next("update_device", HypervisorRefused("no"))
        with pytest.raises(errors.ChangeDiskFailed):
            await service.updates.change_cd(VM_ID, load(copy))
        told = world.stored().device(devtype="disk", name="hdc")
        assert told is not None and told.volume is not None and told.volume.domain_id == DOMAIN
