"""The virtual clock wakes sleepers at their own times, in order."""

import asyncio

from vdsm.core.clock import Clock
from vdsm.testing.clock import VirtualClock


async def test_sleepers_wake_in_order_of_time_and_see_their_own() -> None:
    clock = VirtualClock()
    as_clock: Clock = clock
    begin = clock.monotonic()
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *delays_s: float) -> None:
        for delay_s in delays_s:
            await as_clock.sleep(delay_s)
            woken.append((name, clock.monotonic() - begin))

    async with asyncio.TaskGroup() as group:
        for name, delays_s in {"c": (3.0,), "a": (1.0, 1.0, 1.5), "b": (2.0,)}.items():
            group.create_task(sleeper(name, *delays_s))
        await clock.advance(0.5)
        assert (woken, clock.sleeper_count) == ([], 3)
        await clock.advance(2.5)
        assert woken == [("a", 1.0), ("b", 2.0), ("a", 2.0), ("c", 3.0)]
        await clock.advance(100)
    assert woken[-1] == ("a", 3.5)
    assert clock.monotonic() - begin == clock.time() - VirtualClock().time() == 103.0


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = VirtualClock()
    task = asyncio.create_task(clock.sleep(5))
    await clock.advance(1)
    task.cancel()
    await clock.advance(1)
    assert clock.sleeper_count == 0
    await clock.advance(10)
    assert task.cancelled()


async def test_no_time_is_still_a_turn_for_others() -> None:
    clock = VirtualClock()
    await clock.sleep(0)
    await clock.sleep(-1)
    assert clock.sleeper_count == 0
