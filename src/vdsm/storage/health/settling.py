"""What follows once a domain of the connected pool became valid (facts: storage §11.2): its link, and its role."""

import logging
import uuid
from pathlib import Path

from vdsm.storage import durable, locks
from vdsm.storage.domain import Domain, Domains
from vdsm.storage.errors import StoragePoolWrongMaster, io_failing_as
from vdsm.storage.layout import Layout
from vdsm.storage.metadata import demoted_keys
from vdsm.storage.model import DomainRole, DomainStatus, SpmRole
from vdsm.storage.pools.pool import ConnectedPool, Pools

log = logging.getLogger(__name__)


class Settling:
    """Puts right what a domain missed while it could not be reached."""

    def __init__(self, pools: Pools, domains: Domains, resource_locks: locks.Locks, layout: Layout) -> None:
        self._pools = pools
        self._domains = domains
        self._locks = resource_locks
        self._layout = layout

    def settle(self, domain_id: str) -> None:
        """Its link is there, and the SPM leaves no second domain marked as master.

        Nothing for a domain that is not active in the connected pool. Locks are taken only where something is wrong.
        """
        for pool_id in self._pools.list_connected():
            if self._pools.get_connected(pool_id).domains.get(domain_id) is not DomainStatus.ACTIVE:
                continue
            domain = self._domains.get(domain_id)
            link, target = self._layout.get_pool(pool_id) / domain_id, domain.backend.domain.path
            if self._find_faults(self._pools.get_connected(pool_id), domain, link, target):
                with self._locks.hold(locks.pool(pool_id), locks.domain(domain_id)):
                    self._repair(self._pools.get_connected(pool_id), self._domains.get(domain_id), link, target)

    def _find_faults(self, pool: ConnectedPool, domain: Domain, link: Path, target: Path) -> set[str]:
        if pool.domains.get(domain.domain_id) is not DomainStatus.ACTIVE:
            return set()
        is_other = domain.metadata.role is DomainRole.MASTER and domain.domain_id != pool.master_id
        faults = {"role"} if is_other and pool.role is SpmRole.SPM else set()
        return faults if link.is_symlink() and link.readlink() == target else {*faults, "link"}

    def _repair(self, pool: ConnectedPool, domain: Domain, link: Path, target: Path) -> None:
        faults = self._find_faults(pool, domain, link, target)
        if "link" in faults:
            with io_failing_as(lambda reason: StoragePoolWrongMaster(pool.master_id, reason)):
                durable.replace_link(link, target, self._layout.repository / str(uuid.uuid4()))
        if "role" in faults:
            log.warning("Domain %s is marked as master of pool %s and is not", domain.domain_id, pool.pool_id)
            self._domains.update(domain.domain_id, demoted_keys(on_disk=pool.on_disk))
