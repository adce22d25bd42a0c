"""Guests that want to know hear of their moves before and after them, and hold them up for ten seconds at most."""

import pytest

from tests.unit.virt.builders import VM_ID
from tests.unit.virt.guest.test_channels import beat, listen
from tests.unit.virt.migration.pair import Pair, migrate
from tests.unit.virt.world import settle, until
from vdsm.api.guest import GuestInterface
from vdsm.testing.channels import GuestEnd
from vdsm.virt.domain import parse_domain
from vdsm.virt.ports import HypervisorRefused


def list_events(end: GuestEnd) -> list[dict[str, object]]:
    return [said for said in end.heard if said["__name__"] == "lifecycle-event"]


@pytest.mark.parametrize("answers", [True, False])
async def test_a_guest_gets_ready_and_is_greeted(answers: bool) -> None:
    pair = Pair()
    async with pair.ready() as (source, destination):
        end = await listen(pair.here, source)
        await beat(pair.here, end)
        await pair.here.clock.advance(11)  # the version is recorded
        await beat(pair.here, end)
        await migrate(source, guest_events=True)
        await settle()
        [before] = list_events(end)
        assert before["type"] == "before_migration" and VM_ID not in pair.there.hypervisor.domains
        if answers:
            end.say("completion", reply_id="another")
            await settle()
            assert VM_ID not in pair.there.hypervisor.domains
            end.say("completion", reply_id=before["reply_id"])
            await settle()
        else:
            await pair.here.clock.advance(10.1)
        await until(lambda: pair.there.statuses()[-1:] == ["Up"])
        after = GuestEnd()
        pair.there.channels.ends[parse_domain(pair.there.record()).agent_socket] = after
        await pair.here.clock.advance(10)
        assert list_events(after) == [{"__name__": "lifecycle-event", "type": "after_migration"}]
        assert not source.guests.channels._replies


async def test_a_guest_hears_that_it_stayed() -> None:
    pair = Pair()
    async with pair.ready() as (source, _):
        end = await listen(pair.here, source)
        await beat(pair.here, end)
        pair.here.hypervisor.fail_next("migrate", HypervisorRefused("no way", 9))
        await migrate(source, guest_events=True)
        await settle()
        end.say("completion", reply_id=list_events(end)[0]["reply_id"])
        await until(lambda: pair.here.statuses()[-1] == "Up")
        await settle()
        assert list_events(end)[-1] == {"__name__": "lifecycle-event", "type": "after_migration", "failure": True}


async def test_what_is_known_of_the_inside_goes_along() -> None:
    pair = Pair()
    async with pair.ready() as (source, destination):
        end = await listen(pair.here, source)
        await beat(pair.here, end)
        end.say("fqdn", fqdn="guest.lan")
        end.say("active-user", name="ann")
        end.say("network-interfaces", interfaces=[{"name": "eth0", "hw": "x", "inet": ["10.0.0.1"], "inet6": []}])
        await pair.here.clock.advance(1)
        await migrate(source)
        await until(lambda: pair.there.statuses()[-1:] == ["Up"])
        stats = await destination.get_stats(VM_ID)
        assert (stats.guest_name, stats.guest_user) == ("guest.lan", "ann")
        assert stats.guest_interfaces == [GuestInterface(name="eth0", hardware_address="x", ipv4=["10.0.0.1"])]


async def test_others_are_not_told() -> None:
    pair = Pair()
    async with pair.ready() as (source, _):
        end = await listen(pair.here, source)
        await beat(pair.here, end)
        await migrate(source)
        await until(lambda: pair.there.statuses()[-1:] == ["Up"])
        assert list_events(end) == []


async def test_an_agent_that_is_too_old_or_silent_holds_up_nothing() -> None:
    pair = Pair()
    async with pair.ready() as (source, _):
        end = await listen(pair.here, source)
        await beat(pair.here, end, version=2)
        await migrate(source, guest_events=True)
        await until(lambda: pair.there.statuses()[-1:] == ["Up"])
        assert list_events(end) == []


async def test_nothing_is_recorded_while_it_is_on_its_way() -> None:
    pair = Pair()
    pair.here.hypervisor.moves_end = False
    async with pair.ready() as (source, _):
        end = await listen(pair.here, source)
        await migrate(source)
        await until(lambda: VM_ID in pair.here.hypervisor.moves)
        writes = pair.here.hypervisor.calls.count(("set_metadata", VM_ID))
        await beat(pair.here, end)
        await pair.here.clock.advance(30)
        assert pair.here.hypervisor.calls.count(("set_metadata", VM_ID)) == writes
        pair.here.hypervisor.moves[VM_ID].fail(HypervisorRefused("the network is gone", 9))
        await until(lambda: pair.here.statuses()[-1] == "Up")
        await pair.here.clock.advance(12)
        assert pair.here.stored().agent_version == 3
