"""VMs are saved to disk and taken up again; whatever goes wrong, they are as before, and their volumes released."""

import pytest

from tests.unit.virt.builders import VM_ID, VOLUME, domain_xml
from tests.unit.virt.guest.test_channels import beat, listen
from tests.unit.virt.world import World, create, parameters, settle, status, until
from vdsm.api import errors
from vdsm.core.errors import GeneralFailure
from vdsm.testing.channels import GuestEnd
from vdsm.virt import pickles
from vdsm.virt.domain import parse_domain
from vdsm.virt.ports import DomainState, HypervisorDown, HypervisorRefused
from vdsm.virt.service import VmService

MEMORY_IMAGE, PARAMETERS_IMAGE = "66666666-0000-4000-8000-000000000006", "77777777-0000-4000-8000-000000000007"
VOLUME_ID = "88888888-0000-4000-8000-000000000008"
HANDLE = f"{VOLUME['domain_id']},{VOLUME['pool_id']},{MEMORY_IMAGE},{VOLUME_ID},{PARAMETERS_IMAGE},{VOLUME_ID}"
MEMORY = f"/run/{VOLUME['domain_id']}/{MEMORY_IMAGE}/{VOLUME_ID}"
BESIDE = f"/run/{VOLUME['domain_id']}/{PARAMETERS_IMAGE}/{VOLUME_ID}"
IMAGE = VOLUME["image_id"]


async def tell(service: VmService) -> tuple[int, str]:
    stats = await service.migration.get_status(VM_ID)
    return stats.status.code, stats.status.message


async def wake(service: VmService) -> str:
    """Take it up again; the status that is answered."""
    info = await service.create(VM_ID, parameters(drives=[VOLUME], memory_handle=HANDLE))
    return info.status


async def save_one(world: World, service: VmService) -> None:
    """A VM with a disk is on disk, and forgotten here."""
    await create(service, drives=[VOLUME])
    await service.migration.hibernate(VM_ID, HANDLE)
    await until(lambda: world.statuses()[-1] == "Down")
    await settle()
    await service.destroy(VM_ID)


async def test_a_vm_is_saved_and_taken_up_again() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        await service.migration.hibernate(VM_ID, HANDLE)
        assert await status(service) == "Saving State" == world.statuses()[-1]
        await until(lambda: world.statuses()[-1] == "Down")
        await settle()
        stats = await service.get_stats(VM_ID)
        assert (stats.exit_reason, stats.exit_code) == (5, 0) and world.images.prepared == []
        assert await tell(service) == (0, "SaveState done")
        told = pickles.load(world.images.contents[BESIDE])
        assert isinstance(told, dict) and VM_ID in str(told["_srcDomXML"])
        await service.destroy(VM_ID)
        await world.clock.advance(1000)
        assert await wake(service) == "Restoring state"
        await until(lambda: world.statuses()[-1] == "Up")
        await settle()
        domain = world.hypervisor.domains[VM_ID]
        assert (domain.state, domain.reason) == (DomainState.RUNNING, 3) and world.images.prepared == [IMAGE]
        assert "memoryVolumes" not in world.stored().values and "savedWhile" not in world.stored().values
        assert ((await service.get_stats(VM_ID)).elapsed_s or 0) < 5, "the time on disk does not count"


@pytest.mark.parametrize("locks", [True, False])
async def test_a_guest_locks_its_screen_and_hears_of_it(locks: bool) -> None:
    """It is waited for half a minute, and ten seconds more to be ready."""
    world = World()
    async with world.ready() as service:
        end = await listen(world, service, drives=[VOLUME])
        await beat(world, end)
        await world.clock.advance(11)  # the version is recorded
        await beat(world, end)
        await service.migration.hibernate(VM_ID, HANDLE)
        await settle()
        assert end.heard[-1] == {"__name__": "lock-screen"}
        assert world.hypervisor.domains[VM_ID].state is DomainState.RUNNING
        if locks:
            end.say("session-lock")
        await world.clock.advance(1 if locks else 30.5)
        said = end.heard[-1]
        assert (said["__name__"], said["type"]) == ("lifecycle-event", "before_hibernation")
        assert world.statuses()[-1] == "Saving State"
        if locks:
            end.say("completion", reply_id=said["reply_id"])
        await world.clock.advance(0 if locks else 10.5)
        await until(lambda: world.statuses()[-1] == "Down")
        await settle()
        await service.destroy(VM_ID)
        after = world.channels.ends[parse_domain(next(iter(world.hypervisor.saved.values()))).agent_socket] = GuestEnd()
        await wake(service)
        await until(lambda: world.statuses()[-1] == "Up")
        await world.clock.advance(12)
        assert {"__name__": "lifecycle-event", "type": "after_hibernation"} in after.heard


async def test_a_guest_hears_that_it_was_not_saved() -> None:
    world = World()
    async with world.ready() as service:
        end = await listen(world, service, drives=[VOLUME])
        await beat(world, end)
        end.say("session-lock")
        world.hypervisor.fail_next("save", HypervisorRefused("no room", 9))
        await service.migration.hibernate(VM_ID, HANDLE)
        await settle()
        await world.clock.advance(11)
        assert end.heard[-1] == {"__name__": "lifecycle-event", "type": "after_hibernation", "failure": True}
        assert world.statuses()[-1] == "Up"


async def test_it_can_be_canceled_before_its_guest_is_ready() -> None:
    world = World()
    async with world.ready() as service:
        end = await listen(world, service, drives=[VOLUME])
        await beat(world, end)
        await service.migration.hibernate(VM_ID, HANDLE)
        await settle()
        await service.migration.cancel(VM_ID)
        await settle()
        assert await tell(service) == (47, "Migration canceled")
        assert ("suspend", VM_ID) not in world.hypervisor.calls and world.statuses()[-1] == "Up"


@pytest.mark.parametrize("connects", [True, False])
async def test_a_guest_that_wakes_reads_its_clock(connects: bool) -> None:
    world = World()
    asked, ask = list[str](), world.hypervisor.ask_agent

    async def listen_in(vm_id: str, command: str) -> str:
        asked.append(command)
        return await ask(vm_id, command)

    world.hypervisor.ask_agent = listen_in  # type: ignore[method-assign]
    async with world.ready() as service:
        await save_one(world, service)
        await wake(service)
        await until(lambda: world.statuses()[-1] == "Up")
        await settle()
        if connects:
            world.hypervisor.connect_agent(VM_ID)
        await world.clock.advance(12)
        assert asked.count("guest-set-time") == connects


async def test_nothing_else_is_done_to_it_meanwhile() -> None:
    world = World()
    world.hypervisor.moves_end = False
    async with world.ready() as service:
        await create(service)
        await service.migration.hibernate(VM_ID, HANDLE)
        await until(lambda: VM_ID in world.hypervisor.moves)
        for request in (service.reset, service.pause, service.shutdown):
            with pytest.raises(errors.MigrationInProgress):
                await request(VM_ID)
        with pytest.raises(errors.WrongState):
            await service.resume(VM_ID)
        with pytest.raises(errors.MigrationInProgress):
            await service.migration.hibernate(VM_ID, HANDLE)
        world.hypervisor.moves[VM_ID].ended.set()
        await until(lambda: world.statuses()[-1] == "Down")


@pytest.mark.parametrize("before", ["running", "paused"])
@pytest.mark.parametrize("step", ["memory", "parameters", "save", "metadata", "suspend"])
async def test_a_failure_leaves_it_as_it_was(before: str, step: str) -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        if before == "paused":
            await service.pause(VM_ID)
        if step == "memory":
            world.images.failures.append(GeneralFailure("gone"))
        elif step == "parameters":
            world.images.write = refuse  # type: ignore[method-assign]
        elif step == "metadata":
            world.hypervisor.fail_next("set_metadata", HypervisorRefused("no", 1))
        elif step == "save" or before == "running":
            world.hypervisor.fail_next(step, HypervisorRefused("no room", 9))
        else:
            return
        await service.migration.hibernate(VM_ID, HANDLE)
        await until(lambda: world.statuses()[-1] in ("Powering up", "Paused"))
        await settle()
        assert (world.statuses()[-1] == "Paused") == (before == "paused")
        assert (await tell(service))[0] in (12, 102)
        assert world.images.prepared == [IMAGE]
        assert not {"memoryVolumes", "savedWhile"} & world.stored().values.keys()
        await (service.pause if before == "running" else service.resume)(VM_ID)


async def refuse(domain_id: str, path: str, content: bytes) -> None:
    raise GeneralFailure("too short")


async def test_it_is_canceled() -> None:
    world = World()
    world.hypervisor.moves_end = False
    async with world.ready() as service:
        await create(service)
        await service.migration.hibernate(VM_ID, HANDLE)
        await until(lambda: VM_ID in world.hypervisor.moves)
        await service.migration.cancel(VM_ID)
        await until(lambda: world.statuses()[-1] == "Powering up")
        await settle()
        assert await tell(service) == (47, "Migration canceled") and world.images.prepared == []


@pytest.mark.parametrize("outcome", ["is saved", "fails", "never began"])
async def test_a_daemon_that_starts_again_meanwhile(outcome: str) -> None:
    world = World()
    world.hypervisor.moves_end = False
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        if outcome == "never began":
            world.images.may_go_on.clear()
        await service.migration.hibernate(VM_ID, HANDLE)
        await until(lambda: VM_ID in world.hypervisor.moves or world.images.waiting)
    world.images.may_go_on.set()
    async with world.ready() as service:
        assert await status(service) == "Saving State"
        if outcome == "is saved":
            world.hypervisor.moves[VM_ID].ended.set()
            await until(lambda: world.statuses()[-1] == "Down")
            assert (await service.get_stats(VM_ID)).exit_reason == 5
        else:
            if outcome == "fails":
                world.hypervisor.moves[VM_ID].fail(HypervisorRefused("no room", 9))
            for _ in range(4):
                await settle()
                await world.clock.advance(1)
            await until(lambda: world.statuses()[-1] == "Up")
            assert world.hypervisor.domains[VM_ID].state is DomainState.RUNNING
        await settle()
        assert set(world.images.prepared) == (set() if outcome == "is saved" else {IMAGE})
        assert "savedWhile" not in world.stored().values or outcome == "is saved"


async def test_libvirt_goes_away_meanwhile() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        world.hypervisor.fail_next("save", HypervisorDown("libvirtd ended"))
        await service.migration.hibernate(VM_ID, HANDLE)
        for _ in range(4):
            await settle()
            await world.clock.advance(1)
        await until(lambda: world.statuses()[-1] in ("Up", "Powering up"))
        await settle()
        assert world.images.prepared == []


@pytest.mark.parametrize("trouble", ["read_saved", "define", "restore", "memory", "another's"])
async def test_a_memory_that_cannot_be_taken_up(trouble: str) -> None:
    world = World()
    async with world.ready() as service:
        await save_one(world, service)
        if trouble == "memory":
            world.images.failures.append(GeneralFailure("gone"))
        elif trouble == "another's":
            world.hypervisor.saved[MEMORY] = domain_xml(VM_ID.replace("a", "b"))
        elif trouble == "define":
            world.hypervisor.fail_next("define", HypervisorRefused("no", 9))
            world.hypervisor.fail_next("define", HypervisorRefused("no", 9))
        else:
            world.hypervisor.fail_next(trouble, HypervisorRefused("no", 9))
        await wake(service)
        await until(lambda: world.statuses()[-1] == "Down")
        await settle()
        stats = await service.get_stats(VM_ID)
        assert str(stats.exit_message).startswith("Wake up from hibernation failed:") and stats.exit_code == 1
        assert world.images.prepared == []


async def test_what_stands_beside_the_memory_may_be_missing() -> None:
    world = World()
    async with world.ready() as service:
        await save_one(world, service)
        world.images.contents[BESIDE] = b"cos\nsystem\n."
        await wake(service)
        await until(lambda: world.statuses()[-1] == "Up")


async def test_a_snapshot_of_memory_is_taken_up_with_the_disks_that_are_wanted() -> None:
    world = World()
    async with world.ready() as service:
        await save_one(world, service)
        disk = (
            '<disk type="file" device="disk"><source file="/old"/><backingStore/><target dev="hda" bus="ide"/></disk>'
        )
        old = domain_xml(devices=disk + '<graphics type="vnc"/>')
        world.images.contents[BESIDE] = pickles.dump({"restoreFromSnapshot": True, "_srcDomXML": old})
        await wake(service)
        await until(lambda: world.statuses()[-1] == "Up")
        live = world.hypervisor.domains[VM_ID].xml
        [source] = live.findall("devices/disk/source")
        assert source.get("file") == f"/run/{VOLUME['domain_id']}/{IMAGE}/{VOLUME['volume_id']}"
        assert live.find("devices/disk/backingStore") is None
        display = live.find("devices/graphics")
        assert display is not None and display.get("passwdValidTo") == "1970-01-01T00:00:01"


async def test_a_daemon_that_ended_while_it_took_one_up() -> None:
    world = World()
    async with world.ready() as service:
        await save_one(world, service)
        world.images.may_go_on.clear()
        await wake(service)
        await until(lambda: world.images.waiting)
    world.images.may_go_on.set()
    async with world.ready() as service:
        await settle()
        assert await status(service) == "Down" and world.images.prepared == []
        await service.destroy(VM_ID)
        await wake(service)
        await until(lambda: world.statuses()[-1] == "Up")
    async with world.ready() as service:
        await settle()
        assert set(world.images.prepared) == {IMAGE} and "memoryVolumes" not in world.stored().values


async def test_one_that_is_destroyed_while_it_is_taken_up() -> None:
    world = World()
    async with world.ready() as service:
        await save_one(world, service)
        world.images.may_go_on.clear()
        await wake(service)
        await until(lambda: world.images.waiting)
        await service.destroy(VM_ID)
        world.images.may_go_on.set()
        await settle()
        assert world.images.prepared == [] and world.hypervisor.domains == {}


@pytest.mark.parametrize("handle", ["", "a,b", HANDLE + ",x", HANDLE.replace("6", "g"), ",".join(["../x"] * 6)])
async def test_handles_that_are_none(handle: str) -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        with pytest.raises(errors.MemoryHandleInvalid):
            await service.migration.hibernate(VM_ID, handle)
        assert await status(service) == "Powering up"
