"""Events of a whole daemon, as notifications over STOMP (facts: rpc §1.8) and as a stream of REST that resumes."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.daemon.doors import Visitor
from tests.daemon.running import PATIENCE_S, Running, make_id, running, start_vm
from vdsm.testing.clock import VirtualClock
from vdsm.wire.ports import EVENTS

STAMP_MS = 2**31 - 1 + 1_000_000
"""When a clock of the tests begins: 1000 s."""


@asynccontextmanager
async def listening(daemon: Running) -> AsyncIterator[Visitor]:
    """A raw STOMP client that is subscribed to the events."""
    reader, writer = await asyncio.open_unix_connection(daemon.paths.socket)
    visitor = Visitor(reader, writer)
    try:
        await visitor.subscribe(EVENTS, "e1")
        yield visitor
    finally:
        writer.transport.abort()


async def hear(visitor: Visitor, vm_id: str) -> dict[str, Any]:
    """The parameters of the next event, which is of that VM, and whose frame is as it must be."""
    frame = await visitor.get()
    assert frame.command == "MESSAGE"
    headers = {name: value for name, value in frame.headers.items() if name != "content-length"}
    assert headers == {"destination": EVENTS, "subscription": "e1", "content-type": "application/json"}
    message = json.loads(frame.body)
    assert set(message) == {"jsonrpc", "method", "params"}
    assert (message["jsonrpc"], message["method"]) == ("2.0", f"|virt|VM_status|{vm_id}")
    params: dict[str, Any] = message["params"]
    assert set(params) == {vm_id, "notify_time"}
    return params


async def test_the_life_of_a_vm_as_old_clients_hear_it(root: Path, certificates: Path) -> None:
    clock, vm_id = VirtualClock(), make_id()
    async with running(root, certificates, clock=clock) as daemon, listening(daemon) as visitor:
        await daemon.node.vms.wait_ready()
        await start_vm(daemon, vm_id)
        started = await hear(visitor, vm_id)
        assert started["notify_time"] == STAMP_MS
        assert started[vm_id]["status"] == "Powering up"
        assert started[vm_id]["displayInfo"][0]["type"] == "vnc"
        assert {"elapsedTime", "monitorResponse", "clientIp", "timeOffset", "hash"} <= set(started[vm_id])

        await clock.advance(2)
        await daemon.rpc("VM.pause", {"vmID": vm_id})
        assert await hear(visitor, vm_id) == {vm_id: {"status": "Paused"}, "notify_time": STAMP_MS + 2000}
        await daemon.rpc("VM.cont", {"vmID": vm_id})
        resumed = await hear(visitor, vm_id)
        assert set(resumed[vm_id]) == {"status"}

        daemon.machine.fake.pause_on_error(vm_id, "hda")
        failed = await hear(visitor, vm_id)
        assert failed[vm_id]["pauseCode"] == "ENOSPC"
        assert failed[vm_id]["ioerror"]["alias"] == "hda"

        daemon.machine.fake.end_guest(vm_id)
        ended = await hear(visitor, vm_id)
        assert set(ended[vm_id]) <= {"status", "exitCode", "exitMessage", "exitReason", "timeOffset", "vmId"}
        assert (ended[vm_id]["status"], ended[vm_id]["exitCode"], ended[vm_id]["vmId"]) == ("Down", 0, vm_id)
        stats = (await daemon.rpc("VM.getStats", {"vmID": vm_id}))[0]
        assert stats["statusTime"] == str(ended["notify_time"])


async def test_who_did_not_subscribe_hears_nothing(daemon: Running) -> None:
    reader, writer = await asyncio.open_unix_connection(daemon.paths.socket)
    visitor = Visitor(reader, writer)
    await visitor.subscribe("jms.queue.other", "o1")
    await start_vm(daemon, make_id())
    visitor.send("DISCONNECT", receipt="last")
    assert (await visitor.get()).command == "RECEIPT"
    writer.transport.abort()


class Stream:
    """A reader of server-sent events."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self.last_id = ""

    async def get_block(self) -> dict[str, str]:
        """The next block's fields; a comment has an empty name. EOFError at the end of the stream."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(PATIENCE_S):
            while line := (await self._reader.readline()).decode():
                if line == "\r\n" or (line.endswith("\r\n") and "data" not in line and "id:" not in line):
                    continue  # what frames chunks
                if line == "\n":
                    if fields:
                        self.last_id = fields.get("id", self.last_id)
                        return fields
                    continue
                name, _, value = line.rstrip("\n").partition(": ")
                fields[name] = value
        raise EOFError

    async def get(self) -> tuple[str, dict[str, Any]]:
        """The next event's name and data."""
        while True:
            block = await self.get_block()
            if "event" in block:
                return block["event"], json.loads(block["data"])


@asynccontextmanager
async def streaming(daemon: Running, last_id: str | None = None) -> AsyncIterator[Stream]:
    """Follow the stream, from now on or from an event on."""
    reader, writer = await asyncio.open_unix_connection(daemon.paths.socket)
    resume = f"Last-Event-ID: {last_id}\r\n" if last_id else ""
    writer.write(f"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n{resume}\r\n".encode())
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"content-type: text/event-stream" in head
        stream = Stream(reader)
        stream.last_id = last_id or ""
        first = await stream.get_block()
        assert first == ({"": "resumed"} if last_id else {"id": daemon.node.bus.last_id})
        yield stream
    finally:
        writer.transport.abort()


async def test_the_stream_goes_on_where_its_reader_left(daemon: Running) -> None:
    first, second = make_id(), make_id()
    async with streaming(daemon) as stream:
        await start_vm(daemon, first)
        name, data = await stream.get()
        assert (name, data["event"], data["vm_id"], data["status"]) == ("vm.status", "vm.status", first, "Powering up")
        assert stream.last_id == f"{daemon.node.bus.start}-1"
    await start_vm(daemon, second)
    await daemon.rpc("VM.pause", {"vmID": second})
    await daemon.wait_until(lambda: "Paused" in daemon.list_statuses(second))
    async with streaming(daemon, stream.last_id) as stream:
        heard = [await stream.get(), await stream.get()]
        assert [(data["vm_id"], data["status"]) for _, data in heard] == [(second, "Powering up"), (second, "Paused")]
        assert stream.last_id == daemon.node.bus.last_id
        await daemon.rpc("VM.destroy", {"vmID": first})
        assert (await stream.get())[1]["status"] == "Down"


async def test_who_comes_with_a_foreign_place_must_look_anew(daemon: Running) -> None:
    await start_vm(daemon, make_id())
    for place in ("17-1", f"{daemon.node.bus.start}-999", "nonsense", f"{daemon.node.bus.start}-"):
        async with streaming(daemon, place) as stream:
            assert await stream.get() == ("reset", {})
            assert stream.last_id == daemon.node.bus.last_id


async def test_the_place_may_be_in_the_query(daemon: Running) -> None:
    vm_id = make_id()
    place = daemon.node.bus.last_id
    await start_vm(daemon, vm_id)
    reader, writer = await asyncio.open_unix_connection(daemon.paths.socket)
    writer.write(f"GET /api/v1/events?last_event_id={place} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    assert (await Stream(reader).get())[1]["vm_id"] == vm_id
    writer.transport.abort()


async def test_tasks_are_told_too(daemon: Running) -> None:
    """Both encodings of one event."""
    async with streaming(daemon) as stream, listening(daemon) as visitor:

        async def work() -> None:
            pass

        task_id = await daemon.node.storage.pools._work.start_in_memory("nothing", "", work)
        states = []
        while "finished" not in states:
            name, data = await stream.get()
            message = json.loads((await visitor.get()).body)
            assert (name, data["task_id"], data["verb"]) == ("task.changed", task_id, "nothing")
            assert message["method"] == f"|storage|task_status|{task_id}"
            assert (message["params"]["taskID"], message["params"]["taskState"]) == (task_id, data["state"])
            states.append(data["state"])


async def test_a_stream_ends_with_the_daemon(root: Path, certificates: Path) -> None:
    async with running(root, certificates) as daemon:
        reader, writer = await asyncio.open_unix_connection(daemon.paths.socket)
        writer.write(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
    async with asyncio.timeout(PATIENCE_S):
        assert (await reader.read()).endswith(b"0\r\n\r\n")
    writer.transport.abort()
