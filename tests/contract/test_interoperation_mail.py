"""The mailbox of a master that we made, with another implementation at its other end (facts: storage §18.5).

The other end is dd, and bytes as the facts tell them, known to this file alone. Time is virtual.
"""

import asyncio
import struct
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.test_interoperation import make_shared
from tests.contract.test_mail import running
from vdsm.storage.errors import UnsupportedOperation
from vdsm.storage.mail.delivery import HostMail, MailLine, Pace, SpmMail
from vdsm.storage.mail.files import MailFiles
from vdsm.storage.mail.mailbox import Extension
from vdsm.testing.clock import VirtualClock

HOST, MAILBOXES, BLOCK = 3, 5, 4096
CLEAN, EMPTY = b"\1" * 64, bytes(64)
EVENTS, NO_EVENTS = Pace(), Pace(has_events=False)
DOMAIN, VOLUME = "11223344-5566-4788-99aa-bbccddeeff00", "0f1e2d3c-4b5a-4678-8796-a5b4c3d2e1f0"
ASKED = Extension(DOMAIN, VOLUME, 5120)


def format_message(size_mib: int) -> bytes:
    ids = (int(id.replace("-", ""), 16).to_bytes(16, "little") for id in (DOMAIN, VOLUME))
    return b"1xtnd" + b"".join(ids) + f"{size_mib:016x}".encode() + b"0" * 11


REQUEST, REFUSAL = format_message(5120), format_message(0)


def seal(slot: bytes) -> bytes:
    """A mailbox of the inbox with this message in slot 0."""
    body = slot.ljust(BLOCK - 4, b"\0")
    return body + struct.pack("<I", sum(body) % (1 << 32))


class Post:
    """The files of a master, our ends of the mailbox on them, and the other implementation."""

    def __init__(self, folder: Path) -> None:
        world = make_shared(folder).start_spm()
        self.files = MailFiles(world.repository.domains.get_backend(world.domain_id).domain.path / "dom_md")
        self.clock = VirtualClock()
        self.extended: list[Extension] = []
        self.refuses = False

    async def extend(self, extension: Extension) -> None:
        self.extended.append(extension)
        if self.refuses:
            raise UnsupportedOperation("no")

    def make_spm(self, pace: Pace = EVENTS) -> SpmMail:
        return SpmMail(self._make_line(), MAILBOXES, self.extend, self.clock, pace)

    def make_host(self, pace: Pace = EVENTS) -> HostMail:
        return HostMail(self._make_line(), HOST, self.clock, pace)

    def _make_line(self) -> MailLine:
        async def run(call: Callable[[], bytes]) -> bytes:
            return call()

        return MailLine(self.files, run, run)

    def read(self, file: Path, number: int = HOST) -> bytes:
        return self._dd(f"if={file}", "iflag=direct,fullblock", f"skip={number}")

    def write(self, file: Path, data: bytes, number: int = HOST) -> None:
        self._dd(f"of={file}", "oflag=direct", "iflag=fullblock", "conv=notrunc", f"seek={number}", data=data)

    def _dd(self, *words: str, data: bytes = b"") -> bytes:
        command = ["dd", *words, f"bs={BLOCK}", "count=1", "status=none"]
        return subprocess.run(command, input=data, capture_output=True, check=True, timeout=60).stdout

    def send(self, slot: bytes, *, with_event: bool = True) -> None:
        """What another host does with slot 0 of its mailbox."""
        self.write(self.files.inbox, seal(slot))
        if with_event:
            self.write(self.files.inbox, (b"\0evt" + uuid.uuid4().bytes).ljust(BLOCK, b"\0"), 0)

    @property
    def answer(self) -> bytes:
        """What the host's slot 0 of the outbox says; nothing else may be there, not even a checksum."""
        mailbox = self.read(self.files.outbox)
        assert mailbox[64:] == bytes(BLOCK - 64)
        return mailbox[:64]


@pytest.fixture
def post(tmp_path: Path) -> Post:
    return Post(tmp_path)


@pytest.mark.parametrize("refuses", [False, True])
async def test_another_host_is_answered(post: Post, refuses: bool) -> None:
    post.refuses, reply = refuses, REFUSAL if refuses else REQUEST
    async with running(post.make_spm().run):
        await post.clock.advance(0.1)
        for said, answer in ((REQUEST, reply), (CLEAN, CLEAN), (EMPTY, CLEAN)):
            post.send(said)
            await post.clock.advance(0.5)
            assert post.answer == answer
        await post.clock.advance(10)
    assert (post.extended, post.answer) == ([ASKED], CLEAN)


@pytest.mark.parametrize(("pace", "within_s"), [(EVENTS, 0.5), (NO_EVENTS, 2.0)])
@pytest.mark.parametrize("size_mib", [5120, 0])
async def test_another_spm_answers(post: Post, pace: Pace, within_s: float, size_mib: int) -> None:
    host, events, reply = post.make_host(pace), set[bytes](), format_message(size_mib)
    async with running(host.run):
        await post.clock.advance(0.1)
        asking = asyncio.create_task(host.extend(ASKED))
        await post.clock.advance(0)
        for said, answer in ((REQUEST, reply), (CLEAN, CLEAN)):
            assert post.read(post.files.inbox) == seal(said)
            events.add(post.read(post.files.inbox, 0))
            post.write(post.files.outbox, answer.ljust(BLOCK, b"\0"))
            await post.clock.advance(within_s)
            assert asking.done()  # also by a refusal: whether the volume is larger is looked at
        assert post.read(post.files.inbox) == bytes(BLOCK)
    await asking
    if pace is NO_EVENTS:
        assert events == {bytes(BLOCK)}
    else:
        assert len(events) == 2
        assert {(event[:4], event[20:]) for event in events} == {(b"\0evt", bytes(BLOCK - 20))}


async def test_a_wrong_checksum_is_no_request(post: Post) -> None:
    assert seal(REQUEST)[-4:] == b"\xa1\x16\0\0"
    async with running(post.make_spm().run):
        for checksum in (b"\0\0\0\0", b"\xa1\x16\0\1", b"\0\0\x16\xa1"):
            post.write(post.files.inbox, seal(REQUEST)[:-4] + checksum)
            await post.clock.advance(10)
            assert (post.extended, post.answer) == ([], EMPTY)
        post.send(REQUEST)
        await post.clock.advance(0.5)
    assert (post.extended, post.answer) == ([ASKED], REQUEST)


@pytest.mark.parametrize(
    ("pace", "with_event", "within_s"), [(EVENTS, True, 0.5), (EVENTS, False, 2.0), (NO_EVENTS, True, 2.0)]
)
async def test_an_event_is_followed_within_half_a_second_and_silence_within_two(
    post: Post, pace: Pace, with_event: bool, within_s: float
) -> None:
    for moment_s in (0.0, 0.1, 0.6, 1.3, 1.9, 2.0, 3.7):
        post.send(EMPTY)
        async with running(post.make_spm(pace).run):
            await post.clock.advance(moment_s)
            assert post.answer == EMPTY
            post.send(REQUEST, with_event=with_event)
            await post.clock.advance(within_s)
            assert post.answer == REQUEST


@pytest.mark.parametrize(("of_spm", "of_host"), [(EVENTS, NO_EVENTS), (NO_EVENTS, EVENTS), (NO_EVENTS, NO_EVENTS)])
async def test_without_events_on_one_side_or_both_a_request_takes_four_seconds(
    post: Post, of_spm: Pace, of_host: Pace
) -> None:
    host = post.make_host(of_host)
    async with running(post.make_spm(of_spm).run), running(host.run):
        for moment_s in (0.1, 0.9, 1.4, 7.7):
            await post.clock.advance(moment_s)
            asking = asyncio.create_task(host.extend(ASKED))
            await post.clock.advance(4)
            assert asking.done()
            await post.clock.advance(4)
            assert post.read(post.files.inbox) == bytes(BLOCK)
    assert post.extended == [ASKED] * 4


async def test_what_lies_in_the_inbox_is_served_by_the_first_scan_of_each_new_spm(post: Post) -> None:
    post.send(REQUEST)
    post.write(post.files.inbox, seal(CLEAN), HOST - 1)
    left = [(HOST, REQUEST), (HOST - 1, CLEAN), (HOST - 2, EMPTY)]
    for turn in (1, 2):
        for number in range(MAILBOXES):
            post.write(post.files.outbox, b"\x31" * BLOCK, number)  # what another SPM left
        async with running(post.make_spm().run):
            await post.clock.advance(0)
            answers = [(number, post.read(post.files.outbox, number)) for number, _ in left]
        assert answers == [(number, slot.ljust(BLOCK, b"\0")) for number, slot in left]
        assert post.extended == [ASKED] * turn
