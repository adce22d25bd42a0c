"""The SPM role: being the one writer of a pool's metadata (facts: storage §7.2).

Loading and recovering persisted tasks, between `start` and the first new work, is left to `tasks`.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial

from vdsm.core.clock import Clock
from vdsm.core.errors import NodeError
from vdsm.core.patience import Patience
from vdsm.core.undo import Undo
from vdsm.storage import checks, errors, locks
from vdsm.storage.domain import Domain, Domains, call_in_time
from vdsm.storage.errors_pools import StorageDomainNotActive, TarCommandError
from vdsm.storage.layout import FileDomainLayout
from vdsm.storage.metadata import NEXT_MASTER, demoted_keys, promoted_keys
from vdsm.storage.model import VERSIONS, DomainClass, DomainRole, DomainStatus, SpmRole
from vdsm.storage.pools.master_tree import clear_tree, copy_tree
from vdsm.storage.pools.pool import ConnectedPool, Pools, check_class
from vdsm.storage.pools.upgrade import Upgrades, is_older
from vdsm.storage.ports import DomainStore, LeaseFailed, Ownership, Steps
from vdsm.storage.recovery import Recovery

log = logging.getLogger(__name__)


SWEEP_PATIENCE_S = 60.0
"""So long one waits for what is done on a domain of the pool; what takes longer goes on beside it."""
PREPARE_PATIENCE_S = 300.0
"""So long a move waits for the next master to be prepared: definitions of thousands of VMs may be copied."""


@dataclass(slots=True)
class Spm:
    """Taking and giving up the role of one pool."""

    _pools: Pools
    _domains: Domains
    _recovery: Recovery
    _upgrades: Upgrades
    _locks: locks.Locks
    _ownership: Ownership
    _step: Steps
    _end: Callable[[str], None]
    """Ends this process, when its lease is lost or cannot be given back."""
    _notice_s: float
    """After so long every host has noticed, in `watch_lease`, that its lease was overwritten."""
    _life_s: float
    """So long a lease lives that is not renewed."""
    _clock: Clock
    _locked: DomainStore | None = field(default=None, init=False)
    _known_s: float = field(default=0.0, init=False)
    """When the lease was known to be held last."""
    _patience: Patience = field(default_factory=lambda: Patience(NodeError), init=False)

    def start(self, pool_id: str, version: int | None = None) -> None:
        """Take the master's lock, at once or not at all, and clean up what a killed SPM left on active domains.

        Raises StoragePoolUnknown (309), StoragePoolWrongMaster (324) when the master moved meanwhile, IsSpm (656),
        AcquireLockFailure (651); after a failure the role is Free again.
        An older master is upgraded to `version` when that is given (394, 395), and an unfinished upgrade goes on.
        Unfinished tasks of the last SPM are in `Layout.get_tasks`, to be recovered before anything is begun.
        """
        found = self._domains.get(self._pools.get_connected(pool_id).master_id)
        changing = [found.domain_id] if is_older(found, version or 0) else []
        with self._hold(pool_id, *changing) as pool:
            if pool.role is not SpmRole.FREE:
                raise errors.IsSpm(pool_id)
            found = self._domains.get_in_time(pool.master_id)
            wanted = _check_version(found, version)
            master = found.backend.domain
            with Undo() as undo:
                undo.push(setattr, pool, "role", SpmRole.FREE)
                pool.role = SpmRole.CONTEND
                master.join_hosts(pool.host_id)
                self._known_s = self._clock.monotonic()
                master.acquire_lock(pool.host_id)
                undo.push(self._release, master)
                self._outlast_others(master)
                self._settle_masters(pool)
                self._raise_lease_version(undo, pool)
                self._upgrades.convert(pool.master_id, wanted)
                master.create_master_tree()
                self._locked = master
                pool.role = SpmRole.SPM
                undo.forget()
        self._sweep(pool)
        log.info("SPM of pool %s as host %d", pool_id, pool.host_id)

    def stop(self, pool_id: str) -> None:
        """Give the role up, when running operations are done, also when the master is out of reach.

        Raises StoragePoolUnknown (309), SpmStatusError (654).
        """
        with self._hold(pool_id) as pool:
            if pool.role is not SpmRole.SPM or self._locked is None:
                raise errors.SpmStatusError(pool_id)
            self._write_nobody(pool)
            locked, self._locked = self._locked, None
            pool.role = SpmRole.FREE
            self._release(locked)
        log.info("No longer SPM of pool %s", pool_id)

    def watch_lease(self) -> None:
        """End this process when sanlock (facts: storage §7.2), or the lease itself, no longer knows it as the writer.

        That sanlock is busy or does not answer is borne for as long as a lease lives: at the intervals of the facts
        three times in a row.
        """
        locked, now_s = self._locked, self._clock.monotonic()
        if locked is None:
            return
        try:
            is_lost, reason = not locked.has_lock(), "this host does not hold it any more"
            self._known_s = now_s
        except LeaseFailed as error:
            is_lost, reason = self._clock.monotonic() >= self._known_s + self._life_s, str(error)
            log.warning("Whether the lease of domain %s is still held is not known: %s", locked.domain_id, error)
        if is_lost and self._locked is locked:
            self._end(f"the lease of domain {locked.domain_id} is lost: {reason}")

    def upgrade(self, pool_id: str, version: int) -> None:
        """Upgrade the master to this version (SPM only); its data domains follow with `Upgrades.convert_member`.

        Raises 309, 394, 395, 654.
        """
        with self._hold(pool_id, self._pools.get_connected(pool_id).master_id) as pool:
            self._pools.require_spm(pool_id)
            wanted = _check_version(self._domains.get(pool.master_id), version)
            self._upgrades.convert(pool.master_id, wanted)

    def migrate(
        self,
        pool_id: str,
        old_id: str,
        new_id: str,
        version: int,
        hold_tasks: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Make another active domain the pool's master (SPM only); nothing may write tasks within `hold_tasks`.

        Raises 317, 319, 324, 331, 369, 375, 651, 654. At every instant there is one master: the old one until the new
        one's metadata is written, which is one write, and the new one from then on, since the old one names it.
        """
        checks.check_master_version(version)
        checks.check_real_ids(oldMasterUUID=old_id, newMasterUUID=new_id)
        with self._hold(pool_id, old_id, new_id) as pool, hold_tasks():
            self._pools.require_spm(pool_id)
            new = self._check_target(pool, old_id, new_id, version)
            old = self._domains.get_in_time(old_id)
            keys = promoted_keys(old.metadata, version, on_disk=pool.on_disk)
            release = new.backend.domain.release_lock
            with Undo() as undo:
                prepare = partial(self._prepare, pool, old, new)
                self._call_in_time(new_id, prepare, PREPARE_PATIENCE_S, late=lambda _: release())
                undo.push(release)
                undo.push(self._take_back, old_id, new_id, {key: new.metadata.keys.get(key) for key in keys})
                self._step("announce master")
                self._domains.update(old_id, {NEXT_MASTER: new_id})
                self._step("promote master")
                self._domains.update(new_id, keys)
                undo.forget()
            self._move(pool, old, new, version)
        log.info("Master of pool %s is domain %s now, version %d", pool_id, new_id, version)

    @contextmanager
    def _hold(self, pool_id: str, *changing: str) -> Iterator[ConnectedPool]:
        """The pool, and domains that change: what only an SPM does is not being done while the role changes.

        What any host may do goes on: a copy takes hours, and no VM may wait for one.
        """
        self._pools.get_connected(pool_id)
        with self._locks.hold(locks.pool(pool_id), locks.writing(pool_id), *map(locks.domain, changing)):
            yield self._pools.get_connected(pool_id)

    def _outlast_others(self, master: DomainStore) -> None:
        """Wait, where the lease was made anew, for whoever had the one before and may not have noticed yet."""
        lease = master.inspect_lock()
        if lease is not None and lease.version == 1:  # a master's was held before, when it came into its pool
            log.warning("The lease of domain %s was made anew: waiting %g s", master.domain_id, self._notice_s)
            time.sleep(self._notice_s)

    def _release(self, locked: DomainStore) -> None:
        try:
            locked.release_lock()
        except errors.ReleaseLockFailure as error:
            self._end(str(error))  # else nobody could be the writer as long as this process lives
            raise

    def _settle_masters(self, pool: ConnectedPool) -> None:
        """Make regular what a killed migration or a reconstruction left as a second master."""
        master = self._pools.get_master(pool.pool_id, pool.master_id)
        if pool.on_disk and pool.domains != master.metadata.pool_domains:
            # The last SPM changed it since this host connected.
            self._pools.change_map(pool, master.metadata.pool_domains)
        version = max(pool.master_version, master.metadata.master_version)
        for domain_id in self._upgrades.list_members(pool.pool_id):
            try:
                other = self._domains.get_in_time(domain_id)
                is_master = other.metadata.role is DomainRole.MASTER and pool.pool_id in other.metadata.pool_ids
                is_former = other.metadata.keys.get(NEXT_MASTER) == pool.master_id
                is_newer = is_master and not is_former and other.metadata.master_version > version
            except NodeError as error:
                log.warning("Whether domain %s is a master, too, cannot be told: %s", domain_id, error)
                continue
            if is_newer:
                raise errors.StoragePoolWrongMaster(pool.master_id, f"{domain_id} is a newer master")
            if is_master:
                try:
                    self._call_in_time(domain_id, partial(self._retire_other, pool, other))
                except errors.AccessTimeout as error:
                    log.warning("Domain %s may be a master, too, until it answers: %s", domain_id, error)
        self._domains.update(pool.master_id, {NEXT_MASTER: None})

    def _check_target(self, pool: ConnectedPool, old_id: str, new_id: str, version: int) -> Domain:
        if old_id != pool.master_id or new_id == old_id:
            raise errors.StoragePoolWrongMaster(old_id, f"the master is {pool.master_id}")
        if version <= pool.master_version:
            raise errors.StoragePoolWrongMaster(new_id, f"version {version} is not above {pool.master_version}")
        if new_id not in pool.domains:
            raise errors.StorageDomainNotMemberOfPool(pool.pool_id, new_id)
        if pool.domains[new_id] is not DomainStatus.ACTIVE:
            raise StorageDomainNotActive(new_id)
        new = self._domains.validate(new_id)
        if pool.pool_id not in new.metadata.pool_ids:
            raise errors.StorageDomainNotMemberOfPool(pool.pool_id, new_id)
        check_class(new)
        return new

    def _prepare(self, pool: ConnectedPool, old: Domain, new: Domain) -> None:
        with Undo() as undo:
            new.backend.domain.acquire_lock(pool.host_id)
            undo.push(new.backend.domain.release_lock)
            self._upgrades.convert(new.domain_id, old.metadata.version)
            self._copy_tree(old, new)
            undo.forget()

    def _copy_tree(self, old: Domain, new: Domain) -> None:
        new.backend.domain.create_master_tree()
        self._step("copy master")
        source, target = (FileDomainLayout(one.backend.domain.path).master for one in (old, new))
        with errors.io_failing_as(TarCommandError):
            copy_tree(source, target, self._ownership.give)
        new.backend.domain.create_master_tree()  # what the old one lacked

    def _take_back(self, old_id: str, new_id: str, keys: dict[str, str | None]) -> None:
        # In this order: as long as the new one may be the master, the old one goes on naming it.
        try:
            self._domains.update(new_id, keys)
            self._domains.update(old_id, {NEXT_MASTER: None})
        except NodeError as error:
            log.error("Whether %s or %s is the master is settled when an SPM starts: %s", old_id, new_id, error)

    def _move(self, pool: ConnectedPool, old: Domain, new: Domain, version: int) -> None:
        pool.master_id, pool.master_version = new.domain_id, version
        self._locked = new.backend.domain
        try:
            self._step("move links")
            self._pools.rebuild_links(pool)
            self._pools.on_change(pool)
        finally:
            try:
                self._call_in_time(old.domain_id, partial(self._leave, pool, old))
            except NodeError as error:
                log.warning("Domain %s is no master any more, but cannot be told so: %s", old.domain_id, error)

    def _leave(self, pool: ConnectedPool, old: Domain) -> None:
        try:
            self._retire(pool, old)
        finally:
            old.backend.domain.release_lock()

    def _retire_other(self, pool: ConnectedPool, other: Domain) -> None:
        with other.locked(pool.host_id):
            self._retire(pool, other)

    def _call_in_time(
        self,
        domain_id: str,
        call: Callable[[], None],
        timeout_s: float | None = None,
        late: Callable[[None], None] | None = None,
    ) -> None:
        """Call what holds the domain's lock between hosts as long as it writes there, however late that ends."""
        call_in_time(self._patience, domain_id, call, timeout_s or SWEEP_PATIENCE_S, late)

    def _retire(self, pool: ConnectedPool, old: Domain) -> None:
        """Remove a former master's copies of what the master has, and make it regular; a second try goes on."""
        self._step("clear master")
        with (
            errors.io_failing_as(lambda _: errors.StorageDomainAccessError(old.domain_id)),
            suppress(FileNotFoundError),
        ):
            clear_tree(FileDomainLayout(old.backend.domain.path).master)
        self._step("demote master")
        self._domains.update(old.domain_id, demoted_keys(on_disk=pool.on_disk))

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
            self._domains.get_in_time(pool.master_id)  # who gives the role up must not wait for storage that hangs
            self._domains.update(pool.master_id, changes)

    def _sweep(self, pool: ConnectedPool) -> None:
        for domain_id in [id for id, status in pool.domains.items() if status is DomainStatus.ACTIVE]:
            try:
                self._call_in_time(domain_id, partial(self._sweep_one, pool.pool_id, domain_id))
            except (errors.ImagesNotSupportedError, errors.StorageDomainDoesNotExist):
                continue
            except NodeError as error:
                log.warning("What was left on domain %s is not cleaned up yet: %s", domain_id, error)

    def _sweep_one(self, pool_id: str, domain_id: str) -> None:
        # Until this is done, however long a sick domain takes, nobody begins anything on it, and the role stays here.
        with self._locks.hold(locks.domain(domain_id), locks.writing(pool_id, shared=True)):
            self._pools.require_spm(pool_id)
            domain = self._domains.get_in_time(domain_id)
            if domain.metadata.domain_class is DomainClass.BACKUP:
                domain.backend.domain.create_master_tree()
            self._recovery.sweep(domain_id)


def _check_version(master: Domain, wanted: int | None) -> int:
    version = master.metadata.version
    if wanted is None:
        return version
    if wanted < version:
        raise errors.CurrentVersionTooAdvancedError(master.domain_id, version, wanted)
    if wanted not in VERSIONS:
        raise errors.UnsupportedDomainVersion(wanted)
    return wanted
