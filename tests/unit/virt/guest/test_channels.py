"""Channels to agents: what is said and heard on them, and that a guest that babbles hurts nobody."""

import asyncio
import base64
import json

import pytest
from msgspec import UNSET

from tests.unit.virt.builders import VM_ID, VOLUME
from tests.unit.virt.world import World, create, settle, status
from vdsm.api.errors import AgentNotResponding, NoSuchVm, VmIsDown, VmIsNotRunning
from vdsm.core.errors import InvalidArgument
from vdsm.testing.channels import GuestEnd
from vdsm.virt.domain import parse_domain
from vdsm.virt.guest import channels
from vdsm.virt.guest.channels import MOST_UNITS, UNITS_PER_S, Allowance
from vdsm.virt.ports import EventKind, HypervisorEvent
from vdsm.virt.service import VmService


async def listen(world: World, service: VmService, **values: object) -> GuestEnd:
    """A VM whose inside is connected."""
    await create(service, **values)
    end = GuestEnd()
    world.channels.ends[parse_domain(world.record()).agent_socket] = end
    await world.clock.advance(channels.RETRY_S + 1)
    assert end.heard == [{"__name__": "refresh", "apiVersion": 3}]
    return end


async def beat(world: World, end: GuestEnd, version: int = 3, **arguments: object) -> None:
    end.say("heartbeat", apiVersion=version, **arguments)
    await world.clock.advance(0.1)


async def test_the_agent_tells_and_clients_hear() -> None:
    world = World()
    async with world.ready() as service:
        end = await listen(world, service)
        before = await service.get_stats(VM_ID)
        assert (before.status, before.guest_user, before.session) == ("Powering up", "Unknown", "Unknown")
        assert (before.guest_cpus, before.guest_applications, before.memory_used_percent) == (-1, [], 0)
        assert (before.guest_addresses, before.guest_name, before.guest_memory) == ("", "", UNSET)
        await beat(world, end, **{"free-ram": 16, "memory-stat": {"mem_total": 60000, "mem_unused": 16384}})
        end.say("active-user", name="root")
        end.say("network-interfaces", interfaces=[{"name": "eth0", "hw": "x", "inet": ["10.0.0.1"], "inet6": []}])
        end.say("session-logon")
        await world.clock.advance(0.1)
        stats = await service.get_stats(VM_ID)
        assert (stats.status, stats.guest_user, stats.session) == ("Up", "root", "UserLoggedOn")
        assert (stats.guest_addresses, stats.memory_used_percent) == ("10.0.0.1", 75)
        assert stats.guest_memory is not UNSET and stats.guest_memory.free_kib == 16384
        assert (await service.get_info(VM_ID)).guest_user == "root"


async def test_changes_are_told_with_what_is_known_and_nothing_else() -> None:
    world = World()
    async with world.ready() as service:
        end = await listen(world, service)
        await beat(world, end)
        event = world.events[-1]
        assert (event.status, world.statuses()) == ("Up", ["Powering up", "Up"])
        assert event.stats is not UNSET and event.stats.guest_user == "Unknown" and event.stats.hash is UNSET
        end.say("active-user", name="root")
        await world.clock.advance(6)
        assert world.statuses() == ["Powering up", "Up", "Up"]
        assert world.events[-1].stats is not UNSET and world.events[-1].stats.guest_user == "root"
        await world.clock.advance(120)
        assert len(world.events) == 4, "it fell silent"


async def test_silence_ends_what_the_agent_said_of_the_guest() -> None:
    world = World()
    async with world.ready() as service:
        end = await listen(world, service)
        await beat(world, end)
        world.hypervisor.emit(HypervisorEvent(VM_ID, EventKind.REBOOT))
        await world.clock.advance(100)
        assert await status(service) == "RebootInProgress", "the agent was heard of less than 120 s ago"
        await world.clock.advance(21)
        assert await status(service) == "Up"
        await beat(world, end)
        assert await status(service) == "Up"


async def test_a_reboot_is_the_end_of_who_worked_there() -> None:
    world = World()
    async with world.ready() as service:
        end = await listen(world, service)
        end.say("active-user", name="root")
        await beat(world, end)
        world.hypervisor.emit(HypervisorEvent(VM_ID, EventKind.REBOOT))
        await settle()
        stats = await service.get_stats(VM_ID)
        assert (stats.guest_user, stats.last_user, stats.last_logout_s) == ("Unknown", "root", world.clock.time())


async def test_versions_are_agreed_on_and_remembered() -> None:
    world = World()
    async with world.ready() as service:
        end = await listen(world, service)
        say = service.guests.channels.say
        vm = service._shared.get(VM_ID)
        await beat(world, end, version=0)
        assert not say(vm, "lifecycle-event", {"type": "after_migration"}), "it would not be understood"
        await beat(world, end, version=2)
        assert not say(vm, "lifecycle-event", {"type": "after_migration"})
        await beat(world, end, version=9)
        await beat(world, end, version=9)
        assert say(vm, "lifecycle-event", {"type": "after_migration"})
        versions = [said["apiVersion"] for said in end.heard if said["__name__"] == "api-version"]
        assert versions == [2, 3]
        assert end.heard[-1] == {"__name__": "lifecycle-event", "type": "after_migration"}
        await world.clock.advance(20)
        assert world.stored().agent_version == 3


async def test_desktop_verbs() -> None:
    world = World()
    async with world.ready() as service:
        end, guests = await listen(world, service), service.guests
        with pytest.raises(AgentNotResponding):
            await guests.lock(VM_ID)
        assert end.heard[-1] == {"__name__": "lock-screen"}, "it was told all the same"
        await beat(world, end)
        await guests.lock(VM_ID)
        await guests.log_in(VM_ID, "example", "me", "secret")
        await guests.log_in(VM_ID, "", "me", "secret")
        await guests.log_off(VM_ID, True)
        await guests.send_command(VM_ID, "hibernate")
        assert end.heard[-5:] == [
            {"__name__": "lock-screen"},
            {"__name__": "login", "username": "me@example", "password": "secret"},
            {"__name__": "login", "username": "me", "password": "secret"},
            {"__name__": "log-off"},
            {"__name__": "hibernate"},
        ]
        for message in ("", "x" * 1025):
            with pytest.raises(InvalidArgument):
                await guests.send_command(VM_ID, message)
        with pytest.raises(NoSuchVm):
            await guests.lock("0" * 36)
        end.listens = False
        with pytest.raises(AgentNotResponding):
            await guests.lock(VM_ID)
        world.hypervisor.end_guest(VM_ID)
        await settle()
        with pytest.raises(VmIsDown):
            await guests.lock(VM_ID)


async def test_a_channel_that_breaks_is_opened_again() -> None:
    world = World()
    async with world.ready() as service:
        end = await listen(world, service)
        end.hang_up()
        await world.clock.advance(2)
        assert end.connections == 2 and end.heard[-1]["__name__"] == "refresh"


async def test_tries_become_rare_where_nobody_listens() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        await world.clock.advance(600)
        assert 10 <= world.channels.tries <= 20
        world.hypervisor.end_guest(VM_ID)
        await world.clock.advance(100)
        tries = world.channels.tries
        await world.clock.advance(600)
        assert world.channels.tries == tries and not service.guests.channels._links


async def test_a_vm_without_a_channel_is_left_alone() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, agent_channel_name="org.example.0")
        await world.clock.advance(100)
        assert world.channels.tries == 0


def test_an_allowance_is_used_up_and_comes_back() -> None:
    allowance = Allowance()
    assert allowance.take(MOST_UNITS, 0.0) == 0
    assert allowance.take(UNITS_PER_S, 0.0) == 1.0
    assert allowance.take(0, 1.0) == 0
    assert allowance.take(MOST_UNITS + UNITS_PER_S, 1e9) == 1.0


@pytest.mark.parametrize(
    "babble",
    [
        b"\n" * 1_000_000,
        b"{}\n" * 400_000,
        b"x" * 1_000_000,
        b"\xff\n" * 500_000,
        b'{"__name__": "heartbeat", "apiVersion": 1}\n{"__name__": "heartbeat", "apiVersion": 2}\n' * 10_000,
        b'{"__name__": "active-user", "name": "a"}\n{"__name__": "active-user", "name": "b"}\n' * 10_000,
        b'{"__name__": "session-lock"}\n{"__name__": "session-unlock"}\n' * 10_000,
    ],
    ids=["empty lines", "bad messages", "an endless line", "no text", "versions", "users", "sessions"],
)
async def test_a_guest_that_babbles_waits(babble: bytes, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    async with world.ready() as service:
        end = await listen(world, service)
        events, calls = len(world.events), len(world.hypervisor.calls)
        end.babble(babble)
        await world.clock.advance(60)
        read = len(babble) - len(end.unread)
        lines = babble[:read].count(b"\n") if babble.strip(b"\n") else 0
        # What was read but not looked at yet is less than one chunk.
        assert max(read / 4096, lines - 65536) <= MOST_UNITS + UNITS_PER_S * 65 + 16
        assert len(world.events) - events <= 60 / 5 + 2
        assert len(world.hypervisor.calls) - calls <= 60 / 10 * 2 + 10
        assert len(caplog.records) < 30
        assert sum("nobody understands" in record.message for record in caplog.records) <= 1


async def test_names_of_disks_are_written_where_clients_look() -> None:
    world = World()
    async with world.ready() as service:
        end = await listen(world, service, drives=[VOLUME])
        before = (await service.get_stats(VM_ID)).hash
        mapping = {VOLUME["image_id"][:20]: {"name": "/dev/vda"}, "other": {"name": "/dev/vdb"}}
        end.say("disks-usage", disks=[], mapping=mapping)
        await world.clock.advance(2)
        disk = world.stored().device(devtype="disk", name="hda")
        assert disk is not None and disk.values["guestName"] == "/dev/vda"
        assert disk.volume is not None, "nothing else was changed"
        await service.sample()
        await settle()
        assert (await service.get_stats(VM_ID)).hash != before
        writes = world.hypervisor.calls.count(("set_metadata", VM_ID))
        for number in range(50):
            end.say("disks-usage", disks=[], mapping={VOLUME["image_id"][:20]: {"name": f"/dev/vd{number}"}})
            await world.clock.advance(0.5)
        assert world.hypervisor.calls.count(("set_metadata", VM_ID)) - writes <= 3


async def test_nothing_is_kept_of_a_vm_that_is_gone() -> None:
    world = World()
    async with world.ready() as service:
        end = await listen(world, service)
        await beat(world, end)
        await service.destroy(VM_ID)
        end.say("active-user", name="late")
        await world.clock.advance(5)
        assert world.statuses()[-1] == "Down"
        assert not service.guests.channels._links
        assert not [task for task in asyncio.all_tasks() if VM_ID in task.get_name()]


async def test_shutdown_asks_the_agent_with_delay_and_message() -> None:
    world = World()
    world.hypervisor.guests_obey = False
    async with world.ready() as service:
        end = await listen(world, service)
        await beat(world, end)
        await service.shutdown(VM_ID, delay_s=7, message="bye", timeout_s=10)
        await settle()
        assert end.heard[-1] == {"__name__": "shutdown", "timeout": 7, "message": "bye", "reboot": "False"}
        asked = world.hypervisor.calls.count(("shutdown", VM_ID))
        await world.clock.advance(16)
        assert world.hypervisor.calls.count(("shutdown", VM_ID)) == asked, "it has delay and timeout"
        await world.clock.advance(2)
        assert world.hypervisor.calls.count(("shutdown", VM_ID)) == asked + 1, "then comes ACPI"
        await service.shutdown(VM_ID, reboot=True)
        await settle()
        assert end.heard[-1] == {"__name__": "shutdown", "timeout": 30, "message": "", "reboot": "True"}
        assert json.dumps(end.heard)


async def test_a_picture_of_what_a_vm_shows() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        picture = await service.guests.take_screenshot(VM_ID)
        assert (picture.encoding, picture.mime_type) == ("base64", "image/x-portable-pixmap")
        assert base64.b64decode(picture.data).startswith(b"P6")
        world.hypervisor.end_guest(VM_ID)
        await settle()
        with pytest.raises(VmIsNotRunning):
            await service.guests.take_screenshot(VM_ID)


async def test_a_guest_is_told_of_its_processors() -> None:
    world = World()
    async with world.ready() as service:
        end = await listen(world, service, maximum_cpus=4)
        await beat(world, end)
        await service.tuning.set_cpu_count(VM_ID, 3)
        assert end.heard[-1] == {"__name__": "set-number-of-cpus", "count": 3}
