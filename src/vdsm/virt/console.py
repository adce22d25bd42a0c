"""Who looks at a VM's displays, and what becomes of its session when nobody does any more (facts §2.10)."""

from msgspec import Struct

from vdsm.virt.metadata import LOCK_SCREEN
from vdsm.virt.power import Farewell, Power, Say
from vdsm.virt.shared import Shared
from vdsm.virt.vm import Vm

PATIENCE_S = 2.0
MOST_VIEWERS = 64
"""Connections that are told apart; SPICE has up to ten for each client."""


class Console(Struct, eq=False):
    """The displays of all VMs."""

    _shared: Shared
    _power: Power
    _say: Say

    def enter(self, vm: Vm, viewer: tuple[str, str]) -> None:
        """A client was let in, from that address and port."""
        if vm.parting_task is not None:
            vm.parting_task.cancel()
        if len(vm.viewers) < MOST_VIEWERS:
            vm.viewers.add(viewer)
        vm.client_address = viewer[0]

    def leave(self, vm: Vm, viewer: tuple[str, str]) -> None:
        """A client went, or one that was never let in; one without an address stands for all."""
        if viewer[0] and viewer not in vm.viewers:
            return
        vm.viewers = vm.viewers - {viewer} if viewer[0] else set()
        if not vm.viewers:
            vm.client_address = ""
            vm.parting_task = self._shared.children.spawn(self._part(vm), f"end the session on VM {vm.vm_id}")

    async def _part(self, vm: Vm) -> None:
        clock, settings = self._shared.clock, self._shared.settings
        action, delay_min = vm.metadata.parting
        await clock.sleep(PATIENCE_S)
        if action == LOCK_SCREEN:
            self._say(vm, "lock-screen")
        elif action == "LOGOUT":
            self._say(vm, "log-off")
        elif action in ("REBOOT", "SHUTDOWN"):
            is_reboot = action == "REBOOT"
            await clock.sleep(0 if is_reboot else 60 * delay_min)
            wish = Farewell(
                reboot=is_reboot,
                delay_s=settings.shutdown_delay_s,
                timeout_s=settings.shutdown_timeout_s,
                force=True,
            )
            self._power.shutdown(vm, wish)
