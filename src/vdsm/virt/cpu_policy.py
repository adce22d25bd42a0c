"""Which processors of the host those of VMs run on (facts §2.4), pure: what a VM has for itself is left by others.

A VM's policy is in its metadata, with the processors that somebody pinned; all others follow what is left of the host.
"""

from collections.abc import Iterable, Mapping

from vdsm.core.cpu_lists import parse_cpu_list
from vdsm.virt.domain import DomainView
from vdsm.virt.lifecycle import Status
from vdsm.virt.metadata import VmMetadata
from vdsm.virt.vm import Vm

POLICY, MANUAL_CPUS = "cpuPolicy", "manuallyPinedCPUs"
_WITH_CORES = ("siblings", "isolate-threads")
_EXCLUSIVE = ("dedicated", *_WITH_CORES)

Cpus = frozenset[int]
Topology = Mapping[int, Cpus]
"""The CPUs that are online, each with all of its core."""


def infer_policy(metadata: VmMetadata, view: DomainView) -> VmMetadata:
    """The metadata of a VM that starts, with its policy, and with the processors that its XML pins under one."""
    policy = str(metadata.values.get(POLICY) or ("manual" if view.pins else "none"))
    metadata = metadata.changed(**{POLICY: policy})
    if policy == "none" or not view.pins or MANUAL_CPUS in metadata.values:
        return metadata
    return metadata.changed(**{MANUAL_CPUS: ",".join(map(str, sorted(view.pins)))})


def pin_by_hand(metadata: VmMetadata, count: int) -> VmMetadata:
    """The metadata of a VM whose first processors were pinned by a caller."""
    policy = str(metadata.values.get(POLICY, "none"))
    pinned = _list_manual(metadata) | set(range(count))
    text = ",".join(map(str, sorted(pinned)))
    return metadata.changed(**{POLICY: "manual" if policy == "none" else policy, MANUAL_CPUS: text})


def is_exclusive(vm: Vm) -> bool:
    """Whether the VM has processors of the host for itself."""
    return vm.state.status is not Status.DOWN and vm.metadata.values.get(POLICY) in _EXCLUSIVE


def find_pool(vms: Iterable[Vm], topology: Topology) -> Cpus:
    """What no VM has for itself; all that is online when nothing would be left."""
    taken: set[int] = set()
    for vm in vms:
        if vm.view is None or not is_exclusive(vm):
            continue
        manual = _list_manual(vm.metadata)
        own = {cpu for number, cpus in vm.view.pins.items() if number in manual for cpu in cpus}
        taken |= own
        if vm.metadata.values.get(POLICY) in _WITH_CORES:
            taken.update(*(topology.get(cpu, ()) for cpu in own))
    return frozenset(topology.keys() - taken) or frozenset(topology)


def plan_pins(vm: Vm, pool: Cpus, topology: Topology) -> dict[int, Cpus]:
    """The processors of the VM that are not where they belong, and where that is."""
    if vm.view is None:
        return {}
    manual = _list_manual(vm.metadata) if vm.metadata.values.get(POLICY, "none") != "none" else set()
    floating = [number for number in range(vm.view.cpus) if number not in manual]
    everything = frozenset(topology)
    return {number: pool for number in floating if vm.view.pins.get(number, everything) != pool}


def _list_manual(metadata: VmMetadata) -> set[int]:
    try:
        return set(parse_cpu_list(str(metadata.values.get(MANUAL_CPUS, ""))))
    except ValueError:
        return set()
