"""Takes over the VMs that libvirt has: when the daemon starts, when libvirt comes back, when others start one."""

import asyncio
import logging

from vdsm.core.errors import NodeError
from vdsm.virt.children import wait_until
from vdsm.virt.lifecycle import ExitInfo, ExitReason, Happening, PauseCode, Status
from vdsm.virt.metadata import VmMetadata
from vdsm.virt.ports import DomainRecord, NoSuchDomain
from vdsm.virt.recovery import Adoption, exit_of, is_alive, plan_adoption, plan_recovery, state_of
from vdsm.virt.shared import Shared, list_volumes
from vdsm.virt.vm import Vm

log = logging.getLogger(__name__)

_DISK_ERRORS = {1: PauseCode.OTHER, 2: PauseCode.NO_SPACE}
_REPREPARE_EVERY_S = 10.0


class Adopter:
    """Keeps the list of VMs as libvirt has it."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._connected = asyncio.Event()

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
        adopted = [self._adopt(plan) for plan in plan_recovery(records, shared.settings.owner)]
        await asyncio.gather(*(self._ask_pause_code(vm) for vm, plan in adopted if plan.asks_block_errors))
        shared.ready.set()
        log.info("recovered %d VMs", len(adopted))
        for vm, plan in adopted:
            self._announce(vm, plan)
        mine = [vm for vm, _ in adopted if vm.is_alive and not vm.is_external and list_volumes(vm)]
        if mine:
            shared.children.spawn(self._prepare_again(mine), "prepare the images of recovered VMs again")

    def look_again(self) -> None:
        """libvirt is back: compare all VMs with what it has, in the background."""
        self._shared.children.spawn(self._reconcile(), "compare the VMs with libvirt's")

    def look_at(self, vm_id: str) -> None:
        """A domain that is not known was started: take it over if it concerns us, in the background."""
        self._shared.children.spawn(self._adopt_one(vm_id), f"look at domain {vm_id}")

    def check(self, vm: Vm) -> None:
        """A VM is no longer where it should be: ask libvirt about it, in the background."""
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
            if not vm.is_alive:
                continue
            if record is None or not is_alive(record.state):
                await self._check(vm)  # It may have started after libvirt made the list.
            else:
                self._align(vm, record)
        for record in records:
            if record.vm_id not in self._shared.vms:
                await self._take_over(record)

    async def _adopt_one(self, vm_id: str) -> None:
        try:
            record = await self._shared.hypervisor.get_domain(vm_id)
        except NodeError as error:
            log.info("domain %s is gone again: %s", vm_id, error)
            return
        await self._take_over(record)

    async def _take_over(self, record: DomainRecord) -> None:
        plan = plan_adoption(record, self._shared.settings.owner)
        if plan is None or record.vm_id in self._shared.vms:
            return
        vm, _ = self._adopt(plan)
        if plan.asks_block_errors:
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
        if is_alive(record.state):
            self._align(vm, record)
        else:
            self._shared.end(vm, exit_of(record, None))

    def _align(self, vm: Vm, record: DomainRecord) -> None:
        seen = state_of(record)
        if vm.state.status is Status.UP and seen.status is Status.PAUSED:
            self._shared.apply(vm, Happening.SUSPENDED, pause_code=seen.pause_code)
        elif vm.state.status is Status.PAUSED and seen.status is Status.UP:
            self._shared.apply(vm, Happening.RESUMED)

    def _adopt(self, plan: Adoption) -> tuple[Vm, Adoption]:
        shared, record, view = self._shared, plan.record, plan.view
        metadata = VmMetadata() if view is None or view.metadata is None else view.metadata
        vm = Vm(
            vm_id=record.vm_id,
            name=record.name,
            xml=record.xml,
            view=view,
            metadata=metadata,
            is_external=plan.is_external,
            has_domain=True,
            has_images=True,
            state=plan.state,
            first_offset_s=0 if view is None else view.time_offset_s,
        )
        if metadata.started_at_s is not None:
            vm.started_s = shared.clock.monotonic() - max(0.0, shared.clock.time() - metadata.started_at_s)
        if vm.state.status is Status.DOWN:
            vm.stopped.set()
        if plan.problem:
            log.error(
                "VM %s runs but its definition cannot be understood, so it is only watched: %s", vm.vm_id, plan.problem
            )
        shared.vms[vm.vm_id] = vm
        return vm, plan

    def _announce(self, vm: Vm, plan: Adoption) -> None:
        """Tell of a VM that was found, and settle what an interrupted daemon left to do for it."""
        self._shared.notify(vm, whole=True)
        if plan.writes_exit and vm.state.exit is not None:
            vm.metadata = vm.metadata.with_exit(vm.state.exit)
            vm.cleanup = self._shared.children.spawn(self._settle(vm), f"settle VM {vm.vm_id}")

    async def _settle(self, vm: Vm) -> None:
        await self._shared.save(vm)
        await self._shared.release_images(vm)

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

    async def _prepare_again(self, vms: list[Vm]) -> None:
        """Prepare the images of running VMs until it works: their storage comes back after the daemon does."""
        waiting = [(vm, volume) for vm in vms for volume in list_volumes(vm)]
        while waiting:
            left = []
            for vm, volume in waiting:
                if not vm.is_alive:
                    continue
                try:
                    await self._shared.images.prepare(
                        volume.pool_id, volume.domain_id, volume.image_id, volume.volume_id
                    )
                except NodeError as error:
                    log.debug("VM %s: image %s cannot be prepared again yet: %s", vm.vm_id, volume.image_id, error)
                    left.append((vm, volume))
            waiting = left
            if waiting:
                await self._shared.clock.sleep(_REPREPARE_EVERY_S)
