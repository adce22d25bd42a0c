"""Many calls in few tasks: order, independence, closing."""

import asyncio
import weakref

from vdsm.wire.runner import CallRunner


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_jobs_start_in_order_and_rest_comes_after_them():
    log: list[object] = []
    runner = CallRunner(lambda: log.append("rest"))

    async def job(n: int) -> None:
        log.append(n)

    for n in range(5):
        runner.submit(lambda n=n: job(n))
    await settle()
    assert [entry for entry in log if entry != "rest"] == [0, 1, 2, 3, 4]
    assert log[-1] == "rest" and log.index("rest") >= 4, "what is done at once is told at once"
    await runner.close(0)


async def test_a_job_that_waits_holds_up_nobody():
    done: list[int] = []
    hold = asyncio.Event()
    runner = CallRunner(lambda: None)

    async def job(n: int) -> None:
        if n % 2:
            await hold.wait()
        done.append(n)

    for n in range(200):
        runner.submit(lambda n=n: job(n))
    await settle_until(lambda: len(done) == 100)
    assert not any(n % 2 for n in done)
    hold.set()
    await settle_until(lambda: len(done) == 200)
    await runner.close(0)


async def settle_until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_close_lets_jobs_finish_then_cancels_the_rest():
    ended: list[str] = []
    short = asyncio.Event()
    runner = CallRunner(lambda: None)

    async def job(name: str, event: asyncio.Event) -> None:
        try:
            await event.wait()
            ended.append(f"{name} done")
        except asyncio.CancelledError:
            ended.append(f"{name} cancelled")
            raise

    runner.submit(lambda: job("short", short))
    runner.submit(lambda: job("long", asyncio.Event()))
    await settle()
    asyncio.get_running_loop().call_soon(short.set)
    await runner.close(0.05)
    assert ended == ["short done", "long cancelled"]
    runner.submit(lambda: job("late", short))
    await settle()
    assert len(ended) == 2


async def test_an_idle_worker_keeps_nothing_of_its_last_job():
    class Job:
        async def __call__(self) -> None:
            return None

    runner, job = CallRunner(lambda: None), Job()
    kept = weakref.ref(job)
    runner.submit(job)
    del job
    await settle()
    assert kept() is None
    await runner.close(0)


async def test_what_is_done_waits_for_no_call_that_came_meanwhile() -> None:
    said: list[str] = []
    told: list[list[str]] = []
    runner = CallRunner(lambda: told.append(list(said)))
    short, long = asyncio.Event(), asyncio.Event()

    async def end_soon() -> None:
        await short.wait()
        said.append("short")

    async def go_on() -> None:
        await long.wait()

    runner.submit(end_soon)
    for _ in range(3):  # workers that are idle by then
        runner.submit(lambda: asyncio.sleep(0))
    await asyncio.sleep(0.01)
    short.set()  # its worker comes next, before those who are woken now, and takes the first of these
    runner.submit(go_on)
    runner.submit(go_on)
    await asyncio.sleep(0.01)
    assert said == ["short"] and told[-1] == said
    long.set()
    await runner.close(1.0)
