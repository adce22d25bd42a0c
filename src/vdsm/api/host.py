"""The surface of the host: what it is, how it fares, and lists of what is on it."""

from typing import Annotated, Literal, Protocol

from vdsm.api.declare import group, ovirt, verb, xmlrpc
from vdsm.api.host_types import HardwareInfo, HostCapabilities, HostStats, StorageDomainVitals
from vdsm.api.storage_types import DOMAIN_CLASS_WORDS, DOMAIN_TYPE_WORDS, DomainClass, DomainType
from vdsm.api.vm import VmInfo
from vdsm.api.vm_types import VmStats
from vdsm.core.context import Right
from vdsm.core.ids import Uuid, VmId

LogLevel = Literal["DEBUG", "INFO", "WARNING", "WARN", "ERROR", "CRITICAL", "CRIT"]


@group("host", "/host")
class HostApi(Protocol):
    """The machine and the daemon."""

    @verb("Host.ping", "POST /ping", needs=Right.VIEW)
    @xmlrpc("ping")
    async def ping(self) -> None:
        """Answer; also confirms that the client still reaches this host after a change of networks."""

    @verb("Host.ping2", "GET /ping")
    async def ping2(self) -> None:
        """Answer, nothing else."""

    @verb("Host.echo", "POST /echo", needs=Right.VIEW)
    async def echo(self, message: Annotated[str, ovirt("message"), "any text"]) -> str:
        """Return the message."""

    @verb("Host.getCapabilities", "GET /capabilities")
    @xmlrpc("getVdsCapabilities", member="info")
    async def get_capabilities(self) -> HostCapabilities:
        """What this machine and its software can do."""

    @verb("Host.getStats", "GET /stats")
    @xmlrpc("getVdsStats", member="info")
    async def get_stats(self) -> HostStats:
        """How this machine fares, from the last sample."""

    @verb("Host.getHardwareInfo", "GET /hardware", fails=("hardware-info-failed",))
    @xmlrpc("getVdsHardwareInfo", member="info")
    async def get_hardware_info(self) -> HardwareInfo:
        """Who made this machine and its serial numbers."""

    @verb("Host.setLogLevel", "PUT /log-level", needs=Right.ADMINISTER)
    @xmlrpc("setLogLevel", "level name")
    async def set_log_level(
        self,
        level: Annotated[LogLevel, ovirt("level"), "from this level on messages are written"],
        name: Annotated[str, ovirt("name"), "the logger; empty for all"] = "",
    ) -> None:
        """Change what is logged until the next restart."""


_Ids = Annotated[list[VmId], ovirt("vmList"), "only these VMs; empty for all"]


@group("vms", "/vms")
class VmListApi(Protocol):
    """Lists of virtual machines."""

    @verb("Host.getVMList", "GET")
    @xmlrpc("list", "full vm_ids", member="vmList")
    async def list_vms(
        self,
        full: Annotated[bool, ovirt("fullStatus"), "ask for whole definitions (the dialect of 2011 only)"] = False,
        vm_ids: _Ids = [],  # noqa: B006
        only_ids: Annotated[bool, ovirt("onlyUUID"), "ignored"] = False,
    ) -> list[VmInfo]:
        """The VMs of this host and their status."""

    @verb("Host.getVMFullList", "GET /full")
    async def list_full(self, vm_ids: _Ids = []) -> list[VmInfo]:  # noqa: B006
        """The VMs of this host with their definitions."""

    @verb("Host.dumpxmls", "GET /definitions", fails=("no-such-vm",))
    async def list_definitions(
        self,
        vm_ids: Annotated[list[VmId], ovirt("vmList"), "of these VMs only, which must all be known"] = [],  # noqa: B006
    ) -> dict[str, str]:
        """VMs as libvirt describes them, by id, as last read; secrets are left out."""

    @verb("Host.getAllVmStats", "GET /stats")
    @xmlrpc("getAllVmStats", member="statsList")
    async def list_stats(self) -> list[VmStats]:
        """Figures of every VM, from the last sample."""


@group("storage", "/storage", invalid="invalid-parameter")
class StorageListApi(Protocol):
    """Lists of storage domains and pools."""

    @verb("Host.getStorageDomains", "GET /domains")
    @xmlrpc("getStorageDomainsList", "pool_id domain_class domain_type remote_path _", member="domlist")
    async def list_domains(
        self,
        pool_id: Annotated[Uuid | None, ovirt("storagepoolID"), "only domains of this pool"] = None,
        domain_class: Annotated[
            DomainClass | None, ovirt("domainClass", words=DOMAIN_CLASS_WORDS), "only of this class"
        ] = None,
        domain_type: Annotated[
            DomainType | None, ovirt("storageType", words=DOMAIN_TYPE_WORDS), "only of this type"
        ] = None,
        remote_path: Annotated[str | None, ovirt("remotePath"), "only on this server"] = None,
    ) -> list[str]:
        """The ids of the storage domains that this host sees."""

    @verb("Host.getConnectedStoragePools", "GET /pools")
    @xmlrpc("getConnectedStoragePoolsList", "_", member="poollist")
    async def list_pools(self) -> list[str]:
        """The ids of the pools that this host is connected to."""


_Domain = Annotated[Uuid, ovirt("sdUUID"), "the domain"]


@group("monitors", "/storage/monitors", invalid="invalid-parameter")
class MonitorApi(Protocol):
    """The health of storage domains: those in use by the connected pool, and others that callers name."""

    @verb("Host.getStorageRepoStats", "GET")
    @xmlrpc("repoStats", "_")
    async def get_vitals(
        self,
        domain_ids: Annotated[list[Uuid], ovirt("domains"), "only these; empty for all"] = [],  # noqa: B006
    ) -> dict[str, StorageDomainVitals]:
        """The health of each watched domain, as last seen."""

    @verb("Host.startMonitoringDomain", "PUT /{domain_id}", fails=("resource-exhausted",))
    @xmlrpc("startMonitoringDomain", "domain_id host_id _")
    async def start(
        self, domain_id: _Domain, host_id: Annotated[int, ovirt("hostID"), "this host's id in its lockspace"]
    ) -> None:
        """Watch a domain outside of a pool, also one that is not there yet; one that is watched stays as it is."""

    @verb("Host.stopMonitoringDomain", "DELETE /{domain_id}", fails=("storage-domain-is-member-of-pool",))
    @xmlrpc("stopMonitoringDomain", "domain_id _")
    async def stop(self, domain_id: _Domain) -> None:
        """End what `start` began; nothing for a domain that is not watched."""
