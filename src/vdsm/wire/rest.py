"""REST: resources under /api/v1 with our names and typed numbers, bound from the catalogue; documents: `openapi`."""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from vdsm.core.context import Request
from vdsm.core.errors import NodeError, shorten
from vdsm.wire.bodies import MAX_VALUES, Bodies, check_origin, holds_too_many
from vdsm.wire.dialects.forms import NUMBER_LIMIT, BadValue
from vdsm.wire.dispatch import Binding, Dispatcher, invalid, refuse
from vdsm.wire.nesting import nests_deeper
from vdsm.wire.ports import Limits

PREFIX = "/api/v1"
FLOW_LENGTH = 128
_names = re.compile(r"\{(\w+)\}")


def error_response(error: NodeError) -> Response:
    """A failure as problem document: stable code, the facts' number, text, fields, and whether a retry may help."""
    fields = {
        name: value if isinstance(value, (int, float, bool)) else shorten(str(value))
        for name, value in error.data().items()
    }
    body = {"code": error.code, "number": error.number, "message": str(error), "retry": error.retry, "fields": fields}
    headers = {"Retry-After": "1"} if error.retry and error.http == 503 else None
    return Response(msgspec.json.encode(body), error.http, headers, "application/problem+json")


def get_origin(request: HttpRequest) -> Request:
    """Who asks: the connection's origin with this request's FlowID header (facts §1.7)."""
    origin: Request = request.scope["state"]["request"]
    return replace(origin, flow_id=request.headers.get("flowid", "")[:FLOW_LENGTH])


class Reader:
    """Reads a verb's parameters from path, query and body; unknown names are refused."""

    def __init__(self, binding: Binding, bodies: Bodies, limits: Limits) -> None:
        verb = binding.verb
        fields = [
            (parameter.name, parameter.type, _default(default))
            if not required or form.optional
            else (parameter.name, parameter.type)
            for parameter, (_, _, form, required, default) in zip(
                verb.parameters, binding.shape.parameters, strict=True
            )
        ]
        self._struct = msgspec.defstruct(f"Arguments_{verb.name}", fields, forbid_unknown_fields=True, kw_only=True)
        self._path = frozenset(_names.findall(verb.http))
        self._reads_query = verb.http.split()[0] in ("GET", "DELETE")
        self._lists = frozenset(p.name for p in verb.parameters if _is_list(p.type))
        self._bodies = bodies
        self._limits = limits

    async def read(self, request: HttpRequest) -> dict[str, Any]:
        """The verb's arguments by our names; raises BadValue or NodeError."""
        if self._reads_query:
            given, origin = self._read_query(request), "query"
        else:
            async with self._bodies.reading(request) as body:
                given, origin = self._read_body(body), "body"
        for name in self._path:
            if name in given:
                raise BadValue(name, "is part of the path")
            given[name] = request.path_params[name]
        try:
            arguments = msgspec.convert(given, self._struct, strict=not self._reads_query)
        except msgspec.ValidationError as error:
            text, _, where = str(error).partition(" - at ")
            raise BadValue(where.strip("`").removeprefix("$.") or origin, text) from error
        return {name: getattr(arguments, name) for name in self._struct.__struct_fields__}

    def _read_query(self, request: HttpRequest) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for name in request.query_params:
            values = request.query_params.getlist(name)
            given[name] = values if name in self._lists else values[-1]
        return given

    def _read_body(self, body: bytes) -> dict[str, Any]:
        if not body.strip():
            return {}
        if nests_deeper(body, self._limits.nesting):
            raise BadValue("body", f"nested deeper than {self._limits.nesting}")
        if holds_too_many(body):
            raise BadValue("body", f"more than {MAX_VALUES} values")
        try:
            document = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadValue("body", str(error)) from error
        if not isinstance(document, dict):
            raise BadValue("body", "expected an object")
        _check_numbers(document)
        return document


def _check_numbers(document: Any) -> None:
    """Refuse integers that nothing here could mean; the walk is as long as the document, not as deep."""
    level = [document]
    for item in level:
        if isinstance(item, dict):
            level += item.values()
        elif isinstance(item, list):
            level += item
        elif isinstance(item, int) and not -NUMBER_LIMIT <= item < NUMBER_LIMIT:
            raise BadValue("body", "a number is out of range")


def _default(value: Any) -> Any:
    return msgspec.field(default_factory=type(value)) if isinstance(value, (list, dict)) else value


def _is_list(hint: Any) -> bool:
    return "list[" in str(hint).split(",", maxsplit=1)[0]


def _encode(binding: Binding, result: Any) -> Response:
    verb = binding.verb
    if verb.is_task:
        headers = {"Location": f"{PREFIX}/tasks/{result}"}
        return Response(msgspec.json.encode({"task": result}), 202, headers, "application/json")
    if verb.returns is type(None):
        return Response(status_code=204)
    status = 201 if verb.name.endswith(".create") else 200
    return Response(msgspec.json.encode(result), status, media_type="application/json")


def _endpoint(binding: Binding, dispatcher: Dispatcher, reader: Reader) -> Callable[[HttpRequest], Awaitable[Response]]:
    async def endpoint(request: HttpRequest) -> Response:
        origin = get_origin(request)
        try:
            check_origin(request)
            arguments = await reader.read(request)
        except BadValue as error:
            return error_response(refuse(binding, invalid(binding.verb, error), origin))
        except NodeError as error:
            return error_response(refuse(binding, error, origin))
        try:
            return _encode(binding, await dispatcher.call(binding, arguments, origin))
        except NodeError as error:
            return error_response(error)

    return endpoint


def make_routes(dispatcher: Dispatcher, bindings: Mapping[str, Binding], bodies: Bodies, limits: Limits) -> list[Route]:
    """One route a verb; paths without parameters come before those with, so that `/vms/stats` is not a VM."""
    ordered = sorted(bindings.values(), key=lambda binding: (binding.verb.http.count("{"), binding.verb.name))
    routes = []
    for binding in ordered:
        method, path = binding.verb.http.split()
        endpoint = _endpoint(binding, dispatcher, Reader(binding, bodies, limits))
        routes.append(Route(PREFIX + path, endpoint, methods=[method]))
    return routes
