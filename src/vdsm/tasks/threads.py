"""Blocking calls beside the loop, each in a daemon thread of its own; how many run at once is the caller's to bound."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Threads:
    """Starts threads and waits for them; they are daemons, so that one hung on dead storage holds up nothing."""

    def __init__(self) -> None:
        self._waits: set[asyncio.Future[None]] = set()
        self._abandoned = False

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call function in a thread and wait for its end, even when cancelled: afterwards it certainly runs no more.

        A cancellation that came meanwhile is raised once the thread has ended. Only `abandon` ends the wait earlier.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        outcome: _Outcome[R] = _Outcome()
        context = contextvars.copy_context()

        def call() -> None:
            with outcome:
                outcome.values.append(context.run(function, *args, **kwargs))
            try:
                loop.call_soon_threadsafe(_finish, ended)
            except RuntimeError:
                return  # the loop was closed meanwhile: nobody waits any more

        if self._abandoned:
            raise asyncio.CancelledError("the process ends")
        self._waits.add(ended)
        try:
            threading.Thread(target=call, name=f"task-{getattr(function, '__name__', 'call')}", daemon=True).start()
            await wait_out(ended)
        finally:
            self._waits.discard(ended)
        return outcome.get()

    def abandon(self) -> None:
        """Wait for no thread any more: each waiting call is cancelled, the threads die with the process."""
        self._abandoned = True
        for ended in self._waits:
            _finish(ended)


async def wait_out(ended: "asyncio.Future[None]") -> None:
    """Wait until it is done; a cancellation that came meanwhile is raised only then."""
    cancelled: asyncio.CancelledError | None = None
    while not ended.done():
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


class _Outcome(Generic[R]):
    """Carries what a call returned or raised from its thread to its caller."""

    def __init__(self) -> None:
        self.values: list[R] = []
        self._error: BaseException | None = None

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._error = error
        return True

    def get(self) -> R:
        if self._error is not None:
            raise self._error
        if not self.values:
            raise asyncio.CancelledError("the process ends")
        return self.values[0]


def _finish(ended: "asyncio.Future[None]") -> None:
    if not ended.done():
        ended.set_result(None)
