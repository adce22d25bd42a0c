"""The service of virtual machines: implements the surface's verbs on them; each way to act is a file of its own."""

from vdsm.api.errors import VmExists
from vdsm.api.vm import VmInfo, VmParameters
from vdsm.api.vm_types import VmStats
from vdsm.core.periodic import repeat
from vdsm.virt.adopt import Adopter
from vdsm.virt.console import Console
from vdsm.virt.devices.plugging import Devices
from vdsm.virt.devices.service import DeviceService
from vdsm.virt.devices.updates import UpdateService
from vdsm.virt.disks.backups import BackupService
from vdsm.virt.disks.service import DiskService
from vdsm.virt.display_networks import DisplayNetworks
from vdsm.virt.firmware import LOOK_EVERY_S as FIRMWARE_EVERY_S
from vdsm.virt.firmware import FirmwareService
from vdsm.virt.guest.service import GuestService
from vdsm.virt.launch import Launcher
from vdsm.virt.lifecycle import ExitReason, Status
from vdsm.virt.migration.destination import Destination
from vdsm.virt.migration.saving import Saver
from vdsm.virt.migration.service import MigrationService
from vdsm.virt.migration.source import Source
from vdsm.virt.pinning import Pinner
from vdsm.virt.ports import Channels, FirmwareStore, NetworkDevices, Peers, Processors
from vdsm.virt.power import Farewell, Power
from vdsm.virt.report import build_info, build_short_info, build_stats
from vdsm.virt.request import plan_request
from vdsm.virt.resume import Resumer
from vdsm.virt.sampling import Sampler
from vdsm.virt.secrets import SecretService
from vdsm.virt.shared import Shared
from vdsm.virt.sizes import LOOK_EVERY_S, VolumeSizes
from vdsm.virt.ticket import set_ticket
from vdsm.virt.tuning import TuningService
from vdsm.virt.vm import Vm
from vdsm.virt.watch import Watcher


class VmService:
    """All VMs of this host (fits `api.vm.VmApi` and `api.host.VmListApi`).

    Until recovery is done, every verb fails with NotReady (99). Ending `run` leaves all VMs running.
    """

    def __init__(
        self,
        shared: Shared,
        channels: Channels,
        peers: Peers,
        store: FirmwareStore,
        processors: Processors,
        networks: NetworkDevices,
    ) -> None:
        self._shared = shared
        self.firmware = FirmwareService(shared, store)
        """Fits `api.firmware.FirmwareApi`."""
        self._networks = DisplayNetworks(shared, networks)
        self.guests = GuestService(shared, channels)
        """Fits `api.guest.GuestApi`."""
        self._launcher = Launcher(shared, self.firmware, self._networks, self.guests.channels)
        self._power = Power(shared, self.guests.channels.say)
        devices = Devices(shared)
        self.backups = BackupService(shared)
        self.devices = DeviceService(shared, devices)
        """Fits `api.devices.DeviceApi`."""
        self.disks = DiskService(shared)
        """Fits `api.disks.DiskApi`."""
        self._resumer = Resumer(shared, self._power)
        source = Source(shared, peers, self._power, self.guests.channels)
        saver = Saver(shared, source, self.guests.channels)
        destination = Destination(shared, self._launcher, self._power, self.guests.channels)
        self.migration = MigrationService(shared, source, saver, destination)
        """Fits `api.migration.MigrationApi`."""
        self._adopter = Adopter(shared, devices, self.disks, self.backups, source, saver, destination)
        console = Console(shared, self._power, self.guests.channels.say)
        self._watcher = Watcher(shared, self._adopter, self._power, console)
        self._sizes = VolumeSizes(shared)
        self._sampler = Sampler(shared, self._adopter)
        self.tuning = TuningService(shared, self.guests.channels.say)
        self.updates = UpdateService(shared)
        self.secrets = SecretService(shared.hypervisor)
        self._pinner = Pinner(shared, processors)

    async def run(self) -> None:
        """Recover the VMs, then watch and sample them until cancelled."""
        shared = self._shared
        shared.hypervisor.subscribe(self._watcher.on_event)
        try:
            await self.firmware.begin()
            await self._adopter.recover()
            shared.vms_changed.set()
            self._watcher.replay()
            self._resumer.look_at_all()
            shared.children.spawn(self._resumer.end_the_late(), "end VMs that wait for too long")
            shared.children.spawn(self.guests.run(), "listen to guests")
            shared.children.spawn(self._keep_host(), "keep the host as its VMs need it")
            shared.children.spawn(self.secrets.begin(), "forget old secrets")
            keeping = repeat(self.firmware.look, every_s=FIRMWARE_EVERY_S, clock=shared.clock, name="look at firmware")
            shared.children.spawn(keeping, "look at what firmware keeps")
            look = repeat(self._sizes.look, every_s=LOOK_EVERY_S, clock=shared.clock, name="sizes of volumes")
            shared.children.spawn(look, "ask for sizes of volumes")
            interval_s = shared.settings.sample_interval_s
            await repeat(self._sampler.sample, every_s=interval_s, clock=shared.clock, name="sampling of VMs")
        finally:
            await shared.children.close()

    async def _keep_host(self) -> None:
        while True:
            await self._shared.vms_changed.wait()
            self._shared.vms_changed.clear()
            await self._pinner.look()
            await self._networks.look()

    @property
    def is_ready(self) -> bool:
        """Whether recovery is done."""
        return self._shared.ready.is_set()

    async def wait_ready(self) -> None:
        """Return when recovery is done."""
        await self._shared.ready.wait()

    def on_storage(self, domain_id: str, is_valid: bool) -> None:
        """A storage domain was found well, or sick: VMs may wait for it."""
        self._resumer.on_storage(domain_id, is_valid)

    async def sample(self) -> None:
        """Take a sample now, beside the periodic ones."""
        await self._sampler.sample()

    async def create(self, vm_id: str, parameters: VmParameters) -> VmInfo:
        """Accept a VM and start it in the background; libvirt has it, or is taking it in, when this returns."""
        shared = self._shared
        shared.check_ready()
        settings = shared.settings
        wish = plan_request(
            vm_id,
            parameters,
            host=settings.host,
            defaults=settings.defaults,
            owner=settings.owner,
            now_s=shared.clock.time(),
        )
        vm = shared.make_vm(wish, Status.WAIT_FOR_LAUNCH if wish.memory is None else Status.RESTORING)
        if vm.vm_id in shared.vms:
            raise VmExists(vm.vm_id)
        info = build_info(vm, shared.clock)
        await self._launcher.begin(vm, wish)
        return info

    async def destroy(self, vm_id: str, graceful_attempts: int = 1) -> None:
        """Cut the VM's power and forget it."""
        vm = self._shared.get(vm_id)
        await self._power.destroy(vm, graceful_attempts, ExitReason.SHUT_DOWN_BY_ADMINISTRATOR)
        await self._power.remove(vm)

    async def shutdown(
        self,
        vm_id: str,
        delay_s: int | None = None,
        message: str | None = None,
        reboot: bool = False,
        timeout_s: int | None = None,
        force: bool = False,
    ) -> None:
        """Ask the guest to power off or to reboot, in the background; agents that can show delay and message."""
        vm = self._shared.get(vm_id)
        settings = self._shared.settings
        wish = Farewell(
            reboot=reboot,
            delay_s=settings.shutdown_delay_s if delay_s is None else max(0, delay_s),
            timeout_s=settings.shutdown_timeout_s if timeout_s is None else timeout_s,
            message=message or "",
            force=force,
        )
        self._power.shutdown(vm, wish)

    async def reset(self, vm_id: str) -> None:
        """Press the VM's reset button."""
        await self._power.reset(self._shared.get(vm_id))

    async def pause(self, vm_id: str) -> None:
        """Stop the VM's processors."""
        await self._power.pause(self._shared.get(vm_id))

    async def resume(self, vm_id: str) -> None:
        """Let a paused VM run on."""
        await self._power.resume(self._shared.get(vm_id))

    async def set_ticket(
        self,
        vm_id: str,
        password: str,
        ttl_s: int,
        existing_connection: str = "disconnect",
        parameters: dict[str, str] | None = None,
    ) -> None:
        """Set the password of the VM's first display."""
        await set_ticket(self._shared, self._shared.get(vm_id), password, ttl_s, existing_connection)

    async def get_info(self, vm_id: str) -> VmInfo:
        """A VM's definition and state."""
        return build_info(self._shared.get(vm_id), self._shared.clock)

    async def get_stats(self, vm_id: str) -> VmStats:
        """Figures of the last sample."""
        return self._stats(self._shared.get(vm_id))

    async def list_vms(
        self, full: bool = False, vm_ids: list[str] | None = None, only_ids: bool = False
    ) -> list[VmInfo]:
        """The VMs of this host, all or those named; ids that are not known are left out."""
        build = build_info if full else build_short_info
        return [build(vm, self._shared.clock) for vm in self._list(vm_ids)]

    async def list_full(self, vm_ids: list[str] | None = None) -> list[VmInfo]:
        """The VMs of this host with their definitions."""
        return await self.list_vms(full=True, vm_ids=vm_ids)

    async def list_stats(self) -> list[VmStats]:
        """Figures of every VM."""
        return [self._stats(vm) for vm in self._list(None)]

    async def list_definitions(self, vm_ids: list[str]) -> dict[str, str]:
        """The XML of these VMs, as last read from libvirt."""
        self._shared.check_ready()
        return {vm_id: self._shared.get(vm_id).xml for vm_id in vm_ids}

    def list_statuses(self) -> list[Status]:
        """The statuses of all VMs, for counts."""
        return [vm.state.status for vm in self._shared.vms.values()]

    def _stats(self, vm: Vm) -> VmStats:
        return build_stats(vm, self._shared.clock, self._shared.settings.command_timeout_s)

    def _list(self, vm_ids: list[str] | None) -> list[Vm]:
        self._shared.check_ready()
        vms = self._shared.vms
        return [vms[vm_id] for vm_id in vm_ids if vm_id in vms] if vm_ids else list(vms.values())
