"""The daemon's doors (facts: rpc §1.1): listening sockets, who may come in, and the hand-over to STOMP or HTTP.

What the protocols do with a connection is left to `stomp_server` and `http`, certificates to `tls`.
"""

import asyncio
import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

from vdsm.core.errors import NodeError
from vdsm.wire.detect import LONGEST_WORD, Spoken, detect
from vdsm.wire.http import App, HttpServer
from vdsm.wire.peer import Door, Peer, get_peer
from vdsm.wire.ports import REQUEST_QUEUES, Calls, Limits
from vdsm.wire.stomp_server import StompServer
from vdsm.wire.tls import ServerContexts, is_named_by_certificate

log = logging.getLogger("doors")

BACKLOG = 128
SOCKET_MODE = 0o660
NO_PROTOCOL = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: 34\r\n\r\n"
    b"This port speaks STOMP 1.2 or HTTP"
)


class CannotListen(NodeError, number=101, text="Cannot listen on {address}: {reason}"):
    """An address cannot be listened on; the daemon must not start."""

    address: str
    reason: str


class Doors:
    """All ways in. `close` may be called at any time after construction."""

    def __init__(
        self,
        calls: Calls,
        app: App,
        limits: Limits,
        contexts: ServerContexts | None = None,
        verify_client_cert: bool = False,
        *,
        request_queues: Iterable[str] = REQUEST_QUEUES,
    ) -> None:
        self.limits = limits
        self.stomp = StompServer(calls, limits, request_queues)
        self.http = HttpServer(app, limits)
        self.contexts = contexts
        self.verify_client_cert = verify_client_cert
        self._servers: list[asyncio.Server] = []
        self._sockets: list[Path] = []
        self._unproven: dict[Arrival, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def open_tcp(self, host: str, port: int, *, tls: bool = True) -> int:
        """Listen on a port (0: a free one) and tell which. `::` takes IPv4 as well.

        Without TLS only loopback is listened on: a wildcard means both loopback addresses then, any other address is
        refused. Raises CannotListen.
        """
        door = Door.TLS if tls else Door.PLAIN
        addresses = (host,) if tls else list_loopback(host)
        if tls:
            self._check_context(host)
        opened = 0
        for address in addresses:
            try:
                listening = bind_tcp(address, port)
            except OSError as error:
                if opened and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    continue  # the second loopback address, on a machine that has only one
                raise CannotListen(f"{address} port {port}", os.strerror(error.errno or 0)) from error
            port = listening.getsockname()[1]
            await self._serve(listening, door)
            opened += 1
        log.info("listening on %s port %d (%s)", " and ".join(addresses), port, door.value)
        return port

    async def open_unix(self, path: Path, group_id: int | None = None) -> None:
        """Listen on a unix socket for its owner and group. What a dead daemon left is replaced. Raises CannotListen."""
        try:
            listening = bind_unix(path, group_id)
        except OSError as error:
            raise CannotListen(str(path), error.strerror or str(error)) from error
        self._sockets.append(path)
        await self._serve(listening, Door.UNIX)
        log.info("listening on %s", path)

    async def close(self, finish_s: float = 2.0) -> None:
        """Let nobody in any more, let calls finish for so long, then cancel them and close all connections."""
        for server in self._servers:
            server.close()
        for path in self._sockets:
            path.unlink(missing_ok=True)
        self._sockets.clear()
        for task in self._tasks:
            task.cancel()
        for arrival in tuple(self._unproven):
            arrival.drop("the daemon ends")
        await asyncio.gather(self.stomp.close(finish_s), self.http.close(finish_s))

    def _check_context(self, host: str) -> None:
        try:
            if self.contexts is None:
                raise OSError("no certificates are configured")
            self.contexts.get()
        except OSError as error:
            raise CannotListen(host, f"TLS is not possible: {error}") from error

    async def _serve(self, listening: socket.socket, door: Door) -> None:
        loop = asyncio.get_running_loop()
        if door is Door.UNIX:
            server = await loop.create_unix_server(lambda: Arrival(self, door), sock=listening, backlog=BACKLOG)
        else:
            server = await loop.create_server(lambda: Arrival(self, door), sock=listening, backlog=BACKLOG)
        self._servers.append(server)

    # For arrivals.

    @property
    def is_full(self) -> bool:
        """Whether there is no room for one more client."""
        return self.stomp.connections + len(self.http.state.connections) >= self.limits.connections

    def admit(self, arrival: "Arrival") -> bool:
        """Whether there is room for one more. Of those that prove nothing, the oldest makes room."""
        if self.is_full:
            return False
        if len(self._unproven) >= self.limits.unproven_connections:
            next(iter(self._unproven)).drop("too many connections that say nothing")
        self._unproven[arrival] = None
        return True

    def discard(self, arrival: "Arrival") -> None:
        """An arrival has become a client, or has left."""
        self._unproven.pop(arrival, None)

    def start_handshake(self, arrival: "Arrival") -> None:
        """Let an arrival on the TLS door prove itself."""
        task = asyncio.get_running_loop().create_task(self._shake_hands(arrival))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _shake_hands(self, arrival: "Arrival") -> None:
        assert self.contexts is not None
        try:
            transport = await asyncio.get_running_loop().start_tls(
                arrival.transport,
                arrival,
                self.contexts.get(),
                server_side=True,
                ssl_handshake_timeout=self.limits.handshake_s,
                ssl_shutdown_timeout=self.limits.closing_s,
            )
        except (OSError, TimeoutError) as error:
            arrival.drop(f"TLS handshake failed: {error or type(error).__name__}")
            return
        if not isinstance(transport, asyncio.Transport):  # lost while it was made
            arrival.drop("TLS handshake failed: the client left")
            return
        arrival.transport = transport
        peer = get_peer(transport, Door.TLS)
        if self.verify_client_cert:
            transport.pause_reading()
            if not await is_named_by_certificate(peer.host, peer.common_name):
                arrival.drop(f"its certificate is of {peer.common_name!r}")
                return
            transport.resume_reading()
        arrival.begin(peer)


class Arrival(asyncio.Protocol):
    """A connection until it is known who comes and what is spoken."""

    transport: asyncio.Transport
    _abort: Callable[[], None]

    def __init__(self, doors: Doors, door: Door) -> None:
        self._doors = doors
        self._door = door
        self._first = bytearray()
        self._peer: Peer | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        self._from = "?"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        # That of the socket: asyncio's TLS transport cannot be aborted any more once it was closed twice.
        self._abort = transport.abort
        try:
            peer = get_peer(transport, self._door)
        except OSError:  # it left before it was looked at
            self._ended = True
            self._abort()
            return
        self._from = str(peer)
        if not self._doors.admit(self):
            self.drop("too many connections")
        elif self._door is Door.TLS:
            transport.pause_reading()
            self._doors.start_handshake(self)
        else:
            self.begin(peer)

    def connection_lost(self, error: Exception | None) -> None:
        self._end()

    def data_received(self, data: bytes) -> None:
        self._first += data
        if self._peer is not None:
            self._decide(self._peer)

    def begin(self, peer: Peer) -> None:
        """The other end is known: find out what it speaks."""
        if self._ended:
            return
        self._peer = peer
        limit_s = self._doors.limits.detection_s
        self._timer = asyncio.get_running_loop().call_later(limit_s, self.drop, "says nothing that is understood")
        self._decide(peer)

    def drop(self, reason: str) -> None:
        """End the connection."""
        if not self._ended:
            log.warning("dropped from=%s: %s", self._from, reason)
            self._end()
        self._abort()

    def _end(self) -> None:
        self._ended = True
        self._doors.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def _decide(self, peer: Peer) -> None:
        if self._ended:
            return
        first = bytes(self._first)
        spoken = detect(first[: LONGEST_WORD + 2])
        if spoken is None:
            return
        if spoken is Spoken.TLS:
            self.drop("TLS where none is spoken")
            return
        if self._doors.is_full:
            self.drop("too many connections")
            return
        if spoken is Spoken.UNKNOWN:
            log.warning("dropped from=%s: neither STOMP nor HTTP", self._from)
            self._end()
            self.transport.write(NO_PROTOCOL)
            self.transport.close()
            return
        self._end()
        server = self._doors.stomp if spoken is Spoken.STOMP else self._doors.http
        protocol = server.make_connection(peer, self._abort)
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        protocol.data_received(first)


def list_loopback(host: str) -> tuple[str, ...]:
    """The loopback addresses that plain TCP may use where host is configured. Raises CannotListen for any other."""
    if host in ("", "localhost") or host in ("::", "0.0.0.0"):
        return ("127.0.0.1", "::1")
    try:
        if ipaddress.ip_address(host).is_loopback:
            return (host,)
    except ValueError:
        pass
    raise CannotListen(host, "without TLS only loopback addresses are listened on")


def bind_tcp(host: str, port: int) -> socket.socket:
    """A bound socket; `::` is dual-stack, and means 0.0.0.0 on a machine without IPv6. Raises OSError."""
    if host in ("::", ""):
        try:
            return _prepare(
                socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
            )
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            host = "0.0.0.0"
    family, _kind, _protocol, _name, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return _prepare(socket.create_server(address[:2], family=family, backlog=BACKLOG))


def _prepare(listening: socket.socket) -> socket.socket:
    # Accepted connections inherit it: a peer that vanished is found out even when no heart-beat was agreed on.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # asyncio does it for sockets that name their protocol only; without it every HTTP answer waits 40 ms for an ACK.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 20)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    return listening


def bind_unix(path: Path, group_id: int | None) -> socket.socket:
    """A bound unix socket of mode 0660. Raises OSError; EADDRINUSE when a living daemon owns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except (ConnectionRefusedError, FileNotFoundError):
                path.unlink(missing_ok=True)
            else:
                raise OSError(errno.EADDRINUSE, "another daemon listens there")
    listening = socket.socket(socket.AF_UNIX)
    try:
        listening.bind(str(path))
        # Nobody can connect before the socket listens, so mode and owner are in place in time.
        if group_id is not None:
            os.chown(path, -1, group_id)
        path.chmod(SOCKET_MODE)
    except OSError:
        listening.close()
        raise
    return listening
