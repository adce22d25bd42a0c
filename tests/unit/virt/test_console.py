"""What happens when the last viewer of a VM's displays has left."""

import pytest

from tests.unit.virt.builders import VM_ID
from tests.unit.virt.guest.test_channels import beat, listen
from tests.unit.virt.test_watch import tell
from tests.unit.virt.world import World, settle
from vdsm.api.updates import DeviceUpdate
from vdsm.core.errors import InvalidArgument
from vdsm.virt.ports import EventKind, HypervisorEvent
from vdsm.virt.service import VmService

CONNECT, INITIALIZE, DISCONNECT = range(3)
VIEWER, OTHER = ("192.0.2.1", "spice", "1"), ("192.0.2.1", "spice", "2")


async def look(world: World, phase: int, names: tuple[str, ...] = VIEWER) -> None:
    await tell(world, EventKind.GRAPHICS, phase, names=names)


async def choose(service: VmService, action: str, delay_min: int = 0) -> None:
    change = {"graphics_type": "vnc", "password": "x", "ttl_s": 60, "ticket_parameters": {}}
    wish = DeviceUpdate(type="graphics", disconnect_action=action, disconnect_delay_min=delay_min, **change)  # type: ignore[arg-type]
    await service.updates.update_device(VM_ID, wish)


async def test_the_next_daemon_does_what_was_chosen() -> None:
    world = World()
    async with world.ready() as service:
        end = await listen(world, service, display="vnc")
        await choose(service, "SHUTDOWN", delay_min=1)
    async with world.ready() as service:
        await world.clock.advance(2)
        await beat(world, end)
        await look(world, INITIALIZE)
        await look(world, DISCONNECT)
        await world.clock.advance(30)
        assert end.heard[-1]["__name__"] == "api-version"
        await world.clock.advance(60)
        assert end.heard[-1]["__name__"] == "shutdown"


@pytest.mark.parametrize(
    ("action", "said"),
    [("", "lock-screen"), ("LOCK_SCREEN", "lock-screen"), ("LOGOUT", "log-off"), ("NONE", "refresh")],
)
async def test_the_session_is_ended_as_was_chosen(action: str, said: str) -> None:
    world = World()
    async with world.ready() as service:
        end = await listen(world, service, display="vnc")
        if action:
            await choose(service, action)
        await look(world, INITIALIZE)
        await look(world, DISCONNECT)
        assert end.heard[-1]["__name__"] == "refresh", "not at once"
        await world.clock.advance(2.1)
        assert end.heard[-1]["__name__"] == said


async def test_who_comes_back_in_time_finds_the_session_as_it_was() -> None:
    world = World()
    async with world.ready() as service:
        end = await listen(world, service, display="vnc")
        await look(world, INITIALIZE)
        await look(world, DISCONNECT)
        await world.clock.advance(1)
        await look(world, INITIALIZE, OTHER)
        await world.clock.advance(10)
        assert end.heard[-1]["__name__"] == "refresh"


async def test_the_last_of_several_connections_counts_and_strangers_do_not() -> None:
    world = World()
    async with world.ready() as service:
        end = await listen(world, service, display="vnc")
        for viewer in (VIEWER, OTHER):
            await look(world, INITIALIZE, viewer)
        await look(world, DISCONNECT)
        await look(world, CONNECT, ("192.0.2.9", "vnc", "9"))
        await look(world, DISCONNECT, ("192.0.2.9", "vnc", "9"))
        await world.clock.advance(10)
        assert end.heard[-1]["__name__"] == "refresh"
        assert (await service.get_stats(VM_ID)).client_address == "192.0.2.1"
        await look(world, DISCONNECT, OTHER)
        await world.clock.advance(10)
        assert end.heard[-1]["__name__"] == "lock-screen"


async def test_a_shutdown_waits_and_is_given_up_when_somebody_comes() -> None:
    world = World()
    async with world.ready() as service:
        end = await listen(world, service, display="vnc")
        await beat(world, end)
        await choose(service, "SHUTDOWN", delay_min=5)
        await look(world, INITIALIZE)
        await look(world, DISCONNECT)
        await world.clock.advance(290)
        await look(world, INITIALIZE)
        await world.clock.advance(290)
        assert world.statuses()[-1] == "Up"
        await look(world, DISCONNECT)
        await world.clock.advance(303)
        await settle()
        assert world.statuses()[-1] == "Down"


async def test_a_reboot_and_a_new_ticket() -> None:
    world = World()
    world.hypervisor.guests_obey = False
    async with world.ready() as service:
        end = await listen(world, service, display="vnc")
        await beat(world, end)
        await choose(service, "REBOOT")
        await look(world, INITIALIZE)
        await look(world, DISCONNECT)
        await world.clock.advance(3)
        assert end.heard[-1] == {"__name__": "shutdown", "timeout": 30, "message": "", "reboot": "True"}
        await service.set_ticket(VM_ID, "x", 60)
        await look(world, INITIALIZE)
        await look(world, DISCONNECT)
        await world.clock.advance(3)
        assert end.heard[-1] == {"__name__": "lock-screen"}, "a ticket takes the choice back"
        with pytest.raises(InvalidArgument):
            await choose(service, "SHUTDOWN", delay_min=-1)


async def test_a_crowd_of_viewers_is_bounded() -> None:
    world = World()
    async with world.ready() as service:
        await listen(world, service, display="vnc")
        for port in range(1000):
            world.hypervisor.emit(world_event(port))
        await settle()
        assert len(service._shared.get(VM_ID).viewers) <= 64


def world_event(port: int) -> HypervisorEvent:
    return HypervisorEvent(VM_ID, EventKind.GRAPHICS, (INITIALIZE,), names=("192.0.2.1", "vnc", str(port)))
