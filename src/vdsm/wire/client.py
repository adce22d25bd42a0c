"""Calling a node over STOMP, for programs without an event loop.

What verbs there are is left to the node; frames are left to `client_session`, the names of older clients to
`vdsm.client`.
"""

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from vdsm.wire.client_session import (
    Address,
    CallFailed,
    CallTimedOut,
    ClientFailure,
    ConnectionFailed,
    Notice,
    Params,
    Session,
)
from vdsm.wire.ports import EVENTS
from vdsm.wire.stomp import format_frame
from vdsm.wire.tls import make_client_context

__all__ = ["Address", "CallFailed", "CallTimedOut", "Client", "ClientFailure", "ConnectionFailed", "Notice", "connect"]

TIMEOUT_S = 60.0
_CHUNK = 1 << 18
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def connect(address: Address, timeout_s: float = TIMEOUT_S) -> "Client":
    """A connected client; `timeout_s` bounds connecting, and calls that say nothing else. Raises ConnectionFailed."""
    try:
        return Client(address, _open(address, timeout_s), timeout_s)
    except OSError as error:
        raise ConnectionFailed(f"cannot connect to {address}: {error}") from error


class Client:
    """Calls from any number of threads over one connection. Whichever thread waits reads for all of them.

    The socket never blocks, and is touched under a lock only: a TLS connection cannot be read and written at once.
    """

    def __init__(self, address: Address, connection: socket.socket, timeout_s: float) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self._session = Session()
        self._socket = connection
        self._socket.setblocking(False)
        self._socket_lock = threading.Lock()
        self._readable = select.poll()
        self._readable.register(connection, select.POLLIN)
        self._turn = threading.Condition()
        self._reading = False
        self._lost: ConnectionFailed | None = None
        self._send(self._session.get_greeting())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, method: str, params: Params | None = None, timeout_s: float | None = None, flow_id: str = "") -> Any:
        """Do one call and give its result. Raises CallFailed, CallTimedOut, ConnectionFailed."""
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        session = self._session
        with self._turn:
            id, data = session.format_call(method, params, flow_id)
        try:
            self._send(data)
            if not self._wait(lambda: id in session.answers, deadline):
                raise CallTimedOut(f"no answer to {method} from {self.address} in time")
            return session.get_result(id)
        finally:
            with self._turn:
                session.forget(id)

    def subscribe(self, destination: str = EVENTS) -> str:
        """Have events delivered from now on; see `get_event`. Gives the subscription's id."""
        with self._turn:
            id, data = self._session.format_subscription(destination)
        self._send(data)
        return id

    def unsubscribe(self, id: str) -> None:
        """End a subscription."""
        self._send(format_frame("UNSUBSCRIBE", (("id", id),)))

    def publish(self, destination: str, body: bytes) -> None:
        """Send a JSON body to all who listen to destination."""
        self._send(format_frame("SEND", (("destination", destination), ("content-type", "application/json")), body))

    def get_event(self, timeout_s: float) -> Notice | None:
        """The next event, None when there is none within the time. Raises ConnectionFailed."""
        if not self._wait(lambda: bool(self._session.notices), time.monotonic() + timeout_s):
            return None
        with self._turn:
            return self._session.notices.popleft() if self._session.notices else None

    def close(self) -> None:
        """End the connection; calls that wait fail."""
        self._lost = self._lost or ConnectionFailed("the client was closed")
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with self._turn:
            while self._reading:
                self._turn.wait()
        self._socket.close()

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        deadline = time.monotonic() + self.timeout_s
        try:
            with self._socket_lock:
                while view:
                    if self._lost is not None:
                        raise self._lost
                    try:
                        view = view[self._socket.send(view) :]
                    except _WOULD_BLOCK:
                        select.select([], [self._socket], [], 1.0)
                        if time.monotonic() > deadline:
                            raise CallTimedOut(f"{self.address} does not read what is sent") from None
        except OSError as error:
            self._lost = ConnectionFailed(f"the connection to {self.address} is lost: {error}")
            raise self._lost from error

    def _wait(self, is_here: Callable[[], bool], deadline: float) -> bool:
        """Read, or let another thread read, until is_here; False when the deadline comes first."""
        with self._turn:
            while self._reading:
                if is_here():
                    return True
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return False
                self._turn.wait(left_s)
            self._reading = True
        try:
            return self._read_until(is_here, deadline)
        finally:
            with self._turn:
                self._reading = False
                self._turn.notify_all()

    def _read_until(self, is_here: Callable[[], bool], deadline: float) -> bool:
        while not is_here():
            if self._lost is not None:
                raise self._lost
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            if self._readable.poll(left_s * 1000):
                self._receive()
        return True

    def _receive(self) -> None:
        try:
            while True:  # TLS may hold more than the socket shows
                with self._socket_lock:
                    data = self._socket.recv(_CHUNK)
                if not data:
                    raise self._session.explain_end(self.address)
                with self._turn:
                    self._session.feed(data)
                    self._turn.notify_all()
                if len(data) < _CHUNK and not isinstance(self._socket, ssl.SSLSocket):
                    return
        except _WOULD_BLOCK:
            return
        except ConnectionFailed as error:
            self._lost = error
            raise
        except OSError as error:
            self._lost = ConnectionFailed(f"the connection to {self.address} is lost: {error}")
            raise self._lost from error


def _open(address: Address, timeout_s: float) -> socket.socket:
    if address.socket_path is not None:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout_s)
            connection.connect(str(address.socket_path))
        except OSError:
            connection.close()
            raise
        return connection
    context = None if address.tls is None else make_client_context(address.tls)
    connection = socket.create_connection((address.host, address.port), timeout_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is None:
        return connection
    try:
        return context.wrap_socket(connection)
    except OSError:
        connection.close()
        raise
