"""What libvirt tells of VMs, turned into their states; asking libvirt back is left to `adopt`."""

import logging
from collections.abc import Callable, Mapping

from msgspec import UNSET
from msgspec.structs import replace

from vdsm.api.events import IoError, MigrationProgressed
from vdsm.api.vm_types import WatchdogEvent
from vdsm.virt.adopt import Adopter
from vdsm.virt.console import Console
from vdsm.virt.guest.figures import note_reboot
from vdsm.virt.lifecycle import ExitInfo, ExitReason, Happening, PauseCode, Status, exit_of_event, pause_code_of
from vdsm.virt.migration.departure import SAVED
from vdsm.virt.ports import EventKind, HypervisorEvent
from vdsm.virt.power import Power
from vdsm.virt.shared import Shared
from vdsm.virt.vm import Vm

log = logging.getLogger(__name__)

# Numbers of virDomainEventType and of its details.
_DEFINED, _STARTED, _SUSPENDED, _RESUMED, _STOPPED, _SHUTDOWN = 0, 2, 3, 4, 5, 6
_SUSPENDED_IO_ERROR, _SUSPENDED_POST_COPY = 2, 7
_STOPPED_SHUTDOWN = 0
_SHUTDOWN_BY_HOST = 2
_AGENT_CONNECTED = 1
_GRAPHICS_INITIALIZE, _GRAPHICS_DISCONNECT = 1, 2
_WATCHDOG_ACTIONS = {0: "ignore", 1: "pause", 2: "reset", 3: "destroy", 4: "shutdown", 5: "log"}


class Watcher:
    """Listens to the hypervisor."""

    def __init__(self, shared: Shared, adopter: Adopter, power: Power, console: Console) -> None:
        self._shared = shared
        self._adopter = adopter
        self._power = power
        self._console = console
        self._early: list[HypervisorEvent] = []
        self._handlers: Mapping[EventKind, Callable[[Vm, HypervisorEvent], None]] = {
            EventKind.LIFECYCLE: self._on_lifecycle,
            EventKind.REBOOT: self._on_reboot,
            EventKind.RTC_CHANGE: self._on_rtc_change,
            EventKind.IO_ERROR: self._on_io_error,
            EventKind.GRAPHICS: self._on_graphics,
            EventKind.WATCHDOG: self._on_watchdog,
            EventKind.DEVICE_REMOVED: self._on_device_removed,
            EventKind.TUNED: self._on_tuned,
            EventKind.AGENT: self._on_agent,
            EventKind.BLOCK_JOB: self._on_block_job,
        }

    def on_event(self, event: HypervisorEvent) -> None:
        """Take in one event; those that come before recovery is done wait for its end."""
        if not self._shared.ready.is_set():
            self._early.append(event)
            if event.kind is EventKind.CONNECTED:
                self._adopter.hurry()
            return
        if event.kind is EventKind.CONNECTED:
            self._adopter.look_again()
            return
        vm = self._shared.vms.get(event.vm_id)
        if vm is not None and event.kind is EventKind.MOVED:
            self._on_moved(vm, event)
            return
        if vm is None or vm.state.status is Status.DOWN:
            if event.kind is EventKind.LIFECYCLE and event.detail[:1] in ((_DEFINED,), (_STARTED,)):
                self._adopter.look_at(event.vm_id)
            return
        handler = self._handlers.get(event.kind)
        if handler is not None:
            handler(vm, event)

    def replay(self) -> None:
        """Take in the events that came during recovery, but for CONNECTED, which recovery itself has answered."""
        early, self._early = self._early, []
        for event in early:
            if event.kind is not EventKind.CONNECTED:
                self.on_event(event)

    def _on_lifecycle(self, vm: Vm, event: HypervisorEvent) -> None:
        what, detail = (*event.detail, 0, 0)[:2]
        vm.stirred.set()
        if vm.state.status is Status.MIGRATION_DESTINATION:
            return  # Who waits for it looks now.
        if what == _SUSPENDED:
            self._on_suspended(vm, detail)
        elif what == _RESUMED:
            self._on_resumed(vm)
        elif what == _SHUTDOWN and detail == _SHUTDOWN_BY_HOST:
            vm.shutdown_requested = True
        elif what == _STOPPED:
            self._on_stopped(vm, detail)

    def _on_suspended(self, vm: Vm, detail: int) -> None:
        if detail == _SUSPENDED_POST_COPY:
            log.info("VM %s runs on the other host, with a part of its memory here", vm.vm_id)
            self._shared.apply(vm, Happening.LEFT_BEHIND)
            if vm.departure is not None:
                progress = vm.departure.progress
                self._shared.publish(MigrationProgressed(vm_id=vm.vm_id, progress=progress, post_copy=True))
            return
        if detail != _SUSPENDED_IO_ERROR:
            self._shared.apply(vm, Happening.SUSPENDED)
            return
        code = vm.pending_pause_code or PauseCode.OTHER
        vm.pending_pause_code = None
        self._shared.apply(vm, Happening.SUSPENDED, pause_code=code, io_error=vm.io_error)
        work = self._shared.save(vm, pauseTime=self._shared.clock.monotonic())
        self._shared.children.spawn(work, f"remember the pause of VM {vm.vm_id}")

    def _on_resumed(self, vm: Vm) -> None:
        vm.io_error = UNSET
        self._shared.apply(vm, Happening.RESUMED)
        if vm.metadata.paused_at_s is not None:
            self._shared.children.spawn(self._shared.save(vm, pauseTime=None), f"forget the pause of VM {vm.vm_id}")

    def _on_stopped(self, vm: Vm, detail: int) -> None:
        reason = exit_of_event(detail)
        if detail == _STOPPED_SHUTDOWN and vm.shutdown_requested:
            reason = ExitReason.SHUT_DOWN_BY_ADMINISTRATOR
        end = ExitInfo.of(vm.ends_with or reason)
        if vm.departure is not None and end.reason is ExitReason.MIGRATED:
            vm.departure.finish()
        if vm.departure is not None and end.reason is ExitReason.SAVED:
            vm.departure.finish(SAVED)
        if vm.launch is not None and vm.state.status in (Status.WAIT_FOR_LAUNCH, Status.RESTORING):
            # Of its start, which will tell, or of an earlier VM with that id.
            vm.early_end = end
        else:
            self._shared.end(vm, end)

    def _on_moved(self, vm: Vm, event: HypervisorEvent) -> None:
        """libvirt tells how long the guest stood still, mostly after the VM's end here."""
        if vm.departure is not None and event.detail:
            vm.departure.downtime_ms = event.detail[0]
            self._shared.publish(
                MigrationProgressed(
                    vm_id=vm.vm_id, progress=100, post_copy=vm.state.post_copy, downtime_ms=event.detail[0]
                )
            )

    def _on_reboot(self, vm: Vm, event: HypervisorEvent) -> None:
        shared = self._shared
        vm.rebooted.set()
        if vm.metadata.destroy_on_reboot and not vm.is_external:
            work = self._power.destroy(vm, 1, ExitReason.DESTROYED_ON_REBOOT)
            shared.children.spawn(work, f"destroy VM {vm.vm_id} on reboot")
            return
        vm.started_s = shared.clock.monotonic()
        vm.guest = note_reboot(replace(vm.guest, user=vm.guest_figures.user), shared.clock.time())
        vm.qemu_guest = replace(vm.qemu_guest, user=UNSET)
        shared.see(vm, Status.REBOOTING)
        shared.children.spawn(shared.save(vm, startTime=shared.clock.time()), f"remember the reboot of VM {vm.vm_id}")

    def _on_rtc_change(self, vm: Vm, event: HypervisorEvent) -> None:
        if event.detail:
            vm.told_offset_s = event.detail[0]

    def _on_io_error(self, vm: Vm, event: HypervisorEvent) -> None:
        """libvirt tells of the error first and of the pause after that, mostly."""
        path, alias = (*event.names, "", "")[:2]
        disk = None if vm.view is None else next((disk for disk in vm.view.disks if disk.alias == alias), None)
        vm.io_error = IoError(alias=alias, name=UNSET if disk is None else disk.target, path=path or UNSET)
        code = pause_code_of(event.text)
        if vm.state.status is Status.PAUSED and vm.state.pause_code is PauseCode.OTHER:
            self._shared.apply(vm, Happening.SUSPENDED, pause_code=code, io_error=vm.io_error)
        elif vm.state.status is Status.UP:
            vm.pending_pause_code = code

    def _on_graphics(self, vm: Vm, event: HypervisorEvent) -> None:
        phase = event.detail[0] if event.detail else -1
        address, _, port = (*event.names, "", "", "")[:3]
        if phase == _GRAPHICS_INITIALIZE:
            self._console.enter(vm, (address, port))
        elif phase == _GRAPHICS_DISCONNECT:
            self._console.leave(vm, (address, port))

    def _on_watchdog(self, vm: Vm, event: HypervisorEvent) -> None:
        action = _WATCHDOG_ACTIONS.get(event.detail[0]) if event.detail else None
        if action is not None:
            vm.watchdog = WatchdogEvent(time_s=self._shared.clock.time(), action=action)

    def _on_device_removed(self, vm: Vm, event: HypervisorEvent) -> None:
        vm.is_stale = True
        vm.device_removed.set()
        self._adopter.check(vm)

    def _on_agent(self, vm: Vm, event: HypervisorEvent) -> None:
        vm.agent_connected = event.detail[:1] == (_AGENT_CONNECTED,)
        if vm.agent_connected:
            vm.agent_epoch += 1
        else:
            vm.state = vm.state.asked(False)

    def _on_tuned(self, vm: Vm, event: HypervisorEvent) -> None:
        vm.is_stale = True

    def _on_block_job(self, vm: Vm, event: HypervisorEvent) -> None:
        vm.is_stale = True
        for merge in vm.merges.values():
            merge.changed.set()
