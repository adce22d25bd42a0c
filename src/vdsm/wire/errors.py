"""Failures of the call itself: JSON-RPC's own codes (facts: rpc §1.5); the failures of verbs live with the api."""

from vdsm.core.errors import NodeError


class ParseFailed(NodeError):
    """The body is not JSON, or nests deeper than the limit."""

    code, number, http, text = "parse-failed", -32700, 400, "Parse error: {reason}"
    reason: str


class InvalidRequest(NodeError):
    """The body is JSON, but no JSON-RPC 2.0 request."""

    code, number, http, text = "invalid-request", -32600, 400, "Invalid request: {reason}"
    reason: str


class MethodNotFound(NodeError):
    """No verb of that name exists in the dialect that was spoken."""

    code, number, http, text = "method-not-found", -32601, 404, "Method not found: {method}"
    method: str


class MethodNotAllowed(NodeError):
    """The resource is there, but does not take this HTTP method."""

    code, number, http, text = "method-not-allowed", -32601, 405, "Method not allowed: {method}"
    method: str


class BodyTooLarge(NodeError):
    """An HTTP request's body is larger than its kind may be."""

    code, number, http, text = "body-too-large", 1100, 413, "the request body is larger than {most_bytes} bytes"
    most_bytes: int


class ForeignOrigin(NodeError):
    """A browser sent this for a page that is not the daemon's."""

    code, number, http, text = "foreign-origin", 16, 403, "requests for pages of {origin} are refused"
    origin: str


class InvalidParams(NodeError):
    """The parameters do not fit the verb's declaration."""

    code, number, http, text = "invalid-params", -32602, 400, "Invalid parameters: {reason}"
    reason: str


class InternalCallError(NodeError):
    """Something failed in the machinery of the call that has no better name."""

    code, number, http, text = "internal-call-error", -32603, 500, "Internal JSON-RPC error: {{'reason': {reason!r}}}"
    reason: str
