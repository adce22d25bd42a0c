"""Takes one sample of all VMs at a time; what the figures mean is left to `stats`."""

import logging

from vdsm.core.errors import NodeError
from vdsm.virt.adopt import Adopter
from vdsm.virt.shared import Shared
from vdsm.virt.stats import Sample

log = logging.getLogger(__name__)


class Sampler:
    """Keeps the last two samples of every VM."""

    def __init__(self, shared: Shared, adopter: Adopter) -> None:
        self._shared = shared
        self._adopter = adopter

    async def sample(self) -> None:
        """Ask once for all VMs; a VM that did not answer keeps its old figures, which tell their age."""
        shared = self._shared
        alive = [vm for vm in shared.vms.values() if vm.is_alive]
        if not alive or not shared.ready.is_set():
            return
        try:
            bulk = await shared.hypervisor.sample()
        except NodeError as error:
            log.warning("no sample of the VMs: %s", error)
            return
        for vm in alive:
            values = bulk.stats.get(vm.vm_id)
            if values:
                vm.window = vm.window.then(Sample.of(bulk.taken_at_s, values))
                vm.monitor_failed = False
            elif vm.is_alive and vm.vm_id not in bulk.missing:
                self._adopter.check(vm)
        for vm in alive:
            if vm.is_stale and vm.is_alive:
                await shared.refresh(vm)
