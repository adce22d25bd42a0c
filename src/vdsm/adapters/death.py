"""A timer of the kernel's by which this process ends, unless it is put off in time.

Also a process that stands still (SIGSTOP) ends so, and one of a machine that was asleep before it runs again: no thread
of its own could be sure to come before its others.
"""

import ctypes
import os
import signal
import threading
import time

_libc = ctypes.CDLL(None, use_errno=True)
_libc.timer_settime.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
_libc.timer_delete.argtypes = [ctypes.c_void_p]


class _Event(ctypes.Structure):
    """`struct sigevent` of <signal.h>, for a signal to the process."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_char * 48),
    )


class DeathTimer:
    """Ends this process by SIGKILL so long after it was last set. Not set at first. Children do not have it."""

    def __init__(self, life_s: float) -> None:
        self._life_s = life_s
        self._is_set = False
        self._lock = threading.Lock()
        self._id = ctypes.c_void_p()
        event = _Event(signal=signal.SIGKILL)
        _check(_libc.timer_create(time.CLOCK_BOOTTIME, ctypes.byref(event), ctypes.byref(self._id)))

    def set(self) -> None:
        """Let its time begin, or begin again."""
        with self._lock:
            self._start(self._life_s)

    def put_off(self) -> None:
        """Let its time begin again, if it is set."""
        with self._lock:
            if self._is_set:
                self._start(self._life_s)

    def call_off(self) -> None:
        """Nothing happens until it is set again."""
        with self._lock:
            self._start(0)

    def close(self) -> None:
        """Call it off for good."""
        with self._lock:
            _libc.timer_delete(self._id)

    def _start(self, life_s: float) -> None:
        seconds, rest = divmod(int(life_s * 1e9), 10**9)
        _check(_libc.timer_settime(self._id, 0, (ctypes.c_long * 4)(0, 0, seconds, rest), None))
        self._is_set = life_s > 0


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
