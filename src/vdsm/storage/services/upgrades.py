"""Upgrades of a pool's domains in the background, one after another; what each takes is left to `upgrade`."""

import logging
from functools import partial

from vdsm.core.errors import NodeError
from vdsm.storage.errors import SpmStatusError, StoragePoolUnknown
from vdsm.storage.errors_pools import PoolUpgradeInProgress
from vdsm.storage.repository import Repository
from vdsm.storage.services.ports import LongWork

log = logging.getLogger("storage.service")


class PoolUpgrades:
    """Brings a pool's domains to the version of its master; one such work per pool at a time."""

    def __init__(self, repository: Repository, work: LongWork) -> None:
        self._repository = repository
        self._work = work
        self._running: set[str] = set()

    def check_idle(self, pool_id: str) -> None:
        """Raises PoolUpgradeInProgress (396)."""
        if pool_id in self._running:
            raise PoolUpgradeInProgress(pool_id)

    async def begin(self, pool_id: str) -> None:
        """Begin, in a task of this process's memory. Raises PoolUpgradeInProgress, AddTaskFailed."""
        self.check_idle(pool_id)
        await self._work.start_in_memory("upgradeStoragePool", pool_id, partial(self._run, pool_id))

    async def _run(self, pool_id: str) -> None:
        upgrades = self._repository.upgrades
        self._running.add(pool_id)
        try:
            for domain_id in upgrades.list_members(pool_id):
                try:
                    await self._work.run_in_thread(upgrades.convert_member, pool_id, domain_id)
                except (SpmStatusError, StoragePoolUnknown):
                    return  # the next SPM goes on when it is asked to
                except NodeError as error:
                    log.warning("domain %s is not upgraded until it is activated again: %s", domain_id, error)
        finally:
            self._running.discard(pool_id)
