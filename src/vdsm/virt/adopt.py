"""Takes over the VMs that libvirt has: when the daemon starts, when libvirt comes back, when others start one."""

import asyncio
import logging

from msgspec import Struct, field

from vdsm.core.children import wait_until
from vdsm.core.errors import NodeError
from vdsm.virt.devices.plugging import Devices
from vdsm.virt.disks.backups import BackupService
from vdsm.virt.disks.drives import correct_volumes
from vdsm.virt.disks.service import DiskService
from vdsm.virt.lifecycle import ExitInfo, ExitReason, Happening, PauseCode, Status
from vdsm.virt.metadata import VmMetadata
from vdsm.virt.migration.destination import Destination
from vdsm.virt.migration.saving import Saver
from vdsm.virt.migration.source import Source
from vdsm.virt.ports import DomainRecord, NoSuchDomain
from vdsm.virt.recovery import Adoption, exit_of, is_alive, plan_adoption, plan_recovery
from vdsm.virt.shared import Shared
from vdsm.virt.vm import Vm

log = logging.getLogger(__name__)

_DISK_ERRORS = {1: PauseCode.OTHER, 2: PauseCode.NO_SPACE}


class Adopter(Struct, eq=False):
    """Keeps the list of VMs as libvirt has it."""

    _shared: Shared
    _devices: Devices
    _disks: DiskService
    _backups: BackupService
    _source: Source
    _saver: Saver
    _destination: Destination
    _connected: asyncio.Event = field(default_factory=asyncio.Event)
    _seen: set[str] = field(default_factory=set)
    """Domains that samples showed and that were looked at already."""

    def hurry(self) -> None:
        """libvirt answers again: recovery need not wait for its next try."""
        self._connected.set()

    async def recover(self) -> None:
        """Adopt all VMs, as often as it takes to hear from libvirt; then the daemon is ready for requests on VMs."""
        shared = self._shared
        while True:
            self._connected.clear()
            try:
                records = await shared.hypervisor.list_domains()
                break
            except NodeError as error:
                log.warning("VMs cannot be recovered yet: %s", error)
                await wait_until(self._connected, shared.settings.retry_s, shared.clock)
        plans = plan_recovery(records, shared.settings.owner)
        kept = {plan.record.vm_id for plan in plans if plan.state.status is not Status.DOWN}
        await shared.images.keep_payloads(kept)
        vms = [self._adopt(plan) for plan in plans]
        await asyncio.gather(*(self._ask_pause_code(vm) for vm, plan in zip(vms, plans, strict=True) if plan.asks_why))
        shared.ready.set()
        log.info("recovered %d VMs", len(vms))
        for vm, plan in zip(vms, plans, strict=True):
            self._announce(vm, plan)

    def look_again(self) -> None:
        """libvirt is back: compare all VMs with what it has, in the background."""
        self._shared.children.spawn(self._reconcile(), "compare the VMs with libvirt's")

    def look_at(self, vm_id: str) -> None:
        """A domain appeared that is not known, or was down: take it over if it concerns us, in the background."""
        self._shared.children.spawn(self._look_at(vm_id), f"look at domain {vm_id}")

    def find(self, vm_id: str) -> None:
        """A sample shows a domain that nobody told of: look at it, but not again and again at one that is not ours."""
        if vm_id not in self._seen:
            self._seen.add(vm_id)
            self.look_at(vm_id)

    def check(self, vm: Vm) -> None:
        """A VM is not as it should be, or its XML changed: ask libvirt about it, in the background."""
        self._shared.children.spawn(self._check(vm), f"ask for VM {vm.vm_id}")

    async def _reconcile(self) -> None:
        try:
            records = await self._shared.hypervisor.list_domains()
        except NodeError as error:
            log.warning("the VMs cannot be compared with libvirt's: %s", error)
            return
        found = {record.vm_id: record for record in records}
        for vm in list(self._shared.vms.values()):
            record = found.get(vm.vm_id)
            vm.stirred.set()
            if not vm.is_alive:
                continue
            if record is None or not is_alive(record.state):
                await self._check(vm)  # It may have started after libvirt made the list.
            else:
                self._shared.align(vm, record)
        self._seen.clear()
        for record in records:
            await self._take_over(record)

    async def _look_at(self, vm_id: str) -> None:
        try:
            record = await self._shared.hypervisor.get_domain(vm_id)
        except NodeError as error:
            log.info("domain %s cannot be looked at: %s", vm_id, error)
            self._seen.discard(vm_id)
            return
        await self._take_over(record)

    async def _take_over(self, record: DomainRecord) -> None:
        """Others may define a domain of theirs step by step, so one that is off counts only when it names its owner.

        A VM that was down and runs again, because its start outlived the daemon or somebody else started it, is up.
        """
        known = self._shared.vms.get(record.vm_id)
        if known is not None and (known.state.status is not Status.DOWN or known.destroy_requested):
            return
        plan = plan_adoption(record, self._shared.settings.owner)
        if plan is not None and (is_alive(record.state) or (known is None and plan.names_owner)):
            vm = self._adopt(plan)
            if plan.asks_why:
                await self._ask_pause_code(vm)
            self._announce(vm, plan)

    async def _check(self, vm: Vm) -> None:
        try:
            record = await self._shared.hypervisor.get_domain(vm.vm_id)
        except NoSuchDomain:
            vm.has_domain = False
            self._shared.end(vm, ExitInfo.of(ExitReason.DOMAIN_MISSING))
            return
        except NodeError as error:
            log.warning("VM %s: libvirt does not tell what became of it: %s", vm.vm_id, error)
            return
        if not vm.is_alive:
            return
        if not is_alive(record.state):
            self._shared.end(vm, exit_of(record, None))
            return
        if vm.is_stale:
            self._shared.read(vm, record)
            self._shared.children.spawn(self._devices.settle(vm), f"forget devices of VM {vm.vm_id} that are not there")
        self._shared.align(vm, record)
        if vm.state.pause_code is PauseCode.OTHER:
            await self._ask_pause_code(vm)

    def _adopt(self, plan: Adoption) -> Vm:
        shared, record, view = self._shared, plan.record, plan.view
        metadata = VmMetadata() if view is None or view.metadata is None else view.metadata
        vm = Vm(
            vm_id=record.vm_id,
            name=record.name,
            xml=record.xml,
            view=view,
            metadata=metadata if plan.is_external else correct_volumes(view, metadata),
            is_external=plan.is_external,
            has_domain=True,
            has_images=True,
            state=plan.state,
            started_s=shared.find_start_s(metadata),
            first_offset_s=0 if view is None else view.time_offset_s,
            agent_version=metadata.agent_version,
            agent_connected=view is not None and view.qemu_agent_connected,
        )
        if vm.state.status is Status.DOWN:
            vm.stopped.set()
        if plan.problem:
            log.error(
                "VM %s runs but its definition cannot be understood, so it is only watched: %s", vm.vm_id, plan.problem
            )
        shared.vms[vm.vm_id] = vm
        return vm

    def _announce(self, vm: Vm, plan: Adoption) -> None:
        """Tell of a VM that was found, and settle what an interrupted daemon left to do for it."""
        shared = self._shared
        shared.notify(vm, whole=True)
        if vm.is_external:
            return
        self._disks.recover(vm)
        if vm.state.exit is not None:
            vm.metadata = vm.metadata.with_exit(vm.state.exit)
            vm.cleanup = shared.children.spawn(self._settle(vm, plan), f"settle VM {vm.vm_id}")
        elif vm.state.status is Status.MIGRATION_DESTINATION:
            self._destination.follow(vm)
        elif vm.is_alive:
            if vm.metadata.migrates_to is not None:
                self._source.follow(vm)
            elif vm.metadata.saved_while is not None:
                self._saver.follow(vm)
            elif vm.metadata.memory_volumes is not None:
                shared.children.spawn(shared.release_memory(vm), f"release the memory's volumes of VM {vm.vm_id}")
            elif vm.metadata.is_incoming:
                shared.children.spawn(self._destination.settle(vm), f"take over VM {vm.vm_id}")
            if vm.metadata.exit is not None:
                vm.metadata = vm.metadata.without_exit()
                shared.children.spawn(shared.save(vm), f"forget how VM {vm.vm_id} had ended")
            shared.children.spawn(self._backups.settle(vm), f"settle the backups of VM {vm.vm_id}")
            if vm.metadata.devices:
                shared.children.spawn(self._prepare_again(vm), f"prepare the images of VM {vm.vm_id} again")

    async def _settle(self, vm: Vm, plan: Adoption) -> None:
        """Its images may be prepared still, whatever of its end was written down."""
        if plan.writes_exit:
            await self._shared.save(vm)
        await self._shared.release_images(vm)
        await self._shared.release_memory(vm)

    async def _ask_pause_code(self, vm: Vm) -> None:
        try:
            errors = await self._shared.hypervisor.block_errors(vm.vm_id)
        except NodeError as error:
            log.warning("VM %s: nobody knows which disk stopped it: %s", vm.vm_id, error)
            return
        codes = [_DISK_ERRORS.get(number, PauseCode.OTHER) for number in errors.values()]
        if codes and vm.state.status is Status.PAUSED:
            code = PauseCode.NO_SPACE if PauseCode.NO_SPACE in codes else codes[0]
            self._shared.apply(vm, Happening.SUSPENDED, pause_code=code)

    async def _prepare_again(self, vm: Vm) -> None:
        """Not those of disks that were about to be plugged when the daemon before this one ended."""
        await self._devices.settle(vm)
        await self._shared.prepare_again(vm)
