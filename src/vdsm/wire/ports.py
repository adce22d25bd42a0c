"""What the doors need from the inside, and the bounds that they hold; what calls do is left to the catalogue."""

from typing import Protocol

from vdsm.core.context import Request
from vdsm.settings import MIB, Addresses, Limits

__all__ = ["DEFAULT_ANSWERS", "EVENTS", "FLOW_HEADER", "MIB", "REQUEST_QUEUES", "Calls", "Limits"]

# Destinations and headers of the STOMP dialect (facts: rpc §1.4, §1.7); clients call those that are the default.
REQUEST_QUEUES = Addresses().request_queues
EVENTS = Addresses().event_queue
DEFAULT_ANSWERS = "jms.topic.vdsm_responses"
FLOW_HEADER = "ovirtCorrelationId"


class Calls(Protocol):
    """Whoever answers JSON-RPC bodies."""

    async def call_jsonrpc(self, body: bytes, request: Request) -> bytes | None:
        """Answer one request body; None when nothing is to be answered (notifications). Never raises."""
