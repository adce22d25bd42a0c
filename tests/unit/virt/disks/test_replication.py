"""Disks are copied elsewhere while their VMs run: who has which image meanwhile, and after whatever goes wrong."""

import asyncio

import pytest

from tests.unit.virt.builders import VM_ID, VOLUME
from tests.unit.virt.world import World, create, settle, until
from vdsm.api import errors
from vdsm.api.disks import ActiveVolume
from vdsm.core.errors import GeneralFailure, NodeError
from vdsm.virt.domain import parse_domain
from vdsm.virt.metadata import REPLICA
from vdsm.virt.ports import HypervisorRefused, HypervisorTimeout, PreparedImage
from vdsm.virt.service import VmService

SOURCE = ActiveVolume(**VOLUME)
ELSEWHERE = {**VOLUME, "domain_id": "22222222-0000-4000-8000-000000000222"}
TARGET = ActiveVolume(**ELSEWHERE)


def make_world() -> World:
    world = World()
    prepare, teardown = world.images.prepare, world.images.teardown
    world.images.prepared = []

    async def prepare_there(pool_id: str, domain_id: str, image_id: str, volume_id: str) -> object:
        image = await prepare(pool_id, domain_id, image_id, volume_id)
        world.images.prepared[-1] = domain_id  # the image has the same id there
        return image

    async def teardown_there(pool_id: str, domain_id: str, image_id: str) -> None:
        await teardown(pool_id, domain_id, domain_id)

    world.images.prepare = prepare_there  # type: ignore[assignment, method-assign]
    world.images.teardown = teardown_there  # type: ignore[method-assign]
    return world


async def begin(service: VmService, target: ActiveVolume = TARGET) -> None:
    await service.disks.start_replication(VM_ID, SOURCE, target)


async def finish(service: VmService, target: ActiveVolume = TARGET) -> None:
    await service.disks.finish_replication(VM_ID, SOURCE, target)


def check(world: World, volume: ActiveVolume, *, is_replicated: bool = False) -> None:
    """Libvirt, the metadata and what is prepared agree on where the disk is."""
    [disk] = [disk for disk in parse_domain(world.record()).disks if disk.target == "hda"]
    device = world.stored().device(devtype="disk", name="hda")
    assert device is not None and device.volume is not None
    assert volume.domain_id in disk.path and device.volume.domain_id == volume.domain_id
    assert (device.find_part(REPLICA) is not None) is (disk.mirror == "copy") is is_replicated
    there = {SOURCE.domain_id, TARGET.domain_id} if is_replicated else {volume.domain_id}
    assert set(world.images.prepared) == there


async def test_a_disk_goes_elsewhere() -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        await begin(service)
        check(world, SOURCE, is_replicated=True)
        device = world.stored().device(devtype="disk", name="hda")
        assert device is not None and (device.find_part(REPLICA) or {})["domainID"] == TARGET.domain_id
        await finish(service)
        check(world, TARGET)
        await service.destroy(VM_ID)
        assert world.images.prepared == []


async def test_what_others_write_meanwhile_stays() -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        await begin(service)
        vm, prepare = service._shared.vms[VM_ID], world.images.prepare

        async def prepare_slowly(*ids: str) -> PreparedImage:
            image = await prepare(*ids)
            await service._shared.save(vm, balloonTarget=5)
            return image

        world.images.prepare = prepare_slowly  # type: ignore[method-assign]
        await finish(service)
        check(world, TARGET)
        assert world.stored().values["balloonTarget"] == 5


async def test_a_replica_is_dropped() -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        world.hypervisor.blocks_move = False
        await begin(service)
        with pytest.raises(errors.ReplicaNotReady):
            await finish(service)
        check(world, SOURCE, is_replicated=True)
        await finish(service, SOURCE)
        check(world, SOURCE)
        with pytest.raises(errors.ReplicationNotInProgress):
            await finish(service, SOURCE)
        await begin(service)
        await service.destroy(VM_ID)
        assert world.images.prepared == []


async def test_what_does_not_fit() -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        stranger = ActiveVolume(**{**VOLUME, "volume_id": VOLUME["image_id"]})
        for call, number in (
            (service.disks.start_replication(VM_ID, stranger, TARGET), 13),
            (service.disks.finish_replication(VM_ID, stranger, TARGET), 13),
            (service.disks.start_replication(VM_ID, SOURCE, SOURCE), 55),
            (service.disks.finish_replication(VM_ID, SOURCE, TARGET), 88),
        ):
            with pytest.raises(NodeError) as refused:
                await call
            assert refused.value.number == number
        await begin(service)
        for call, number in ((begin(service), 55), (finish(service, stranger), 55)):
            with pytest.raises(NodeError) as refused:
                await call
            assert refused.value.number == number
        check(world, SOURCE, is_replicated=True)


@pytest.mark.parametrize(("told", "number"), [("transient", 59), ("lease", 44)])
async def test_disks_that_stay_where_they_are(told: str, number: int) -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        vm = service._shared.vms[VM_ID]
        if told == "transient":
            device = vm.metadata.device(devtype="disk", name="hda")
            assert device is not None
            changed = device.__class__(device.attributes, {**device.values, "shared": "transient"}, device.nested)
            await service._shared.store(vm, vm.metadata.with_device(changed))
        else:
            key = f"<lease><lockspace>x</lockspace><key>{VOLUME['volume_id']}</key><target path='/x'/></lease>"
            await world.hypervisor.attach_device(VM_ID, key)
        with pytest.raises(NodeError) as refused:
            await begin(service)
        assert refused.value.number == number


@pytest.mark.parametrize("method", ["set_metadata", "copy_blocks"])
@pytest.mark.parametrize("error", [HypervisorRefused("no", 1), HypervisorTimeout(VM_ID, "it", 60.0)])
async def test_what_libvirt_does_not_begin_leaves_nothing(method: str, error: NodeError) -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        world.hypervisor.fail_next(method, error)
        with pytest.raises(errors.ReplicationFailed):
            await begin(service)
        check(world, SOURCE)


async def test_images_that_cannot_be_replicas() -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        world.images.failures.append(GeneralFailure("gone"))
        with pytest.raises(errors.ReplicationFailed, match="gone"):
            await begin(service)
        check(world, SOURCE)
        world.images.format = "raw"
        with pytest.raises(errors.ReplicationFailed, match="no qcow2"):
            await begin(service)
        check(world, SOURCE)


@pytest.mark.parametrize("target", [SOURCE, TARGET])
async def test_a_disk_that_is_not_let_go(target: ActiveVolume) -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        await begin(service)
        world.hypervisor.fail_next("end_block_job", HypervisorRefused("busy", 1))
        with pytest.raises(errors.ChangeDiskFailed):
            await finish(service, target)
        check(world, SOURCE, is_replicated=True)
        await finish(service, target)
        check(world, target)


async def test_a_disk_that_went_though_nobody_said_so() -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        await begin(service)
        pivot_it = world.hypervisor.end_block_job

        async def say_nothing(vm_id: str, target: str, *, pivot: bool) -> None:
            await pivot_it(vm_id, target, pivot=pivot)
            raise HypervisorTimeout(vm_id, "end block job", 60.0)

        world.hypervisor.end_block_job = say_nothing  # type: ignore[method-assign]
        await finish(service)
        check(world, TARGET)


async def test_a_copy_that_failed_is_found_and_dropped() -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        for target in (SOURCE, TARGET):
            await begin(service)
            world.hypervisor.finish_block_job(VM_ID, "hda", fails=True)
            if target is TARGET:
                with pytest.raises(errors.ReplicationFailed):
                    await finish(service)
            else:
                await finish(service, SOURCE)
            check(world, SOURCE)


@pytest.mark.parametrize("number", range(16))
async def test_a_daemon_that_ends_at_any_call(number: int) -> None:
    """Before the first call to libvirt that a replication makes, before the second, and so on."""
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])

        async def replicate() -> None:
            await begin(service)
            await finish(service)

        go_on = world.hang_after(number)
        work = asyncio.create_task(replicate())
        await settle()
        methods = [method for method, _ in world.hypervisor.calls]
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    go_on()
    world.images.prepared.clear()  # who has ended has prepared nothing
    is_there, is_begun = "end_block_job" in methods, "copy_blocks" in methods
    async with world.ready() as service:
        await settle()
        await until(lambda: world.images.prepared)
        await settle()
        check(world, TARGET if is_there else SOURCE, is_replicated=is_begun and not is_there)
        if is_begun and not is_there:
            await finish(service)
            check(world, TARGET)
