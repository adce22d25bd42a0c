"""Work that comes again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from vdsm.core.periodic import repeat
from vdsm.testing.clock import VirtualClock


class Work:
    """Notes when it is done; `act` is what it does besides."""

    def __init__(self, clock: VirtualClock, act: Callable[[VirtualClock], Awaitable[None]] | None) -> None:
        self.clock = clock
        self.act = act
        self.times: list[float] = []

    async def __call__(self) -> None:
        self.times.append(self.clock.monotonic() - 1000)
        if self.act is not None:
            await self.act(self.clock)


@asynccontextmanager
async def repeated(act: Callable[[VirtualClock], Awaitable[None]] | None = None) -> AsyncIterator[Work]:
    """Work that is repeated every 15 s until the end of the block."""
    clock = VirtualClock()
    work = Work(clock, act)
    running = asyncio.create_task(repeat(work, every_s=15, clock=clock, name="work"))
    yield work
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_at_once_and_then_at_every_interval() -> None:
    async with repeated() as work:
        await work.clock.advance(40)
    assert work.times == [0, 15, 30]


async def test_a_failure_is_logged_and_the_next_turn_comes(caplog) -> None:
    async def fail(clock: VirtualClock) -> None:
        raise ValueError("no such luck")

    async with repeated(fail) as work:
        await work.clock.advance(31)
    assert work.times == [0, 15, 30]
    assert "work failed" in caplog.text and "no such luck" in caplog.text


async def test_the_time_that_the_work_takes_is_not_added() -> None:
    async with repeated(lambda clock: clock.sleep(5)) as work:
        await work.clock.advance(46)
    assert work.times == [0, 15, 30, 45]


async def test_work_that_lasts_too_long_is_not_made_up_for() -> None:
    async with repeated(lambda clock: clock.sleep(40)) as work:
        await work.clock.advance(41)
    assert work.times == [0, 40]
