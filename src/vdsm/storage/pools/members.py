"""The domains of a pool: joining, use, leaving, and formatting those that left (facts: storage §5.10, §7.1)."""

import contextlib
import logging
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from vdsm.storage import checks, durable, errors, locks
from vdsm.storage.domain import UNREADABLE, Domain, Domains
from vdsm.storage.errors_pools import (
    CannotDetachMasterStorageDomain,
    CannotFormatAttachedStorageDomain,
    CannotFormatStorageDomainInConnectedPool,
    HostIdMismatch,
    MiscDirCleanupFailure,
    StorageDomainIllegalStateError,
)
from vdsm.storage.metadata import demoted_keys, detached_keys
from vdsm.storage.model import DomainClass, DomainStatus, SpmRole
from vdsm.storage.pools.pool import MAXIMUM_DOMAINS, RESERVED_HOST_ID, ConnectedPool, Pools
from vdsm.storage.pools.upgrade import Upgrades, is_older
from vdsm.storage.ports import Steps

log = logging.getLogger(__name__)


class Members(Struct, frozen=True):
    """Domains beside the pool that this host is connected to. Those that change a pool are for its SPM only (654)."""

    _pools: Pools
    _domains: Domains
    _upgrades: Upgrades
    _locks: locks.Locks
    _step: Steps

    def attach(self, pool_id: str, domain_id: str) -> None:
        """Make an unattached domain part of the pool. Raises 328, 380, 398, 651.

        The domain is told first: killed in between, attaching it again goes on.
        """
        with self._hold(pool_id, domain_id) as pool:
            domain = self._domains.get_in_time(domain_id)
            if domain_id in pool.domains and pool_id in domain.metadata.pool_ids:
                return
            self._check_attachable(pool, domain)
            if pool_id not in domain.metadata.pool_ids:
                with domain.locked(pool.host_id):
                    domain = self._domains.get(domain_id)  # the SPM of another pool may have been first
                    self._check_attachable(pool, domain)
                    self._domains.update(domain_id, {"POOL_UUID": ",".join((*domain.metadata.pool_ids, pool_id))})
        self._step("add to map")
        with self._hold_map(pool_id) as pool:
            status = pool.domains.get(domain_id, DomainStatus.ATTACHED)
            self._pools.change_map(pool, {**pool.domains, domain_id: status})

    def activate(self, pool_id: str, domain_id: str) -> None:
        """Put an attached domain to use; an active one stays as it is. Raises 353, 371, 375, 398, 651.

        A data domain gets the pool's version, a Backup domain its place for VM definitions.
        """
        with self._hold(pool_id, domain_id) as pool:
            _require_member(pool, domain_id)
            domain = self._domains.validate(domain_id)
            if pool_id not in domain.metadata.pool_ids:
                raise errors.StorageDomainNotMemberOfPool(pool_id, domain_id)
            if pool.domains[domain_id] is not DomainStatus.ACTIVE:
                version = self._check_version(pool, domain)
                if domain_id != pool.master_id:
                    self._prepare(pool, domain, version)
        with self._hold_map(pool_id) as pool:
            _require_member(pool, domain_id)
            self._pools.change_map(pool, {**pool.domains, domain_id: DomainStatus.ACTIVE})

    def deactivate(self, pool_id: str, domain_id: str) -> None:
        """Put a domain out of use, also one that is out of reach; the master stays as it is. Raises 375."""
        with self._hold_map(pool_id) as pool:
            _require_member(pool, domain_id)
            if domain_id != pool.master_id:
                self._pools.change_map(pool, {**pool.domains, domain_id: DomainStatus.ATTACHED})

    def detach(self, pool_id: str, domain_id: str, *, force: bool = False) -> None:
        """Take a domain out of the pool. Raises 347 unless it is out of use, 375, 383 for the master, 651.

        With force the map alone changes, whatever the domain's status, and the domain need not be in reach. Killed
        between domain and map, detaching it again goes on.
        """
        if not force:
            with self._hold(pool_id, domain_id) as pool:
                _require_regular_member(pool, domain_id)
                if pool.domains[domain_id] is not DomainStatus.ATTACHED:
                    raise StorageDomainIllegalStateError(domain_id, pool.domains[domain_id])
                self._leave(pool_id, self._domains.get_in_time(domain_id), pool.host_id)
            self._step("take from map")
        with self._hold_map(pool_id) as pool:
            if force:
                _require_regular_member(pool, domain_id)
            self._pools.change_map(pool, {id: status for id, status in pool.domains.items() if id != domain_id})
        log.info("Detached domain %s from pool %s", domain_id, pool_id)

    def detach_everywhere(self, domain_id: str) -> None:
        """Take a domain out of all pools that it tells of; none of them may be connected with it (900). Raises 651."""
        checks.check_ids(storagedomainID=domain_id)
        with self._locks.hold(locks.connection(), locks.domain(domain_id)):
            pool = self._pools.find_member(domain_id)
            if pool is not None:
                raise errors.StorageDomainIsMemberOfPool(domain_id)
            self._leave(None, self._domains.get_in_time(domain_id), RESERVED_HOST_ID)
        log.info("Detached domain %s from all pools", domain_id)

    def check_destroyable(self, pool_id: str, host_id: int) -> None:
        """Raises StoragePoolUnknown (309), HostIdMismatch (700), and 358 or 379 for a domain that cannot be read."""
        pool = self._pools.get_connected(pool_id)
        if pool.host_id != host_id:
            raise HostIdMismatch(pool.host_id, host_id)
        for domain_id in pool.domains:
            self._domains.get_accessible(domain_id)

    def destroy(self, pool_id: str, host_id: int) -> None:
        """Take all domains out of a pool, the master last, and disconnect it; not while this host is its SPM (656).

        Raises 651 where another host is. The pool is gone with the master's write; after a kill before it, destroying
        goes on. A member that hangs keeps no lock of the pool: the master's lease keeps that from changing meanwhile.
        """
        known = self._pools.get_connected(pool_id)
        master_id, member_ids = known.master_id, [id for id in known.domains if id != known.master_id]
        with self._hold_free(pool_id, master_id, *member_ids):
            self.check_destroyable(pool_id, host_id)
            master = self._pools.get_master(pool_id, master_id)
        with master.locked(host_id):
            for domain_id in member_ids:
                with self._locks.hold(locks.domain(domain_id)):
                    self._step("detach member")
                    self._leave(pool_id, self._domains.get_in_time(domain_id), host_id)
                self._step("take from map")
                with self._hold_free(pool_id, master_id) as pool:
                    self._pools.change_map(pool, {id: status for id, status in pool.domains.items() if id != domain_id})
            with self._hold_free(pool_id, master_id) as pool:
                self._step("detach master")
                self._domains.update(master_id, detached_keys(master.metadata, pool_id))
                self._pools.forget(pool)
        log.info("Destroyed pool %s", pool_id)

    @contextlib.contextmanager
    def _hold_free(self, pool_id: str, master_id: str, *member_ids: str) -> Iterator[ConnectedPool]:
        """The pool, where this host is not the SPM, and nobody connected another master meanwhile."""
        domains = map(locks.domain, (master_id, *member_ids))
        with self._locks.hold(locks.connection(), locks.pool(pool_id), *domains):
            pool = self._pools.get_connected(pool_id)
            if pool.role is not SpmRole.FREE:
                raise errors.IsSpm(pool_id)
            if pool.master_id != master_id:
                raise errors.StoragePoolWrongMaster(master_id, f"the master is {pool.master_id}")
            yield pool

    def rename(self, domain_id: str, name: str) -> None:
        """Change what a domain is called. Raises 387 beyond 50 characters, 654 where another host may write on it."""
        checks.check_domain_name(name)
        checks.check_ids(storagedomainID=domain_id)
        spm = [locks.writing(pool_id, shared=True) for pool_id in self._pools.list_connected()]
        known = self._pools.find_member(domain_id)
        if known is not None and known.master_id == domain_id:
            spm.append(locks.pool(known.pool_id))  # whose map is in the same file
        with self._locks.hold(locks.domain(domain_id), *spm):
            domain = self._domains.get(domain_id)
            pool = self._pools.find_member(domain_id)
            if domain.metadata.pool_ids and (pool is None or pool.role is not SpmRole.SPM):
                raise errors.SpmStatusError(domain.metadata.pool_ids[0])
            if pool is not None and domain_id == pool.master_id:
                self._domains.update(domain_id, {"DESCRIPTION": name})
                return
            with domain.locked(pool.host_id if pool else RESERVED_HOST_ID):
                self._domains.update(domain_id, {"DESCRIPTION": name})

    def format(self, domain_id: str, *, detach: bool = False) -> None:
        """Remove a domain with all that is on it. Raises 391 for one of a pool unless it may be detached, 392.

        It is hidden at once, so that no kill leaves half of one to be found; making a domain in that place removes the
        rest. What cannot be read can be formatted.
        """
        checks.check_ids(storagedomainID=domain_id)
        with self._locks.hold(locks.connection(), locks.domain(domain_id)):
            pools = self._read_pools(domain_id)
            path = self._domains.get_backend(domain_id).domain.path
            if self._pools.find_member(domain_id) is not None:
                raise CannotFormatStorageDomainInConnectedPool(domain_id)
            if pools and not detach:
                raise CannotFormatAttachedStorageDomain(domain_id, pools[0])
            # Named as one being made, so that it is removed like one; not by its own id, which may be made anew.
            hidden = path.with_name(f".{uuid.uuid4()}.new")
            self._step("hide domain")
            with errors.io_failing_as(lambda _: errors.StorageDomainAccessError(domain_id)):
                path.rename(hidden)
                durable.sync(path.parent)
            self._domains.refresh()
        log.info("Formatted domain %s of %s", domain_id, path.parent)
        self._step("remove files")
        _remove_tree(hidden)

    @contextlib.contextmanager
    def _hold(self, pool_id: str, domain_id: str) -> Iterator[ConnectedPool]:
        """The pool, on its SPM, with one domain that changes. Should that hang, the pool's map can be changed."""
        checks.check_ids(storagedomainID=domain_id)
        with self._locks.hold(locks.domain(domain_id), locks.writing(pool_id, shared=True)):
            self._pools.require_spm(pool_id)
            yield self._pools.get_connected(pool_id)

    @contextlib.contextmanager
    def _hold_map(self, pool_id: str) -> Iterator[ConnectedPool]:
        """The pool, whose map changes, on its SPM."""
        with self._locks.hold(locks.pool(pool_id)):
            self._pools.require_spm(pool_id)
            yield self._pools.get_connected(pool_id)

    def _prepare(self, pool: ConnectedPool, domain: Domain, version: int) -> None:
        if is_older(domain, version):
            with domain.locked(pool.host_id):
                self._upgrades.convert(domain.domain_id, version)
        if domain.metadata.domain_class is DomainClass.BACKUP:
            domain.backend.domain.create_master_tree()
        self._domains.update(domain.domain_id, demoted_keys(on_disk=pool.on_disk))

    def _leave(self, pool_id: str | None, domain: Domain, host_id: int) -> None:
        if pool_id is not None and pool_id not in domain.metadata.pool_ids:
            return  # done before a kill
        with domain.locked(host_id):
            self._step("leave pool")
            metadata = self._domains.get(domain.domain_id).metadata
            self._domains.update(domain.domain_id, detached_keys(metadata, pool_id))

    def _read_pools(self, domain_id: str) -> tuple[str, ...]:
        try:
            return self._domains.get_in_time(domain_id).metadata.pool_ids
        except UNREADABLE as error:
            log.warning("What pools domain %s belongs to cannot be read: %s", domain_id, error)
            return ()

    def _check_attachable(self, pool: ConnectedPool, domain: Domain) -> None:
        is_iso = domain.metadata.domain_class is DomainClass.ISO
        others = [pool_id for pool_id in domain.metadata.pool_ids if pool_id != pool.pool_id]
        if others and not is_iso:
            raise errors.StorageDomainAlreadyAttached(domain.domain_id, others[0])
        if domain.domain_id not in pool.domains and len(pool.domains) >= MAXIMUM_DOMAINS:
            raise errors.TooManyDomainsInStoragePoolError(MAXIMUM_DOMAINS)
        self._check_version(pool, domain)

    def _check_version(self, pool: ConnectedPool, domain: Domain) -> int:
        """The master's version; 398 when a data domain is newer."""
        master_version = self._domains.get(pool.master_id).metadata.version
        version = domain.metadata.version
        if domain.metadata.domain_class is DomainClass.DATA and version > master_version:
            raise errors.MixedSdVersionError(domain.domain_id, version, master_version)
        return master_version


def _require_member(pool: ConnectedPool, domain_id: str) -> None:
    if domain_id not in pool.domains:
        raise errors.StorageDomainNotMemberOfPool(pool.pool_id, domain_id)


def _require_regular_member(pool: ConnectedPool, domain_id: str) -> None:
    _require_member(pool, domain_id)
    if domain_id == pool.master_id:
        raise CannotDetachMasterStorageDomain(domain_id)


def _remove_tree(path: Path) -> None:
    with (
        errors.io_failing_as(lambda reason: MiscDirCleanupFailure(str(path), reason)),
        contextlib.suppress(FileNotFoundError),
    ):
        shutil.rmtree(path)
