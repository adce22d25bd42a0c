"""The event bus: every event gets a number, the last ones are kept, who was away is told what it missed or that it must
look anew; what events are and how they are encoded is left to the api and the dialects.

An event is written once, when it happens, and kept in that form: objects would take several times its bytes."""

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Generic, TypeVar

from msgspec import Struct

from vdsm.core.clock import Clock

T = TypeVar("T")

KEPT = 10_000
KEPT_BYTES = 16 << 20
"""Events of machines with a thousand devices are large: of such, fewer are kept."""


class Numbered(Struct, Generic[T], frozen=True):
    """An event and its id `<start>-<n>`: start tells one run of the daemon from another, n grows by one."""

    id: str
    event: T


class Reset(Struct, frozen=True):
    """Events were missed that cannot be told any more; what follows comes after `id`."""

    id: str


class EventBus(Generic[T]):
    """Publishes on the loop's thread to listeners (at once) and to subscriptions (at their own pace).

    The last `kept` events are remembered as `write` puts them, fewer where these are more than `kept_bytes`.
    """

    def __init__(
        self,
        clock: Clock,
        write: Callable[[Numbered[T]], bytes],
        kept: int = KEPT,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self.start = str(int(clock.time() * 1000))
        self._kept: deque[bytes] = deque()
        self._bytes = 0
        self._most = (kept, kept_bytes)
        self._write = write
        self.last = 0
        """The newest event's number."""
        self.closed = False
        self._listeners: list[Callable[[Numbered[T]], None]] = []
        self.subscriptions: dict[Subscription[T], None] = {}
        """Those who read now; each sees to it."""

    @property
    def last_id(self) -> str:
        """The id of the newest event; `<start>-0` before the first."""
        return f"{self.start}-{self.last}"

    def publish(self, event: T) -> str:
        """Number an event and tell it; gives its id."""
        self.last += 1
        numbered = Numbered(self.last_id, event)
        self._keep(numbered)
        for listener in self._listeners:
            listener(numbered)
        for subscription in self.subscriptions:
            subscription.wake()
        return numbered.id

    def _keep(self, numbered: Numbered[T]) -> None:
        written = self._write(numbered)
        self._kept.append(written)
        self._bytes += len(written)
        count, most_bytes = self._most
        while len(self._kept) > count or self._bytes > most_bytes:
            self._bytes -= len(self._kept.popleft())

    def listen(self, listener: Callable[[Numbered[T]], None]) -> None:
        """Call listener with every later event. Listeners must not raise."""
        self._listeners.append(listener)

    def subscribe(self, last_id: str | None = None) -> "Subscription[T]":
        """Follow the events after last_id, by default those to come. Use as a context manager."""
        return Subscription(self, last_id)

    def close(self) -> None:
        """End all subscriptions, present and future; their iteration stops after what was published."""
        self.closed = True
        for subscription in self.subscriptions:
            subscription.wake()

    def parse_id(self, id: str) -> int | None:
        """The number behind an id of this run, or None when there never was such an event."""
        start, dash, number = id.partition("-")
        if start != self.start or not dash or not (number.isascii() and number.isdigit()) or len(number) > 18:
            return None
        return int(number) if int(number) <= self.last else None

    def list_after(self, number: int) -> list[bytes] | None:
        """The events after a number, as written; None when some of them are no longer kept."""
        missing = self.last - number
        if missing > len(self._kept):
            return None
        return list(islice(self._kept, len(self._kept) - missing, None))


class Subscription(Generic[T]):
    """One reader's place in the stream. It costs no memory per event: one who is too slow finds a Reset."""

    def __init__(self, bus: EventBus[T], last_id: str | None) -> None:
        self._bus = bus
        self._place = bus.last if last_id is None else bus.parse_id(last_id)
        self._news = asyncio.Event()

    def __enter__(self) -> "Subscription[T]":
        self._bus.subscriptions[self] = None
        return self

    def __exit__(self, *_: object) -> None:
        self._bus.subscriptions.pop(self, None)

    def wake(self) -> None:
        """There is something to look at."""
        self._news.set()

    async def get_batch(self) -> list[bytes | Reset]:
        """Wait for news and give all there is, as written; an empty list when the bus was closed."""
        while True:
            self._news.clear()
            batch = self._take()
            if batch or self._bus.closed:
                return batch
            await self._news.wait()

    def _take(self) -> list[bytes | Reset]:
        missed = None if self._place is None else self._bus.list_after(self._place)
        self._place = self._bus.last
        return [Reset(self._bus.last_id)] if missed is None else [*missed]
