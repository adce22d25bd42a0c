"""JSON-RPC 2.0 envelopes: bodies in, bodies out (facts: rpc §1.5); what methods there are is left to `invoke`."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from vdsm.core.context import Request, set_request
from vdsm.core.errors import NodeError, ResourceExhausted
from vdsm.wire.errors import InternalCallError, InvalidRequest, ParseFailed
from vdsm.wire.nesting import nests_deeper
from vdsm.wire.ports import Limits

log = logging.getLogger("jsonrpc")

Invoke = Callable[[str, Raw, Request], Awaitable[Raw | bytes]]
"""Does one call: method, encoded parameters, origin; gives the encoded result. Raises NodeError."""

Id = str | int | float | None | UnsetType


class Call(msgspec.Struct, gc=False):
    """One request as it travels. `params` holds an object or an array, unparsed; without `id` it is a notification."""

    method: str
    jsonrpc: str = ""
    params: Raw = Raw(b"{}")
    id: Id = UNSET


_single = msgspec.json.Decoder(Call)
_lone = msgspec.json.Decoder(tuple[Call])
_elements = msgspec.json.Decoder(list[Raw])
_skipping = msgspec.json.Decoder(Raw)
_encode = msgspec.json.encode

_CONTAINERS = (b"{", b"[")
_UNADDRESSED = b'{"jsonrpc":"2.0","id":null,'


def is_unaddressed(answer: bytes) -> bool:
    """Whether an answer has no id to tell whose it is; such answers go to the default topic (facts: rpc §1.4)."""
    return answer.startswith(_UNADDRESSED)


def format_result(id: Id, result: Raw | bytes) -> bytes:
    """A success."""
    return b"".join((b'{"jsonrpc":"2.0","id":', _encode(id), b',"result":', result, b"}"))


def format_error(id: Id, error: NodeError) -> bytes:
    """A failure, with the error's number as code and its text as message."""
    told = _encode({"code": error.number, "message": str(error)})
    return b"".join((b'{"jsonrpc":"2.0","id":', _encode(id), b',"error":', told, b"}"))


def format_notification(method: str, params: Any) -> bytes:
    """An event."""
    return _encode({"jsonrpc": "2.0", "method": method, "params": params})


class JsonRpc:
    """Implements `ports.Calls` on an injected `invoke`, which the envelope knows nothing else about.

    Calls in flight are bounded in number and in bytes over all clients; beyond that, new ones are answered with
    ResourceExhausted (code 1100) and not started.
    """

    def __init__(self, invoke: Invoke, limits: Limits) -> None:
        self._invoke = invoke
        self._limits = limits
        self._calls = 0
        self._bytes = 0

    async def call_jsonrpc(self, body: bytes, request: Request) -> bytes | None:
        """Answer one body: an object to a call or a batch of one, an array to a longer batch, None to notifications."""
        try:
            calls = self._parse(body)
        except NodeError as error:
            return format_error(None, error)
        size = len(body)
        self._bytes += size
        try:
            if len(calls) == 1:
                return await self._answer(calls[0], request)
            answers = await asyncio.gather(*(self._answer(call, request) for call in calls))
        finally:
            self._bytes -= size
        given = [answer for answer in answers if answer is not None]
        if len(given) > 1:
            return b"[" + b",".join(given) + b"]"
        return given[0] if given else None

    def _parse(self, body: bytes) -> list[Call | NodeError]:
        """The calls of a body, or in their place what is wrong with them. Raises what is wrong with the whole."""
        try:
            if not body.isascii():
                body.decode()
            if nests_deeper(body, self._limits.nesting):
                raise ParseFailed(f"nested deeper than {self._limits.nesting}")
            if body.lstrip(b" \t\r\n")[:1] == b"[":
                return self._parse_array(body)
            return [_parse_object(body)]
        except (ValueError, RecursionError) as error:
            raise ParseFailed(str(error)) from error

    def _parse_array(self, body: bytes) -> list[Call | NodeError]:
        try:
            return list(_lone.decode(body))
        except msgspec.ValidationError as error:
            if len(body) > self._limits.batch_bytes:
                # A lone request may be large, but a large array of small values would cost many times its size.
                raise InvalidRequest(f"too long for a batch, and no lone request: {error}") from error
        elements = _elements.decode(body)
        if not 0 < len(elements) <= self._limits.batch:
            raise InvalidRequest(f"a batch holds 1 to {self._limits.batch} requests")
        return [_parse_object(element) for element in elements]

    async def _answer(self, call: Call | NodeError, request: Request) -> bytes | None:
        if isinstance(call, NodeError):
            return format_error(None, call)
        self._calls += 1
        try:
            self._check(call)
            set_request(request)
            result = await self._invoke(call.method, call.params, request)
        except InvalidRequest as error:
            return format_error(None, error)
        except NodeError as error:
            return None if call.id is UNSET else format_error(call.id, error)
        except Exception as error:
            log.exception("call of %.100s failed in its machinery", call.method)
            return None if call.id is UNSET else format_error(call.id, InternalCallError(str(error)))
        finally:
            self._calls -= 1
        return None if call.id is UNSET else format_result(call.id, result)

    def _check(self, call: Call) -> None:
        if call.jsonrpc != "2.0":
            raise InvalidRequest("jsonrpc is not '2.0'")
        if memoryview(call.params)[:1] not in _CONTAINERS:
            raise InvalidRequest("params are neither an object nor an array")
        if self._calls > self._limits.calls_in_flight or self._bytes > self._limits.call_bytes_in_flight:
            raise ResourceExhausted("request queue")


def _parse_object(body: bytes | Raw) -> Call | NodeError:
    """One request, or what is wrong with it. Raises ValueError when it is no JSON."""
    try:
        return _single.decode(body)
    except msgspec.ValidationError as error:
        # Validation stops at the first fault: the rest may be no JSON at all.
        with suppress(msgspec.ValidationError):
            _skipping.decode(body)
        return InvalidRequest(str(error))
