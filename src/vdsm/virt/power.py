"""Power: pause and resume, reset, shutdown and destroy (facts §2.9); starting is left to `launch`."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from functools import partial
from typing import Protocol

from msgspec import Struct

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


Failure = Callable[[str], NodeError]
"""Makes the failure of a verb from its reason."""


@contextmanager
def failing_as(vm: Vm, failure: Failure) -> Iterator[None]:
    """Let what libvirt refuses, or does not answer, of a change of the VM be that failure. In the second case the VM is
    stale: what came of it shows when it is read again."""
    try:
        yield
    except HypervisorTimeout as error:
        vm.monitor_failed = vm.is_stale = True
        raise failure("the VM's monitor does not answer; what came of it shows when it does") from error
    except HypervisorRefused as error:
        raise failure(error.reason) from error


class Farewell(Struct, frozen=True, kw_only=True):
    """How a guest is to end, or to begin anew; `delay_s` and `message` are for its users, when its agent tells them."""

    reboot: bool
    delay_s: int
    timeout_s: int
    message: str = ""
    force: bool = False


class Say(Protocol):
    """Tells a VM's oVirt agent something; whether it listens."""

    def __call__(self, vm: Vm, name: str, arguments: Mapping[str, object] | None = None) -> bool: ...


class Power:
    """Acts on the power of VMs."""

    def __init__(self, shared: Shared, say: Say) -> None:
        self._shared = shared
        self._say = say

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

    def shutdown(self, vm: Vm, wish: Farewell) -> None:
        """Begin to shut down or reboot; a sequence that is under way is replaced by this one."""
        check_possible(self._shared, vm, Request.SHUTDOWN)
        if vm.power is not None:
            vm.power.cancel()
        vm.power = self._shared.children.spawn(self._run(vm, wish), f"shut down VM {vm.vm_id}")

    async def destroy(self, vm: Vm, graceful_attempts: int, reason: ExitReason) -> None:
        """Cut the VM's power, whatever it does; raises DestroyFailed (42) or HypervisorDown, and then it lives on."""
        vm.destroy_requested = True
        if vm.power is not None:
            vm.power.cancel()
        if vm.state.status in (Status.WAIT_FOR_LAUNCH, Status.RESTORING):
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
            await self._shared.release_memory(vm)
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
        """By force after so many attempts, or when its monitor does not answer; one that does not run is success."""
        left = min(max(0, graceful_attempts), _MOST_GRACEFUL_ATTEMPTS)
        while True:
            left, graceful = left - 1, left > 0
            try:
                await self._shared.hypervisor.destroy(vm.vm_id, graceful=graceful)
            except NoSuchDomain:
                return
            except (HypervisorRefused, HypervisorTimeout) as error:
                kind = error.kind if isinstance(error, HypervisorRefused) else None
                if kind == _OPERATION_INVALID:
                    return
                if not graceful or kind not in (None, _OPERATION_FAILED, _SYSTEM_ERROR):
                    raise DestroyFailed(vm.vm_id, str(error)) from error
                if kind is None:
                    vm.monitor_failed, left = True, 0
            else:
                return

    async def _run(self, vm: Vm, wish: Farewell) -> None:
        done = vm.rebooted if wish.reboot else vm.stopped
        vm.rebooted.clear()
        for ask, wait_s in self._list_ways(vm, wish):
            if not await ask():
                continue
            vm.shutdown_requested = vm.shutdown_requested or not wish.reboot
            self._shared.see(vm, Status.REBOOTING if wish.reboot else Status.POWERING_DOWN)
            if await wait_until(done, wait_s, self._shared.clock):
                return
        if wish.force and wish.reboot and vm.is_alive:
            await self.reset(vm)
        elif wish.force and not wish.reboot:
            await self._kill(vm, 1)
            self._shared.end(vm, ExitInfo.of(ExitReason.SHUT_DOWN_BY_ADMINISTRATOR))

    def _list_ways(self, vm: Vm, wish: Farewell) -> list[tuple[Callable[[], Awaitable[bool]], float]]:
        """How to ask the guest, the best way first, and how long each is waited for."""
        words = {"timeout": wish.delay_s, "message": wish.message, "reboot": str(wish.reboot)}

        async def tell_agent() -> bool:
            return self._say(vm, "shutdown", words)

        ways: list[tuple[Callable[[], Awaitable[bool]], float]] = [
            (partial(self._ask, vm, ShutdownMode.AGENT, reboot=wish.reboot), wish.timeout_s),
            (tell_agent, wish.delay_s + wish.timeout_s),
        ]
        if vm.view is None or vm.view.acpi:
            ways.append((partial(self._ask, vm, ShutdownMode.ACPI, reboot=wish.reboot), wish.timeout_s))
        return ways

    async def _ask(self, vm: Vm, mode: ShutdownMode, *, reboot: bool) -> bool:
        """Whether the guest was asked; one that cannot be reached this way is tried the next way."""
        hypervisor = self._shared.hypervisor
        try:
            # An agent that does not answer says nothing of the VM's monitor.
            async with self._watched(vm) if mode is ShutdownMode.ACPI else nullcontext():
                await (hypervisor.reboot if reboot else hypervisor.shutdown)(vm.vm_id, mode)
        except NodeError as error:
            log.info("VM %s cannot be shut down by %s: %s", vm.vm_id, mode.value, error)
            return False
        return True

    @asynccontextmanager
    async def _watched(self, vm: Vm) -> AsyncIterator[None]:
        """Remember that the VM's monitor did not answer."""
        try:
            yield
        except HypervisorTimeout:
            vm.monitor_failed = True
            raise
