"""Tasks that a service owns: they end with it, one that fails takes nobody along; what they do is left to others."""

import asyncio
import logging
from collections.abc import Callable, Coroutine

from vdsm.core.clock import Clock
from vdsm.core.errors import NodeError

log = logging.getLogger(__name__)


class Children:
    """Tasks with one parent. Unlike with asyncio's TaskGroup, one's failure does not cancel the others."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(
        self, work: Coroutine[None, None, None], name: str, on_failure: Callable[[BaseException], None] | None = None
    ) -> asyncio.Task[None]:
        """Start the work; an exception that it lets out is logged and handed to on_failure."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)

        def finish(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            error = None if done.cancelled() else done.exception()
            if error is None:
                return
            if isinstance(error, NodeError):
                log.warning("%s failed: %s", name, error)
            else:
                log.error("%s failed", name, exc_info=error)
            if on_failure is not None:
                on_failure(error)

        task.add_done_callback(finish)
        return task

    async def close(self) -> None:
        """Cancel what still runs and wait for it."""
        while self._tasks:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def wait_until(event: asyncio.Event, timeout_s: float, clock: Clock) -> bool:
    """Wait for the event, at most so long by that clock; whether it came."""
    waiter = asyncio.create_task(event.wait())
    timer = asyncio.create_task(clock.sleep(timeout_s))
    try:
        await asyncio.wait({waiter, timer}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()
        timer.cancel()
        await asyncio.gather(waiter, timer, return_exceptions=True)
    return event.is_set()
