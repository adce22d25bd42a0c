"""What libvirt's events make of a VM."""

import pytest
from msgspec import UNSET

from tests.unit.virt.builders import VM_ID, VOLUME
from tests.unit.virt.world import World, create, settle, status
from vdsm.virt.ports import EventKind, HypervisorEvent
from vdsm.virt.service import VmService


async def tell(world: World, kind: EventKind, *detail: int, text: str = "", names: tuple[str, ...] = ()) -> None:
    world.hypervisor.emit(HypervisorEvent(VM_ID, kind, detail, text, names))
    await settle()


@pytest.mark.parametrize(
    ("text", "code"), [("enospc", "ENOSPC"), ("eio", "EIO"), ("eperm", "EPERM"), ("", "EOTHER"), ("other", "EOTHER")]
)
async def test_an_io_error_pauses_and_names_the_disk(text: str, code: str) -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        world.hypervisor.pause_on_error(VM_ID, "hda", reason=text)
        await settle()
        stats = await service.get_stats(VM_ID)
        assert (stats.status, stats.pause_code) == ("Paused", code)
        event = world.events[-1]
        assert (event.status, event.pause_code) == ("Paused", code)
        assert event.io_error is not UNSET and event.io_error.path != UNSET
        assert world.stored().paused_at_s == world.clock.monotonic()
        await service.resume(VM_ID)
        await settle()
        assert (await service.get_stats(VM_ID)).pause_code is UNSET
        assert world.stored().paused_at_s is None


async def test_the_reason_may_come_after_the_pause() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        await tell(world, EventKind.LIFECYCLE, 3, 2)
        assert (await service.get_stats(VM_ID)).pause_code == "EOTHER"
        await tell(world, EventKind.IO_ERROR, 1, text="enospc", names=("/disk", "virtio-disk0"))
        assert (await service.get_stats(VM_ID)).pause_code == "ENOSPC"
        assert world.statuses() == ["Powering up", "Paused", "Paused"]


async def test_an_old_io_error_does_not_colour_a_later_pause() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        await tell(world, EventKind.LIFECYCLE, 3, 0)
        assert (await service.get_stats(VM_ID)).pause_code == "NOERR"


@pytest.mark.parametrize(
    ("reason", "detail", "code", "exit_reason"),
    [(1, 0, 0, 7), (2, 1, 0, 6), (3, 2, 1, 2), (4, 3, 0, 4), (5, 4, 0, 5), (6, 5, 1, 2), (7, 6, 1, 1)],
)
async def test_ends(reason: int, detail: int, code: int, exit_reason: int) -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        world.hypervisor.end_guest(VM_ID, reason, detail)
        await settle()
        event = world.events[-1]
        assert (event.status, event.exit_code, event.exit_reason) == ("Down", code, exit_reason)
        stored = world.stored().exit
        assert stored is not None and (stored.code, stored.reason, stored.message) == (
            code,
            exit_reason,
            event.exit_message,
        )
        assert world.images.prepared == []
        stats = await service.get_stats(VM_ID)
        assert (stats.exit_reason, stats.name, stats.elapsed_s) == (exit_reason, UNSET, UNSET)


async def test_an_image_that_another_vm_uses_stays_prepared() -> None:
    world = World()
    other = "cccccccc-0000-4000-8000-00000000000c"
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        await create(service, other, name="other", drives=[VOLUME])
        await service.destroy(VM_ID)
        assert set(world.images.prepared) == {VOLUME["image_id"]}
        await service.destroy(other)
        assert world.images.prepared == []


async def test_a_guest_reboot_starts_the_clock_anew_and_is_remembered() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        await world.clock.advance(500)
        await tell(world, EventKind.REBOOT)
        stats = await service.get_stats(VM_ID)
        assert (stats.status, stats.elapsed_s) == ("RebootInProgress", 0)
        assert world.stored().started_at_s == world.clock.time()
        assert world.events[-1].status == "RebootInProgress"


async def test_destroy_on_reboot() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        service._shared.vms[VM_ID].metadata = service._shared.vms[VM_ID].metadata.changed(destroy_on_reboot=True)
        await tell(world, EventKind.REBOOT)
        assert (world.events[-1].status, world.events[-1].exit_code, world.events[-1].exit_reason) == ("Down", 0, 13)
        assert set(world.hypervisor.domains) == {VM_ID}


async def stats_after(
    service: VmService, world: World, kind: EventKind, *detail: int, names: tuple[str, ...] = ()
) -> object:
    await tell(world, kind, *detail, names=names)
    return await service.get_stats(VM_ID)


async def test_the_console_client() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, display="vnc")
        for phase, peer, client in [
            (0, "192.0.2.1", ""),
            (1, "192.0.2.1", "192.0.2.1"),
            (2, "192.0.2.9", "192.0.2.1"),
            (2, "192.0.2.1", ""),
        ]:
            await tell(world, EventKind.GRAPHICS, phase, names=(peer, "vnc"))
            assert (await service.get_stats(VM_ID)).client_address == client


async def test_clock_and_watchdog() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, time_offset_s=10)
        assert (await service.get_stats(VM_ID)).time_offset_s == 10
        await tell(world, EventKind.RTC_CHANGE, 3600)
        await tell(world, EventKind.WATCHDOG, 2)
        stats = await service.get_stats(VM_ID)
        assert stats.time_offset_s == 3600
        assert stats.watchdog is not UNSET
        assert (stats.watchdog.action, stats.watchdog.time_s) == ("reset", world.clock.time())


@pytest.mark.parametrize("kind", EventKind)
async def test_events_without_the_details_that_belong_to_them_do_no_harm(kind: EventKind) -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        await tell(world, kind)
        await tell(world, kind, -1, -1, -1, names=("", "", ""))
        assert await status(service) in ("Powering up", "RebootInProgress")
