"""Answers the verbs on tickets of ovirt-imageio and on NBD servers."""

from collections.abc import Mapping

import msgspec

from vdsm.api import transfers as api
from vdsm.storage.lanes import Lanes
from vdsm.storage.model import NbdConfig
from vdsm.storage.ports import ImageDaemonFailed, Tickets
from vdsm.storage.repository import Repository

_LANE = "ovirt-imageio"
_SCRATCH_LANE = "scratch disks"
_NAMES = {
    "ticket_id": "uuid",
    "size_bytes": "size",
    "timeout_s": "timeout",
    "operations": "ops",
    "is_sparse": "sparse",
    "has_bitmap": "dirty",
    "inactivity_timeout_s": "inactivity_timeout",
    "is_active": "active",
    "transferred_bytes": "transferred",
    "idle_s": "idle_time",
}
"""What ovirt-imageio calls the fields of a ticket, where we have another name."""


class TicketService:
    """Implements `api.transfers.TicketApi`."""

    def __init__(self, tickets: Tickets, lanes: Lanes) -> None:
        self._tickets = tickets
        self._lanes = lanes

    async def add(self, ticket: api.ImageTicket) -> None:
        given = {
            _NAMES.get(name, name): value for name, value in msgspec.to_builtins(ticket).items() if value is not None
        }
        await self._ask("PUT", ticket.ticket_id, msgspec.json.encode(given))

    async def get(self, ticket_id: str) -> api.TicketInfo:
        ours = {name: our_name for our_name, name in _NAMES.items()}
        try:
            told = msgspec.json.decode(await self._ask("GET", ticket_id), type=dict[str, object])
            return msgspec.convert({ours.get(name, name): value for name, value in told.items()}, api.TicketInfo)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ImageDaemonFailed(str(error)) from error

    async def extend(self, ticket_id: str, timeout_s: int) -> None:
        await self._ask("PATCH", ticket_id, msgspec.json.encode({"timeout": timeout_s}))

    async def remove(self, ticket_id: str) -> None:
        await self._ask("DELETE", ticket_id)

    async def _ask(self, method: str, ticket_id: str, body: bytes | None = None) -> bytes:
        return await self._lanes.run(_LANE, self._tickets.ask, method, ticket_id, body)


class ScratchService:
    """Scratch disks of backups, for whoever makes them."""

    def __init__(self, repository: Repository, lanes: Lanes) -> None:
        self._disks = repository.scratch_disks
        self._lanes = lanes

    async def prepare(self, vm_id: str, backup_id: str, sizes: Mapping[str, int]) -> tuple[str, dict[str, str]]:
        """The socket to serve at, and the paths of the disks. Raises UnsupportedOperation, QemuImgFailed."""
        socket, disks = await self._lanes.run(_SCRATCH_LANE, self._disks.prepare, vm_id, backup_id, sizes)
        return str(socket), {target: str(path) for target, path in disks.items()}

    async def clear(self, vm_id: str, backup_id: str) -> None:
        """Remove those of a backup, or all of the VM's."""
        await self._lanes.run(_SCRATCH_LANE, self._disks.clear, vm_id, backup_id)


class NbdService:
    """Implements `api.transfers.NbdApi`."""

    def __init__(self, repository: Repository, lanes: Lanes) -> None:
        self._exports = repository.exports
        self._lanes = lanes

    async def start(self, server_id: str, config: api.NbdConfig) -> str:
        wanted = NbdConfig(**{name: getattr(config, name) for name in NbdConfig.__struct_fields__})
        return await self._lanes.run(config.domain_id, self._exports.start, server_id, wanted)

    async def stop(self, server_id: str) -> None:
        await self._lanes.run("NBD servers", self._exports.stop, server_id)
