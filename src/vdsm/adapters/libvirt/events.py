"""libvirt's events and the state of the link, over one connection that is opened again when lost; virt reacts."""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import libvirt

from vdsm.adapters.libvirt.connection import Connector, Link, close_connection, get_message, is_alive
from vdsm.virt.ports import EventKind, HypervisorDown, HypervisorEvent

log = logging.getLogger(__name__)

RETRY_INTERVAL_S = 0.2
_CLOSE_REASONS = ("an error", "libvirtd ended", "libvirtd does not answer", "closed by this side")
_Emit = Callable[[HypervisorEvent], None]
_Connection = libvirt.virConnect
_Domain = libvirt.virDomain


class EventWatcher:
    """Holds the event connection: sets the link up and down, and hands every event to `deliver` on the daemon's loop.

    CONNECTED comes after all events are registered, DISCONNECTED when the connection is lost.
    """

    def __init__(self, connector: Connector, link: Link, deliver: _Emit) -> None:
        self._connector = connector
        self._link = link
        self._deliver = deliver
        self._loop: asyncio.AbstractEventLoop | None = None
        self._decided = asyncio.Event()
        self._ended = asyncio.Event()
        self._wake = threading.Event()
        self._is_stopping = False
        self._lost_reason: str | None = None

    async def start(self, timeout_s: float) -> None:
        """Begin to connect; return when it is known whether libvirtd answers, after timeout_s at the latest."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._watch, name="libvirt-events", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._decided.wait()

    async def stop(self, timeout_s: float) -> None:
        """Close the connection, if that can be done in time. No event is delivered any more."""
        if self._loop is None:
            return
        self._is_stopping = True
        self._link.set_down("shutting down")
        self._wake.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()

    def _watch(self) -> None:
        while not self._is_stopping:
            try:
                connection = self._connector.open()
            except HypervisorDown as error:
                self._tell(lambda reason=error.reason: self._on_down(reason))  # type: ignore[misc]
                if self._wake.wait(RETRY_INTERVAL_S):
                    self._wake.clear()
                continue
            self._hold(connection)
        self._tell(self._ended.set)

    def _hold(self, connection: _Connection) -> None:
        """Register, wait until the connection is lost or no longer wanted, and close it."""
        registered: list[int] = []
        try:
            connection.registerCloseCallback(self._on_close, None)
            for event_id, callback in make_callbacks(self._emit).items():
                registered.append(connection.domainEventRegisterAny(None, event_id, callback, None))
        except libvirt.libvirtError as error:
            self._lost_reason = get_message(error)
        else:
            self._tell(self._on_up)
            while not self._is_stopping and self._lost_reason is None:
                self._wake.wait()
                self._wake.clear()
        if not self._is_stopping:
            self._tell(lambda reason=self._lost_reason: self._on_down(reason or "lost"))  # type: ignore[misc]
        self._release(connection, registered)
        self._lost_reason = None

    def _release(self, connection: _Connection, registered: list[int]) -> None:
        with suppress(libvirt.libvirtError):
            if is_alive(connection):
                for callback_id in registered:
                    connection.domainEventDeregisterAny(callback_id)
            connection.unregisterCloseCallback()
        close_connection(connection)

    def _on_close(self, _connection: _Connection, reason: int, _opaque: None) -> None:
        # In the loop thread of libvirt: a call here would block keepalive for everybody.
        self._lost_reason = _CLOSE_REASONS[reason] if reason < len(_CLOSE_REASONS) else f"reason {reason}"
        self._wake.set()

    def _emit(self, event: HypervisorEvent) -> None:
        self._tell(lambda: self._pass_on(event))

    def _tell(self, message: Callable[[], None]) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(message)

    def _on_up(self) -> None:
        if not self._is_stopping:
            log.info("connected to libvirt at %s", self._connector.uri)
            self._link.set_up()
            self._decided.set()
            self._deliver(HypervisorEvent("", EventKind.CONNECTED))

    def _on_down(self, reason: str) -> None:
        was_up = self._link.is_up
        if not self._is_stopping:
            self._link.set_down(reason)
            self._decided.set()
            if was_up:
                log.error("lost libvirt at %s: %s", self._connector.uri, reason)
                self._deliver(HypervisorEvent("", EventKind.DISCONNECTED, text=reason))

    def _pass_on(self, event: HypervisorEvent) -> None:
        if not self._is_stopping:
            self._deliver(event)


def make_callbacks(emit: _Emit) -> dict[int, Callable[..., None]]:
    """A callback for each of libvirt's events that the node follows (rpc facts §8.4), in libvirt's own signatures."""

    def tell(domain: _Domain, kind: EventKind, *detail: int, text: str = "", names: tuple[str, ...] = ()) -> None:
        emit(HypervisorEvent(domain.UUIDString(), kind, detail, text, names))

    def with_numbers(kind: EventKind) -> Callable[..., None]:
        return lambda _, domain, *numbers: tell(domain, kind, *numbers[:-1])  # the last one is what we registered: None

    def on_io_error(_: _Connection, domain: _Domain, path: str, alias: str, action: int, reason: str, __: None) -> None:
        tell(domain, EventKind.IO_ERROR, action, text=reason or "", names=(path or "", alias or ""))

    def on_graphics(_: _Connection, domain: _Domain, phase: int, *ends: Any) -> None:
        _local, remote, scheme, _subject, _none = ends
        names = (str(remote.get("node") or ""), scheme or "", str(remote.get("service") or ""))
        tell(domain, EventKind.GRAPHICS, phase, names=names)

    def on_device_removed(_: _Connection, domain: _Domain, alias: str, __: None) -> None:
        tell(domain, EventKind.DEVICE_REMOVED, names=(alias,))

    def on_block_job(_: _Connection, domain: _Domain, target: str, kind: int, status: int, __: None) -> None:
        tell(domain, EventKind.BLOCK_JOB, kind, status, names=(target,))

    def on_tuned(_: _Connection, domain: _Domain, *__: object) -> None:
        tell(domain, EventKind.TUNED)

    def on_job_completed(_: _Connection, domain: _Domain, stats: Any, __: None) -> None:
        if stats.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT and "downtime" in stats:
            tell(domain, EventKind.MOVED, int(stats.get("downtime_net", stats["downtime"])))

    return {
        libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED: on_job_completed,
        libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE: with_numbers(EventKind.LIFECYCLE),
        libvirt.VIR_DOMAIN_EVENT_ID_REBOOT: with_numbers(EventKind.REBOOT),
        libvirt.VIR_DOMAIN_EVENT_ID_RTC_CHANGE: with_numbers(EventKind.RTC_CHANGE),
        libvirt.VIR_DOMAIN_EVENT_ID_WATCHDOG: with_numbers(EventKind.WATCHDOG),
        libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON: on_io_error,
        libvirt.VIR_DOMAIN_EVENT_ID_GRAPHICS: on_graphics,
        libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED: on_device_removed,
        libvirt.VIR_DOMAIN_EVENT_ID_TUNABLE: on_tuned,
        libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE: with_numbers(EventKind.AGENT),
        libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2: on_block_job,
    }
