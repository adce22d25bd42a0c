"""Lets guests see larger disks, and reads sizes anew (facts §2.17); volumes themselves are extended by storage."""

from vdsm.api import errors
from vdsm.api.storage_types import VolumeSize
from vdsm.core.errors import NodeError
from vdsm.virt.disks.drives import Drive, find_drive
from vdsm.virt.lifecycle import Request
from vdsm.virt.metadata import VolumeRef
from vdsm.virt.power import check_possible
from vdsm.virt.shared import Shared
from vdsm.virt.vm import Vm


class Resizer:
    """Sizes of disks. Raises ImageUnknown (13) for a volume that is no disk's active one."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def extend(self, vm: Vm, volume: VolumeRef, size_bytes: int) -> int:
        """Let the guest see that size, or what storage made of it; in bytes.

        Raises ResizeRefused (58), UpdateDeviceFailed (56). While a qcow2 volume changes, its record tells 0 bytes:
        should this end there, whoever prepares the image next lets it tell what the volume has.
        """
        async with vm.changing:
            check_possible(self._shared, vm, Request.PLUG)
            drive = self._find(vm, volume)
            try:
                return await self._extend(vm, drive, size_bytes)
            except errors.ResizeRefused:
                raise
            except NodeError as error:
                raise errors.UpdateDeviceFailed(str(error)) from error

    async def record(self, volume: VolumeRef, size_bytes: int) -> int:
        """Let the record of a volume that no VM uses tell that size. Raises what `extend` does."""
        try:
            await self._check(volume, size_bytes)
            await self._tell(volume, size_bytes)
        except errors.ResizeRefused:
            raise
        except NodeError as error:
            raise errors.UpdateDeviceFailed(str(error)) from error
        return size_bytes

    async def refresh(self, vm: Vm, volume: VolumeRef) -> VolumeSize:
        """What the disk's volume takes now. Raises DiskRefreshFailed (1640)."""
        drive = self._find(vm, volume)
        try:
            size = await self._shared.images.get_size(*drive.volume.ids.values())
        except NodeError as error:
            raise errors.DiskRefreshFailed(str(error)) from error
        return VolumeSize(size_bytes=size.apparent, allocated_bytes=size.allocated)

    async def _extend(self, vm: Vm, drive: Drive, size_bytes: int) -> int:
        volume, hypervisor = drive.volume, self._shared.hypervisor
        if drive.disk.format == "raw":
            found = await self._shared.images.get_size(*volume.ids.values())
            await self._check(volume, size_bytes)
            if found.apparent < size_bytes:
                raise errors.UpdateDeviceFailed(f"its volume has {found.apparent} bytes: extend that first")
            return await hypervisor.resize_block(vm.vm_id, drive.target, found.apparent)
        old_bytes = await self._check(volume, size_bytes)
        await self._tell(volume, 0)
        try:
            old_bytes = await hypervisor.resize_block(vm.vm_id, drive.target, size_bytes)
        finally:
            await self._tell(volume, old_bytes)
        return old_bytes

    async def _check(self, volume: VolumeRef, size_bytes: int) -> int:
        figures = await self._shared.images.get_volume(volume.domain_id, volume.image_id, volume.volume_id)
        if size_bytes < figures.capacity_bytes:
            raise errors.ResizeRefused("newSize", f"the disk has {figures.capacity_bytes} bytes already")
        return figures.capacity_bytes

    async def _tell(self, volume: VolumeRef, size_bytes: int) -> None:
        await self._shared.images.set_capacity(volume.domain_id, volume.image_id, volume.volume_id, size_bytes)

    def _find(self, vm: Vm, volume: VolumeRef) -> Drive:
        drive = None if vm.is_external else find_drive(vm.view, vm.metadata, volume)
        if drive is None:
            raise errors.ImageUnknown(f"no disk is on volume {volume.volume_id} of image {volume.image_id}")
        return drive
