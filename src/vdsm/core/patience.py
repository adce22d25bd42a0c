"""Calls that may block for ever: each in a daemon thread of its own, waited for so long and then left alone."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Generic, TypeVar

R = TypeVar("R")


class Patience:
    """Makes calls by name. While one that was late has not come back, further calls of its name fail at once, so that a
    sick part costs one thread at most."""

    def __init__(self, *fails: type[Exception]) -> None:
        """`fails` are the failures that calls may end with; their callers get them."""
        self._fails = fails
        self._stuck: Counter[str] = Counter()
        self._lock = threading.Lock()

    def call(
        self, name: str, function: Callable[[], R], timeout_s: float, late: Callable[[R], object] | None = None
    ) -> R:
        """What the function gives; TimeoutError when that takes too long, and `late` is given what comes then."""
        call = _Call(function, self._fails)
        with self._lock:
            if name in self._stuck:
                raise TimeoutError(f"{name}: an earlier call has not come back")
        threading.Thread(target=self._run, args=(name, call, late), name=f"call-{name[:8]}", daemon=True).start()
        if not call.done.wait(timeout_s):
            with self._lock:
                if not call.has_ended:
                    call.is_late = True
                    self._stuck[name] += 1
            if call.is_late:
                raise TimeoutError(f"{name}: not done after {timeout_s:g} s")
        if call.failure is not None:
            raise call.failure
        if not call.results:
            raise RuntimeError(f"{name}: the call ended with a failure that was not expected")
        return call.results[0]

    def is_stuck(self, name: str) -> bool:
        """Whether a call of that name has not come back."""
        return name in self._stuck

    def _run(self, name: str, call: "_Call[R]", late: Callable[[R], object] | None) -> None:
        try:
            call.run()
        finally:
            with self._lock:
                call.has_ended = True
            call.done.set()
        if call.is_late:
            try:
                if late is not None and call.results:
                    late(call.results[0])
            finally:
                with self._lock:
                    self._stuck -= Counter({name: 1})  # those that began before the first was late may still be away


class _Call(Generic[R]):
    def __init__(self, function: Callable[[], R], fails: tuple[type[Exception], ...]) -> None:
        self._function = function
        self._fails = fails
        self.done = threading.Event()
        self.results: list[R] = []
        self.failure: Exception | None = None
        self.has_ended = False
        self.is_late = False

    def run(self) -> None:
        try:
            self.results.append(self._function())
        except self._fails as error:
            self.failure = error
