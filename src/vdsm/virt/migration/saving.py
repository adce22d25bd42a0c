"""Saves VMs to disk (facts §2.9, VM.hibernate); taking them up again is left to `launch`.

The volumes and whether the VM ran are written into its metadata before anything else, and removed when it stays after
all. So the next daemon knows what one that was killed was doing: libvirt goes on by itself, and is waited for.
"""

import logging
from contextlib import suppress

from vdsm.api import errors
from vdsm.core.errors import NodeError
from vdsm.virt import ports
from vdsm.virt.guest.channels import AgentChannels
from vdsm.virt.lifecycle import ExitInfo, ExitReason, Happening, Status
from vdsm.virt.migration.departure import CANCELED, SAVED, Departure
from vdsm.virt.migration.source import Source, check_leaving, get_code
from vdsm.virt.recovery import exit_of, is_alive
from vdsm.virt.saved import MemoryVolumes, format_parameters
from vdsm.virt.shared import Shared
from vdsm.virt.vm import Vm

log = logging.getLogger(__name__)

RUNNING, PAUSED = "running", "paused"
_LOCK_LOOKS, _LOCK_LOOK_S = 60, 0.5
"""Half a minute for the guest to lock its screen."""


class Saver:
    """VMs on their way to disk; they share the way out with those that leave for other hosts."""

    def __init__(self, shared: Shared, source: Source, agents: AgentChannels) -> None:
        self._shared = shared
        self._agents = agents
        self._source = source

    def begin(self, vm: Vm, handle: str) -> None:
        """Save the VM, in the background; its status tells of it when this returns.

        Raises MigrationInProgress (51), VmIsDown (1), TransientDisks (59), or VmRequestFailed (100).
        """
        volumes = MemoryVolumes.parse(handle)
        check_leaving(self._shared, vm)
        was = RUNNING if vm.state.status is Status.UP else PAUSED
        vm.departure = departure = Departure(None)
        self._shared.apply(vm, Happening.SAVES)
        self._spawn(vm, departure, volumes, was)

    def follow(self, vm: Vm) -> None:
        """Wait, in the background, for the end of what an earlier daemon began."""
        vm.departure = departure = Departure(None, is_moving=True)
        self._shared.children.spawn(self._run_on(vm, departure), f"go on saving VM {vm.vm_id}")

    def _spawn(self, vm: Vm, departure: Departure, volumes: MemoryVolumes, was: str) -> None:
        def fail(error: BaseException) -> None:
            departure.fail(errors.MigrationFailed.number, f"it failed unexpectedly: {error!r}")
            if vm.state.status is Status.SAVING:
                self.follow(vm)

        self._shared.children.spawn(self._run(vm, departure, volumes, was), f"save VM {vm.vm_id}", fail)

    async def _run(self, vm: Vm, departure: Departure, volumes: MemoryVolumes, was: str) -> None:
        shared = self._shared
        try:
            async with vm.changing:  # Whoever changes its devices is done then, and nobody begins any more.
                pass
            await shared.store(vm, vm.metadata.changed(memoryVolumes=volumes.handle, savedWhile=was))
            if was == RUNNING:
                await self._source.until_canceled(departure, self._warn(vm))
                await shared.hypervisor.suspend(vm.vm_id)
            await self._source.until_canceled(departure, self._source.slots.enter())
            try:
                await self._save(vm, departure, volumes)
            finally:
                self._source.slots.leave()
        except (ports.HypervisorDown, ports.HypervisorTimeout) as error:
            log.warning("VM %s: nobody knows whether it was saved: %s", vm.vm_id, error)
            await self._run_on(vm, departure)
        except NodeError as error:
            await self._stay(vm, departure, error)
        else:
            self._left(vm, departure)

    async def _warn(self, vm: Vm) -> None:
        """Lock the guest's screen, for whoever will see it again, and tell its agent; a silent one holds up nothing."""
        if self._agents.say(vm, "lock-screen"):
            for _ in range(_LOCK_LOOKS):
                if vm.guest.session in ("Locked", "LoggedOff"):
                    break
                await self._shared.clock.sleep(_LOCK_LOOK_S)
        await self._agents.announce(vm, "before_hibernation")

    async def _save(self, vm: Vm, departure: Departure, volumes: MemoryVolumes) -> None:
        shared = self._shared
        memory, parameters = [await shared.prepare(volume) for volume in volumes.volumes]
        record = await shared.hypervisor.get_domain(vm.vm_id)
        content = format_parameters(vm.vm_id, record.xml, vm.xml, shared.find_elapsed_s(vm))
        await shared.images.write(volumes.parameters.domain_id, parameters.path, content)
        departure.check_wanted()
        departure.is_moving = True
        await shared.hypervisor.save(vm.vm_id, memory.path)

    async def _run_on(self, vm: Vm, departure: Departure) -> None:
        await self._stay(vm, departure, await self._source.wait_for_end(vm, departure))

    def _left(self, vm: Vm, departure: Departure) -> None:
        departure.finish(SAVED)
        self._shared.end(vm, ExitInfo.of(ExitReason.SAVED))

    async def _stay(self, vm: Vm, departure: Departure, error: NodeError) -> None:
        """It did not work, says somebody: see what libvirt has, and let the VM be as it was."""
        shared, code = self._shared, get_code(error, is_canceled=departure.canceled.is_set())
        while vm.is_alive:
            try:
                record = await shared.hypervisor.get_domain(vm.vm_id)
                if not is_alive(record.state):
                    shared.end(vm, exit_of(record, None))
                    break
                if record.state is ports.DomainState.PAUSED and vm.metadata.saved_while == RUNNING:
                    with suppress(ports.HypervisorRefused):  # Then it stays paused, which shows.
                        await shared.hypervisor.resume(vm.vm_id)
                    record = await shared.hypervisor.get_domain(vm.vm_id)
                departure.is_over = True
                shared.align(vm, record)
                break
            except ports.NoSuchDomain:
                vm.has_domain = False
                shared.end(vm, ExitInfo.of(ExitReason.DOMAIN_MISSING))
            except NodeError as unknown:
                log.warning("VM %s: libvirt does not tell whether it was saved: %s", vm.vm_id, unknown)
                await shared.clock.sleep(shared.settings.retry_s)
        ended = vm.state.exit
        if ended is not None and ended.reason is ExitReason.SAVED:
            departure.finish(SAVED)
            return
        log.warning("VM %s was not saved: %s", vm.vm_id, error)
        departure.fail(code, "Migration canceled" if code == CANCELED else str(error))
        if vm.is_alive:
            self._agents.say(vm, "lifecycle-event", {"type": "after_hibernation", "failure": True})
            vm.metadata = vm.metadata.changed(savedWhile=None)
            await shared.release_memory(vm)
