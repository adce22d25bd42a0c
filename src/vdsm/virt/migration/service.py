"""The verbs of moving (fits `api.migration.MigrationApi`); acting is left to `source` and `destination`."""

from msgspec import Struct

from vdsm.api.errors import NotMigrating
from vdsm.api.migration import (
    IncomingAccepted,
    IncomingVm,
    MigrationChange,
    MigrationOutcome,
    MigrationRequest,
    MigrationStats,
)
from vdsm.virt.lifecycle import Status
from vdsm.virt.migration.destination import Destination
from vdsm.virt.migration.plans import plan_journey
from vdsm.virt.migration.saving import Saver
from vdsm.virt.migration.source import Source
from vdsm.virt.shared import Shared

_NEVER = MigrationStats(status=MigrationOutcome(code=0, message="Done"), progress=0)


class MigrationService(Struct, eq=False):
    """VMs go and come."""

    _shared: Shared
    _source: Source
    _saver: Saver
    _destination: Destination

    async def migrate(self, vm_id: str, request: MigrationRequest) -> None:
        """Begin to move the VM to another host."""
        vm = self._shared.get(vm_id)
        self._source.begin(vm, plan_journey(request, vm.view, self._shared.settings.migration))

    async def hibernate(self, vm_id: str, handle: str) -> None:
        """Begin to save the VM to disk."""
        self._saver.begin(self._shared.get(vm_id), handle)

    async def cancel(self, vm_id: str) -> None:
        """Have the VM stay."""
        await self._source.cancel(self._shared.get(vm_id))

    async def change(self, vm_id: str, change: MigrationChange) -> None:
        """Change the bandwidth of a migration under way."""
        vm = self._shared.get(vm_id)
        departure = vm.departure
        if departure is None or departure.is_over or vm.state.status is not Status.MIGRATION_SOURCE:
            raise NotMigrating(vm_id)
        departure.bandwidth_mib_per_s = change.bandwidth_mib_per_s
        if departure.is_moving:
            await self._shared.hypervisor.set_move_bandwidth(vm_id, change.bandwidth_mib_per_s)

    async def get_status(self, vm_id: str) -> MigrationStats:
        """How the VM's last migration out of here stands."""
        departure = self._shared.get(vm_id).departure
        return _NEVER if departure is None else departure.tell()

    async def create_incoming(self, vm_id: str, vm: IncomingVm, incoming_limit: int | None = None) -> IncomingAccepted:
        """Prepare the VM's images."""
        return await self._destination.create(vm, incoming_limit)
