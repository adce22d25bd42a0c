"""The image endpoint on the common port (facts: rpc §1.9): GET and PUT that name a storage domain in their headers."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import msgspec
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from vdsm.api.streams import ImagePlace, ImageStreams
from vdsm.core.context import Right
from vdsm.core.errors import NodeError
from vdsm.wire.bodies import check_origin
from vdsm.wire.dispatch import Dispatcher
from vdsm.wire.rest import get_origin

_CLOSE = {"connection": "close"}
_IDS = ("storage-pool-id", "storage-domain-id", "image-id")
_range = re.compile(r"bytes=0-(\d{1,18})")
_number = re.compile(r"\d{1,18}")


class _Refused(Exception):
    """A request that is malformed, with its HTTP status."""


class ImageDoor:
    """Takes such requests whatever their path is, and leaves all others to the application behind it."""

    def __init__(self, app: ASGIApp, streams: ImageStreams, dispatcher: Dispatcher) -> None:
        self._app = app
        self._streams = streams
        self._dispatcher = dispatcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in ("GET", "PUT"):
            request = HttpRequest(scope, receive, send)
            if any(name in request.headers for name in _IDS):
                response = await self._answer(request)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _answer(self, request: HttpRequest) -> Response:
        try:
            place = _read_place(request)
            size_bytes = _read_number(request, "range", _range) if request.method == "GET" else _read_length(request)
            check_origin(request)
            self._dispatcher.admit(f"{request.method} image", Right.OPERATE, get_origin(request))
            if request.method == "GET":
                return await self._read(place, size_bytes + 1)
            task_id = await self._streams.write(place, size_bytes, request.stream())
            return Response(headers={"task-id": task_id})
        except _Refused as error:
            return Response(status_code=error.args[0], headers=_CLOSE)
        except NodeError as error:
            status = {"status": {"code": error.number, "message": str(error)}}
            return Response(msgspec.json.encode(status), 500, _CLOSE, "application/json")

    async def _read(self, place: ImagePlace, size_bytes: int) -> Response:
        task_id, pieces = await self._streams.read(place, size_bytes)
        headers = {"content-length": str(size_bytes), "content-range": f"bytes 0-{size_bytes - 1}", "task-id": task_id}
        return StreamingResponse(_count(pieces, size_bytes), 206, headers, "application/octet-stream")


async def _count(pieces: AsyncGenerator[bytes, None], size_bytes: int) -> AsyncIterator[bytes]:
    async with aclosing(pieces):
        async for piece in pieces:
            size_bytes -= len(piece)
            yield piece
    if size_bytes:
        raise ClientDisconnect  # nothing else tells the client but the end of the connection


def _read_place(request: HttpRequest) -> ImagePlace:
    pool_id, domain_id, image_id = (request.headers.get(name, "").strip() for name in _IDS)
    volume_id = request.headers.get("volume-id")
    if not (pool_id and domain_id and image_id) or volume_id == "":
        raise _Refused(400)
    return ImagePlace(pool_id, domain_id, image_id, volume_id)


def _read_length(request: HttpRequest) -> int:
    if "content-length" not in request.headers:
        raise _Refused(411)
    return _read_number(request, "content-length", _number)


def _read_number(request: HttpRequest, header: str, form: re.Pattern[str]) -> int:
    found = form.fullmatch(request.headers.get(header, "").strip())
    if found is None:
        raise _Refused(400)
    return int(found[found.lastindex or 0])
