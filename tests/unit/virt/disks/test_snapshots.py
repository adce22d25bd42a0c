"""Snapshots of disks: which get a new top, what is told of them, and what becomes of one that its daemon left."""

import asyncio
import json

import pytest

from tests.unit.virt.builders import VM_ID, VOLUME, domain_xml
from tests.unit.virt.world import World, create, settle, until
from vdsm.api import errors
from vdsm.api.disks import SnapshotDrive
from vdsm.core.errors import GeneralFailure, NodeError
from vdsm.virt.disks.drives import list_drives
from vdsm.virt.disks.snapshot_plan import KEY, CannotSnapshot, find_record, plan_snapshot
from vdsm.virt.domain import parse_domain
from vdsm.virt.metadata import VmMetadata
from vdsm.virt.ports import HypervisorRefused, HypervisorTimeout, PreparedImage
from vdsm.virt.saved import parse_parameters
from vdsm.virt.service import VmService

JOB = "99999999-0000-4000-8000-000000000009"
OTHER = {
    **VOLUME,
    "image_id": "55555555-0000-4000-8000-000000000005",
    "volume_id": "66666666-0000-4000-8000-000000000006",
}
BASE, TOP, NEXT = VOLUME["volume_id"], "77777777-0000-4000-8000-000000000007", "88888888-0000-4000-8000-000000000008"
OTHER_TOP = "77777777-0000-4000-8000-000000000077"


def wish(base: str = BASE, top: str = TOP, image: str = VOLUME["image_id"]) -> SnapshotDrive:
    return SnapshotDrive(domain_id=VOLUME["domain_id"], image_id=image, base_volume_id=base, volume_id=top)


def make_world() -> World:
    world = World()
    world.images.parents = {TOP: BASE, NEXT: TOP, OTHER_TOP: OTHER["volume_id"]}
    return world


async def take(world: World, service: VmService, *drives: SnapshotDrive, job: str = JOB, **how: object) -> str:
    """Take a snapshot; how its job ended."""
    await service.disks.snapshot(VM_ID, list(drives), job_id=job, **how)  # type: ignore[arg-type]
    return await world.jobs.wait(job)


def list_volumes(world: World) -> dict[str, str]:
    """The volume of each disk, as libvirt's XML and the metadata in it tell, which agree."""
    view = parse_domain(world.record())
    told = {str(one.attributes["name"]): one.volume for one in world.stored().devices if one.volume}
    found = {drive.target: drive.volume for drive in list_drives(view, view.metadata or VmMetadata())}
    assert told == found
    return {target: volume.volume_id for target, volume in found.items()}


def count(world: World, method: str) -> int:
    return sum(name == method for name, _ in world.hypervisor.calls)


async def test_disks_get_new_tops_at_one_moment() -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME, OTHER])
        world.hypervisor.agents.add(VM_ID)
        assert await take(world, service, wish(), wish(OTHER["volume_id"], OTHER_TOP, OTHER["image_id"])) == ""
        assert sorted(list_volumes(world).values()) == [TOP, OTHER_TOP]
        assert count(world, "snapshot") == 1 and world.hypervisor.held == set()
        assert count(world, "freeze_filesystems") == count(world, "thaw_filesystems") == 1
        assert KEY not in world.stored().values
        device = next(one for one in world.stored().devices if one.volume and one.volume.volume_id == TOP)
        [chain] = [branch for branch in device.nested if branch.tag == "volumeChain"]
        nodes = [{leaf.tag: leaf.text for leaf in node.children} for node in chain.children]
        assert [node["volumeID"] for node in nodes] == [BASE, TOP] and nodes[0]["path"].endswith(BASE)
        assert list_drives(parse_domain(world.record()), world.stored())[0].chain == [TOP, BASE]
        await service.destroy(VM_ID)
        await until(lambda: world.images.prepared == [])


@pytest.mark.parametrize("is_wanted", [False, True])
async def test_guests_read_their_clocks_anew(is_wanted: bool) -> None:
    world = make_world()
    async with world.ready(syncs_time=is_wanted) as service:
        await create(service, drives=[VOLUME])
        world.hypervisor.agents.add(VM_ID)
        asked = []

        async def ask(vm_id: str, command: str) -> str:
            asked.append((vm_id, command))
            raise HypervisorRefused("it does not know that", 1)

        world.hypervisor.ask_agent = ask  # type: ignore[method-assign]
        assert await take(world, service, wish()) == ""
        assert ((VM_ID, "guest-set-time") in asked) is is_wanted
        asked.clear()
        assert await take(world, service, wish(BASE, NEXT), job=NEXT) != ""
        assert (VM_ID, "guest-set-time") not in asked


async def test_a_snapshot_looks_before_it_plans() -> None:
    """Somebody else gave the disk a new top, and nobody told of it."""
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        folder = f"/run/{VOLUME['domain_id']}/{VOLUME['image_id']}"
        disk = f"<disk name='hda' snapshot='external' type='file'><source file='{folder}/{TOP}'/></disk>"
        await world.hypervisor.snapshot(VM_ID, f"<d><disks>{disk}</disks></d>")
        assert await take(world, service, wish(TOP, NEXT)) == ""
        assert list_volumes(world) == {"hda": NEXT}


async def test_what_others_write_meanwhile_stays() -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        vm, prepare = service._shared.vms[VM_ID], world.images.prepare

        async def prepare_slowly(*ids: str) -> PreparedImage:
            image = await prepare(*ids)
            await service._shared.save(vm, balloonTarget=int(str(vm.metadata.values.get("balloonTarget", 0))) + 1)
            return image

        world.images.prepare = prepare_slowly  # type: ignore[method-assign]
        assert await take(world, service, wish()) == ""
        assert world.stored().values["balloonTarget"] == 2


async def test_a_disk_that_has_its_top_already_stays() -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        assert await take(world, service, wish()) == ""
        assert await take(world, service, wish(), job=NEXT) == ""
        assert count(world, "snapshot") == 1
        assert await take(world, service, wish(TOP, NEXT), job=OTHER_TOP) == ""
        assert list_volumes(world) == {"hda": NEXT}


async def test_whoever_froze_the_guest_thaws_it() -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        world.hypervisor.agents.add(VM_ID)
        await service.disks.freeze(VM_ID)
        assert await take(world, service, wish(), frozen=True) == ""
        assert world.hypervisor.held == {VM_ID}
        await service.disks.thaw(VM_ID)
        assert world.hypervisor.held == set()


@pytest.mark.parametrize(
    ("drives", "reason"),
    [
        ([wish(TOP, NEXT)], "no disk of the VM"),
        ([wish(image=OTHER["image_id"])], "no disk of the VM"),
        ([SnapshotDrive(base_lun_id="a", lun_id="b")], "only disks on volumes"),
        ([SnapshotDrive(base_disk_id="a", disk_id="b")], "only disks on volumes"),
        ([wish(top=OTHER["volume_id"])], "does not lie on"),
        ([wish(), wish(top=NEXT)], "named twice"),
        ([wish(top=NEXT)], "does not lie on"),
    ],
)
async def test_what_does_not_fit_changes_nothing(drives: list[SnapshotDrive], reason: str) -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        before = world.stored()
        assert reason in await take(world, service, *drives)
        assert world.jobs.numbers == {JOB: 48}
        assert (world.stored(), count(world, "snapshot")) == (before, 0)
        assert list_volumes(world) == {"hda": BASE}
        assert await take(world, service, wish(), job=NEXT) == ""


async def test_a_top_that_is_no_qcow2_is_refused() -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        world.images.format = "raw"
        assert "no qcow2" in await take(world, service, wish())


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        (f'<lease><lockspace>x</lockspace><key>{BASE}</key><target path="/x"/></lease>', "holds a lease"),
        ("transient", "transient"),
        ("cdrom", "no disk"),
    ],
)
def test_disks_that_cannot_take_a_top(device: str, reason: str) -> None:
    ids = "".join(f"<o:{key[:-3]}ID>{value}</o:{key[:-3]}ID>" for key, value in VOLUME.items())
    mode = "<o:shared>transient</o:shared>" if device == "transient" else ""
    kind = device if device == "cdrom" else "disk"
    disk = f'<disk type="file" device="{kind}"><source file="/a/b"/><target dev="sda"/></disk>'
    told = f'<o:device devtype="disk" name="sda">{ids}{mode}</o:device>'
    view = parse_domain(domain_xml(metadata=told, devices=disk + (device if device.startswith("<") else "")))
    assert view.metadata is not None
    with pytest.raises(CannotSnapshot, match=reason):
        plan_snapshot(view, view.metadata, [wish()])


@pytest.mark.parametrize("method", ["snapshot", "set_metadata"])
@pytest.mark.parametrize("error", [HypervisorRefused("no", 1), HypervisorTimeout(VM_ID, "it", 60.0)])
async def test_what_libvirt_refuses_leaves_all_as_it_was(method: str, error: NodeError) -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        world.hypervisor.agents.add(VM_ID)
        before = world.stored()
        world.hypervisor.fail_next(method, error)
        assert await take(world, service, wish())
        assert world.jobs.numbers == {JOB: 48}
        assert (world.stored(), world.hypervisor.held) == (before, set())
        assert list_volumes(world) == {"hda": BASE}


async def test_an_image_that_cannot_be_prepared_leaves_all_as_it_was() -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        before = world.stored()
        world.images.failures.append(GeneralFailure("gone"))
        assert "gone" in await take(world, service, wish())
        assert (world.stored(), count(world, "snapshot")) == (before, 0)


async def test_what_libvirt_did_though_it_did_not_say_so_is_done() -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        take_it = world.hypervisor.snapshot

        async def say_nothing(vm_id: str, xml: str) -> None:
            await take_it(vm_id, xml)
            world.hypervisor.fail_next("thaw_filesystems", HypervisorTimeout(VM_ID, "thaw", 60.0))
            world.hypervisor.fail_next("get_domain", HypervisorTimeout(VM_ID, "look", 60.0))
            raise HypervisorTimeout(vm_id, "snapshot", 60.0)

        world.hypervisor.snapshot = say_nothing  # type: ignore[method-assign]
        world.hypervisor.agents.add(VM_ID)
        await service.disks.snapshot(VM_ID, [wish()], job_id=JOB)
        await until(lambda: count(world, "get_domain") > 2)
        await settle()
        assert world.jobs.ends == {JOB: None}
        await world.clock.advance(5)
        assert await world.jobs.wait(JOB) == ""
        assert list_volumes(world) == {"hda": TOP} and world.hypervisor.held == set()


async def test_file_systems_that_take_too_long_to_freeze() -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        world.hypervisor.agents.add(VM_ID)
        freeze = world.hypervisor.freeze_filesystems

        async def freeze_slowly(vm_id: str) -> None:
            await freeze(vm_id)
            await world.clock.sleep(61)

        world.hypervisor.freeze_filesystems = freeze_slowly  # type: ignore[method-assign]
        await service.disks.snapshot(VM_ID, [wish()], job_id=JOB, freeze_timeout_minutes=1)
        await until(lambda: world.hypervisor.held)
        await world.clock.advance(61)
        assert "more than 60 s" in await world.jobs.wait(JOB)
        assert (world.hypervisor.held, count(world, "snapshot")) == (set(), 0)


async def test_a_vm_that_ends_meanwhile() -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        world.images.may_go_on.clear()
        await service.disks.snapshot(VM_ID, [wish()], job_id=JOB)
        await until(lambda: world.images.waiting)
        world.hypervisor.end_guest(VM_ID)
        await settle()
        world.images.may_go_on.set()
        assert await world.jobs.wait(JOB)
        assert KEY not in world.stored().values


async def test_refused_at_once() -> None:
    world = make_world()
    async with world.ready() as service:
        with pytest.raises(errors.NoSuchVm):
            await service.disks.snapshot(VM_ID, [wish()])
        await create(service, drives=[VOLUME])
        with pytest.raises(errors.MemoryHandleInvalid):
            await service.disks.snapshot(VM_ID, [wish()], "a,b,c,d,e,f")
        await service.disks.snapshot(VM_ID, [wish()], job_id=JOB)
        with pytest.raises(GeneralFailure):
            await service.disks.snapshot(VM_ID, [wish()], job_id=JOB)
        assert await world.jobs.wait(JOB) == ""
        world.hypervisor.end_guest(VM_ID)
        await settle()
        for call in (service.disks.snapshot(VM_ID, [wish()]), service.disks.freeze(VM_ID), service.disks.thaw(VM_ID)):
            with pytest.raises(errors.VmIsDown):
                await call


@pytest.mark.parametrize(
    ("kind", "freeze_number", "thaw_number"), [(86, 19, 19), (74, 19, 19), (3, 75, 75), (84, 75, 75), (1, 76, 77)]
)
async def test_agents_that_do_not_freeze(kind: int, freeze_number: int, thaw_number: int) -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service)
        for call, number in ((service.disks.freeze, freeze_number), (service.disks.thaw, thaw_number)):
            world.hypervisor.fail_next(f"{call.__name__}_filesystems", HypervisorRefused("no", kind))
            with pytest.raises(NodeError) as refused:
                await call(VM_ID)
            assert refused.value.number == number
        world.hypervisor.freeze(VM_ID)
        with pytest.raises(errors.FreezeFailed):
            await service.disks.freeze(VM_ID)


@pytest.mark.parametrize("is_frozen", [False, True])
@pytest.mark.parametrize("is_done", [False, True])
async def test_the_next_daemon_ends_what_was_begun(is_done: bool, is_frozen: bool) -> None:
    world = make_world()
    world.hypervisor.agents.add(VM_ID)
    hangs = asyncio.Event()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        world.hypervisor.agents.add(VM_ID)
        take_it = world.hypervisor.snapshot

        async def hang(vm_id: str, xml: str) -> None:
            if is_done:
                await take_it(vm_id, xml)
            world.hypervisor.held.add(VM_ID)
            hangs.set()
            await asyncio.Event().wait()

        world.hypervisor.snapshot = hang  # type: ignore[method-assign]
        await service.disks.snapshot(VM_ID, [wish()], job_id=JOB, frozen=is_frozen)
        await hangs.wait()
        record = find_record(world.stored())
        assert record is not None and record.list_tops() == {"hda": TOP}
        assert record.vmDrives["hda"][1] == BASE and record.vmDrives["hda"][0].startswith("<disk")
        words = json.loads(str(world.stored().values[KEY]))
        assert {type(words[key]) for key in ("startTime", "timeout", "freezeTimeout")} == {str}
    world.hypervisor.snapshot = take_it  # type: ignore[method-assign]
    told = len(world.events)
    async with world.ready() as service:
        assert bool(await world.jobs.wait(JOB)) != is_done
        assert list_volumes(world) == {"hda": TOP if is_done else BASE}
        assert KEY not in world.stored().values
        assert world.hypervisor.held == ({VM_ID} if is_frozen else set())
        assert world.statuses()[told:] == ["Up", "Up"]
        assert await take(world, service, wish(), job=NEXT) == ""


@pytest.mark.parametrize("number", range(12))
async def test_a_daemon_that_ends_at_any_call(number: int) -> None:
    """Before the first call to libvirt that a snapshot makes, before the second, and so on: it makes ten or so."""
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME, OTHER])
        world.hypervisor.agents.add(VM_ID)
        go_on = world.hang_after(number)
        drives = [wish(), wish(OTHER["volume_id"], OTHER_TOP, OTHER["image_id"])]
        await service.disks.snapshot(VM_ID, drives, job_id=JOB)
        await settle()
        was_begun = KEY in world.stored().values
        was_asked = any(method == "snapshot" for method, _ in world.hypervisor.calls)
    go_on()
    async with world.ready():
        await settle()
        assert world.jobs.numbers.get(JOB) == (48 if was_begun and not was_asked else None)
        assert sorted(list_volumes(world).values()) == sorted(
            [TOP, OTHER_TOP] if was_asked else [BASE, OTHER["volume_id"]]
        )
        assert (KEY in world.stored().values, world.hypervisor.held) == (False, set())


MEMORY, BESIDE = (f"{number}0000000-0000-4000-8000-000000000000" for number in "ab")
HANDLE = ",".join((VOLUME["domain_id"], VOLUME["pool_id"], MEMORY, MEMORY, BESIDE, BESIDE))
MEMORY_PATH, BESIDE_PATH = (f"/run/{VOLUME['domain_id']}/{one}/{one}" for one in (MEMORY, BESIDE))


async def test_the_memory_is_saved_beside_the_disks() -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        world.hypervisor.agents.add(VM_ID)
        look = world.hypervisor.get_migratable_xml

        async def tell_passwords(vm_id: str) -> str:
            return (await look(vm_id)).replace("<devices>", "<devices><graphics type='vnc' passwd='secret'/>")

        world.hypervisor.get_migratable_xml = tell_passwords  # type: ignore[method-assign]
        assert await take(world, service, wish(), memory=HANDLE) == ""
        assert list_volumes(world) == {"hda": TOP}
        assert count(world, "freeze_filesystems") == count(world, "thaw_filesystems") == 0
        assert list(world.hypervisor.saved) == [MEMORY_PATH] == world.images.padded
        told = parse_parameters(world.images.contents[BESIDE_PATH])
        assert (
            told.is_snapshot and BASE in told.live_xml and "secret" not in told.live_xml and told.elapsed_s is not None
        )
        assert set(world.images.prepared) == {VOLUME["image_id"]} and KEY not in world.stored().values


async def test_a_guest_that_stands_still_is_not_frozen_for_too_long() -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        look = world.hypervisor.get_migratable_xml

        async def look_slowly(vm_id: str) -> str:
            await world.clock.sleep(100)
            return await look(vm_id)

        world.hypervisor.get_migratable_xml = look_slowly  # type: ignore[method-assign]
        await service.disks.snapshot(VM_ID, [wish()], HANDLE, job_id=JOB, freeze_timeout_minutes=1)
        await settle()
        await world.clock.advance(100)
        assert await world.jobs.wait(JOB) == ""


async def test_memory_without_disks_is_no_snapshot() -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        assert "goes with disks" in await take(world, service, memory=HANDLE)
        assert world.hypervisor.saved == {} and world.jobs.numbers == {JOB: 48}


@pytest.mark.parametrize("method", ["snapshot", "get_migratable_xml", "set_metadata"])
async def test_memory_that_cannot_be_saved_leaves_nothing(method: str) -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        before = world.stored()
        world.hypervisor.fail_next(method, HypervisorRefused("no", 78))
        assert await take(world, service, wish(), memory=HANDLE)
        assert (world.stored(), world.images.padded, world.jobs.numbers) == (before, [], {JOB: 48})
        assert set(world.images.prepared) == {VOLUME["image_id"]}


async def test_memory_that_takes_too_long_is_given_up() -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        aborted = asyncio.Event()

        async def hang(vm_id: str, xml: str, *, has_memory: bool = False) -> None:
            assert has_memory
            await aborted.wait()
            raise HypervisorRefused("operation aborted", 78)

        async def abort(vm_id: str) -> None:
            assert world.clock.monotonic() > started_s + 60
            aborted.set()

        world.hypervisor.snapshot = hang  # type: ignore[method-assign]
        world.hypervisor.abort_move = abort  # type: ignore[method-assign]
        started_s = world.clock.monotonic()
        await service.disks.snapshot(VM_ID, [wish()], HANDLE, job_id=JOB, timeout_minutes=1)
        for _ in range(11):
            await settle()
            assert not aborted.is_set()
            await world.clock.advance(6)
        assert "aborted" in await world.jobs.wait(JOB)
        assert list_volumes(world) == {"hda": BASE} and set(world.images.prepared) == {VOLUME["image_id"]}


@pytest.mark.parametrize("is_done", [False, True])
async def test_the_next_daemon_waits_for_the_memory(is_done: bool) -> None:
    world = make_world()
    hangs = asyncio.Event()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        take_it, aborted = world.hypervisor.snapshot, []

        async def hang(vm_id: str, xml: str, *, has_memory: bool = False) -> None:
            if is_done:
                await take_it(vm_id, xml, has_memory=has_memory)
            hangs.set()
            await asyncio.Event().wait()

        async def abort(vm_id: str) -> None:
            aborted.append(vm_id)

        world.hypervisor.snapshot = hang  # type: ignore[method-assign]
        world.hypervisor.abort_move = abort  # type: ignore[method-assign]
        await service.disks.snapshot(VM_ID, [wish()], HANDLE, job_id=JOB, timeout_minutes=1)
        await hangs.wait()
        record = find_record(world.stored())
        assert record is not None and record.memory is not None and record.memory.handle == HANDLE
        assert record.memoryVolPath == MEMORY_PATH
    for _ in range(14):
        world.hypervisor.fail_next("set_metadata", HypervisorTimeout(VM_ID, "set metadata", 30.0))
    async with world.ready():
        for _ in range(14):
            await settle()
            assert world.jobs.ends == {JOB: None}
            await world.clock.advance(5)
        assert bool(await world.jobs.wait(JOB)) != is_done
        assert aborted and set(world.images.prepared) == {VOLUME["image_id"]}
        assert world.images.padded == ([MEMORY_PATH] if is_done else [])
        assert list_volumes(world) == {"hda": TOP if is_done else BASE}


@pytest.mark.parametrize("note", ["", "{", "[]", '{"jobUUID": "x"}', '{"jobUUID": 5}', "[" * 100_000, "x" * 1000])
async def test_notes_that_nobody_can_read_are_dropped(note: str) -> None:
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        await service._shared.save(service._shared.vms[VM_ID], **{KEY: note})
    async with world.ready():
        await until(lambda: KEY not in world.stored().values)
        assert world.jobs.ends == {}


async def test_a_volume_is_what_libvirt_says() -> None:
    """A daemon that ended before it heard of a new top finds it all the same."""
    world = make_world()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
    folder = f"/run/{VOLUME['domain_id']}/{VOLUME['image_id']}"
    xml = (
        f"<d><disks><disk name='hda' snapshot='external' type='file'><source file='{folder}/{TOP}'/></disk></disks></d>"
    )
    await world.hypervisor.snapshot(VM_ID, xml)
    async with world.ready() as service:
        assert await take(world, service, wish(TOP, NEXT)) == ""
        assert list_volumes(world) == {"hda": NEXT}
