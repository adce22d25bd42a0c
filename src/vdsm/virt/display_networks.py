"""Networks of libvirt that displays listen on (facts network §9.1): there while a VM needs them.

Who uses one is told by the VMs that are not down, so that none is counted twice or forgotten by a restart.
"""

import asyncio
import logging

from vdsm.core.errors import NodeError
from vdsm.virt.elements import element, format_xml
from vdsm.virt.lifecycle import Status
from vdsm.virt.ports import NetworkDevices
from vdsm.virt.shared import Shared
from vdsm.virt.vm import Vm

log = logging.getLogger(__name__)

PREFIX = "vdsm-"
"""Of the names that are ours; others are somebody else's to keep."""


class DisplayNetworks:
    """Makes and removes networks, one after another."""

    def __init__(self, shared: Shared, devices: NetworkDevices) -> None:
        self._shared = shared
        self._devices = devices
        self._turn = asyncio.Lock()
        self._held: set[str] | None = None
        """Those that may be there; None until the VMs that were found have been looked at."""

    async def begin(self, vm: Vm) -> None:
        """Have the networks of a VM that is about to start, or to come. Raises what the hypervisor does."""
        for name in list_ours(vm):
            async with self._turn:
                device, is_bridge = await self._devices.find_device(name.removeprefix(PREFIX))
                await self._shared.hypervisor.start_network(name, build_network(name, device, is_bridge=is_bridge))
                self._find_held().add(name)

    async def look(self) -> None:
        """Remove those that nobody uses any more; failures are logged."""
        held = self._find_held()
        for name in sorted(held):
            async with self._turn:
                if not self._is_used(name):
                    held.discard(name)
                    try:
                        await self._shared.hypervisor.remove_network(name)
                    except NodeError as error:
                        log.warning("network %s, which no display needs any more, stays: %s", name, error)

    def _find_held(self) -> set[str]:
        if self._held is None:  # a VM may have ended while there was no daemon
            self._held = {name for vm in self._shared.vms.values() for name in list_ours(vm)}
        return self._held

    def _is_used(self, name: str) -> bool:
        vms = self._shared.vms.values()
        return any(vm.state.status is not Status.DOWN and name in list_ours(vm) for vm in vms)


def build_network(name: str, device: str, *, is_bridge: bool) -> str:
    """What libvirt is told of it."""
    if is_bridge:
        parts = [element("forward", mode="bridge"), element("bridge", name=device)]
    else:
        parts = [element("forward", element("interface", dev=device), mode="passthrough")]
    return format_xml(element("network", element("name", text=name), *parts))


def list_ours(vm: Vm) -> list[str]:
    """The networks that are there for displays of the VM."""
    names = () if vm.view is None else vm.view.display_networks
    return sorted(name for name in names if name.startswith(PREFIX))
