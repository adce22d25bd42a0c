"""The one door to processes: argument lists, a fixed environment, a time limit, failures that paste into a shell.

What a program's output means is left to the adapter that calls it.
"""

import asyncio
import contextlib
import logging
import os
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache, partial
from pathlib import Path

from msgspec import Struct

from vdsm.core.errors import NodeError

log = logging.getLogger(__name__)

SEARCH_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"LC_ALL": "C", "PATH": SEARCH_PATH}
_NOTICE_S = 0.2  # how late a wish to stop is noticed
_KEPT_STDERR_BYTES = 16384
_MOST_OUTPUT_BYTES = 16 << 20
_REAP_TIMEOUT_S = 5.0  # a killed process that stays longer is stuck in the kernel; it is reaped when a later one starts


class CommandFailed(NodeError, number=100, text="{command}: status {status}: {stderr}"):
    """A program could not be started, or ended with a status that its caller did not expect.

    `command` is a line for a shell; `status` is negative for a signal and 127 when there is no such program.
    """

    command: str
    status: int
    stderr: str = ""


class CommandTimedOut(CommandFailed, number=100, http=504, retry=True):
    """A program did not end in time; its process group was killed."""

    text = "{command}: not done after {timeout_s} s"
    timeout_s: float = 0.0


class CommandStopped(CommandFailed, number=100, http=409, text="{command}: stopped"):
    """A program was killed because nobody wants its result any more."""


class Completed(Struct, frozen=True):
    """A program that ended with an expected status."""

    command: str
    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are not UTF-8 are replaced."""
        return self.stdout.decode("utf-8", "replace")


def has_program(name: str) -> bool:
    """Whether `run` would find it."""
    return shutil.which(name, path=SEARCH_PATH) is not None


def run(
    argv: Sequence[str | Path],
    *,
    timeout_s: float,
    cwd: Path | None = None,
    input: bytes = b"",
    ok: Collection[int] = (0,),
    wait_out: bool = False,
) -> Completed:
    """Run a program to its end; `input` must fit into a pipe.

    The program gets a session of its own and nothing of our environment; the kernel kills it when the calling thread
    ends, so that no child outlives a killed daemon. At the deadline, or when it says more than 16 MiB, its process
    group is killed. One that stays because it is stuck in the kernel is left alone after 5 s; with `wait_out` it is
    waited for: it may still write. Raises CommandFailed (a status not in `ok`, no such program), CommandTimedOut.
    """
    call = _Call.prepare(argv, cwd)
    output = bytearray()

    def check() -> None:
        if time.monotonic() > call.started_s + timeout_s:
            raise call.timed_out(timeout_s)
        if len(output) > _MOST_OUTPUT_BYTES:
            raise call.failed(-signal.SIGKILL, f"more than {_MOST_OUTPUT_BYTES} bytes of output")

    status, stderr = call.run(cwd, output.extend, check, wait_out=wait_out, input=input)
    return call.completed(status, bytes(output), stderr, ok)


def run_watched(
    argv: Sequence[str | Path],
    *,
    stopping: threading.Event,
    on_output: Callable[[bytes], None],
    cwd: Path | None = None,
    input: bytes = b"",
) -> Completed:
    """`run` for work that may take hours: there is no deadline, and it gives way to all others (nice, idle I/O).

    `on_output` gets standard output in the pieces in which it comes; the result has none. Once `stopping` is set, the
    process group is killed; CommandStopped is raised when it has ended, however long it is stuck in the kernel.
    """
    call = _Call.prepare(argv, cwd, gently=True)

    def check() -> None:
        if stopping.is_set():
            raise call.stopped()

    status, stderr = call.run(cwd, on_output, check, wait_out=True, input=input)
    return call.completed(status, b"", stderr, (0,))


def _read_to_end(process: "subprocess.Popen[bytes]") -> Iterator[tuple[object, bytes]]:
    """What comes, and from where, until the process has ended; nothing from nowhere at least every 0.2 s."""
    ended = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            for source in (process.stdout, process.stderr, ended):
                if source is not None:
                    selector.register(source, selectors.EVENT_READ)
            while selector.get_map():
                yield None, b""
                for key, _ in selector.select(_NOTICE_S):
                    piece = b"" if key.fileobj is ended else os.read(key.fd, 65536)
                    if not piece:
                        selector.unregister(key.fileobj)
                    yield key.fileobj, piece
    finally:
        os.close(ended)


async def run_async(
    argv: Sequence[str | Path],
    *,
    timeout_s: float,
    cwd: Path | None = None,
    ok: Collection[int] = (0,),
) -> Completed:
    """`run` on the event loop, for programs of the system; cancelling it kills the process group too."""
    call = _Call.prepare(argv, cwd)
    process = await call.start_beside(subprocess.DEVNULL, subprocess.PIPE, subprocess.PIPE, cwd)
    try:
        async with asyncio.timeout(timeout_s):
            stdout, stderr = await process.communicate()
    except TimeoutError:
        raise call.timed_out(timeout_s) from None
    finally:
        await end(process)
    assert process.returncode is not None
    return call.completed(process.returncode, stdout, stderr, ok)


async def start(argv: Sequence[str | Path], channel: socket.socket) -> asyncio.subprocess.Process:
    """Start a program that goes on beside us, with that socket as its standard input, and give it away to `end`.

    The kernel kills it when the calling thread ends; what it says on standard error is said on ours. Raises
    CommandFailed.
    """
    return await _Call.prepare(argv, None).start_beside(channel.fileno(), subprocess.DEVNULL, None, None)


async def end(process: asyncio.subprocess.Process) -> None:
    """Kill the process group of a program that `start` gave; one that is stuck in the kernel is not waited for."""
    if process.returncode is None:
        _kill(process.pid)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REAP_TIMEOUT_S):
                await process.wait()


class _Call(Struct, frozen=True):
    argv: list[str]
    line: str
    started_s: float

    @classmethod
    def prepare(cls, argv: Sequence[str | Path], cwd: Path | None, *, gently: bool = False) -> "_Call":
        words = [str(word) for word in argv]
        line = shlex.join(words) if cwd is None else f"cd {shlex.quote(str(cwd))} && {shlex.join(words)}"
        program = shutil.which(words[0], path=SEARCH_PATH)
        prefix = [*_dying_with_parent(), *(_GENTLY if gently else ())]
        call = cls([*prefix, program or words[0], *words[1:]], line, time.monotonic())
        if program is None:
            raise call.failed(127, "no such program")
        if any("\0" in word for word in words):
            raise call.failed(126, "NUL in an argument")
        return call

    async def start_beside(
        self, stdin: int, stdout: int, stderr: int | None, cwd: Path | None
    ) -> asyncio.subprocess.Process:
        start = partial(asyncio.create_subprocess_exec, env=ENVIRONMENT, start_new_session=True)
        try:
            return await start(*self.argv, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd)
        except OSError as error:
            raise self.failed(127, str(error)) from error

    def run(
        self,
        cwd: Path | None,
        on_output: Callable[[bytes], None],
        check: Callable[[], None],
        *,
        wait_out: bool,
        input: bytes = b"",
    ) -> tuple[int, bytes]:
        """Status and the end of standard error; `check` may raise, often, and when it has ended."""
        process = self._start(cwd, subprocess.PIPE if input else subprocess.DEVNULL)
        stderr = b""
        try:
            if process.stdin is not None:
                with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
                    stdin.write(input)
            for source, piece in _read_to_end(process):
                check()
                if source is process.stdout:
                    on_output(piece)
                elif source is process.stderr:
                    stderr = (stderr + piece)[-_KEPT_STDERR_BYTES:]
            check()
        finally:
            if process.poll() is None:
                _kill(process.pid)
            self._abandon(process, wait_out=wait_out)
        return process.returncode, stderr

    def _start(self, cwd: Path | None, stdin: int) -> "subprocess.Popen[bytes]":
        try:
            return subprocess.Popen(
                self.argv,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=cwd,
                env=ENVIRONMENT,
                start_new_session=True,
            )
        except OSError as error:
            raise self.failed(127, str(error)) from error

    def _abandon(self, process: "subprocess.Popen[bytes]", *, wait_out: bool) -> None:
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        try:
            process.wait(_REAP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            log.error("STUCK in the kernel although it was killed (process %d): %s", process.pid, self.line)
            if wait_out:
                process.wait()
                log.warning("GONE at last: %s", self.line)

    def failed(self, status: int, stderr: str) -> CommandFailed:
        log.warning("FAILED (status %d): %s: %s", status, self.line, stderr)
        return CommandFailed(self.line, status, stderr)

    def timed_out(self, timeout_s: float) -> CommandTimedOut:
        log.warning("KILLED after %.1f s: %s", timeout_s, self.line)
        return CommandTimedOut(self.line, -signal.SIGKILL, "", timeout_s)

    def stopped(self) -> CommandStopped:
        log.info("STOPPED after %.1f s: %s", time.monotonic() - self.started_s, self.line)
        return CommandStopped(self.line, -signal.SIGKILL)

    def completed(self, status: int, stdout: bytes, stderr: bytes, ok: Collection[int]) -> Completed:
        if status not in ok:
            raise self.failed(status, stderr.decode("utf-8", "replace").strip())
        log.debug("done in %.3f s: %s", time.monotonic() - self.started_s, self.line)
        return Completed(self.line, status, stdout, stderr)


_IF_CHILD = '[ "$PPID" = %d ] && unset PWD OLDPWD SHLVL && exec "$@"'
_GENTLY = ("nice", "-n", "19", "ionice", "-t", "-c", "3")


@cache
def _setpriv() -> str | None:
    found = shutil.which("setpriv", path=SEARCH_PATH)
    if found is None:
        log.warning("setpriv (util-linux) is missing: child processes may outlive a killed daemon")
    return found


def _dying_with_parent() -> list[str]:
    # setpriv sets PR_SET_PDEATHSIG and execs: Python code between fork and exec would be unsafe beside other threads.
    # A parent that died before that is found out by the shell.
    program = _setpriv()
    if program is None:
        return []
    return [program, "--pdeathsig", "KILL", "--", "sh", "-c", _IF_CHILD % os.getpid(), "sh"]


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
