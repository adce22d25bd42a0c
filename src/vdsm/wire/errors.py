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


class InvalidParams(NodeError):
    """The parameters do not fit the verb's declaration."""

    code, number, http, text = "invalid-params", -32602, 400, "Invalid parameters: {reason}"
    reason: str


class InternalCallError(NodeError):
    """Something failed in the machinery of the call that has no better name."""

    code, number, http, text = "internal-call-error", -32603, 500, "Internal JSON-RPC error: {{'reason': {reason!r}}}"
    reason: str
