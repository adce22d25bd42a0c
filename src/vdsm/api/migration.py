"""The surface of moving: a running virtual machine goes to another host, or comes from one (facts §2.19)."""

from typing import Annotated, Literal, Protocol

from msgspec import UNSET, Meta, Struct, UnsetType

from vdsm.api.declare import Figure, Flag, Number, Text, group, ovirt, verb, xmlrpc
from vdsm.api.guest import GuestInterface
from vdsm.api.vm import VmInfo
from vdsm.core.ids import VmId

_Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class ConvergenceAction(Struct, frozen=True, kw_only=True):
    """What is done for a migration to come to an end: `setDowntime` takes one parameter, in ms."""

    name: Literal["setDowntime", "postcopy", "abort"]
    parameters: Annotated[list[str], ovirt("params")] = []


class ConvergenceItem(Struct, frozen=True, kw_only=True):
    """An action, and after how many rounds over the guest's memory it is due."""

    action: ConvergenceAction
    limit: int


class ConvergenceSchedule(Struct, frozen=True, kw_only=True):
    """What is done at the beginning, and what when there is no end to it."""

    stalling: list[ConvergenceItem] = []
    init: list[ConvergenceAction] = []


class MigrationRequest(Struct, frozen=True, kw_only=True):
    """Where a VM goes, and how. What is not given is as the host's settings say."""

    vm_id: Annotated[Text, ovirt("vmId")] = UNSET
    destination: Annotated[str, ovirt("dst")]
    """`host[:port]` of the other daemon; IPv6 in brackets."""
    memory_host: Annotated[Text, ovirt("dstqemu")] = UNSET
    mode: Literal["remote", "file"] = "remote"
    method: Literal["online"] = "online"
    bandwidth_mib_per_s: Annotated[_Count, ovirt("maxBandwidth")] = 0
    downtime_ms: Annotated[_Count, ovirt("downtime")] = 0
    schedule: Annotated[ConvergenceSchedule | None, ovirt("convergenceSchedule")] = None
    auto_converge: Annotated[bool, ovirt("autoConverge")] = False
    compressed: bool = False
    tunneled: bool = False
    abort_on_error: Annotated[bool, ovirt("abortOnError")] = False
    encrypted: bool = False
    zero_copy: Annotated[bool, ovirt("zerocopy")] = False
    connections: Annotated[_Count | None, ovirt("parallel")] = None
    console_address: Annotated[Text, ovirt("consoleAddress")] = UNSET
    guest_events: Annotated[bool, ovirt("enableGuestEvents")] = False
    outgoing_limit: Annotated[_Count | None, ovirt("outgoingLimit")] = None
    incoming_limit: Annotated[_Count | None, ovirt("incomingLimit")] = None
    cpu_sets: Annotated[list[str | None] | None, ovirt("cpusets")] = None
    """One list of processors for each vCPU; none keeps what it has."""
    node_sets: Annotated[list[str | None] | None, ovirt("numaNodesets")] = None
    parameters: Annotated[Text, ovirt("dstparams")] = UNSET


class MigrationChange(Struct, frozen=True, kw_only=True):
    """What can be changed of a migration under way."""

    bandwidth_mib_per_s: Annotated[int, Meta(ge=0, le=2**31 - 1), ovirt("maxBandwidth")]


class IncomingVm(Struct, frozen=True, kw_only=True):
    """A VM that will come from another host: its live XML there, or the one that was last read."""

    vm_id: Annotated[Text, ovirt("vmId")] = UNSET
    live_xml: Annotated[Text, ovirt("_srcDomXML")] = UNSET
    xml: Text = UNSET
    elapsed_offset_s: Annotated[Figure, ovirt("elapsedTimeOffset")] = UNSET
    guest_name: Annotated[Text, ovirt("guestFQDN")] = UNSET
    guest_user: Annotated[Text, ovirt("username")] = UNSET
    guest_interfaces: Annotated[list[GuestInterface] | UnsetType, ovirt("netIfaces")] = UNSET
    guest_events: Annotated[Flag, ovirt("enableGuestEvents")] = UNSET
    destination: Annotated[Text, ovirt("migrationDest")] = UNSET


class IncomingAccepted(Struct, frozen=True, kw_only=True):
    """The VM as the host that waits for it has it."""

    port: Annotated[int, ovirt("migrationPort")] = 0
    """Always 0: libvirt chooses."""
    vm: Annotated[VmInfo, ovirt("params")]


class MigrationOutcome(Struct, frozen=True, kw_only=True):
    """0 while all is well, or the number of what went wrong."""

    code: int
    message: str


class MigrationStats(Struct, frozen=True, kw_only=True):
    """The VM's last migration out of here: how it stands, percent done, and how long the guest stood still."""

    status: MigrationOutcome
    progress: int
    downtime_ms: Annotated[Number, ovirt("downtime")] = UNSET


_Vm = Annotated[VmId, ovirt("vmID"), "the VM's id"]
_KNOWN = ("no-such-vm",)


@group("migration", "/vms")
class MigrationApi(Protocol):
    """A virtual machine's way from host to host, or to disk."""

    @verb(
        "VM.migrate",
        "POST /{vm_id}/migration",
        fails=(*_KNOWN, "vm-is-down", "migration-in-progress", "vm-request-failed", "transient-disks"),
    )
    @xmlrpc("migrate", "request")
    async def migrate(
        self, vm_id: _Vm, request: Annotated[MigrationRequest, ovirt("params"), "where to, and how"]
    ) -> None:
        """Begin to move the VM to another host; status and events tell how that goes on."""

    @verb(
        "VM.hibernate",
        "POST /{vm_id}/hibernate",
        fails=(
            *_KNOWN,
            "vm-is-down",
            "migration-in-progress",
            "vm-request-failed",
            "memory-handle-invalid",
            "transient-disks",
        ),
        invalid="memory-handle-invalid",
    )
    @xmlrpc("hibernate", "vm_id handle")
    async def hibernate(
        self,
        vm_id: _Vm,
        handle: Annotated[str, ovirt("hibernationVolHandle"), "the volumes for its memory, as six ids between commas"],
    ) -> None:
        """Begin to save the VM to disk; `VM.create` with the same volumes takes it up again."""

    @verb("VM.migrateCancel", "DELETE /{vm_id}/migration", fails=(*_KNOWN, "migration-cancel-failed"))
    @xmlrpc("migrateCancel", "vm_id")
    async def cancel(self, vm_id: _Vm) -> None:
        """Have the VM stay; the migration ends as canceled a moment later."""

    @verb("VM.migrateChangeParams", "PATCH /{vm_id}/migration", fails=(*_KNOWN, "not-migrating", "hypervisor-refused"))
    @xmlrpc("migrateChangeParams", "vm_id change")
    async def change(self, vm_id: _Vm, change: Annotated[MigrationChange, ovirt("params"), "what changes"]) -> None:
        """Change the bandwidth of a migration under way, in MiB/s."""

    @verb("VM.getMigrationStatus", "GET /{vm_id}/migration", fails=_KNOWN)
    @xmlrpc("migrateStatus", "vm_id", member="migrationStats")
    async def get_status(self, vm_id: _Vm) -> MigrationStats:
        """How the VM's last migration out of here stands."""

    @verb(
        "VM.migrationCreate",
        "POST /{vm_id}/incoming-migration",
        fails=("vm-exists", "create-failed", "migration-limit", "vm-request-failed", "hypervisor-down"),
    )
    @xmlrpc("migrationCreate", "vm incoming_limit")
    async def create_incoming(
        self,
        vm_id: _Vm,
        vm: Annotated[IncomingVm, ovirt("params", declared="VmInfo"), "the VM as it is on its host"],
        incoming_limit: Annotated[
            _Count | None, ovirt("incomingLimit"), "how many VMs may come at once from now on"
        ] = None,
    ) -> IncomingAccepted:
        """Prepare the VM's images; its host's libvirt may send it then."""
