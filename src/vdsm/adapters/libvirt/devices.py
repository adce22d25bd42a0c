"""The part of the port `virt.ports.Hypervisor` that concerns devices of domains that run."""

import libvirt

from vdsm.adapters.libvirt.calls import Calls


class DeviceCalls:
    """What `LibvirtHypervisor` does with devices."""

    _calls: Calls

    async def update_device(self, vm_id: str, xml: str, *, force: bool = False) -> None:
        flags = libvirt.VIR_DOMAIN_DEVICE_MODIFY_LIVE | (libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE if force else 0)
        await self._calls.on_vm(vm_id, "update device", lambda domain: domain.updateDeviceFlags(xml, flags))

    async def attach_device(self, vm_id: str, xml: str) -> None:
        live = libvirt.VIR_DOMAIN_AFFECT_LIVE
        await self._calls.on_vm(vm_id, "attach device", lambda domain: domain.attachDeviceFlags(xml, live))

    async def detach_device(self, vm_id: str, xml: str) -> None:
        live = libvirt.VIR_DOMAIN_AFFECT_LIVE
        await self._calls.on_vm(vm_id, "detach device", lambda domain: domain.detachDeviceFlags(xml, live))
