"""Gets ready for VMs that come from other hosts, and takes them over (facts §2.19, "Destination flow").

A tiny domain with the VM's metadata, marked as incoming, is defined before its images are prepared, and stays while
libvirt receives the VM under it. So a daemon that is killed meanwhile leaves word of the images, and the next one waits
in its place. The mark goes when the VM is here for good. Nothing is decided by events: they only tell when to look.
"""

import asyncio
import logging

from msgspec import Struct

from vdsm.api import errors
from vdsm.api.migration import IncomingAccepted, IncomingVm
from vdsm.core.children import wait_until
from vdsm.core.errors import NodeError
from vdsm.virt import ports
from vdsm.virt.elements import format_xml, parse_xml
from vdsm.virt.guest.channels import AgentChannels
from vdsm.virt.guest.figures import GuestFigures
from vdsm.virt.launch import Abandoned, Launcher
from vdsm.virt.lifecycle import ExitInfo, ExitReason, Status
from vdsm.virt.metadata import set_metadata
from vdsm.virt.migration.plans import MigrationSettings, arrive, plan_arrival
from vdsm.virt.migration.slots import Slots
from vdsm.virt.power import Power
from vdsm.virt.recovery import Stage, judge_arrival, state_of
from vdsm.virt.report import build_info
from vdsm.virt.request import Wish
from vdsm.virt.shared import Shared, attempt
from vdsm.virt.vm import Vm

log = logging.getLogger(__name__)

_LOOK_S = 2.0
_SETTLE_TRIES = 3
_MAPPED = "/dev/mapper/"


class _Answer(Struct):
    """What the other host hears; `refusal` counts until the answer was given."""

    prepared: asyncio.Event
    refusal: NodeError | None = None


class Destination:
    """VMs on their way to this host."""

    def __init__(self, shared: Shared, launcher: Launcher, power: Power, agents: AgentChannels) -> None:
        self._shared = shared
        self._launcher = launcher
        self._power = power
        self._agents = agents
        self._settings: MigrationSettings = shared.settings.migration
        self._slots = Slots(self._settings.incoming_limit)

    async def create(self, given: IncomingVm, incoming_limit: int | None) -> IncomingAccepted:
        """Prepare for the VM; its images are ready when this returns. Whatever goes wrong leaves nothing here.

        Raises VmExists (4), CreateFailed (9), MigrationLimit (82; 12 for who knows no limits), VmRequestFailed (100).
        """
        shared = self._shared
        shared.check_ready()
        if incoming_limit is not None:
            self._slots.limit = incoming_limit
        wish = plan_arrival(given, shared.settings.owner, shared.clock.time())
        await self._forget_failed(wish.view.vm_id)
        if wish.view.vm_id in shared.vms:
            raise errors.VmExists(wish.view.vm_id)
        if not self._slots.try_enter():
            limit = self._slots.limit
            raise (
                errors.MigrationLimit(limit)
                if incoming_limit is not None
                else errors.MigrationFailed(f"{limit} VMs are on their way here already")
            )
        vm = shared.make_vm(wish, Status.MIGRATION_DESTINATION)
        vm.guest = GuestFigures(user=given.guest_user, fqdn=given.guest_name, interfaces=given.guest_interfaces)
        vm.hears_of_moves = given.guest_events is True
        answer = _Answer(asyncio.Event())
        shared.vms[vm.vm_id] = vm
        vm.launch = shared.children.spawn(self._run(vm, wish, answer), f"wait for VM {vm.vm_id} from another host")
        timeout_s = self._get_timeout_s(wish)
        if not await wait_until(answer.prepared, timeout_s, shared.clock):
            answer.refusal = errors.CreateFailed(f"its images were not ready within {timeout_s:g} s")
        if answer.refusal is not None:
            await self._forget(vm, answer.refusal)
            raise answer.refusal
        return IncomingAccepted(vm=build_info(vm, shared.clock))

    def follow(self, vm: Vm) -> None:
        """Go on waiting, in the background, for a VM that an earlier daemon expected, or that came unexpected."""
        self._slots.enter_anyway()
        vm.announced.set()
        vm.launch = self._shared.children.spawn(self._run_on(vm), f"go on waiting for VM {vm.vm_id}")

    async def settle(self, vm: Vm) -> None:
        """Make what arrived a VM of this host like any other: its definition and metadata are as they are now."""
        shared = self._shared
        for _ in range(_SETTLE_TRIES):
            failure = await attempt(vm, "it came from another host, and is not quite this one's yet", self._take_in(vm))
            if failure is None or isinstance(failure, ports.NoSuchDomain):
                return
            await wait_until(vm.stopped, shared.settings.retry_s, shared.clock)

    async def _take_in(self, vm: Vm) -> None:
        shared, owner = self._shared, self._shared.settings.owner
        domain = parse_xml((await shared.hypervisor.get_domain(vm.vm_id)).xml)
        set_metadata(domain, arrive(vm.metadata, owner))
        await shared.hypervisor.define(format_xml(domain))
        await shared.store(vm, arrive(vm.metadata, owner))

    async def _forget_failed(self, vm_id: str) -> None:
        """A VM that never arrived is none: it is in nobody's way."""
        old = self._shared.vms.get(vm_id)
        if old is not None and old.state.exit is not None and old.metadata.is_incoming:
            await self._power.remove(old)

    async def _forget(self, vm: Vm, reason: NodeError) -> None:
        vm.destroy_requested = True
        self._shared.end(vm, ExitInfo.of(ExitReason.MIGRATION_FAILED, str(reason)))
        await attempt(vm, "it did not come, and cannot be forgotten yet", self._power.remove(vm))

    def _get_timeout_s(self, wish: Wish) -> float:
        settings = self._settings
        running = sum(vm.is_alive for vm in self._shared.vms.values())
        mapped = sum(disk.path.startswith(_MAPPED) for disk in wish.view.disks)
        timeout_s = settings.listener_timeout_s * (5 + running) / 5 + settings.listener_disk_timeout_s * mapped
        return min(timeout_s, settings.longest_listener_timeout_s)

    async def _run(self, vm: Vm, wish: Wish, answer: _Answer) -> None:
        try:
            try:
                await self._launcher.announce(vm, wish)
                vm.announced.set()
                await self._launcher.prepare(vm)
            except (Abandoned, NodeError) as error:
                answer.refusal = errors.CreateFailed(str(error))
                return
            finally:
                vm.announced.set()
                answer.prepared.set()
            await self._wait(vm)
        finally:
            self._slots.leave()
            if vm.state.status is Status.DOWN:
                await self._shared.release_images(vm)  # what came ready after its end

    async def _run_on(self, vm: Vm) -> None:
        self._shared.children.spawn(self._shared.prepare_again(vm), f"prepare the images of VM {vm.vm_id} again")
        try:
            await self._wait(vm)
        finally:
            self._slots.leave()

    async def _wait(self, vm: Vm) -> None:
        """Until the VM is here, or cannot come any more."""
        clock, settings = self._shared.clock, self._settings
        begin_by_s = clock.monotonic() + settings.longest_listener_timeout_s
        end_by_s = clock.monotonic() + settings.destination_timeout_s
        while vm.state.status is Status.MIGRATION_DESTINATION:
            vm.stirred.clear()
            record = await self._look(vm)
            stage = Stage.EXPECTED if record is None else judge_arrival(record)
            is_late = clock.monotonic() > (begin_by_s if stage is Stage.EXPECTED else end_by_s)
            if record is not None and stage is Stage.HERE:
                await self._take_over(vm, record)
            elif stage is Stage.SPLIT:
                await self._give_up(vm, ExitReason.POST_COPY_FAILED)
            elif stage is Stage.LOST or (is_late and record is not None):
                await self._give_up(vm, ExitReason.MIGRATION_FAILED)
            else:
                await wait_until(vm.stirred, _LOOK_S, clock)

    async def _look(self, vm: Vm) -> ports.DomainRecord | None:
        """The VM's domain; None while libvirt does not tell."""
        try:
            return await self._shared.hypervisor.get_domain(vm.vm_id)
        except ports.NoSuchDomain:
            vm.has_domain = False
            return ports.DomainRecord(vm.vm_id, vm.name, ports.DomainState.SHUT_OFF, 1, vm.xml)
        except NodeError as error:
            log.warning("VM %s: libvirt does not tell whether it has arrived: %s", vm.vm_id, error)
            return None

    async def _take_over(self, vm: Vm, record: ports.DomainRecord) -> None:
        shared = self._shared
        shared.read(vm, record)
        if vm.view is not None and vm.view.metadata is not None:
            vm.metadata = vm.view.metadata
        vm.metadata = arrive(vm.metadata, shared.settings.owner)
        vm.started_s = shared.find_start_s(vm.metadata) or vm.started_s
        vm.state = vm.state.aligned(state_of(record.state, record.reason))
        vm.agent_version = vm.metadata.agent_version
        log.info("VM %s has arrived", vm.vm_id)
        shared.notify(vm, whole=True)
        if vm.hears_of_moves:
            shared.children.spawn(self._agents.greet(vm, "after_migration"), f"tell the guest of VM {vm.vm_id}")
        await self.settle(vm)

    async def _give_up(self, vm: Vm, reason: ExitReason) -> None:
        if await attempt(vm, "it did not arrive, and its rest cannot be removed", self._power.destroy(vm, 0, reason)):
            await wait_until(vm.stirred, self._shared.settings.retry_s, self._shared.clock)
        else:
            vm.destroy_requested = False  # Should it come all the same, it is taken over.
