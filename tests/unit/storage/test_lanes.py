"""Lanes: operations of one domain beside the loop, and what happens when they never end."""

import asyncio
import gc
import threading
import weakref
from contextlib import suppress

import pytest

from vdsm.core.context import Request, current_request, set_request
from vdsm.storage import locks
from vdsm.storage.errors import AccessTimeout, ResourceTimeout
from vdsm.storage.lanes import HELD_UP, THREADS, Lane, Lanes
from vdsm.storage.locks import Locks


@pytest.fixture
def lanes():
    made = Lanes(timeout_s=30.0)
    yield made
    made.close()


async def test_result_and_failure_reach_the_caller(lanes):
    lane = lanes.get("domain")
    assert await lane.run(max, 1, 2) == 2
    with pytest.raises(ZeroDivisionError):
        await lane.run(divmod, 1, 0)


async def test_the_request_goes_along(lanes):
    set_request(Request(flow_id="flow-7"))
    assert await lanes.get("domain").run(lambda: current_request().flow_id) == "flow-7"


async def test_operations_run_beside_each_other(lanes):
    barrier = threading.Barrier(THREADS)
    lane = lanes.get("domain")
    await asyncio.gather(*(lane.run(barrier.wait, 20) for _ in range(THREADS)))


async def test_more_operations_than_threads_wait_their_turn(lanes):
    lane = lanes.get("domain")
    assert await asyncio.gather(*(lane.run(abs, -n) for n in range(THREADS * 5))) == list(range(THREADS * 5))


async def test_an_operation_that_times_out_itself_says_so(lanes):
    def time_out():
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await lanes.get("domain").run(time_out)


async def test_a_stuck_domain_fails_at_once_and_comes_back():
    released = threading.Event()
    lane = Lane("sick", timeout_s=0.05)
    stuck = await asyncio.gather(*(lane.run(released.wait, 30) for _ in range(THREADS)), return_exceptions=True)
    assert [type(error) for error in stuck] == [AccessTimeout] * THREADS
    assert lane.is_stuck
    with pytest.raises(AccessTimeout):
        await lane.run(max, 1, 2)
    released.set()
    while lane.is_stuck:
        await asyncio.sleep(0)
    assert await lane.run(max, 1, 2) == 2
    lane.close()


async def test_what_was_told_to_have_failed_before_it_began_never_begins():
    released, begun = threading.Event(), []
    lane = Lane("sick", timeout_s=0.05)
    calls = [lane.run(released.wait, 30) for _ in range(THREADS)] + [lane.run(begun.append, 1)]
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in failures] == [AccessTimeout] * (THREADS + 1)
    released.set()
    while not lane.is_idle:
        await asyncio.sleep(0)
    assert await lane.run(max, 1, 2) == 2
    assert begun == []
    lane.close()


async def test_names_that_never_come_back_leave_neither_lanes_nor_threads():
    lanes = Lanes(timeout_s=30.0, kept_count=3)
    names = [f"never-{number:02}" for number in range(20)]  # as nobody else in this process calls one
    for name in names:
        assert await lanes.get(name).run(max, 1, 2) == 2
    assert len(lanes) == 3
    alive = [thread for thread in threading.enumerate() if thread.name.removeprefix("storage-") in names[:-3]]
    for thread in alive:
        await asyncio.to_thread(thread.join, 20)
    assert not any(thread.is_alive() for thread in alive)
    lanes.close()


async def test_a_lane_with_work_is_never_forgotten():
    released = threading.Event()
    lanes = Lanes(timeout_s=30.0, kept_count=1)
    busy = lanes.get("busy")
    work = asyncio.create_task(busy.run(released.wait, 20))
    await asyncio.sleep(0)
    for name in "abc":
        await lanes.get(name).run(max, 1, 2)
    assert lanes.get("busy") is busy
    released.set()
    assert await work
    lanes.close()


async def test_domains_do_not_wait_for_each_other():
    released = threading.Event()
    lanes = Lanes(timeout_s=0.05)
    await asyncio.gather(*(lanes.get("sick").run(released.wait, 30) for _ in range(THREADS)), return_exceptions=True)
    assert await lanes.get("well").run(max, 1, 2) == 2
    released.set()
    lanes.close()


async def test_names_without_end_are_not_kept(lanes):
    assert await lanes.get("x" * 1_000_000).run(max, 1, 2) == 2
    assert sum(map(len, lanes._lanes)) < 10_000


async def test_calls_that_wait_for_a_lock_cost_no_other():
    """While one image is copied for hours, four verbs that want it keep no verb on another from its turn."""
    lane, held = Lane("domain", timeout_s=30.0), Locks()
    image = locks.image("domain", "copied")

    def use() -> str:
        with held.hold(image):
            return "used"

    with held.hold(image):
        waiting = [asyncio.create_task(lane.run(use)) for _ in range(THREADS * 3)]
        await until(lambda: lane._held_up == len(waiting))
        barrier = threading.Barrier(THREADS)
        await asyncio.gather(*(lane.run(barrier.wait, 20) for _ in range(THREADS)))
        assert lane.thread_count <= THREADS + len(waiting)
    assert await asyncio.gather(*waiting) == ["used"] * len(waiting)
    await until(lambda: not lane._held_up and lane.thread_count <= THREADS)
    lane.close()


async def test_more_calls_than_may_wait_for_locks_are_refused_at_once():
    lane, held = Lane("domain", timeout_s=30.0), Locks()
    image = locks.image("domain", "copied")

    def use() -> None:
        with held.hold(image):
            pass

    with held.hold(image):
        waiting = [asyncio.create_task(lane.run(use)) for _ in range(HELD_UP + 2 * THREADS)]
        await until(lambda: any(task.done() for task in waiting))
        assert {type(task.exception()) for task in waiting if task.done()} == {ResourceTimeout}
        assert lane.thread_count <= THREADS + lane._held_up <= 2 * THREADS + HELD_UP
        assert await lane.run(max, 1, 2) == 2
    await asyncio.gather(*waiting, return_exceptions=True)
    lane.close()


async def test_a_lock_is_waited_for_half_as_long_as_a_call_may_take():
    lane, held = Lane("domain", timeout_s=0.4), Locks()

    def use() -> None:
        with held.hold(locks.pool("p")):
            pass

    with held.hold(locks.pool("p")), pytest.raises(ResourceTimeout):
        await lane.run(use)
    assert await lane.run(use) is None
    lane.close()


class Heavy:
    """Stands for a large argument."""


async def test_an_idle_thread_keeps_nothing_of_its_last_call():
    lane, given = Lane("domain", timeout_s=30.0), Heavy()
    kept = weakref.ref(given)
    assert await lane.run(lambda heavy: heavy, given) is given
    del given
    await until(lambda: kept() is None)
    assert lane.thread_count == 1
    lane.close()


async def test_a_failure_keeps_what_the_call_was_given_no_longer_than_its_catcher():
    lane, given = Lane("domain", timeout_s=30.0), Heavy()
    kept = weakref.ref(given)

    def fail(_heavy: Heavy) -> None:
        raise ValueError("of the operation")

    gc.disable()  # what only a collection would free does not count
    try:
        with suppress(ValueError):
            await lane.run(fail, given)
        del given
        await until(lambda: kept() is None)
    finally:
        gc.enable()
    lane.close()


async def test_threads_end_when_there_is_nothing_to_do_for_long():
    lane = Lane("domain", timeout_s=30.0, idle_s=0.0)
    before = set(threading.enumerate())
    assert await lane.run(max, 1, 2) == 2
    await until(lambda: not lane.thread_count and set(threading.enumerate()) <= before)
    assert await lane.run(max, 1, 2) == 2


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_what_ends_together_with_its_time_has_its_result() -> None:
    running = asyncio.create_task(Lane("sick", 0.01).run(lambda: "done"))
    await asyncio.sleep(0)
    threading.Event().wait(0.1)  # the loop is busy: it hears of the deadline and of the end in one round
    assert await running == "done"
