"""Takes one sample of all VMs at a time; what the figures mean is left to `stats`."""

import logging
from collections.abc import Mapping

from vdsm.core.errors import NodeError
from vdsm.virt.adopt import Adopter
from vdsm.virt.lifecycle import Status
from vdsm.virt.ports import DomainState
from vdsm.virt.recovery import state_of
from vdsm.virt.shared import Shared
from vdsm.virt.stats import Sample, Value

log = logging.getLogger(__name__)


class Sampler:
    """Keeps the last two samples of every VM, and notices what libvirt's events did not tell."""

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
            elif vm.vm_id in bulk.missing:
                continue
            if vm.is_alive and (not values or vm.is_stale or _status_of(values) is not vm.state.status):
                self._adopter.check(vm)
        for vm_id in bulk.stats:
            known = shared.vms.get(vm_id)
            if known is None or known.state.status is Status.DOWN:
                self._adopter.find(vm_id)


def _status_of(values: Mapping[str, Value]) -> Status:
    return state_of(DomainState(values.get("state.state", 1)), int(values.get("state.reason", 0))).status
