"""Images over plain HTTP on the common port (facts: rpc §1.9), and to and from HTTP servers (facts: storage §9.9)."""

import asyncio
import contextlib
import hashlib
import json
import os
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.running import Furniture, Running, furnish_storage, make_id
from tests.daemon.test_jobs import MIB, fail, make_volume, read_volume
from vdsm.api.events import TaskChanged
from vdsm.wire.tls import make_client_context

Stored = tuple[Running, Furniture]
DATA = os.urandom(3 * MIB + 77)


@pytest.fixture
async def stored(daemon: Running, tmp_path: Path) -> AsyncIterator[Stored]:
    yield daemon, await furnish_storage(daemon, tmp_path / "storage")


def get_path(made: Furniture, volume: dict[str, Any]) -> Path:
    return Path(made.folder) / made.domain_id / "images" / volume["img_id"] / volume["vol_id"]


def name_headers(made: Furniture, volume: dict[str, Any], **changes: str | None) -> dict[str, str]:
    ids = {"Storage-Pool-Id": made.pool_id, "Storage-Domain-Id": volume["sd_id"], "Image-Id": volume["img_id"]}
    given = {**ids, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return {name: value for name, value in given.items() if value is not None}


class Wire:
    """One connection that speaks HTTP by hand, so that it can be as wrong as a test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, method: str, headers: dict[str, str], body: bytes = b"", path: str = "/") -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers.items())]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    async def read(self) -> tuple[int, dict[str, str], bytes]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(head[0].split()[1]), headers, body


@contextlib.asynccontextmanager
async def connect(daemon: Running) -> AsyncIterator[Wire]:
    tls = daemon.address.tls
    context = None if tls is None else make_client_context(tls)
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.node.port, ssl=context)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


async def ask(daemon: Running, method: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, Any, bytes]:
    async with connect(daemon) as wire:
        wire.send(method, headers, body)
        return await wire.read()


async def test_put_then_get(stored: Stored) -> None:
    daemon, made = stored
    volume = await make_volume(daemon, made, size=str(MIB), volFormat="RAW")
    headers = name_headers(made, volume, Content_Length=str(len(DATA)))
    status, told, body = await ask(daemon, "PUT", headers, DATA)
    assert (status, body) == (200, b"")
    task = await daemon.rpc("Task.getStatus", {"taskID": told["task-id"]})
    assert (task["taskState"], task["taskResult"], task["code"]) == ("finished", "success", 0)
    assert (await daemon.rpc("Task.getInfo", {"taskID": told["task-id"]}))["verb"] == "downloadImageFromStream"
    assert get_path(made, volume).read_bytes()[: len(DATA)] == DATA
    info = await read_volume(daemon, volume)
    assert (info["legality"], info["generation"], info["capacity"]) == ("LEGAL", 1, str(-(-len(DATA) // 4096) * 4096))
    headers = name_headers(made, volume, Volume_Id=volume["vol_id"], Range=f"bytes=0-{len(DATA) - 1}")
    status, told, body = await ask(daemon, "GET", headers)
    assert (status, told["content-type"]) == (206, "application/octet-stream")
    assert told["content-range"] == f"bytes 0-{len(DATA) - 1}"
    assert hashlib.sha256(body).digest() == hashlib.sha256(DATA).digest()
    await daemon.finish(told["task-id"])
    assert (await daemon.rpc("Task.getInfo", {"taskID": told["task-id"]}))["verb"] == "uploadImageToStream"


async def test_what_is_malformed_or_refused_changes_nothing(stored: Stored) -> None:
    daemon, made = stored
    volume = await make_volume(daemon, made, size=str(MIB), volFormat="RAW")
    two = await make_volume(daemon, made, size=str(MIB))
    layer = {"imageID": two["img_id"], "srcImgUUID": two["img_id"], "srcVolUUID": two["vol_id"], "size": str(MIB)}
    request = {"storagedomainID": made.domain_id, "storagepoolID": made.pool_id, "volumeID": make_id(), **layer}
    kind = {"volFormat": "COW", "preallocate": "SPARSE", "diskType": "DATA", "desc": ""}
    await daemon.finish(await daemon.rpc("Volume.create", {**request, **kind}))
    before, data = await daemon.rpc("Host.getAllTasks"), get_path(made, volume).read_bytes()
    ranged, long = {"Range": "bytes=0-511"}, {"Content_Length": "3"}
    cases: list[tuple[str, dict[str, str], int, int]] = [
        ("GET", name_headers(made, volume), 400, 0),
        ("GET", name_headers(made, volume, Range="bytes=512-1023"), 400, 0),
        ("GET", name_headers(made, volume, Range="bytes=0-9,20-29"), 400, 0),
        ("GET", name_headers(made, volume, Range="bytes=0-" + "9" * 30), 400, 0),
        ("GET", name_headers(made, volume, **ranged, Image_Id=None), 400, 0),
        ("GET", name_headers(made, volume, **ranged, Image_Id=""), 400, 0),
        ("PUT", name_headers(made, volume, **long, Storage_Pool_Id=None), 400, 0),
        ("PUT", name_headers(made, volume, Transfer_Encoding="chunked"), 411, 0),
        ("GET", name_headers(made, volume, Range=f"bytes=0-{MIB}"), 500, 1000),
        ("GET", name_headers(made, volume, **ranged, Storage_Pool_Id=make_id()), 500, 309),
        ("GET", name_headers(made, volume, **ranged, Image_Id="../../etc"), 500, 1000),
        ("GET", name_headers(made, volume, **ranged, Volume_Id="../metadata"), 500, 1000),
        ("GET", name_headers(made, volume, **ranged, Volume_Id=make_id()), 500, 201),
        ("PUT", name_headers(made, volume, **long, Storage_Domain_Id=make_id()), 500, 358),
        ("PUT", name_headers(made, two, **long), 500, 261),
        ("PUT", name_headers(made, volume, **long, Origin="https://elsewhere"), 500, 0),
    ]
    for method, headers, expected, code in cases:
        status, told, body = await ask(
            daemon, method, headers, b"0\r\n\r\n" if "Transfer-Encoding" in headers else b"abc"
        )
        assert status == expected, (headers, status, body)
        assert told["connection"] == "close"
        if code:
            assert json.loads(body)["status"]["code"] == code, (headers, body)
        elif expected != 500:
            assert body == b""
    assert await daemon.rpc("Host.getAllTasks") == before
    assert get_path(made, volume).read_bytes() == data
    assert (await read_volume(daemon, volume))["generation"] == 0


@pytest.mark.parametrize("by", ["the peer", "Task.stop", "StoragePool.spmStop"])
async def test_a_put_that_is_cut_off_leaves_it_illegal(stored: Stored, by: str) -> None:
    daemon, made = stored
    volume = await make_volume(daemon, made, size=str(MIB), volFormat="RAW")
    headers = name_headers(made, volume, Content_Length=str(len(DATA)))
    async with connect(daemon) as wire:
        wire.send("PUT", headers, DATA[:MIB])
        await daemon.wait_until(lambda: get_path(made, volume).read_bytes()[:MIB] == DATA[:MIB])
        [task_id] = [
            one.task_id for one in daemon.node.storage.runner.list_tasks() if one.name == "downloadImageFromStream"
        ]
        if by == "the peer":
            wire.writer.transport.abort()
        else:
            await daemon.rpc(by, {"taskID": task_id} if by == "Task.stop" else {"storagepoolID": made.pool_id})
            wire.writer.write(DATA[MIB:])
            status, told, _ = await wire.read()
            assert (status, told["task-id"]) == (200, task_id)
        if by != "StoragePool.spmStop":
            await daemon.wait_until(lambda: daemon.node.storage.runner.get(task_id).is_done)
            assert (await daemon.rpc("Task.getStatus", {"taskID": task_id}))["taskResult"] == "cleanSuccess"
    info = await read_volume(daemon, volume)
    assert (info["legality"], info["generation"]) == ("ILLEGAL", 0)
    if by != "StoragePool.spmStop":
        status, _, _ = await ask(daemon, "PUT", headers, DATA)  # again, and all is well
        info = await read_volume(daemon, volume)
        assert (status, info["legality"], info["generation"]) == (200, "LEGAL", 1)


async def test_a_get_ends_early_when_its_reader_leaves_or_its_task_is_stopped(stored: Stored) -> None:
    daemon, made = stored
    volume = await make_volume(daemon, made, size=str(64 * MIB), volFormat="RAW")
    headers = name_headers(made, volume, Range=f"bytes=0-{64 * MIB - 1}")
    for stop in (True, False):
        async with connect(daemon) as wire:
            wire.send("GET", headers)
            head = await wire.reader.readuntil(b"\r\n\r\n")
            task_id = next(line.split()[1] for line in head.decode().splitlines() if line.startswith("task-id"))
            assert not daemon.node.storage.runner.get(task_id).is_done
            if stop:
                await daemon.rpc("Task.stop", {"taskID": task_id})
                with contextlib.suppress(OSError, ssl.SSLError):
                    assert len(await wire.reader.read(-1)) < 64 * MIB
        await daemon.wait_until(lambda: daemon.node.storage.runner.get(task_id).is_done)  # noqa: B023
        assert (await daemon.rpc("Task.getStatus", {"taskID": task_id}))["taskResult"] == "cleanSuccess"
    assert (await read_volume(daemon, volume))["legality"] == "LEGAL"


class Glance(BaseHTTPRequestHandler):
    """Keeps what it is sent, under an old and a new address; for a slow one it waits after the first MiB."""

    kept: dict[str, bytes] = {}
    seen: list[str] = []
    going_on = threading.Event()

    def do_HEAD(self) -> None:
        self.answer(self.path, head=True)

    def do_GET(self) -> None:
        self.answer(self.path)

    def do_PUT(self) -> None:
        self.seen.append(self.headers.get("X-Auth-Token", ""))
        size = int(self.headers["Content-Length"])
        if self.path == "/full":
            self.send_error(507)
            return
        data = self.rfile.read(MIB) if self.path == "/slow" else b""
        if data:
            self.going_on.wait(30)
        self.kept[self.path] = data + self.rfile.read(size - len(data))
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"77.7%")

    def answer(self, path: str, *, head: bool = False) -> None:
        data = self.kept.get(path)
        if path.startswith("/v2/images/") and f"{path}/file" in self.kept:
            data = json.dumps({"id": "x", "size": len(self.kept[f"{path}/file"])}).encode()
        if data is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if not head:
            self.wfile.write(data[:MIB] if path == "/short" else data)

    def log_message(self, format: str, *args: Any) -> None:
        """Quietly."""


@pytest.fixture
def glance() -> Iterator[str]:
    Glance.kept, Glance.seen = {}, []
    Glance.going_on.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Glance) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


async def end(daemon: Running, task_id: str) -> dict[str, Any]:
    await daemon.wait_until(lambda: daemon.node.storage.runner.get(task_id).is_done)
    status: dict[str, Any] = await daemon.rpc("Task.getStatus", {"taskID": task_id})
    return status


async def test_out_to_a_server_and_in_again(stored: Stored, glance: str) -> None:
    daemon, made = stored
    source, target = [await make_volume(daemon, made, size=str(MIB), volFormat="RAW") for _ in range(2)]
    get_path(made, source).write_bytes(DATA[: 2 * MIB])
    for path in ("/plain", "/v2/images/7"):
        place = {"method": "http", "url": glance + path, "headers": {"X-Auth-Token": 'a "quoted" \\ secret'}}
        ids = {"storagepoolID": made.pool_id, "storagedomainID": made.domain_id, "methodArgs": place}
        task_id = await daemon.rpc("Image.upload", {**ids, "imageID": source["img_id"]})
        assert (await end(daemon, task_id))["taskResult"] == "success"
        get_path(made, target).write_bytes(b"")
        task_id = await daemon.rpc("Image.download", {**ids, "imageID": target["img_id"]})
        assert (await end(daemon, task_id))["taskResult"] == "success"
        assert get_path(made, target).read_bytes() == DATA[: 2 * MIB]
    assert set(Glance.seen) == {'a "quoted" \\ secret'} and set(Glance.kept) == {"/plain", "/v2/images/7/file"}
    assert (await read_volume(daemon, target))["capacity"] == str(2 * MIB)


def list_progress(daemon: Running, task_id: str) -> list[float]:
    """What was told of a task, in order, from the first byte on."""
    events = [event for event in daemon.told if isinstance(event, TaskChanged) and event.task_id == task_id]
    return [event.progress_percent for event in events if event.progress_percent]


async def test_what_goes_out_tells_how_far_it_is_and_why_it_failed(stored: Stored, glance: str) -> None:
    daemon, made = stored
    volume = await make_volume(daemon, made, size=str(64 * MIB), volFormat="RAW")
    ids = {"storagepoolID": made.pool_id, "storagedomainID": made.domain_id, "imageID": volume["img_id"]}
    place = {"method": "http", "url": f"{glance}/slow"}
    task_id = await daemon.rpc("Image.upload", {**ids, "methodArgs": place})
    # More than sockets hold is on its way until the server goes on.
    await daemon.wait_until(lambda: list_progress(daemon, task_id))
    assert list_progress(daemon, task_id)[-1] < 50
    Glance.going_on.set()
    assert (await end(daemon, task_id))["taskResult"] == "success"
    assert len(Glance.kept["/slow"]) == 64 * MIB
    told = list_progress(daemon, task_id)
    assert told == sorted(told) and told[-1] == 100
    task_id = await daemon.rpc("Image.upload", {**ids, "methodArgs": {"method": "http", "url": f"{glance}/full"}})
    status = await end(daemon, task_id)
    assert status["code"] == 261 and "507" in status["message"] and "#" not in status["message"], status


async def test_a_server_that_has_nothing_or_cheats(stored: Stored, glance: str) -> None:
    daemon, made = stored
    volume = await make_volume(daemon, made, size=str(MIB), volFormat="RAW")
    Glance.kept["/short"] = DATA
    ids = {"storagepoolID": made.pool_id, "storagedomainID": made.domain_id, "imageID": volume["img_id"]}
    quiet = {"legality": "LEGAL", "generation": 0}
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"url": f"{glance}/missing"}, quiet),
        ({"url": "file:///etc/shadow"}, quiet),
        ({"url": f"{glance}/short", "headers": {"X": "a\r\nupload-file: /etc/shadow"}}, quiet),
        ({"url": f"{glance}/short", "headers": {"@/etc/shadow": ""}}, quiet),
        ({"url": f'{glance}/a"\nupload-file = "/etc/shadow'}, quiet),
        ({"url": f"{glance}/short"}, {"legality": "ILLEGAL", "generation": 0}),
    ]
    for place, expected in cases:
        task_id = await daemon.rpc("Image.download", {**ids, "methodArgs": {"method": "http", **place}})
        status = await end(daemon, task_id)
        assert (status["taskResult"], status["code"]) == ("cleanSuccess", 261), status
        info = await read_volume(daemon, volume)
        assert {name: info[name] for name in expected} == expected
    assert await fail(daemon, "Image.upload", {**ids, "methodArgs": {"method": "ftp", "url": "x"}}) == 1000
    assert await fail(daemon, "Image.upload", {**ids, "methodArgs": {"method": "http"}}) == 1000
