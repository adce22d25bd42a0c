"""The surface of tuning: what a running VM may use of memory, processors and disks, and what it may at most.

Whoever decides reads policies and figures and sets the limits; the daemon itself changes none of them.
"""

from typing import Annotated, Protocol

from msgspec import UNSET, Meta, Struct, UnsetType

from vdsm.api.declare import Text, group, ovirt, verb, xmlrpc
from vdsm.core.ids import Uuid, VmId

_Count = Annotated[int, Meta(ge=0)]
_Rate = _Count | UnsetType
_Id = Uuid | UnsetType


class IoLimits(Struct, frozen=True, kw_only=True):
    """What a disk may move in a second, 0 for any amount; a total excludes the two other limits of its kind."""

    total_bytes_per_s: Annotated[_Rate, ovirt("total_bytes_sec")] = UNSET
    read_bytes_per_s: Annotated[_Rate, ovirt("read_bytes_sec")] = UNSET
    write_bytes_per_s: Annotated[_Rate, ovirt("write_bytes_sec")] = UNSET
    total_operations_per_s: Annotated[_Rate, ovirt("total_iops_sec")] = UNSET
    read_operations_per_s: Annotated[_Rate, ovirt("read_iops_sec")] = UNSET
    write_operations_per_s: Annotated[_Rate, ovirt("write_iops_sec")] = UNSET


class DiskTune(Struct, frozen=True, kw_only=True):
    """The limits of one disk, by its target name or by its path; limits that are not given stay as they are."""

    name: Text = UNSET
    path: Text = UNSET
    limits: Annotated[IoLimits, ovirt("ioTune")]


class DiskPolicy(Struct, frozen=True, kw_only=True):
    """What one disk may use at most and shall get at least: by its name, its path, or the four ids of its volume."""

    name: Text = UNSET
    path: Text = UNSET
    domain_id: Annotated[_Id, ovirt("domainID")] = UNSET
    pool_id: Annotated[_Id, ovirt("poolID")] = UNSET
    image_id: Annotated[_Id, ovirt("imageID")] = UNSET
    volume_id: Annotated[_Id, ovirt("volumeID")] = UNSET
    maximum: IoLimits | UnsetType = UNSET
    guaranteed: IoLimits | UnsetType = UNSET


class PolicyChange(Struct, frozen=True, kw_only=True):
    """What changes of a VM's policy; disks and limits that are not named stay."""

    cpu_limit_percent: Annotated[_Rate, ovirt("vcpuLimit")] = UNSET
    disks: Annotated[list[DiskPolicy] | UnsetType, ovirt("ioTune")] = UNSET


class VmIoPolicy(Struct, frozen=True, kw_only=True):
    """A VM's policy for its disks, and the limits as they are now."""

    policy: Annotated[list[DiskPolicy], ovirt("policy", declared="DiskPolicy")]
    current: Annotated[list[DiskTune], ovirt("current_values", declared="DiskTune")]


_Vm = Annotated[VmId, ovirt("vmID"), "the VM's id"]
_KNOWN = ("no-such-vm",)
_RUNS = (*_KNOWN, "vm-is-down", "wrong-state", "hypervisor-down")


@group("tuning", "/vms")
class TuningApi(Protocol):
    """Limits of one virtual machine, while it runs."""

    @verb("Host.getAllVmIoTunePolicies", "GET /io-tune-policies")
    @xmlrpc("getAllVmIoTunePolicies", member="io_tune_policies_dict")
    async def list_io_policies(self) -> dict[str, VmIoPolicy]:
        """The policies for disks of every VM, and the limits as last read."""

    @verb(
        "VM.setBalloonTarget",
        "PUT /{vm_id}/balloon",
        fails=(*_KNOWN, "hypervisor-down", "balloon-failed"),
        invalid="balloon-failed",
    )
    @xmlrpc("setBalloonTarget", "vm_id target_kib")
    async def set_balloon_target(
        self, vm_id: _Vm, target_kib: Annotated[_Count, ovirt("target"), "what the guest shall keep of its memory"]
    ) -> None:
        """Ask the guest for memory, or give it back; nothing for a VM without a balloon. It is remembered."""

    @verb("VM.setCpuTuneQuota", "PUT /{vm_id}/cpu-quota", fails=(*_RUNS, "cpu-tune-failed"), invalid="cpu-tune-failed")
    @xmlrpc("vmSetCpuTuneQuota", "vm_id quota_us")
    async def set_cpu_quota(
        self,
        vm_id: _Vm,
        quota_us: Annotated[int, ovirt("quota"), "processor time of each vCPU in a period; -1 for any amount"],
    ) -> None:
        """Limit the processor time of each vCPU."""

    @verb(
        "VM.setCpuTunePeriod", "PUT /{vm_id}/cpu-period", fails=(*_RUNS, "cpu-tune-failed"), invalid="cpu-tune-failed"
    )
    @xmlrpc("vmSetCpuTunePeriod", "vm_id period_us")
    async def set_cpu_period(
        self, vm_id: _Vm, period_us: Annotated[int, ovirt("period"), "the time in which the quota may be used"]
    ) -> None:
        """Set the period that quotas count in."""

    @verb(
        "VM.setNumberOfCpus",
        "PUT /{vm_id}/cpu-count",
        fails=(*_RUNS, "migration-in-progress", "missing-parameter", "cpu-count-failed"),
    )
    @xmlrpc("setNumberOfCpus", "vm_id count cpu_sets", member="vmList")
    async def set_cpu_count(
        self,
        vm_id: _Vm,
        count: Annotated[int, ovirt("numberOfCpus"), "processors, up to what the VM was made for"],
        cpu_sets: Annotated[list[str] | None, ovirt("cpusets"), "CPUs of the host for each, such as 0-3,8"] = None,
    ) -> None:
        """Plug processors in or out; where a VM's policy binds them, `cpu_sets` tells to which."""

    @verb("VM.setIoTune", "PATCH /{vm_id}/io-tune", fails=(*_RUNS, "io-tune-failed"), invalid="io-tune-failed")
    @xmlrpc("setIoTune", "vm_id disks")
    async def set_io_tune(
        self, vm_id: _Vm, disks: Annotated[list[DiskTune], ovirt("tunables"), "disks on storage domains"]
    ) -> None:
        """Change the limits of disks, of all that are named or of none."""

    @verb("VM.getIoTune", "GET /{vm_id}/io-tune", fails=(*_RUNS, "io-tune-failed"))
    @xmlrpc("getIoTune", "vm_id", member="ioTuneList")
    async def get_io_tune(self, vm_id: _Vm) -> list[DiskTune]:
        """The limits of all disks on storage domains, read now."""

    @verb("VM.getIoTunePolicy", "GET /{vm_id}/io-tune-policy", fails=_KNOWN)
    @xmlrpc("getIoTunePolicy", "vm_id", member="ioTunePolicyList")
    async def get_io_policy(self, vm_id: _Vm) -> list[DiskPolicy]:
        """What the VM's disks may use at most, as far as it was ever said."""

    @verb(
        "VM.updateVmPolicy",
        "PATCH /{vm_id}/policy",
        fails=(*_RUNS, "missing-parameter", "vm-policy-failed"),
        invalid="vm-policy-failed",
    )
    @xmlrpc("updateVmPolicy", "change")
    async def update_policy(
        self, vm_id: _Vm, change: Annotated[PolicyChange, ovirt("params"), "the processor limit, disks, or both"]
    ) -> None:
        """Record what the VM may use at most; whoever decides on limits applies it."""

    @verb("VM.setDestroyOnReboot", "POST /{vm_id}/destroy-on-reboot", fails=(*_RUNS, "vm-request-failed"))
    async def set_destroy_on_reboot(self, vm_id: _Vm) -> None:
        """Let the guest's next reboot be the VM's end."""
