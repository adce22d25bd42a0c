"""Answers the verbs on pools and the SPM role, and connects after a restart what was connected before."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from msgspec import UNSET
from msgspec.structs import replace

from vdsm.api import storage_types as api
from vdsm.api.storage_types import Connection, ConnectionStatus
from vdsm.core.errors import NodeError
from vdsm.core.undo import AsyncUndo
from vdsm.storage.errors import IsSpm, SpmStatusError
from vdsm.storage.health.monitor import Health
from vdsm.storage.lanes import Lane, Lanes
from vdsm.storage.mail.service import MailService
from vdsm.storage.model import DomainType, LeaseSettings, PoolDomain, PoolInfo, ServerConnection, SpmRole
from vdsm.storage.ports import Rollbacks, Watch
from vdsm.storage.remembered import RememberedPool, StorageMemory
from vdsm.storage.repository import Repository
from vdsm.storage.services.domains import ServerService
from vdsm.storage.services.jobs import read_subchain
from vdsm.storage.services.ports import LongWork
from vdsm.storage.services.upgrades import PoolUpgrades

log = logging.getLogger("storage.service")


def _format_domain(domain: PoolDomain) -> api.PoolDomainInfo:
    return api.PoolDomainInfo(
        status=domain.status,
        alerts=[api.PoolDomainAlert(code=alert.number, message=str(alert)) for alert in domain.alerts],
        iso_prefix=str(domain.iso_folder or ""),
        version=UNSET if domain.version is None else domain.version,
        total_bytes=UNSET if domain.space is None else domain.space.total_bytes,
        free_bytes=UNSET if domain.space is None else domain.space.free_bytes,
    )


def format_pool(pool: PoolInfo) -> api.PoolFullInfo:
    """A pool as `getInfo` tells it (facts: storage §7.1)."""
    info = api.PoolInfo(
        name=pool.name,
        type=pool.type,
        master_domain_id=pool.master_id,
        master_version=pool.master_version,
        domains=",".join(f"{domain_id}:{domain.status}" for domain_id, domain in pool.domains.items()),
        status="connected",
        spm_host_id=pool.spm.host_id,
        lease_version=pool.spm.lease_version,
        version=pool.version,
        iso_prefix=next((str(one.iso_folder) for one in pool.domains.values() if one.iso_folder), ""),
    )
    return api.PoolFullInfo(info=info, domains={id: _format_domain(domain) for id, domain in pool.domains.items()})


def make_lease_settings(
    renewal_s: int | None, lease_s: int | None, io_timeout_s: int | None, lease_retries: int | None
) -> LeaseSettings | None:
    """The settings, or None when one of them is not given."""
    if renewal_s and lease_s and io_timeout_s and lease_retries:
        return LeaseSettings(renewal_s, lease_s, io_timeout_s, lease_retries)
    return None


@dataclass(slots=True)
class PoolService:
    """Implements `api.storage.PoolApi`."""

    _repository: Repository
    _lanes: Lanes
    _memory: StorageMemory
    _servers: ServerService
    _work: LongWork
    _list_health: Callable[[], Mapping[str, Health]]
    _mail: MailService
    upgrades: PoolUpgrades = field(init=False)
    _changing_role: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _restored: list[tuple[DomainType, ServerConnection]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.upgrades = PoolUpgrades(self._repository, self._work)

    async def connect_server(
        self, pool_id: str, domain_type: str, connections: list[Connection]
    ) -> list[ConnectionStatus]:
        return await self._servers.connect_server(pool_id, domain_type, connections)

    async def disconnect_server(
        self, pool_id: str, domain_type: str, connections: list[Connection]
    ) -> list[ConnectionStatus]:
        return await self._servers.disconnect_server(pool_id, domain_type, connections)

    async def create(
        self,
        pool_id: str,
        name: str,
        master_domain_id: str,
        master_version: int,
        domain_ids: list[str],
        renewal_s: int | None,
        lease_s: int | None,
        io_timeout_s: int | None,
        lease_retries: int | None,
    ) -> None:
        lease = make_lease_settings(renewal_s, lease_s, io_timeout_s, lease_retries)
        args = (pool_id, name, master_domain_id, master_version, domain_ids, lease)
        await self._lanes.run(master_domain_id, self._repository.pools.create, *args)

    async def connect(
        self,
        pool_id: str,
        host_id: int,
        scsi_key: str,
        master_domain_id: str,
        master_version: int,
        domains: dict[str, str] | None = None,
    ) -> None:
        args = (pool_id, host_id, master_domain_id, master_version, domains)
        await self._lanes.run(master_domain_id, self._repository.pools.connect, *args)
        await self._memory.set_pool(RememberedPool(*args))

    async def disconnect(self, pool_id: str, host_id: int, scsi_key: str, remove: bool = False) -> None:
        await self._lanes.run("", self._repository.pools.disconnect, pool_id)
        await self.forget(pool_id)

    async def forget(self, pool_id: str) -> None:
        """The pool is connected no more: the next start does not connect it either."""
        remembered = self._memory.content.pool
        if remembered is not None and remembered.pool_id == pool_id:
            await self._memory.set_pool(None)

    async def get_info(self, pool_id: str) -> api.PoolFullInfo:
        pools = self._repository.pools
        info = await self._get_masters_lane(pool_id).run(pools.get_info, pool_id, self._list_health())
        return format_pool(info)

    async def get_spm_status(self, pool_id: str) -> api.SpmStatus:
        status = await self._get_masters_lane(pool_id).run(self._repository.pools.get_spm_status, pool_id)
        return api.SpmStatus(status=status.role.value, host_id=status.host_id, lease_version=status.lease_version)

    async def spm_start(
        self,
        pool_id: str,
        previous_id: int,
        previous_lease_version: int,
        scsi_fencing: str,
        maximum_host_id: int | None = None,
        domain_version: int | None = None,
    ) -> str:
        pool = self._repository.pools.get_connected(pool_id)
        if pool.role is not SpmRole.FREE:
            raise IsSpm(pool_id)
        log.info("spmStart of pool %s: previous id %d, lease %d", pool_id, previous_id, previous_lease_version)
        start = partial(self._start, pool_id, domain_version, maximum_host_id)
        return await self._work.start_in_memory("spmStart", pool_id, start)

    async def spm_stop(self, pool_id: str) -> None:
        pool = self._repository.pools.get_connected(pool_id)
        if pool.role is not SpmRole.SPM or self._changing_role.locked():
            raise SpmStatusError(pool_id)
        async with self._changing_role:
            await self._stop(pool_id)

    async def give_up(self, pool_id: str) -> None:
        """Give the SPM role up where this host has it, so that whoever asked can end the pool."""
        async with self._changing_role:
            if self._repository.pools.get_connected(pool_id).role is SpmRole.SPM:
                await self._stop(pool_id)

    async def migrate(self, pool_id: str, old_id: str, new_id: str, version: int) -> str:
        """Start the task that makes another domain the master; restarts connect the pool with that one then."""
        self._repository.pools.require_spm(pool_id)

        def migrate(_rollbacks: Rollbacks, _watch: Watch) -> None:
            self._repository.spm.migrate(pool_id, old_id, new_id, version, self._work.hold)

        then = partial(self.remember_master, pool_id)
        return await self._work.start_persistent("switchMaster", f"{old_id} {new_id}", migrate, then)

    async def migrate_at_once(self, pool_id: str, old_id: str, new_id: str, version: int) -> None:
        """`migrate` without a task, for the caller who waits."""
        migrate = self._repository.spm.migrate
        await self._work.run_in_thread(migrate, pool_id, old_id, new_id, version, self._work.hold)
        await self.remember_master(pool_id)

    async def remember_master(self, pool_id: str) -> None:
        """Let the next start connect the pool with the master that it has now."""
        pool, known = self._repository.pools.get_connected(pool_id), self._memory.content.pool
        if known is not None and known.pool_id == pool_id:
            moved = replace(known, master_domain_id=pool.master_id, master_version=pool.master_version)
            await self._memory.set_pool(moved)

    async def _start(self, pool_id: str, version: int | None, mailbox_count: int | None) -> None:
        has_begun = False

        def begin() -> None:
            nonlocal has_begun
            self._repository.spm.start(pool_id, version)
            has_begun = True

        async def give_back() -> None:
            if has_begun:
                await self._stop(pool_id)

        # Not in a lane: a start that is late or stopped must be known to have come, to be given back.
        async with self._changing_role, AsyncUndo() as undo:
            undo.push(give_back)
            await self._work.run_in_thread(begin)
            await self._mail.start_spm(mailbox_count)
            await self._work.take_over(self._repository.layout.get_tasks(pool_id))
            undo.forget()
        if version is not None:
            try:
                await self.upgrades.begin(pool_id)
            except NodeError as error:
                log.warning("domains of pool %s keep their versions: %s", pool_id, error)

    async def _stop(self, pool_id: str) -> None:
        # Nothing may be written once another host can be the writer, so mail and tasks end before the lock is given up.
        await self._mail.stop_spm()
        await self._work.release()
        await self._work.run_in_thread(self._repository.spm.stop, pool_id)

    async def watch_lease(self) -> None:
        """See that this host's lease is still its own; in a lane that nothing else can hold up."""
        await self._lanes.run("lease watchdog", self._repository.spm.watch_lease)

    async def prepare_merge(self, pool_id: str, subchain: api.Subchain) -> str:
        pair, prepare = read_subchain(subchain), self._repository.merges.prepare
        self._repository.pools.require_spm(pool_id)
        start = partial(self._work.start_persistent, "prepareMerge", pair.domain_id)
        return await start(lambda rollbacks, _: prepare(pool_id, pair, rollbacks))

    async def finalize_merge(self, pool_id: str, subchain: api.Subchain) -> str:
        pair, finalize = read_subchain(subchain), self._repository.merges.finalize
        self._repository.pools.require_spm(pool_id)
        return await self._work.start_persistent("finalizeMerge", pair.domain_id, lambda *_: finalize(pool_id, pair))

    def require_spm(self) -> None:
        """Raises SpmStatusError where this host is the SPM of no pool."""
        for pool_id in self._repository.pools.list_connected():
            self._repository.pools.require_spm(pool_id)
            return
        raise SpmStatusError("")

    async def begin(self, *, restore: bool) -> bool:
        """Clean up after a killed daemon; with `restore`, `restore`."""
        try:
            await self._lanes.run("", self._repository.pools.clean_up)
        except (NodeError, OSError) as error:
            log.warning("links of an earlier daemon could not be removed: %s", error)
        return not restore or await self.restore()

    def _get_masters_lane(self, pool_id: str) -> Lane:
        return self._lanes.get(self._repository.pools.get_connected(pool_id).master_id)

    async def restore(self) -> bool:
        """Connect servers and the pool as the memory has them, where they are not; whether all are.

        What fails is logged, and is left to clients or to another try.
        """
        missing = [place for place in self._memory.content.connections if place not in self._restored]
        statuses = await self._servers.connect_places(missing, connect=True)
        self._restored += [place for place, status in zip(missing, statuses, strict=True) if not status]
        pool = self._memory.content.pool
        if pool is not None and not self._repository.pools.list_connected():
            args = (pool.pool_id, pool.host_id, "", pool.master_domain_id, pool.master_version, pool.domains)
            try:
                await self.connect(*args)
            except NodeError as error:
                log.warning("pool %s could not be connected again: %s", pool.pool_id, error)
                return False
        return not any(statuses)
