"""The part of the port `virt.ports.Hypervisor` that concerns devices of domains that run."""

import json

import libvirt
import libvirt_qemu
from defusedxml.ElementTree import fromstring

from vdsm.adapters.libvirt.calls import Calls
from vdsm.virt.ports import HypervisorRefused, Picture

_CHUNK, _LARGEST_PICTURE = 1 << 18, 64 << 20


class DeviceCalls:
    """What `LibvirtHypervisor` does with devices."""

    _calls: Calls

    async def update_device(self, vm_id: str, xml: str, *, force: bool = False) -> None:
        flags = libvirt.VIR_DOMAIN_DEVICE_MODIFY_LIVE | (libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE if force else 0)
        await self._calls.on_vm(vm_id, "update device", lambda domain: _update(domain, xml, flags))

    async def attach_device(self, vm_id: str, xml: str) -> None:
        live = libvirt.VIR_DOMAIN_AFFECT_LIVE
        await self._calls.on_vm(vm_id, "attach device", lambda domain: domain.attachDeviceFlags(xml, live))

    async def take_screenshot(self, vm_id: str) -> Picture:
        calls = self._calls
        return await calls.for_vm(vm_id, "screenshot", lambda connection: _take_screenshot(connection, vm_id))

    async def detach_device(self, vm_id: str, xml: str) -> None:
        live = libvirt.VIR_DOMAIN_AFFECT_LIVE
        await self._calls.on_vm(vm_id, "detach device", lambda domain: domain.detachDeviceFlags(xml, live))


def _update(domain: libvirt.virDomain, xml: str, flags: int, tries: int = 3) -> None:
    """A guest may close a tray amid the change, as firmware does that starts, and libvirt does not hear of it.

    It takes such a tray for open then, for good, and refuses each change.
    """
    try:
        domain.updateDeviceFlags(xml, flags)
    except libvirt.libvirtError as error:
        alias, is_forced = fromstring(xml).find("alias"), flags & libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE
        if alias is None or not (tries and is_forced and "Tray of" in str(error) and "is not open" in str(error)):
            raise
        command = {"execute": "blockdev-open-tray", "arguments": {"id": alias.get("name"), "force": True}}
        libvirt_qemu.qemuMonitorCommand(domain, json.dumps(command), 0)
        _update(domain, xml, flags, tries - 1)


def _take_screenshot(connection: libvirt.virConnect, vm_id: str) -> Picture:
    stream = connection.newStream()
    mime_type = connection.lookupByUUIDString(vm_id).screenshot(stream, 0)
    picture = bytearray()
    while chunk := stream.recv(_CHUNK):
        picture += chunk
        if len(picture) > _LARGEST_PICTURE:
            stream.abort()
            raise HypervisorRefused(f"a picture of more than {_LARGEST_PICTURE} bytes")
    stream.finish()
    return Picture(mime_type, bytes(picture))
