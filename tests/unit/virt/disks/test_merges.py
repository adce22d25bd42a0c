"""Layers of disks are merged: what is told of a merge, what becomes of the chain, and of one that its daemon left."""

import asyncio
import json

import pytest

from tests.unit.virt.builders import VM_ID, VOLUME
from tests.unit.virt.disks.test_snapshots import list_volumes, wish
from tests.unit.virt.world import World, create, settle, until
from vdsm.api import errors
from vdsm.api.disks import ActiveVolume
from vdsm.api.vm_types import BlockJob
from vdsm.core.errors import GeneralFailure, NodeError
from vdsm.virt.disks.drives import list_drives
from vdsm.virt.disks.merge_plan import KEY, find_records
from vdsm.virt.domain import parse_domain
from vdsm.virt.ports import HypervisorRefused, HypervisorTimeout, VolumeFigures
from vdsm.virt.service import VmService

JOB, OTHER_JOB = "99999999-0000-4000-8000-000000000009", "99999999-0000-4000-8000-000000000099"
BASE = VOLUME["volume_id"]
LAYERS = [BASE, *(f"{number}0000000-0000-4000-8000-00000000000{number}" for number in (6, 7, 8))]
TOP = LAYERS[-1]


def make_world() -> World:
    world = World()
    world.images.parents = dict(zip(LAYERS[1:], LAYERS, strict=False))
    return world


async def grow(world: World, service: VmService) -> None:
    """A VM with a disk of all layers."""
    await create(service, drives=[VOLUME])
    for below, top in zip(LAYERS, LAYERS[1:], strict=False):
        await service.disks.snapshot(VM_ID, [wish(below, top)], job_id=top)
        assert await world.jobs.wait(top) == ""
    assert list_chain(world) == LAYERS[::-1]


async def merge(service: VmService, base: str, top: str, *, active: str = TOP, job: str = JOB, speed: int = 0) -> None:
    disk = ActiveVolume(**{**VOLUME, "volume_id": active})
    await service.disks.merge(VM_ID, disk, base, top, speed, job)


async def list_jobs(service: VmService) -> dict[str, BlockJob]:
    jobs = (await service.get_stats(VM_ID)).jobs
    assert isinstance(jobs, dict)
    return jobs


def list_chain(world: World) -> list[str]:
    """The chain in libvirt's XML, top first."""
    [drive] = list_drives(parse_domain(world.record()), world.stored())
    return drive.chain


def check(world: World, *chain: str) -> None:
    """Libvirt, storage and the VM's metadata tell that chain, top first, and of no merge."""
    assert list_chain(world) == list(chain)
    assert list_volumes(world) == {"hda": chain[0]}
    for volume, parent in zip(chain, [*chain[1:], None], strict=True):
        assert world.images.parents.get(volume) == parent
    assert not world.images.illegal & set(chain) and KEY not in world.stored().values


async def test_inner_layers_go() -> None:
    world = make_world()
    async with world.ready() as service:
        await grow(world, service)
        assert await list_jobs(service) == {}
        world.hypervisor.blocks_move = False
        await merge(service, BASE, LAYERS[2], speed=5)
        told = BlockJob(
            job_id=JOB, disk="hda", image_id=VOLUME["image_id"], bandwidth_mib=5, done_bytes=0, end_bytes=1 << 20
        )
        assert await list_jobs(service) == {JOB: told}
        words = json.loads(str(world.stored().values[KEY]))[JOB]
        ids = {"poolID": VOLUME["pool_id"], "domainID": VOLUME["domain_id"], "imageID": VOLUME["image_id"]}
        assert words == {
            "id": JOB,
            "drive": "hda",
            "disk": {**ids, "volumeID": TOP},
            "base": BASE,
            "top": LAYERS[2],
            "bandwidth": 5,
            "state": "COMMIT",
            "extend": None,
            "pivot": None,
        }
        world.hypervisor.finish_block_job(VM_ID, "hda")
        await until(lambda: not service._shared.vms[VM_ID].merges)
        assert await list_jobs(service) == {}
        check(world, TOP, BASE)
        assert world.images.illegal == set()


async def test_the_top_goes() -> None:
    world = make_world()
    async with world.ready() as service:
        await grow(world, service)
        world.images.figures[TOP] = VolumeFigures(2 << 30, "cow", False)
        legality = []
        pivot = world.hypervisor.end_block_job

        async def look(vm_id: str, target: str, *, pivot: bool) -> None:
            legality.append(TOP in world.images.illegal)
            record = find_records(world.stored())[JOB]
            assert (record.state, record.pivot) == ("CLEANUP", False)
            assert world.images.figures[LAYERS[1]].capacity_bytes == 2 << 30
            await real(vm_id, target, pivot=pivot)

        real = pivot
        world.hypervisor.end_block_job = look  # type: ignore[method-assign]
        await merge(service, LAYERS[1], TOP)
        await until(lambda: not service._shared.vms[VM_ID].merges)
        check(world, LAYERS[1], BASE)
        assert legality == [True] and world.images.illegal == {TOP}
        device = world.stored().device(devtype="disk", name="hda")
        assert device is not None
        [chain] = [branch for branch in device.nested if branch.tag == "volumeChain"]
        assert [leaf.text for node in chain.children for leaf in node.children if leaf.tag == "volumeID"] == LAYERS[:2]


@pytest.mark.parametrize(
    ("base", "top", "active", "number", "reason"),
    [
        (BASE, TOP, LAYERS[2], 13, "no disk"),
        (BASE, TOP, BASE, 13, "no disk"),
        (TOP, BASE, TOP, 52, "is not below"),
        (BASE, BASE, TOP, 52, "is not below"),
        (VOLUME["image_id"], TOP, TOP, 52, "not in the chain"),
        (BASE, VOLUME["image_id"], TOP, 52, "not in the chain"),
        ("", TOP, TOP, 52, "not in the chain"),
    ],
)
async def test_what_cannot_be_merged(base: str, top: str, active: str, number: int, reason: str) -> None:
    world = make_world()
    async with world.ready() as service:
        await grow(world, service)
        with pytest.raises(NodeError, match=reason) as refused:
            await merge(service, base, top, active=active)
        assert refused.value.number == number and await list_jobs(service) == {}
        check(world, *LAYERS[::-1])


async def test_bases_that_are_not_fit() -> None:
    world = make_world()
    async with world.ready() as service:
        await grow(world, service)
        for figures, number in (
            (VolumeFigures(1 << 30, "raw", True), 52),
            (VolumeFigures((1 << 30) - 1, "raw", False), 79),
        ):
            world.images.figures[BASE] = figures
            with pytest.raises(NodeError) as refused:
                await merge(service, BASE, LAYERS[1])
            assert refused.value.number == number
        world.images.record_failures.append(GeneralFailure("gone"))
        with pytest.raises(errors.MergeFailed, match="gone"):
            await merge(service, BASE, LAYERS[1])
        check(world, *LAYERS[::-1])
        world.images.figures[BASE] = VolumeFigures(1 << 30, "raw", False)
        await merge(service, BASE, LAYERS[1])
        await until(lambda: not service._shared.vms[VM_ID].merges)
        check(world, TOP, LAYERS[2], BASE)


async def test_one_merge_of_an_image_at_a_time() -> None:
    world = make_world()
    async with world.ready() as service:
        await grow(world, service)
        world.hypervisor.blocks_move = False
        await merge(service, BASE, LAYERS[1])
        for job in (JOB, OTHER_JOB):
            with pytest.raises(errors.MergeFailed, match="another merge|a job"):
                await merge(service, LAYERS[1], LAYERS[2], job=job)
        assert list(await list_jobs(service)) == [JOB]
        world.hypervisor.finish_block_job(VM_ID, "hda")
        await until(lambda: not service._shared.vms[VM_ID].merges)
        world.hypervisor.blocks_move = True
        await merge(service, LAYERS[2], TOP, job=JOB)
        await until(lambda: not service._shared.vms[VM_ID].merges)
        check(world, LAYERS[2], BASE)


@pytest.mark.parametrize("top", [LAYERS[1], TOP])
async def test_a_job_that_fails_leaves_the_chain(top: str) -> None:
    world = make_world()
    async with world.ready() as service:
        await grow(world, service)
        world.hypervisor.blocks_move = False
        await merge(service, BASE, top)
        world.hypervisor.finish_block_job(VM_ID, "hda", fails=True)
        await until(lambda: not service._shared.vms[VM_ID].merges)
        check(world, *LAYERS[::-1])
        world.hypervisor.blocks_move = True
        await merge(service, BASE, top)
        await until(lambda: not service._shared.vms[VM_ID].merges)
        assert BASE in list_chain(world) and top not in list_chain(world)


@pytest.mark.parametrize("error", [HypervisorRefused("no", 1), HypervisorTimeout(VM_ID, "it", 60.0)])
async def test_what_libvirt_does_not_begin(error: NodeError) -> None:
    world = make_world()
    async with world.ready() as service:
        await grow(world, service)
        for method in ("commit_blocks", "set_metadata"):
            world.hypervisor.fail_next(method, error)
            with pytest.raises(errors.MergeFailed):
                await merge(service, BASE, TOP)
            await until(lambda: not service._shared.vms[VM_ID].merges)
            check(world, *LAYERS[::-1])


async def test_a_merge_goes_on_whose_figures_are_not_known() -> None:
    world = make_world()
    async with world.ready() as service:
        await grow(world, service)
        world.hypervisor.fail_next("find_block_job", HypervisorRefused("no", 1))
        await merge(service, BASE, TOP)
        await until(lambda: not service._shared.vms[VM_ID].merges)
        check(world, BASE)


async def test_a_disk_that_does_not_pivot_is_asked_again() -> None:
    world = make_world()
    async with world.ready() as service:
        await grow(world, service)
        world.hypervisor.fail_next("end_block_job", HypervisorRefused("busy", 1))
        await merge(service, BASE, TOP)
        await until(lambda: not world.hypervisor._failures["end_block_job"])
        await settle()
        assert world.images.illegal == set() and list_chain(world) == LAYERS[::-1]
        assert find_records(world.stored())[JOB].state == "COMMIT" and JOB in await list_jobs(service)
        await world.clock.advance(15)
        await until(lambda: not service._shared.vms[VM_ID].merges)
        check(world, BASE)


@pytest.mark.parametrize("failures", range(1, 7))
async def test_storage_that_fails_meanwhile_is_asked_again(failures: int) -> None:
    world = make_world()
    async with world.ready() as service:
        await grow(world, service)
        world.hypervisor.blocks_move = False
        await merge(service, BASE, TOP)
        await settle()
        world.images.record_failures += [GeneralFailure("away")] * failures
        world.hypervisor.finish_block_job(VM_ID, "hda")
        for _ in range(failures):
            await settle()
            assert JOB in await list_jobs(service)
            await world.clock.advance(15)
        await until(lambda: not service._shared.vms[VM_ID].merges)
        check(world, BASE)


@pytest.mark.parametrize("is_pivoted", [False, True])
async def test_a_vm_that_ends_while_its_disk_pivots(is_pivoted: bool) -> None:
    """A top that is not in use any more is illegal; one that still is must be legal."""
    world = make_world()
    async with world.ready() as service:
        await grow(world, service)
        pivot, asked = world.hypervisor.end_block_job, asyncio.Event()

        async def end(vm_id: str, target: str, *, pivot: bool) -> None:
            if is_pivoted:
                await real(vm_id, target, pivot=pivot)
            world.hypervisor.end_guest(VM_ID)
            asked.set()
            raise HypervisorRefused("domain is not running", 55)

        real = pivot
        world.hypervisor.end_block_job = end  # type: ignore[method-assign]
        await merge(service, BASE, TOP)
        await until(lambda: asked.is_set() and not service._shared.vms[VM_ID].merges)
        assert world.images.illegal == ({TOP} if is_pivoted else set())
        assert KEY not in world.stored().values


async def test_a_vm_that_is_destroyed_amid_a_merge() -> None:
    world = make_world()
    async with world.ready() as service:
        await grow(world, service)
        world.hypervisor.blocks_move = False
        await merge(service, BASE, TOP)
        await service.destroy(VM_ID)
        await settle()
        assert world.images.illegal == set() and world.images.prepared == []


@pytest.mark.parametrize("top", [LAYERS[2], TOP])
@pytest.mark.parametrize("number", range(22))
async def test_a_daemon_that_ends_at_any_call(number: int, top: str) -> None:
    """Before the first call to libvirt that a merge makes, before the second, and so on."""
    world = make_world()
    async with world.ready() as service:
        await grow(world, service)
        go_on = world.hang_after(number)
        asking = asyncio.create_task(merge(service, LAYERS[1], top))
        await settle()
        was_begun = any(method == "commit_blocks" for method, _ in world.hypervisor.calls)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    go_on()
    async with world.ready() as service:
        await until(lambda: not service._shared.vms[VM_ID].merges)
        await settle()
        merged = [TOP, LAYERS[1], BASE] if top == LAYERS[2] else [LAYERS[1], BASE]
        check(world, *(merged if was_begun else LAYERS[::-1]))
        assert world.images.illegal == ({TOP} if was_begun and top == TOP else set())


async def test_a_job_that_fails_while_nobody_looks() -> None:
    world = make_world()
    async with world.ready() as service:
        await grow(world, service)
        asked = asyncio.Event()

        async def hang(vm_id: str, target: str, *, pivot: bool) -> None:
            asked.set()
            await asyncio.Event().wait()

        pivot, world.hypervisor.end_block_job = world.hypervisor.end_block_job, hang  # type: ignore[method-assign]
        await merge(service, BASE, TOP)
        await asked.wait()
        assert world.images.illegal == {TOP}
    world.hypervisor.end_block_job = pivot  # type: ignore[method-assign]
    await world.hypervisor.end_block_job(VM_ID, "hda", pivot=False)
    async with world.ready() as service:
        await until(lambda: not service._shared.vms[VM_ID].merges)
        check(world, *LAYERS[::-1])


@pytest.mark.parametrize("is_asked", [False, True])
async def test_a_vm_that_ended_before_the_next_daemon_came(is_asked: bool) -> None:
    world = make_world()
    async with world.ready() as service:
        await grow(world, service)
        world.hypervisor.blocks_move = False
        await merge(service, BASE, TOP)
        await settle()
        vm = service._shared.vms[VM_ID]
        text = str(world.stored().values[KEY]).replace("COMMIT", "CLEANUP")
        asked = text.replace('"pivot":null', '"pivot":false') if is_asked else text
        await service._shared.save(vm, **{KEY: asked})
        world.images.illegal.add(TOP)
    world.hypervisor.end_guest(VM_ID)
    async with world.ready() as service:
        await until(lambda: not service._shared.vms[VM_ID].merges)
        assert world.images.illegal == set() and KEY not in world.stored().values


@pytest.mark.parametrize(
    "note", ["{", "[]", '{"a": 5}', '{"a": {"id": "a"}}', "[" * 100_000, f'{{"{JOB}": {{"id": "{JOB}", "base": 1}}}}']
)
async def test_notes_that_nobody_can_read_are_no_merges(note: str) -> None:
    world = make_world()
    async with world.ready() as service:
        await grow(world, service)
        await service._shared.save(service._shared.vms[VM_ID], **{KEY: note})
    async with world.ready() as service:
        await settle()
        assert await list_jobs(service) == {}
        await merge(service, BASE, TOP)
        await until(lambda: not service._shared.vms[VM_ID].merges)
        check(world, BASE)
