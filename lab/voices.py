"""Programs side by side: what they say is passed on line by line, each under its name, and who falls silent is told.

What pytest says of tests that failed is kept, so that it can be said again at the very end.

What to do with one that hangs is left to others.
"""

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

FAILURES = (b"FAILED ", b"ERROR ")
"""How lines of pytest's short summary begin."""


@dataclass(eq=False)
class Voice:
    """A program whose output is a pipe; without a name its output passes as it is.

    It hangs when it says nothing for `silence_s`, or has not ended after `limit_s`. Before its first word it may take
    `begin_s`.
    """

    process: "subprocess.Popen[bytes]"
    name: str
    silence_s: float
    limit_s: float
    begin_s: float
    failures: list[str] = field(default_factory=list)
    _unfinished: bytes = b""
    _started_s: float = field(default_factory=time.monotonic)
    _last_s: float | None = None

    @property
    def pipe(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    @property
    def deadline_s(self) -> float:
        """When it counts as hanging."""
        next_word_s = self._started_s + self.begin_s if self._last_s is None else self._last_s + self.silence_s
        return min(next_word_s, self._started_s + self.limit_s)

    def copy(self) -> bool:
        """Pass on what it said; False at its end."""
        said = os.read(self.pipe, 65536)
        self._last_s = time.monotonic()
        if not said:
            self.finish()
        else:
            *lines, self._unfinished = (self._unfinished + said).split(b"\n")
            self.failures += [line.decode(errors="replace").strip() for line in lines if line.startswith(FAILURES)]
            _write(b"".join(self._mark(line) for line in lines) if self.name else said)
        return bool(said)

    def finish(self) -> None:
        """Pass on the line that it began."""
        if self._unfinished and self.name:
            _write(self._mark(self._unfinished))
        self._unfinished = b""

    def _mark(self, line: bytes) -> bytes:
        return self.name.encode() + b" | " + line + b"\n"


AnyVoice = TypeVar("AnyVoice", bound=Voice)


def pass_on(voices: Iterable[AnyVoice]) -> Iterator[AnyVoice]:
    """Copy what they say to our output until each has ended or hangs; yields those that hang."""
    heard = list(voices)
    while heard:
        patience_s = min(voice.deadline_s for voice in heard) - time.monotonic()
        ready = select.select([voice.pipe for voice in heard], [], [], max(0.0, patience_s))[0]
        for voice in list(heard):
            if voice.pipe in ready:
                if not voice.copy():
                    heard.remove(voice)
            elif time.monotonic() >= voice.deadline_s:
                voice.finish()
                heard.remove(voice)
                yield voice


def _write(said: bytes) -> None:
    sys.stdout.buffer.write(said)
    sys.stdout.buffer.flush()
