"""Looking at processes of namespaces from outside, and signalling them without ever meeting a stranger."""

import os
import select
import signal
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lab.commands import PartFailed, wait_for

END_TIMEOUT_S = 60.0  # what waits for a silent file server ends when the kernel gives that up
DIES_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")


@dataclass(frozen=True)
class Spawned:
    """A process that ends with the thread that started it: `pid` is its number here, `process` ends when it does."""

    process: "subprocess.Popen[bytes]"
    pid: int

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Signal it, and return its status once it has ended."""
        end(self.pid, number)
        self.process.send_signal(signal.SIGCONT)  # it may stand still as its child did
        return self.process.wait(END_TIMEOUT_S)

    def freeze(self) -> None:
        """It keeps what it has and does nothing more."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_for(lambda: is_stopped(self.pid), f"process {self.pid} stands still")

    def thaw(self) -> None:
        """It goes on."""
        os.kill(self.pid, signal.SIGCONT)
        self.process.send_signal(signal.SIGCONT)

    def has_ended(self) -> bool:
        """Whether it is no more; `process` may stand still as it did, and tell later."""
        return _get_state(self.pid) in (b"Z", b"")


def spawn(
    *command: str | Path,
    environment: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
) -> Spawned:
    """Start a process in a session of its own that the kernel ends when this thread does; the environment is added."""
    process = subprocess.Popen(
        [*DIES_WITH_PARENT, *map(str, command)],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )
    return Spawned(process, process.pid)


def close_pipes(process: "subprocess.Popen[bytes]") -> None:
    """Close our ends of its pipes, whatever is left in them."""
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(BrokenPipeError):  # what was not yet written
                pipe.close()


def read(pid: int, file: str) -> bytes:
    """A file of its folder in /proc; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes()
    except OSError:
        return b""


def list_children(pid: int) -> list[int]:
    """Those that its main thread started."""
    return [int(word) for word in read(pid, f"task/{pid}/children").split()]


def list_neighbours(pid: int) -> list[int]:
    """All processes in the same process namespace, itself included."""
    namespace = _get_namespace(pid)
    if namespace is None:
        return []
    numbers = map(int, filter(str.isdigit, os.listdir("/proc")))
    return [number for number in numbers if _get_namespace(number) == namespace]


def find(pids: Iterable[int], words: bytes) -> int | None:
    """The first of these whose command line (a zero after every argument) has these words."""
    return next((pid for pid in pids if words in read(pid, "cmdline")), None)


def is_stopped(pid: int) -> bool:
    """Whether it stands still, or is no more. One that was told to and waits in the kernel, or for its tracer, does."""
    return _get_state(pid) in (b"T", b"D", b"t", b"Z", b"")


def _get_state(pid: int) -> bytes:
    return read(pid, "stat").rpartition(b")")[2].strip()[:1]


def end(pid: int, number: signal.Signals = signal.SIGKILL, limit_s: float = END_TIMEOUT_S) -> None:
    """Signal a process and return when it has ended. Raises PartFailed when it does not."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(handle, number)
        if not select.select([handle], [], [], limit_s)[0]:
            raise PartFailed(f"process {pid} does not end: {read(pid, 'cmdline')!r}")
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def _get_namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None
