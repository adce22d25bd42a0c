"""Folders for what tests write: removed by their owner, or, when it was killed, by whoever makes the next one."""

import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

PARENT = Path("/tmp")  # short: paths of unix sockets go below
_PREFIX = "vdsm-scratch-"


class Scratch:
    """A folder of its own below `parent` for as long as this process lives. A context manager.

    The owner holds the folder's lock, which the kernel gives back however the owner ends. Folders without an owner are
    removed when another is made.
    """

    def __init__(self, parent: Path = PARENT) -> None:
        with _locked(parent):
            sweep(parent)
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            # Also for an owner who is interrupted before he enters the block, or leaves it by the end of the process.
            self._remove = weakref.finalize(self, _remove, self.path, lock, os.getpid())
            fcntl.flock(lock, fcntl.LOCK_EX)
        self.path.chmod(0o755)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the folder and all in it; no-op when that was done."""
        self._remove()


def _remove(path: Path, lock: int, owner: int) -> None:
    if os.getpid() == owner:  # not in a child that ends
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def sweep(parent: Path = PARENT) -> None:
    """Remove what owners left that are no more."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue  # somebody else was faster
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


@contextmanager
def _locked(parent: Path) -> Iterator[None]:
    """Nobody sweeps between another's making of a folder and its lock."""
    lock = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
