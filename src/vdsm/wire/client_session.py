"""A client's side of STOMP without I/O: what to send for a call, what came for whom; sockets are left to `client`."""

import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from vdsm.wire.ports import EVENTS, FLOW_HEADER, MIB, REQUEST_QUEUES, Limits
from vdsm.wire.stomp import Frame, FrameError, FrameReader, format_frame
from vdsm.wire.tls import TlsFiles

REQUESTS = REQUEST_QUEUES[0]
EVENTS_KEPT = 10_000
_LIMITS = Limits(frame_bytes=256 * MIB)

Params = Mapping[str, Any] | Sequence[Any]


class ClientFailure(Exception):
    """A connection or a call that failed."""


class ConnectionFailed(ClientFailure):
    """The node cannot be reached, refused us, or the connection was lost; a call may or may not have been done."""


class CallTimedOut(ClientFailure):
    """No answer within the time; the node may still be at it."""


class CallFailed(ClientFailure):
    """The node's own answer: the call failed. `code` is the number of facts rpc §10."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} (code {self.code})"


class Address(Struct, frozen=True):
    """Where a node is: a unix socket, or host and port with TLS files (without them: plain, on loopback only)."""

    host: str = "localhost"
    port: int = 54321
    tls: TlsFiles | None = None
    socket_path: Path | None = None

    def __str__(self) -> str:
        return str(self.socket_path) if self.socket_path else f"{self.host} port {self.port}"


class Notice(Struct, frozen=True):
    """An event that the node sent: the notification's method and parameters."""

    method: str
    params: Any
    destination: str = EVENTS
    subscription: str = ""


class Answer(msgspec.Struct):
    """Whatever a MESSAGE carries: an answer (id) or an event (method)."""

    id: str | int | float | None = None
    result: Any = None
    error: dict[str, Any] | None = None
    method: str | None = None
    params: Any = None


_decode = msgspec.json.Decoder(Answer).decode
_encode = msgspec.json.encode


class Session:
    """The bytes of one connection. `waiting` has the ids of calls without an answer, `answers` those that came."""

    def __init__(self) -> None:
        self._reader = FrameReader(_LIMITS)
        self._reply_to = str(uuid.uuid4())
        self._prefix = uuid.uuid4().hex
        self._last = 0
        self._last_subscription = 0
        self._head = self._format_head("")
        self.notices: deque[Notice] = deque(maxlen=EVENTS_KEPT)
        self.answers: dict[str, Answer] = {}
        self.waiting: set[str] = set()
        self.refusal = ""
        """The text of the last ERROR frame."""

    def get_greeting(self) -> bytes:
        """What to send first."""
        greeting = format_frame("CONNECT", (("accept-version", "1.2"), ("heart-beat", "0,0")))
        return greeting + self.format_subscription(self._reply_to)[1]

    def format_subscription(self, destination: str) -> tuple[str, bytes]:
        """The id of a new subscription, and the frame for it."""
        self._last_subscription += 1
        id = str(self._last_subscription)
        return id, format_frame("SUBSCRIBE", (("destination", destination), ("id", id), ("ack", "auto")))

    def format_call(self, method: str, params: Params | None, flow_id: str = "") -> tuple[str, bytes]:
        """The id of a new call, and the frame for it: an array of one request, as nodes of all ages take it."""
        self._last += 1
        id = f"{self._prefix}-{self._last}"
        body = _encode([{"jsonrpc": "2.0", "method": method, "params": {} if params is None else params, "id": id}])
        self.waiting.add(id)
        head = self._format_head(flow_id) if flow_id else self._head
        return id, b"%b%d\n\n%b\0" % (head, len(body), body)

    def feed(self, data: bytes) -> list[str]:
        """Take what arrived; gives the ids of the calls that it answers. Raises ConnectionFailed if it is no STOMP."""
        self._reader.feed(data)
        answered: list[str] = []
        try:
            while (frame := self._reader.get_frame()) is not None:
                if frame.command == "MESSAGE":
                    self._take(frame, answered)
                elif frame.command == "ERROR":
                    self.refusal = frame.body.decode(errors="replace")
        except FrameError as error:
            raise ConnectionFailed(f"the node sent what cannot be understood: {error}") from error
        return answered

    def get_result(self, id: str) -> Any:
        """The result of a call whose answer arrived. Raises CallFailed."""
        answer = self.answers.pop(id)
        if answer.error is not None:
            raise CallFailed(int(answer.error.get("code", -32603)), str(answer.error.get("message", "")))
        return answer.result

    def forget(self, id: str) -> None:
        """Nobody waits for this answer any more."""
        self.waiting.discard(id)
        self.answers.pop(id, None)

    def explain_end(self, where: Address) -> ConnectionFailed:
        """Why the node may have closed the connection."""
        return ConnectionFailed(f"{where} closed the connection" + (f": {self.refusal}" if self.refusal else ""))

    def _take(self, frame: Frame, answered: list[str]) -> None:
        try:
            answer = _decode(frame.body)
        except (ValueError, RecursionError):
            return  # anybody may publish anything where we listen
        if answer.method is not None:
            headers = frame.headers
            source = headers.get("destination", ""), headers.get("subscription", "")
            self.notices.append(Notice(answer.method, answer.params, *source))
        elif answer.id in self.waiting:
            id = str(answer.id)
            self.waiting.discard(id)
            self.answers[id] = answer
            answered.append(id)

    def _format_head(self, flow_id: str) -> bytes:
        headers = [("destination", REQUESTS), ("reply-to", self._reply_to)]
        if flow_id:
            headers.append((FLOW_HEADER, flow_id))
        return format_frame("SEND", headers).removesuffix(b"\n\0") + b"content-length:"
