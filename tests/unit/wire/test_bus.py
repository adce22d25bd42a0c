"""Events by number: live, missed, and no longer there."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.core.clock import SystemClock
from vdsm.wire.bus import EventBus, Numbered, Reset


def write(numbered: Numbered[int]) -> bytes:
    return b"%d" % numbered.event


def make(kept: int = 5) -> EventBus[int]:
    return EventBus(SystemClock(), write, kept)


async def test_ids_grow_by_one_and_listeners_hear_at_once():
    bus = make()
    heard: list[Numbered[int]] = []
    bus.listen(heard.append)
    assert bus.publish(7) == f"{bus.start}-1"
    assert [entry.event for entry in heard] == [7]
    bus.publish(8)
    assert [entry.event for entry in heard] == [7, 8]
    assert bus.last_id == f"{bus.start}-2"


async def test_a_subscription_sees_what_comes_after_it():
    bus = make()
    bus.publish(1)
    with bus.subscribe() as subscription:
        waiting = asyncio.create_task(subscription.get_batch())
        await asyncio.sleep(0)
        bus.publish(2)
        bus.publish(3)
        assert await waiting == [b"2", b"3"]
    assert not bus.subscriptions


@given(st.integers(0, 30), st.integers(1, 12), st.integers(0, 30))
def test_who_comes_back_gets_all_that_was_missed_or_a_reset(published, kept, seen):
    async def check() -> None:
        bus = make(kept)
        for n in range(1, published + 1):
            bus.publish(n)
        bus.close()
        with bus.subscribe(f"{bus.start}-{seen}") as subscription:
            batch = await subscription.get_batch()
        if seen > published or published - seen > kept:
            assert batch == [Reset(bus.last_id)]
        else:
            assert batch == [b"%d" % n for n in range(seen + 1, published + 1)]

    asyncio.run(check())


@pytest.mark.parametrize(
    "id", ["", "-", "1-1", "x", "{start}-", "{start}-x", "{start}--1", "{start}-1-1", "{start}-" + "9" * 5000]
)
async def test_foreign_ids_get_a_reset_and_then_the_news(id):
    bus = make()
    bus.publish(1)
    with bus.subscribe(id.format(start=bus.start)) as subscription:
        assert await subscription.get_batch() == [Reset(f"{bus.start}-1")]
        bus.publish(2)
        assert await subscription.get_batch() == [b"2"]


async def test_a_slow_reader_finds_a_reset_where_events_fell_out():
    bus = make(kept=2)
    with bus.subscribe() as subscription:
        for n in range(3):
            bus.publish(n)
        assert await subscription.get_batch() == [Reset(bus.last_id)]


async def test_closing_ends_those_who_wait():
    bus = make()
    with bus.subscribe() as subscription:
        waiting = asyncio.create_task(subscription.get_batch())
        await asyncio.sleep(0)
        bus.close()
        assert await waiting == []


async def test_heavy_events_are_kept_in_lower_numbers():
    bus: EventBus[bytes] = EventBus(SystemClock(), lambda numbered: numbered.event, kept_bytes=100)
    for size in (60, 60, 40):
        bus.publish(b"x" * size)
    assert [len(written) for written in bus.list_after(1) or ()] == [60, 40]
    assert bus.list_after(0) is None
    bus.publish(b"x" * 101)  # heavier than all that may be kept: listeners have heard of it
    assert bus.list_after(3) is None and bus.list_after(4) == []
    bus.publish(b"x")
    assert [len(written) for written in bus.list_after(4) or ()] == [1]
