"""The HTTP application behind the port: REST, its documents, the event stream and the calls of 2011.

Connections are left to `listener` and `http`.
"""

import asyncio
from collections.abc import Mapping

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Match, Route

from vdsm.api.streams import ImageStreams
from vdsm.core.errors import GeneralFailure, NodeError
from vdsm.wire.bodies import MAX_XML_BYTES, Bodies, check_origin
from vdsm.wire.dialects.xmlrpc import BadCall, XmlRpcDialect, parse_call
from vdsm.wire.dispatch import Binding, Dispatcher
from vdsm.wire.errors import MethodNotAllowed, MethodNotFound
from vdsm.wire.images import ImageDoor
from vdsm.wire.openapi import describe_api, format_page
from vdsm.wire.ports import Limits
from vdsm.wire.rest import PREFIX, error_response, get_origin, make_routes

PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The page needs nothing from anywhere, and browsers see to it."""
PARSED_ON_THE_LOOP_BYTES = 64 * 1024
"""Larger calls of 2011 are parsed in a thread, so that they hold up nobody else."""


class _XmlRpcDoor:
    """POST on `/` and `/RPC2` (facts §1.15)."""

    def __init__(self, dispatcher: Dispatcher, bodies: Bodies) -> None:
        self._dialect = XmlRpcDialect(dispatcher)
        self._bodies = bodies

    async def answer(self, request: HttpRequest) -> Response:
        """One call. A body that is none is HTTP status 400."""
        try:
            check_origin(request)
            async with self._bodies.reading(request, MAX_XML_BYTES) as body:
                if len(body) > PARSED_ON_THE_LOOP_BYTES:
                    method, parameters = await asyncio.to_thread(parse_call, body)
                else:
                    method, parameters = parse_call(body)
            answer = await self._dialect.answer(method, parameters, get_origin(request))
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
        return HTMLResponse(self._page, headers={"Content-Security-Policy": PAGE_POLICY})


async def _not_found(request: HttpRequest, _error: Exception) -> Response:
    return error_response(MethodNotFound(f"{request.method} {request.url.path[:200]}"))


async def _not_allowed(request: HttpRequest, _error: Exception) -> Response:
    response = error_response(MethodNotAllowed(f"{request.method} {request.url.path[:200]}"))
    response.headers["Allow"] = ", ".join(sorted(_list_methods(request.app.routes, request)))
    return response


async def _failed(_request: HttpRequest, error: Exception) -> Response:
    """For what no handler foresaw; the server that called the application logs it."""
    return error_response(GeneralFailure(f"('{type(error).__name__}',)"))


def _list_methods(routes: list[BaseRoute], request: HttpRequest) -> set[str]:
    """What the resource does take; each method is a route of its own."""
    found: set[str] = set()
    for route in routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return found


def make_app(
    dispatcher: Dispatcher,
    bindings: Mapping[str, Binding],
    streams: list[Route],
    limits: Limits | None = None,
    images: ImageStreams | None = None,
) -> Starlette:
    """The application; `streams` are routes that last, such as the event stream; `images` serves the image endpoint."""
    limits = limits or Limits()
    bodies = Bodies(limits)
    documents = _Documents(bindings)
    door = _XmlRpcDoor(dispatcher, bodies)
    routes = [
        Route("/", door.answer, methods=["POST"]),
        Route("/RPC2", door.answer, methods=["POST"]),
        Route(f"{PREFIX}/openapi.json", documents.get_contract),
        Route(f"{PREFIX}/docs", documents.get_page),
        *streams,
        *make_routes(dispatcher, bindings, bodies, limits),
    ]
    handlers = {404: _not_found, 405: _not_allowed, Exception: _failed}
    doors = [] if images is None else [Middleware(ImageDoor, streams=images, dispatcher=dispatcher)]
    app = Starlette(routes=routes, exception_handlers=handlers, middleware=doors)
    app.router.redirect_slashes = False
    return app
