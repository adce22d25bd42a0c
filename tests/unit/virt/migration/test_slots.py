"""Places for VMs on their way."""

import asyncio
from contextlib import suppress

from vdsm.virt.migration.slots import Slots


async def test_so_many_at_once_in_the_order_of_asking() -> None:
    slots, entered = Slots(1), list[int]()

    async def enter(number: int) -> None:
        await slots.enter()
        entered.append(number)

    tasks = [asyncio.create_task(enter(number)) for number in range(4)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert entered == [0] and not slots.try_enter()
    slots.leave()
    await tasks[1]
    assert entered == [0, 1]
    slots.limit = 3
    await asyncio.gather(*tasks)
    assert entered == [0, 1, 2, 3] and not slots.try_enter()


async def test_a_lower_limit_ends_nobody() -> None:
    slots = Slots(2)
    assert slots.try_enter() and slots.try_enter()
    slots.limit = 1
    slots.leave()
    assert not slots.try_enter()
    slots.leave()
    assert slots.try_enter()


async def test_who_gives_up_takes_no_place() -> None:
    slots = Slots(1)
    assert slots.try_enter()
    waiting = [asyncio.create_task(slots.enter()) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    slots.leave()
    waiting[1].cancel()  # it was given the place in this very turn
    with suppress(asyncio.CancelledError):
        await waiting[1]
    assert slots.try_enter()
