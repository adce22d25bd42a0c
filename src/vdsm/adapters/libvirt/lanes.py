"""Who may call which VM when: one at a time, none behind a call that never came back; calling is left to `calls`."""

import asyncio
from collections import deque
from typing import Protocol

from msgspec import Struct, field

from vdsm.core.errors import ResourceExhausted
from vdsm.virt.ports import HypervisorTimeout


class Hold(Protocol):
    """Something taken for the time of a call."""

    def leave(self, vm_id: str) -> None:
        """The call returned."""

    def mark_stuck(self, vm_id: str, call: str, timeout_s: float) -> None:
        """The call is past its deadline and still out."""


class _Lane(Struct, eq=False):
    stuck: HypervisorTimeout | None = None
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class Lanes:
    """A lane per VM with one call in it. While the call in a lane is stuck, everybody else is turned away at once."""

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}

    async def enter(self, vm_id: str, call: str, timeout_s: float, *, first: bool = False) -> None:
        """Take the VM's lane, in the order of asking (or before all others); `leave` must follow.

        Raises HypervisorTimeout when the lane is stuck, gets stuck, or is not free in time.
        """
        lane = self._lanes.get(vm_id)
        if lane is None:
            self._lanes[vm_id] = _Lane()
            return
        if lane.stuck is not None:
            raise _copy(lane.stuck)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if first:
            lane.waiting.appendleft(waiter)
        else:
            lane.waiting.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except (TimeoutError, asyncio.CancelledError) as error:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.leave(vm_id)
            if isinstance(error, TimeoutError):
                raise HypervisorTimeout(vm_id, call, timeout_s) from None
            raise

    def leave(self, vm_id: str) -> None:
        """The call returned: the next one enters, and a stuck lane is free again."""
        lane = self._lanes[vm_id]
        lane.stuck = None
        while lane.waiting:
            waiter = lane.waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        del self._lanes[vm_id]

    def mark_stuck(self, vm_id: str, call: str, timeout_s: float) -> None:
        """The call in the lane will not come back soon: those who wait fail now."""
        lane = self._lanes[vm_id]
        lane.stuck = HypervisorTimeout(vm_id, call, timeout_s)
        while lane.waiting:
            waiter = lane.waiting.popleft()
            if not waiter.done():
                waiter.set_exception(_copy(lane.stuck))


class Turnstile:
    """At most so many slow calls at once, so that they leave room for quick ones."""

    def __init__(self, limit: int) -> None:
        self._free = asyncio.Semaphore(limit)
        self._stuck: set[str] = set()

    async def enter(self, vm_id: str, call: str, timeout_s: float) -> None:
        """Wait for a free place; `leave` must follow. Raises ResourceExhausted."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._free.acquire()
        except TimeoutError:
            raise ResourceExhausted(f"{call} of VM {vm_id} waited {timeout_s} s for its turn") from None

    def leave(self, vm_id: str) -> None:
        if vm_id in self._stuck:
            self._stuck.discard(vm_id)
        else:
            self._free.release()

    def mark_stuck(self, vm_id: str, call: str, timeout_s: float) -> None:
        """The place is free again: what is stuck counts against the pool's limit."""
        self._stuck.add(vm_id)
        self._free.release()


def _copy(error: HypervisorTimeout) -> HypervisorTimeout:
    return HypervisorTimeout(error.vm_id, error.call, error.seconds)  # a raised error carries its own traceback
