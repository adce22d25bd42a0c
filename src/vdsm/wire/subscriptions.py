"""Who listens to which destination: the message bus' table (facts: rpc §1.4); writing is left to the connections."""

from collections.abc import Iterator
from typing import Generic, TypeVar

S = TypeVar("S")


class Subscriptions(Generic[S]):
    """Listeners by destination, in the order in which they came."""

    def __init__(self) -> None:
        self._by_destination: dict[str, dict[S, None]] = {}

    def add(self, destination: str, listener: S) -> None:
        """Let listener hear of destination and of everything below it."""
        self._by_destination.setdefault(destination, {})[listener] = None

    def remove(self, destination: str, listener: S) -> None:
        """Forget a listener; an unknown one is ignored."""
        listeners = self._by_destination.get(destination)
        if listeners is not None:
            listeners.pop(listener, None)
            if not listeners:
                del self._by_destination[destination]

    def list_exact(self, destination: str) -> tuple[S, ...]:
        """Those who asked for just this destination: how answers are addressed."""
        return tuple(self._by_destination.get(destination, ()))

    def list_reached(self, destination: str) -> list[S]:
        """Those who asked for this destination or for a dot-separated parent of it: how messages are addressed."""
        reached: list[S] = []
        for name in _with_parents(destination):
            reached += self._by_destination.get(name, ())
        return reached


def _with_parents(destination: str) -> Iterator[str]:
    yield destination
    while (dot := destination.rfind(".")) >= 0:
        destination = destination[:dot]
        yield destination
