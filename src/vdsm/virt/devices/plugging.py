"""Devices that are plugged into VMs that run, and unplugged (facts §2.12).

What is known of a device beside libvirt's XML, such as the volume of a disk, is written into the VM's metadata before
the device is plugged, and forgotten after it has gone and its image was released. So a daemon that is killed in between
leaves metadata of a device that is not there: whoever finds that forgets it, and releases the image.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from xml.etree.ElementTree import Element

from vdsm.api import errors
from vdsm.api.devices import NicPlugged, PluggedNic
from vdsm.core.children import wait_until
from vdsm.core.errors import NodeError
from vdsm.virt import hostedits
from vdsm.virt.devices.media import settle_changes
from vdsm.virt.devices.plug import Plug, find_device, get_alias
from vdsm.virt.domain import DomainView
from vdsm.virt.elements import element, format_xml, parse_xml
from vdsm.virt.lifecycle import Request
from vdsm.virt.metadata import DeviceMetadata
from vdsm.virt.ports import HypervisorRefused
from vdsm.virt.power import Failure, check_possible, failing_as
from vdsm.virt.shared import Shared
from vdsm.virt.vm import Vm

log = logging.getLogger(__name__)


class Devices:
    """Changes the devices of VMs, one at a time of each VM."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def plug_disk(self, vm: Vm, plug: Plug) -> None:
        """Prepare the image and plug the disk in. Raises PlugDiskFailed (45), VmRequestFailed (100) for the image."""
        async with self._changing(vm):
            target = plug.disk.target
            if vm.view is not None and any(disk.target == target for disk in vm.view.disks):
                raise errors.PlugDiskFailed(f"the VM has a disk {target} already")
            async with self._remembered(vm, plug, errors.PlugDiskFailed):
                await self._prepare(vm, plug)
                await self._attach(vm, plug.device)

    async def unplug_disk(self, vm: Vm, plug: Plug) -> None:
        """Unplug the disk and release its image. Raises UnplugDiskFailed (46), also when the guest keeps it."""
        await self._unplug(vm, plug, errors.UnplugDiskFailed)

    async def plug_nic(self, vm: Vm, plug: Plug) -> NicPlugged:
        """Plug the network card in; it, and the VM's XML then. Raises PlugNicFailed (49)."""
        async with self._changing(vm):
            before = {card.alias for card in vm.view.interfaces} if vm.view else set()
            async with self._remembered(vm, plug, errors.PlugNicFailed):
                await self._attach(vm, plug.device)
            cards = vm.view.interfaces if vm.view else ()
            plugged = [PluggedNic(mac_address=card.mac_address, alias=card.alias) for card in cards]
            return NicPlugged(devices=[card for card in plugged if card.alias not in before], xml=vm.xml)

    async def unplug_nic(self, vm: Vm, plug: Plug) -> None:
        """Unplug the network card. Raises UnplugNicFailed (50), also when the guest keeps it."""
        await self._unplug(vm, plug, errors.UnplugNicFailed)

    async def plug_memory(self, vm: Vm, module: Element, guaranteed_mib: int | None) -> None:
        """Plug the module in. Raises PlugMemoryFailed (70)."""
        root = element("hotplug", element("devices", module))
        async with self._changing(vm):
            await self._refuse_folders(root)
            with failing_as(vm, errors.PlugMemoryFailed):
                await self._attach(vm, module)
            if guaranteed_mib is not None:
                await self._shared.save(vm, memGuaranteedSize=guaranteed_mib)

    async def unplug_memory(self, vm: Vm, plug: Plug) -> None:
        """Ask the guest to let go of a module, which shows later. Raises UnplugMemoryFailed (85)."""
        async with self._changing(vm):
            with failing_as(vm, errors.UnplugMemoryFailed):
                await self._detach(vm, plug, errors.UnplugMemoryFailed)

    async def plug_lease(self, vm: Vm, domain_id: str, lease_id: str) -> None:
        """Have libvirt hold the lease. Raises PlugLeaseFailed (86), VmRequestFailed (100) without such a lease."""
        async with self._changing(vm):
            device = await self._build_lease(domain_id, lease_id)
            with failing_as(vm, errors.PlugLeaseFailed):
                await self._attach(vm, device)

    async def unplug_lease(self, vm: Vm, domain_id: str, lease_id: str) -> None:
        """Have libvirt let go of the lease. Raises UnplugLeaseFailed (87), VmRequestFailed (100) if there is none."""
        async with self._changing(vm):
            device = await self._build_lease(domain_id, lease_id)
            with failing_as(vm, errors.UnplugLeaseFailed):
                await self._shared.hypervisor.detach_device(vm.vm_id, format_xml(device))
                await self._shared.refresh(vm)

    async def plug_host_device(self, vm: Vm, plug: Plug) -> str | None:
        """Give a device of this host to the VM; its XML then, or None when libvirt refuses."""
        async with self._changing(vm):
            before = _list_aliases(vm)
            plug.device.set("managed", "yes")  # libvirt takes it from its driver, and gives it back in the end
            try:
                await self._attach(vm, plug.device)
            except HypervisorRefused as error:
                log.warning("VM %s: a device of this host is left out: %s", vm.vm_id, error)
                return None
            devices = parse_xml(vm.xml).iterfind("devices/hostdev")
            return next((format_xml(device) for device in devices if get_alias(device) not in before), None)

    async def unplug_host_device(self, vm: Vm, plug: Plug) -> str | None:
        """Take the device of that alias back; its XML before, or None when the VM has none or keeps it."""
        device = find_device(parse_xml(vm.xml), None, plug)
        try:
            await self._unplug(vm, plug, errors.VmRequestFailed)
        except errors.VmRequestFailed as error:
            log.warning("VM %s: a device of this host is left: %s", vm.vm_id, error)
            return None
        return None if device is None else format_xml(device)

    async def settle(self, vm: Vm) -> None:
        """Forget devices that are not there, and release their images, when nobody is changing the VM's devices."""
        async with vm.changing:
            await self._settle(vm)

    @asynccontextmanager
    async def _changing(self, vm: Vm) -> AsyncIterator[None]:
        async with vm.changing:
            check_possible(self._shared, vm, Request.PLUG)
            yield

    @asynccontextmanager
    async def _remembered(self, vm: Vm, plug: Plug, failure: Failure) -> AsyncIterator[None]:
        """What is told of the device is in the VM's metadata; not when plugging fails for sure."""
        told = plug.find_metadata()
        try:
            with failing_as(vm, failure):
                if told is not None:
                    vm.has_images = vm.has_images or told.volume is not None
                    await self._shared.store(vm, vm.metadata.with_device(told))
                yield
        except NodeError:
            if not vm.is_stale:
                await self._settle(vm)
            raise

    async def _prepare(self, vm: Vm, plug: Plug) -> None:
        disk, prepared = plug.disk, list[str]()
        if disk.volume is not None:
            try:
                image = await self._shared.prepare(disk.volume)
            except NodeError as error:
                raise errors.VmRequestFailed(f"Bad volume specification: {disk.target}: {error}") from error
            hostedits.set_images(plug.root, {disk.target: image}, relabel=self._shared.settings.relabel_disks)
            prepared.append(image.path)
        await self._refuse_folders(plug.root, prepared)

    async def _refuse_folders(self, root: Element, prepared: Sequence[str] = ()) -> None:
        if (path := await self._shared.find_folder(root, prepared)) is not None:
            raise errors.VmRequestFailed(f"Not a file: {path} is a folder")

    async def _attach(self, vm: Vm, device: Element) -> None:
        await self._shared.hypervisor.attach_device(vm.vm_id, format_xml(device))
        await self._shared.refresh(vm)

    async def _unplug(self, vm: Vm, plug: Plug, failure: Failure) -> None:
        async with self._changing(vm):
            with failing_as(vm, failure):
                await self._wait_gone(vm, await self._detach(vm, plug, failure), failure)
            await self._settle(vm)

    async def _detach(self, vm: Vm, plug: Plug, failure: Failure) -> str:
        """Ask the guest to let go of it; its alias."""
        record = await self._shared.hypervisor.get_domain(vm.vm_id)
        device = find_device(parse_xml(record.xml), vm.metadata, plug)
        if device is None:
            raise failure("the VM has no such device")
        await self._shared.hypervisor.detach_device(vm.vm_id, format_xml(device))
        return get_alias(device)

    async def _wait_gone(self, vm: Vm, alias: str, failure: Failure) -> None:
        clock, settings = self._shared.clock, self._shared.settings
        deadline_s = clock.monotonic() + settings.unplug_timeout_s
        while True:
            vm.device_removed.clear()
            record = await self._shared.refresh(vm)
            if record is not None and alias not in _list_aliases(vm):
                return
            if clock.monotonic() >= deadline_s:
                raise failure(f"the guest has not let go of {alias} within {settings.unplug_timeout_s:g} s")
            await wait_until(vm.device_removed, settings.unplug_check_s, clock)

    async def _build_lease(self, domain_id: str, lease_id: str) -> Element:
        try:
            path, offset_bytes = await self._shared.images.find_lease(domain_id, lease_id)
        except NodeError as error:
            raise errors.VmRequestFailed(f"lease {lease_id} of domain {domain_id}: {error}") from error
        names = (element("lockspace", text=domain_id), element("key", text=lease_id))
        return element("lease", *names, element("target", path=path, offset=offset_bytes))

    async def _settle(self, vm: Vm) -> None:
        await settle_changes(self._shared, vm)
        if vm.view is None or vm.is_external or not vm.is_alive:
            return
        missing = [device for device in vm.metadata.devices if _is_missing(device, vm.view)]
        if not missing:
            return
        left = vm.metadata.without_devices(lambda device: device in missing)
        used = {device.volume.image_id for device in left.devices if device.volume is not None}
        for device in missing:
            log.info("VM %s: %s is not there (any more)", vm.vm_id, dict(device.attributes))
            if device.volume is not None and device.volume.image_id not in used:
                await self._shared.release_image(vm, device.volume)
        await self._shared.save_metadata(vm, left)


def _list_aliases(vm: Vm) -> set[str]:
    return {get_alias(device) for device in parse_xml(vm.xml).iterfind("devices/*")}


def _is_missing(device: DeviceMetadata, view: DomainView) -> bool:
    """Only disks and network cards can be told by what libvirt knows of them too."""
    attributes = device.attributes
    if attributes.get("devtype") == "disk" and "name" in attributes:
        return all(disk.target != attributes["name"] for disk in view.disks)
    if "mac_address" in attributes:
        return all(card.mac_address.lower() != attributes["mac_address"].lower() for card in view.interfaces)
    return False
