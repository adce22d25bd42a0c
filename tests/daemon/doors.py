"""Live doors on loopback with calls that tests can steer, and a STOMP client that says exactly what it is told."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vdsm.core.context import Request
from vdsm.core.errors import GeneralFailure
from vdsm.wire.errors import MethodNotFound
from vdsm.wire.jsonrpc import JsonRpc
from vdsm.wire.listener import Doors
from vdsm.wire.ports import REQUEST_QUEUES, Limits
from vdsm.wire.stomp import Frame, FrameReader, format_frame
from vdsm.wire.tls import ServerContexts, TlsFiles

REQUESTS = REQUEST_QUEUES[0]
LIMITS = Limits()
PATIENCE_S = 20.0


class Calls:
    """`Test.echo` gives its params, `Test.hold` waits for `release`, `Test.large` answers with so many bytes."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.held = 0
        self.ended: list[str] = []

    async def invoke(self, method: str, params: Raw, request: Request) -> bytes:
        match method:
            case "Test.echo":
                return bytes(params)
            case "Test.whoami":
                return msgspec.json.encode(
                    [request.client_host, request.local_address, request.flow_id, request.right.name]
                )
            case "Test.fail":
                raise GeneralFailure("no luck")
            case "Test.large":
                return msgspec.json.encode("x" * msgspec.json.decode(params)["size"])
            case "Test.hold":
                return await self._hold()
        raise MethodNotFound(method)

    async def _hold(self) -> bytes:
        self.held += 1
        try:
            await self.release.wait()
            self.ended.append("done")
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        finally:
            self.held -= 1
        return b"true"


async def show_origin(request: HttpRequest) -> Response:
    """What the application learns of the connection."""
    origin: Request = request.scope["state"]["request"]
    shown = [request.url.scheme, request.scope["client"], origin.client_host, origin.right.name]
    return JSONResponse([*shown, len(await request.body())])


async def show_much(request: HttpRequest) -> Response:
    """So many bytes."""
    return Response(b"x" * request.path_params["size"])


@asynccontextmanager
async def opened(limits: Limits = LIMITS, pki: Path | None = None, **options: Any) -> AsyncIterator["House"]:
    """Doors without a socket yet."""
    calls = Calls()
    app = Starlette(
        routes=[Route("/origin", show_origin, methods=["GET", "POST"]), Route("/large/{size:int}", show_much)]
    )
    contexts = ServerContexts(TlsFiles.below(pki)) if pki else None
    doors = Doors(JsonRpc(calls.invoke, limits), app, limits, contexts, **options)
    try:
        yield House(doors, calls)
    finally:
        await doors.close(0)


@asynccontextmanager
async def listening(limits: Limits = LIMITS, pki: Path | None = None, **options: Any) -> AsyncIterator["House"]:
    """Doors open on a loopback port: TLS when there are certificates."""
    async with opened(limits, pki, **options) as house:
        house.port = await house.doors.open_tcp("127.0.0.1", 0, tls=pki is not None)
        yield house


class House:
    """What `listening` opened."""

    def __init__(self, doors: Doors, calls: Calls) -> None:
        self.doors = doors
        self.calls = calls
        self.port = 0

    @asynccontextmanager
    async def visit(self, context: ssl.SSLContext | None = None) -> AsyncIterator["Visitor"]:
        """One connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context)
        try:
            yield Visitor(reader, writer)
        finally:
            writer.transport.abort()

    async def check_alive(self) -> None:
        """A new client gets an answer."""
        async with self.visit() as visitor:
            await visitor.subscribe("alive")
            visitor.call("Test.echo", {"a": 1}, "alive")
            assert (await visitor.get_answer())["result"] == {"a": 1}


class Visitor:
    """A raw client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._frames = FrameReader(Limits())

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    def send(self, command: str, body: bytes = b"", **headers: str) -> None:
        """A frame; underscores in names stand for dashes."""
        named = [(name.replace("_", "-"), value) for name, value in headers.items()]
        self.say(format_frame(command, named, body))

    async def subscribe(self, destination: str, id: str = "s1") -> None:
        """Subscribe, and wait until that is done."""
        self.send("SUBSCRIBE", destination=destination, id=id, receipt=f"r-{id}")
        frame = await self.get()
        assert frame == Frame("RECEIPT", {"receipt-id": f"r-{id}"}), frame

    def call(self, method: str, params: Any, reply_to: str, id: str = "1", **headers: str) -> None:
        body = json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": id}).encode()
        self.send("SEND", body, destination=REQUESTS, reply_to=reply_to, **headers)

    async def get(self) -> Frame:
        """The next frame; EOFError when the connection ends first."""
        while (frame := self._frames.get_frame()) is None:
            async with asyncio.timeout(PATIENCE_S):
                data = await self.reader.read(1 << 16)
            if not data:
                raise EOFError
            self._frames.feed(data)
        return frame

    async def get_answer(self) -> Any:
        frame = await self.get()
        assert frame.command == "MESSAGE", frame
        return json.loads(frame.body)

    async def get_error(self) -> str:
        frame = await self.get()
        assert frame.command == "ERROR", frame
        return frame.body.decode()

    async def read_to_end(self) -> bytes:
        """All that comes until the other side closes."""
        async with asyncio.timeout(PATIENCE_S):
            parts = []
            try:
                while part := await self.reader.read(1 << 16):
                    parts.append(part)
            except ConnectionError:
                pass
            return b"".join(parts)


async def wait_for(condition: Any) -> None:
    """Until condition() holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.002)
