"""Limits of running VMs: memory, processors, disks, and the policy by which others decide on them (facts §2.13).

What a request comes to is decided by the functions at the end, which know no libvirt; the service acts.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import astuple

from vdsm.api import errors
from vdsm.api.tuning import DiskPolicy, DiskTune, IoLimits, PolicyChange, VmIoPolicy
from vdsm.core.cpu_lists import parse_cpu_list
from vdsm.core.errors import InvalidArgument, NodeError
from vdsm.core.undo import AsyncUndo
from vdsm.virt.cpu_policy import pin_by_hand
from vdsm.virt.domain import DiskView, DomainView
from vdsm.virt.lifecycle import Request
from vdsm.virt.metadata import VmMetadata
from vdsm.virt.ports import HypervisorRefused, HypervisorTimeout
from vdsm.virt.power import Say, check_possible
from vdsm.virt.qos import LIBVIRT_NAMES, TUNE_PREFIX, TUNE_URI, Policy, format_policy, list_limits, merge
from vdsm.virt.shared import Shared
from vdsm.virt.vm import Vm

NO_QUOTA = -1
_CPU_BOUNDS = {"vcpu_quota": (1000, 2**44 - 1), "vcpu_period": (1000, 1_000_000)}
"""In µs. libvirt takes 0, too, and changes nothing."""
_FOREIGN = "the VM belongs to somebody else"


class TuningService:
    """Sets limits of VMs and tells them (fits `api.tuning.TuningApi`)."""

    def __init__(self, shared: Shared, say: Say) -> None:
        self._shared = shared
        self._say = say

    async def list_io_policies(self) -> dict[str, VmIoPolicy]:
        """The policies and limits of the disks of all VMs, as last read."""
        self._shared.check_ready()
        views = {vm.vm_id: vm.view for vm in self._shared.vms.values() if vm.is_alive}
        return {
            vm_id: VmIoPolicy(policy=list(view.policy.disks), current=list_io_tune(view))
            for vm_id, view in views.items()
            if view is not None
        }

    async def set_balloon_target(self, vm_id: str, target_kib: int) -> None:
        """Ask the guest for memory, or give it back; raises BalloonFailed (53)."""
        shared, vm = self._shared, self._shared.get(vm_id)
        try:
            check_possible(shared, vm, Request.TUNE)
        except (errors.VmIsDown, errors.WrongState) as error:
            raise errors.BalloonFailed("state", str(error)) from error
        if vm.view is None or not vm.view.has_balloon or not vm.metadata.ballooning:
            return
        async with self._changing(vm, errors.BalloonFailed, "target"):
            await shared.hypervisor.set_memory(vm_id, target_kib)
            await shared.save(vm, balloonTarget=target_kib)

    async def set_cpu_quota(self, vm_id: str, quota_us: int) -> None:
        """Limit the processor time of each vCPU; raises CpuTuneFailed (62)."""
        await self._set_cpu(vm_id, "vcpu_quota", quota_us)

    async def set_cpu_period(self, vm_id: str, period_us: int) -> None:
        """Set the period that quotas count in; raises CpuTuneFailed (62)."""
        await self._set_cpu(vm_id, "vcpu_period", period_us)

    async def set_cpu_count(self, vm_id: str, count: int, cpu_sets: list[str] | None = None) -> None:
        """Plug processors in or out; raises CpuCountFailed (60), MissingParameter (11), InvalidArgument (91)."""
        vm, hypervisor = self._shared.get(vm_id), self._shared.hypervisor
        check_possible(self._shared, vm, Request.PLUG)
        pinning = plan_pinning(vm.metadata, count, cpu_sets)
        async with self._changing(vm, errors.CpuCountFailed, "numberOfCpus"):
            vm.is_stale = True
            await hypervisor.set_cpu_count(vm_id, count)
            for cpu, host_cpus in enumerate(pinning):
                await hypervisor.pin_cpu(vm_id, cpu, host_cpus)
            if pinning and not vm.is_external:
                await self._shared.store(vm, pin_by_hand(vm.metadata, count))
            await self._shared.refresh(vm)
            self._say(vm, "set-number-of-cpus", {"count": count})  # some guests use new ones only when told to

    async def set_io_tune(self, vm_id: str, disks: list[DiskTune]) -> None:
        """Change limits of disks, all or none; raises IoTuneFailed (64)."""
        vm, hypervisor = self._get(vm_id), self._shared.hypervisor
        async with self._changing(vm, errors.IoTuneFailed, "tunables"):
            changes = plan_io_tune(await self._look(vm), disks)
            vm.is_stale = True
            async with AsyncUndo() as undo:
                for change in changes:
                    await hypervisor.set_io_tune(vm_id, change.target, change.after)
                    undo.push(hypervisor.set_io_tune, vm_id, change.target, change.before)
                undo.forget()
            await self._shared.refresh(vm)

    async def get_io_tune(self, vm_id: str) -> list[DiskTune]:
        """The limits of the VM's disks, asked from libvirt; raises IoTuneFailed (64)."""
        vm = self._get(vm_id)
        async with self._changing(vm, errors.IoTuneFailed, "disks"):
            return list_io_tune(await self._look(vm))

    async def get_io_policy(self, vm_id: str) -> list[DiskPolicy]:
        """What the VM's disks may use at most, as last read or written."""
        view = self._shared.get(vm_id).view
        return [] if view is None else list(view.policy.disks)

    async def update_policy(self, vm_id: str, change: PolicyChange) -> None:
        """Record what the VM may use at most; raises VmPolicyFailed (63), MissingParameter (11)."""
        vm = self._get(vm_id)
        if change.cpu_limit_percent is UNSET and change.disks is UNSET:
            raise errors.MissingParameter("vcpuLimit or ioTune")
        if vm.is_external:
            raise errors.VmPolicyFailed("vmId", _FOREIGN)
        async with self._changing(vm, errors.VmPolicyFailed, "qos"):
            policy = plan_policy(await self._look(vm), change)
            await self._shared.hypervisor.set_metadata(vm_id, format_policy(policy), TUNE_PREFIX, TUNE_URI)
            await self._shared.refresh(vm)

    async def set_destroy_on_reboot(self, vm_id: str) -> None:
        """Let the guest's next reboot be the VM's end."""
        vm = self._get(vm_id)
        if vm.is_external:
            raise errors.VmRequestFailed(_FOREIGN)
        await self._shared.record(vm, destroy_on_reboot=True)

    def _get(self, vm_id: str) -> Vm:
        vm = self._shared.get(vm_id)
        check_possible(self._shared, vm, Request.TUNE)
        return vm

    async def _set_cpu(self, vm_id: str, name: str, value_us: int) -> None:
        vm = self._get(vm_id)
        check_cpu_limit(name, value_us)
        async with self._changing(vm, errors.CpuTuneFailed, name):
            await self._shared.hypervisor.set_cpu_tune(vm_id, {name: value_us})
            await self._shared.refresh(vm)

    async def _look(self, vm: Vm) -> DomainView:
        """What libvirt says of the VM now."""
        self._shared.read(vm, await self._shared.hypervisor.get_domain(vm.vm_id))
        if vm.view is None:
            raise HypervisorRefused("the VM's definition cannot be understood")
        return vm.view

    @asynccontextmanager
    async def _changing(self, vm: Vm, failure: Callable[[str, str], NodeError], where: str) -> AsyncIterator[None]:
        """One change of a VM at a time; when libvirt refuses it or does not answer, that is the failure."""
        async with vm.tuning:
            try:
                yield
            except (HypervisorRefused, HypervisorTimeout) as error:
                vm.monitor_failed = vm.monitor_failed or isinstance(error, HypervisorTimeout)
                raise failure(where, str(error)) from error


class IoChange(Struct):
    """New limits of a disk and those it had, all of them, by libvirt's names."""

    target: str
    before: dict[str, int]
    after: dict[str, int]


def check_cpu_limit(name: str, value_us: int) -> None:
    """Raise CpuTuneFailed for what no kernel takes."""
    least, most = _CPU_BOUNDS[name]
    if not least <= value_us <= most and (name, value_us) != ("vcpu_quota", NO_QUOTA):
        raise errors.CpuTuneFailed(name, f"must be between {least} and {most} µs" + ", or -1" * (name == "vcpu_quota"))


def plan_pinning(metadata: VmMetadata, count: int, cpu_sets: list[str] | None) -> list[tuple[int, ...]]:
    """The CPUs of the host for each processor; none where the VM's policy lets them float."""
    if count < 1:
        raise InvalidArgument("numberOfCpus", "must be 1 or more")
    if not cpu_sets:
        if metadata.values.get("cpuPolicy", "none") not in ("none", "manual"):
            raise errors.MissingParameter("cpusets")
        return []
    if len(cpu_sets) != count:
        raise InvalidArgument("cpusets", f"{len(cpu_sets)} sets for {count} processors")
    try:
        pinning = [parse_cpu_list(text) for text in cpu_sets]
    except ValueError as error:
        raise InvalidArgument("cpusets", str(error)) from error
    if not all(pinning):
        raise InvalidArgument("cpusets", "a set is empty")
    return pinning


def list_io_tune(view: DomainView) -> list[DiskTune]:
    """The limits of the disks on storage domains, 0 where there is none."""
    return [
        DiskTune(name=disk.target, path=disk.path, limits=merge(_UNLIMITED, disk.limits)) for disk in _list_disks(view)
    ]


def plan_io_tune(view: DomainView, wanted: list[DiskTune]) -> list[IoChange]:
    """What changes of which disk; raises IoTuneFailed for disks and limits that cannot be."""
    changes: dict[str, IoChange] = {}
    for number, tune in enumerate(wanted):
        where = f"tunables[{number}]"
        disk = _find_disk(_list_disks(view), tune.name, tune.path)
        if disk is None:
            raise errors.IoTuneFailed(where, "the VM has no such disk on a storage domain")
        before = list_limits(merge(_UNLIMITED, disk.limits))
        change = changes.setdefault(disk.target, IoChange(disk.target, before, before))
        change.after = change.after | list_limits(tune.limits)
        for kind in ("bytes_sec", "iops_sec"):
            total, *parts = (change.after[f"{way}_{kind}"] for way in ("total", "read", "write"))
            if total and any(parts):
                raise errors.IoTuneFailed(where, f"total_{kind} excludes read_{kind} and write_{kind}")
    return list(changes.values())


def plan_policy(view: DomainView, change: PolicyChange) -> Policy:
    """The policy after the change; raises VmPolicyFailed for a disk that the VM does not have."""
    limit = change.cpu_limit_percent
    disks = list(view.policy.disks)
    for number, wanted in enumerate([] if change.disks is UNSET else change.disks):
        disk = _find_disk(view.disks, wanted.name, wanted.path) or _find_volume(view.disks, wanted)
        if disk is None:
            raise errors.VmPolicyFailed(f"ioTune[{number}]", "the VM has no such disk")
        place = next((at for at, old in enumerate(disks) if _find_disk([disk], old.name, old.path)), None)
        old = DiskPolicy() if place is None else disks.pop(place)
        merged = DiskPolicy(
            name=disk.target,
            path=disk.path,
            maximum=_change(old.maximum, wanted.maximum),
            guaranteed=_change(old.guaranteed, wanted.guaranteed),
        )
        disks.insert(len(disks) if place is None else place, merged)
    return Policy(view.policy.cpu_limit_percent if limit is UNSET else limit, tuple(disks))


_UNLIMITED = IoLimits(**dict.fromkeys(LIBVIRT_NAMES, 0))


def _list_disks(view: DomainView) -> list[DiskView]:
    return [disk for disk in view.disks if disk.volume is not None and disk.path]


def _find_disk(disks: Iterable[DiskView], name: str | UnsetType, path: str | UnsetType) -> DiskView | None:
    """By name, or else by path."""
    if name is not UNSET:
        return next((disk for disk in disks if disk.target == name), None)
    return next((disk for disk in disks if disk.path and disk.path == path), None)


def _find_volume(disks: Iterable[DiskView], wanted: DiskPolicy) -> DiskView | None:
    """By all four ids, unless something else is given."""
    ids = (wanted.pool_id, wanted.domain_id, wanted.image_id, wanted.volume_id)
    if wanted.name is not UNSET or wanted.path is not UNSET:
        return None
    return next((disk for disk in disks if disk.volume is not None and astuple(disk.volume) == ids), None)


def _change(old: IoLimits | UnsetType, new: IoLimits | UnsetType) -> IoLimits | UnsetType:
    return old if new is UNSET else new if old is UNSET else merge(old, new)
