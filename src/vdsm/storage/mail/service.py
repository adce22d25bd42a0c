"""When this host takes part in the mailbox (facts: storage §7.1, §7.2): as a host while a pool is connected, as its SPM
while it has that role; never on a master that no other host sees."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from msgspec import Struct

from vdsm.core.children import Children
from vdsm.core.clock import Clock
from vdsm.core.errors import NodeError, NotReady
from vdsm.storage.errors import UnsupportedOperation
from vdsm.storage.lanes import Lane
from vdsm.storage.mail.delivery import HostMail, MailLine, Pace, Run, SpmMail
from vdsm.storage.mail.files import MailFiles
from vdsm.storage.mail.mailbox import Extension
from vdsm.storage.model import DomainType
from vdsm.storage.pools.pool import ConnectedPool
from vdsm.storage.repository import Repository

log = logging.getLogger("storage.mailbox")

RETRY_S = 10.0
"""So long after a master that could not be looked at, it is looked at once more."""

DEFAULT_MAILBOXES = 250
MAXIMUM_MAILBOXES = 4096
"""All that the files of a file domain have room for."""


async def refuse_extension(extension: Extension) -> None:
    """Volumes that are files grow by themselves; only block storage extends on request. Raises 2009."""
    raise UnsupportedOperation(f"extension of volume {extension.volume_id}: it is a file, which grows by itself")


class _Part(Struct, frozen=True):
    """What takes part for a pool: the id of its master, this host's id, and the files."""

    domain_id: str
    host_id: int
    files: MailFiles


class MailService:
    """Both ends of the mailbox, following the connected pool. For the loop's thread."""

    def __init__(
        self,
        repository: Repository,
        clock: Clock,
        pace: Pace,
        *,
        run_to_end: Run,
        is_valid: Callable[[str], bool],
        extend: Callable[[Extension], Awaitable[None]] = refuse_extension,
        worker_count: int = 5,
        timeout_s: float = 60.0,
    ) -> None:
        """`run_to_end` calls what blocks and ends with it, also when cancelled; what the SPM writes goes that way.

        `is_valid` tells of a domain whether it answers: what does not is left alone, and costs no further threads.
        """
        self._repository = repository
        self._clock = clock
        self._pace = pace
        self._run_to_end = run_to_end
        self._is_valid = is_valid
        self._extend = extend
        self._worker_count = worker_count
        self._lane = Lane("mailbox", timeout_s)
        self._children = Children()
        self._lock = asyncio.Lock()
        self._part: _Part | None = None
        self._host: tuple[HostMail, asyncio.Task[None]] | None = None
        self._spm: asyncio.Task[None] | None = None
        self._count: int | None = None
        """How many mailboxes this host serves as the SPM."""
        self._pool: ConnectedPool | None = None

    def follow(self, pool: ConnectedPool | None) -> None:
        """Take part where this pool's master is, or nowhere."""
        self._pool = pool
        self._children.spawn(self._follow(pool), "mailbox")

    async def start_spm(self, mailbox_count: int | None) -> None:
        """Serve so many mailboxes, the first of which is no host's."""
        count = min(mailbox_count, MAXIMUM_MAILBOXES) if mailbox_count and mailbox_count > 0 else DEFAULT_MAILBOXES
        async with self._lock:
            await self._stop_spm()
            self._count = count
            self._start_spm()

    async def stop_spm(self) -> None:
        """When it returns nothing is written to the outbox any more."""
        async with self._lock:
            self._count = None
            await self._stop_spm()

    async def extend(self, extension: Extension) -> None:
        """Have the SPM extend a volume, as `HostMail.extend`."""
        if self._host is None:
            raise NotReady("the mailbox")
        await self._host[0].extend(extension)

    async def close(self) -> None:
        """Take part no more."""
        await self._children.close()
        self._lane.close()

    async def _follow(self, pool: ConnectedPool | None) -> None:
        async with self._lock:
            part = None if pool is None else await self._find(pool)
            if part == self._part:
                return
            await self._stop_spm()
            if self._host is not None:
                await _end(self._host[1])
                self._host = None
            self._part = part
            if part is not None:
                host = HostMail(self._make_line(part), part.host_id, self._clock, self._pace)
                self._host = host, self._children.spawn(host.run(), f"mailbox of host {part.host_id}")
            self._start_spm()

    async def _find(self, pool: ConnectedPool) -> _Part | None:
        def look() -> _Part | None:
            backend = self._repository.domains.get_backend(pool.master_id)
            files = MailFiles(backend.domain.checked_path.parent)
            is_shared = backend.traits.type is not DomainType.LOCALFS
            return _Part(pool.master_id, pool.host_id, files) if is_shared else None

        try:
            return await self._lane.run(look)
        except NodeError as error:
            log.warning("pool %s has no mailbox yet: %s", pool.pool_id, error)
            self._children.spawn(self._try_again(pool), "mailbox, once more")
            return None

    async def _try_again(self, pool: ConnectedPool) -> None:
        await self._clock.sleep(RETRY_S)
        if self._pool is pool:
            await self._follow(pool)

    def _start_spm(self) -> None:
        if self._part is not None and self._count is not None:
            line = self._make_line(self._part)
            spm = SpmMail(line, self._count, self._extend, self._clock, self._pace, worker_count=self._worker_count)
            self._spm = self._children.spawn(spm.run(), "mailboxes of all hosts")

    async def _stop_spm(self) -> None:
        if self._spm is not None:
            await _end(self._spm)
            self._spm = None

    def _make_line(self, part: _Part) -> MailLine:
        async def read(call: Callable[[], bytes]) -> bytes:
            if not self._is_valid(part.domain_id):
                raise NotReady(f"domain {part.domain_id}")
            return await self._lane.run(call)

        async def write(call: Callable[[], bytes]) -> bytes:
            if not self._is_valid(part.domain_id):
                raise NotReady(f"domain {part.domain_id}")
            return await self._run_to_end(call)

        return MailLine(part.files, read, write)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
