"""Starts VMs: announce in libvirt, prepare images, define, start; what the VM should be was planned by `request`.

The order makes every crash harmless. A tiny domain with the VM's metadata is defined before the caller gets an answer,
so that a daemon killed at any later instruction finds it: off without a recorded end means that the start was
interrupted, and the VM is reported Down. Images are prepared after that, so that their ids are always found, and
released when the VM ends.

Where libvirt takes long to define a domain, the caller gets the answer while the request is still with libvirt. libvirt
goes on with it when this daemon is killed, and the next one finds the domain or hears of it.
"""

import asyncio
import logging
from xml.etree.ElementTree import Element

from msgspec import Struct

from vdsm.core.children import wait_until
from vdsm.core.errors import NodeError
from vdsm.virt import hostedits, pickles, ports
from vdsm.virt.devices.payload import list_payloads
from vdsm.virt.display_networks import DisplayNetworks
from vdsm.virt.domain import DomainInvalid, parse_domain
from vdsm.virt.elements import format_xml, parse_xml
from vdsm.virt.firmware import FirmwareService
from vdsm.virt.guest.channels import AgentChannels
from vdsm.virt.lifecycle import ExitInfo, ExitReason, Happening, Status
from vdsm.virt.metadata import VmMetadata, find_metadata
from vdsm.virt.recovery import exit_of, is_alive, state_of
from vdsm.virt.request import Wish
from vdsm.virt.saved import MemoryVolumes, SavedParameters, parse_parameters, renew
from vdsm.virt.shared import Shared, sync_time
from vdsm.virt.vm import Vm

log = logging.getLogger(__name__)

_AGENT_LOOKS, _AGENT_LOOK_S = 10, 1.0


class Abandoned(Exception):
    """The start ends here, for the reason it carries."""

    def __init__(self, end: ExitInfo) -> None:
        super().__init__(end.message)
        self.end = end


class _Answer(Struct):
    """What the caller of a start hears; `refusal` counts until the answer was given."""

    is_given: bool = False
    refusal: NodeError | None = None


class _Memory(Struct, frozen=True):
    """The memory that a VM wakes up with, and the domain that it is of."""

    path: str
    domain: Element
    told: SavedParameters

    def renew(self, wish: Wish, images: dict[str, ports.PreparedImage], *, relabel: bool) -> Element:
        """The domain that it shall be. Raises Abandoned."""
        options = {"relabel": relabel, "is_snapshot": self.told.is_snapshot}
        try:
            return renew(self.domain, wish.domain, wish.metadata, images, **options)
        except ValueError as error:
            raise Abandoned(ExitInfo.of(ExitReason.GENERIC_ERROR, str(error))) from error


class Launcher:
    """Starts VMs, a few at once."""

    def __init__(
        self, shared: Shared, firmware: FirmwareService, networks: DisplayNetworks, agents: AgentChannels
    ) -> None:
        self._shared = shared
        self._agents = agents
        self._networks = networks
        self._firmware = firmware
        self._slots = asyncio.Semaphore(shared.settings.launches)

    async def begin(self, vm: Vm, wish: Wish) -> None:
        """Start the VM in the background; return as soon as libvirt has its id and metadata, or takes long over that.

        Raises HypervisorDown and its like when libvirt cannot be asked; the VM is forgotten then.
        """
        shared = self._shared
        shared.vms[vm.vm_id] = vm
        answer = _Answer()
        work = self._run(vm, wish, answer)
        vm.launch = shared.children.spawn(work, f"start VM {vm.vm_id}", lambda error: self._fail(vm, error))
        patience_s = shared.settings.announce_patience_s
        try:
            if not await wait_until(vm.announced, patience_s, shared.clock):
                log.warning("VM %s: libvirt has not taken it in within %s s, and is still at it", vm.vm_id, patience_s)
        finally:
            answer.is_given = True
        if answer.refusal is not None:
            raise answer.refusal

    def _fail(self, vm: Vm, error: BaseException) -> None:
        self._shared.end(vm, ExitInfo.of(ExitReason.GENERIC_ERROR, f"The start failed unexpectedly: {error!r}"))

    async def _run(self, vm: Vm, wish: Wish, answer: "_Answer") -> None:
        try:
            await self.announce(vm, wish)
            vm.announced.set()
            await self._launch(vm, wish)
        except Abandoned as abandoned:
            await self._give_up(vm, abandoned.end)
        except NodeError as error:
            if vm.announced.is_set() or answer.is_given:
                await self._give_up(vm, ExitInfo.of(ExitReason.GENERIC_ERROR, str(error)))
            else:
                del self._shared.vms[vm.vm_id]
                answer.refusal = error
        finally:
            vm.announced.set()

    async def announce(self, vm: Vm, wish: Wish) -> None:
        """Put the VM's id and metadata into libvirt. Raises Abandoned, HypervisorDown and its like."""
        await self._clear_id(vm)
        vm.has_domain = True  # As far as anybody can tell from now on: a call that fails may have been heard.
        try:
            await self._define(vm, format_xml(hostedits.build_placeholder(wish.view, wish.metadata)))
        except Abandoned:
            vm.has_domain = False
            raise

    async def _give_up(self, vm: Vm, end: ExitInfo) -> None:
        if vm.state.status is Status.RESTORING:
            end = ExitInfo.of(end.reason, f"Wake up from hibernation failed: {end.message}")
        if vm.state.status is Status.DOWN:
            # It was destroyed while an image was being prepared; what came ready after that is still to be released.
            await self._shared.release_images(vm)
        self._shared.end(vm, end)

    async def _launch(self, vm: Vm, wish: Wish) -> None:
        """The hook points of a start are around `define` (before_vm_start) and after `start` (after_vm_start).

        Images are prepared outside the slots, so that a dead storage domain delays its own VMs only.
        """
        check_wanted(vm)
        if not await self._shared.accelerator.uses_kvm():
            hostedits.avoid_kvm(wish.domain)
        memory = None if wish.memory is None else await self._find_memory(vm, wish.memory)
        images = await self.prepare(vm)
        relabel = self._shared.settings.relabel_disks
        hostedits.set_images(wish.domain, images, relabel=relabel)
        await self._refuse_folders(wish.domain, images)
        hostedits.set_leases(wish.domain, hostedits.find_volume_leases(images))
        hostedits.set_leases(wish.domain, await self._find_leases(wish))
        domain = wish.domain
        if memory is not None:
            domain = memory.renew(wish, images, relabel=relabel)
            await self._refuse_folders(domain, images)
        async with self._slots:
            check_wanted(vm)
            vm.is_starting, vm.early_end = True, None
            await self._shared.hypervisor.define(format_xml(domain))
            await self._firmware.restore(vm, wish.kept_data)  # When the definition goes, libvirt removes that, too.
            check_wanted(vm)
            await self._power_on(vm, memory, domain)
        if vm.state.status is not Status.DOWN:
            await self._begin(vm)
            if memory is not None:
                self._shared.children.spawn(self._wake(vm, memory.told), f"wake the guest of VM {vm.vm_id}")

    async def _wake(self, vm: Vm, told: SavedParameters) -> None:
        """The guest's clock stood still. Its agents may need a moment to be heard."""
        for _ in range(_AGENT_LOOKS):
            if vm.agent_connected:
                await sync_time(self._shared, vm)
                break
            await wait_until(vm.stopped, _AGENT_LOOK_S, self._shared.clock)
        if not told.is_snapshot:
            await self._agents.greet(vm, "after_hibernation")

    async def _find_memory(self, vm: Vm, volumes: MemoryVolumes) -> "_Memory":
        """Prepare the volumes of the VM's memory and read what they tell."""
        shared = self._shared
        check_wanted(vm)
        try:
            paths = [(await shared.prepare(volume)).path for volume in volumes.volumes]
            if vm.destroy_requested:
                for volume in volumes.volumes:  # They came ready after its end.
                    await shared.release_image(vm, volume)
            check_wanted(vm)
            told = await self._read_parameters(vm, volumes.parameters.domain_id, paths[1])
            xml = told.live_xml if told.is_snapshot else await shared.hypervisor.read_saved(paths[0])
            domain = parse_xml(xml)
            vm.agent_version = (find_metadata(domain) or VmMetadata()).agent_version
            return _Memory(paths[0], domain, told)
        except (NodeError, ValueError) as error:
            raise Abandoned(ExitInfo.of(ExitReason.GENERIC_ERROR, str(error))) from error

    async def _read_parameters(self, vm: Vm, domain_id: str, path: str) -> SavedParameters:
        """A failure is only logged (facts §2.1): the memory itself tells the most of it."""
        try:
            told = parse_parameters(await self._shared.images.read(domain_id, path, pickles.MAXIMUM_BYTES))
        except (NodeError, pickles.PickleInvalid) as error:
            log.warning("VM %s: what stands beside its memory cannot be read: %s", vm.vm_id, error)
            return SavedParameters()
        if told.elapsed_s is not None:
            vm.started_s = self._shared.clock.monotonic() - told.elapsed_s
            vm.metadata = vm.metadata.changed(startTime=self._shared.clock.time() - told.elapsed_s)
        return told

    async def _refuse_folders(self, domain: Element, images: dict[str, ports.PreparedImage]) -> None:
        prepared = {image.path for image in images.values()}
        if (path := await self._shared.find_folder(domain, prepared)) is not None:
            raise Abandoned(ExitInfo.of(ExitReason.GENERIC_ERROR, f"Not a file: {path} is a folder"))

    async def prepare(self, vm: Vm) -> dict[str, ports.PreparedImage]:
        """Prepare the VM's images, by target name, its discs of files and the networks of its displays.

        Raises Abandoned, and what the hypervisor does.
        """
        await self._networks.begin(vm)
        images: dict[str, ports.PreparedImage] = {}
        disks = () if vm.view is None else vm.view.disks
        for target, payload in list_payloads(vm.vm_id, disks, vm.metadata).items():
            check_wanted(vm)
            try:
                path = await self._shared.images.make_payload(vm.vm_id, target, payload)
            except NodeError as error:
                text = f"The disc for {target} could not be made: {error}"
                raise Abandoned(ExitInfo.of(ExitReason.GENERIC_ERROR, text)) from error
            images[target] = ports.PreparedImage(path, "file", "raw")
        for disk in disks:
            volume = disk.volume
            if volume is None:
                continue
            check_wanted(vm)
            vm.has_images = True
            try:
                images[disk.target] = await self._shared.prepare(volume)
            except NodeError as error:
                text = f"Bad volume specification: {disk.target}: {error}"
                raise Abandoned(ExitInfo.of(ExitReason.GENERIC_ERROR, text)) from error
        return images

    async def _find_leases(self, wish: Wish) -> dict[hostedits.LeaseKey, hostedits.LeasePlace]:
        """Leases that are of no volume; one that is not found keeps its placeholder, which libvirt refuses."""
        found = {}
        for lease_id, domain_id in hostedits.list_open_leases(wish.domain):
            try:
                path, offset_bytes = await self._shared.images.find_lease(domain_id, lease_id)
            except NodeError as error:
                log.warning("VM %s: lease %s of domain %s: %s", wish.view.vm_id, lease_id, domain_id, error)
                continue
            found[(lease_id, domain_id)] = (path, str(offset_bytes))
        return found

    async def _power_on(self, vm: Vm, memory: "_Memory | None", domain: Element) -> None:
        """Start the domain; a call that did not end is followed up until it is known what became of it."""
        hypervisor = self._shared.hypervisor
        try:
            if memory is None:
                await hypervisor.start(vm.vm_id, paused=vm.metadata.launch_paused)
            else:
                await hypervisor.restore(vm.vm_id, memory.path, format_xml(domain))
        except (ports.HypervisorTimeout, ports.HypervisorDown) as error:
            log.warning("VM %s: nobody knows whether it started: %s", vm.vm_id, error)
            await self._find_out(vm, error)
        except ports.HypervisorRefused as error:
            raise Abandoned(ExitInfo.of(ExitReason.START_REFUSED, str(error))) from error

    async def _find_out(self, vm: Vm, reason: NodeError) -> None:
        """Ask until libvirt tells that the domain runs; the VM must not be called down while it may run."""
        while True:
            try:
                record = await self._shared.hypervisor.get_domain(vm.vm_id)
            except ports.NoSuchDomain as error:
                raise Abandoned(ExitInfo.of(ExitReason.DOMAIN_MISSING)) from error
            except NodeError:
                await wait_until(vm.stopped, self._shared.settings.retry_s, self._shared.clock)
                if vm.destroy_requested:
                    raise
                continue
            if not is_alive(record.state):
                raise Abandoned(ExitInfo.of(ExitReason.START_REFUSED, str(reason)))
            return

    async def _begin(self, vm: Vm) -> None:
        """The VM runs: read what libvirt made of it, and tell. Events that came until now were not heard."""
        shared = self._shared
        await shared.refresh(vm)  # Nobody shall see it up, and read what it was to be.
        wakes = vm.state.status is Status.RESTORING
        paused = vm.metadata.launch_paused and not wakes
        vm.state = vm.state.after(Happening.STARTED_PAUSED if paused else Happening.STARTED)
        if wakes:
            shared.children.spawn(shared.release_memory(vm), f"release the memory's volumes of VM {vm.vm_id}")
        else:
            vm.state = vm.state.seen(Status.POWERING_UP, shared.clock.monotonic())
        if vm.destroy_requested:
            return  # `destroy` waits for this task and then ends the VM.
        record = await shared.refresh(vm)
        if record is not None and not is_alive(record.state):
            shared.end(vm, vm.early_end or exit_of(record, None))
        elif record is not None and vm.is_alive:
            if not vm.is_leaving:
                vm.state = vm.state.aligned(state_of(record.state, record.reason))
        if vm.is_alive:
            shared.notify(vm, whole=True)

    async def _clear_id(self, vm: Vm) -> None:
        """Remove what is left of an earlier VM of that id; one that runs, or is not ours, is in the way for good."""
        try:
            record = await self._shared.hypervisor.get_domain(vm.vm_id)
        except ports.NoSuchDomain:
            return
        await self._remove_stale(vm, record, f"A domain with the id {vm.vm_id} exists already")

    async def _define(self, vm: Vm, xml: str, *, again: bool = False) -> None:
        hypervisor = self._shared.hypervisor
        try:
            await hypervisor.define(xml)
        except ports.HypervisorRefused as error:
            # A refusal may mean that the name is taken; looking first would cost every start a listing of all domains.
            records = [] if again else await hypervisor.list_domains()
            stale = next((record for record in records if record.name == vm.name), None)
            if stale is None:
                raise Abandoned(ExitInfo.of(ExitReason.GENERIC_ERROR, str(error))) from error
            await self._remove_stale(vm, stale, str(error))
            await self._define(vm, xml, again=True)

    async def _remove_stale(self, vm: Vm, record: ports.DomainRecord, complaint: str) -> None:
        old = self._shared.vms.get(record.vm_id)
        is_wanted = old is not None and old is not vm and old.state.status is not Status.DOWN
        if is_wanted or is_alive(record.state) or not self._is_ours(record):
            raise Abandoned(ExitInfo.of(ExitReason.GENERIC_ERROR, complaint))
        await self._shared.hypervisor.undefine(record.vm_id)
        if old is not None:
            old.has_domain = False

    def _is_ours(self, record: ports.DomainRecord) -> bool:
        try:
            metadata = parse_domain(record.xml).metadata
        except DomainInvalid:
            return False
        return metadata is not None and metadata.owner == self._shared.settings.owner


def check_wanted(vm: Vm) -> None:
    """Raise Abandoned when the VM is to be destroyed."""
    if vm.destroy_requested:
        raise Abandoned(ExitInfo.of(ExitReason.DESTROYED_DURING_STARTUP))
