"""STOMP as the daemon speaks it (facts: rpc §1.3, §1.4): connections, the message bus, answers to their askers.

What frames look like is left to `stomp`, what requests mean to `ports.Calls`. Where the original drops a connection or
lets a thread die, a client here gets an ERROR frame: after a malformed frame the connection is closed, since what
follows cannot be trusted; after any other fault it goes on.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial

from msgspec import Struct

from vdsm.core.context import Request
from vdsm.wire.heartbeat import HeartBeat, parse_heartbeat
from vdsm.wire.jsonrpc import is_unaddressed
from vdsm.wire.peer import Peer
from vdsm.wire.ports import DEFAULT_ANSWERS, FLOW_HEADER, Calls, Limits
from vdsm.wire.runner import CallRunner
from vdsm.wire.stomp import Frame, FrameError, FrameReader, format_frame
from vdsm.wire.subscriptions import Subscriptions

log = logging.getLogger("stomp")

UNFINISHED_FRAMES = 16
"""How many frames of the largest size may be half read at a time, over all connections."""
_OURS = frozenset(("subscription", "content-length", "receipt"))
"""Headers of a forwarded frame that are ours to write, or none of the receiver's business."""


class Refused(Exception):
    """A frame that is well formed and cannot be served; its text is the body of the ERROR frame."""


class Subscription(Struct, frozen=True, eq=False):
    """One listener on the message bus."""

    connection: "StompConnection"
    id: str
    destination: str
    answer_head: bytes
    """An answer's MESSAGE frame up to the figure of its `content-length`."""


class StompServer:
    """All STOMP connections of the daemon and the message bus between them."""

    def __init__(self, calls: Calls, limits: Limits, request_queues: Iterable[str]) -> None:
        self.limits = limits
        self.subscriptions: Subscriptions[Subscription] = Subscriptions()
        self._calls = calls
        self._queues = frozenset(request_queues)
        self._below_queues = tuple(f"{queue}." for queue in self._queues)
        self._connections: set[StompConnection] = set()
        self._unflushed: dict[StompConnection, None] = {}
        self._flush_due = False
        self._unfinished_bytes = 0
        self._runner = CallRunner(self.flush)

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    def make_connection(self, peer: Peer, abort: Callable[[], None]) -> "StompConnection":
        """The protocol object for a connection that turned out to speak STOMP; `abort` resets the connection."""
        return StompConnection(self, peer, abort)

    def publish(self, destination: str, body: bytes) -> int:
        """Send a JSON body (an event, say) to all who listen to destination; tells how many there are."""
        listeners = self.subscriptions.list_reached(destination)
        for listener in listeners:
            headers = (
                ("destination", destination),
                ("subscription", listener.id),
                ("content-type", "application/json"),
            )
            listener.connection.send(format_frame("MESSAGE", headers, body))
        return len(listeners)

    async def close(self, finish_s: float) -> None:
        """Let calls finish for so long, then cancel them; then close all connections."""
        await self._runner.close(finish_s)
        self.flush()
        for connection in tuple(self._connections):
            connection.close()

    # For connections.

    def add(self, connection: "StompConnection") -> None:
        """Remember an open connection."""
        self._connections.add(connection)

    def discard(self, connection: "StompConnection") -> None:
        """Forget a closed connection."""
        self._connections.discard(connection)
        self._unflushed.pop(connection, None)

    def note_unfinished(self, more_bytes: int) -> bool:
        """A connection holds so much more (or less) of a frame that is not complete; whether that is still bearable."""
        self._unfinished_bytes += more_bytes
        return self._unfinished_bytes <= UNFINISHED_FRAMES * self.limits.frame_bytes

    def is_request_queue(self, destination: str) -> bool:
        """Whether bodies sent there are requests to the daemon."""
        return destination in self._queues or destination.startswith(self._below_queues)

    def submit(self, body: bytes, request: Request, reply_to: str | None) -> None:
        """Answer a request body to all who listen to reply_to."""
        self._runner.submit(partial(self._call, body, request, reply_to))

    def forward(self, destination: str, frame: Frame) -> int:
        """Hand a client's frame to those who listen to its destination; tells how many there are."""
        listeners = self.subscriptions.list_reached(destination)
        if listeners:
            headers = [(name, value) for name, value in frame.headers.items() if name not in _OURS]
            for listener in listeners:
                listener.connection.send(format_frame("MESSAGE", [*headers, ("subscription", listener.id)], frame.body))
        return len(listeners)

    def note_unflushed(self, connection: "StompConnection", soon: bool) -> None:
        """The connection has collected output: write it soon, with what else there will be by then."""
        self._unflushed[connection] = None
        if soon and not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Write what connections have collected."""
        self._flush_due = False
        while self._unflushed:
            self._unflushed.popitem()[0].flush()

    async def _call(self, body: bytes, request: Request, reply_to: str | None) -> None:
        answer = await self._calls.call_jsonrpc(body, request)
        if answer is None:
            return
        if reply_to is not None:
            self._answer(reply_to, answer)
        if reply_to != DEFAULT_ANSWERS and (reply_to is None or is_unaddressed(answer)):
            self._answer(DEFAULT_ANSWERS, answer)

    def _answer(self, destination: str, answer: bytes) -> None:
        tail = b"%d\n\n%b\0" % (len(answer), answer)
        for listener in self.subscriptions.list_exact(destination):
            listener.connection.send(listener.answer_head + tail, soon=False)  # the runner flushes when it rests


class StompConnection(asyncio.Protocol):
    """One client. Frames are handled as they arrive, even before CONNECTED is out: clients send them back to back."""

    def __init__(self, server: StompServer, peer: Peer, abort: Callable[[], None]) -> None:
        self._server = server
        self._limits = server.limits
        self._peer = peer
        self._abort = abort
        self._request = peer.make_request()
        self._reader = FrameReader(server.limits)
        self._subscriptions: dict[str, Subscription] = {}
        self._heartbeat: HeartBeat | None = None
        self._output: list[bytes] = []
        self._output_bytes = 0
        self._unfinished_bytes = 0
        self._blocked = False
        self._ended = False
        self._handlers: dict[str, Callable[[Frame], None]] = {
            "SEND": self._on_send,
            "CONNECT": self._on_connect,
            "STOMP": self._on_connect,
            "SUBSCRIBE": self._on_subscribe,
            "UNSUBSCRIBE": self._on_unsubscribe,
            "DISCONNECT": self._on_disconnect,
        }

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._ended = True
        if self._heartbeat is not None:
            self._heartbeat.stop()
        for subscription in self._subscriptions.values():
            self._server.subscriptions.remove(subscription.destination, subscription)
        self._subscriptions.clear()
        self._output.clear()
        # Transports and protocols refer to each other: what was half read would stay until a garbage collection.
        self._reader = FrameReader(self._limits)
        self._server.note_unfinished(-self._unfinished_bytes)
        self._server.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._heartbeat is not None:
            self._heartbeat.heard()
        if self._ended:
            return
        self._reader.feed(data)
        self._handle_frames()
        more_bytes = self._reader.unread_bytes - self._unfinished_bytes
        if more_bytes:
            self._unfinished_bytes += more_bytes
            if not self._server.note_unfinished(more_bytes) and more_bytes > 0:
                self._refuse_input("too much unfinished input from all clients")

    def pause_writing(self) -> None:
        # Who does not read answers gets no more questions answered.
        self._blocked = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._blocked = False
        self._transport.resume_reading()
        self._handle_frames()

    # The server's side.

    def send(self, data: bytes, *, soon: bool = True) -> None:
        """Write soon (or when the server flushes). A client that leaves too much unread is cut off."""
        if self._ended:
            return
        if self._output_bytes + self._transport.get_write_buffer_size() > self._limits.unsent_bytes:
            self._cut_off(f"leaves more than {self._limits.unsent_bytes} bytes unread")
            return
        self._server.note_unflushed(self, soon)
        self._output.append(data)
        self._output_bytes += len(data)

    def flush(self) -> None:
        """Write what was collected."""
        if not self._output:
            return
        data = self._output[0] if len(self._output) == 1 else b"".join(self._output)
        self._output.clear()
        self._output_bytes = 0
        if self._heartbeat is not None:
            self._heartbeat.wrote()
        self._transport.write(data)

    def close(self) -> None:
        """Write what is left and end the connection; a client that does not read it is cut off after a while."""
        if self._ended:
            return
        self.flush()
        self._ended = True
        self._transport.close()
        asyncio.get_running_loop().call_later(self._limits.closing_s, self._abort)

    def _cut_off(self, reason: str) -> None:
        log.warning("cut off from=%s: the client %s", self._peer, reason)
        self._ended = True
        self._abort()

    def _beat(self) -> None:
        self._transport.write(b"\n")

    # Frames.

    def _handle_frames(self) -> None:
        while not (self._blocked or self._ended):
            try:
                frame = self._reader.get_frame()
                if frame is None:
                    return
                self._handle(frame)
            except FrameError as error:
                self._refuse_input(f"Malformed frame: {error}")
                return

    def _refuse_input(self, reason: str) -> None:
        log.warning("refused input from=%s: %s", self._peer, reason)
        self._send_error(reason)
        self.close()

    def _handle(self, frame: Frame) -> None:
        handler = self._handlers.get(frame.command)
        try:
            if handler is None:
                raise Refused(f"Unsupported command {frame.command[:100]!r}")
            handler(frame)
        except Refused as error:
            log.info("refused a frame from=%s: %s", self._peer, error)
            self._send_error(str(error), frame.headers.get("receipt"))
        else:
            if "receipt" in frame.headers and frame.command not in ("CONNECT", "STOMP"):
                self.send(format_frame("RECEIPT", (("receipt-id", frame.headers["receipt"]),)))

    def _send_error(self, text: str, receipt: str | None = None) -> None:
        headers = [("content-type", "text/plain")]
        if receipt is not None:
            headers.append(("receipt-id", receipt))
        self.send(format_frame("ERROR", headers, text.encode()))

    def _on_connect(self, frame: Frame) -> None:
        if frame.headers.get("accept-version") != "1.2":
            raise Refused("Version unsupported")
        client_sends_ms, client_wants_ms = parse_heartbeat(
            frame.headers.get("heart-beat", "0,0"), self._limits.heartbeat_ms
        )
        if self._heartbeat is not None:
            self._heartbeat.stop()
            self._heartbeat = None
        if client_sends_ms or client_wants_ms:
            loop = asyncio.get_running_loop()
            lost = partial(self._cut_off, "sends no heart-beats")
            self._heartbeat = HeartBeat(loop, client_wants_ms, client_sends_ms, self._beat, lost)
        self.send(
            format_frame("CONNECTED", (("version", "1.2"), ("heart-beat", f"{client_wants_ms},{client_sends_ms}")))
        )

    def _on_subscribe(self, frame: Frame) -> None:
        destination, id = frame.headers.get("destination"), frame.headers.get("id")
        if not destination or not id:
            raise Refused("Missing destination or subscription id header")
        if id in self._subscriptions:
            raise Refused("Subscription id already exists")
        if max(len(destination), len(id)) > self._limits.name_length:
            raise Refused(f"Destination or subscription id longer than {self._limits.name_length}")
        if len(self._subscriptions) >= self._limits.subscriptions:
            raise Refused(f"More than {self._limits.subscriptions} subscriptions")
        headers = (("destination", destination), ("subscription", id), ("content-type", "application/json"))
        answer_head = format_frame("MESSAGE", headers).removesuffix(b"\n\0") + b"content-length:"
        subscription = Subscription(self, id, destination, answer_head)
        self._subscriptions[id] = subscription
        self._server.subscriptions.add(destination, subscription)

    def _on_unsubscribe(self, frame: Frame) -> None:
        id = frame.headers.get("id")
        if not id:
            raise Refused("Missing id header")
        subscription = self._subscriptions.pop(id, None)
        if subscription is not None:
            self._server.subscriptions.remove(subscription.destination, subscription)

    def _on_send(self, frame: Frame) -> None:
        headers = frame.headers
        destination = headers.get("destination")
        if not destination:
            raise Refused("Missing destination header")
        if len(destination) > self._limits.name_length:
            raise Refused(f"Destination longer than {self._limits.name_length}")
        reached = self._server.forward(destination, frame)
        if self._server.is_request_queue(destination):
            flow_id = headers.get(FLOW_HEADER)
            request = self._request if flow_id is None else self._peer.make_request(flow_id)
            self._server.submit(frame.body, request, headers.get("reply-to"))
        elif not reached:
            raise Refused("Subscription not available")

    def _on_disconnect(self, frame: Frame) -> None:
        """A receipt, if asked for, is all that happens: the client closes (facts: rpc §1.3)."""
