"""System calls that Python 3.11 lacks: mounting, unmounting, and making sockets in another network namespace."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MNT_FORCE = 1
_MNT_DETACH = 2
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _check(status: int, what: str) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def mount(source: str, target: Path, kind: str, options: str = "") -> None:
    """Mount a file system; no program is started. Raises OSError."""
    words = [os.fsencode(word) for word in (source, target, kind)]
    _check(_libc.mount(*words, ctypes.c_ulong(0), os.fsencode(options)), str(target))


def unmount(target: Path, *, force: bool = False) -> None:
    """Unmount. Raises OSError, EBUSY for one. With force it is gone from sight at once, and what waits for it fails."""
    _check(_libc.umount2(os.fsencode(target), _MNT_FORCE | _MNT_DETACH if force else 0), str(target))


@contextmanager
def network_namespace(path: Path) -> Iterator[None]:
    """This thread is in the network namespace of that file meanwhile; sockets made here stay in it for good."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        there = os.open(path, os.O_RDONLY)
        try:
            _check(_libc.setns(there, _CLONE_NEWNET), str(path))
        finally:
            os.close(there)
        try:
            yield
        finally:
            _check(_libc.setns(before, _CLONE_NEWNET), "the network namespace of before")
    finally:
        os.close(before)
