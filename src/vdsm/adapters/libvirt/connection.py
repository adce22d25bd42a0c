"""Connections to libvirt, each for one thread, and the loop that keeps them alive; calls are left to `pool`."""

import contextlib
import logging
import threading

import libvirt
from msgspec import Struct

from vdsm.virt.ports import HypervisorDown, HypervisorRefused, HypervisorTimeout, NoSuchDomain

log = logging.getLogger(__name__)

_LOST = (
    *(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_ERR_SYSTEM_ERROR),
    *(libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_INVALID_CONN),
)
_starting = threading.Lock()
_loop: threading.Thread | None = None


class Link:
    """Whether libvirtd is there, as the event connection saw it last. Touched on the daemon's loop only."""

    def __init__(self) -> None:
        self._reason: str | None = "not connected yet"

    @property
    def is_up(self) -> bool:
        return self._reason is None

    def check(self) -> None:
        """Fail with HypervisorDown at once, instead of one more thread finding out for itself."""
        if self._reason is not None:
            raise HypervisorDown(self._reason)

    def set_up(self) -> None:
        self._reason = None

    def set_down(self, reason: str) -> None:
        self._reason = reason


class Connector(Struct, frozen=True):
    """Where libvirtd is, and how long it may be silent: interval * (count + 1) seconds."""

    uri: str
    keepalive_interval_s: int = 5
    keepalive_count: int = 3

    def open(self) -> libvirt.virConnect:
        """A new connection for the calling thread alone (two threads in one connection crash the process).

        Blocks for as long as a stopped libvirtd likes. Raises HypervisorDown.
        """
        start_event_loop()
        try:
            connection = libvirt.open(self.uri)
            connection.setKeepAlive(self.keepalive_interval_s, self.keepalive_count)
        except libvirt.libvirtError as error:
            raise HypervisorDown(get_message(error)) from error
        return connection


def close_connection(connection: libvirt.virConnect) -> None:
    """Close in the thread that owns the connection; one that is broken already is closed as well as it can be."""
    with contextlib.suppress(libvirt.libvirtError):
        connection.close()


def is_alive(connection: libvirt.virConnect) -> bool:
    """Whether the socket is still open; asks nobody."""
    try:
        return connection.isAlive() == 1
    except libvirt.libvirtError:
        return False


def is_loss(error: libvirt.libvirtError) -> bool:
    """Whether this may be a lost connection (rpc facts §8.4); `is_alive` confirms it."""
    return error.get_error_code() in _LOST


def get_message(error: libvirt.libvirtError) -> str:
    """libvirt's own words."""
    return error.get_error_message() or str(error)


def translate(
    error: libvirt.libvirtError, vm_id: str, call: str, timeout_s: float
) -> NoSuchDomain | HypervisorTimeout | HypervisorRefused:
    """The port's error for libvirt's. A domain whose job lock was not free within libvirt's 30 s does not answer."""
    code = error.get_error_code() or 0
    if code == libvirt.VIR_ERR_NO_DOMAIN:
        return NoSuchDomain(vm_id)
    if code == libvirt.VIR_ERR_OPERATION_TIMEOUT:
        return HypervisorTimeout(vm_id, call, timeout_s)
    return HypervisorRefused(get_message(error), code)


def start_event_loop() -> None:
    """Start libvirt's event loop, once in a process: keepalive and events need it before the first connection.

    Its thread lives as long as the process. libvirt's habit of printing each error ends here too.
    """
    global _loop
    with _starting:
        if _loop is not None:
            return
        libvirt.registerErrorHandler(_say_nothing, None)
        libvirt.virEventRegisterDefaultImpl()
        _loop = threading.Thread(target=_run_event_loop, name="libvirt-loop", daemon=True)
        _loop.start()


def _say_nothing(_context: None, _error: list[object]) -> None:
    """Errors reach their callers as exceptions."""


def _run_event_loop() -> None:
    pause = threading.Event()
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError:
            log.exception("libvirt's event loop stumbled")
            pause.wait(1.0)  # never set: only slows a loop that fails again and again
