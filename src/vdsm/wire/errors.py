"""Failures of the call itself: JSON-RPC's own codes (facts: rpc §1.5); the failures of verbs live with the api."""

from vdsm.core.errors import Failure, NodeError


class ParseFailed(Failure, number=-32700, http=400, text="Parse error: {reason}"):
    """The body is not JSON, or nests deeper than the limit."""


class InvalidRequest(Failure, number=-32600, http=400, text="Invalid request: {reason}"):
    """The body is JSON, but no JSON-RPC 2.0 request."""


class MethodNotFound(NodeError, number=-32601, http=404, text="Method not found: {method}"):
    """No verb of that name exists in the dialect that was spoken."""

    method: str


class MethodNotAllowed(NodeError, number=-32601, http=405, text="Method not allowed: {method}"):
    """The resource is there, but does not take this HTTP method."""

    method: str


class BodyTooLarge(NodeError, number=1100, http=413, text="the request body is larger than {most_bytes} bytes"):
    """An HTTP request's body is larger than its kind may be."""

    most_bytes: int


class ForeignOrigin(NodeError, number=16, http=403, text="requests for pages of {origin} are refused"):
    """A browser sent this for a page that is not the daemon's."""

    origin: str


class InvalidParams(Failure, number=-32602, http=400, text="Invalid parameters: {reason}"):
    """The parameters do not fit the verb's declaration."""


class InternalCallError(Failure, number=-32603, text="Internal JSON-RPC error: {{'reason': {reason!r}}}"):
    """Something failed in the machinery of the call that has no better name."""
