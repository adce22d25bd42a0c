"""Connections that talk to nobody, for the threads of the libvirt adapter."""

import threading
from collections.abc import Callable
from typing import cast

import libvirt


class Connection:
    """Alive until told otherwise; remembers the threads that used it."""

    def __init__(self) -> None:
        self.alive = True
        self.closed = threading.Event()

    def isAlive(self) -> int:
        return int(self.alive)

    def close(self) -> int:
        self.closed.set()
        return 0


class Connections:
    """Opens connections and keeps count; `failure` is raised instead of opening."""

    def __init__(self, make: Callable[[], object] = Connection) -> None:
        self._make = make
        self.opened: list[object] = []
        self.failure: Exception | None = None

    def open(self) -> libvirt.virConnect:
        if self.failure is not None:
            raise self.failure
        self.opened.append(self._make())
        return cast(libvirt.virConnect, self.opened[-1])


class Libvirt(libvirt.libvirtError):
    """libvirt's error with a number, made without libvirt."""

    def __init__(self, code: int, message: str = "refused") -> None:
        Exception.__init__(self, message)
        self.err = (code, 0, message, 2, "", None, None, 0, 0)
