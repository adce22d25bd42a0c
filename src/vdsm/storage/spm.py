"""The SPM role: being the one writer of a pool's metadata (facts: storage §7.2).

Loading and recovering persisted tasks, between `start` and the first new work, is left to `tasks`.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from vdsm.core.errors import NodeError
from vdsm.core.undo import Undo
from vdsm.storage import locks
from vdsm.storage.domain import Domain, Domains
from vdsm.storage.errors import (
    CurrentVersionTooAdvancedError,
    ImagesNotSupportedError,
    IsSpm,
    SpmStatusError,
    StorageDomainDoesNotExist,
    UnsupportedDomainVersion,
)
from vdsm.storage.model import VERSIONS, DomainClass, DomainStatus, SpmRole
from vdsm.storage.pool import ConnectedPool, Pools
from vdsm.storage.ports import DomainStore
from vdsm.storage.recovery import Recovery
from vdsm.storage.upgrade import Upgrades

log = logging.getLogger(__name__)


class Spm:
    """Taking and giving up the role of one pool."""

    def __init__(
        self, pools: Pools, domains: Domains, recovery: Recovery, upgrades: Upgrades, resource_locks: locks.Locks
    ) -> None:
        self._pools = pools
        self._domains = domains
        self._recovery = recovery
        self._upgrades = upgrades
        self._locks = resource_locks
        self._locked: DomainStore | None = None

    def start(self, pool_id: str, version: int | None = None) -> None:
        """Take the master's lock, at once or not at all, and clean up what a killed SPM left on active domains.

        Raises StoragePoolUnknown (309), IsSpm (656), AcquireLockFailure (651); after a failure the role is Free again.
        An older master is upgraded to `version` when that is given (394, 395), and an unfinished upgrade goes on.
        Unfinished tasks of the last SPM are in `Layout.get_tasks`, to be recovered before anything is begun.
        """
        with self._hold(pool_id) as pool:
            if pool.role is not SpmRole.FREE:
                raise IsSpm(pool_id)
            found = self._domains.get(pool.master_id)
            wanted = _check_version(found, version)
            master = found.backend.domain
            with Undo() as undo:
                undo.push(setattr, pool, "role", SpmRole.FREE)
                pool.role = SpmRole.CONTEND
                master.acquire_lock(pool.host_id)
                undo.push(master.release_lock)
                self._raise_lease_version(undo, pool)
                self._upgrades.convert(pool.master_id, wanted)
                master.create_master_tree()
                self._sweep(pool)
                self._locked = master
                pool.role = SpmRole.SPM
                undo.forget()
        log.info("SPM of pool %s as host %d", pool_id, pool.host_id)

    def stop(self, pool_id: str) -> None:
        """Give the role up, when running operations are done, also when the master is out of reach.

        Raises StoragePoolUnknown (309), SpmStatusError (654).
        """
        with self._hold(pool_id) as pool:
            if pool.role is not SpmRole.SPM or self._locked is None:
                raise SpmStatusError(pool_id)
            self._write_nobody(pool)
            self._locked.release_lock()
            self._locked = None
            pool.role = SpmRole.FREE
        log.info("No longer SPM of pool %s", pool_id)

    def upgrade(self, pool_id: str, version: int) -> None:
        """Upgrade the master to this version (SPM only); its data domains follow with `Upgrades.convert_member`.

        Raises 309, 394, 395, 654.
        """
        with self._hold(pool_id) as pool:
            self._pools.require_spm(pool_id)
            wanted = _check_version(self._domains.get(pool.master_id), version)
            self._upgrades.convert(pool.master_id, wanted)

    @contextmanager
    def _hold(self, pool_id: str) -> Iterator[ConnectedPool]:
        """The pool with all its domains: nothing is being written while the role changes."""
        domain_ids = self._pools.get_connected(pool_id).domains
        with self._locks.hold(locks.pool(pool_id), *(locks.domain(domain_id) for domain_id in domain_ids)):
            yield self._pools.get_connected(pool_id)

    def _raise_lease_version(self, undo: Undo, pool: ConnectedPool) -> None:
        before = pool.lease_version
        if pool.on_disk:
            before = self._domains.get(pool.master_id).metadata.spm_lease_version
        undo.push(self._write_nobody, pool)
        version = max(before + 1, 0 if pool.on_disk else 1)
        self._write(pool, {"POOL_SPM_LVER": str(version), "POOL_SPM_ID": str(pool.host_id)})
        pool.lease_version = version

    def _write_nobody(self, pool: ConnectedPool) -> None:
        try:
            self._write(pool, {"POOL_SPM_ID": "-1"})
        except NodeError as error:
            log.warning("Pool %s goes on naming host %d as its SPM: %s", pool.pool_id, pool.host_id, error)

    def _write(self, pool: ConnectedPool, changes: dict[str, str]) -> None:
        if pool.on_disk:
            self._domains.update(pool.master_id, changes)

    def _sweep(self, pool: ConnectedPool) -> None:
        for domain_id, status in pool.domains.items():
            if status is DomainStatus.ACTIVE:
                try:
                    domain = self._domains.get(domain_id)
                    if domain.metadata.domain_class is DomainClass.BACKUP:
                        domain.backend.domain.create_master_tree()
                    self._recovery.sweep(domain_id)
                except (ImagesNotSupportedError, StorageDomainDoesNotExist):
                    continue
                except NodeError as error:
                    log.warning("What was left on domain %s is not cleaned up: %s", domain_id, error)


def _check_version(master: Domain, wanted: int | None) -> int:
    version = master.metadata.version
    if wanted is None:
        return version
    if wanted < version:
        raise CurrentVersionTooAdvancedError(master.domain_id, version, wanted)
    if wanted not in VERSIONS:
        raise UnsupportedDomainVersion(wanted)
    return wanted
