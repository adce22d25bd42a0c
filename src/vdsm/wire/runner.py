"""Runs many short calls in few long-lived tasks; what a call does, and where its answer goes, is left to the caller.

A task per call costs more than a short call does. A worker here takes call after call in one step of the loop; when one
of them suspends, another worker goes on with the rest, so that no call waits for another.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

IDLE_WORKERS = 32

Job = Callable[[], Awaitable[None]]


class CallRunner:
    """Starts jobs in the order of their submission. Jobs must not raise. `rest` is called whenever the queue has become
    empty: soon after each job that has ended, however long others take."""

    def __init__(self, rest: Callable[[], None]) -> None:
        self._rest = rest
        self._jobs: deque[Job] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._idle: list[asyncio.Future[None]] = []
        self._waking = False
        self._closing = False

    def submit(self, job: Job) -> None:
        """Run job soon; dropped once closing has begun."""
        if not self._closing:
            self._jobs.append(job)
            self._wake()

    async def close(self, finish_s: float) -> None:
        """Take no more jobs, let those that are known finish for so long, then cancel the rest and await their end."""
        self._closing = True
        while self._idle:
            idle = self._idle.pop()
            if not idle.done():  # where the loop itself ends, workers are cancelled before they are told
                idle.set_result(None)
        if self._workers:
            _done, late = await asyncio.wait(self._workers, timeout=finish_s)
            for worker in late:
                worker.cancel()
            if late:
                await asyncio.wait(late)
        self._jobs.clear()

    def _wake(self) -> None:
        if self._waking:
            return
        self._waking = True
        if self._idle:
            self._idle.pop().set_result(None)
        else:
            worker = asyncio.get_running_loop().create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _work(self) -> None:
        jobs = self._jobs
        while True:
            self._waking = False
            while jobs:
                job = jobs.popleft()
                if jobs:
                    self._wake()
                else:
                    self._rest()  # whoever is at work may be so for long
                await job()
                del job  # an idle worker keeps no call's body alive
            self._rest()
            if self._closing or len(self._idle) >= IDLE_WORKERS:
                return
            idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            await idle
