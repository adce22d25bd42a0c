import asyncio

import pytest

from vdsm.adapters.libvirt.lanes import Lanes, Turnstile
from vdsm.core.errors import ResourceExhausted
from vdsm.virt.ports import HypervisorTimeout

LONG_S = 60.0


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_at_a_time_in_the_order_of_asking() -> None:
    lanes, order = Lanes(), []
    await lanes.enter("vm", "first", LONG_S)

    async def call(name: str, *, first: bool = False) -> None:
        await lanes.enter("vm", name, LONG_S, first=first)
        order.append(name)

    async with asyncio.TaskGroup() as tasks:
        for name in ("second", "third"):
            tasks.create_task(call(name))
        await settle()
        tasks.create_task(call("destroy", first=True))
        await lanes.enter("other", "not held up", LONG_S)
        await settle()
        assert order == []
        for expected in (["destroy"], ["destroy", "second"], ["destroy", "second", "third"]):
            lanes.leave("vm")
            await settle()
            assert order == expected


async def test_stuck_lane_turns_everybody_away_until_the_call_returns() -> None:
    lanes = Lanes()
    await lanes.enter("vm", "suspend", LONG_S)
    waiting = asyncio.create_task(lanes.enter("vm", "resume", LONG_S))
    await settle()
    lanes.mark_stuck("vm", "suspend", 60.0)
    for attempt in (waiting, lanes.enter("vm", "reset", LONG_S)):
        with pytest.raises(HypervisorTimeout) as failure:
            await attempt
        assert (failure.value.vm_id, failure.value.call) == ("vm", "suspend")
    lanes.leave("vm")
    await lanes.enter("vm", "resume", LONG_S)


async def test_waiting_ends_at_the_deadline() -> None:
    lanes = Lanes()
    await lanes.enter("vm", "suspend", LONG_S)
    with pytest.raises(HypervisorTimeout):
        await lanes.enter("vm", "resume", 0.0)
    lanes.leave("vm")
    await lanes.enter("vm", "reset", LONG_S)


async def test_whoever_gives_up_as_its_turn_comes_passes_it_on() -> None:
    lanes = Lanes()
    await lanes.enter("vm", "first", LONG_S)
    leaver = asyncio.create_task(lanes.enter("vm", "second", LONG_S))
    waiting = asyncio.create_task(lanes.enter("vm", "third", LONG_S))
    await settle()
    lanes.leave("vm")
    leaver.cancel()
    await waiting
    assert leaver.cancelled()


async def test_turnstile_has_so_many_places() -> None:
    turnstile = Turnstile(1)
    await turnstile.enter("a", "start", LONG_S)
    with pytest.raises(ResourceExhausted):
        await turnstile.enter("b", "start", 0.01)
    turnstile.mark_stuck("a", "start", 600.0)
    await turnstile.enter("b", "start", LONG_S)
    turnstile.leave("a")  # its place was given away already
    with pytest.raises(ResourceExhausted):
        await turnstile.enter("c", "start", 0.01)
    turnstile.leave("b")
    await turnstile.enter("c", "start", LONG_S)
