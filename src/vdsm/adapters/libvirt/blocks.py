"""The part of the port `virt.ports.Hypervisor` that changes what is below disks (`virt.ports.BlockChanger`)."""

import libvirt

from vdsm.adapters.libvirt.calls import Calls
from vdsm.virt.ports import BlockJobFigures

_SNAPSHOT_FLAGS = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA


_COPY_FLAGS = (
    libvirt.VIR_DOMAIN_BLOCK_COPY_SHALLOW
    | libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT
    | libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
)


class BlockCalls:
    """What `LibvirtHypervisor` does with layers of disks."""

    _calls: Calls

    async def snapshot(self, vm_id: str, xml: str, *, has_memory: bool = False) -> None:
        flags = _SNAPSHOT_FLAGS | (0 if has_memory else libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY)

        def take(domain: libvirt.virDomain) -> None:
            domain.snapshotCreateXML(xml, flags)

        call = self._calls.transfer if has_memory else self._calls.on_vm
        await call(vm_id, "snapshot", take)

    async def commit_blocks(
        self, vm_id: str, target: str, base: str, top: str, bandwidth_mib: int, *, active: bool
    ) -> None:
        flags = libvirt.VIR_DOMAIN_BLOCK_COMMIT_RELATIVE | (libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE if active else 0)
        await self._calls.on_vm(
            vm_id, "commit blocks", lambda domain: domain.blockCommit(target, base, top, bandwidth_mib, flags)
        )

    async def copy_blocks(self, vm_id: str, target: str, xml: str) -> None:
        await self._calls.on_vm(vm_id, "copy blocks", lambda domain: domain.blockCopy(target, xml, None, _COPY_FLAGS))

    async def resize_block(self, vm_id: str, target: str, size_bytes: int) -> int:
        def resize(domain: libvirt.virDomain) -> int:
            domain.blockResize(target, size_bytes, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
            return domain.blockInfo(target)[0]

        return await self._calls.on_vm(vm_id, "resize block", resize)

    async def find_block_job(self, vm_id: str, target: str) -> BlockJobFigures | None:
        found = await self._calls.on_vm(vm_id, "look at block job", lambda domain: domain.blockJobInfo(target))
        return BlockJobFigures(found["cur"], found["end"], found["bandwidth"]) if found else None

    async def end_block_job(self, vm_id: str, target: str, *, pivot: bool) -> None:
        flags = libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT if pivot else 0
        await self._calls.on_vm(vm_id, "end block job", lambda domain: domain.blockJobAbort(target, flags))
