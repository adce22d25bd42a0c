"""Keeps processors of VMs where `cpu_policy` says that they belong.

What is wanted is compared with what libvirt told last, and only differences are asked for. It is looked at whenever a
VM's XML was read, or a VM ended.
"""

import asyncio
import logging
from collections.abc import Mapping

from vdsm.core.errors import NodeError
from vdsm.virt.cpu_policy import Cpus, Topology, find_pool, is_exclusive, plan_pins
from vdsm.virt.ports import Processors
from vdsm.virt.shared import Shared
from vdsm.virt.vm import Vm

log = logging.getLogger(__name__)


class Pinner:
    """Keeps the processors of all VMs where they belong."""

    def __init__(self, shared: Shared, processors: Processors) -> None:
        self._shared = shared
        self._processors = processors
        self._tried: dict[str, dict[int, Cpus]] = {}
        """What was asked for last: what libvirt tells otherwise, or refuses, is not asked for again and again."""

    async def look(self) -> None:
        """Ask for what is not as it should be; failures are logged."""
        if self._is_concerned():
            await self._pin_all(await asyncio.to_thread(self._processors.list_online))

    def _is_concerned(self) -> bool:
        """Without VMs that have processors for themselves, or had, nobody needs to be told where to run."""
        return bool(self._tried) or any(map(is_exclusive, self._shared.vms.values()))

    async def _pin_all(self, topology: Topology) -> None:
        vms = [vm for vm in self._shared.vms.values() if vm.is_alive and not vm.is_external and not vm.is_moving]
        pool = find_pool(self._shared.vms.values(), topology)
        self._tried = {vm.vm_id: self._tried[vm.vm_id] for vm in vms if vm.vm_id in self._tried}
        for vm in vms:
            wanted = plan_pins(vm, pool, topology)
            if wanted and wanted != self._tried.get(vm.vm_id):
                self._tried[vm.vm_id] = wanted
                await self._pin(vm, wanted)

    async def _pin(self, vm: Vm, wanted: Mapping[int, Cpus]) -> None:
        async with vm.tuning:
            try:
                for number, cpus in wanted.items():
                    await self._shared.hypervisor.pin_cpu(vm.vm_id, number, cpus)
            except NodeError as error:
                log.warning("VM %s: its processors cannot be kept from those of other VMs: %s", vm.vm_id, error)
            await self._shared.refresh(vm)
