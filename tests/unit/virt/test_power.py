"""Power verbs: pause, resume, reset, shutdown, destroy."""

import asyncio

import pytest

from tests.unit.virt.builders import VM_ID, VOLUME, domain_xml, parameters
from tests.unit.virt.world import World, create, settle, status, until
from vdsm.api.errors import DestroyFailed, NoSuchVm, ResetFailed, VmIsDown, WrongState
from vdsm.core.errors import GeneralFailure, NotReady
from vdsm.virt.ports import DomainState, HypervisorDown, HypervisorRefused, HypervisorTimeout

FAILED, SYSTEM, OTHER = (HypervisorRefused("no", kind) for kind in (9, 38, 1))
STUCK = HypervisorTimeout(VM_ID, "call", 60.0)


async def test_pause_and_resume() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        await service.pause(VM_ID)
        stats = await service.get_stats(VM_ID)
        assert (stats.status, stats.pause_code) == ("Paused", "NOERR")
        await service.resume(VM_ID)
        await settle()
        assert world.statuses() == ["Powering up", "Paused", "Powering up"]
        assert world.events[1].pause_code == "NOERR"


async def test_resume_of_a_running_vm_is_libvirts_to_refuse() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        with pytest.raises(HypervisorRefused, match="already running"):
            await service.resume(VM_ID)


async def test_verbs_on_a_vm_that_is_down() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        world.hypervisor.end_guest(VM_ID)
        await until(lambda: world.statuses()[-1] == "Down")
        for verb in (service.pause, service.reset, service.shutdown):
            with pytest.raises(VmIsDown):
                await verb(VM_ID)
        with pytest.raises(VmIsDown):
            await service.set_ticket(VM_ID, "x", 0)
        with pytest.raises(WrongState):
            await service.resume(VM_ID)
        await service.destroy(VM_ID)
        with pytest.raises(NoSuchVm):
            await service.destroy(VM_ID)


async def test_verbs_on_a_vm_that_starts() -> None:
    world = World()
    async with world.ready() as service:
        world.images.may_go_on.clear()
        await service.create(VM_ID, parameters(drives=[VOLUME]))
        for verb in (service.pause, service.resume, service.reset, service.shutdown):
            with pytest.raises(WrongState):
                await verb(VM_ID)


async def test_nothing_is_answered_before_recovery() -> None:
    world = World()
    world.hypervisor.go_down()
    async with world.running() as service:
        await settle()
        for call in (service.get_stats(VM_ID), service.list_vms(), service.list_stats(), service.destroy(VM_ID)):
            with pytest.raises(NotReady):
                await call


async def test_reset_is_seen_as_a_reboot() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        await world.clock.advance(100)
        await service.reset(VM_ID)
        await settle()
        stats = await service.get_stats(VM_ID)
        assert (stats.status, stats.elapsed_s) == ("RebootInProgress", 0)
        await world.clock.advance(60)
        assert await status(service) == "Up"


@pytest.mark.parametrize("error", [OTHER, STUCK])
async def test_a_failed_reset_has_its_own_code(error: Exception) -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        world.hypervisor.fail_next("reset", error)
        with pytest.raises(ResetFailed):
            await service.reset(VM_ID)


@pytest.mark.parametrize("agent", [True, False])
async def test_shutdown_asks_the_agent_first_and_acpi_next(agent: bool) -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        if agent:
            world.hypervisor.agents.add(VM_ID)
        await service.shutdown(VM_ID)
        await until(lambda: world.statuses()[-1] == "Down")
        assert world.hypervisor.calls.count(("shutdown", VM_ID)) == (1 if agent else 2)
        assert (world.events[-1].exit_code, world.events[-1].exit_reason) == (0, 6)
        assert set(world.hypervisor.domains) == {VM_ID}


async def test_shutdown_waits_and_then_pulls_the_plug_only_when_forced() -> None:
    world = World()
    world.hypervisor.guests_obey = False
    async with world.ready() as service:
        await create(service)
        world.hypervisor.agents.add(VM_ID)
        await service.shutdown(VM_ID, timeout_s=100)
        await world.clock.advance(250)
        assert await status(service) == "Powering down"
        assert world.hypervisor.domains[VM_ID].state is DomainState.RUNNING
        await service.shutdown(VM_ID, timeout_s=10, force=True)
        await world.clock.advance(19)
        assert world.hypervisor.domains[VM_ID].state is DomainState.RUNNING
        await world.clock.advance(2)
        assert await status(service) == "Down"
        assert world.events[-1].exit_reason == 6


async def test_shutdown_without_acpi_asks_the_agent_only() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, acpi=False)
        await service.shutdown(VM_ID)
        await settle()
        assert world.hypervisor.calls.count(("shutdown", VM_ID)) == 1
        assert await status(service) == "Powering up"


async def test_a_guest_that_shuts_itself_down() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        world.hypervisor.end_guest(VM_ID)
        await until(lambda: world.statuses()[-1] == "Down")
        assert world.events[-1].exit_reason == 7


async def test_reboot_ends_when_the_guest_has_rebooted() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        await service.shutdown(VM_ID, reboot=True, force=True, timeout_s=5)
        await settle()
        await world.clock.advance(100)
        assert ("reset", VM_ID) not in world.hypervisor.calls


async def test_a_forced_reboot_resets_a_guest_that_does_not_listen() -> None:
    world = World()
    world.hypervisor.guests_obey = False
    async with world.ready() as service:
        await create(service)
        await service.shutdown(VM_ID, reboot=True, force=True, timeout_s=5)
        await world.clock.advance(6)
        assert ("reset", VM_ID) in world.hypervisor.calls


async def test_destroy_tells_of_the_end_and_leaves_nothing() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        await service.destroy(VM_ID)
        await settle()
        assert world.statuses() == ["Powering up", "Down"]
        assert (world.events[-1].exit_code, world.events[-1].exit_reason) == (0, 6)
        assert world.hypervisor.domains == {} and world.images.prepared == []
        calls = [method for method, _ in world.hypervisor.calls]
        assert calls.index("set_metadata") < calls.index("undefine")


@pytest.mark.parametrize(
    ("failures", "attempts", "calls"),
    [
        ([FAILED], 1, 2),
        ([SYSTEM], 1, 2),
        ([FAILED, SYSTEM], 2, 3),
        ([STUCK], 3, 2),
        ([], 0, 1),
        ([FAILED], 5, 2),
        ([FAILED] * 10, 2**63, 11),
    ],
)
async def test_destroy_is_graceful_first(failures: list[Exception], attempts: int, calls: int) -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        for error in failures:
            world.hypervisor.fail_next("destroy", error)
        await service.destroy(VM_ID, attempts)
        assert world.hypervisor.calls.count(("destroy", VM_ID)) == calls
        assert world.hypervisor.domains == {}


@pytest.mark.parametrize("failures", [[OTHER], [FAILED, FAILED], [STUCK, STUCK], [HypervisorDown("gone")]])
async def test_a_vm_that_cannot_be_destroyed_lives_on(failures: list[Exception]) -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        for error in failures:
            world.hypervisor.fail_next("destroy", error)
        with pytest.raises((DestroyFailed, HypervisorDown)):
            await service.destroy(VM_ID)
        assert await status(service) == "Powering up"
        await service.destroy(VM_ID)
        assert world.hypervisor.domains == {}


async def test_a_destroy_that_failed_does_not_colour_a_later_end() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        world.hypervisor.fail_next("destroy", OTHER)
        with pytest.raises(DestroyFailed):
            await service.destroy(VM_ID)
        world.hypervisor.end_guest(VM_ID)
        await settle()
        assert world.events[-1].exit_reason == 7


async def test_images_that_could_not_be_released_are_released_with_the_vm() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        world.images.teardown_failures.append(GeneralFailure("no pool"))
        world.hypervisor.end_guest(VM_ID)
        await settle()
        assert world.images.prepared
        await service.destroy(VM_ID)
        assert world.images.prepared == []


async def test_a_forced_end_that_fails_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    async with world.ready() as service:
        await create(service, acpi=False)
        world.hypervisor.fail_next("destroy", OTHER)
        await service.shutdown(VM_ID, force=True)
        await settle()
        assert await status(service) == "Powering up"
        assert "Traceback" not in caplog.text and "Failed to destroy" in caplog.text


async def test_a_frozen_vm_can_be_destroyed() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        world.hypervisor.freeze(VM_ID)
        with pytest.raises(HypervisorTimeout):
            await service.pause(VM_ID)
        assert (await service.get_stats(VM_ID)).monitor_response == -1
        await service.destroy(VM_ID)
        assert world.hypervisor.domains == {}


@pytest.mark.parametrize("steps", range(30))
async def test_killed_at_any_step_of_a_destroy_it_can_be_repeated(steps: int) -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        destroying = asyncio.create_task(service.destroy(VM_ID))
        for _ in range(steps):
            await asyncio.sleep(0)
        destroying.cancel()
        await asyncio.wait({destroying})
    world.events.clear()
    async with world.ready() as service:
        await settle()
        if await service.list_vms():
            stats = await service.get_stats(VM_ID)
            assert (stats.status, stats.exit_reason) in (("Up", stats.exit_reason), ("Down", 6))
            await service.destroy(VM_ID)
        assert world.hypervisor.domains == {} and world.images.prepared == []


async def test_external_vms_are_destroyed_but_never_removed() -> None:
    world = World()
    await world.hypervisor.define(domain_xml(metadata="<owner>/elsewhere</owner>"))
    await world.hypervisor.start(VM_ID, paused=False)
    async with world.ready() as service:
        before = world.record()
        await service.pause(VM_ID)
        await service.resume(VM_ID)
        await service.destroy(VM_ID)
        await settle()
        assert world.hypervisor.domains[VM_ID].state is DomainState.SHUT_OFF
        assert await service.list_vms() == []
        assert not [call for call in world.hypervisor.calls if call[0] in ("undefine", "set_metadata")]
        assert "elsewhere" in before and "elsewhere" in world.record()
