"""Answers the verbs on the later life of pools and domains."""

from typing import Literal, NoReturn

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from vdsm.api import storage_life as api
from vdsm.core.ids import BLANK_UUID
from vdsm.storage.errors import UnsupportedOperation
from vdsm.storage.images.inventory import DumpedVolume
from vdsm.storage.lanes import Lanes
from vdsm.storage.leases.on_disk import DiskRecord
from vdsm.storage.pools.pool import RESERVED_HOST_ID
from vdsm.storage.remembered import StorageMemory
from vdsm.storage.repository import Repository
from vdsm.storage.services.domains import format_domain
from vdsm.storage.services.pools import PoolService, make_lease_settings


def format_volume_dump(volume: DumpedVolume) -> api.VolumeDump:
    """A volume as `dump` tells it (facts: storage §4.4)."""
    dump = api.VolumeDump(
        image_id=volume.image_id,
        status=volume.status,
        size_bytes=volume.size.apparent_bytes,
        allocated_bytes=volume.size.allocated_bytes,
    )
    metadata = volume.metadata
    if metadata is None:
        return dump
    return replace(
        dump,
        capacity_bytes=metadata.capacity_bytes,
        parent_id=metadata.parent_id,
        description=metadata.description,
        disk_type=metadata.disk_type,
        legality=metadata.legality,
        created_s=metadata.created_s,
        format=metadata.format,
        allocation=metadata.allocation,
        role=metadata.role,
        generation=metadata.generation,
        sequence=metadata.sequence,
    )


def _format_lease(record: DiskRecord, lver: int | UnsetType = UNSET) -> api.LeaseDump:
    return api.LeaseDump(
        offset=record.offset_bytes,
        lockspace=record.lockspace,
        resource=record.name,
        timestamp=record.timestamp_s,
        own=record.owner,
        gen=record.generation,
        lver=lver,
    )


class DomainLifeService(Struct, eq=False):
    """Implements `api.storage_life.DomainLifeApi`."""

    _repository: Repository
    _lanes: Lanes
    _memory: StorageMemory
    _pools: PoolService

    async def deactivate(self, domain_id: str, pool_id: str, master_domain_id: str, master_version: int) -> None:
        is_master = domain_id == self._repository.pools.get_connected(pool_id).master_id
        if is_master and master_domain_id != BLANK_UUID:
            await self._pools.migrate_at_once(pool_id, domain_id, master_domain_id, master_version)
        # Neither this nor detaching by force needs the domain, which may be stuck, and its lane with it.
        master_id = self._repository.pools.get_connected(pool_id).master_id
        await self._lanes.run(master_id, self._repository.members.deactivate, pool_id, domain_id)
        await self._remember(pool_id)

    async def detach(
        self,
        domain_id: str,
        pool_id: str,
        master_domain_id: str | None = None,
        master_version: int = 0,
        force: bool = False,
    ) -> None:
        members = self._repository.members
        if force and pool_id == BLANK_UUID:
            await self._lanes.run(domain_id, members.detach_everywhere, domain_id)
            return
        lane_id = self._repository.pools.get_connected(pool_id).master_id if force else domain_id
        await self._lanes.run(lane_id, members.detach, pool_id, domain_id, force=force)
        await self._remember(pool_id)

    async def format(self, domain_id: str, detach: bool = False) -> None:
        await self._lanes.run(domain_id, self._repository.members.format, domain_id, detach=detach)

    async def set_description(self, domain_id: str, description: str) -> None:
        await self._lanes.run(domain_id, self._repository.members.rename, domain_id, description)

    async def list_files(
        self, domain_id: str, pattern: str = "*", case_sensitive: bool = False
    ) -> dict[str, api.FileStats]:
        list_files = self._repository.inventory.list_files
        found = await self._lanes.run(domain_id, list_files, domain_id, pattern, case_sensitive=case_sensitive)
        return {
            name: api.FileStats(size_bytes=file.size_bytes, changed_s=file.changed_s, status=file.status)
            for name, file in found.items()
        }

    async def dump(self, domain_id: str, full: bool = False) -> api.DomainDump:
        dump = await self._lanes.run(domain_id, self._repository.inventory.dump, domain_id, full=full)
        volumes = {volume_id: format_volume_dump(volume) for volume_id, volume in dump.volumes.items()}
        answer = api.DomainDump(metadata=format_domain(dump.domain), volumes=volumes)
        if dump.leases is None or dump.hosts is None:
            return answer
        leases = [_format_lease(record, lver=record.version) for record in dump.leases]
        answer = replace(answer, leases=leases, lockspace=[_format_lease(record) for record in dump.hosts])
        if dump.external_leases is None:
            return answer
        external = {
            lease_id: api.ExternalLeaseDump(offset=offset, updating=updating)
            for lease_id, (offset, updating) in dump.external_leases.items()
        }
        return replace(answer, external_leases=external)

    async def extend(self, domain_id: str, pool_id: str, devices: list[str], force: bool = False) -> None:
        await self._refuse_devices(domain_id, pool_id)

    async def resize_device(self, domain_id: str, pool_id: str, device: str) -> int:
        return await self._refuse_devices(domain_id, pool_id)

    async def _refuse_devices(self, domain_id: str, pool_id: str) -> NoReturn:
        self._repository.pools.require_spm(pool_id)
        domain = await self._lanes.run(domain_id, self._repository.domains.get, domain_id)
        raise UnsupportedOperation(f"domain {domain_id} is of type {domain.metadata.type} and has no devices")

    async def _remember(self, pool_id: str) -> None:
        await self._memory.set_map(pool_id, self._repository.pools.get_connected(pool_id).domains)


class PoolLifeService(Struct, eq=False):
    """Implements `api.storage_life.PoolLifeApi`."""

    _repository: Repository
    _lanes: Lanes
    _pools: PoolService

    async def destroy(self, pool_id: str, host_id: int, scsi_key: str) -> None:
        members = self._repository.members
        lane = self._lanes.get(self._repository.pools.get_connected(pool_id).master_id)
        await lane.run(members.check_destroyable, pool_id, host_id)
        await self._pools.give_up(pool_id)
        await lane.run(members.destroy, pool_id, host_id)
        await self._pools.forget(pool_id)

    async def refresh(self, pool_id: str, master_domain_id: str, master_version: int) -> None:
        pool = self._repository.pools.get_connected(pool_id)
        domains = None if pool.on_disk else {id: status.value for id, status in pool.domains.items()}
        await self._pools.connect(pool_id, pool.host_id, "", master_domain_id, master_version, domains)

    async def reconstruct(
        self,
        pool_id: str,
        host_id: int | None,
        name: str,
        master_domain_id: str,
        master_version: int,
        domains: dict[str, str],
        renewal_s: int | None,
        lease_s: int | None,
        io_timeout_s: int | None,
        lease_retries: int | None,
    ) -> None:
        lease = make_lease_settings(renewal_s, lease_s, io_timeout_s, lease_retries)
        own_id = RESERVED_HOST_ID if host_id is None else host_id
        args = (pool_id, own_id, name, master_domain_id, master_version, domains, lease)
        await self._lanes.run(master_domain_id, self._repository.pools.reconstruct, *args)

    async def switch_master(self, pool_id: str, old_domain_id: str, new_domain_id: str, master_version: int) -> str:
        return await self._pools.migrate(pool_id, old_domain_id, new_domain_id, master_version)

    async def upgrade(self, pool_id: str, version: int) -> Literal["started"]:
        self._repository.pools.require_spm(pool_id)
        self._pools.upgrades.check_idle(pool_id)
        master_id = self._repository.pools.get_connected(pool_id).master_id
        await self._lanes.run(master_id, self._repository.spm.upgrade, pool_id, version)
        await self._pools.upgrades.begin(pool_id)
        return "started"

    async def set_description(self, pool_id: str, description: str) -> None:
        """Nothing is changed, as the declaration says."""

    async def find_image(self, pool_id: str, image_id: str) -> list[str]:
        return await self._lanes.run(pool_id, self._repository.inventory.find_image, pool_id, image_id)


class DefinitionService:
    """Implements `api.storage_life.DefinitionApi`."""

    def __init__(self, repository: Repository, lanes: Lanes) -> None:
        self._definitions = repository.definitions
        self._lanes = lanes

    async def update(self, pool_id: str, vms: list[api.VmDefinition], domain_id: str | None = None) -> None:
        definitions = {vm.vm_id: vm.ovf for vm in vms}
        place = domain_id or BLANK_UUID
        await self._lanes.run(place, self._definitions.update, pool_id, definitions, place)

    async def remove(self, pool_id: str, vm_id: str, domain_id: str | None = None) -> None:
        place = domain_id or BLANK_UUID
        await self._lanes.run(place, self._definitions.remove, pool_id, vm_id, place)

    async def list_vms(self, pool_id: str, domain_id: str = BLANK_UUID) -> list[str]:
        return await self._lanes.run(domain_id, self._definitions.list_vms, pool_id, domain_id)

    async def read(self, pool_id: str, domain_id: str = BLANK_UUID, vm_ids: list[str] | None = None) -> dict[str, str]:
        return await self._lanes.run(domain_id, self._definitions.read, pool_id, vm_ids or [], domain_id)
