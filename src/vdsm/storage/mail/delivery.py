"""The mailbox at work (facts: storage §7.5): every host asks through it, the SPM answers.

When this host is which of them is left to `service`; what they say to `exchange`.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

from msgspec import Struct

from vdsm.core.children import Children, wait_until
from vdsm.core.clock import Clock
from vdsm.core.errors import GeneralFailure, NodeError, NotReady
from vdsm.storage.mail import mailbox as form
from vdsm.storage.mail.exchange import HostEnd, Letter, SpmEnd
from vdsm.storage.mail.files import MailFiles, read_mailboxes, write_mailboxes

log = logging.getLogger("storage.mailbox")

SCAN_S = 2.0
"""Between two looks at everything: of the SPM at the inbox, of a host without events at its answers."""
FAILURES = 9
"""After more of them in a row a host looks seldom."""
SELDOM_S = 60.0
CLEARING_S = 2.0
"""For clearing a mailbox that is left; the next start clears it, too."""


class Pace(Struct, frozen=True):
    """How often is looked; without events at everything every two seconds."""

    has_events: bool = True
    event_interval_s: float = 0.5

    @property
    def answer_s(self) -> float:
        return self.event_interval_s if self.has_events else SCAN_S

    @property
    def polls(self) -> int:
        """Looks at the event block between two scans."""
        return max(0, round(SCAN_S / self.event_interval_s) - 1) if self.has_events else 0


USUAL_PACE = Pace()


Run = Callable[[Callable[[], bytes]], Awaitable[bytes]]
"""Calls what blocks where a sick master hurts nobody else. Raises NodeError, AccessTimeout among them."""


class MailLine:
    """The mailbox's files, reached through threads: `write` ends only when its call has, also when it is cancelled."""

    def __init__(self, files: MailFiles, read: Run, write: Run) -> None:
        self._files = files
        self._run_read = read
        self._run_write = write

    async def read_inbox(self, first: int, count: int) -> bytes:
        return await self._read(self._files.inbox, first, count)

    async def read_outbox(self, host_id: int) -> bytes:
        return await self._read(self._files.outbox, host_id, 1)

    async def write_inbox(self, first: int, data: bytes) -> None:
        await self._write(self._files.inbox, first, data)

    async def write_outbox(self, first: int, data: bytes) -> None:
        await self._write(self._files.outbox, first, data)

    async def _read(self, path: Path, first: int, count: int) -> bytes:
        data = await self._run_read(lambda: read_mailboxes(path, first, count))
        return data.ljust(count * form.MAILBOX_BYTES, b"\0")

    async def _write(self, path: Path, first: int, data: bytes) -> None:
        def write() -> bytes:
            write_mailboxes(path, first, data)
            return b""

        await self._run_write(write)


class HostMail:
    """This host's end: requests wait in its mailbox until the SPM has answered them."""

    def __init__(self, line: MailLine, host_id: int, clock: Clock, pace: Pace = USUAL_PACE) -> None:
        self._line = line
        self._host_id = host_id
        self._clock = clock
        self._pace = pace
        self._end: HostEnd | None = None
        self._waiting: dict[bytes, asyncio.Future[None]] = {}
        self._written = b""
        self._news = asyncio.Event()
        self._failures = 0

    async def extend(self, extension: form.Extension) -> None:
        """Have a volume extended, and wait for the SPM's answer; whether the volume is larger is to be looked at.

        Raises ResourceExhausted, NotReady while the mailbox cannot be read and when it is closed meanwhile, and
        GeneralFailure when the request was lost.
        """
        if self._end is None:
            raise NotReady("the mailbox")
        request = form.format_extension(extension)
        if self._end.put(request):
            self._waiting[request] = asyncio.get_running_loop().create_future()
            self._news.set()
        answered = self._waiting.get(request)
        if answered is not None:
            await asyncio.shield(answered)

    async def run(self) -> None:
        """Exchange mail until cancelled; then the mailbox is left empty."""
        try:
            while True:
                self._news.clear()
                try:
                    await self._exchange()
                    self._failures = 0
                except NodeError as error:
                    self._failures += 1
                    level = logging.WARNING if self._failures == 1 else logging.DEBUG
                    log.log(level, "the mailbox of host %d cannot be used: %s", self._host_id, error)
                await self._pause()
        finally:
            await self._close()

    async def _pause(self) -> None:
        if self._failures:
            await self._clock.sleep(SELDOM_S if self._failures > FAILURES else SCAN_S)
        elif self._end is not None and self._end.is_waiting:
            await wait_until(self._news, self._pace.answer_s, self._clock)
        else:
            await self._news.wait()

    async def _exchange(self) -> None:
        if self._end is None:
            await self._line.write_inbox(self._host_id, bytes(form.MAILBOX_BYTES))
            self._written = bytes(form.MAILBOX_BYTES)
            self._end = HostEnd(await self._line.read_outbox(self._host_id))
        await self._send(self._end)
        if self._end.is_waiting:
            for request, is_answered in self._end.hear(await self._line.read_outbox(self._host_id)).items():
                answered = self._waiting.pop(request)
                if is_answered:
                    answered.set_result(None)
                else:
                    _fail(answered, GeneralFailure("the SPM answered another request in the place of this one"))
            await self._send(self._end)

    async def _send(self, end: HostEnd) -> None:
        mailbox = end.mailbox
        if mailbox == self._written:
            return
        await self._line.write_inbox(self._host_id, mailbox)
        self._written = mailbox
        if self._pace.has_events:
            await self._line.write_inbox(0, form.format_event(uuid.uuid4()))

    async def _close(self) -> None:
        self._end = None
        for answered in self._waiting.values():
            _fail(answered, NotReady("the mailbox, which was closed"))
        self._waiting.clear()
        try:
            async with asyncio.timeout(CLEARING_S):
                await self._line.write_inbox(self._host_id, bytes(form.MAILBOX_BYTES))
        except (NodeError, TimeoutError) as error:
            log.warning("the mailbox of host %d is not left empty: %s", self._host_id, error)


def _fail(answered: asyncio.Future[None], error: NodeError) -> None:
    answered.set_exception(error)
    answered.exception()  # who asked may have left


class SpmMail:
    """The SPM's end: reads all hosts' mailboxes and answers each request when `extend` has done it or raised."""

    def __init__(
        self,
        line: MailLine,
        mailbox_count: int,
        extend: Callable[[form.Extension], Awaitable[None]],
        clock: Clock,
        pace: Pace = USUAL_PACE,
        *,
        worker_count: int = 5,
    ) -> None:
        self._line = line
        self._count = mailbox_count
        self._extend = extend
        self._clock = clock
        self._pace = pace
        self._end = SpmEnd(mailbox_count)
        self._event: uuid.UUID | None = None
        self._sending = asyncio.Lock()
        self._workers = asyncio.Semaphore(worker_count)
        self._work = Children()

    async def run(self) -> None:
        """Serve until cancelled; when it returns nothing is written any more."""
        is_clear, failures = False, 0
        try:
            while True:
                try:
                    if not is_clear:
                        await self._line.write_outbox(0, bytes(self._count * form.MAILBOX_BYTES))
                        is_clear = True
                    await self._scan()
                    failures = 0
                    await self._wait_for_event()
                except NodeError as error:
                    failures += 1
                    log.log(
                        logging.WARNING if failures == 1 else logging.DEBUG,
                        "the hosts' mailboxes cannot be served: %s",
                        error,
                    )
                    await self._clock.sleep(SCAN_S)
        finally:
            await self._work.close()

    async def _scan(self) -> None:
        for letter in self._end.scan(await self._line.read_inbox(0, self._count)):
            self._work.spawn(self._serve(letter), f"mail of host {letter.host_id}")
        await self._send()

    async def _wait_for_event(self) -> None:
        for _ in range(self._pace.polls):
            await self._clock.sleep(self._pace.event_interval_s)
            event = form.parse_event(await self._line.read_inbox(0, 1))
            if event is not None and event != self._event:
                self._event = event
                return
        await self._clock.sleep(self._pace.answer_s)

    async def _serve(self, letter: Letter) -> None:
        try:
            if form.get_code(letter.message) != form.EXTEND:
                log.warning("host %d asks for what is not known: %s", letter.host_id, letter.message.hex())
                return
            extension = form.parse_extension(letter.message)
        except ValueError as error:
            log.warning("host %d sent no message: %s", letter.host_id, error)
            return
        failed = form.Extension(extension.domain_id, extension.volume_id, 0)
        async with self._workers:
            try:
                await self._extend(extension)
            except NodeError as error:
                log.warning("volume %s is not extended for host %d: %s", extension.volume_id, letter.host_id, error)
                extension = failed
            except Exception:
                await self._answer(letter, failed)
                raise
        await self._answer(letter, extension)

    async def _answer(self, letter: Letter, reply: form.Extension) -> None:
        self._end.answer(letter, form.format_extension(reply))
        await self._send()

    async def _send(self) -> None:
        async with self._sending:
            while (unsent := self._end.get_unsent()) is not None:
                await self._line.write_outbox(*unsent)
                self._end.mark_sent(*unsent)
