"""What becomes of VMs that an I/O error paused (facts §2.9): when their storage is back they go on, stay, or end."""

import logging

from vdsm.core.errors import NodeError
from vdsm.core.periodic import repeat
from vdsm.virt.lifecycle import ExitReason, PauseCode, Status
from vdsm.virt.metadata import ResumeBehavior
from vdsm.virt.power import Power
from vdsm.virt.shared import Shared, list_volumes
from vdsm.virt.vm import Vm

log = logging.getLogger(__name__)

_BY_STORAGE = (PauseCode.IO_ERROR, PauseCode.OTHER)
"""libvirt has one word for all errors but a lack of space."""


class Resumer:
    """Remembers which domains are well, and acts on VMs that wait for theirs."""

    def __init__(self, shared: Shared, power: Power) -> None:
        self._shared = shared
        self._power = power
        self._well: set[str] = set()

    def on_storage(self, domain_id: str, is_valid: bool) -> None:
        """A storage domain was found well, or sick."""
        if not is_valid:
            self._well.discard(domain_id)
            return
        self._well.add(domain_id)
        self.look_at_all()

    def look_at_all(self) -> None:
        """Act, in the background, on each VM that waits for storage that is well."""
        if self._shared.ready.is_set():
            for vm in list(self._shared.vms.values()):
                domains = {volume.domain_id for volume in list_volumes(vm)}
                if _waits(vm) and domains and domains <= self._well:
                    self._shared.children.spawn(self._go_on(vm), f"resume VM {vm.vm_id}")

    async def end_the_late(self) -> None:
        """Look every half of the limit, until cancelled, for VMs that are to end rather than to wait longer."""
        shared = self._shared
        await repeat(
            self._end_the_late, every_s=shared.settings.pause_limit_s / 2, clock=shared.clock, name="paused VMs"
        )

    async def _end_the_late(self) -> None:
        for vm in list(self._shared.vms.values()):
            if _waits(vm) and self._is_late(vm):
                await self._go_on(vm)

    async def _go_on(self, vm: Vm) -> None:
        behavior = vm.metadata.resume_behavior
        try:
            if behavior is ResumeBehavior.KILL and self._is_late(vm):
                log.warning("VM %s waited for its storage for too long", vm.vm_id)
                await self._power.destroy(vm, 1, ExitReason.PAUSED_TOO_LONG)
            elif behavior is not ResumeBehavior.LEAVE_PAUSED:
                log.info("VM %s goes on: its storage is back", vm.vm_id)
                await self._power.resume(vm)
        except NodeError as error:
            log.warning("VM %s stays paused: %s", vm.vm_id, error)

    def _is_late(self, vm: Vm) -> bool:
        paused_at_s = vm.metadata.paused_at_s
        if vm.metadata.resume_behavior is not ResumeBehavior.KILL or paused_at_s is None:
            return False
        return self._shared.clock.monotonic() - paused_at_s > self._shared.settings.pause_limit_s


def _waits(vm: Vm) -> bool:
    is_ours = not vm.is_external and not vm.destroy_requested
    return is_ours and vm.state.status is Status.PAUSED and vm.state.pause_code in _BY_STORAGE
