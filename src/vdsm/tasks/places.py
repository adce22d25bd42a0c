"""Who of the tasks of one kind may work: so many of each owner, so many of all together."""

import asyncio
from collections.abc import Callable
from weakref import WeakValueDictionary

OWNERS = 20
"""So many owners can have all of their places at once."""


class Places:
    """Tasks of one owner, which share the domains that they work on, hold up their like and nobody else."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._all = asyncio.Semaphore(OWNERS * count)
        self._owned: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def take(self, owner: str, taken: list[asyncio.Semaphore], on_wait: Callable[[str], None]) -> None:
        """Wait for a place; `taken` gets what is to be released, `on_wait` the reason when it is not had at once."""
        own = self._owned.setdefault(owner, asyncio.Semaphore(self._count))
        for places, reason in ((own, f"all {self._count} places of {owner or 'its kind'}"), (self._all, "all places")):
            if places.locked():
                on_wait(f"waiting, {reason} are taken")
            await places.acquire()
            taken.append(places)
