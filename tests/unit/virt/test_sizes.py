"""Sizes of volumes: asked of storage once a minute, and a domain that hangs costs its own VMs only."""

from tests.unit.virt.builders import VM_ID, VOLUME
from tests.unit.virt.world import World, create
from vdsm.virt.ports import VolumeSize
from vdsm.virt.service import VmService

OTHER_ID = VM_ID.replace("a", "b")
OTHER = {**VOLUME, "image_id": "3" * 8 + "-0000-4000-8000-00000000000b", "volume_id": "4" * 8 + VM_ID[8:]}


async def size_of(world: World, service: VmService, vm_id: str = VM_ID) -> tuple[object, object]:
    for _ in range(2):
        await service.sample()
        await world.clock.advance(1)
    disks = (await service.get_stats(vm_id)).disks
    assert disks
    return disks["hda"].allocated_bytes, disks["hda"].size_bytes


async def test_storage_knows_best() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        assert await size_of(world, service) == (1 << 20, 1 << 20), "as libvirt tells"
        world.images.sizes[VOLUME["volume_id"]] = VolumeSize(5, 9)
        await world.clock.advance(70)
        assert await size_of(world, service) == (5, 9)
        asked = len(world.images.asked_sizes)
        await world.clock.advance(600)
        assert 9 <= len(world.images.asked_sizes) - asked <= 11
        del world.images.sizes[VOLUME["volume_id"]]
        await world.clock.advance(70)
        assert await size_of(world, service) == (5, 9), "what was told last"


async def test_a_domain_that_hangs_is_asked_once_and_others_are_not_held_up() -> None:
    world = World()
    other = {**OTHER, "domain_id": "2" * 8 + VM_ID[8:]}
    world.images.sizes = {str(one["volume_id"]): VolumeSize(5, 9) for one in (VOLUME, other)}
    async with world.ready() as service:
        world.images.hanging.add(VOLUME["domain_id"])
        await create(service, drives=[VOLUME])
        await world.clock.advance(300)
        assert len(world.images.asked_sizes) == 1
        await create(service, OTHER_ID, name="vm2", drives=[other])
        await world.clock.advance(10)
        assert await size_of(world, service, OTHER_ID) == (5, 9)


async def test_nothing_is_kept_of_vms_that_are_gone() -> None:
    world = World()
    world.images.sizes[VOLUME["volume_id"]] = VolumeSize(5, 9)
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        await world.clock.advance(10)
        await service.destroy(VM_ID)
        await world.clock.advance(10)
        assert not service._sizes._asked_at_s and not service._sizes._asking
