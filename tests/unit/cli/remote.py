"""A daemon for the command line's tests: answers what it was told to, and remembers who called what."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from vdsm.cli.client import Remote, Target


class FakeRemote:
    """Stands for any connection; `answer` is returned or, when it is an exception, raised."""

    def __init__(self, answer: object = True) -> None:
        self.answer = answer
        self.calls: list[tuple[str, dict[str, object]]] = []
        self.targets: list[Target] = []

    def call(self, method: str, params: Mapping[str, object]) -> object:
        self.calls.append((method, dict(params)))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    @contextmanager
    def connect(self, target: Target) -> Iterator[Remote]:
        self.targets.append(target)
        yield self
