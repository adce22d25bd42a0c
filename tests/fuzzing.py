"""Fuzzing that looks for ways through the code: inputs that go where none went before are kept and changed further.

Whatever a target does not handle itself is a finding, so is one that takes too many steps, and so is a write that it
makes elsewhere than it may. Findings tell the input, by which they are repeated.
"""

import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

STEPS = 300_000
"""So many lines of the code under test are more than any input is worth: it hangs, or nearly."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {  # what changes a name: how many of the first arguments are names
    **dict.fromkeys(("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.chown", "os.utime"), 1),
    **dict.fromkeys(("os.rename", "os.link", "os.symlink"), 2),
}
Arc = tuple[CodeType, int, int]


class TooManySteps(BaseException):
    """Raised within the code under test, which handles no BaseException."""


@dataclass
class Tracer:
    """Tells which lines of some files follow each other."""

    files: frozenset[str]
    arcs: set[Arc] = field(default_factory=set)
    steps: int = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        self.arcs, self.steps = set(), 0
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in self.files:
            return None
        code, last = frame.f_code, 0

        def follow(frame: FrameType, event: str, _: object) -> Any:
            nonlocal last
            if event == "line":
                self.arcs.add((code, last, frame.f_lineno))
                last = frame.f_lineno
                self.steps += 1
                if self.steps > STEPS:
                    raise TooManySteps
            return follow

        return follow


def fuzz(
    target: Callable[[bytes], object],
    seeds: Sequence[bytes],
    *,
    under: Sequence[object],
    count: int,
    words: Sequence[bytes] = (),
    number: int = 0,
) -> int:
    """Let the target bear so many inputs, and give how many went new ways. Fails with the first that it does not bear.

    `under` are the modules under test, `words` what their formats are made of; `number` is where chance begins.
    """
    chance, tracer = random.Random(number), Tracer(frozenset(str(vars(one)["__file__"]) for one in under))
    seen: set[Arc] = set()
    kept: list[bytes] = []
    for turn in range(len(seeds) + count):
        data = seeds[turn] if turn < len(seeds) else change(chance, chance.choice(kept[-8:] + kept), kept, words)
        try:
            with tracer.running():
                target(data)
        except (Exception, TooManySteps) as error:
            raise AssertionError(f"input {turn} from {number}: bytes.fromhex({data.hex()!r})") from error
        if tracer.arcs - seen or turn < len(seeds):
            seen |= tracer.arcs
            kept.append(data)
    return len(kept) - len(seeds)


def change(chance: random.Random, data: bytes, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """The data with a few changes of the kinds that parsers stumble over."""
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        at = chance.randrange(len(data) + 1)
        length = chance.choice((1, 1, 2, 4, 8, 16, 64))
        kind = chance.randrange(8)
        if kind == 0 and at < len(data):
            data = data[:at] + bytes((data[at] ^ 1 << chance.randrange(8),)) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + chance.randbytes(length) + data[at + length :]
        elif kind == 2:
            data = data[:at] + data[at + length :]
        elif kind == 3:
            data = data[:at] + data[max(0, at - length) : at] * chance.choice((2, 2, 50)) + data[at:]
        elif kind == 4:
            data = data[:at] + _make_number(chance) + data[at + chance.choice((0, length)) :]
        elif kind == 5 and words:
            data = data[:at] + chance.choice(words) + data[at + chance.choice((0, length)) :]
        elif kind == 6:
            other = chance.choice(others)
            data = data[:at] + other[chance.randrange(len(other) + 1) :]
        elif kind == 7:
            data = _change_line(chance, data)
    return data[: 1 << 16]


def _make_number(chance: random.Random) -> bytes:
    value = chance.choice((0, 1, -1, 1 << 31, 1 << 63, (1 << 64) - 1, chance.randrange(1 << 40), 72, 104, 65536))
    if chance.random() < 0.5:
        return str(value).encode()
    size = chance.choice((1, 2, 4, 8))
    return (value % (1 << 8 * size)).to_bytes(size, chance.choice(("big", "little")))


def _change_line(chance: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    return b"\n".join(
        chance.choice(([*lines[:at], *lines[at + 1 :]], [*lines[:at], lines[other], *lines[at:]], lines[::-1]))
    )


_allowed: list[Path] | None = None
_offences: list[str] = []


@contextmanager
def writing_only_in(*folders: Path) -> Iterator[None]:
    """Fails when this process changes a file by a path that leads elsewhere, whether or not that is told."""
    global _allowed
    _offences.clear()
    _allowed = [Path(os.path.realpath(folder)) for folder in folders]
    try:
        yield
    finally:
        _allowed = None
    assert not _offences, f"written outside: {_offences}"


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _allowed is None or (event != "open" and event not in _CHANGES):
        return
    if event == "open" and not arguments[2] & _WRITING:
        return
    for name in arguments[: _CHANGES.get(event, 1)]:
        if isinstance(name, int) or name in (None, os.devnull):
            continue  # a file that was opened before, or none
        path = Path(os.fsdecode(name))
        if not path.is_absolute() and len(path.parts) == 1 and path.name != "..":
            continue  # in a folder that was opened before
        real = Path(os.path.realpath(path if event == "open" else path.parent))
        if not any(real.is_relative_to(folder) for folder in _allowed):
            _offences.append(f"{event}{arguments!r}"[:300])


sys.addaudithook(_watch)
