"""What Python 3.11 has no calls for: mounting, network namespaces, and links up and down; no program is started."""

import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MNT_FORCE = 1
_MNT_DETACH = 2
_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_IFF_RUNNING = 0x40
_INTERFACE = struct.Struct("16sh14x")  # struct ifreq with flags
_libc = ctypes.CDLL(None, use_errno=True)


def _check(status: int, what: str) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def mount(source: str, target: Path, kind: str, options: str = "") -> None:
    """Mount a file system. Raises OSError."""
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


def set_link(name: str, up: bool) -> None:
    """Set a link of this thread's network namespace up or down. Raises OSError, ENODEV for one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        flags = _get_flags(any_socket, name)
        flags = flags | _IFF_UP if up else flags & ~_IFF_UP
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, _INTERFACE.pack(os.fsencode(name), flags))


def is_link_running(name: str) -> bool | None:
    """Whether a link of this thread's network namespace is up and something is at its other end; None: no such link.

    The kernel notices a change of the carrier up to a second late.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            flags = _get_flags(any_socket, name)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
    return bool(flags & _IFF_UP and flags & _IFF_RUNNING)


def _get_flags(any_socket: socket.socket, name: str) -> int:
    answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _INTERFACE.pack(os.fsencode(name), 0))
    flags: int = _INTERFACE.unpack(answer)[1]
    return flags
