"""Undo as you go: each step pushes its reversal, success forgets them all."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from types import TracebackType
from typing import ParamSpec, Self

P = ParamSpec("P")


class Undo:
    """Runs the pushed calls in reverse order when its block fails; `forget()` on success."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)

    def push(self, call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Remember to call this when the block does not reach `forget()`."""
        self._stack.callback(call, *args, **kwargs)

    def forget(self) -> None:
        """The work is done: nothing is undone any more."""
        self._stack.pop_all()


class AsyncUndo:
    """`Undo` for coroutines."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)

    def push(self, call: Callable[P, Awaitable[object]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Remember to await this when the block does not reach `forget()`."""
        self._stack.push_async_callback(call, *args, **kwargs)

    def forget(self) -> None:
        """The work is done: nothing is undone any more."""
        self._stack.pop_all()
