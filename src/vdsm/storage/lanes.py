"""Lanes: blocking operations beside the loop, a few daemon threads for each domain; what they do is left to callers."""

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import ParamSpec, TypeVar

from vdsm.storage.errors import AccessTimeout, ResourceTimeout
from vdsm.storage.locks import WAITS, Waits

P = ParamSpec("P")
R = TypeVar("R")

THREADS = 4
"""How many operations of one domain run at once."""
HELD_UP = 16
"""How many more may wait for locks: another thread takes the place of each, so that what waits costs no other."""
KEPT = 100
"""Lanes that are kept although they are idle."""
LONGEST_NAME = 4096
"""Longer names are cut: they name nothing that exists, and are not worth being kept."""
IDLE_S = 10.0
"""The threads of a lane end after so long without work: callers may name many domains, and threads cost memory."""


class Lane:
    """The threads of one domain. A call past its deadline is written off: its thread stays with it, and while every
    thread is lost in that way, further calls fail at once instead of queueing behind storage that does not answer.
    One that had no thread by then never begins. For locks, it waits half as long at most."""

    def __init__(self, name: str, timeout_s: float, idle_s: float = IDLE_S) -> None:
        self._name = name
        self._timeout_s = timeout_s
        self._idle_s = idle_s
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = 0
        self._waiting = 0
        self._lost = 0
        self._held_up = 0
        self._rest: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits or runs."""
        return not self._waiting

    @property
    def is_stuck(self) -> bool:
        """Whether no thread is left that could do anything."""
        return self._lost >= THREADS

    @property
    def thread_count(self) -> int:
        """How many threads work or wait for work."""
        return self._threads

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call function in a thread of the lane; raises AccessTimeout when it does not end in time."""
        if self.is_stuck:
            raise AccessTimeout(self._name)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[R] = loop.create_future()
        context = contextvars.copy_context()
        context.run(WAITS.set, Waits(self._timeout_s / 2, partial(self._hear_wait, loop)))
        call = partial(context.run, partial(function, *args, **kwargs))
        too_late = threading.Event()
        self._submit(partial(_run, call, done, loop, too_late), done)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(done)
        except TimeoutError:
            if done.done():
                return done.result()  # it ended at the last moment, or the failure is its own
            too_late.set()
            self._write_off(done)
            raise AccessTimeout(self._name) from None
        finally:
            del done, call  # a failure's trace leads here: it must not hold itself, and with it what the call was given

    def close(self) -> None:
        """Let idle threads end; stuck ones die with the process."""
        for _ in range(self._threads):
            self._jobs.put(None)
        self._stay()
        self._threads = 0  # one that is used all the same gets new ones

    def _submit(self, job: Callable[[], None], done: "asyncio.Future[R]") -> None:
        self._stay()
        self._waiting += 1
        done.add_done_callback(self._leave)
        self._jobs.put(job)
        self._staff()

    def _staff(self) -> None:
        room = THREADS + self._held_up
        if min(self._waiting, room) > self._threads:
            self._threads += 1
            threading.Thread(target=self._work, name=f"storage-{self._name[:8]}", daemon=True).start()
        elif self._threads > room:
            self._threads -= 1
            self._jobs.put(None)

    def _hear_wait(self, loop: asyncio.AbstractEventLoop, change: int) -> None:
        # In a thread of the lane.
        if change > 0 and self._held_up >= HELD_UP:
            raise ResourceTimeout(f"{self._name}: {HELD_UP} calls wait for locks")
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._count_held_up, change)

    def _count_held_up(self, change: int) -> None:
        self._held_up += change
        self._staff()

    def _leave(self, ended: "asyncio.Future[R]") -> None:
        self._waiting -= 1
        if not ended.cancelled():
            ended.exception()  # a caller that was cancelled meanwhile asks no more
        if self.is_idle:
            self._rest = ended.get_loop().call_later(self._idle_s, self.close)

    def _stay(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # an idle thread keeps alive neither what it was given nor what came of it

    def _write_off(self, done: "asyncio.Future[R]") -> None:
        self._lost += 1

        def find(_ended: "asyncio.Future[R]") -> None:
            self._lost -= 1

        done.add_done_callback(find)


def _run(
    call: Callable[[], R], done: "asyncio.Future[R]", loop: asyncio.AbstractEventLoop, too_late: threading.Event
) -> None:
    try:
        if too_late.is_set():
            raise AccessTimeout("")
        result = call()
    # The storage worker loop's door: whatever the operation raises belongs to its caller, on the loop's side.
    except BaseException as error:
        settle = partial(done.set_exception, error)
    else:
        settle = partial(done.set_result, result)
    try:
        loop.call_soon_threadsafe(_settle, done, settle)
    except RuntimeError:
        return  # the loop is closed: nobody waits any more
    finally:
        del done, settle  # as in `Lane.run`


def _settle(done: "asyncio.Future[R]", settle: Callable[[], None]) -> None:
    if not done.done():
        settle()


class Lanes:
    """A lane for each domain, made when first used; the empty name is for what concerns no domain.

    Of those with nothing to do, the ones used last are kept: callers may name domains that never were.
    """

    def __init__(self, timeout_s: float, kept_count: int = KEPT) -> None:
        self._timeout_s = timeout_s
        self._kept_count = kept_count
        self._lanes: dict[str, Lane] = {}

    def __len__(self) -> int:
        return len(self._lanes)

    def get(self, domain_id: str = "") -> Lane:
        """The lane of a domain, or of a path that is none's, to be used at once."""
        name = domain_id[:LONGEST_NAME]
        lane = self._lanes.pop(name, None) or Lane(name, self._timeout_s)
        self._lanes[name] = lane
        if len(self._lanes) > self._kept_count:
            self._forget_oldest(but=lane)
        return lane

    async def run(self, name: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """`Lane.run` in the lane of that domain."""
        return await self.get(name).run(function, *args, **kwargs)

    def _forget_oldest(self, *, but: Lane) -> None:
        oldest = next((name for name, lane in self._lanes.items() if lane.is_idle and lane is not but), None)
        if oldest is not None:
            self._lanes.pop(oldest).close()

    def close(self) -> None:
        """End all idle threads."""
        for lane in self._lanes.values():
            lane.close()
