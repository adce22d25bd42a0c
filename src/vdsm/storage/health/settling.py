"""What follows once a domain of the connected pool became valid (facts: storage §11.2): its link, and its role."""

import logging
import uuid
from pathlib import Path

from msgspec import Struct

from vdsm.storage import durable, locks
from vdsm.storage.domain import Domain, Domains
from vdsm.storage.errors import StoragePoolWrongMaster, io_failing_as
from vdsm.storage.layout import Layout
from vdsm.storage.metadata import demoted_keys
from vdsm.storage.model import DomainRole, DomainStatus, SpmRole
from vdsm.storage.pools.pool import Pools

log = logging.getLogger(__name__)


class Settling(Struct, eq=False):
    """Puts right what a domain missed while it could not be reached."""

    _pools: Pools
    _domains: Domains
    _locks: locks.Locks
    _layout: Layout

    def settle(self, domain_id: str) -> None:
        """Its link is there, and the SPM leaves no second domain marked as master.

        Nothing for a domain that is not active in the connected pool. Locks are taken only where something is wrong.
        """
        for pool_id in self._pools.list_connected():
            if self._pools.get_connected(pool_id).domains.get(domain_id) is not DomainStatus.ACTIVE:
                continue
            domain = self._domains.get(domain_id)
            link, target = self._layout.get_pool(pool_id) / domain_id, domain.backend.domain.path
            if not (link.is_symlink() and link.readlink() == target):
                self._link(pool_id, domain_id, link, target)
            if self._is_wrong_master(pool_id, domain):
                # The pool's lock is not held: the domain may hang again.
                with self._locks.hold(locks.domain(domain_id), locks.writing(pool_id, shared=True)):
                    self._demote(pool_id, domain_id)

    def _link(self, pool_id: str, domain_id: str, link: Path, target: Path) -> None:
        with self._locks.hold(locks.pool(pool_id)):
            pool = self._pools.get_connected(pool_id)
            if pool.domains.get(domain_id) is DomainStatus.ACTIVE:
                with io_failing_as(lambda reason: StoragePoolWrongMaster(pool.master_id, reason)):
                    durable.replace_link(link, target, self._layout.repository / str(uuid.uuid4()))

    def _is_wrong_master(self, pool_id: str, domain: Domain) -> bool:
        pool = self._pools.get_connected(pool_id)
        is_other = domain.metadata.role is DomainRole.MASTER and domain.domain_id != pool.master_id
        is_active = pool.domains.get(domain.domain_id) is DomainStatus.ACTIVE
        return is_other and is_active and pool.role is SpmRole.SPM

    def _demote(self, pool_id: str, domain_id: str) -> None:
        if self._is_wrong_master(pool_id, self._domains.get(domain_id)):
            log.warning("Domain %s is marked as master of pool %s and is not", domain_id, pool_id)
            pool = self._pools.get_connected(pool_id)
            self._domains.update(domain_id, demoted_keys(on_disk=pool.on_disk))
