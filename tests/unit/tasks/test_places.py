"""Places among the workers: whom a sick domain holds up, and whom not."""

import asyncio
import gc

from vdsm.tasks.places import OWNERS, Places


class Crowd:
    """Those who ask for places, by owner."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.reasons: list[str] = []

    async def come(self, owner: str) -> "Guest":
        """Somebody who asked, and sat down if that was possible at once."""
        guest = Guest(asyncio.create_task(self._take(owner)))
        for _ in range(10):
            await asyncio.sleep(0)
        return guest

    async def _take(self, owner: str) -> list[asyncio.Semaphore]:
        taken: list[asyncio.Semaphore] = []
        await self.places.take(owner, taken, self.reasons.append)
        return taken


class Guest:
    def __init__(self, asked: "asyncio.Task[list[asyncio.Semaphore]]") -> None:
        self.asked = asked

    @property
    def sits(self) -> bool:
        return self.asked.done()

    async def leave(self) -> None:
        for place in await self.asked:
            place.release()


async def test_an_owner_holds_up_its_own_only() -> None:
    crowd = Crowd(Places(2))
    sick = [await crowd.come("sick") for _ in range(3)]
    healthy = await crowd.come("healthy")
    assert [guest.sits for guest in (*sick, healthy)] == [True, True, False, True]
    assert crowd.reasons == ["waiting, all 2 places of sick are taken"]
    await sick[0].leave()
    await sick[2].leave()


async def test_all_together_are_bounded_and_the_next_comes_in_its_turn() -> None:
    crowd = Crowd(Places(1))
    guests = [await crowd.come(str(number)) for number in range(OWNERS + 1)]
    assert [guest.sits for guest in guests] == [True] * OWNERS + [False]
    assert crowd.reasons == ["waiting, all places are taken"]
    await guests[0].leave()
    await guests[-1].leave()


async def test_who_gives_up_takes_nobodys_place() -> None:
    crowd = Crowd(Places(1))
    first, second, third = [await crowd.come("sick") for _ in range(3)]
    second.asked.cancel()
    await first.leave()
    await third.leave()
    assert (await crowd.come("sick")).sits


async def test_owners_that_are_gone_are_forgotten() -> None:
    places = Places(1)
    for number in range(100):
        guest = await Crowd(places).come(str(number))
        await guest.leave()
    del guest
    gc.collect()
    assert not places._owned
