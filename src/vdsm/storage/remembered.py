"""What storage was connected, remembered across restarts in one JSON file; connecting it again is left to `restore`."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from msgspec.structs import replace

from vdsm.storage.durable import write_file
from vdsm.storage.model import DomainType, ServerConnection

log = logging.getLogger(__name__)

FILE_MODE = 0o644


class RememberedPool(msgspec.Struct, frozen=True):
    """The arguments of the last successful connect."""

    pool_id: str
    host_id: int
    master_domain_id: str
    master_version: int
    domains: dict[str, str] | None = None


class Remembered(msgspec.Struct, frozen=True):
    """Connections to servers by type, in the order of connecting, and the pool if one is connected."""

    connections: tuple[tuple[DomainType, ServerConnection], ...] = ()
    pool: RememberedPool | None = None


class StorageMemory:
    """The file and its present content; a change is on disk when it returns, or told in the log when it cannot be."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = asyncio.Lock()
        self.content = self._load()

    def _load(self) -> Remembered:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=Remembered)
        except FileNotFoundError:
            return Remembered()
        except (OSError, msgspec.DecodeError) as error:
            log.error("%s cannot be read, so that clients must connect their storage again: %s", self._file, error)
            return Remembered()

    async def add_connection(self, type: DomainType, connection: ServerConnection) -> None:
        """Remember a connection to a server, in the place of an older one of that id."""
        key = _identify(type, connection)

        def add(old: Remembered) -> Remembered:
            others = (known for known in old.connections if _identify(*known) != key)
            return replace(old, connections=(*others, (type, connection)))

        await self._change(add)

    async def remove_connection(self, type: DomainType, connection: ServerConnection, *, for_all: bool = True) -> None:
        """Forget a server, or only that connection to it."""
        key = _identify(type, connection)[: 2 if for_all else 3]

        def remove(old: Remembered) -> Remembered:
            kept = (known for known in old.connections if _identify(*known)[: len(key)] != key)
            return replace(old, connections=tuple(kept))

        await self._change(remove)

    async def set_pool(self, pool: RememberedPool | None) -> None:
        """Remember the pool, or that none is connected."""
        await self._change(lambda old: replace(old, pool=pool))

    async def set_map(self, pool_id: str, domains: Mapping[str, str]) -> None:
        """Remember what became of the map that the pool was connected with; a map on storage is not repeated here."""
        pool = self.content.pool
        if pool is not None and pool.pool_id == pool_id and pool.domains is not None:
            await self.set_pool(replace(pool, domains=dict(domains)))

    async def _change(self, step: Callable[[Remembered], Remembered]) -> None:
        async with self._lock:
            content = step(self.content)
            if content == self.content:
                return
            data = msgspec.json.format(msgspec.json.encode(content))
            temporary = self._file.with_name(self._file.name + ".new")
            self.content = content
            try:
                await asyncio.to_thread(write_file, self._file, temporary, data, FILE_MODE, owner=_keep_owner)
            except OSError as error:
                log.error("What storage is connected will be forgotten at the next start: %s", error)


def _identify(type: DomainType, connection: ServerConnection) -> tuple[str, str, str]:
    # A folder of this host has no users to be told apart.
    return (type, connection.place, "" if type is DomainType.LOCALFS else connection.id)


def _keep_owner(_path: Path) -> None:
    """The daemon's own files stay its own."""
