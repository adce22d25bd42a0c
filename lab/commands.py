"""How parts of the lab run programs: argument lists, a time limit, and failures that tell what the program said."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

TIMEOUT_S = 60.0
Seen = TypeVar("Seen")


class PartFailed(Exception):
    """A part of the lab could not be set up or taken down; the text says what was tried and what came of it."""


def run(*command: str | Path, input: str | None = None, timeout_s: float = TIMEOUT_S) -> str:
    """Run a program and return what it prints. Raises PartFailed when it fails or takes longer than its limit."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired as error:
        raise PartFailed(f"{' '.join(words)}: not done within {timeout_s:.0f} s") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise PartFailed(f"{' '.join(words)}: status {done.returncode}: {said}")
    return done.stdout


def wait_for(look: Callable[[], Seen | None], what: str, limit_s: float = TIMEOUT_S, pause_s: float = 0.02) -> Seen:
    """Look until there is something true to see, and return it. Raises PartFailed when that takes too long."""
    deadline = time.monotonic() + limit_s
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise PartFailed(f"not within {limit_s:.0f} s: {what}")
        time.sleep(pause_s)
    return seen


@contextmanager
def listening(*command: str, socket: str, stop_s: float = 30.0) -> Iterator[None]:
    """A daemon in the foreground, up when its unix socket, of that name, is there. Raises PartFailed.

    It is in a process group of its own: iscsid, for one, kills its whole group when it ends.
    """
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, process_group=0) as daemon:
        try:
            sockets = Path("/proc/net/unix")
            wait_for(lambda: daemon.poll() is not None or socket in sockets.read_text(), f"{command[0]} listens")
            if daemon.poll() is not None:
                raise PartFailed(f"{command[0]} ended with status {daemon.returncode}")
            yield
        finally:
            _terminate(daemon, stop_s)


def _terminate(daemon: "subprocess.Popen[bytes]", stop_s: float) -> None:
    """End it, with force in the end. It is told again and again: iscsid misses a signal just before it waits."""
    deadline = time.monotonic() + stop_s
    while time.monotonic() < deadline:
        daemon.terminate()
        with suppress(subprocess.TimeoutExpired):
            daemon.wait(timeout=1)
            return
    daemon.kill()


def load(*modules: str) -> None:
    """Load kernel modules; those that are there or built in count as loaded."""
    missing = [module for module in modules if not Path("/sys/module", module).exists()]
    if missing:  # a start of modprobe costs half a second inside the lab
        run("modprobe", "-a", *missing)


def tell(file: Path, text: str) -> None:
    """Write to a control file of the kernel (sysfs, configfs, procfs), which takes each write as one command."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())  # no newline: LIO would take it for a part of a password
    finally:
        os.close(descriptor)
