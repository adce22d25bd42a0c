"""The part of the port `virt.ports.Hypervisor` that changes what is below disks (`virt.ports.BlockChanger`)."""

import libvirt

from vdsm.adapters.libvirt.calls import Calls

_SNAPSHOT_FLAGS = (
    libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
)


class BlockCalls:
    """What `LibvirtHypervisor` does with layers of disks."""

    _calls: Calls

    async def snapshot(self, vm_id: str, xml: str) -> None:
        def take(domain: libvirt.virDomain) -> None:
            domain.snapshotCreateXML(xml, _SNAPSHOT_FLAGS)

        await self._calls.on_vm(vm_id, "snapshot", take)

    async def freeze_filesystems(self, vm_id: str) -> None:
        await self._calls.on_vm(vm_id, "freeze", lambda domain: domain.fsFreeze())

    async def thaw_filesystems(self, vm_id: str) -> None:
        await self._calls.on_vm(vm_id, "thaw", lambda domain: domain.fsThaw())
