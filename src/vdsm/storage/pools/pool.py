"""Storage pools: making, connecting and describing them (facts: storage §7.1); the role is `spm`, domains `members`."""

import contextlib
import logging
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct

from vdsm.core.errors import NodeError
from vdsm.core.ids import is_uuid
from vdsm.core.undo import Undo
from vdsm.storage import checks, durable, errors, locks, model
from vdsm.storage.domain import UNREADABLE, Domain, Domains
from vdsm.storage.health.monitor import Health
from vdsm.storage.layout import FileDomainLayout, Layout
from vdsm.storage.metadata import NEXT_MASTER, format_pool_domains, new_pool_keys
from vdsm.storage.ports import LeaseFailed

log = logging.getLogger(__name__)

MAXIMUM_DOMAINS = 100
RESERVED_HOST_ID = 250
"""Under which a lock is taken where no pool gives this host a number (facts: storage §1.8)."""


class ConnectedPool(Struct):
    """The one pool of this host. With `on_disk` its map and SPM keys live on the master, else in memory."""

    pool_id: str
    host_id: int
    master_id: str
    master_version: int
    domains: dict[str, model.DomainStatus]
    on_disk: bool
    role: model.SpmRole = model.SpmRole.FREE
    lease_version: int = -1


class Pools:
    """Pools as this host sees them; it is connected to one at most."""

    def __init__(self, domains: Domains, resource_locks: locks.Locks, layout: Layout) -> None:
        self._domains = domains
        self._locks = resource_locks
        self._layout = layout
        self._connected: ConnectedPool | None = None
        self.on_change: Callable[[ConnectedPool | None], None] = _tell_nobody
        """Told, in the thread that changes it, of the connected pool after each change of it or of its map."""

    def list_connected(self) -> list[str]:
        return [self._connected.pool_id] if self._connected else []

    def get_connected(self, pool_id: str) -> ConnectedPool:
        """Raises InvalidParameterException, StoragePoolUnknown (309)."""
        checks.check_ids(storagepoolID=pool_id)
        if self._connected is None or self._connected.pool_id != pool_id:
            raise errors.StoragePoolUnknown(pool_id)
        return self._connected

    def find_member(self, domain_id: str) -> ConnectedPool | None:
        """The connected pool, if its map has the domain."""
        pool = self._connected
        return pool if pool is not None and domain_id in pool.domains else None

    def require_spm(self, pool_id: str) -> None:
        """Raises StoragePoolUnknown (309), SpmStatusError (654)."""
        if self.get_connected(pool_id).role is not model.SpmRole.SPM:
            raise errors.SpmStatusError(pool_id)

    def create(
        self,
        pool_id: str,
        name: str,
        master_id: str,
        master_version: int,
        domain_ids: Sequence[str],
        lease: model.LeaseSettings | None = None,
    ) -> None:
        """Make a pool of unattached domains. The master's metadata is written first: from then on the pool exists.

        Raises 317, 319, 325, 327, 328, 379, 380, 398, 651, 1000; a failure takes back what was written.
        """
        checks.check_real_ids(storagepoolID=pool_id, masterSdUUID=master_id)
        checks.check_ids(**{f"domList[{index}]": domain_id for index, domain_id in enumerate(domain_ids)})
        checks.check_pool_name(name)
        checks.check_master_version(master_version)
        if master_id not in domain_ids:
            raise errors.InvalidParameterException("masterSdUUID", master_id)
        if len(set(domain_ids)) > MAXIMUM_DOMAINS:
            raise errors.TooManyDomainsInStoragePoolError(MAXIMUM_DOMAINS)
        if self._connected is not None and self._connected.pool_id == pool_id:
            raise errors.StoragePoolConnected(pool_id, "it exists")
        with self._locks.hold(*(locks.domain(domain_id) for domain_id in domain_ids)), contextlib.ExitStack() as leases:
            others = self._check_new(pool_id, master_id, domain_ids)
            for domain_id in (master_id, *others):
                leases.enter_context(self._domains.get(domain_id).locked(RESERVED_HOST_ID))
            self._check_new(pool_id, master_id, domain_ids)  # another host may have been first
            self._create(pool_id, master_id, new_pool_keys(pool_id, name, master_id, master_version, lease), others)
        log.info("Created pool %s with master %s", pool_id, master_id)

    def connect(
        self, pool_id: str, host_id: int, master_id: str, master_version: int, domains: Mapping[str, str] | None = None
    ) -> None:
        """Join this host to a pool; repeating it refreshes the master version and the map.

        With a map of domains it is kept in memory and the pool's keys on storage are not read nor written; without one
        they are authoritative. Raises 304, 323, 324, 325, 376, 1000.
        """
        checks.check_real_ids(storagepoolID=pool_id, masterSdUUID=master_id)
        checks.check_host_id(host_id)
        given = None if domains is None else _parse_domains(domains, master_id)
        with self._locks.hold(locks.connection(), locks.pool(pool_id)):
            self._check_connection(pool_id, host_id, master_id, on_disk=given is None)
            metadata = self.get_master(pool_id, master_id).metadata
            if given is None and metadata.master_version != master_version:
                raise errors.StoragePoolWrongMaster(
                    master_id, f"version {metadata.master_version}, not {master_version}"
                )
            pool = ConnectedPool(
                pool_id,
                host_id,
                master_id,
                master_version,
                given if given is not None else metadata.pool_domains,
                on_disk=given is None,
            )
            if self._connected is not None:
                pool.role, pool.lease_version = self._connected.role, self._connected.lease_version
            self.rebuild_links(pool)
            self._connected = pool
            self.on_change(pool)
        log.info("Connected pool %s as host %d", pool_id, host_id)

    def disconnect(self, pool_id: str) -> None:
        """Leave a pool; success when it is not connected. Raises IsSpm (656)."""
        checks.check_ids(storagepoolID=pool_id)
        with self._locks.hold(locks.connection(), locks.pool(pool_id)):
            if self._connected is None or self._connected.pool_id != pool_id:
                return
            if self._connected.role is not model.SpmRole.FREE:
                raise errors.IsSpm(pool_id)
            self._remove_links(pool_id)
            self._connected = None
            self.on_change(None)

    def reconstruct(
        self,
        pool_id: str,
        host_id: int,
        name: str,
        master_id: str,
        master_version: int,
        domains: Mapping[str, str],
        lease: model.LeaseSettings | None = None,
    ) -> None:
        """Make another domain the master of a pool that lost its own. One write: before it, nothing has changed.

        Raises 317, 319, 325 while the pool is connected here, 327, 328, 376, 380, 651, 1000.
        """
        checks.check_real_ids(storagepoolID=pool_id, masterSdUUID=master_id)
        checks.check_host_id(host_id)
        checks.check_pool_name(name)
        checks.check_master_version(master_version)
        given = _parse_domains(domains, master_id)
        with self._locks.hold(locks.connection(), locks.pool(pool_id), locks.domain(master_id)):
            if pool_id in self.list_connected():
                raise errors.StoragePoolConnected(pool_id, "disconnect it first")
            master = self._domains.get_accessible(master_id)
            check_class(master)
            keys = new_pool_keys(pool_id, name, master_id, master_version, lease)
            with master.locked(host_id):
                for other in self._domains.get(master_id).metadata.pool_ids:
                    if other != pool_id:
                        raise errors.StorageDomainAlreadyAttached(master_id, other)
                self._domains.update(master_id, {**keys, "POOL_DOMAINS": format_pool_domains(given)})
        log.info("Reconstructed pool %s with master %s, version %d", pool_id, master_id, master_version)

    def forget(self, pool: ConnectedPool) -> None:
        """Leave a pool that is no more; the caller holds the locks of connection and pool."""
        self._remove_links(pool.pool_id)
        self._connected = None
        self.on_change(None)

    def change_map(self, pool: ConnectedPool, domains: Mapping[str, model.DomainStatus]) -> None:
        """Replace the map, on disk where it is kept there, and let the links follow; the caller holds the locks."""
        if pool.on_disk:
            self._domains.update(pool.master_id, {"POOL_DOMAINS": format_pool_domains(domains)})
        pool.domains = dict(domains)
        self.rebuild_links(pool)
        self.on_change(pool)

    def get_master(self, pool_id: str, master_id: str) -> Domain:
        """The domain, valid and the one master of the pool. Raises 304, 324, and what validating raises."""
        try:
            master = self._domains.validate(master_id)
        except errors.StorageDomainDoesNotExist as error:
            raise errors.StoragePoolMasterNotFound(pool_id, master_id) from error
        if pool_id not in master.metadata.pool_ids:
            raise errors.StoragePoolWrongMaster(master_id, f"not of pool {pool_id}")
        if master.metadata.role is not model.DomainRole.MASTER:
            raise errors.StoragePoolWrongMaster(master_id, "not a master")
        next_id = master.metadata.keys.get(NEXT_MASTER, "")
        if is_uuid(next_id) and self._is_master(pool_id, next_id):
            raise errors.StoragePoolWrongMaster(master_id, f"{next_id} is the master now")
        return master

    def rebuild_links(self, pool: ConnectedPool) -> None:
        folder = self._layout.get_pool(pool.pool_id)
        targets = {"mastersd": self._domains.get_path(pool.master_id)}
        for domain_id, status in pool.domains.items():
            if status is model.DomainStatus.ACTIVE:
                with contextlib.suppress(errors.StorageDomainDoesNotExist):
                    targets[domain_id] = self._domains.get_path(domain_id)
        with errors.io_failing_as(lambda reason: errors.StoragePoolWrongMaster(pool.master_id, reason)):
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.iterdir():
                if path.name not in targets:
                    path.unlink()
            for name, target in targets.items():
                link = folder / name
                if not (link.is_symlink() and link.readlink() == target):
                    durable.replace_link(link, target, self._layout.repository / str(uuid.uuid4()))

    def get_info(self, pool_id: str, known: Mapping[str, Health] | None = None) -> model.PoolInfo:
        """A connected pool; domains that cannot be read have no version and no space.

        Domains whose health is known are not read.
        """
        pool = self.get_connected(pool_id)
        metadata = self._domains.get(pool.master_id).metadata
        try:
            spm = self.get_spm_status(pool_id)
        except LeaseFailed as error:
            log.warning("Who is the SPM of pool %s is not known: %s", pool_id, error)
            spm = model.SpmStatus(pool.role, -1, -1)
        return model.PoolInfo(
            pool_id=pool_id,
            name=metadata.pool_name if pool.on_disk else "No Description",
            type=metadata.type,
            master_id=pool.master_id,
            master_version=pool.master_version,
            version=metadata.version,
            spm=spm,
            domains={
                domain_id: self._describe(domain_id, status, (known or {}).get(domain_id))
                for domain_id, status in pool.domains.items()
            },
        )

    def get_spm_status(self, pool_id: str) -> model.SpmStatus:
        """This host's role, and who is SPM: as the master's keys tell, or, when they are in memory, its lease.

        Where storage has no leases that tell, only this host's own role is known. Raises LeaseFailed (704).
        """
        pool = self.get_connected(pool_id)
        if pool.on_disk:
            metadata = self._domains.get(pool.master_id).metadata
            return model.SpmStatus(pool.role, metadata.spm_id, metadata.spm_lease_version or -1)
        is_spm = pool.role is model.SpmRole.SPM
        lease = self._domains.get_backend(pool.master_id).domain.inspect_lock()
        if lease is not None:
            return model.SpmStatus(pool.role, -1 if lease.holder is None else lease.holder, lease.version or -1)
        return model.SpmStatus(pool.role, pool.host_id if is_spm else -1, pool.lease_version if is_spm else -1)

    def clean_up(self) -> None:
        """Remove pool links that a killed daemon left, unless a pool was connected already."""
        with self._locks.hold(locks.connection()):
            if self._connected is None and self._layout.repository.is_dir():
                for path in self._layout.repository.iterdir():
                    if is_uuid(path.name) and path.is_symlink():
                        path.unlink(missing_ok=True)
                    elif is_uuid(path.name):
                        self._remove_links(path.name)

    def _check_new(self, pool_id: str, master_id: str, domain_ids: Iterable[str]) -> list[str]:
        master = self._domains.get_accessible(master_id)
        check_class(master)
        for domain_id in domain_ids:
            domain = self._domains.get_accessible(domain_id)
            is_iso = domain.metadata.domain_class is model.DomainClass.ISO
            if domain.metadata.pool_ids and not is_iso:
                raise errors.StorageDomainAlreadyAttached(domain_id, domain.metadata.pool_ids[0])
            is_data = domain.metadata.domain_class is model.DomainClass.DATA
            if is_data and domain.metadata.version != master.metadata.version:
                raise errors.MixedSdVersionError(domain_id, domain.metadata.version, master.metadata.version)
        return [domain_id for domain_id in dict.fromkeys(domain_ids) if domain_id != master_id]

    def _create(self, pool_id: str, master_id: str, keys: Mapping[str, str | None], others: Sequence[str]) -> None:
        domains = {master_id: model.DomainStatus.ACTIVE}
        with Undo() as undo:
            self._change(undo, master_id, keys)
            for domain_id in others:
                pools = self._domains.get(domain_id).metadata.pool_ids
                self._change(undo, domain_id, {"POOL_UUID": ",".join((*pools, pool_id))})
                domains[domain_id] = model.DomainStatus.ATTACHED
                self._change(undo, master_id, {"POOL_DOMAINS": format_pool_domains(domains)})
            undo.forget()

    def _change(self, undo: Undo, domain_id: str, changes: Mapping[str, str | None]) -> None:
        before = self._domains.get(domain_id).metadata.keys
        undo.push(self._domains.update, domain_id, {key: before.get(key) for key in changes})
        self._domains.update(domain_id, changes)

    def _check_connection(self, pool_id: str, host_id: int, master_id: str, *, on_disk: bool) -> None:
        connected = self._connected
        if connected is None:
            return
        if connected.pool_id != pool_id:
            raise errors.CannotConnectMultiplePools(connected.pool_id)
        if connected.host_id != host_id:
            raise errors.StoragePoolConnected(pool_id, f"as host {connected.host_id}")
        if connected.role is not model.SpmRole.FREE and connected.master_id != master_id:
            raise errors.StoragePoolWrongMaster(master_id, f"this host writes on {connected.master_id}")
        if on_disk and not connected.on_disk:
            raise errors.StoragePoolConnected(pool_id, "with its map in memory")

    def _is_master(self, pool_id: str, domain_id: str) -> bool:
        try:
            metadata = self._domains.get_in_time(domain_id).metadata
        except UNREADABLE as error:
            raise errors.StoragePoolWrongMaster(
                domain_id, "it may be the master, and cannot be read: connect it"
            ) from error
        return pool_id in metadata.pool_ids and metadata.role is model.DomainRole.MASTER

    def _describe(self, domain_id: str, status: model.DomainStatus, health: Health | None) -> model.PoolDomain:
        if status is not model.DomainStatus.ACTIVE or (health is not None and not health.is_valid):
            return model.PoolDomain(status)
        if health is not None and (look := health.look) is not None:
            images = FileDomainLayout(look.checked_path.parent.parent)
            iso_folder = images.get_image(model.ISO_IMAGE) if look.is_iso else None
            return model.PoolDomain(status, look.version, look.space, look.alerts, iso_folder)
        try:
            domain = self._domains.get(domain_id)
            is_iso = domain.metadata.domain_class is model.DomainClass.ISO
            iso_folder = domain.backend.volumes.get_image_path(model.ISO_IMAGE) if is_iso else None
            return model.PoolDomain(status, domain.metadata.version, domain.backend.domain.get_space(), (), iso_folder)
        except NodeError as error:
            log.warning("Domain %s cannot be read: %s", domain_id, error)
            return model.PoolDomain(status)

    def _remove_links(self, pool_id: str) -> None:
        folder = self._layout.get_pool(pool_id)
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()


def _tell_nobody(_: ConnectedPool | None) -> None:
    """Where no monitors are, as in scripts."""


def check_class(master: Domain) -> None:
    """Whether a domain of this class may be a master: 317, 319."""
    if master.metadata.domain_class is model.DomainClass.ISO:
        raise errors.IsoCannotBeMasterDomain(master.domain_id)
    if master.metadata.domain_class is model.DomainClass.BACKUP:
        raise errors.BackupCannotBeMasterDomain(master.domain_id)


def _parse_domains(domains: Mapping[str, str], master_id: str) -> dict[str, model.DomainStatus]:
    parsed = {}
    for domain_id, word in domains.items():
        checks.check_ids(storagedomainID=domain_id)
        try:
            parsed[domain_id] = model.DomainStatus.parse(word)
        except ValueError:
            raise errors.StorageDomainStatusError(word) from None
    if len(parsed) > MAXIMUM_DOMAINS:
        raise errors.TooManyDomainsInStoragePoolError(MAXIMUM_DOMAINS)
    if master_id not in parsed:
        raise errors.InvalidParameterException("masterSdUUID", master_id)
    return parsed


def require_writer(pools: Pools, pool_id: str, domain: Domain) -> Domain:
    """The domain, which this host may write as the pool's SPM: 309, 654, StorageDomainNotInPool (353)."""
    pools.require_spm(pool_id)
    if pool_id not in domain.metadata.pool_ids:
        raise errors.StorageDomainNotInPool(domain.domain_id, pool_id)
    return domain
