"""REST: resources under /api/v1 with our names and typed numbers, bound from the catalogue; documents are left to `openapi`."""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from vdsm.core.context import Request
from vdsm.core.errors import InvalidArgument, NodeError, ResourceExhausted
from vdsm.wire.dispatch import Binding, Dispatcher
from vdsm.wire.nesting import nests_deeper

PREFIX = "/api/v1"
MAX_BODY = 16 * 1024 * 1024
MAX_NESTING = 64
_names = re.compile(r"\{(\w+)\}")


def error_response(error: NodeError) -> Response:
    """A failure as problem document: stable code, the facts' number, text, fields, and whether a retry may help."""
    body = {
        "code": error.code,
        "number": error.number,
        "message": str(error),
        "retry": error.retry,
        "fields": {name: value if isinstance(value, (str, int, float, bool)) else str(value) for name, value in error.data().items()},
    }
    headers = {"Retry-After": "1"} if error.retry and error.http == 503 else None
    return Response(msgspec.json.encode(body), error.http, headers, "application/problem+json")


def get_origin(request: HttpRequest) -> Request:
    """Who asks: the connection's origin with this request's FlowID header (facts §1.7)."""
    origin: Request = request.scope["state"]["request"]
    return replace(origin, flow_id=request.headers.get("flowid", "")[:128])


async def read_body(request: HttpRequest) -> bytes:
    """The whole body; ResourceExhausted when it is larger than 16 MiB."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise ResourceExhausted("the request body is larger than 16 MiB")
        parts.append(part)
    return b"".join(parts)


class Reader:
    """Reads a verb's parameters from path, query and body; unknown names are refused."""

    def __init__(self, binding: Binding) -> None:
        verb = binding.verb
        path = set(_names.findall(verb.http))
        reads_query = verb.http.split()[0] in ("GET", "DELETE")
        fields = [
            (p.name, p.type) if p.default is inspect.Parameter.empty else (p.name, p.type, _default(p.default)) for p in verb.parameters
        ]
        self._struct = msgspec.defstruct(f"Arguments_{verb.name}", fields, forbid_unknown_fields=True, kw_only=True)
        self._path = path
        self._reads_query = reads_query
        self._lists = {p.name for p in verb.parameters if _is_list(p.type)}

    async def read(self, request: HttpRequest) -> dict[str, Any]:
        """The verb's arguments by our names; raises msgspec.ValidationError or NodeError."""
        given: dict[str, Any] = {}
        if self._reads_query:
            for name in request.query_params:
                values = request.query_params.getlist(name)
                given[name] = values if name in self._lists else values[-1]
        else:
            body = await read_body(request)
            if body.strip():
                if nests_deeper(body, MAX_NESTING):
                    raise InvalidArgument("body", f"nested deeper than {MAX_NESTING}")
                document = msgspec.json.decode(body)
                if not isinstance(document, dict):
                    raise InvalidArgument("body", "expected an object")
                given = document
        for name in self._path:
            given[name] = request.path_params[name]
        arguments = msgspec.convert(given, self._struct, strict=not self._reads_query)
        return {name: getattr(arguments, name) for name in self._struct.__struct_fields__}


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


def _endpoint(binding: Binding, dispatcher: Dispatcher) -> Callable[[HttpRequest], Awaitable[Response]]:
    reader = Reader(binding)

    async def endpoint(request: HttpRequest) -> Response:
        try:
            arguments = await reader.read(request)
            result = await dispatcher.call(binding, arguments, get_origin(request))
        except NodeError as error:
            return error_response(error)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            text, _, where = str(error).partition(" - at ")
            return error_response(InvalidArgument(where.strip("`") or "body", text))
        return _encode(binding, result)

    return endpoint


def make_routes(dispatcher: Dispatcher, bindings: Mapping[str, Binding]) -> list[Route]:
    """One route a verb; paths without parameters come before those with, so that `/vms/stats` is not a VM."""
    ordered = sorted(bindings.values(), key=lambda binding: (binding.verb.http.count("{"), binding.verb.name))
    routes = []
    for binding in ordered:
        method, path = binding.verb.http.split()
        routes.append(Route(PREFIX + path, _endpoint(binding, dispatcher), methods=[method]))
    return routes
