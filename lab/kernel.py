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
from threading import Thread

_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_SHARED = 0x100000
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


def mount(device: Path, target: Path, filesystem: str, options: str = "") -> None:
    """Mount a file system with options of its own. Raises OSError."""
    _mount(str(device), target, 0, filesystem, options)


def unmount(target: Path, *, force: bool = False) -> None:
    """Unmount. Raises OSError, EBUSY for one. With force it is gone from sight at once, and what waits for it fails."""
    _check(_libc.umount2(os.fsencode(target), _MNT_FORCE | _MNT_DETACH if force else 0), str(target))


def is_mount_point(folder: Path) -> bool:
    """Whether something is mounted there; unlike pathlib this also sees a folder that is mounted onto itself."""
    return any(line.split()[1] == str(folder) for line in Path("/proc/self/mounts").read_text().splitlines())


def add_network_namespace(path: Path) -> None:
    """Make a network namespace that exists as long as this file is mounted, as `ip netns add` does. Raises OSError.

    The file's folder becomes a mount of its own, which says the same in all mount namespaces: else one of them could
    keep the network namespace alive.
    """
    path.parent.mkdir(exist_ok=True)
    if not is_mount_point(path.parent):
        _mount(str(path.parent), path.parent, _MS_BIND | _MS_REC)
        _mount("none", path.parent, _MS_SHARED | _MS_REC)
    path.touch(exist_ok=False)
    failures: list[OSError] = []

    def make() -> None:  # only the thread moves into the new namespace
        try:
            _check(_libc.unshare(_CLONE_NEWNET), str(path))
            _mount("/proc/thread-self/ns/net", path, _MS_BIND)
        except OSError as error:
            failures.append(error)

    thread = Thread(target=make)
    thread.start()
    thread.join()
    for failure in failures:
        path.unlink()
        raise failure


def delete_network_namespace(path: Path) -> None:
    """Undo it; the namespace goes with the last process and socket in it, and its links with it, a moment later."""
    unmount(path, force=True)
    path.unlink()


def _mount(source: str, target: Path, flags: int, filesystem: str = "none", options: str = "") -> None:
    words = [os.fsencode(word) for word in (source, target, filesystem)]
    _check(_libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(options)), str(target))


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
