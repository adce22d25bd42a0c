"""Threads that own a connection each and make one call at a time; which calls may run together is left to `calls`.

    idle ──call──▶ in flight ──answer──▶ idle
                       │ deadline
                       ▼
                  written off ──answer──▶ ended (connection closed by its own thread)

A call that is past its deadline cannot be taken back, so its thread and its connection are written off: nobody touches
them until the call returns by itself. Calls in flight and written-off ones together stay below libvirtd's `max_workers`
(20), or libvirtd would have no thread left for anybody.
"""

import asyncio
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import TypeVar

import libvirt
from msgspec import Struct

from vdsm.adapters.libvirt.connection import Link, close_connection, get_message, is_alive, is_loss
from vdsm.core.errors import GeneralFailure, NodeError, ResourceExhausted
from vdsm.virt.ports import HypervisorDown

log = logging.getLogger(__name__)
T = TypeVar("T")

SIZE = 8
WRITTEN_OFF_LIMIT = 10
CLOSE_TIMEOUT_S = 0.5
_numbers = itertools.count(1)


class CallExpired(Exception):
    """The call did not return before its deadline."""


def nothing() -> None:
    """For who need not hear of something."""


class Call(Struct, eq=False):
    """One call on its way: what it is, who waits, whom to tell.

    `on_write_off` is called when the deadline passes, `on_return` once when no thread is busy with the call any more,
    also when it never began; both on the daemon's loop.
    """

    what: str
    run: Callable[[libvirt.virConnect], None]
    translate: Callable[[libvirt.libvirtError], NodeError]
    answer: asyncio.Future[None]
    on_return: Callable[[], None] = nothing
    on_write_off: Callable[[], None] = nothing
    timer: asyncio.TimerHandle | None = None


class Pool:
    """At most `size` calls in flight and `written_off_limit` that are past their deadline. For one event loop.

    `open_connection` is called in each new thread, and again when its connection was lost; it raises HypervisorDown.
    """

    def __init__(
        self,
        open_connection: Callable[[], libvirt.virConnect],
        link: Link,
        *,
        size: int = SIZE,
        written_off_limit: int = WRITTEN_OFF_LIMIT,
    ) -> None:
        self._open_connection = open_connection
        self._link = link
        self._size = size
        self._written_off_limit = written_off_limit
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._in_flight: dict[Call, _Worker] = {}
        self._written_off: dict[Call, _Worker] = {}
        self._waiting: deque[asyncio.Future[_Worker]] = deque()
        self._ending: set[_Worker] = set()
        self._all_ended = asyncio.Event()
        self._is_closed = False

    @property
    def written_off(self) -> list[str]:
        """What the calls are that never came back."""
        return [call.what for call in self._written_off]

    async def call(
        self,
        function: Callable[[libvirt.virConnect], T],
        *,
        what: str,
        translate: Callable[[libvirt.libvirtError], NodeError],
        timeout_s: float,
        extra: int = 0,
        on_return: Callable[[], None] = nothing,
        on_write_off: Callable[[], None] = nothing,
    ) -> T:
        """Run function in a thread with a connection of its own and return its result.

        `extra` calls may exceed both limits. When the caller is cancelled the call goes on until it returns. Raises
        CallExpired, HypervisorDown, ResourceExhausted, and what `translate` makes of libvirt's error.
        """
        results: list[T] = []
        call = Call(
            what,
            lambda connection: results.append(function(connection)),
            translate,
            asyncio.get_running_loop().create_future(),
            on_return,
            on_write_off,
        )
        worker: _Worker | None = None
        try:
            self._check()
            worker = await self._get_worker(what, timeout_s, extra)
        finally:
            if worker is None:
                on_return()
        self._in_flight[call] = worker
        call.timer = asyncio.get_running_loop().call_later(timeout_s, self._write_off, call, CallExpired(what))
        worker.post(call)
        try:
            await call.answer
            return results[0]
        finally:
            del call  # a failure's trace leads here: it must not hold itself, and with it what was sent to libvirt

    def abandon(self, reason: str) -> None:
        """libvirtd is gone: whoever waits hears so at once, and threads that still hang are written off."""
        self._fail_waiting(lambda: HypervisorDown(reason))
        for call in list(self._in_flight):
            self._write_off(call, HypervisorDown(reason))

    async def close(self) -> None:
        """Let idle threads close their connections, within half a second; stuck ones (daemon threads) stay behind."""
        self._is_closed = True
        self.abandon("shutting down")
        while self._idle:
            self._end(self._idle.pop())
        if self._ending:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self._all_ended.wait()

    def _check(self) -> None:
        if self._is_closed:
            raise HypervisorDown("shutting down")
        self._link.check()

    async def _get_worker(self, what: str, timeout_s: float, extra: int) -> "_Worker":
        if len(self._written_off) >= self._written_off_limit + extra:
            raise self._too_many_written_off()
        if self._idle or len(self._busy) < self._size + extra:
            return self._take_worker()
        waiter: asyncio.Future[_Worker] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter
        except (TimeoutError, asyncio.CancelledError) as error:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._release(waiter.result())
            if isinstance(error, TimeoutError):
                busy = f"{what} waited {timeout_s} s for one of {self._size} connections to libvirt"
                raise ResourceExhausted(busy) from None
            raise

    def _take_worker(self) -> "_Worker":
        worker = self._idle.pop() if self._idle else _Worker(self._open_connection, asyncio.get_running_loop(), self)
        self._busy.add(worker)
        return worker

    def _release(self, worker: "_Worker") -> None:
        self._busy.discard(worker)
        if self._is_closed:
            self._end(worker)
            return
        self._idle.append(worker)
        self._serve_waiting()

    def _serve_waiting(self) -> None:
        while self._waiting and (self._idle or len(self._busy) < self._size):
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(self._take_worker())

    def _fail_waiting(self, make_error: Callable[[], NodeError]) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(make_error())

    def _write_off(self, call: Call, error: Exception) -> None:
        worker = self._in_flight.pop(call)
        self._busy.discard(worker)
        self._written_off[call] = worker
        if call.timer is not None:
            call.timer.cancel()
        log.warning("call to libvirt written off: %s (%d in all): %s", call.what, len(self._written_off), error)
        call.on_write_off()
        if not call.answer.done():
            call.answer.set_exception(error)
        if len(self._written_off) < self._written_off_limit:
            self._serve_waiting()
        else:
            self._fail_waiting(self._too_many_written_off)

    def _too_many_written_off(self) -> ResourceExhausted:
        return ResourceExhausted(f"{len(self._written_off)} calls to libvirt never came back")

    def on_returned(self, worker: "_Worker", call: Call, failure: NodeError | None, is_broken: bool) -> None:
        """A thread is done with its call; `is_broken` tells that it ends by itself. On the loop."""
        if self._written_off.pop(call, None) is not None:
            log.info("written-off call to libvirt came back: %s", call.what)
            self._end(worker)
        else:
            del self._in_flight[call]
            if call.timer is not None:
                call.timer.cancel()
            if is_broken:
                self._busy.discard(worker)
                self._serve_waiting()
            else:
                self._release(worker)
        if not call.answer.done():
            if failure is None:
                call.answer.set_result(None)
            else:
                call.answer.set_exception(failure)
        call.on_return()

    def on_ended(self, worker: "_Worker") -> None:
        """A thread closed its connection. On the loop."""
        self._ending.discard(worker)
        if not self._ending:
            self._all_ended.set()

    def _end(self, worker: "_Worker") -> None:
        self._ending.add(worker)
        self._all_ended.clear()
        worker.end()


class _Worker:
    """One thread and its connection. libvirt's objects never leave it: dropping the last one may talk to libvirtd."""

    def __init__(
        self, open_connection: Callable[[], libvirt.virConnect], loop: asyncio.AbstractEventLoop, pool: Pool
    ) -> None:
        self._open_connection = open_connection
        self._loop = loop
        self._pool = pool
        self._inbox: SimpleQueue[Call | None] = SimpleQueue()
        self._connection: libvirt.virConnect | None = None
        threading.Thread(target=self._work, name=f"libvirt-{next(_numbers)}", daemon=True).start()

    def post(self, call: Call) -> None:
        self._inbox.put(call)

    def end(self) -> None:
        self._inbox.put(None)

    def _work(self) -> None:
        while (call := self._inbox.get()) is not None:
            self._answer(call)
            del call  # an idle thread keeps no result alive
        if self._connection is not None:
            close_connection(self._connection)
        self._tell(lambda: self._pool.on_ended(self))

    def _answer(self, call: Call) -> None:
        failure: NodeError | None = GeneralFailure(f"{call.what}: a mistake in the daemon, its log tells")
        is_broken = True
        try:
            failure = self._try(call)
            is_broken = False
        finally:
            # Also when something was raised that nobody foresaw: the thread ends with it, whoever waits must hear.
            self._tell(lambda: self._pool.on_returned(self, call, failure, is_broken))

    def _try(self, call: Call) -> NodeError | None:
        try:
            if self._connection is not None and not is_alive(self._connection):
                self._drop_connection()
            if self._connection is None:
                self._connection = self._open_connection()
            call.run(self._connection)
        except libvirt.libvirtError as error:
            failure = self._explain(error, call)
            failure.__cause__ = _without_frames(error)
            return failure
        except NodeError as error:
            _without_frames(error)
            return error
        return None

    def _explain(self, error: libvirt.libvirtError, call: Call) -> NodeError:
        if self._connection is None or is_alive(self._connection):
            return call.translate(error)
        self._drop_connection()
        return HypervisorDown(get_message(error)) if is_loss(error) else call.translate(error)

    def _drop_connection(self) -> None:
        if self._connection is not None:
            close_connection(self._connection)
            self._connection = None

    def _tell(self, message: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(message)


def _without_frames(error: Exception) -> Exception:
    # Frames keep libvirt's objects alive, and the last one to drop them would be the event loop.
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
