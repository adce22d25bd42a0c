"""The HTTP application behind the port: REST, its documents, the event stream and the calls of 2011; connections are left to `listener`."""

from collections.abc import Mapping

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from vdsm.core.errors import NodeError
from vdsm.wire.dialects.xmlrpc import BadCall, XmlRpcDialect
from vdsm.wire.dispatch import Binding, Dispatcher
from vdsm.wire.errors import MethodNotFound
from vdsm.wire.openapi import describe_api, format_page
from vdsm.wire.rest import PREFIX, error_response, get_origin, make_routes, read_body


class _XmlRpcDoor:
    """POST on `/` and `/RPC2` (facts §1.15)."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dialect = XmlRpcDialect(dispatcher)

    async def __call__(self, request: HttpRequest) -> Response:
        try:
            answer = await self._dialect.answer(await read_body(request), get_origin(request))
        except BadCall as error:
            return PlainTextResponse(f"{error}\n", 400)
        except NodeError as error:
            return error_response(error)
        return Response(answer, media_type="text/xml")


class _Documents:
    """The contract and its page, made once when first asked for."""

    def __init__(self, bindings: Mapping[str, Binding]) -> None:
        self._verbs = [binding.verb for binding in bindings.values()]
        self._contract: bytes | None = None
        self._page: str | None = None

    async def get_contract(self, _request: HttpRequest) -> Response:
        """openapi.json."""
        if self._contract is None:
            self._contract = msgspec.json.encode(describe_api(self._verbs))
        return Response(self._contract, media_type="application/json")

    async def get_page(self, _request: HttpRequest) -> Response:
        """The same for people."""
        if self._page is None:
            self._page = format_page(describe_api(self._verbs))
        return HTMLResponse(self._page)


async def _not_found(request: HttpRequest, _error: Exception) -> Response:
    return error_response(MethodNotFound(f"{request.method} {request.url.path[:200]}"))


def make_app(dispatcher: Dispatcher, bindings: Mapping[str, Binding], streams: list[Route]) -> Starlette:
    """The application; `streams` are routes that last, such as the event stream."""
    documents = _Documents(bindings)
    door = _XmlRpcDoor(dispatcher)
    routes = [
        Route("/", door.__call__, methods=["POST"]),
        Route("/RPC2", door.__call__, methods=["POST"]),
        Route(f"{PREFIX}/openapi.json", documents.get_contract),
        Route(f"{PREFIX}/docs", documents.get_page),
        *streams,
        *make_routes(dispatcher, bindings),
    ]
    return Starlette(routes=routes, exception_handlers={404: _not_found, 405: _not_found})
