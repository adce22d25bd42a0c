"""Starts VMs: announce in libvirt, prepare images, define, start; what the VM should be was planned by `request`.

The order makes every crash harmless. A tiny domain with the VM's metadata is defined before the caller gets an answer,
so that a daemon killed at any later instruction finds it: off without a recorded end means that the start was
interrupted, and the VM is reported Down. Images are prepared after that, so that their ids are always found, and
released when the VM ends.
"""

import asyncio
import logging

from vdsm.core.errors import NodeError
from vdsm.virt import hostedits
from vdsm.virt.children import wait_until
from vdsm.virt.domain import DomainInvalid, parse_domain
from vdsm.virt.elements import format_xml
from vdsm.virt.lifecycle import ExitInfo, ExitReason, Happening, Status
from vdsm.virt.ports import (
    DomainRecord,
    HypervisorDown,
    HypervisorRefused,
    HypervisorTimeout,
    NoSuchDomain,
    PreparedImage,
)
from vdsm.virt.recovery import is_alive, state_of
from vdsm.virt.request import Wish
from vdsm.virt.shared import Shared
from vdsm.virt.vm import Vm

log = logging.getLogger(__name__)


class Abandoned(Exception):
    """The start ends here, for the reason it carries."""

    def __init__(self, end: ExitInfo) -> None:
        super().__init__(end.message)
        self.end = end


class Launcher:
    """Starts VMs, a few at once."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._slots = asyncio.Semaphore(shared.settings.launches)

    async def announce(self, vm: Vm, wish: Wish) -> ExitInfo | None:
        """Put the VM's id and metadata into libvirt; when that cannot be, return how the VM will end.

        Raises HypervisorDown and HypervisorTimeout, and then nothing was announced as far as the caller should care.
        """
        placeholder = format_xml(hostedits.build_placeholder(wish.view, wish.metadata))
        try:
            await self._clear_id(vm)
            await self._define(vm, placeholder)
        except Abandoned as abandoned:
            return abandoned.end
        vm.has_domain = True
        return None

    def start(self, vm: Vm, wish: Wish, doom: ExitInfo | None) -> None:
        """Go on with the start in the background; a doomed VM goes down instead."""
        name = f"start VM {vm.vm_id}"
        work = self._run(vm, wish, doom)
        vm.launch = self._shared.children.spawn(work, name, lambda error: self._fail(vm, error))

    def _fail(self, vm: Vm, error: BaseException) -> None:
        self._shared.end(vm, ExitInfo.of(ExitReason.GENERIC_ERROR, f"The start failed unexpectedly: {error!r}"))

    async def _run(self, vm: Vm, wish: Wish, doom: ExitInfo | None) -> None:
        try:
            if doom is not None:
                raise Abandoned(doom)
            await self._launch(vm, wish)
        except Abandoned as abandoned:
            await self._give_up(vm, abandoned.end)
        except NodeError as error:
            await self._give_up(vm, ExitInfo.of(ExitReason.GENERIC_ERROR, str(error)))

    async def _give_up(self, vm: Vm, end: ExitInfo) -> None:
        if vm.state.status is Status.DOWN:
            # It was destroyed while an image was being prepared; what came ready after that is still to be released.
            await self._shared.release_images(vm)
        self._shared.end(vm, end)

    async def _launch(self, vm: Vm, wish: Wish) -> None:
        """The hook points of a start are around `define` (before_vm_start) and after `start` (after_vm_start).

        Images are prepared outside the slots, so that a dead storage domain delays its own VMs only.
        """
        choice = await self._shared.accelerator.get()
        hostedits.set_domain_type(wish.domain, choice.domain_type)
        images = await self._prepare(vm)
        hostedits.set_images(wish.domain, images, relabel=self._shared.settings.relabel_disks)
        hostedits.set_leases(wish.domain, images)
        async with self._slots:
            _check_wanted(vm)
            vm.is_starting = True
            await self._shared.hypervisor.define(format_xml(wish.domain))
            _check_wanted(vm)
            record = await self._power_on(vm)
        if vm.state.status is Status.DOWN:
            return
        self._begin(vm, record)
        if vm.destroy_requested:
            return  # `destroy` waits for this task and then ends the VM.
        if record is None:
            record = await self._shared.refresh(vm)
            self._align(vm, record)
        if vm.is_alive:
            self._shared.notify(vm, whole=True)

    async def _prepare(self, vm: Vm) -> dict[str, PreparedImage]:
        images: dict[str, PreparedImage] = {}
        disks = () if vm.view is None else vm.view.disks
        for disk in disks:
            volume = disk.volume
            if volume is None:
                continue
            _check_wanted(vm)
            vm.has_images = True
            try:
                images[disk.target] = await self._shared.images.prepare(
                    volume.pool_id, volume.domain_id, volume.image_id, volume.volume_id
                )
            except NodeError as error:
                text = f"Bad volume specification: {disk.target}: {error}"
                raise Abandoned(ExitInfo.of(ExitReason.GENERIC_ERROR, text)) from error
        return images

    async def _power_on(self, vm: Vm) -> DomainRecord | None:
        """Start the domain; a call that did not end is followed up until it is known what became of it."""
        try:
            await self._shared.hypervisor.start(vm.vm_id, paused=vm.metadata.launch_paused)
        except (HypervisorTimeout, HypervisorDown) as error:
            log.warning("VM %s: nobody knows whether it started: %s", vm.vm_id, error)
            return await self._find_out(vm, error)
        except HypervisorRefused as error:
            raise Abandoned(ExitInfo.of(ExitReason.START_REFUSED, str(error))) from error
        return None

    async def _find_out(self, vm: Vm, reason: NodeError) -> DomainRecord:
        """Ask until libvirt tells whether the domain runs; the VM must not be called down while it may run."""
        while True:
            try:
                record = await self._shared.hypervisor.get_domain(vm.vm_id)
            except NoSuchDomain as error:
                raise Abandoned(ExitInfo.of(ExitReason.DOMAIN_MISSING)) from error
            except NodeError:
                await wait_until(vm.stopped, self._shared.settings.retry_s, self._shared.clock)
                if vm.destroy_requested:
                    raise
                continue
            if not is_alive(record.state):
                raise Abandoned(ExitInfo.of(ExitReason.START_REFUSED, str(reason)))
            return record

    def _begin(self, vm: Vm, record: DomainRecord | None) -> None:
        shared = self._shared
        happening = Happening.STARTED_PAUSED if vm.metadata.launch_paused else Happening.STARTED
        vm.state = vm.state.after(happening).seen(Status.POWERING_UP, shared.clock.monotonic())
        if record is not None:
            vm.xml = record.xml
            try:
                vm.view = parse_domain(record.xml)
            except DomainInvalid as error:
                log.warning("VM %s: its definition could not be read: %s", vm.vm_id, error)
            self._align(vm, record)

    def _align(self, vm: Vm, record: DomainRecord | None) -> None:
        """Events that came before the VM counted as started were not heard: look whether it stands still already."""
        if record is None or not is_alive(record.state) or vm.state.status is not Status.UP:
            return
        seen = state_of(record)
        if seen.status is Status.PAUSED:
            vm.state = vm.state.after(Happening.SUSPENDED, pause_code=seen.pause_code)

    async def _clear_id(self, vm: Vm) -> None:
        """Remove what is left of an earlier VM of that id; one that runs, or is not ours, is in the way for good."""
        try:
            record = await self._shared.hypervisor.get_domain(vm.vm_id)
        except NoSuchDomain:
            return
        await self._remove_stale(record, f"A domain with the id {vm.vm_id} exists already")

    async def _define(self, vm: Vm, xml: str) -> None:
        try:
            await self._shared.hypervisor.define(xml)
        except HypervisorRefused as error:
            # A refusal may mean that the name is taken; looking first would cost every start a listing of all domains.
            for record in await self._shared.hypervisor.list_domains():
                if record.name == vm.name:
                    await self._remove_stale(record, str(error))
                    break
            else:
                raise Abandoned(ExitInfo.of(ExitReason.GENERIC_ERROR, str(error))) from error
            await self._define_again(xml)

    async def _define_again(self, xml: str) -> None:
        try:
            await self._shared.hypervisor.define(xml)
        except HypervisorRefused as error:
            raise Abandoned(ExitInfo.of(ExitReason.GENERIC_ERROR, str(error))) from error

    async def _remove_stale(self, record: DomainRecord, complaint: str) -> None:
        if is_alive(record.state) or not self._is_ours(record):
            raise Abandoned(ExitInfo.of(ExitReason.GENERIC_ERROR, complaint))
        old = self._shared.vms.get(record.vm_id)
        if old is not None and old.is_launching:
            raise Abandoned(ExitInfo.of(ExitReason.GENERIC_ERROR, complaint))
        await self._shared.hypervisor.undefine(record.vm_id)
        if old is not None:
            old.has_domain = False

    def _is_ours(self, record: DomainRecord) -> bool:
        try:
            metadata = parse_domain(record.xml).metadata
        except DomainInvalid:
            return False
        return metadata is not None and metadata.owner == self._shared.settings.owner


def _check_wanted(vm: Vm) -> None:
    if vm.destroy_requested:
        raise Abandoned(ExitInfo.of(ExitReason.DESTROYED_DURING_STARTUP))
