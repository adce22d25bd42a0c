"""Lanes: blocking operations beside the loop, a few daemon threads for each domain; what they do is left to callers."""

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from vdsm.storage.errors import AccessTimeout

P = ParamSpec("P")
R = TypeVar("R")

THREADS = 4
"""How many operations of one domain run at once."""


@dataclass(slots=True)
class _Job:
    call: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    done: "asyncio.Future[Any]"
    context: contextvars.Context = field(default_factory=contextvars.copy_context)

    def run(self) -> None:
        try:
            result = self.context.run(self.call)
        # Whatever the operation raises belongs to its caller, on the loop's side.
        except BaseException as error:
            failure = error
            self._finish(lambda: self.done.set_exception(failure))
        else:
            self._finish(lambda: self.done.set_result(result))

    def _finish(self, settle: Callable[[], None]) -> None:
        def on_loop() -> None:
            if not self.done.done():
                settle()

        try:
            self.loop.call_soon_threadsafe(on_loop)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more


class Lane:
    """The threads of one domain. A call past its deadline is written off: its thread stays with it, and while every
    thread is lost in that way, further calls fail at once instead of queueing behind storage that does not answer."""

    def __init__(self, name: str, timeout_s: float) -> None:
        self._name = name
        self._timeout_s = timeout_s
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = 0
        self._busy = 0
        self._lost = 0
        self._lock = threading.Lock()

    @property
    def is_stuck(self) -> bool:
        """Whether no thread is left that could do anything."""
        return self._lost >= THREADS

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call function in a thread of the lane; raises AccessTimeout when it does not end in time."""
        if self.is_stuck:
            raise AccessTimeout(self._name)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        job = _Job(lambda: function(*args, **kwargs), loop, done)
        self._start_thread()
        self._jobs.put(job)
        try:
            async with asyncio.timeout(self._timeout_s):
                result: R = await asyncio.shield(done)
                return result
        except TimeoutError:
            self._write_off(done)
            raise AccessTimeout(self._name) from None

    def close(self) -> None:
        """Let idle threads end; stuck ones die with the process."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def _start_thread(self) -> None:
        with self._lock:
            if self._busy < self._threads or self._threads >= THREADS:
                return
            self._threads += 1
        threading.Thread(target=self._work, name=f"storage-{self._name[:8]}", daemon=True).start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            with self._lock:
                self._busy += 1
            job.run()
            with self._lock:
                self._busy -= 1

    def _write_off(self, done: "asyncio.Future[Any]") -> None:
        self._lost += 1

        def found(ended: "asyncio.Future[Any]") -> None:
            self._lost -= 1
            if not ended.cancelled():
                ended.exception()  # nobody else will ask for it

        done.add_done_callback(found)


class Lanes:
    """A lane for each domain, made when first used; the empty name is for what concerns no domain."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lanes: dict[str, Lane] = {}

    def get(self, domain_id: str = "") -> Lane:
        """The lane of a domain."""
        lane = self._lanes.get(domain_id)
        if lane is None:
            lane = self._lanes[domain_id] = Lane(domain_id, self._timeout_s)
        return lane

    def close(self) -> None:
        """End all idle threads."""
        for lane in self._lanes.values():
            lane.close()
