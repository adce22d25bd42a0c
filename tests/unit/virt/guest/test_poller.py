"""Asking qemu agents: when, of whom, and that those who are silent hold up nobody."""

import asyncio
import json
from collections import Counter

import pytest
from msgspec import UNSET

from tests.unit.virt.builders import VM_ID
from tests.unit.virt.world import World, create, settle, status
from vdsm.core.errors import ResourceExhausted
from vdsm.virt.guest import poller, qemu_agent
from vdsm.virt.ports import EventKind, HypervisorEvent, HypervisorRefused

ANSWERS: dict[str, object] = {
    "guest-info": {
        "version": "7.2",
        "supported_commands": [{"name": name, "enabled": True} for name in qemu_agent.PERIODS],
    },
    "guest-get-vcpus": [{"online": True}],
    "guest-get-devices": [],
    "guest-network-get-interfaces": [{"name": "e", "ip-addresses": [{"ip-address": "10.0.0.1"}]}],
    "guest-get-host-name": {"host-name": "inside"},
    "guest-get-osinfo": {"id": "debian", "kernel-release": "6.1", "machine": "x86_64"},
    "guest-get-timezone": {"zone": "UTC", "offset": 0},
    "guest-get-users": [{"user": "root"}],
    "guest-get-fsinfo": [],
    "guest-get-disks": [],
}


class Agents(World):
    """A world whose guests' agents answer; `asked` tells what they were asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str]] = []
        self.delays_s: dict[str, float] = {}
        self.in_flight: Counter[str] = Counter()
        self.most_in_flight = 0
        fake = self.hypervisor
        fake.agent_answers = dict(ANSWERS)
        answer = fake.ask_agent

        async def ask(vm_id: str, command: str) -> str:
            assert not self.in_flight[vm_id], "one question at a time"
            self.asked.append((vm_id, command))
            self.in_flight[vm_id] += 1
            self.most_in_flight = max(self.most_in_flight, sum(self.in_flight.values()))
            try:
                await self.clock.sleep(self.delays_s.get(vm_id, 0))
                return await answer(vm_id, command)
            finally:
                self.in_flight[vm_id] -= 1

        fake.ask_agent = ask  # type: ignore[method-assign]

    def count(self, command: str, vm_id: str = VM_ID) -> int:
        return self.asked.count((vm_id, command))


async def test_what_the_agent_knows_reaches_clients() -> None:
    world = Agents()
    async with world.ready() as service:
        await create(service)
        await world.clock.advance(20)
        assert world.asked == [], "nobody opened the channel"
        world.hypervisor.connect_agent(VM_ID)
        await world.clock.advance(6)
        stats = await service.get_stats(VM_ID)
        assert (stats.status, stats.guest_user, stats.guest_host_name, stats.guest_name) == (
            *("Up", "root", "inside", "inside"),
        )
        assert stats.guest_applications == ["kernel-6.1", "qemu-guest-agent-7.2"]
        assert (stats.guest_cpus, stats.guest_addresses, stats.guest_containers) == (1, "", UNSET)
        assert world.statuses() == ["Powering up", "Up"]
        assert world.events[-1].stats is not UNSET and world.events[-1].stats.guest_user == "root"


async def test_each_question_has_its_period() -> None:
    world = Agents()
    async with world.ready() as service:
        await create(service)
        world.hypervisor.connect_agent(VM_ID)
        await world.clock.advance(1205)
        for command, period_s in qemu_agent.PERIODS.items():
            assert abs(world.count(command) - 1 - 1200 / period_s) <= 1, command
        assert {command for _, command in world.asked} == set(qemu_agent.PERIODS)


async def test_a_young_guest_is_asked_for_its_address_until_it_has_one() -> None:
    world = Agents()
    world.hypervisor.agent_answers[qemu_agent.NETWORK] = []
    async with world.ready() as service:
        await create(service)
        world.hypervisor.connect_agent(VM_ID)
        await world.clock.advance(51)
        assert world.count(qemu_agent.NETWORK) in (10, 11)
        world.hypervisor.agent_answers[qemu_agent.NETWORK] = ANSWERS[qemu_agent.NETWORK]
        await world.clock.advance(5)
        asked = world.count(qemu_agent.NETWORK)
        await world.clock.advance(100)
        assert world.count(qemu_agent.NETWORK) == asked


async def test_only_what_the_agent_lists_is_asked() -> None:
    world = Agents()
    commands = [{"name": "guest-get-users", "enabled": True}, {"name": "guest-get-fsinfo", "enabled": False}]
    world.hypervisor.agent_answers["guest-info"] = {"version": "1", "supported_commands": commands}
    async with world.ready() as service:
        await create(service)
        world.hypervisor.connect_agent(VM_ID)
        await world.clock.advance(300)
        assert {command for _, command in world.asked} == {"guest-info", "guest-get-users"}


async def test_an_agent_that_fails_is_left_alone_for_a_minute() -> None:
    world = Agents()
    async with world.ready() as service:
        await create(service)
        world.hypervisor.connect_agent(VM_ID)
        await world.clock.advance(150)
        assert await status(service) == "Up"
        world.hypervisor.agents.clear()
        asked = len(world.asked)
        await world.clock.advance(300)
        assert 4 <= len(world.asked) - asked <= 6
        assert not service._shared.get(VM_ID).state.qemu_agent_answers
        world.hypervisor.agents.add(VM_ID)
        await world.clock.advance(65)
        assert service._shared.get(VM_ID).state.qemu_agent_answers


@pytest.mark.parametrize("nonsense", [5, {"version": 1}, [[]], None])
async def test_nonsense_is_a_failure_too(nonsense: object, caplog: pytest.LogCaptureFixture) -> None:
    world = Agents()
    world.hypervisor.agent_answers["guest-get-users"] = nonsense
    async with world.ready() as service:
        await create(service)
        world.hypervisor.connect_agent(VM_ID)
        await world.clock.advance(600)
        assert world.count("guest-get-users") <= 11
        assert sum("does not answer" in record.message for record in caplog.records if record.levelname != "DEBUG") <= 1


async def test_what_an_agent_refuses_says_nothing_of_the_rest() -> None:
    world = Agents()
    del world.hypervisor.agent_answers["guest-get-users"]
    async with world.ready() as service:
        await create(service)
        world.hypervisor.connect_agent(VM_ID)
        await world.clock.advance(51)
        assert world.count("guest-get-users") == 5
        assert world.count("guest-get-timezone") == 1
        stats = await service.get_stats(VM_ID)
        assert (stats.status, stats.guest_user, stats.guest_host_name) == ("Up", "Unknown", "inside")


async def test_a_full_hypervisor_is_not_the_agents_fault() -> None:
    world = Agents()
    async with world.ready() as service:
        await create(service)
        world.hypervisor.connect_agent(VM_ID)
        world.hypervisor.fail_next("ask_agent", ResourceExhausted("full"))
        await world.clock.advance(11)
        assert await status(service) == "Up"


async def test_a_reboot_and_an_agent_that_comes_back() -> None:
    world = Agents()
    async with world.ready() as service:
        await create(service)
        world.hypervisor.connect_agent(VM_ID)
        await world.clock.advance(100)
        world.hypervisor.emit(HypervisorEvent(VM_ID, EventKind.REBOOT))
        world.hypervisor.disconnect_agent(VM_ID)
        await settle()
        stats = await service.get_stats(VM_ID)
        assert (stats.status, stats.guest_user, stats.last_user) == ("RebootInProgress", "Unknown", "root")
        asked = len(world.asked)
        await world.clock.advance(20)
        assert len(world.asked) == asked
        world.hypervisor.connect_agent(VM_ID)
        await world.clock.advance(6)
        assert await status(service) == "Up"
        assert world.count("guest-info") == 2, "it may be another one"


async def test_disks_are_looked_at_again_after_a_plug() -> None:
    world = Agents()
    async with world.ready() as service:
        await create(service, hda="/disk")
        world.hypervisor.connect_agent(VM_ID)
        await world.clock.advance(30)
        assert world.count("guest-get-disks") == 1
        vm = service._shared.get(VM_ID)
        assert vm.view is not None
        xml = vm.xml.replace("</disk>", "</disk><disk type='file'><target dev='hdb' bus='ide'/></disk>", 1)
        record = await world.hypervisor.get_domain(VM_ID)
        service._shared.read(vm, type(record)(record.vm_id, record.name, record.state, record.reason, xml))
        vm.agent_connected = True
        await world.clock.advance(21)
        assert world.count("guest-get-disks") == 2 and world.count("guest-get-fsinfo") == 2


async def test_a_hundred_silent_agents_hold_up_nobody() -> None:
    world = Agents()
    silent = [f"{n:08d}-0000-4000-8000-00000000000a" for n in range(100)]
    async with world.ready() as service:
        await create(service)
        world.hypervisor.connect_agent(VM_ID)
        await world.clock.advance(10)
        for number, vm_id in enumerate(silent):
            await create(service, vm_id, name=f"silent{number}")
            world.delays_s[vm_id] = 6.0
            world.hypervisor.connect_agent(vm_id, answers=False)
        before = world.count("guest-get-users")
        await world.clock.advance(300)
        assert world.count("guest-get-users") - before >= 27, "as often as when it is alone"
        assert world.most_in_flight <= 2 * poller.PLACES
        assert len({vm_id for vm_id, _ in world.asked}) > 60
        assert (await service.get_stats(VM_ID)).guest_user == "root"


async def test_answers_that_come_too_late_are_not_taken() -> None:
    world = Agents()
    world.delays_s[VM_ID] = 10.0
    async with world.ready() as service:
        await create(service)
        world.hypervisor.connect_agent(VM_ID)
        await world.clock.advance(6)
        assert len(world.asked) == 1
        world.hypervisor.end_guest(VM_ID)
        await world.clock.advance(30)
        assert len(world.asked) == 1
        assert not [task for task in asyncio.all_tasks() if "ask the agent" in task.get_name()]
        assert service._shared.get(VM_ID).qemu_guest.applications is UNSET


async def test_the_agent_is_known_again_after_a_restart() -> None:
    world = Agents()
    async with world.ready() as service:
        await create(service)
        world.hypervisor.connect_agent(VM_ID)
        await settle()
    async with world.ready() as service:
        await world.clock.advance(6)
        assert (await service.get_stats(VM_ID)).guest_host_name == "inside"


def test_refusals_are_told_from_silence() -> None:
    refused = HypervisorRefused("unable to execute QEMU agent command", 112)
    assert refused.kind == poller.AGENT_REFUSED and json.dumps(ANSWERS)


async def test_a_vm_that_stands_still_is_not_asked() -> None:
    world = Agents()
    async with world.ready() as service:
        await create(service)
        world.hypervisor.connect_agent(VM_ID)
        await world.clock.advance(6)
        await service.pause(VM_ID)
        asked = len(world.asked)
        await world.clock.advance(600)
        assert len(world.asked) == asked
        await service.resume(VM_ID)
        await world.clock.advance(6)
        assert len(world.asked) > asked and await status(service) == "Up"


async def test_a_vm_that_is_paused_amid_a_question_is_not_taken_for_silent() -> None:
    world = Agents()
    async with world.ready() as service:
        await create(service)
        world.hypervisor.connect_agent(VM_ID)
        await world.clock.advance(150)
        world.delays_s[VM_ID] = 2.0
        asked = len(world.asked)
        while len(world.asked) == asked:
            await world.clock.advance(1)
        await service.pause(VM_ID)
        world.hypervisor.agents.clear()  # the answer does not come
        await world.clock.advance(3)
        world.hypervisor.agents.add(VM_ID)
        assert service._shared.get(VM_ID).state.qemu_agent_answers
        world.delays_s.clear()
        await service.resume(VM_ID)
        asked = len(world.asked)
        await world.clock.advance(11)
        assert len(world.asked) > asked


async def test_an_agent_that_can_nothing_is_asked_again_soon() -> None:
    world = Agents()
    world.hypervisor.agent_answers["guest-info"] = {"version": "1", "supported_commands": []}
    async with world.ready() as service:
        await create(service)
        world.hypervisor.connect_agent(VM_ID)
        await world.clock.advance(6)
        world.hypervisor.agent_answers["guest-info"] = ANSWERS["guest-info"]
        await world.clock.advance(65)
        assert (await service.get_stats(VM_ID)).guest_user == "root"
