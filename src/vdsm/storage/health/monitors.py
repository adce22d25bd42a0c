"""Domain monitors, one for each active domain of the connected pool and for each that callers name.

How health is judged is `monitor`; how storage is read without being hurt by it is left to the checker and to lanes.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from vdsm.core.clock import Clock
from vdsm.core.errors import GeneralFailure, NodeError, ResourceExhausted
from vdsm.core.periodic import repeat
from vdsm.storage import checks
from vdsm.storage.errors import AccessTimeout, MiscFileReadException, StorageDomainIsMemberOfPool
from vdsm.storage.health.monitor import Check, DomainLook, Health
from vdsm.storage.ports import HostIds, PathCheck, PathChecker

log = logging.getLogger("storage.monitor")

MAXIMUM_NAMED = 100
"""Domains that callers may have watched outside of the pool: each costs a look at every interval, there or not."""


class Watching(Struct, frozen=True):
    """What monitors need, and whom they tell.

    `look` and `settle` (what is to be done once a domain became valid) run where a sick domain hurts only itself.
    """

    look: Callable[[str], Awaitable[DomainLook]]
    settle: Callable[[str], Awaitable[None]]
    checker: PathChecker
    host_ids: HostIds
    clock: Clock
    interval_s: float
    tell: Callable[[str, Health], None]


class Monitor:
    """Watches one domain. A look that hangs is late after one interval, and no second one begins beside it."""

    def __init__(self, domain_id: str, host_id: int, watching: Watching) -> None:
        self.health = Health(watching.clock.monotonic())
        self._domain_id = domain_id
        self._host_id = host_id
        self._watching = watching
        self._looking: asyncio.Task[None] | None = None
        self._is_overdue = False
        self._is_blocked = False  # storage is known not to answer: a look would only cost another thread
        self._is_settled = False

    async def run(self) -> None:
        """Look again and again until cancelled."""
        watching = self._watching
        try:
            name = f"monitor of domain {self._domain_id}"
            await repeat(self._cycle, every_s=watching.interval_s, clock=watching.clock, name=name)
        finally:
            if self.health.look is not None:
                watching.checker.forget(self.health.look.checked_path)
            if self._looking is not None:
                self._looking.cancel()

    def leave(self) -> None:
        """Give up the host's id, for a domain that is not used any more."""
        self._watching.host_ids.release(self._domain_id)

    async def _cycle(self) -> None:
        self._watching.host_ids.check(self._domain_id)
        if self._looking is None:
            if self._is_blocked:
                return
            self._looking = asyncio.create_task(self._look())
        timer = asyncio.create_task(self._watching.clock.sleep(self._watching.interval_s))
        try:
            await asyncio.wait({self._looking, timer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
        if self._looking.done():
            looked, self._looking, self._is_overdue = self._looking, None, False
            looked.result()
            await self._use()
        elif not self._is_overdue:
            self._is_overdue = True
            self._record(domain=Check(self._now_s, AccessTimeout(self._domain_id)))

    async def _look(self) -> None:
        try:
            look = await self._watching.look(self._domain_id)
        except NodeError as error:
            # When its thread is lost, the next look waits until the checker can read again.
            self._is_blocked = isinstance(error, AccessTimeout) and self.health.look is not None
            self._record(domain=Check(self._now_s, error))
        except Exception as error:
            self._record(domain=Check(self._now_s, GeneralFailure(repr(error))))
            raise
        else:
            known = self.health.look
            self._record(domain=Check(self._now_s), look=look)
            self._follow(known, look)

    def _follow(self, known: DomainLook | None, look: DomainLook) -> None:
        if known is not None and known.checked_path == look.checked_path:
            return
        if known is not None:
            self._watching.checker.forget(known.checked_path)
        self._watching.checker.watch(look.checked_path, self._hear)

    async def _use(self) -> None:
        look = self.health.look
        if look is None or not (self.health.is_actual and self.health.is_valid):
            self._is_settled = False
            return
        if not look.is_iso:
            self._watching.host_ids.acquire(self._domain_id, self._host_id)
        if not self._is_settled:
            self._is_settled = True
            try:
                await self._watching.settle(self._domain_id)
            except NodeError as error:
                self._is_settled = False
                log.warning("domain %s is valid, but not everything follows: %s", self._domain_id, error)

    def _hear(self, check: PathCheck) -> None:
        look = self.health.look
        if look is None:
            return
        self._is_blocked = check.is_late
        failure = "read timeout" if check.is_late else check.failure
        if failure:
            error = MiscFileReadException(str(look.checked_path), failure)
            self._record(path=Check(self._now_s, error))
        else:
            self._record(path=Check(self._now_s), delay_s=check.delay_s)

    @property
    def _now_s(self) -> float:
        return self._watching.clock.monotonic()

    def _record(self, **changes: object) -> None:
        self.health = replace(self.health, **changes)
        if self.health.has_news:
            self.health = replace(self.health, told_valid=self.health.is_valid)
            if self.health.is_valid:
                log.info("domain %s is valid", self._domain_id)
            else:
                log.warning("domain %s is not valid: %s", self._domain_id, self.health.error)
            self._watching.tell(self._domain_id, self.health)


class Monitors:
    """All monitors of this host. They run while `run` does; calls are made on the loop's thread."""

    def __init__(self, watching: Watching) -> None:
        self._watching = watching
        self._pool: Mapping[str, int] = {}
        self._named: dict[str, int] = {}
        self._monitors: dict[str, Monitor] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Watch until cancelled; what was asked for earlier begins now."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                self._follow()
                await self._watching.checker.run()
            finally:
                self._group = None
                for task in self._tasks.values():
                    task.cancel()

    def watch_pool(self, host_ids: Mapping[str, int]) -> None:
        """The active domains of the connected pool, all of them, each with this host's id there.

        One that was named by a caller belongs to the pool from now on.
        """
        self._pool = dict(host_ids)
        for domain_id in host_ids:
            self._named.pop(domain_id, None)
        self._follow()

    def start(self, domain_id: str, host_id: int) -> None:
        """Watch a domain outside of the pool; nothing for one that is watched. Raises 1000, ResourceExhausted."""
        checks.check_real_ids(sdUUID=domain_id)
        checks.check_host_id(host_id)
        if domain_id in self._pool or domain_id in self._named:
            return
        if len(self._named) >= MAXIMUM_NAMED:
            raise ResourceExhausted(f"{MAXIMUM_NAMED} domains outside of the pool are watched")
        self._named[domain_id] = host_id
        self._follow()

    def stop(self, domain_id: str) -> None:
        """Nothing for a domain that is not watched. Raises 1000, StorageDomainIsMemberOfPool (900)."""
        checks.check_ids(sdUUID=domain_id)
        if domain_id in self._pool:
            raise StorageDomainIsMemberOfPool(domain_id)
        self._named.pop(domain_id, None)
        self._follow()

    def list_health(self) -> dict[str, Health]:
        """What is known of each watched domain."""
        return {domain_id: monitor.health for domain_id, monitor in self._monitors.items()}

    def is_held(self, domain_id: str) -> bool:
        """Whether this host's id is held there."""
        return self._watching.host_ids.is_held(domain_id)

    def _follow(self) -> None:
        wanted = {**self._named, **self._pool}
        for domain_id in self._monitors.keys() - wanted.keys():
            self._monitors.pop(domain_id).leave()
            with contextlib.suppress(KeyError):
                self._tasks.pop(domain_id).cancel()
        for domain_id, host_id in wanted.items():
            monitor = self._monitors.get(domain_id)
            if monitor is None:
                monitor = self._monitors[domain_id] = Monitor(domain_id, host_id, self._watching)
            if self._group is not None and domain_id not in self._tasks:
                self._tasks[domain_id] = self._group.create_task(monitor.run(), name=f"monitor {domain_id}")
