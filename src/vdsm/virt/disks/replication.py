"""Copies disks of VMs that run to other storage, and lets the VMs go over to it (facts §2.16).

The disk's metadata names its replica before anything else is done. So the next daemon finds it, and libvirt's XML tells
whether the guest writes to the replica, to both, or to what it had.
"""

import logging

from vdsm.api import errors
from vdsm.core.children import wait_until
from vdsm.core.errors import NodeError
from vdsm.virt.disks.drives import Drive, build_disk, find_drive, is_at, list_drives, set_volume
from vdsm.virt.elements import format_xml
from vdsm.virt.lifecycle import Request
from vdsm.virt.metadata import REPLICA, DeviceMetadata, VolumeRef
from vdsm.virt.power import check_possible
from vdsm.virt.recovery import is_alive
from vdsm.virt.shared import Shared, find_chain
from vdsm.virt.vm import Vm

log = logging.getLogger(__name__)


class Replication:
    """Begins replicas of disks, and ends them one way or the other."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def begin(self, vm: Vm, source: VolumeRef, replica: VolumeRef) -> None:
        """Begin to write what the disk's top has, and gets, to the replica too; a copy of what is below lies there.

        Raises ImageUnknown (13), DiskHoldsLease (44), DiskIsTransient (59), ReplicationFailed (55).
        """
        async with vm.changing:
            drive, known = await self._find(vm, source)
            if known.find_part(REPLICA) is not None or drive.disk.mirror:
                raise errors.ReplicationFailed(f"{drive.target} has a mirror already")
            if drive.volume == replica:
                raise errors.ReplicationFailed("a disk is no replica of itself")
            told = known.with_part(REPLICA, {**replica.ids, "device": "disk", "format": "cow"})
            try:
                await self._shared.store(vm, vm.metadata.with_device(told))
                image = await self._shared.prepare(replica)
                if image.format != "cow":
                    raise errors.ReplicationFailed(f"volume {replica.volume_id} is no qcow2")
                xml = format_xml(build_disk(drive, image, relabel=self._shared.settings.relabel_disks))
                await self._shared.hypervisor.copy_blocks(vm.vm_id, drive.target, xml)
            except NodeError as error:
                await self._settle(vm)  # A call that failed may have been heard.
                if isinstance(error, errors.ReplicationFailed):
                    raise
                raise errors.ReplicationFailed(str(error)) from error

    async def finish(self, vm: Vm, source: VolumeRef, target: VolumeRef) -> None:
        """Let the guest go over to the replica, `target`, or drop that when it is the disk itself.

        Raises what `begin` does, ReplicationNotInProgress (88), ReplicaNotReady (40), and ChangeDiskFailed (41) when
        libvirt does not do it.
        """
        async with vm.changing:
            drive, known = await self._find(vm, source)
            replica, is_kept = known.find_part_volume(REPLICA), target.ids != source.ids
            if replica is None:
                raise errors.ReplicationNotInProgress(drive.target)
            if is_kept and target.ids != replica.ids:
                raise errors.ReplicationFailed(f"{drive.target} is replicated to volume {replica.volume_id}")
            try:
                job = await self._shared.hypervisor.find_block_job(vm.vm_id, drive.target)
                if job is not None:
                    if is_kept and not (drive.disk.is_mirrored and job.done_bytes == job.end_bytes):
                        raise errors.ReplicaNotReady(drive.target)
                    await self._shared.hypervisor.end_block_job(vm.vm_id, drive.target, pivot=is_kept)
            except errors.ReplicaNotReady:
                raise
            except NodeError as error:
                await self._settle(vm)
                found = vm.metadata.device(devtype="disk", name=drive.target)
                if found is None or found.find_part(REPLICA) is not None or found.volume != target:
                    raise errors.ChangeDiskFailed(str(error)) from error
                return
            await self._settle(vm)
            if job is None and is_kept:
                raise errors.ReplicationFailed(f"{drive.target} is replicated no more")

    def recover(self, vm: Vm) -> None:
        """See, in the background, to what an earlier daemon began."""
        if any(device.find_part(REPLICA) is not None for device in vm.metadata.devices):
            self._shared.children.spawn(self._recover(vm), f"see to replicas of VM {vm.vm_id}")

    async def _find(self, vm: Vm, source: VolumeRef) -> tuple[Drive, DeviceMetadata]:
        check_possible(self._shared, vm, Request.PLUG)
        await self._shared.refresh(vm)
        drive = None if vm.is_external else find_drive(vm.view, vm.metadata, source)
        known = None if drive is None else vm.metadata.device(devtype="disk", name=drive.target)
        if drive is None or known is None or vm.view is None:
            raise errors.ImageUnknown(f"no disk is on volume {source.volume_id} of image {source.image_id}")
        if drive.volume.volume_id in vm.view.leases:
            raise errors.DiskHoldsLease(drive.target)
        if drive.disk.is_transient:
            raise errors.DiskIsTransient(drive.target)
        return drive, known

    async def _recover(self, vm: Vm) -> None:
        shared = self._shared
        while vm.is_alive:
            try:
                async with vm.changing:
                    await shared.store(vm, vm.metadata)  # This waits for what libvirt does for the VM just now.
                    await self._settle(vm)
                return
            except NodeError as error:
                log.warning("VM %s: nobody knows yet what became of its replicas: %s", vm.vm_id, error)
                await wait_until(vm.stopped, shared.settings.retry_s, shared.clock)

    async def _settle(self, vm: Vm) -> None:
        """Let the metadata tell of replicas what libvirt does, and release images that are not written to any more."""
        record = await self._shared.refresh(vm)
        if record is None or not is_alive(record.state):
            return  # What nobody knows now is found later; a VM that ended has all its images released.
        replicas = [
            (drive, replica)
            for drive in list_drives(vm.view, vm.metadata)
            if (known := vm.metadata.device(devtype="disk", name=drive.target)) is not None
            and (replica := known.find_part_volume(REPLICA)) is not None
            and not drive.disk.mirror
        ]
        if not replicas:
            return
        chains = [await find_chain(self._shared, one) if is_at(drive.disk.path, one) else () for drive, one in replicas]
        metadata, released = vm.metadata, list[VolumeRef]()
        for (drive, replica), chain in zip(replicas, chains, strict=True):
            is_there = is_at(drive.disk.path, replica)
            if is_there:
                log.info("VM %s: %s is on domain %s now", vm.vm_id, drive.target, replica.domain_id)
                metadata = set_volume(metadata, drive.target, replica, chain)
            known = metadata.device(devtype="disk", name=drive.target)
            if known is not None:
                metadata = metadata.with_device(known.with_part(REPLICA, None))
            released.append(drive.volume if is_there else replica)
        await self._shared.save_metadata(vm, metadata)
        await self._shared.refresh(vm)
        for volume in released:
            await self._shared.release_image(vm, volume)
