"""The mailbox between two hosts and an SPM on real files with direct I/O (facts: storage §7.5, §18.5)."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from vdsm.core.clock import SystemClock
from vdsm.core.errors import GeneralFailure, NotReady
from vdsm.storage.backends.file import MAILBOX_BYTES as FILE_BYTES
from vdsm.storage.errors import MiscFileReadException, MiscFileWriteException, UnsupportedOperation
from vdsm.storage.mail.delivery import HostMail, MailLine, Pace, SpmMail
from vdsm.storage.mail.files import MailFiles, read_mailboxes, write_mailboxes
from vdsm.storage.mail.mailbox import (
    EMPTY,
    MAILBOX_BYTES,
    Extension,
    format_event,
    format_extension,
    format_mailbox,
    split_mailbox,
)

PATIENCE_S = 60.0
MAILBOXES = 5
FAST = Pace(event_interval_s=0.02)
SLOW = Pace(has_events=False)


def make_extension(size_mib: int = 5120) -> Extension:
    return Extension(str(uuid.uuid4()), str(uuid.uuid4()), size_mib)


class HastyClock(SystemClock):
    """Pauses are a tenth of what they should be."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 10)


class Post:
    """The files of a master, and who uses them."""

    def __init__(self, folder: Path) -> None:
        self.files = MailFiles(folder)
        for path in (self.files.inbox, self.files.outbox):
            with open(path, "wb") as file:
                file.truncate(FILE_BYTES)
        self.line = MailLine(self.files, asyncio.to_thread, asyncio.to_thread)
        self.extended: list[Extension] = []
        self.failure: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def extend(self, extension: Extension) -> None:
        if self.gate is not None:
            await self.gate.wait()
        self.extended.append(extension)
        if self.failure is not None:
            raise self.failure

    @asynccontextmanager
    async def host(self, host_id: int, pace: Pace = FAST) -> AsyncIterator[HostMail]:
        host = HostMail(self.line, host_id, HastyClock(), pace)
        async with running(host.run):
            async with asyncio.timeout(PATIENCE_S):
                while host._end is None:
                    await asyncio.sleep(0.005)
            yield host
        assert await self.line.read_inbox(host_id, 1) == bytes(MAILBOX_BYTES)

    @asynccontextmanager
    async def spm(self, pace: Pace = FAST) -> AsyncIterator[SpmMail]:
        spm = SpmMail(self.line, MAILBOXES, self.extend, HastyClock(), pace)
        async with running(spm.run):
            yield spm

    async def wait_until(self, holds: Callable[[], Awaitable[object]]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not await holds():
                await asyncio.sleep(0.01)

    async def wait_for_silence(self, *host_ids: int) -> None:
        for host_id in host_ids:

            async def is_empty(host_id: int = host_id) -> bool:
                return await self.line.read_inbox(host_id, 1) == bytes(MAILBOX_BYTES)

            await self.wait_until(is_empty)


@asynccontextmanager
async def running(work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()


@pytest.fixture
def post(tmp_path):
    return Post(tmp_path)


async def ask(host: HostMail, extension: Extension) -> Extension:
    async with asyncio.timeout(PATIENCE_S):
        await host.extend(extension)
    return extension


async def test_two_hosts_ask_and_are_answered(post):
    async with post.spm(), post.host(1) as first, post.host(4) as second:
        asked = await asyncio.gather(*(ask(host, make_extension(n)) for n in range(1, 11) for host in (first, second)))
        assert sorted(post.extended, key=str) == sorted(asked, key=str)
        await post.wait_for_silence(1, 4)
        slots = split_mailbox(await post.line.read_outbox(1))
        assert set(slots) <= {b"\x01" * 64, EMPTY} and slots[0] == b"\x01" * 64


@pytest.mark.parametrize("failure", [UnsupportedOperation("no"), ZeroDivisionError()])
async def test_a_failure_is_an_answer_without_a_size(post, failure):
    post.failure = failure
    extension = make_extension()
    request, reply = format_extension(extension), format_extension(replace(extension, size_mib=0))
    async with post.spm():
        await post.line.write_inbox(1, format_mailbox([request, *[EMPTY] * 62]))

        async def is_answered() -> bool:
            return split_mailbox(await post.line.read_outbox(1))[0] == reply

        await post.wait_until(is_answered)
    assert post.extended == [extension]


@pytest.mark.parametrize(("of_spm", "of_host"), [(FAST, SLOW), (SLOW, FAST), (SLOW, SLOW)])
async def test_without_events_on_one_side_or_both(post, of_spm, of_host):
    async with post.spm(of_spm), post.host(1, of_host) as host:
        await ask(host, make_extension())
        await post.wait_for_silence(1)


async def test_an_event_hastens_the_scan(post):
    begun_s = asyncio.get_running_loop().time()
    pace = Pace(event_interval_s=0.5)  # a tenth of it here; a scan without an event comes after 0.2 s
    async with post.spm(pace), post.host(1, pace) as host:
        for _ in range(3):
            await ask(host, make_extension())
    assert asyncio.get_running_loop().time() - begun_s < PATIENCE_S
    assert (await post.line.read_inbox(0, 1))[:4] == b"\0evt"


async def test_a_wrong_checksum_is_ignored(post):
    extension = make_extension()
    mailbox = format_mailbox([format_extension(extension), *[EMPTY] * 62])
    async with post.spm(), post.host(2) as other:
        await post.line.write_inbox(1, mailbox[:-1] + b"\xff")
        await ask(other, make_extension())
        assert extension not in post.extended
        assert await post.line.read_outbox(1) == bytes(MAILBOX_BYTES)
        await post.line.write_inbox(1, mailbox)
        await post.line.write_inbox(0, format_event(uuid.uuid4()))

        async def is_answered() -> bool:
            return split_mailbox(await post.line.read_outbox(1))[0] == format_extension(extension)

        await post.wait_until(is_answered)


async def test_another_spm_serves_what_waits(post):
    async with post.host(1) as host:
        post.gate = asyncio.Event()
        async with post.spm():
            asking = asyncio.create_task(ask(host, make_extension()))
            await post.wait_until(lambda: is_asked(post))
        assert not asking.done()
        post.gate = None
        await post.line.write_outbox(3, b"\x31" * MAILBOX_BYTES)  # what the last one left
        async with post.spm():
            await asking
            await post.wait_for_silence(1)
        assert await post.line.read_outbox(3) == bytes(MAILBOX_BYTES)


async def test_nonsense_in_the_inbox_hurts_nobody(post, caplog):
    nonsense = [b"1abcd" + bytes(59), b"2" * 64, b"1xtnd" + b"\xff" * 59]
    async with post.spm(), post.host(2) as host:
        await post.line.write_inbox(1, format_mailbox([*nonsense, *[EMPTY] * 60]))
        await ask(host, make_extension())
        await post.wait_for_silence(2)
    assert await post.line.read_outbox(1) == bytes(MAILBOX_BYTES)
    assert "what is not known" in caplog.text and caplog.text.count("sent no message") == 2


async def test_a_mailbox_that_cannot_be_read_takes_no_requests_until_it_can(post):
    outbox = post.files.outbox.read_bytes()
    post.files.outbox.unlink()
    host = HostMail(post.line, 1, HastyClock(), FAST)
    async with running(host.run):
        with pytest.raises(NotReady):
            await host.extend(make_extension())
        post.files.outbox.write_bytes(outbox)
        async with post.spm():

            async def is_open() -> bool:
                return host._end is not None

            await post.wait_until(is_open)
            await ask(host, make_extension())


async def test_who_still_waits_when_the_mailbox_is_closed_is_told(post):
    async with post.host(1) as host:
        waiting = [asyncio.create_task(host.extend(make_extension(5))) for _ in range(2)]
        await asyncio.sleep(0)
    for error in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(error, NotReady)


async def test_an_answer_that_cannot_be_written_is_written_later(post):
    async with post.host(1) as host, post.spm():
        await ask(host, make_extension())
        post.gate = asyncio.Event()
        asking = asyncio.create_task(ask(host, make_extension()))
        await asyncio.sleep(0)
        hidden = post.files.outbox.rename(post.files.outbox.with_name("hidden"))
        post.gate.set()

        async def is_done() -> bool:
            return len(post.extended) == 2

        await post.wait_until(is_done)
        hidden.rename(post.files.outbox)
        await asking


async def test_a_request_that_another_answer_took_the_place_of_fails(post):
    async with post.host(1) as host:
        asking = asyncio.create_task(ask(host, make_extension()))
        await post.wait_until(lambda: is_asked(post))
        await post.line.write_outbox(1, format_extension(make_extension()).ljust(MAILBOX_BYTES, b"\0"))
        with pytest.raises(GeneralFailure):
            await asking
        async with post.spm():
            await post.wait_for_silence(1)


async def is_asked(post: Post) -> bool:
    return await post.line.read_inbox(1, 1) != bytes(MAILBOX_BYTES)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(MiscFileReadException):
        read_mailboxes(tmp_path / "inbox", 0)
    with pytest.raises(MiscFileWriteException):
        write_mailboxes(tmp_path / "inbox", 0, bytes(MAILBOX_BYTES))
