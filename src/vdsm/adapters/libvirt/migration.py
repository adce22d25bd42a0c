"""The part of the port `virt.ports.Hypervisor` that moves domains to other hosts (`virt.ports.Movable`)."""

import libvirt

from vdsm.adapters.libvirt.calls import Calls
from vdsm.virt.ports import Move, MoveFlag, MoveJob

_FLAGS = {
    MoveFlag.TUNNELLED: libvirt.VIR_MIGRATE_TUNNELLED,
    MoveFlag.ABORT_ON_ERROR: libvirt.VIR_MIGRATE_ABORT_ON_ERROR,
    MoveFlag.COMPRESSED: libvirt.VIR_MIGRATE_COMPRESSED,
    MoveFlag.AUTO_CONVERGE: libvirt.VIR_MIGRATE_AUTO_CONVERGE,
    MoveFlag.TLS: libvirt.VIR_MIGRATE_TLS,
    MoveFlag.PARALLEL: libvirt.VIR_MIGRATE_PARALLEL,
    MoveFlag.ZERO_COPY: libvirt.VIR_MIGRATE_ZEROCOPY,
    MoveFlag.PERSIST: libvirt.VIR_MIGRATE_PERSIST_DEST,
    MoveFlag.POST_COPY: libvirt.VIR_MIGRATE_POSTCOPY,
}

_OUT = libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT


class MigrationCalls:
    """What `LibvirtHypervisor` does with domains that move."""

    _calls: Calls

    async def get_migratable_xml(self, vm_id: str) -> str:
        form = libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE
        return await self._calls.on_vm(vm_id, "look", lambda domain: domain.XMLDesc(form))

    async def migrate(self, vm_id: str, move: Move) -> None:
        flags, parameters = make_flags(move), make_parameters(move)
        await self._calls.transfer(
            vm_id, "migrate", lambda domain: domain.migrateToURI3(move.uri, parameters, flags) and None
        )

    async def get_move(self, vm_id: str) -> MoveJob | None:
        return await self._calls.on_vm(vm_id, "look at migration", _get_move)

    async def abort_move(self, vm_id: str) -> None:
        await self._calls.on_vm(vm_id, "abort migration", lambda domain: domain.abortJob())

    async def set_move_downtime(self, vm_id: str, downtime_ms: int) -> None:
        await self._calls.on_vm(vm_id, "set downtime", lambda domain: domain.migrateSetMaxDowntime(downtime_ms))

    async def set_move_bandwidth(self, vm_id: str, mib_per_s: int) -> None:
        await self._calls.on_vm(vm_id, "set bandwidth", lambda domain: domain.migrateSetMaxSpeed(mib_per_s))

    async def save(self, vm_id: str, path: str) -> None:
        await self._calls.transfer(vm_id, "save", lambda domain: domain.saveFlags(path) and None)

    async def read_saved(self, path: str) -> str:
        return await self._calls.on_host("look at memory", lambda connection: connection.saveImageGetXMLDesc(path))

    async def restore(self, vm_id: str, path: str, xml: str) -> None:
        flags = libvirt.VIR_DOMAIN_SAVE_RUNNING
        calls = self._calls
        await calls.for_vm(
            vm_id, "restore", lambda connection: connection.restoreFlags(path, xml, flags) and None, calls.starts
        )

    async def start_post_copy(self, vm_id: str) -> None:
        await self._calls.on_vm(vm_id, "start post-copy", lambda domain: domain.migrateStartPostCopy())


def make_flags(move: Move) -> int:
    """libvirt's number for how a domain moves; it always moves alive, and one libvirt tells the other."""
    flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
    for flag in move.flags:
        flags |= _FLAGS[flag]
    return flags


def make_parameters(move: Move) -> dict[str, str | int]:
    """libvirt's typed parameters."""
    parameters: dict[str, str | int] = {
        libvirt.VIR_MIGRATE_PARAM_DEST_XML: move.xml,
        libvirt.VIR_MIGRATE_PARAM_BANDWIDTH: move.bandwidth_mib_per_s,
        libvirt.VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS: move.connections,
        libvirt.VIR_MIGRATE_PARAM_URI: move.memory_uri,
        libvirt.VIR_MIGRATE_PARAM_GRAPHICS_URI: move.graphics_uri,
        libvirt.VIR_MIGRATE_PARAM_TLS_DESTINATION: move.tls_name,
        libvirt.VIR_MIGRATE_PARAM_PERSIST_XML: move.xml if MoveFlag.PERSIST in move.flags else "",
    }
    return {name: value for name, value in parameters.items() if value}


def _get_move(domain: libvirt.virDomain) -> MoveJob | None:
    try:
        stats = domain.jobStats()
    except libvirt.libvirtError as error:
        # Of one that comes libvirt tells no figures, of one that is off neither.
        if error.get_error_code() in (libvirt.VIR_ERR_OPERATION_UNSUPPORTED, libvirt.VIR_ERR_OPERATION_INVALID):
            return None
        raise
    if stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) == libvirt.VIR_DOMAIN_JOB_NONE:
        return None
    if stats.get("operation", _OUT) not in (_OUT, libvirt.VIR_DOMAIN_JOB_OPERATION_SAVE):
        return None
    names = ("memory_iteration", "data_total", "data_remaining")
    return MoveJob(*(int(stats.get(name, 0)) for name in names))
