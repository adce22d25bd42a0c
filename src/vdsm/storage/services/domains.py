"""Answers the verbs on servers, domains and their lists; pools and volumes have services beside this one."""

import asyncio
import logging
from collections.abc import Iterable
from functools import partial

import msgspec
from msgspec import UNSET, Struct

from vdsm.api.storage_types import Connection, ConnectionStatus, DomainArguments, DomainInfo, DomainStats
from vdsm.core.errors import NodeError
from vdsm.core.ids import BLANK_UUID
from vdsm.storage.connect import check_connection
from vdsm.storage.domain import Domain
from vdsm.storage.errors import InvalidParameterException
from vdsm.storage.lanes import Lanes
from vdsm.storage.model import DomainClass, DomainType, ServerConnection
from vdsm.storage.remembered import StorageMemory
from vdsm.storage.repository import Repository

log = logging.getLogger("storage.service")

AT_ONCE = 16
"""Servers of one request that are connected at once; each costs a thread."""
WHERE = {
    DomainType.LOCALFS: ("connection", "path"),
    DomainType.NFS: ("connection", "export"),
    DomainType.POSIXFS: ("connection", "spec"),
    DomainType.GLUSTERFS: ("connection", "spec"),
}
"""The fields that may hold a connection's place, the first that is given counts (facts: storage §13.1)."""


def parse_connection(type: DomainType, connection: Connection) -> ServerConnection:
    """Where a connection leads and how. Raises InvalidParameterException when it says nothing or too much."""
    places = (getattr(connection, name) for name in WHERE.get(type, ("connection",)))
    place = next((place for place in places if isinstance(place, str) and place), "")
    given = {
        "options": connection.mount_options,
        "filesystem": connection.filesystem_type,
        "protocol_version": connection.protocol_version,
        "retransmissions": connection.retransmissions,
        "timeout_ds": connection.timeout_ds,
    }
    said = {name: value for name, value in given.items() if value is not UNSET}
    return check_connection(type, msgspec.convert({"place": place, "id": connection.id, **said}, ServerConnection))


class ServerService(Struct, eq=False):
    """Implements the verbs of `PoolApi` on servers, and remembers what is connected."""

    _repository: Repository
    _lanes: Lanes
    _memory: StorageMemory

    async def connect_server(
        self, pool_id: str, domain_type: str, connections: list[Connection]
    ) -> list[ConnectionStatus]:
        if not connections:
            raise InvalidParameterException(name="connectionParams", value="[]")
        return await self._each(domain_type, connections, connect=True)

    async def disconnect_server(
        self, pool_id: str, domain_type: str, connections: list[Connection]
    ) -> list[ConnectionStatus]:
        return await self._each(domain_type, connections, connect=False)

    async def _each(self, domain_type: str, connections: list[Connection], *, connect: bool) -> list[ConnectionStatus]:
        type = DomainType.parse(domain_type)
        parsed = [parse_connection(type, connection) for connection in connections]
        statuses = await self.connect_places([(type, one) for one in parsed], connect=connect)
        return [ConnectionStatus(id=one.id, status=status) for one, status in zip(parsed, statuses, strict=True)]

    async def connect_places(
        self, places: Iterable[tuple[DomainType, ServerConnection]], *, connect: bool
    ) -> list[int]:
        """`connect_place` for each, several at once: one that does not answer holds up no other."""
        room = asyncio.Semaphore(AT_ONCE)

        async def change(type: DomainType, connection: ServerConnection) -> int:
            async with room:
                return await self.connect_place(type, connection, connect=connect)

        return await asyncio.gather(*(change(*place) for place in places))

    async def connect_place(self, type: DomainType, connection: ServerConnection, *, connect: bool) -> int:
        """Connect or disconnect one server; 0, or the number of the failure."""
        servers, place = self._repository.servers, connection.place
        lane = self._lanes.get(place)  # a server that does not answer holds up its own callers
        try:
            if connect:
                await lane.run(servers.connect, type, connection)
                await self._memory.add_connection(type, connection)
            else:
                is_gone = await lane.run(servers.disconnect, type, connection)
                await self._memory.remove_connection(type, connection, for_all=is_gone)
        except NodeError as error:
            log.warning("%s %s %s: %s", "connect" if connect else "disconnect", type, place, error)
            return error.number
        return 0


def format_domain(domain: Domain) -> DomainInfo:
    """A domain as `getInfo` tells it (facts: storage §3.6)."""
    metadata = domain.metadata
    return DomainInfo(
        domain_id=domain.domain_id,
        type=metadata.type,
        domain_class=metadata.domain_class,
        name=metadata.name,
        role=metadata.role,
        pools=list(metadata.pool_ids),
        version=metadata.version,
        block_size_bytes=metadata.block_size_bytes,
        alignment_bytes=metadata.alignment_bytes,
        remote_path=metadata.remote_path if metadata.remote_path is not None else UNSET,
    )


class DomainService(Struct, eq=False):
    """Implements `api.storage.DomainApi` and `api.host.StorageListApi`."""

    _repository: Repository
    _lanes: Lanes
    _memory: StorageMemory

    async def create(
        self,
        domain_id: str,
        domain_type: str,
        arguments: DomainArguments,
        name: str,
        domain_class: str,
        version: int | None = None,
        block_size_bytes: int = 512,
        maximum_hosts: int = 2000,
    ) -> None:
        if version is None:
            raise InvalidParameterException(name="version", value="missing")
        if not isinstance(arguments.remote_path, str):
            raise InvalidParameterException(name="typeArgs.remotePath", value="missing")
        if domain_class == "Unknown":
            raise InvalidParameterException(name="domainClass", value=domain_class)
        type, kind = DomainType.parse(domain_type), DomainClass(domain_class)
        form = (kind, version, block_size_bytes, maximum_hosts)
        create = partial(self._repository.domains.create, type, domain_id, name, arguments.remote_path, *form)
        await self._lanes.run(domain_id, create)

    async def get_info(self, domain_id: str) -> DomainInfo:
        return format_domain(await self._lanes.run(domain_id, self._repository.domains.get, domain_id))

    async def get_stats(self, domain_id: str) -> DomainStats:
        space = await self._lanes.run(domain_id, self._repository.domains.get_space, domain_id)
        return DomainStats(total_bytes=space.total_bytes, free_bytes=space.free_bytes)

    async def list_images(self, domain_id: str) -> list[str]:
        return await self._lanes.run(domain_id, self._repository.domains.list_images, domain_id)

    async def list_volumes(self, domain_id: str, pool_id: str, image_id: str) -> list[str]:
        lane = self._lanes.get(domain_id)
        if image_id == BLANK_UUID:
            return await lane.run(self._repository.domains.list_volumes, domain_id)
        return await lane.run(self._repository.images.list_volumes, domain_id, image_id)

    async def activate(self, domain_id: str, pool_id: str) -> None:
        await self._lanes.run(domain_id, self._repository.members.activate, pool_id, domain_id)
        await self._memory.set_map(pool_id, self._repository.pools.get_connected(pool_id).domains)

    async def attach(self, domain_id: str, pool_id: str) -> None:
        await self._lanes.run(domain_id, self._repository.members.attach, pool_id, domain_id)
        await self._memory.set_map(pool_id, self._repository.pools.get_connected(pool_id).domains)

    async def validate(self, domain_id: str) -> None:
        await self._lanes.run(domain_id, self._repository.domains.validate, domain_id)

    async def list_domains(
        self,
        pool_id: str | None = None,
        domain_class: str | None = None,
        domain_type: str | None = None,
        remote_path: str | None = None,
    ) -> list[str]:
        return await self._lanes.run(
            "",
            self._repository.domains.list_domains,
            pool_id=pool_id,
            domain_class=None if domain_class in (None, "Unknown") else DomainClass(domain_class),
            type=None if domain_type in (None, "UNKNOWN") else DomainType.parse(domain_type or ""),
            remote_path=remote_path,
        )

    async def list_pools(self) -> list[str]:
        return self._repository.pools.list_connected()
