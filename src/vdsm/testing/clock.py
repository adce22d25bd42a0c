"""A clock that stands still until a test moves it; fits `core.clock.Clock`."""

import asyncio
import heapq
from itertools import count


class VirtualClock:
    """Time as a number: `await clock.advance(5)` wakes whoever sleeps until then, one after another in order of time.

    `start_s` is the epoch time at the beginning; the monotonic clock begins at 1000 s, so that 0 never looks plausible.
    """

    def __init__(self, start_s: float = 1_700_000_000.0) -> None:
        self._start_s = start_s
        self._elapsed_s = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def monotonic(self) -> float:
        return 1000.0 + self._elapsed_s

    def time(self) -> float:
        return self._start_s + self._elapsed_s

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock was advanced by so much; zero or less only yields once, as with asyncio."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed_s + seconds, next(self._order), wake))
        await wake

    @property
    def sleeper_count(self) -> int:
        """How many sleep now."""
        return sum(not wake.done() for _, _, wake in self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Let time pass: each sleeper wakes at its own time, and what it does at once is done before the next wakes."""
        await self._settle()
        target_s = self._elapsed_s + seconds
        while self._sleepers and self._sleepers[0][0] <= target_s:
            wake_s, _, wake = heapq.heappop(self._sleepers)
            if wake.done():
                continue
            self._elapsed_s = wake_s
            wake.set_result(None)
            await self._settle()
        self._elapsed_s = target_s

    async def _settle(self) -> None:
        # A few turns of the loop let chains of wake-ups run to where they wait again.
        for _ in range(20):
            await asyncio.sleep(0)
