"""What the acting parts of virt share: ports, settings, the VMs, how one of them changes; deciding is left to them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from xml.etree.ElementTree import Element

from msgspec import UNSET, Struct, UnsetType, field

from vdsm.api.errors import MemoryHandleInvalid, NoSuchVm
from vdsm.api.events import IoError, VmEvent
from vdsm.core.children import Children
from vdsm.core.clock import Clock
from vdsm.core.errors import NodeError, NotReady
from vdsm.virt.accelerator import Accelerator
from vdsm.virt.devices.payload import has_payload
from vdsm.virt.disks.drives import correct_volumes
from vdsm.virt.domain import DomainInvalid, parse_domain
from vdsm.virt.hostedits import HostFacts, list_paths
from vdsm.virt.legacy.devices import Defaults
from vdsm.virt.lifecycle import ExitInfo, Happening, PauseCode, Status, VmState
from vdsm.virt.metadata import (
    CHANGE,
    REPLICA,
    ROOT_OWNER,
    VM_PREFIX,
    VM_URI,
    Scalar,
    VmMetadata,
    VolumeRef,
    format_metadata,
)
from vdsm.virt.migration.plans import MigrationSettings
from vdsm.virt.ports import DomainRecord, HostJobs, Hypervisor, HypervisorTimeout, Images, PreparedImage
from vdsm.virt.recovery import state_of
from vdsm.virt.report import build_event, build_guest_stats, build_stats
from vdsm.virt.request import Wish
from vdsm.virt.saved import MemoryVolumes
from vdsm.virt.vm import Vm

log = logging.getLogger(__name__)

_PREPARE_EVERY_S = 10.0


class VirtSettings(Struct, frozen=True, kw_only=True):
    """What the administrator and the host decide for all VMs.

    `owner` is the id of this daemon's root: VMs of other roots are external ones. With `relabel_disks`, libvirt gives
    prepared images to qemu's user; otherwise their owner and mode are the repository's business.
    """

    owner: str = ROOT_OWNER
    host: HostFacts = field(default_factory=HostFacts)
    defaults: Defaults = field(default_factory=Defaults)
    sample_interval_s: float = 15.0
    jobs_interval_s: float = 15.0
    syncs_time: bool = False
    """Whether guests read their clocks anew after a snapshot."""
    command_timeout_s: float = 60.0
    shutdown_timeout_s: int = 120
    shutdown_delay_s: int = 30
    retry_s: float = 5.0
    launches: int = 4
    announce_patience_s: float = 2.0
    """How long the caller of `create` waits for libvirt to take the VM in."""
    relabel_disks: bool = False
    pause_limit_s: float = 80.0
    """A VM that is to end rather than to wait for its storage ends after so long."""
    unplug_timeout_s: float = 30.0
    unplug_check_s: float = 1.0
    migration: MigrationSettings = field(default_factory=MigrationSettings)


class Shared(Struct, eq=False):
    """The VMs of this host and the ways in which they change; `publish` is the event bus of the daemon."""

    hypervisor: Hypervisor
    images: Images
    jobs: HostJobs
    accelerator: Accelerator
    clock: Clock
    publish: Callable[[VmEvent], None]
    settings: VirtSettings = field(default_factory=VirtSettings)
    vms: dict[str, Vm] = field(default_factory=dict)
    children: Children = field(default_factory=Children)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    vms_changed: asyncio.Event = field(default_factory=asyncio.Event)
    """A VM's XML was read, or a VM ended."""

    def make_vm(self, wish: Wish, status: Status) -> Vm:
        """The VM that is wished for; none of this host's yet."""
        return Vm(
            vm_id=wish.view.vm_id,
            name=wish.view.name,
            xml=wish.xml,
            view=wish.view,
            metadata=wish.metadata,
            started_s=self.find_start_s(wish.metadata),
            first_offset_s=wish.first_offset_s,
            added_offset_s=wish.added_offset_s,
            state=VmState(status),
        )

    def find_start_s(self, metadata: VmMetadata) -> float | None:
        """When the VM of that metadata started or last rebooted, on the monotonic clock."""
        at_s = metadata.started_at_s
        return None if at_s is None else self.clock.monotonic() - max(0.0, self.clock.time() - at_s)

    def find_elapsed_s(self, vm: Vm) -> float:
        """How long the VM has run; 0 when nobody knows."""
        return 0.0 if vm.started_s is None else self.clock.monotonic() - vm.started_s

    def check_ready(self) -> None:
        """Raise NotReady (99) while VMs are still being recovered."""
        if not self.ready.is_set():
            raise NotReady()

    def get(self, vm_id: str) -> Vm:
        """The VM; raises NoSuchVm (1), or NotReady (99) while VMs are still being recovered."""
        self.check_ready()
        try:
            return self.vms[vm_id]
        except KeyError:
            raise NoSuchVm(vm_id) from None

    def notify(
        self, vm: Vm, *, whole: bool = False, guest: bool = False, io_error: IoError | UnsetType = UNSET
    ) -> None:
        """Tell the world of the VM's status; `whole` adds its figures, `guest` those of its inside alone.

        Nothing is told before recovery is done.
        """
        if self.ready.is_set():
            stats = build_stats(vm, self.clock, self.settings.command_timeout_s) if whole else UNSET
            stats = build_guest_stats(vm, self.clock) if guest else stats
            self.publish(build_event(vm, self.clock, stats, io_error=io_error))

    def apply(
        self,
        vm: Vm,
        happening: Happening,
        *,
        pause_code: PauseCode | None = None,
        io_error: IoError | UnsetType = UNSET,
    ) -> None:
        """Move the VM to its next state, and tell when that changed its status or the reason of its pause."""
        now_s = self.clock.monotonic()
        before = (vm.state.effective(now_s), vm.state.pause_code)
        vm.state = vm.state.after(happening, pause_code=pause_code)
        if (vm.state.effective(now_s), vm.state.pause_code) != before:
            self.notify(vm, io_error=io_error)

    def align(self, vm: Vm, record: DomainRecord) -> None:
        """Take over what libvirt says of a living VM's processors, and tell when that is news.

        Who waits for the end of its migration decides what becomes of it, and nobody else.
        """
        if vm.is_leaving:
            return
        before = vm.state
        vm.state = before.aligned(state_of(record.state, record.reason))
        if vm.state is not before:
            self.notify(vm)

    def see(self, vm: Vm, guest_event: Status) -> None:
        """The guest was seen to power up, reboot or power down."""
        now_s = self.clock.monotonic()
        before = vm.state.effective(now_s)
        vm.state = vm.state.seen(guest_event, now_s)
        if vm.state.effective(now_s) is not before:
            self.notify(vm)

    def end(self, vm: Vm, exit_info: ExitInfo) -> None:
        """The VM is down: say so, record its end in libvirt, release its images. Nothing happens when it was down."""
        if vm.state.status is Status.DOWN:
            return
        log.info("VM %s is down: %s", vm.vm_id, exit_info.message)
        vm.state = vm.state.after(Happening.STOPPED, exit_info=exit_info)
        vm.stopped.set()
        self.vms_changed.set()
        vm.stirred.set()
        for merge in vm.merges.values():
            merge.changed.set()
        self.notify(vm)
        if vm.is_external:
            self.vms.pop(vm.vm_id, None)
            return
        vm.metadata = vm.metadata.with_exit(exit_info)
        vm.cleanup = self.children.spawn(self._clean_up(vm), f"clean up after VM {vm.vm_id}")

    async def save(self, vm: Vm, **values: Scalar | None) -> None:
        """Change scalars of the VM's metadata, here and in libvirt; a failure there is logged, not raised.

        The hypervisor takes one call at a time for a VM, in the order of asking: the last change is what stays.
        """
        if not vm.is_external:
            await self.save_metadata(vm, vm.metadata.changed(**values))

    async def save_metadata(self, vm: Vm, metadata: VmMetadata) -> None:
        """Change the VM's metadata, here and in libvirt; a failure there is logged, not raised."""
        await attempt(vm, "its metadata could not be written", self.store(vm, metadata))

    async def store(self, vm: Vm, metadata: VmMetadata) -> None:
        """Change the VM's metadata, here and in libvirt. Raises what the hypervisor does; here it is changed then.

        Raises InvalidArgument, and changes nothing, for what XML cannot carry. That of a VM on its way is written when
        it is known that it stays.
        """
        text = format_metadata(metadata)
        vm.metadata = metadata
        if vm.has_domain and not vm.is_moving:
            await self.hypervisor.set_metadata(vm.vm_id, text, VM_PREFIX, VM_URI)

    async def record(self, vm: Vm, **values: Scalar) -> None:
        """Like `save`, for what a caller relies on: a failure is raised, and then the values are as before."""
        before = {name: vm.metadata.values.get(name) for name in values}
        try:
            await self.store(vm, vm.metadata.changed(**values))
        except NodeError:
            vm.metadata = vm.metadata.changed(**before)
            raise

    async def prepare(self, volume: VolumeRef) -> PreparedImage:
        """Prepare one image. Raises what the images do."""
        return await self.images.prepare(*volume.ids.values())

    async def prepare_again(self, vm: Vm) -> None:
        """Prepare the images of a VM that was found until it works: its storage comes back after the daemon does.

        One that waits holds up no other, and which volume of it is the VM's may change meanwhile.
        """
        done = set[tuple[str, str]]()
        while vm.state.status is not Status.DOWN:
            waiting = [volume for volume in list_volumes(vm) if volume.image not in done]
            if not waiting:
                return
            for volume in waiting:
                failure = f"image {volume.image_id} cannot be prepared again yet"
                if await attempt(vm, failure, self.prepare(volume), logging.DEBUG):
                    continue
                done.add(volume.image)
                if volume.image not in {other.image for other in list_volumes(vm)}:
                    await self.release_image(vm, volume)  # Who took it from the VM may have released it before.
            if not all(volume.image in done for volume in waiting):
                await self.clock.sleep(_PREPARE_EVERY_S)
        await self.release_images(vm)  # What came ready after its end is still to be released.

    async def release_memory(self, vm: Vm) -> None:
        """Tear down the volumes of the VM's memory, if there are any; failures are logged."""
        if vm.metadata.memory_volumes is None:
            return
        try:
            for volume in MemoryVolumes.parse(vm.metadata.memory_volumes).volumes:
                await self.release_image(vm, volume)
        except MemoryHandleInvalid as error:
            log.warning("VM %s: the volumes of its memory cannot be told: %s", vm.vm_id, error)
        await self.save(vm, memoryVolumes=None)

    async def release_images(self, vm: Vm) -> None:
        """Tear down the images of a VM that is down, but for those that another VM uses; failures are logged."""
        vm.has_images = False
        if has_payload(vm.metadata):
            await self.images.remove_payloads(vm.vm_id)
        for volume in list_volumes(vm):
            if not await self.release_image(vm, volume):
                vm.has_images = True
        await attempt(vm, "scratch disks of its backups could not be removed", self.images.clear_backup(vm.vm_id))

    async def release_image(self, vm: Vm, volume: VolumeRef) -> bool:
        """Tear down one image unless another VM uses it; False, and logged, when that fails."""
        if self._is_used(volume, vm):
            return True
        work = self.images.teardown(volume.pool_id, volume.domain_id, volume.image_id)
        return await attempt(vm, f"image {volume.image_id} could not be torn down", work) is None

    def _is_used(self, volume: VolumeRef, vm: Vm) -> bool:
        """Whether another VM that is not down, so also one that starts, has that image."""
        others = (other for other in self.vms.values() if other is not vm and other.state.status is not Status.DOWN)
        return any(volume.image_id == used.image_id for other in others for used in list_volumes(other))

    async def find_folder(self, domain: Element, prepared: Collection[str]) -> str | None:
        """A folder among the paths that a domain, or what has its shape, gives away; prepared images are none.

        libvirt gives what a VM names to qemu's user before qemu refuses it, and to root afterwards: a folder of disks
        would be lost to its owner.
        """
        for path in list_paths(domain):
            if path not in prepared and await self.images.find_kind(path) == "folder":
                return path
        return None

    async def refresh(self, vm: Vm) -> DomainRecord | None:
        """Read the VM's XML again; when that fails, the VM is stale and None is returned."""
        vm.is_stale = True
        try:
            record = await self.hypervisor.get_domain(vm.vm_id)
        except NodeError as error:
            vm.monitor_failed = vm.monitor_failed or isinstance(error, HypervisorTimeout)
            log.warning("VM %s: its definition could not be read: %s", vm.vm_id, error)
            return None
        self.read(vm, record)
        return record

    def read(self, vm: Vm, record: DomainRecord) -> None:
        """Take over the VM's XML as libvirt has it now."""
        vm.xml, vm.is_stale = record.xml, False
        self.vms_changed.set()
        try:
            vm.view = parse_domain(record.xml)
            vm.agent_connected = vm.view.qemu_agent_connected
        except DomainInvalid as error:
            log.warning("VM %s: its definition cannot be understood: %s", vm.vm_id, error)
            return
        if not vm.is_external:
            vm.metadata = correct_volumes(vm.view, vm.metadata)

    async def _clean_up(self, vm: Vm) -> None:
        await self.save(vm)
        await self.release_images(vm)
        await self.release_memory(vm)


async def attempt(vm: Vm, failure: str, work: Awaitable[object], level: int = logging.WARNING) -> NodeError | None:
    """Why something failed that the VM gets by without; it is logged, under the words of `failure`."""
    try:
        await work
    except NodeError as error:
        log.log(level, "VM %s: %s: %s", vm.vm_id, failure, error)
        return error
    return None


async def sync_time(shared: Shared, vm: Vm) -> None:
    """Have the guest read its clock anew, where its agent does that."""
    asked = shared.hypervisor.ask_agent(vm.vm_id, "guest-set-time")
    await attempt(vm, "its guest could not read its clock", asked, logging.INFO)


async def find_chain(shared: Shared, volume: VolumeRef) -> tuple[Mapping[str, str], ...]:
    """The chain of a disk that is in use, base first, read anew; empty, and logged, when that fails."""
    try:
        return (await shared.prepare(volume)).chain
    except NodeError as error:
        log.warning("the chain of volume %s is not known: %s", volume.volume_id, error)
        return ()


def list_volumes(vm: Vm) -> list[VolumeRef]:
    """The volumes that the VM's disks are, as its metadata tells: that is complete before the disks are defined.

    A disc that is being loaded is one of them, and so are replicas.
    """
    devices, parts = vm.metadata.devices, (CHANGE, REPLICA)
    found = [volume for one in devices for volume in (one.volume, *map(one.find_part_volume, parts))]
    return [volume for volume in found if volume is not None]
