"""The SPM role: being the one writer of a pool's metadata (facts: storage §7.2).

Loading and recovering persisted tasks, between `start` and the first new work, is left to `tasks`.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vdsm.core.errors import NodeError
from vdsm.core.undo import Undo
from vdsm.storage import locks
from vdsm.storage.domain import Domain, Domains
from vdsm.storage.errors import (
    CurrentVersionTooAdvancedError,
    ImagesNotSupportedError,
    IsSpm,
    ReleaseLockFailure,
    SpmStatusError,
    StorageDomainDoesNotExist,
    UnsupportedOperation,
)
from vdsm.storage.model import DomainStatus, SpmRole
from vdsm.storage.pool import ConnectedPool, Pools
from vdsm.storage.ports import DomainStore, LeaseFailed
from vdsm.storage.recovery import Recovery

log = logging.getLogger(__name__)


MAXIMUM_UNANSWERED = 3


class Spm:
    """Taking and giving up the role of one pool."""

    def __init__(
        self,
        pools: Pools,
        domains: Domains,
        recovery: Recovery,
        resource_locks: locks.Locks,
        end: Callable[[str], None],
    ) -> None:
        """`end` ends this process, when its lease is lost or cannot be given back."""
        self._pools = pools
        self._domains = domains
        self._recovery = recovery
        self._locks = resource_locks
        self._locked: DomainStore | None = None
        self._end = end
        self._unanswered = 0

    def start(self, pool_id: str, version: int | None = None) -> None:
        """Take the master's lock, at once or not at all, and clean up what a killed SPM left on active domains.

        Raises StoragePoolUnknown (309), IsSpm (656), AcquireLockFailure (651); after a failure the role is Free again.
        The master must be of `version` when that is given (395; 2009, since domains cannot be upgraded yet).
        Unfinished tasks of the last SPM are in `Layout.get_tasks`, to be recovered before anything is begun.
        """
        with self._hold(pool_id) as pool:
            if pool.role is not SpmRole.FREE:
                raise IsSpm(pool_id)
            found = self._domains.get(pool.master_id)
            _check_version(found, version)
            master = found.backend.domain
            with Undo() as undo:
                undo.push(setattr, pool, "role", SpmRole.FREE)
                pool.role = SpmRole.CONTEND
                master.join_hosts(pool.host_id)
                master.acquire_lock(pool.host_id)
                undo.push(self._release, master)
                self._raise_lease_version(undo, pool)
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
            locked, self._locked = self._locked, None
            pool.role = SpmRole.FREE
            self._release(locked)
        log.info("No longer SPM of pool %s", pool_id)

    def watch_lease(self) -> None:
        """End this process when sanlock no longer knows it as the writer (facts: storage §7.2).

        That sanlock is busy or does not answer is borne a few times in a row.
        """
        locked = self._locked
        if locked is None:
            self._unanswered = 0
            return
        try:
            is_lost, reason = not locked.has_lock(), "sanlock does not know it"
            self._unanswered = 0
        except LeaseFailed as error:
            self._unanswered += 1
            is_lost, reason = self._unanswered > MAXIMUM_UNANSWERED, str(error)
            log.warning("Whether the lease of domain %s is still held is not known: %s", locked.domain_id, error)
        if is_lost and self._locked is locked:
            self._end(f"the lease of domain {locked.domain_id} is lost: {reason}")

    @contextmanager
    def _hold(self, pool_id: str) -> Iterator[ConnectedPool]:
        """The pool with all its domains: nothing is being written while the role changes."""
        domain_ids = self._pools.get_connected(pool_id).domains
        with self._locks.hold(locks.pool(pool_id), *(locks.domain(domain_id) for domain_id in domain_ids)):
            yield self._pools.get_connected(pool_id)

    def _release(self, locked: DomainStore) -> None:
        try:
            locked.release_lock()
        except ReleaseLockFailure as error:
            self._end(str(error))  # else nobody could be the writer as long as this process lives
            raise

    def _raise_lease_version(self, undo: Undo, pool: ConnectedPool) -> None:
        before = pool.lease_version
        if pool.on_disk:
            before = self._domains.get(pool.master_id).metadata.spm_lease_version
        undo.push(self._write_nobody, pool)
        version = max(before + 1, 0 if pool.on_disk else 1)
        lease = None if pool.on_disk else self._domains.get_backend(pool.master_id).domain.inspect_lock()
        if lease is not None:
            version = lease.version
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
                    self._recovery.sweep(domain_id)
                except (ImagesNotSupportedError, StorageDomainDoesNotExist):
                    continue
                except NodeError as error:
                    log.warning("What was left on domain %s is not cleaned up: %s", domain_id, error)


def _check_version(master: Domain, wanted: int | None) -> None:
    version = master.metadata.version
    if wanted is not None and wanted < version:
        raise CurrentVersionTooAdvancedError(master.domain_id, version, wanted)
    if wanted is not None and wanted > version:
        raise UnsupportedOperation(f"upgrade of domain {master.domain_id} from version {version} to {wanted}")
