"""Sends hostile calls in every dialect, byte by byte as they are meant, and reads what comes back.

What values are sent is left to `hostile_values`, what must hold afterwards to `hostile_node`.
"""

import asyncio
import json
import math
import re
import socket
import struct
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, get_origin
from urllib.parse import quote
from uuid import uuid4
from xml.sax.saxutils import escape
from xmlrpc.client import Fault, loads

from msgspec import Struct

from tests.daemon.doors import Visitor
from tests.daemon.hostile_values import MISSING, Attack, Long, Nest, Number, Pairs, Patch, Word, list_fields, strip
from vdsm.api.declare import Verb, XmlRpc

PATIENCE_S = 60.0
GENERAL, INTERNAL, UNEXPECTED = 100, -32603, 16
_NAMED_EXCEPTION = re.compile(r"General Exception: \('\w+',\)$")
Dialect = Literal["jsonrpc", "positional", "xmlrpc", "rest"]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)


@dataclass(frozen=True)
class Reply:
    """What came back; `code` is None for a success, "text" what it says."""

    code: int | None
    text: str
    size_bytes: int
    result: Any = None


class World(Protocol):
    """Where the attacks go."""

    def get_good(self, verb: Verb) -> dict[str, Any]:
        """Arguments that the verb would take now, by our names."""
        ...

    def resolve(self, word: Word) -> Any:
        """What the word stands for."""
        ...

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new connection to the door."""
        ...


def assemble(attack: Attack, world: World) -> dict[str, Any]:
    """All arguments of the call by our names, the good ones among them."""
    good = world.get_good(attack.verb)
    given = {**good, **{name: _complete(value, good.get(name)) for name, value in attack.twisted.items()}}
    given |= attack.extra
    return {name: _fill(value, world) for name, value in given.items() if value is not MISSING}


def _complete(value: Any, good: Any) -> Any:
    if isinstance(value, Word) and value.name == "good":
        return good
    return Patch({**good, **value.fields}) if isinstance(value, Patch) and isinstance(good, dict) else value


def _fill(value: Any, world: World) -> Any:
    if isinstance(value, Word):
        return world.resolve(value)
    if isinstance(value, Long):
        return str(value)
    if isinstance(value, Patch):
        return {name: _fill(item, world) for name, item in value.fields.items()}
    if isinstance(value, dict):
        return {name: _fill(item, world) for name, item in value.items()}
    return [_fill(item, world) for item in value] if isinstance(value, list) else value


def rename(hint: Any, value: Any) -> Any:
    """The value in the names of the oVirt dialects; what does not fit its type stays as it is."""
    base, note = strip(hint)
    if isinstance(base, type) and issubclass(base, Struct) and isinstance(value, dict):
        fields = list_fields(base)
        return {
            (strip(fields[name])[1] or _Plain(name)).name if name in fields else name: rename(fields.get(name), item)
            for name, item in value.items()
        }
    if get_origin(base) is list and isinstance(value, list):
        return [rename(get_args(base)[0], item) for item in value]
    is_text = note is not None and note.text_only and type(value) is int
    return str(value) if is_text else value


@dataclass(frozen=True)
class _Plain:
    name: str


# How values are written.


def to_json(value: Any) -> str:
    """JSON, or what pretends to be."""
    if isinstance(value, Number):
        return value.text
    if isinstance(value, Nest):
        return '{"a":' * value.depth + "1" + "}" * value.depth if value.named else "[" * value.depth + "]" * value.depth
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(name)}:{to_json(item)}" for name, item in value.pairs) + "}"
    if isinstance(value, dict):
        return to_json(Pairs(tuple(value.items())))
    if isinstance(value, list):
        return "[" + ",".join(map(to_json, value)) + "]"
    return json.dumps(value)


def to_xml(value: Any) -> str:
    """A value of XML-RPC, or what pretends to be."""
    if isinstance(value, Nest):
        inner = ("<struct><member><name>a</name><value>", "</value></member></struct>")
        start, end = inner if value.named else ("<array><data><value>", "</value></data></array>")
        return f"<value>{start * value.depth}{end * value.depth}</value>"
    if isinstance(value, Pairs):
        inner = "".join(f"<member><name>{_to_text(name)}</name>{to_xml(item)}</member>" for name, item in value.pairs)
        return f"<value><struct>{inner}</struct></value>"
    if isinstance(value, dict):
        return to_xml(Pairs(tuple(value.items())))
    if isinstance(value, list):
        return f"<value><array><data>{''.join(map(to_xml, value))}</data></array></value>"
    return f"<value>{_to_scalar(value)}</value>"


def _to_scalar(value: Any) -> str:
    if value is None:
        return "<nil/>"
    if isinstance(value, bool):
        return f"<boolean>{int(value)}</boolean>"
    if isinstance(value, Number):
        return f"<double>{value.text}</double>" if not value.text.isdigit() else f"<int>{value.text}</int>"
    if isinstance(value, int):
        return f"<int>{value}</int>"
    return f"<double>{value!r}</double>" if isinstance(value, float) else f"<string>{_to_text(value)}</string>"


def _to_text(text: str) -> str:
    # Some of what XML cannot carry goes as a reference, some as it is.
    return re.sub("[\x00-\x08\x0e-\x1f\ufffe]", lambda found: f"&#{ord(found[0])};", escape(text))


def _to_query(value: Any) -> str:
    text = value if isinstance(value, str) else to_json(value)
    return quote(text.encode(errors="surrogatepass"), safe="")


# How calls are written.


def format_jsonrpc(attack: Attack, world: World, *, named: bool = True) -> bytes:
    """The body of a call."""
    given = assemble(attack, world)
    parameters = {parameter.name: parameter for parameter in attack.verb.parameters}
    if named:
        pairs = [
            (
                parameters[n].ovirt.name if n in parameters else n,
                rename(parameters[n].type, v) if n in parameters else v,
            )
            for n, v in given.items()
        ]
        body = to_json(Pairs(tuple(pairs)))
    else:
        body = to_json([rename(p.type, given.get(p.name)) for p in parameters.values()])
    return f'{{"jsonrpc":"2.0","id":7,"method":"{attack.verb.ovirt}","params":{body}}}'.encode()


def format_xmlrpc(attack: Attack, world: World, call: XmlRpc) -> bytes:
    """The body of a call of 2011."""
    given = assemble(attack, world)
    hints = {parameter.name: parameter.type for parameter in attack.verb.parameters}
    values = [rename(hints[n], given.get(n)) if n in hints else given.get("x", "") for n in call.parameters]
    if call.name == "createVolume" and isinstance(values[3], str) and values[3].isdigit() and len(values[3]) < 12:
        values[3] = 1  # a number is so many GiB there
    inner = "".join(f"<param>{to_xml(value)}</param>" for value in values)
    text = f"<?xml version='1.0'?><methodCall><methodName>{call.name}</methodName><params>{inner}</params></methodCall>"
    return text.encode(errors="surrogatepass")


def format_rest(attack: Attack, world: World) -> bytes:
    """The whole request."""
    given = assemble(attack, world)
    method, path = attack.verb.http.split()
    target = re.sub(r"\{(\w+)\}", lambda found: _to_query(given.pop(found[1], "")), path)
    body = b""
    if method in ("GET", "DELETE"):
        pairs = [(n, one) for n, v in given.items() for one in (v if isinstance(v, list) else [v])]
        target += "?" + "&".join(f"{_to_query(n)}={_to_query(v)}" for n, v in pairs) if pairs else ""
    else:
        body = to_json(given).encode()
    return format_http(method, f"/api/v1{target}", body)


def format_http(method: str, target: str, body: bytes, headers: str = "") -> bytes:
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode("latin-1", "replace") + body


# How calls are made.


class Stomp:
    """Calls over one STOMP connection, which is made anew when the daemon ended it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._visitor: Visitor | None = None
        self._mine = f"mine-{uuid4()}"  # whoever subscribes to one place gets all answers that go there

    async def call(self, body: bytes) -> Reply:
        """One body, which is answered or ends the connection."""
        if self._visitor is None:
            self._visitor = Visitor(*await self._world.open())
            await self._visitor.subscribe(self._mine)
        self._visitor.send("SEND", body, destination="jms.topic.vdsm_requests", reply_to=self._mine)
        async with asyncio.timeout(PATIENCE_S):
            frame = await self._visitor.get()
        if frame.command == "ERROR":
            await self.close()
            return Reply(INVALID_FRAME, frame.body.decode(), len(frame.body))
        return read_jsonrpc(frame.body)

    async def close(self) -> None:
        if self._visitor is not None:
            await hang_up(self._visitor.writer)
            self._visitor = None


INVALID_FRAME = -1


def read_jsonrpc(body: bytes) -> Reply:
    """One answer, which must be one."""
    answer = json.loads(body)
    assert answer["jsonrpc"] == "2.0" and answer["id"] in (7, None), answer
    if "result" in answer:
        assert "error" not in answer and answer["id"] == 7, answer
        return Reply(None, "", len(body), answer["result"])
    error = answer["error"]
    assert isinstance(error["code"], int) and isinstance(error["message"], str), error
    return Reply(error["code"], error["message"], len(body))


class Http:
    """Requests over one HTTP connection, which is made anew when the daemon ended it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        if self._connection is None:
            self._connection = await self._world.open()
        reader, writer = self._connection
        writer.write(request)
        async with asyncio.timeout(PATIENCE_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            status = int(head.split()[1])
            length = re.search(r"content-length: (\d+)", head)
            ends = "connection: close" in head
            body = await reader.readexactly(int(length[1])) if length else await read_to_end(reader) if ends else b""
        assert length or ends or status == 204, head
        if ends:
            await self.close()
        return status, body

    async def close(self) -> None:
        if self._connection is not None:
            await hang_up(self._connection[1])
            self._connection = None


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    """What follows, until the daemon ends the connection. If it does so while a request that is too long is still being
    sent, asyncio tells of nothing but that."""
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


def read_rest(status: int, body: bytes) -> Reply:
    """One answer of REST, which must be one."""
    if status < 300:
        return Reply(None, "", len(body), json.loads(body) if body else None)
    if status == 400 and not body.startswith(b"{"):
        return Reply(status, body.decode(), len(body))  # no HTTP, or too large a head
    problem = json.loads(body)
    assert problem["code"] and isinstance(problem["message"], str) and status >= 400, (status, problem)
    return Reply(problem["number"], f"{problem['code']}: {problem['message']}", len(body))


def read_xmlrpc(status: int, body: bytes) -> Reply:
    """One answer of 2011, which must be one."""
    if status != 200:
        assert 400 <= status < 500, (status, body)
        return Reply(status, body.decode(), len(body))
    try:
        ((answer,), _) = loads(body)
    except Fault as fault:
        return Reply(fault.faultCode, fault.faultString, len(body))
    code, text = answer["status"]["code"], answer["status"]["message"]
    return Reply(code or None, text, len(body), answer)


class Attacker:
    """Makes calls in any dialect, one after another."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._stomp = Stomp(world)
        self._http = Http(world)

    async def call(self, attack: Attack, dialect: Dialect) -> Reply:
        """One call; verbs that a dialect does not have go in another."""
        if dialect == "rest":
            return read_rest(*await self._http.ask(format_rest(attack, self._world)))
        if dialect == "xmlrpc" and attack.verb.xmlrpc:
            body = format_xmlrpc(attack, self._world, attack.verb.xmlrpc[0])
            return read_xmlrpc(*await self._http.ask(format_http("POST", "/RPC2", body)))
        return await self._stomp.call(format_jsonrpc(attack, self._world, named=dialect != "positional"))

    async def say(self, attack: Attack, dialect: Dialect, share: float) -> None:
        """Say so much of the call, and leave: politely at first, without a word after a half."""
        if dialect == "rest":
            data = format_rest(attack, self._world)
        elif dialect == "xmlrpc" and attack.verb.xmlrpc:
            data = format_http("POST", "/", format_xmlrpc(attack, self._world, attack.verb.xmlrpc[0]))
        else:
            body = format_jsonrpc(attack, self._world, named=dialect == "jsonrpc")
            data = b"SEND\ndestination:jms.topic.vdsm_requests\nreply-to:x\n\n" + body + b"\0"
        _, writer = await self._world.open()
        with suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_S):
                writer.write(data[: math.ceil(len(data) * share)])
                await writer.drain()
        await hang_up(writer, politely=share < 0.5)

    async def close(self) -> None:
        await self._stomp.close()
        await self._http.close()


@asynccontextmanager
async def attacking(world: World, count: int = 1) -> Any:
    """So many attackers."""
    attackers = [Attacker(world) for _ in range(count)]
    try:
        yield attackers
    finally:
        for attacker in attackers:
            await attacker.close()


async def hang_up(writer: asyncio.StreamWriter, *, politely: bool = True) -> None:
    """Close the connection, or reset it; also when the other side waits for us to read."""
    raw = writer.get_extra_info("socket")
    if not politely and raw is not None and raw.family != socket.AF_UNIX:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if not politely:
        writer.transport.abort()
    elif not writer.is_closing():  # asyncio's TLS transport cannot be aborted any more once it was closed twice
        writer.close()
    try:
        async with asyncio.timeout(1):
            await writer.wait_closed()
    except TimeoutError:
        with suppress(AttributeError):  # it closed at that moment: asyncio's transport has no loop any more
            writer.transport.abort()
    except OSError:
        return


def is_unforeseen(reply: Reply, dialect: Dialect) -> bool:
    """Whether the daemon met something that nobody thought of; its answer then names the exception and no more."""
    number = UNEXPECTED if dialect == "xmlrpc" else GENERAL
    return reply.code == INTERNAL or (reply.code == number and _NAMED_EXCEPTION.search(reply.text) is not None)
