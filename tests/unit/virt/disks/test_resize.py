"""Disks become larger while their VMs run: what guests, records and callers are told, also where it fails."""

import pytest

from tests.unit.virt.builders import VM_ID, VOLUME
from tests.unit.virt.world import World, create
from vdsm.api import errors
from vdsm.api.disks import ActiveVolume
from vdsm.core.errors import GeneralFailure, NodeError
from vdsm.core.ids import BLANK_UUID
from vdsm.virt.ports import HypervisorRefused, VolumeFigures, VolumeSize

GIB = 1 << 30
DISK, STRANGER = ActiveVolume(**VOLUME), ActiveVolume(**{**VOLUME, "volume_id": VOLUME["image_id"]})
ID = VOLUME["volume_id"]


def get_capacity(world: World) -> int:
    return world.images.figures[ID].capacity_bytes


async def test_a_qcow2_disk_becomes_larger() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        resize, seen = world.hypervisor.resize_block, []

        async def look(vm_id: str, target: str, size_bytes: int) -> int:
            seen.append((target, get_capacity(world)))
            return await resize(vm_id, target, size_bytes)

        world.hypervisor.resize_block = look  # type: ignore[method-assign]
        assert await service.disks.extend(VM_ID, DISK, 2 * GIB + 1) == str(2 * GIB + 512)
        assert seen == [("hda", 0)] and get_capacity(world) == 2 * GIB + 512


async def test_a_raw_disk_becomes_as_large_as_its_volume() -> None:
    world = World()
    world.images.format = "raw"
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        world.images.figures[ID] = VolumeFigures(GIB, "raw", False)
        world.images.sizes[ID] = VolumeSize(GIB, GIB)
        with pytest.raises(errors.UpdateDeviceFailed, match="extend that first"):
            await service.disks.extend(VM_ID, DISK, 2 * GIB)
        world.images.sizes[ID] = VolumeSize(GIB, 3 * GIB)
        assert await service.disks.extend(VM_ID, DISK, 2 * GIB) == str(3 * GIB)
        assert get_capacity(world) == GIB  # who extended the volume tells its size
        del world.images.sizes[ID]
        with pytest.raises(errors.UpdateDeviceFailed):
            await service.disks.extend(VM_ID, DISK, 2 * GIB)


@pytest.mark.parametrize(("disk", "size_bytes", "number"), [(STRANGER, 2 * GIB, 13), (DISK, GIB - 1, 58)])
async def test_what_does_not_fit(disk: ActiveVolume, size_bytes: int, number: int) -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        with pytest.raises(NodeError) as refused:
            await service.disks.extend(VM_ID, disk, size_bytes)
        assert refused.value.number == number and world.images.figures == {}


async def test_what_is_not_done_is_not_told() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        world.hypervisor.fail_next("resize_block", HypervisorRefused("busy", 1))
        with pytest.raises(errors.UpdateDeviceFailed, match="busy"):
            await service.disks.extend(VM_ID, DISK, 2 * GIB)
        assert get_capacity(world) == GIB
        world.images.record_failures.append(GeneralFailure("away"))
        with pytest.raises(errors.UpdateDeviceFailed, match="away"):
            await service.disks.extend(VM_ID, DISK, 2 * GIB)
        assert ("resize_block", VM_ID) in world.hypervisor.calls


async def test_a_volume_that_no_vm_uses() -> None:
    world = World()
    async with world.ready() as service:
        assert await service.disks.extend(BLANK_UUID, DISK, 2 * GIB) == str(2 * GIB)
        assert get_capacity(world) == 2 * GIB
        with pytest.raises(errors.ResizeRefused):
            await service.disks.extend(BLANK_UUID, DISK, 2 * GIB - 1)
        world.images.record_failures.append(GeneralFailure("away"))
        with pytest.raises(errors.UpdateDeviceFailed):
            await service.disks.extend(BLANK_UUID, DISK, 3 * GIB)


async def test_sizes_are_read_anew() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        world.images.sizes[ID] = VolumeSize(allocated=5, apparent=7)
        size = await service.disks.refresh(VM_ID, DISK)
        assert (size.allocated_bytes, size.size_bytes) == (5, 7)
        with pytest.raises(errors.ImageUnknown):
            await service.disks.refresh(VM_ID, STRANGER)
        del world.images.sizes[ID]
        with pytest.raises(errors.DiskRefreshFailed):
            await service.disks.refresh(VM_ID, DISK)
