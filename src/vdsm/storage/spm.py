"""The SPM role: being the one writer of a pool's metadata (facts: storage §7.2).

Loading and recovering persisted tasks, between `start` and the first new work, is left to `tasks`.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vdsm.core.undo import Undo
from vdsm.storage import locks
from vdsm.storage.domain import Domains
from vdsm.storage.errors import ImagesNotSupportedError, IsSpm, SpmStatusError, StorageDomainDoesNotExist
from vdsm.storage.model import DomainStatus, SpmRole
from vdsm.storage.pool import ConnectedPool, Pools
from vdsm.storage.recovery import Recovery

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SpmStarted:
    """This host is the SPM now; unfinished tasks of the last one are in `tasks`."""

    tasks: Path
    lease_version: int


class Spm:
    """Taking and giving up the role of one pool."""

    def __init__(self, pools: Pools, domains: Domains, recovery: Recovery, resource_locks: locks.Locks) -> None:
        self._pools = pools
        self._domains = domains
        self._recovery = recovery
        self._locks = resource_locks

    def start(self, pool_id: str, *, sweep: bool = True) -> SpmStarted:
        """Take the master's lock, at once or not at all, and clean up what a killed SPM left on active domains.

        Raises StoragePoolUnknown (309), IsSpm (656), AcquireLockFailure (651); after a failure the role is Free again.
        Entries of persisted tasks are to be recovered after this and before anything is begun.
        """
        with self._hold(pool_id) as pool:
            if pool.role is not SpmRole.FREE:
                raise IsSpm(pool_id)
            master = self._domains.get_backend(pool.master_id).domain
            with Undo() as undo:
                undo.push(setattr, pool, "role", SpmRole.FREE)
                pool.role = SpmRole.CONTEND
                master.acquire_lock(pool.host_id)
                undo.push(master.release_lock)
                self._raise_lease_version(undo, pool)
                tasks = master.create_master_tree()
                if sweep:
                    self._sweep(pool)
                pool.role = SpmRole.SPM
                undo.forget()
        log.info("SPM of pool %s as host %d", pool_id, pool.host_id)
        return SpmStarted(tasks, pool.lease_version)

    def stop(self, pool_id: str) -> None:
        """Give the role up, when running operations are done. Raises StoragePoolUnknown (309), SpmStatusError (654)."""
        with self._hold(pool_id) as pool:
            if pool.role is not SpmRole.SPM:
                raise SpmStatusError(pool_id)
            self._write(pool, {"POOL_SPM_ID": "-1"})
            self._domains.get_backend(pool.master_id).domain.release_lock()
            pool.role = SpmRole.FREE
        log.info("No longer SPM of pool %s", pool_id)

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
        undo.push(self._write, pool, {"POOL_SPM_ID": "-1"})
        version = max(before + 1, 0 if pool.on_disk else 1)
        self._write(pool, {"POOL_SPM_LVER": str(version), "POOL_SPM_ID": str(pool.host_id)})
        pool.lease_version = version

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
