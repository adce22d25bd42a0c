"""VMs that an I/O error paused, and their storage that comes back."""

import pytest

from tests.unit.virt.builders import VM_ID, VOLUME
from tests.unit.virt.world import World, create, settle, status
from vdsm.virt.ports import DomainState, HypervisorRefused
from vdsm.virt.service import VmService

DOMAIN = VOLUME["domain_id"]
LIMIT_S = 80.0


async def pause(world: World, service: VmService, behavior: str = "", reason: str = "", disk: str = "hda") -> None:
    """A VM with one disk on the domain, paused by an error of it."""
    await create(service, drives=[VOLUME])
    if behavior:
        await service._shared.save(service._shared.get(VM_ID), resumeBehavior=behavior)
    service.on_storage(DOMAIN, False)
    world.hypervisor.pause_on_error(VM_ID, disk, reason, error=1)
    await settle()
    assert await status(service) == "Paused"


@pytest.mark.parametrize("behavior", ["", "auto_resume", "kill", "what?"])
async def test_it_goes_on_when_its_storage_is_back(behavior: str) -> None:
    world = World()
    async with world.ready() as service:
        await pause(world, service, behavior)
        service.on_storage("another", True)
        await settle()
        assert await status(service) == "Paused"
        await world.clock.advance(LIMIT_S / 2 - 1)
        service.on_storage(DOMAIN, True)
        await settle()
        assert await status(service) in ("Up", "Powering up")
        assert world.stored().paused_at_s is None


async def test_it_stays_where_that_was_asked_for() -> None:
    world = World()
    async with world.ready() as service:
        await pause(world, service, "leave_paused")
        service.on_storage(DOMAIN, True)
        await world.clock.advance(10 * LIMIT_S)
        assert await status(service) == "Paused"


async def test_it_ends_when_it_waited_for_too_long() -> None:
    world = World()
    async with world.ready() as service:
        await pause(world, service, "kill")
        await world.clock.advance(LIMIT_S)
        assert await status(service) == "Paused"
        await world.clock.advance(LIMIT_S / 2)
        stats = await service.get_stats(VM_ID)
        assert (stats.status, stats.exit_code, stats.exit_reason) == ("Down", 1, 14)


async def test_others_wait_for_ever() -> None:
    world = World()
    async with world.ready() as service:
        await pause(world, service)
        await world.clock.advance(10 * LIMIT_S)
        assert await status(service) == "Paused"


@pytest.mark.parametrize("reason", ["enospc", "eperm"])
async def test_what_storage_that_is_back_does_not_mend(reason: str) -> None:
    world = World()
    async with world.ready() as service:
        await pause(world, service, reason=reason)
        service.on_storage(DOMAIN, True)
        await settle()
        assert await status(service) == "Paused"


async def test_one_that_was_paused_by_request_stays() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        await service.pause(VM_ID)
        service.on_storage(DOMAIN, True)
        await settle()
        assert await status(service) == "Paused"


async def test_a_new_daemon_resumes_what_the_last_one_could_not() -> None:
    world = World()
    async with world.ready() as service:
        await pause(world, service)
    async with world.running() as service:
        service.on_storage(DOMAIN, True)  # it may be known before the VMs are
        await service.wait_ready()
        await settle()
        assert await status(service) == "Up"


async def test_one_that_libvirt_does_not_resume_stays_paused_until_next_time() -> None:
    world = World()
    async with world.ready() as service:
        await pause(world, service)
        world.hypervisor.fail_next("resume", HypervisorRefused("no", 1))
        service.on_storage(DOMAIN, True)
        await settle()
        assert await status(service) == "Paused"
        service.on_storage(DOMAIN, False)
        service.on_storage(DOMAIN, True)
        await settle()
        assert await status(service) in ("Up", "Powering up")
        assert world.hypervisor.domains[VM_ID].state is DomainState.RUNNING
