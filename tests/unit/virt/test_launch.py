"""Starting VMs: what comes of it, what is undone when it fails, and what a daemon killed in the middle leaves."""

import asyncio

import pytest

from tests.unit.virt.builders import VM_ID, VOLUME, domain_xml, parameters
from tests.unit.virt.world import World, create, settle, status, until
from vdsm.api.errors import DestroyFailed, NoSuchVm, VmExists
from vdsm.api.vm import VmParameters
from vdsm.core.errors import GeneralFailure
from vdsm.virt.domain import parse_domain
from vdsm.virt.lifecycle import ExitReason
from vdsm.virt.ports import (
    DomainState,
    EventKind,
    HypervisorDown,
    HypervisorEvent,
    HypervisorRefused,
    HypervisorTimeout,
)
from vdsm.virt.service import VmService

OTHER_ID = "cccccccc-0000-4000-8000-00000000000c"
REFUSED = HypervisorRefused("no such machine type", 1)


async def exit_of(world: World, vm_id: str = VM_ID) -> tuple[int | object, int | object]:
    last = [event for event in world.events if event.vm_id == vm_id][-1]
    assert last.status == "Down"
    return last.exit_reason, last.exit_code


async def test_create_answers_before_anything_is_prepared_and_the_vm_comes_up() -> None:
    world = World()
    async with world.ready() as service:
        world.images.may_go_on.clear()
        info = await service.create(VM_ID, parameters(drives=[VOLUME], display="vnc"))
        assert (info.vm_id, info.status) == (VM_ID, "WaitForLaunch")
        assert parse_domain(str(info.xml)).vm_id == VM_ID
        await until(lambda: world.images.waiting)
        assert await status(service) == "WaitForLaunch" and world.events == []
        assert world.stored().owner == "/"
        world.images.may_go_on.set()
        await until(lambda: world.events)
        stats = await service.get_stats(VM_ID)
        assert stats.status == "Powering up"
        assert [(event.status, event.stats.status) for event in world.events] == [("Powering up", "Powering up")]  # type: ignore[union-attr]
        live = parse_domain(world.record())
        assert live.type == "qemu" and live.disks[0].path.endswith(VOLUME["volume_id"])
        assert live.disks[0].format == "qcow2"
        assert stats.display_info[0].port == live.graphics[0].port != "-1"  # type: ignore[index]
        await world.clock.advance(60)
        assert await status(service) == "Up"


async def test_the_xml_form_comes_up_too() -> None:
    world = World()
    async with world.ready() as service:
        await service.create("ignored", VmParameters(xml=domain_xml(extra="<on_reboot>destroy</on_reboot>")))
        await until(lambda: world.events)
        assert world.statuses() == ["Powering up"]
        assert world.stored().destroy_on_reboot


async def watch_until_up(service: VmService) -> str:
    """The VM's definition when it is first seen up."""
    while not service.list_statuses() or service.list_statuses() == ["WaitForLaunch"]:
        await asyncio.sleep(0)
    return (await service.list_definitions([VM_ID]))[VM_ID]


async def test_the_definition_of_a_vm_that_is_up_is_the_one_that_runs() -> None:
    world = World()
    async with world.ready() as service:
        vm_up = asyncio.create_task(watch_until_up(service))
        wanted = (await service.create(VM_ID, parameters())).xml
        assert wanted != await vm_up == world.record()


async def test_launched_paused() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, launch_paused=True)
        stats = await service.get_stats(VM_ID)
        assert (stats.status, stats.pause_code) == ("Paused", "NOERR")
        await service.resume(VM_ID)
        assert await status(service) == "Powering up"


async def test_a_known_id_is_refused() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        with pytest.raises(VmExists):
            await service.create(VM_ID, parameters(name="again"))
        with pytest.raises(VmExists):
            await service.create("", VmParameters(xml=domain_xml(VM_ID.upper())))


async def test_two_creates_of_one_id_at_once_make_one_vm() -> None:
    world = World()
    async with world.ready() as service:
        answers = await asyncio.gather(*(service.create(VM_ID, parameters()) for _ in range(3)), return_exceptions=True)
        assert sorted(type(answer).__name__ for answer in answers) == ["VmExists", "VmExists", "VmInfo"]


@pytest.mark.parametrize("error", [HypervisorDown("gone"), HypervisorTimeout(VM_ID, "define", 60.0)])
async def test_without_libvirt_nothing_is_accepted(error: Exception) -> None:
    world = World()
    async with world.ready() as service:
        world.hypervisor.fail_next("define", error)
        with pytest.raises(type(error)):
            await service.create(VM_ID, parameters())
        with pytest.raises(NoSuchVm):
            await service.get_stats(VM_ID)
        await create(service)


@pytest.mark.parametrize(
    ("method", "error", "reason"),
    [
        ("define", REFUSED, ExitReason.GENERIC_ERROR),
        ("start", REFUSED, ExitReason.START_REFUSED),
    ],
)
async def test_a_refused_start_is_told_and_undone(method: str, error: Exception, reason: ExitReason) -> None:
    world = World()
    async with world.ready() as service:
        world.images.may_go_on.clear()
        await service.create(VM_ID, parameters(drives=[VOLUME]))
        world.hypervisor.fail_next(method, error)
        world.images.may_go_on.set()
        await settle()
        assert await exit_of(world) == (reason, 1)
        assert world.images.prepared == []
        assert (await service.get_stats(VM_ID)).exit_message == str(error)
        assert world.stored().exit is not None
        await service.destroy(VM_ID)
        assert world.hypervisor.domains == {}


async def test_an_image_that_cannot_be_prepared() -> None:
    world = World()
    async with world.ready() as service:
        world.images.failures.append(GeneralFailure("no such volume"))
        await create(service, drives=[VOLUME])
        stats = await service.get_stats(VM_ID)
        assert (stats.status, stats.exit_reason) == ("Down", ExitReason.GENERIC_ERROR)
        assert str(stats.exit_message).startswith("Bad volume specification")


async def test_a_folder_in_the_place_of_a_disk_is_refused_before_libvirt_hears_of_it() -> None:
    world = World()
    world.images.folders.add("/storage")
    async with world.ready() as service:
        await create(service, drives=[VOLUME, {"path": "/storage", "interface": "virtio"}])
        stats = await service.get_stats(VM_ID)
        assert (stats.status, stats.exit_message) == ("Down", "Not a file: /storage is a folder")
        assert "/storage" not in world.hypervisor.domains[VM_ID].xml
        assert world.images.prepared == []


async def test_a_crash_in_the_code_of_one_start_takes_nobody_along() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, OTHER_ID, name="other")
        world.hypervisor.fail_next("start", ZeroDivisionError())
        await create(service)
        assert await exit_of(world) == (ExitReason.GENERIC_ERROR, 1)
        assert await status(service, OTHER_ID) == "Powering up"


async def test_a_start_that_times_out_is_not_called_down_while_it_may_run() -> None:
    world = World()
    async with world.ready() as service:
        world.images.may_go_on.clear()
        await service.create(VM_ID, parameters(drives=[VOLUME]))
        world.hypervisor.fail_next("start", HypervisorTimeout(VM_ID, "start", 60.0))
        world.hypervisor.fail_next("get_domain", HypervisorTimeout(VM_ID, "look", 60.0))
        world.images.may_go_on.set()
        await settle()
        assert await status(service) == "WaitForLaunch" and world.images.prepared
        await world.hypervisor.start(VM_ID, paused=False)  # what the written-off call does in the end
        await world.clock.advance(5)
        assert await status(service) == "Powering up"


async def test_a_start_that_timed_out_and_came_to_nothing() -> None:
    world = World()
    async with world.ready() as service:
        world.hypervisor.fail_next("start", HypervisorDown("libvirtd ended"))
        await create(service, drives=[VOLUME])
        assert await exit_of(world) == (ExitReason.START_REFUSED, 1)
        assert world.images.prepared == []


async def test_a_vm_that_dies_at_once_is_down_not_up() -> None:
    world = World()
    async with world.ready() as service:
        start = world.hypervisor.start

        async def start_and_die(vm_id: str, *, paused: bool) -> None:
            await start(vm_id, paused=paused)
            world.hypervisor.end_guest(vm_id, 3, 2)
            await settle()

        world.hypervisor.start = start_and_die  # type: ignore[method-assign]
        await create(service)
        assert await exit_of(world) == (ExitReason.LOST_QEMU, 1)
        assert await status(service) == "Down"


async def test_a_vm_that_stops_at_an_error_before_it_counts_as_started() -> None:
    world = World()
    async with world.ready() as service:
        start = world.hypervisor.start

        async def start_and_pause(vm_id: str, *, paused: bool) -> None:
            await start(vm_id, paused=paused)
            world.hypervisor.pause_on_error(vm_id, "hda")
            await settle()

        world.hypervisor.start = start_and_pause  # type: ignore[method-assign]
        await create(service, drives=[VOLUME])
        await settle()
        assert await status(service) == "Paused"
        assert world.statuses() == ["Paused"]


async def test_what_an_earlier_vm_left_is_cleared_by_id_and_by_name() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        world.hypervisor.end_guest(VM_ID)
        await settle()
        await create(service, OTHER_ID)  # has the same name
        assert set(world.hypervisor.domains) == {OTHER_ID}
        await service.destroy(VM_ID)
        assert set(world.hypervisor.domains) == {OTHER_ID}


@pytest.mark.parametrize("vm_id", [VM_ID, OTHER_ID])
@pytest.mark.parametrize("runs", [True, False])
async def test_a_domain_of_somebody_else_is_never_touched(vm_id: str, runs: bool) -> None:
    world = World()
    await world.hypervisor.define(domain_xml(vm_id, metadata="<owner>/elsewhere</owner>"))
    async with world.ready() as service:
        if runs:
            world.hypervisor.domains[vm_id].state = DomainState.RUNNING
        before = world.record(vm_id)
        await create(service)
        assert await exit_of(world) == (ExitReason.GENERIC_ERROR, 1)
        await service.destroy(VM_ID)
        assert world.record(vm_id) == before
        assert set(world.hypervisor.domains) == {vm_id}
        assert ("destroy", vm_id) not in world.hypervisor.calls


async def test_four_starts_at_once_but_images_do_not_queue() -> None:
    world = World()
    async with world.ready() as service:
        go_on, starting, most = asyncio.Event(), 0, 0
        start = world.hypervisor.start

        async def slow_start(vm_id: str, *, paused: bool) -> None:
            nonlocal starting, most
            starting += 1
            most = max(most, starting)
            await go_on.wait()
            starting -= 1
            await start(vm_id, paused=paused)

        world.hypervisor.start = slow_start  # type: ignore[method-assign]
        ids = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(10)]
        for vm_id in ids:
            await service.create(vm_id, parameters(name=vm_id, drives=[VOLUME]))
        await settle()
        assert (starting, len(world.images.prepared)) == (4, 10)
        go_on.set()
        await until(lambda: len(world.events) == 10)
        assert most == 4


async def test_destroyed_while_its_image_is_prepared() -> None:
    world = World()
    async with world.ready() as service:
        world.images.may_go_on.clear()
        await service.create(VM_ID, parameters(drives=[VOLUME]))
        await until(lambda: world.images.waiting)
        await service.destroy(VM_ID)
        assert await exit_of(world) == (ExitReason.DESTROYED_DURING_STARTUP, 1)
        world.images.may_go_on.set()
        await settle()
        assert world.images.prepared == [] and world.hypervisor.domains == {}
        assert await service.list_vms() == []


async def test_destroyed_while_libvirt_starts_it() -> None:
    world = World()
    async with world.ready() as service:
        go_on = asyncio.Event()
        start = world.hypervisor.start

        async def slow_start(vm_id: str, *, paused: bool) -> None:
            await go_on.wait()
            await start(vm_id, paused=paused)

        world.hypervisor.start = slow_start  # type: ignore[method-assign]
        await service.create(VM_ID, parameters())
        await settle()
        destroying = asyncio.create_task(service.destroy(VM_ID))
        await settle()
        go_on.set()
        await destroying
        assert await exit_of(world) == (ExitReason.DESTROYED_DURING_STARTUP, 1)
        assert world.hypervisor.domains == {}


@pytest.mark.parametrize("steps", range(40))
async def test_killed_at_any_step_of_the_start_the_next_daemon_knows_the_vm(steps: int) -> None:
    """Whatever the first daemon was doing: the VM is either up, or down with a reason and nothing left prepared."""
    world = World()
    async with world.ready() as service:
        await service.create(VM_ID, parameters(drives=[VOLUME]))
        for _ in range(steps):
            await asyncio.sleep(0)
    world.events.clear()
    async with world.ready() as service:
        await settle()
        stats = await service.get_stats(VM_ID)
        assert world.statuses()[-1] == stats.status
        if stats.status == "Down":
            assert (stats.exit_code, stats.exit_reason) == (1, ExitReason.GENERIC_ERROR)
            assert "interrupted" in str(stats.exit_message)
            assert world.images.prepared == []
            assert world.stored().exit is not None
        else:
            assert stats.status == "Up" and world.images.prepared
        await service.destroy(VM_ID)
    assert world.hypervisor.domains == {} and world.images.prepared == []


async def test_events_of_an_unknown_domain_mean_nothing() -> None:
    world = World()
    async with world.ready() as service:
        world.hypervisor.emit(HypervisorEvent(OTHER_ID, EventKind.LIFECYCLE, (2, 0)))
        world.hypervisor.emit(HypervisorEvent(OTHER_ID, EventKind.REBOOT))
        await settle()
        assert await service.list_vms() == []


class SlowLibvirt:
    """Takes its time over the next definition, and finishes it whatever becomes of the daemon, as libvirtd does."""

    def __init__(self, world: World) -> None:
        self.go_on = asyncio.Event()
        self.failure: Exception | None = None
        self._define = world.hypervisor.define
        self._work: list[asyncio.Task[None]] = []
        world.hypervisor.define = self.define  # type: ignore[method-assign]

    async def define(self, xml: str) -> None:
        work = asyncio.create_task(self._finish(xml))
        self._work.append(work)
        await asyncio.shield(work)

    async def _finish(self, xml: str) -> None:
        await self.go_on.wait()
        if self.failure is not None:
            raise self.failure
        await self._define(xml)


async def test_where_libvirt_takes_long_the_answer_comes_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    async with world.ready() as service:
        libvirt = SlowLibvirt(world)
        creating = asyncio.create_task(service.create(VM_ID, parameters()))
        await settle()
        assert not creating.done()
        await world.clock.advance(2)
        assert (await creating).status == await status(service) == "WaitForLaunch"
        assert "still at it" in caplog.text
        with pytest.raises(VmExists):
            await service.create(VM_ID, parameters())
        libvirt.go_on.set()
        await until(lambda: world.events)
        assert world.statuses() == ["Powering up"]


async def test_once_answered_for_the_vm_goes_down_when_libvirt_does_not_take_it_in() -> None:
    world = World()
    async with world.ready() as service:
        libvirt = SlowLibvirt(world)
        creating = asyncio.create_task(service.create(VM_ID, parameters()))
        await world.clock.advance(2)
        await creating
        libvirt.failure = HypervisorTimeout(VM_ID, "define", 600.0)
        libvirt.go_on.set()
        await settle()
        assert await exit_of(world) == (ExitReason.GENERIC_ERROR, 1)
        await service.destroy(VM_ID)
        assert await service.list_vms() == []


async def test_a_caller_who_gives_up_does_not_stop_the_start() -> None:
    world = World()
    async with world.ready() as service:
        libvirt = SlowLibvirt(world)
        creating = asyncio.create_task(service.create(VM_ID, parameters()))
        await settle()
        creating.cancel()
        await asyncio.wait({creating})
        libvirt.go_on.set()
        await until(lambda: world.events)
        assert await status(service) == "Powering up"


async def test_killed_while_libvirt_takes_the_vm_in_the_next_daemon_hears_of_it() -> None:
    world = World()
    async with world.ready() as service:
        libvirt = SlowLibvirt(world)
        creating = asyncio.create_task(service.create(VM_ID, parameters(drives=[VOLUME])))
        await world.clock.advance(2)
        await creating
    async with world.ready() as service:
        assert await service.list_vms() == []
        libvirt.go_on.set()
        await until(lambda: world.events)
        stats = await service.get_stats(VM_ID)
        assert (stats.status, stats.exit_code) == ("Down", 1) and "interrupted" in str(stats.exit_message)
        await service.destroy(VM_ID)
        assert world.hypervisor.domains == {}


async def test_destroyed_while_libvirt_takes_it_in_nothing_is_left() -> None:
    world = World()
    async with world.ready() as service:
        libvirt = SlowLibvirt(world)
        creating = asyncio.create_task(service.create(VM_ID, parameters()))
        await world.clock.advance(2)
        await creating
        destroying = asyncio.create_task(service.destroy(VM_ID))
        await settle()
        assert not destroying.done()
        libvirt.go_on.set()
        await destroying
        await settle()
        assert await exit_of(world) == (ExitReason.DESTROYED_DURING_STARTUP, 1)
        assert await service.list_vms() == [] and world.hypervisor.domains == {}
        await create(service)
        assert await status(service) == "Powering up"


async def test_destroy_does_not_wait_for_ever_for_libvirt() -> None:
    world = World()
    async with world.ready() as service:
        libvirt = SlowLibvirt(world)
        creating = asyncio.create_task(service.create(VM_ID, parameters()))
        await world.clock.advance(2)
        await creating
        destroying = asyncio.create_task(service.destroy(VM_ID))
        await world.clock.advance(61)
        with pytest.raises(DestroyFailed):
            await destroying
        libvirt.go_on.set()
        await until(lambda: world.events)
        assert await status(service) == "Powering up"


async def test_a_vm_that_starts_keeps_its_name_and_its_images() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, OTHER_ID, name="other", drives=[VOLUME])
        world.images.may_go_on.clear()
        second = {**VOLUME, "image_id": "55555555-0000-4000-8000-000000000005", "index": 1}
        await service.create(VM_ID, parameters(drives=[{**VOLUME, "index": 0}, second]))
        await until(lambda: world.images.waiting)
        await create(service, "dddddddd-0000-4000-8000-00000000000d")  # of the same name
        assert await exit_of(world, "dddddddd-0000-4000-8000-00000000000d") == (ExitReason.GENERIC_ERROR, 1)
        await service.destroy(OTHER_ID)
        assert world.images.prepared == [VOLUME["image_id"]]
        world.images.may_go_on.set()
        await settle()
        assert await status(service) == "Powering up"


async def test_the_end_of_an_earlier_vm_is_not_the_end_of_this_one() -> None:
    world = World()
    async with world.ready() as service:
        world.images.may_go_on.clear()
        await service.create(VM_ID, parameters(drives=[VOLUME]))
        world.hypervisor.emit(HypervisorEvent(VM_ID, EventKind.LIFECYCLE, (5, 1)))
        await settle()
        assert await status(service) == "WaitForLaunch"
        world.images.may_go_on.set()
        await settle()
        assert await status(service) == "Powering up"


PAYLOAD = {"volume_id": "config-2", "files": {"user_data": "aGk="}}
CD = {"type": "disk", "device": "cdrom", "parameters": {"payload": PAYLOAD}}


async def test_a_disc_of_files_is_made_for_the_start_and_goes_with_the_vm() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, devices=[CD])
        assert world.images.payloads[VM_ID, "hdc"].files == {"user_data": b"hi"}
        assert parse_domain(world.record()).disks[0].path == f"/run/payload/{VM_ID}-hdc.img"
        await service.destroy(VM_ID)
        assert world.images.payloads == {}


async def test_a_disc_that_cannot_be_made_ends_the_start() -> None:
    world = World()
    world.images.failures.append(GeneralFailure("no space"))
    async with world.ready() as service:
        await service.create(VM_ID, parameters(devices=[CD]))
        await until(lambda: world.events)
        assert await exit_of(world) == (ExitReason.GENERIC_ERROR, 1)


async def test_discs_of_vms_that_are_gone_go_when_the_daemon_comes_back() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, devices=[CD])
        await create(service, OTHER_ID, name="vm2", devices=[CD])
    world.hypervisor.domains.pop(OTHER_ID)
    async with world.ready():
        assert set(world.images.payloads) == {(VM_ID, "hdc")}
        assert parse_domain(world.record()).disks[0].path.startswith("/run/payload/")


async def test_leases_without_a_place_are_looked_for() -> None:
    world = World()
    lease = {"type": "lease", "lease_id": OTHER_ID, "lease_domain_id": VOLUME["domain_id"]}
    async with world.ready() as service:
        await create(service, devices=[lease])
        assert f'path="/run/{VOLUME["domain_id"]}/xleases" offset="{1 << 20}"' in world.record().replace("'", '"')
