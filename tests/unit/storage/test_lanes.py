"""Lanes: operations of one domain beside the loop, and what happens when they never end."""

import asyncio
import threading

import pytest

from vdsm.core.context import Request, current_request, set_request
from vdsm.storage.errors import AccessTimeout
from vdsm.storage.lanes import THREADS, Lane, Lanes


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


async def test_domains_do_not_wait_for_each_other():
    released = threading.Event()
    lanes = Lanes(timeout_s=0.05)
    await asyncio.gather(*(lanes.get("sick").run(released.wait, 30) for _ in range(THREADS)), return_exceptions=True)
    assert await lanes.get("well").run(max, 1, 2) == 2
    released.set()
    lanes.close()
