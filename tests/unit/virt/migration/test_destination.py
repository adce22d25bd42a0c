"""VMs come: what is prepared, what is left when they do not, and what a daemon that starts again makes of it."""

import asyncio

import pytest

from tests.unit.virt.builders import VM_ID, VOLUME, domain_xml
from tests.unit.virt.migration.pair import IMAGE, Pair
from tests.unit.virt.world import World, create, settle, status, until
from vdsm.api import errors
from vdsm.api.migration import IncomingVm
from vdsm.core.errors import GeneralFailure
from vdsm.virt.migration.plans import MigrationSettings
from vdsm.virt.ports import DomainState, EventKind, HypervisorEvent, HypervisorRefused

IDS = "".join(f"<{name[:-3]}ID>{value}</{name[:-3]}ID>" for name, value in VOLUME.items())
DISK = '<disk type="file" device="disk"><source file="/x"/><target dev="vda" bus="virtio"/></disk>'
XML = domain_xml(devices=DISK, metadata=f'<device devtype="disk" name="vda">{IDS}</device>')
GIVEN = IncomingVm(live_xml=XML)


async def test_its_images_are_ready_when_the_answer_is_given() -> None:
    world = World()
    async with world.ready() as service:
        answer = await service.migration.create_incoming(VM_ID, GIVEN)
        assert (answer.port, answer.vm.vm_id, answer.vm.status) == (0, VM_ID, "Migration Destination")
        assert world.images.prepared == [IMAGE] and world.stored().is_incoming
        assert world.hypervisor.domains[VM_ID].state is DomainState.SHUT_OFF
        assert world.statuses() == [], "nobody is told"
        for request in (service.reset, service.pause, service.resume):
            with pytest.raises((errors.WrongState, errors.MigrationInProgress)):
                await request(VM_ID)
        with pytest.raises(errors.VmExists):
            await service.migration.create_incoming(VM_ID, GIVEN)
        await service.destroy(VM_ID)
        assert world.images.prepared == [] and world.hypervisor.domains == {}


@pytest.mark.parametrize(("limit", "failure"), [(None, errors.MigrationFailed), (2, errors.MigrationLimit)])
async def test_so_many_come_at_once(limit: int | None, failure: type[Exception]) -> None:
    world = World()
    async with world.ready() as service:
        ids = [VM_ID.replace("a", letter) for letter in "bcd"]
        for number, vm_id in enumerate(ids):
            given = IncomingVm(live_xml=domain_xml(vm_id, f"vm{number}"))
            if number < 2:
                await service.migration.create_incoming(vm_id, given, limit)
            else:
                with pytest.raises(failure):
                    await service.migration.create_incoming(vm_id, given, limit)
        await service.destroy(ids[0])
        await settle()
        await service.migration.create_incoming(ids[2], given)


async def test_an_image_that_cannot_be_prepared_leaves_nothing() -> None:
    world = World()
    async with world.ready() as service:
        for failure in ("image", "define"):
            if failure == "image":
                world.images.failures.append(GeneralFailure("gone"))
            else:
                world.hypervisor.fail_next("define", HypervisorRefused("no", 1))
            with pytest.raises(errors.CreateFailed):
                await service.migration.create_incoming(VM_ID, GIVEN, 1)
            assert (world.images.prepared, world.hypervisor.domains, await service.list_vms()) == ([], {}, [])
        await service.migration.create_incoming(VM_ID, GIVEN, 1)


async def test_images_that_take_too_long() -> None:
    world = World()
    async with world.ready(migration=MigrationSettings(listener_timeout_s=30.0)) as service:
        world.images.may_go_on.clear()
        asking = asyncio.create_task(service.migration.create_incoming(VM_ID, GIVEN, 1))
        await until(lambda: world.images.waiting)
        await world.clock.advance(31)
        with pytest.raises(errors.CreateFailed, match="30 s"):
            await asking
        assert world.hypervisor.domains == {}
        world.images.may_go_on.set()
        await until(lambda: not world.images.waiting)
        await settle()
        assert world.images.prepared == []
        await service.migration.create_incoming(VM_ID, GIVEN, 1)


async def test_one_that_never_comes_is_given_up() -> None:
    world = World()
    async with world.ready() as service:
        await service.migration.create_incoming(VM_ID, GIVEN)
        await world.clock.advance(602)
        await until(lambda: world.statuses() == ["Down"])
        await settle()
        assert (await service.get_stats(VM_ID)).exit_reason == 8 and world.images.prepared == []
        await service.migration.create_incoming(VM_ID, GIVEN)  # such a one is in nobody's way
        assert world.images.prepared == [IMAGE]


async def test_one_that_takes_too_long_is_given_up() -> None:
    pair = Pair()
    async with pair.moving(migration=MigrationSettings(destination_timeout_s=1000.0)) as (_, destination, _move):
        await pair.here.clock.advance(1010)
        await until(lambda: pair.there.statuses() == ["Down"])
        assert (await destination.get_stats(VM_ID)).exit_reason == 8
        await settle()
        assert pair.there.images.prepared == [] and pair.list_running() == ["here"]


async def test_what_is_there_is_not_replaced() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        with pytest.raises(errors.VmExists):
            await service.migration.create_incoming(VM_ID, GIVEN)
        world.hypervisor.end_guest(VM_ID)
        await until(lambda: world.statuses()[-1] == "Down")
        with pytest.raises(errors.VmExists):
            await service.migration.create_incoming(VM_ID, GIVEN)


@pytest.mark.parametrize("outcome", ["arrives", "fails", "never comes"])
async def test_a_daemon_that_starts_again_while_it_waits(outcome: str) -> None:
    world = World()
    async with world.ready() as service:
        await service.migration.create_incoming(VM_ID, GIVEN)
    world.images.prepared.clear()
    async with world.ready() as service:
        assert await status(service) == "Migration Destination"
        await settle()
        assert world.images.prepared == [IMAGE]
        domain = world.hypervisor.domains[VM_ID]
        if outcome == "arrives":
            domain.live, domain.state, domain.reason = domain.definition, DomainState.RUNNING, 2
        elif outcome == "fails":
            domain.reason = 6
        await world.clock.advance(700 if outcome == "never comes" else 3)
        await settle()
        if outcome == "arrives":
            assert await status(service) == "Up" and not world.stored().is_incoming
            assert world.images.prepared == [IMAGE]
        else:
            assert (await service.get_stats(VM_ID)).exit_reason == 8 and world.images.prepared == []


async def test_a_daemon_that_starts_again_after_it_came_or_failed() -> None:
    pair = Pair()
    async with pair.moving() as (_, _, move):
        await settle()
    move.ended.set()
    await until(lambda: not pair.here.hypervisor.moves)
    assert pair.there.stored().is_incoming
    async with pair.ready() as (_, destination):
        assert await status(destination) == "Up"
        await settle()
        assert not pair.there.stored().is_incoming
        definition = pair.there.hypervisor.domains[VM_ID].definition
        assert definition.find("devices") is not None, "the definition is the whole VM"


async def test_one_that_comes_after_it_was_given_up_is_taken_over() -> None:
    pair = Pair()
    async with pair.moving() as (_, destination, move):
        await settle()
        there = pair.there.hypervisor.domains[VM_ID]
        vm = destination._shared.vms[VM_ID]
        live, there.live, there.state = there.live, None, DomainState.SHUT_OFF
        there.reason = 6
        vm.stirred.set()
        await until(lambda: pair.there.statuses() == ["Down"])
        await settle()
        there.live, there.state, there.reason = live, DomainState.PAUSED, 2
        pair.there.hypervisor.emit(_started())
        await settle()
        move.ended.set()
        await until(lambda: pair.there.statuses()[-1] == "Up")
        await settle()
        assert IMAGE in pair.there.images.prepared and pair.list_running() == ["there"]


def _started() -> HypervisorEvent:
    return HypervisorEvent(VM_ID, EventKind.LIFECYCLE, (2, 1))


async def test_an_end_that_cannot_be_reached_is_tried_again() -> None:
    world = World()
    async with world.ready() as service:
        await service.migration.create_incoming(VM_ID, GIVEN)
        world.hypervisor.fail_next("destroy", HypervisorRefused("stuck", 42))
        await world.clock.advance(602)
        await settle()
        await world.clock.advance(6)
        await until(lambda: world.statuses() == ["Down"])


async def test_libvirt_that_is_away_decides_nothing() -> None:
    world = World()
    async with world.ready() as service:
        await service.migration.create_incoming(VM_ID, GIVEN)
        world.hypervisor.go_down()
        await world.clock.advance(700)
        await settle()
        assert await status(service) == "Migration Destination"
        world.hypervisor.come_up()
        await until(lambda: world.statuses() == ["Down"])


@pytest.mark.parametrize("given", [IncomingVm(), IncomingVm(xml="<domain")])
async def test_what_is_no_vm_is_refused(given: IncomingVm) -> None:
    world = World()
    async with world.ready() as service:
        with pytest.raises((errors.VmRequestFailed, errors.CreateFailed)):
            await service.migration.create_incoming(VM_ID, given)
        assert await service.list_vms() == []
