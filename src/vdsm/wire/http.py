"""HTTP on the common port: uvicorn's protocol, with patience that ends; what requests mean is left to the app."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import h11
import uvicorn
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from vdsm.wire.peer import Peer
from vdsm.wire.ports import Limits

log = logging.getLogger("http")

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
"""An ASGI application. `scope["state"]` holds `peer` (Peer) and `request` (core.context.Request) of the connection."""

LOOK_S = 5.0
LAST_WORD_S = 0.3


class HttpServer:
    """All HTTP connections of the daemon."""

    def __init__(self, app: App, limits: Limits) -> None:
        async def serve(
            scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
        ) -> None:
            try:
                await app(scope, receive, send)
            except ClientDisconnect:
                log.info("a client left in the middle of its request from=%s", scope["state"]["peer"])

        self.limits = limits
        self.config = uvicorn.Config(
            serve,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            h11_max_incomplete_event_size=limits.header_bytes,
            # A client may fall silent between its requests for as long as within one: scripts poll every few seconds.
            timeout_keep_alive=math.ceil(limits.request_body_s),
        )
        self.config.load()
        self.state = ServerState()

    def make_connection(self, peer: Peer, abort: Callable[[], None]) -> "HttpConnection":
        """The protocol object for a connection that turned out to speak HTTP; `abort` resets the connection."""
        return HttpConnection(self, peer, abort)

    async def close(self, finish_s: float) -> None:
        """Let requests finish for so long, then reset their connections, at last cancel what still runs."""
        for connection in tuple(self.state.connections):
            connection.shutdown()
        if self.state.tasks:
            await asyncio.wait(tuple(self.state.tasks), timeout=finish_s)
        for connection in tuple(self.state.connections):
            if isinstance(connection, HttpConnection):
                connection.abort()
        if self.state.tasks:
            _done, late = await asyncio.wait(tuple(self.state.tasks), timeout=LAST_WORD_S)
            for task in late:
                task.cancel()


class HttpConnection(H11Protocol):
    """One client. Beyond uvicorn's protocol it ends requests that never get complete and answers that nobody reads, and
    survives untimely garbage."""

    def __init__(self, server: HttpServer, peer: Peer, abort: Callable[[], None]) -> None:
        state = {"peer": peer, "request": peer.make_request()}
        super().__init__(config=server.config, server_state=server.state, app_state=state)
        self.abort = abort
        self._limits = server.limits
        self._head_since: float | None = None
        self._heard_at = self.loop.time()
        self._unread_bytes = 0
        self._read_at = self._heard_at
        self._look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._look = self.loop.call_later(LOOK_S, self._on_look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._heard_at = self.loop.time()
        if self._head_since is None and self.conn.their_state is h11.IDLE:
            self._head_since = self._heard_at
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head_since = None

    def send_400_response(self, msg: str) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            # The application must not answer a request that was answered here.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:  # another answer is on its way already: nothing can be said in between
            self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        log.info("ignored the wish for another protocol from=%s", self.app_state["peer"])

    def shutdown(self) -> None:
        if self.transport.is_closing():
            return
        try:
            super().shutdown()
        except h11.LocalProtocolError:
            self.transport.close()

    def _on_look(self) -> None:
        now = self.loop.time()
        if self._is_late(now):
            log.info("an incomplete request timed out from=%s", self.app_state["peer"])
            self.abort()
        elif self._is_unread(now):
            log.info("cut off, as it leaves an answer unread from=%s", self.app_state["peer"])
            self.abort()
        else:
            self._look = self.loop.call_later(LOOK_S, self._on_look)

    def _is_late(self, now: float) -> bool:
        head_late = self._head_since is not None and now - self._head_since > self._limits.request_head_s
        in_body = self.conn.their_state is h11.SEND_BODY and not self.flow.read_paused
        return head_late or (in_body and now - self._heard_at > self._limits.request_body_s)

    def _is_unread(self, now: float) -> bool:
        """Whether nothing was read for long of what waits to be sent; the more waits, the shorter is long."""
        waiting_bytes = self.transport.get_write_buffer_size()
        if waiting_bytes < self._unread_bytes or not waiting_bytes:
            self._read_at = now
        self._unread_bytes = waiting_bytes
        limits = self._limits
        limit_s = 2 * limits.closing_s if waiting_bytes > limits.unsent_bytes else limits.request_body_s
        return now - self._read_at > limit_s
