"""Power: pause and resume, reset, shutdown and destroy (facts §2.9); starting is left to `launch`."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from vdsm.api.errors import DestroyFailed, MigrationInProgress, ResetFailed, VmIsDown, VmRequestFailed, WrongState
from vdsm.core.children import wait_until
from vdsm.core.errors import NodeError
from vdsm.virt.lifecycle import ExitInfo, ExitReason, Happening, PauseCode, Refusal, Request, Status, check_request
from vdsm.virt.ports import HypervisorRefused, HypervisorTimeout, NoSuchDomain, ShutdownMode
from vdsm.virt.shared import Shared
from vdsm.virt.vm import Vm

log = logging.getLogger(__name__)

# libvirt's error numbers (virErrorNumber).
_OPERATION_FAILED, _SYSTEM_ERROR, _OPERATION_INVALID = 9, 38, 55

_MOST_GRACEFUL_ATTEMPTS = 10
"""Each may take libvirt 15 s; a caller who asks for more gets the forced end after these."""


def check_possible(shared: Shared, vm: Vm, request: Request) -> None:
    """Raise VmIsDown (1), WrongState (16) or MigrationInProgress (51) when the request does not fit the VM's state.

    Devices of external VMs are not changed: VmRequestFailed (100).
    """
    refusal = check_request(vm.state, request)
    if refusal is Refusal.IS_DOWN:
        raise VmIsDown(vm.vm_id)
    if refusal is Refusal.MIGRATES:
        raise MigrationInProgress(vm.vm_id)
    if refusal is Refusal.WRONG_STATE:
        raise WrongState(request.value, vm.state.effective(shared.clock.monotonic()))
    if vm.is_external and request is Request.PLUG:
        raise VmRequestFailed("the VM belongs to somebody else")


class Power:
    """Acts on the power of VMs."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def pause(self, vm: Vm) -> None:
        """Stop the VM's processors."""
        check_possible(self._shared, vm, Request.PAUSE)
        async with self._watched(vm):
            await self._shared.hypervisor.suspend(vm.vm_id)
        self._shared.apply(vm, Happening.SUSPENDED, pause_code=PauseCode.BY_REQUEST)

    async def resume(self, vm: Vm) -> None:
        """Let the VM's processors run on."""
        check_possible(self._shared, vm, Request.RESUME)
        async with self._watched(vm):
            await self._shared.hypervisor.resume(vm.vm_id)
        self._shared.apply(vm, Happening.RESUMED)

    async def reset(self, vm: Vm) -> None:
        """Press the reset button; raises ResetFailed (90)."""
        check_possible(self._shared, vm, Request.RESET)
        try:
            async with self._watched(vm):
                await self._shared.hypervisor.reset(vm.vm_id)
        except (HypervisorRefused, HypervisorTimeout) as error:
            raise ResetFailed(vm.vm_id, str(error)) from error
        self._shared.see(vm, Status.REBOOTING)

    def shutdown(self, vm: Vm, *, reboot: bool, timeout_s: float, force: bool) -> None:
        """Begin to shut down or reboot; a sequence that is under way is replaced by this one."""
        check_possible(self._shared, vm, Request.SHUTDOWN)
        if vm.power is not None:
            vm.power.cancel()
        work = self._reboot(vm, timeout_s, force) if reboot else self._shut_down(vm, timeout_s, force)
        vm.power = self._shared.children.spawn(work, f"shut down VM {vm.vm_id}")

    async def destroy(self, vm: Vm, graceful_attempts: int, reason: ExitReason) -> None:
        """Cut the VM's power, whatever it does; raises DestroyFailed (42) or HypervisorDown, and then it lives on."""
        vm.destroy_requested = True
        if vm.power is not None:
            vm.power.cancel()
        if vm.state.status is Status.WAIT_FOR_LAUNCH:
            reason = ExitReason.DESTROYED_DURING_STARTUP
        vm.ends_with = reason
        try:
            if vm.launch is not None:
                await self._await_start(vm, vm.launch)
            if vm.has_domain:
                await self._kill(vm, graceful_attempts)
        except NodeError:
            vm.destroy_requested, vm.ends_with = False, None
            raise
        self._shared.end(vm, ExitInfo.of(reason))

    async def remove(self, vm: Vm) -> None:
        """Forget a VM that is down: release its images, then remove its definition.

        In this order, so that after a crash in between the definition still tells which images are its own.
        """
        if vm.cleanup is not None:
            await asyncio.wait({vm.cleanup})
        if vm.has_images and not vm.is_external:
            await self._shared.release_images(vm)
        if vm.has_domain and not vm.is_external:
            try:
                await self._shared.hypervisor.undefine(vm.vm_id)
            except (HypervisorRefused, HypervisorTimeout) as error:
                raise DestroyFailed(vm.vm_id, str(error)) from error
            vm.has_domain = False
        if self._shared.vms.get(vm.vm_id) is vm:
            del self._shared.vms[vm.vm_id]

    async def _await_start(self, vm: Vm, launch: asyncio.Task[None]) -> None:
        """Give what has reached libvirt its time: removed too early, the domain would be there after its end."""
        limit_s = self._shared.settings.command_timeout_s
        if not await wait_until(vm.announced, limit_s, self._shared.clock):
            raise DestroyFailed(vm.vm_id, f"libvirt has not taken it in yet, after another {limit_s} s")
        if vm.is_launching:
            over = asyncio.Event()
            launch.add_done_callback(lambda _: over.set())
            await wait_until(over, limit_s, self._shared.clock)

    async def _kill(self, vm: Vm, graceful_attempts: int) -> None:
        for _ in range(min(max(0, graceful_attempts), _MOST_GRACEFUL_ATTEMPTS)):
            try:
                await self._shared.hypervisor.destroy(vm.vm_id, graceful=True)
                return
            except NoSuchDomain:
                return
            except HypervisorTimeout:
                vm.monitor_failed = True
                break
            except HypervisorRefused as error:
                if error.kind == _OPERATION_INVALID:
                    return  # It does not run.
                if error.kind not in (_OPERATION_FAILED, _SYSTEM_ERROR):
                    raise DestroyFailed(vm.vm_id, str(error)) from error
        await self._kill_by_force(vm)

    async def _kill_by_force(self, vm: Vm) -> None:
        try:
            await self._shared.hypervisor.destroy(vm.vm_id, graceful=False)
        except NoSuchDomain:
            return
        except (HypervisorRefused, HypervisorTimeout) as error:
            if isinstance(error, HypervisorRefused) and error.kind == _OPERATION_INVALID:
                return
            raise DestroyFailed(vm.vm_id, str(error)) from error

    async def _shut_down(self, vm: Vm, timeout_s: float, force: bool) -> None:
        for mode in self._modes(vm):
            if not await self._ask(vm, mode, reboot=False):
                continue
            vm.shutdown_requested = True
            self._shared.see(vm, Status.POWERING_DOWN)
            if await wait_until(vm.stopped, timeout_s, self._shared.clock):
                return
        if force:
            await self._kill(vm, 1)
            self._shared.end(vm, ExitInfo.of(ExitReason.SHUT_DOWN_BY_ADMINISTRATOR))

    async def _reboot(self, vm: Vm, timeout_s: float, force: bool) -> None:
        vm.rebooted.clear()
        for mode in self._modes(vm):
            if not await self._ask(vm, mode, reboot=True):
                continue
            self._shared.see(vm, Status.REBOOTING)
            if await wait_until(vm.rebooted, timeout_s, self._shared.clock):
                return
        if force and vm.is_alive:
            await self.reset(vm)

    async def _ask(self, vm: Vm, mode: ShutdownMode, *, reboot: bool) -> bool:
        """Whether the guest was asked; one that cannot be reached this way is tried the next way."""
        hypervisor = self._shared.hypervisor
        try:
            async with self._watched(vm):
                if reboot:
                    await hypervisor.reboot(vm.vm_id, mode)
                else:
                    await hypervisor.shutdown(vm.vm_id, mode)
        except NodeError as error:
            log.info("VM %s cannot be shut down by %s: %s", vm.vm_id, mode.value, error)
            return False
        return True

    def _modes(self, vm: Vm) -> list[ShutdownMode]:
        has_acpi = vm.view is None or vm.view.acpi
        return [ShutdownMode.AGENT, ShutdownMode.ACPI] if has_acpi else [ShutdownMode.AGENT]

    @asynccontextmanager
    async def _watched(self, vm: Vm) -> AsyncIterator[None]:
        """Remember that the VM's monitor did not answer."""
        try:
            yield
        except HypervisorTimeout:
            vm.monitor_failed = True
            raise
