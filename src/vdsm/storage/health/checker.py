"""The checker, a process of its own: reads from every storage domain on a fixed schedule, a thread for each path, so
that storage that hangs costs one thread here and nothing in the daemon. What its words mean is left to `monitor`.

It is told what to watch over the socket that is its standard input, answers there, and ends when the socket does.
"""

import contextlib
import mmap
import os
import select
import socket
import threading
import time
from collections.abc import Callable

import msgspec

READ_BYTES = 4096
MESSAGE_BYTES = 16384
"""No message is longer: a path has 4096 bytes at most."""


class Watch(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Read from this path now and then every so many seconds."""

    path: bytes
    interval_s: float


class Forget(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Read from this path no more."""

    path: bytes


class Checked(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A read ended: after so long, or with that failure."""

    path: bytes
    delay_s: float
    failure: str = ""


class Late(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Time for the next read, and the last one has not ended; told at every tick until it has."""

    path: bytes


Order = Watch | Forget
Word = Checked | Late
Read = Callable[[bytes], float]


def read_directly(path: bytes) -> float:
    """Read the first 4096 bytes past all caches (facts: storage §11.1); how many seconds that took. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, READ_BYTES) as aligned:
            begun_s = time.monotonic()
            os.preadv(descriptor, [aligned], 0)
            return time.monotonic() - begun_s
    finally:
        os.close(descriptor)


class _Watched:
    """One path and its thread, which reads when it is told to. It lives on while a read hangs, wanted or not."""

    def __init__(self, path: bytes, read: Read, tell: Callable[[Word], None]) -> None:
        self.path = path
        self.interval_s = 0.0
        self.due_s = 0.0
        self.is_wanted = True
        self.is_reading = False
        self._read = read
        self._tell = tell
        self._go = threading.Semaphore(0)
        threading.Thread(target=self._work, daemon=True).start()

    def tick(self, now_s: float) -> None:
        """Begin a read, or tell that the last one still goes on; missed ticks are not caught up with."""
        self.due_s += self.interval_s * max(1, -(-(now_s - self.due_s) // self.interval_s))
        if self.is_reading:
            self._tell(Late(self.path))
        else:
            self.is_reading = True
            self._go.release()

    def end(self) -> None:
        """Let an idle thread go."""
        self._go.release()

    def _work(self) -> None:
        while self._go.acquire() and self.is_wanted:
            try:
                word = Checked(self.path, self._read(self.path))
            except OSError as error:
                word = Checked(self.path, 0.0, error.strerror or str(error))
            self.is_reading = False
            if self.is_wanted:
                self._tell(word)


class Checker:
    """All watched paths. `serve` reads orders until the other end is closed."""

    def __init__(self, channel: socket.socket, read: Read = read_directly) -> None:
        self._channel = channel
        self._read = read
        self._paths: dict[bytes, _Watched] = {}
        self._decoder = msgspec.msgpack.Decoder(Order)

    def serve(self) -> None:
        """Follow orders and the schedule."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        while True:
            if poll.poll(self._get_pause_ms()):
                data = self._receive()
                if not data:
                    return
                self._follow(self._decoder.decode(data))
            now_s = time.monotonic()
            for watched in list(self._paths.values()):
                if not watched.is_wanted and not watched.is_reading:
                    del self._paths[watched.path]
                    watched.end()
                elif watched.is_wanted and watched.due_s <= now_s:
                    watched.tick(now_s)

    def _receive(self) -> bytes:
        try:
            return self._channel.recv(MESSAGE_BYTES)
        except ConnectionError:
            return b""

    def _get_pause_ms(self) -> float | None:
        dues_s = [watched.due_s for watched in self._paths.values() if watched.is_wanted]
        return max(0.0, min(dues_s) - time.monotonic()) * 1000 if dues_s else None

    def _follow(self, order: Order) -> None:
        if isinstance(order, Forget):
            if order.path in self._paths:
                self._paths[order.path].is_wanted = False
            return
        # One whose read still hangs is taken up again: a second thread would hang beside it.
        watched = self._paths.get(order.path)
        if watched is None:
            watched = self._paths[order.path] = _Watched(order.path, self._read, self._tell)
        watched.is_wanted = True
        watched.interval_s = order.interval_s
        watched.due_s = time.monotonic() + (order.interval_s if watched.is_reading else 0)

    def _tell(self, word: Word) -> None:
        with contextlib.suppress(ConnectionError):  # nobody listens any more: `serve` ends, too
            self._channel.sendall(msgspec.msgpack.encode(word))


def main(read: Read = read_directly) -> None:
    """Serve standard input; threads that hang are left to the kernel."""
    threading.stack_size(256 << 10)
    Checker(socket.socket(fileno=0), read).serve()
    os._exit(0)


if __name__ == "__main__":
    main()
