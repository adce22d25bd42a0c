"""Answers the verbs on the health of domains, and keeps the monitors with the connected pool."""

import logging
from collections.abc import Callable

from vdsm.api.events import DomainStatusChanged
from vdsm.api.host_types import StorageDomainVitals
from vdsm.core.clock import Clock
from vdsm.storage.health.monitor import DomainLook, Health
from vdsm.storage.health.monitors import Monitors, Watching
from vdsm.storage.lanes import Lanes
from vdsm.storage.model import DomainStatus
from vdsm.storage.pools.pool import ConnectedPool
from vdsm.storage.ports import HostIds, PathChecker
from vdsm.storage.repository import Repository

log = logging.getLogger("storage.service")


def format_event(domain_id: str, health: Health) -> DomainStatusChanged:
    """The event of a verdict."""
    message = "" if health.error is None else str(health.error)
    return DomainStatusChanged(domain_id=domain_id, valid=health.is_valid, code=health.code, message=message)


class MonitorService:
    """Implements `api.host.MonitorApi`, and `host.ports.StorageHealth`."""

    def __init__(
        self,
        repository: Repository,
        lanes: Lanes,
        checker: PathChecker,
        host_ids: HostIds,
        clock: Clock,
        interval_s: float,
        tell: Callable[[DomainStatusChanged], None],
    ) -> None:
        self._repository = repository
        self._lanes = lanes
        self._clock = clock
        self._monitors = Monitors(
            Watching(
                look=self._look,
                settle=self._settle,
                checker=checker,
                host_ids=host_ids,
                clock=clock,
                interval_s=interval_s,
                tell=lambda domain_id, health: tell(format_event(domain_id, health)),
            )
        )

    async def run(self) -> None:
        """Watch until cancelled."""
        await self._monitors.run()

    def follow(self, pool: ConnectedPool | None) -> None:
        """Watch the active domains of this pool."""
        domains = {} if pool is None else pool.domains
        active = [domain_id for domain_id, status in domains.items() if status is DomainStatus.ACTIVE]
        self._monitors.watch_pool(dict.fromkeys(active, 0 if pool is None else pool.host_id))

    async def get_vitals(self, domain_ids: list[str]) -> dict[str, StorageDomainVitals]:
        vitals = self.list_vitals()
        return {id: vitals[id] for id in domain_ids if id in vitals} if domain_ids else vitals

    async def start(self, domain_id: str, host_id: int) -> None:
        self._monitors.start(domain_id, host_id)

    async def stop(self, domain_id: str) -> None:
        self._monitors.stop(domain_id)

    def list_vitals(self) -> dict[str, StorageDomainVitals]:
        """What is known of each watched domain (facts: storage §11.3)."""
        return {domain_id: self._format(domain_id, health) for domain_id, health in self.list_health().items()}

    def list_health(self) -> dict[str, Health]:
        """The same, as the repository sees it."""
        return self._monitors.list_health()

    def is_valid(self, domain_id: str) -> bool:
        """Whether nothing is known against a domain."""
        health = self.list_health().get(domain_id)
        return health is None or health.is_valid

    def _format(self, domain_id: str, health: Health) -> StorageDomainVitals:
        return StorageDomainVitals(
            code=health.code,
            checked_ago_s=self._clock.monotonic() - health.checked_s,
            delay_s=health.delay_s,
            valid=health.is_valid,
            version=health.version,
            acquired=self._monitors.is_held(domain_id),
            actual=health.is_actual,
        )

    async def _look(self, domain_id: str) -> DomainLook:
        return await self._lanes.run(domain_id, self._repository.domains.look, domain_id)

    async def _settle(self, domain_id: str) -> None:
        await self._lanes.run(domain_id, self._repository.settling.settle, domain_id)
