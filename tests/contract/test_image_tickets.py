"""What storage relies on of ovirt-imageio's door for tickets, tried on the tests' small one and on the real one."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab import imageio
from lab.scratch import Scratch
from tests.imageio import SmallImageDaemon
from vdsm.adapters.imageio import ImageDaemon
from vdsm.storage.ports import ImageDaemonFailed, ImageDaemonRefused, ImageDaemonUnsupported

TICKET_ID = "3a5d5bd2-4f0c-4b8c-8b8e-0d6ff3f4f7a1"
OTHER_ID = "b2f0a6a4-1c52-4c5d-9a3b-55b1e37d2f10"
TICKET = {"uuid": TICKET_ID, "size": 7, "url": "file:///x", "timeout": 300, "ops": ["read"]}


class Door:
    """The adapter under test, beside the loop."""

    def __init__(self, path: Path) -> None:
        self._daemon = ImageDaemon(path)

    async def ask(self, method: str, body: object = None, ticket_id: str = TICKET_ID) -> bytes:
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        return await asyncio.to_thread(self._daemon.ask, method, ticket_id, data)

    async def get(self) -> dict[str, Any]:
        return dict(json.loads(await self.ask("GET")))


@contextmanager
def refused(status: int) -> Iterator[None]:
    """It must be: with that status, and words that one can read."""
    with pytest.raises(ImageDaemonRefused) as caught:
        yield
    assert re.fullmatch(rf"{status} [^\n]+", caught.value.reason), caught.value.reason


@pytest.fixture(params=["small", "real"])
async def door(request: pytest.FixtureRequest) -> AsyncIterator[Door]:
    with Scratch() as scratch:
        async with AsyncExitStack() as stack:
            path = scratch.path / "sock"
            if request.param == "real":
                stack.enter_context(imageio.running(scratch.path))
            else:
                small = SmallImageDaemon()
                await stack.enter_async_context(await asyncio.start_unix_server(small.answer, path))
            yield Door(path)


async def test_a_ticket_is_kept_extended_and_removed(door: Door) -> None:
    assert await door.ask("PUT", {**TICKET, "filename": "ä b", "transfer_id": "t"}) == b""
    told = await door.get()
    state = {"active": False, "canceled": False, "connections": 0, "idle_time": 0, "transferred": 0}
    rest = {"inactivity_timeout": 60, "sparse": False, "dirty": False, "filename": "ä b", "transfer_id": "t"}
    assert told == {**TICKET, **state, **rest, "expires": told["expires"], "idle_time": told["idle_time"]}
    assert await door.ask("PATCH", {"timeout": 5000}) == b""
    extended = await door.get()
    assert extended["timeout"] == 300 and extended["expires"] - told["expires"] in range(4700, 4760)
    for _ in range(2):  # who is not sure that it was removed asks again
        assert await door.ask("DELETE") == b""
    with refused(404):
        await door.get()


async def test_another_of_the_same_id_takes_its_place(door: Door) -> None:
    await door.ask("PUT", TICKET)
    await door.ask("PUT", {**TICKET, "size": 8, "ops": ["read", "write"]})
    told = await door.get()
    assert told["size"] == 8 and "transferred" not in told


async def test_what_is_unknown_is_refused(door: Door) -> None:
    await door.ask("PUT", TICKET)
    requests: tuple[tuple[str, object], ...] = (("GET", None), ("PATCH", {"timeout": 1}))
    for method, body in requests:
        with refused(404):
            await door.ask(method, body, OTHER_ID)
    await door.ask("DELETE", ticket_id=OTHER_ID)
    assert (await door.get())["uuid"] == TICKET_ID


@pytest.mark.parametrize(
    "change",
    [
        *({name: None} for name in TICKET),
        {"size": "7"},
        {"timeout": 1.5},
        {"ops": "read"},
        {"url": "ftp://x/y"},
        {"url": "file://["},
        {"url": ""},
        {"filename": 7},
        {"sparse": "y"},
        {"inactivity_timeout": "1"},
    ],
    ids=str,
)
async def test_what_is_no_ticket_is_refused(door: Door, change: Mapping[str, object]) -> None:
    ticket = {name: value for name, value in {**TICKET, **change}.items() if value is not None}
    with refused(400):
        await door.ask("PUT", ticket)
    with refused(404):
        await door.get()


async def test_what_is_malformed_is_refused(door: Door) -> None:
    for body in (b"", b"{", b"[]", b"7", b"\xff"):
        with refused(400):
            await door.ask("PUT", body)
    await door.ask("PUT", TICKET)
    before = await door.get()
    for change in (b"", b"{", b"{}", {"timeout": -1}, {"timeout": "1"}, {"timeout": None}):
        with refused(400):
            await door.ask("PATCH", change)
    assert (await door.get())["expires"] == before["expires"]


async def test_one_that_does_not_run_or_answer(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with pytest.raises(ImageDaemonUnsupported):
        await Door(path).get()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        with pytest.raises(ImageDaemonFailed):
            await Door(path).get()


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0\r\n", b"HTTP/1.1 "])
async def test_one_that_answers_something_else(tmp_path: Path, answer: bytes) -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    path = tmp_path / "sock"
    async with await asyncio.start_unix_server(say, path):
        with pytest.raises(ImageDaemonFailed):
            await Door(path).ask("GET")
