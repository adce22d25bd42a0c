"""How many VMs may be on their way at once, which callers change at any time; what those do is left to others."""

import asyncio
from collections import deque


class Slots:
    """Places for VMs that move one way. A new `limit` counts from then on; who has a place keeps it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """So many at once."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit
        self._serve()

    def try_enter(self) -> bool:
        """Take a place if one is free; `leave` must follow then."""
        if self._taken >= self._limit:
            return False
        self._taken += 1
        return True

    def enter_anyway(self) -> None:
        """Take a place for a VM that is on its way already; `leave` must follow."""
        self._taken += 1

    async def enter(self) -> None:
        """Wait for a place, in the order of asking; `leave` must follow."""
        if not self._waiting and self.try_enter():
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Give the place back."""
        self._taken -= 1
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._taken < self._limit:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._taken += 1
                waiter.set_result(None)
