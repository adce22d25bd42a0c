"""Answers the verbs on devices: reads what is wanted, and hands it to `devices`."""

from collections.abc import Awaitable, Callable
from xml.etree.ElementTree import Element

from msgspec import UNSET

from vdsm.api import devices as api
from vdsm.api.errors import MissingParameter
from vdsm.virt.devices.plug import Plug, parse_plug
from vdsm.virt.devices.plugging import Devices
from vdsm.virt.elements import element
from vdsm.virt.lifecycle import Request
from vdsm.virt.memory import build_module
from vdsm.virt.power import check_possible
from vdsm.virt.shared import Shared
from vdsm.virt.vm import Vm


class DeviceService:
    """Fits `api.devices.DeviceApi`."""

    def __init__(self, shared: Shared, devices: Devices) -> None:
        self._shared = shared
        self._devices = devices

    async def plug_disk(self, vm_id: str, change: api.DiskChange) -> None:
        """Prepare a disk's image and plug it in."""
        await self._devices.plug_disk(self._shared.get(vm_id), _read(change, "disk"))

    async def unplug_disk(self, vm_id: str, change: api.DiskChange) -> None:
        """Unplug a disk and release its image."""
        await self._devices.unplug_disk(self._shared.get(vm_id), _read(change, "disk"))

    async def plug_nic(self, vm_id: str, change: api.NicChange) -> api.NicPlugged:
        """Plug a network card in."""
        return await self._devices.plug_nic(self._shared.get(vm_id), _read(change, "interface"))

    async def unplug_nic(self, vm_id: str, change: api.NicChange) -> None:
        """Unplug a network card."""
        await self._devices.unplug_nic(self._shared.get(vm_id), _read(change, "interface"))

    async def plug_memory(self, vm_id: str, change: api.MemoryChange) -> None:
        """Plug a memory module in."""
        vm = self._shared.get(vm_id)
        guaranteed_mib = None if change.guaranteed_memory_mib is UNSET else change.guaranteed_memory_mib
        await self._devices.plug_memory(vm, _read_memory(change).device, guaranteed_mib)

    async def unplug_memory(self, vm_id: str, change: api.MemoryChange) -> None:
        """Ask the guest to let go of a memory module."""
        await self._devices.unplug_memory(self._shared.get(vm_id), _read_memory(change))

    async def plug_lease(self, vm_id: str, lease: api.LeaseDevice) -> None:
        """Have the VM hold an external lease."""
        await self._devices.plug_lease(self._shared.get(vm_id), lease.domain_id, lease.lease_id)

    async def unplug_lease(self, vm_id: str, lease: api.LeaseDevice) -> None:
        """Have the VM let go of an external lease."""
        await self._devices.unplug_lease(self._shared.get(vm_id), lease.domain_id, lease.lease_id)

    async def plug_host_devices(self, vm_id: str, devices: list[str]) -> list[str]:
        """Give devices of this host to the VM; those that libvirt took."""
        return await self._act_on_each(vm_id, devices, self._devices.plug_host_device)

    async def unplug_host_devices(self, vm_id: str, devices: list[str]) -> list[str]:
        """Take devices of this host back; those that the VM let go of."""
        return await self._act_on_each(vm_id, devices, self._devices.unplug_host_device)

    async def _act_on_each(
        self, vm_id: str, devices: list[str], act: Callable[[Vm, Plug], Awaitable[str | None]]
    ) -> list[str]:
        vm = self._shared.get(vm_id)
        check_possible(self._shared, vm, Request.PLUG)
        plugs = [parse_plug(xml, "hostdev") for xml in devices]  # all of them are read before one is touched
        done = [await act(vm, plug) for plug in plugs]
        return [xml for xml in done if xml is not None]


def _read(change: api.DiskChange | api.NicChange | api.MemoryChange, tag: str) -> Plug:
    if not change.vm_id:
        raise MissingParameter("vmId")
    if not change.xml:
        raise MissingParameter("xml")
    return parse_plug(change.xml, tag)


def _read_memory(change: api.MemoryChange) -> Plug:
    if change.xml or change.memory is UNSET:
        return _read(change, "memory")
    if not change.vm_id:
        raise MissingParameter("vmId")
    module = _build_module(change.memory)
    root = element("hotplug", element("devices", module))
    return Plug(root, module)


def _build_module(memory: api.MemoryModule) -> Element:
    if memory.alias:
        return element("memory", element("alias", name=memory.alias), model="dimm")
    return build_module(memory.size_mib, memory.node)
