"""The surface of devices that are plugged into a VM that runs, and unplugged (facts §2.12)."""

from typing import Annotated, Protocol

from msgspec import UNSET, Struct, UnsetType

from vdsm.api.declare import Number, Text, group, ovirt, verb, xmlrpc
from vdsm.api.vm import DeviceAddress, DeviceSpec
from vdsm.core.ids import VmId


class DiskChange(Struct, frozen=True, kw_only=True):
    """A disk as `<hotplug><devices>…</devices><metadata>…</metadata></hotplug>`; metadata may be missing. What stood in
    `drive` until 2019 is not read."""

    vm_id: Annotated[Text, ovirt("vmId")] = UNSET
    drive: DeviceSpec | UnsetType = UNSET
    xml: Text = UNSET


class NicChange(Struct, frozen=True, kw_only=True):
    """A network card, in the same form."""

    vm_id: Annotated[Text, ovirt("vmId")] = UNSET
    nic: DeviceSpec | UnsetType = UNSET
    xml: Text = UNSET


class MemoryModule(Struct, frozen=True, kw_only=True):
    """A memory module: how large, for which cell of the guest; or the one of that alias."""

    size_mib: Annotated[Number, ovirt("size")] = UNSET
    node: Number = UNSET
    device: Text = UNSET
    device_type: Annotated[Text, ovirt("deviceType")] = UNSET
    device_id: Annotated[Text, ovirt("deviceId")] = UNSET
    alias: Text = UNSET
    address: DeviceAddress | UnsetType = UNSET


class MemoryChange(Struct, frozen=True, kw_only=True):
    """A memory module, by its XML or its size; `guaranteed_memory_mib` is what the VM is sure of afterwards."""

    vm_id: Annotated[Text, ovirt("vmId")] = UNSET
    xml: Text = UNSET
    memory: MemoryModule | UnsetType = UNSET
    guaranteed_memory_mib: Annotated[Number, ovirt("memGuaranteedSize")] = UNSET


class LeaseDevice(Struct, frozen=True, kw_only=True):
    """An external lease that the VM is to hold while it runs."""

    type: str = "lease"
    domain_id: Annotated[str, ovirt("sd_id")]
    lease_id: str


class PluggedNic(Struct, frozen=True, kw_only=True):
    """A network card as it was plugged."""

    mac_address: Annotated[str, ovirt("macAddr")]
    alias: str


class NicPlugged(Struct, frozen=True, kw_only=True):
    """The network card that is there now, and the VM's XML with it."""

    devices: list[PluggedNic]
    xml: str


_FAILS = ("no-such-vm", "vm-is-down", "wrong-state", "migration-in-progress", "missing-parameter", "vm-request-failed")
_Vm = Annotated[VmId, ovirt("vmID"), "the VM's id"]
_Disk = Annotated[DiskChange, ovirt("params"), "the disk"]
_Nic = Annotated[NicChange, ovirt("params"), "the card"]
_Memory = Annotated[MemoryChange, ovirt("params"), "the module"]
_Lease = Annotated[LeaseDevice, ovirt("lease"), "the lease"]
_HostDevices = Annotated[list[str], ovirt("devices"), "documents like those of disks, each with one hostdev"]


@group("device", "/vms")
class DeviceApi(Protocol):
    """Devices of a VM that runs. What a daemon that is killed meanwhile leaves half done, the next one undoes."""

    @verb("VM.hotplugDisk", "POST /{vm_id}/hotplug-disk", fails=(*_FAILS, "plug-disk-failed"))
    @xmlrpc("hotplugDisk", "change", member="vmList")
    async def plug_disk(self, vm_id: _Vm, change: _Disk) -> None:
        """Prepare a disk's image and plug it in."""

    @verb("VM.hotunplugDisk", "POST /{vm_id}/hotunplug-disk", fails=(*_FAILS, "unplug-disk-failed"))
    @xmlrpc("hotunplugDisk", "change", member="vmList")
    async def unplug_disk(self, vm_id: _Vm, change: _Disk) -> None:
        """Unplug the disk of that alias, volume or path, wait until the guest lets go of it, and release its image."""

    @verb("VM.hotplugNic", "POST /{vm_id}/hotplug-nic", fails=(*_FAILS, "plug-nic-failed"))
    @xmlrpc("hotplugNic", "change", member="vmList")
    async def plug_nic(self, vm_id: _Vm, change: _Nic) -> NicPlugged:
        """Plug a network card in."""

    @verb("VM.hotunplugNic", "POST /{vm_id}/hotunplug-nic", fails=(*_FAILS, "unplug-nic-failed"))
    @xmlrpc("hotunplugNic", "change", member="vmList")
    async def unplug_nic(self, vm_id: _Vm, change: _Nic) -> None:
        """Unplug the network card of that alias, or of that address, and wait until the guest lets go of it."""

    @verb("VM.hotplugMemory", "POST /{vm_id}/hotplug-memory", fails=(*_FAILS, "plug-memory-failed"))
    @xmlrpc("hotplugMemory", "change", member="vmList")
    async def plug_memory(self, vm_id: _Vm, change: _Memory) -> None:
        """Plug a memory module in."""

    @verb("VM.hotunplugMemory", "POST /{vm_id}/hotunplug-memory", fails=(*_FAILS, "unplug-memory-failed"))
    async def unplug_memory(self, vm_id: _Vm, change: _Memory) -> None:
        """Ask the guest to let go of a memory module; whether it does shows later."""

    @verb("VM.hotplugLease", "POST /{vm_id}/hotplug-lease", fails=(*_FAILS, "plug-lease-failed"))
    async def plug_lease(self, vm_id: _Vm, lease: _Lease) -> None:
        """Have the VM hold an external lease from now on."""

    @verb("VM.hotunplugLease", "POST /{vm_id}/hotunplug-lease", fails=(*_FAILS, "unplug-lease-failed"))
    async def unplug_lease(self, vm_id: _Vm, lease: _Lease) -> None:
        """Have the VM let go of an external lease."""

    @verb("VM.hotplugHostdev", "POST /{vm_id}/hotplug-hostdev", fails=_FAILS)
    @xmlrpc("hostdevHotplug", "vm_id devices", member="assignedDevices")
    async def plug_host_devices(self, vm_id: _Vm, devices: _HostDevices) -> list[str]:
        """Give devices of this host to the VM; the XML of those that libvirt took, the others are left out."""

    @verb("VM.hotunplugHostdev", "POST /{vm_id}/hotunplug-hostdev", fails=_FAILS)
    @xmlrpc("hostdevHotunplug", "vm_id devices", member="unpluggedDevices")
    async def unplug_host_devices(self, vm_id: _Vm, devices: _HostDevices) -> list[str]:
        """Take devices, by their aliases, back from the VM; the XML of those that it let go of."""
