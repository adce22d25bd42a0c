"""What the doors need from the inside, and the bounds that they hold; what calls do is left to the catalogue."""

from dataclasses import dataclass
from typing import Protocol

from vdsm.core.context import Request

MIB = 1 << 20

# Destinations and headers of the STOMP dialect (facts: rpc §1.4, §1.7).
REQUEST_QUEUES = ("jms.topic.vdsm_requests", "jms.topic.vdsm_irs_requests")
DEFAULT_ANSWERS = "jms.topic.vdsm_responses"
EVENTS = "jms.queue.events"
FLOW_HEADER = "ovirtCorrelationId"


class Calls(Protocol):
    """Whoever answers JSON-RPC bodies."""

    async def call_jsonrpc(self, body: bytes, request: Request) -> bytes | None:
        """Answer one request body; None when nothing is to be answered (notifications). Never raises."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that keep one client from hurting others; each is a setting of the daemon."""

    frame_bytes: int = 16 * MIB
    header_bytes: int = 64 * 1024
    unsent_bytes: int = 8 * MIB
    """A client that leaves more than this unread is cut off."""
    nesting: int = 64
    batch: int = 1000
    """Requests in one JSON-RPC body."""
    batch_bytes: int = MIB
    calls_in_flight: int = 1000
    call_bytes_in_flight: int = 64 * MIB
    connections: int = 1000
    unproven_connections: int = 200
    """Connections that are still in TLS handshake or protocol detection; beyond it the oldest goes."""
    subscriptions: int = 1000
    """Subscriptions of one connection."""
    name_length: int = 1024
    """Characters of a destination or of a subscription id."""
    handshake_s: float = 10.0
    detection_s: float = 10.0
    closing_s: float = 5.0
    """How long a client may take to read its last words before the connection is reset."""
    request_head_s: float = 10.0
    request_body_s: float = 60.0
    """Silence in the middle of an HTTP request's body that ends the connection."""
    heartbeat_ms: int = 1000
    """The shortest heart-beat that is agreed on (facts: rpc §1.3)."""
