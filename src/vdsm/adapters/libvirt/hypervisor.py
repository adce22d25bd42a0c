"""The port `virt.ports.Hypervisor` on libvirt: one method, one operation; deadlines and threads are left to `calls`."""

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from uuid import UUID

import libvirt
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from vdsm.adapters.libvirt.agents import AgentCalls
from vdsm.adapters.libvirt.backups import BackupCalls
from vdsm.adapters.libvirt.blocks import BlockCalls
from vdsm.adapters.libvirt.calls import Calls, CallSettings
from vdsm.adapters.libvirt.connection import Connector, Link
from vdsm.adapters.libvirt.devices import DeviceCalls
from vdsm.adapters.libvirt.events import EventWatcher
from vdsm.adapters.libvirt.migration import MigrationCalls
from vdsm.adapters.libvirt.networks import NetworkCalls
from vdsm.adapters.libvirt.pool import CLOSE_TIMEOUT_S, Pool
from vdsm.adapters.libvirt.sampling import TIMEOUT_S as SAMPLE_TIMEOUT_S
from vdsm.adapters.libvirt.sampling import Sampler
from vdsm.adapters.libvirt.secrets import SecretCalls
from vdsm.adapters.libvirt.tuning import TuningCalls
from vdsm.core.clock import Clock, SystemClock
from vdsm.virt import ports

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 2.0
_UNDEFINE_FLAGS = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)


class LibvirtHypervisor(
    DeviceCalls, TuningCalls, BlockCalls, MigrationCalls, AgentCalls, BackupCalls, SecretCalls, NetworkCalls
):
    """Fits `virt.ports.Hypervisor`, which tells what each method promises. Made for one event loop.

    `open` before use, `close` at the end. No call ever blocks the event loop; while libvirtd is away all of them fail
    at once with HypervisorDown, and it is connected again as soon as it answers.
    """

    def __init__(
        self,
        uri: str,
        *,
        settings: CallSettings | None = None,
        keepalive_interval_s: int = 5,
        clock: Clock | None = None,
        sample_timeout_s: float = SAMPLE_TIMEOUT_S,
    ) -> None:
        connector = Connector(uri, keepalive_interval_s)
        link = Link()
        self._pool = Pool(connector.open, link)
        self._calls = Calls(self._pool, link, settings or CallSettings())
        self._sampler = Sampler(self._pool, clock or SystemClock(), timeout_s=sample_timeout_s)
        self._watcher = EventWatcher(connector, link, self._deliver)
        self._listeners: list[Callable[[ports.HypervisorEvent], None]] = []

    async def open(self) -> None:
        """Subscribe before. Connects, and returns when it is known whether libvirtd answers, after 2 s at most."""
        await self._watcher.start(CONNECT_TIMEOUT_S)

    async def close(self) -> None:
        """Give up all connections within a second; calls that hang are left behind and die with the process."""
        await self._watcher.stop(CLOSE_TIMEOUT_S / 2)
        await self._pool.close()

    @property
    def written_off(self) -> list[str]:
        """What the calls are that never came back, for logs and figures."""
        return self._pool.written_off

    def subscribe(self, listener: Callable[[ports.HypervisorEvent], None]) -> None:
        self._listeners.append(listener)

    async def capabilities_xml(self) -> str:
        return await self._calls.on_host("capabilities", lambda connection: connection.getCapabilities())

    async def domain_capabilities_xml(self, kind: str) -> str:
        return await self._calls.on_host(
            "domain capabilities", lambda connection: connection.getDomainCapabilities(None, None, None, kind)
        )

    async def versions(self) -> tuple[int, int]:
        return await self._calls.on_host(
            "versions", lambda connection: (connection.getLibVersion(), connection.getVersion())
        )

    async def list_domains(self) -> list[ports.DomainRecord]:
        return await self._calls.on_host("list of domains", _list_domains)

    async def get_domain(self, vm_id: str) -> ports.DomainRecord:
        return await self._calls.on_vm(vm_id, "look", lambda domain: _make_record(domain, *domain.state()))

    async def define(self, xml: str) -> None:
        calls = self._calls
        await calls.for_vm(_parse_vm_id(xml), "define", lambda connection: _define(connection, xml), calls.definitions)

    async def start(self, vm_id: str, *, paused: bool) -> None:
        flags = libvirt.VIR_DOMAIN_START_PAUSED if paused else 0
        await self._calls.on_vm(vm_id, "start", lambda domain: domain.createWithFlags(flags), self._calls.starts)

    async def undefine(self, vm_id: str) -> None:
        with contextlib.suppress(ports.NoSuchDomain):
            await self._calls.on_vm(vm_id, "undefine", lambda domain: domain.undefineFlags(_UNDEFINE_FLAGS))

    async def destroy(self, vm_id: str, *, graceful: bool) -> None:
        flags = libvirt.VIR_DOMAIN_DESTROY_GRACEFUL if graceful else 0
        await self._calls.destroy(vm_id, lambda domain: domain.destroyFlags(flags))

    async def reset(self, vm_id: str) -> None:
        await self._calls.on_vm(vm_id, "reset", lambda domain: domain.reset())

    async def suspend(self, vm_id: str) -> None:
        await self._calls.on_vm(vm_id, "suspend", lambda domain: domain.suspend())

    async def resume(self, vm_id: str) -> None:
        await self._calls.on_vm(vm_id, "resume", lambda domain: domain.resume())

    async def set_metadata(self, vm_id: str, element: str, prefix: str, uri: str) -> None:
        await self._calls.on_vm(vm_id, "set metadata", lambda domain: _set_metadata(domain, element, prefix, uri))

    async def block_errors(self, vm_id: str) -> Mapping[str, int]:
        return await self._calls.on_vm(vm_id, "block errors", lambda domain: domain.diskErrors())

    async def sample(self) -> ports.BulkSample:
        return await self._sampler.sample()

    def _deliver(self, event: ports.HypervisorEvent) -> None:
        if event.kind is ports.EventKind.DISCONNECTED:
            self._pool.abandon(event.text)
        for listener in self._listeners:
            listener(event)


@contextlib.asynccontextmanager
async def connect(hypervisor: LibvirtHypervisor) -> AsyncIterator[LibvirtHypervisor]:
    """The hypervisor, open inside the block."""
    await hypervisor.open()
    try:
        yield hypervisor
    finally:
        await hypervisor.close()


def _make_record(domain: libvirt.virDomain, state: int, reason: int) -> ports.DomainRecord:
    return ports.DomainRecord(domain.UUIDString(), domain.name(), ports.DomainState(state), reason, domain.XMLDesc())


def _list_domains(connection: libvirt.virConnect) -> list[ports.DomainRecord]:
    """One call for all and one for each domain; one that ends meanwhile is left out."""
    records = []
    rows = connection.getAllDomainStats(
        libvirt.VIR_DOMAIN_STATS_STATE, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    )
    for domain, row in rows:
        try:
            records.append(_make_record(domain, int(row["state.state"]), int(row["state.reason"])))
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
    return records


def _parse_vm_id(xml: str) -> str:
    try:
        return str(UUID(fromstring(xml).findtext("uuid", "")))
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise ports.HypervisorRefused(f"not a domain: {error}", libvirt.VIR_ERR_XML_ERROR) from error


def _define(connection: libvirt.virConnect, xml: str) -> None:
    connection.defineXML(xml)


def _set_metadata(domain: libvirt.virDomain, element: str, prefix: str, uri: str) -> None:
    def set_it(flags: int) -> None:
        domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, element, prefix, uri, flags)

    try:
        set_it(libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    except libvirt.libvirtError as error:
        # A domain that is down has no live part, a transient one no other.
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
            raise
        set_it(libvirt.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else libvirt.VIR_DOMAIN_AFFECT_CONFIG)
