"""Tasks with a parent, and waits with an end."""

import asyncio

from vdsm.core.children import Children, wait_until
from vdsm.testing.clock import VirtualClock


async def forever() -> None:
    await asyncio.Event().wait()


async def fail() -> None:
    raise ZeroDivisionError


async def test_a_failure_is_handed_on_and_takes_nobody_along() -> None:
    children, failures = Children(), list[BaseException]()
    other = children.spawn(forever(), "other")
    failed = children.spawn(fail(), "failed", failures.append)
    await asyncio.wait({failed})
    await asyncio.sleep(0)
    assert [type(error) for error in failures] == [ZeroDivisionError]
    assert not other.done()
    await children.close()
    assert other.cancelled()


async def test_closing_waits_for_what_tasks_do_at_their_end() -> None:
    children, ended = Children(), []

    async def end_slowly() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    children.spawn(end_slowly(), "slow")
    await asyncio.sleep(0)
    await children.close()
    assert ended == [True]


async def test_wait_until_the_event_or_the_end() -> None:
    clock, event = VirtualClock(), asyncio.Event()
    waiting = asyncio.create_task(wait_until(event, 10, clock))
    await clock.advance(9)
    assert not waiting.done()
    await clock.advance(1)
    assert await waiting is False
    event.set()
    assert await wait_until(event, 10, clock) is True
    assert clock.sleeper_count == 0
