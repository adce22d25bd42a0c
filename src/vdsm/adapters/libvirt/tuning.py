"""The part of the port `virt.ports.Hypervisor` that limits domains that run (`virt.ports.Tunable`)."""

from collections.abc import Collection, Mapping

import libvirt

from vdsm.adapters.libvirt.calls import Calls

_LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE


class TuningCalls:
    """What `LibvirtHypervisor` does with limits."""

    _calls: Calls

    async def set_memory(self, vm_id: str, size_kib: int) -> None:
        await self._calls.on_vm(vm_id, "set memory", lambda domain: domain.setMemoryFlags(size_kib, _LIVE))

    async def set_cpu_tune(self, vm_id: str, limits: Mapping[str, int]) -> None:
        await self._calls.on_vm(
            vm_id, "tune CPUs", lambda domain: domain.setSchedulerParametersFlags(dict(limits), _LIVE)
        )

    async def set_cpu_count(self, vm_id: str, count: int) -> None:
        await self._calls.on_vm(vm_id, "set number of CPUs", lambda domain: domain.setVcpusFlags(count, _LIVE))

    async def pin_cpu(self, vm_id: str, cpu: int, host_cpus: Collection[int]) -> None:
        bits = tuple(number in host_cpus for number in range(max(host_cpus, default=-1) + 1))
        await self._calls.on_vm(vm_id, "pin CPU", lambda domain: domain.pinVcpuFlags(cpu, bits, _LIVE))

    async def set_io_tune(self, vm_id: str, target: str, limits: Mapping[str, int]) -> None:
        await self._calls.on_vm(vm_id, "tune I/O", lambda domain: domain.setBlockIoTune(target, dict(limits), _LIVE))
