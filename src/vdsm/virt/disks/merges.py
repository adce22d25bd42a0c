"""Merges layers of disks of VMs that run (facts §2.15); what comes next for a merge is decided by `merge_plan`.

A merge is noted in the VM's metadata before each phase, and each step may be taken again: the next daemon goes on where
this one was killed, or finds that it is over. Base volumes that would have to grow first, on block storage, are not
supported.
"""

import logging
from contextlib import suppress

from vdsm.api import errors
from vdsm.core.children import wait_until
from vdsm.core.errors import NodeError
from vdsm.virt.disks.drives import Drive, find_drive, list_drives, set_volume
from vdsm.virt.disks.merge_plan import (
    CannotMerge,
    Course,
    Merge,
    MergeRecord,
    choose_course,
    find_records,
    list_chain,
    move,
    note,
    plan_merge,
)
from vdsm.virt.lifecycle import Request
from vdsm.virt.metadata import VolumeRef
from vdsm.virt.ports import HypervisorRefused
from vdsm.virt.power import check_possible
from vdsm.virt.recovery import is_alive
from vdsm.virt.shared import Shared, attempt
from vdsm.virt.vm import Vm

log = logging.getLogger(__name__)


class Merges:
    """Begins merges, and follows each until it is over."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def begin(self, vm: Vm, volume: VolumeRef, base_id: str, top_id: str, bandwidth: int, job_id: str) -> None:
        """Begin to merge layers of the disk with that active volume, as the job of that id.

        Raises ImageUnknown (13), MergeFailed (52), MergeBaseTooSmall (79), what `check_possible` does.
        """
        async with vm.changing:
            check_possible(self._shared, vm, Request.MERGE)
            await self._shared.refresh(vm)
            drive = None if vm.is_external else find_drive(vm.view, vm.metadata, volume)
            if drive is None:
                raise errors.ImageUnknown(f"no disk is on volume {volume.volume_id} of image {volume.image_id}")
            try:
                if job_id in vm.merges:
                    raise CannotMerge(f"there is a job {job_id} already")
                base, top = plan_merge(drive, base_id, top_id, vm.merges.values())
                await self._check_base(drive, base_id, top_id)
                record = MergeRecord(
                    id=job_id,
                    drive=drive.target,
                    disk=drive.volume.ids,
                    base=base_id,
                    top=top_id,
                    bandwidth=bandwidth,
                )
                await self._start(vm, Merge(record), base, top)
            except errors.MergeBaseTooSmall:
                raise
            except (CannotMerge, NodeError) as error:
                raise errors.MergeFailed(str(error)) from error

    def recover(self, vm: Vm) -> None:
        """Follow what an earlier daemon began."""
        for record in find_records(vm.metadata).values():
            self._follow(vm, Merge(record))

    async def _check_base(self, drive: Drive, base_id: str, top_id: str) -> None:
        volume = drive.volume
        base = await self._shared.images.get_volume(volume.domain_id, volume.image_id, base_id)
        top = await self._shared.images.get_volume(volume.domain_id, volume.image_id, top_id)
        if base.is_shared:
            raise CannotMerge(f"volume {base_id} is a template")
        if base.format == "raw" and base.capacity_bytes < top.capacity_bytes:
            raise errors.MergeBaseTooSmall(base_id)

    async def _start(self, vm: Vm, merge: Merge, base: str, top: str) -> None:
        hypervisor, record = self._shared.hypervisor, merge.record
        vm.merges[record.id] = merge
        try:
            await self._shared.store(vm, note(vm.metadata, vm.merges.values()))
            await hypervisor.commit_blocks(vm.vm_id, record.drive, base, top, record.bandwidth, active=record.is_active)
        except HypervisorRefused:
            await self._forget(vm, merge)
            raise
        except NodeError:
            self._follow(vm, merge)  # Nobody knows whether it began: that shows.
            raise
        self._follow(vm, merge)
        with suppress(NodeError):  # It goes on, whether or not its first figures are known.
            merge.figures = await hypervisor.find_block_job(vm.vm_id, record.drive)

    def _follow(self, vm: Vm, merge: Merge) -> None:
        vm.merges[merge.record.id] = merge
        self._shared.children.spawn(self._run(vm, merge), f"merge {merge.record.id} of VM {vm.vm_id}")

    async def _run(self, vm: Vm, merge: Merge) -> None:
        while True:
            merge.changed.clear()
            try:
                async with vm.changing:
                    if vm.is_alive and not merge.is_followed:
                        # This waits for what libvirt does for the VM just now, whoever asked for it.
                        await self._shared.store(vm, note(vm.metadata, vm.merges.values()))
                        merge.is_followed = True
                    is_over = await self._go_on(vm, merge)
            except NodeError as error:
                log.warning("VM %s: merge %s cannot go on yet: %s", vm.vm_id, merge.record.id, error)
                is_over = False
            if is_over:
                return
            await wait_until(merge.changed, self._shared.settings.jobs_interval_s, self._shared.clock)

    async def _go_on(self, vm: Vm, merge: Merge) -> bool:
        """Take the next step; whether it is over."""
        shared, record = self._shared, merge.record
        if not vm.is_alive:
            await self._conclude(vm, merge)
            return True
        merge.figures = await shared.hypervisor.find_block_job(vm.vm_id, record.drive)
        if not await self._look(vm):
            return False
        drive = find_disk(vm, record)
        course = choose_course(record, drive, merge.figures)
        if course is Course.CLEAN_UP and drive is not None and await self._pivot(vm, merge, drive):
            drive, course = find_disk(vm, record), Course.FINISH
        if course is Course.FINISH and drive is not None:
            await self._finish(vm, merge, drive)
            return True
        if course is Course.GIVE_UP:
            log.warning("VM %s: merge %s ended without success", vm.vm_id, record.id)
            if record.is_active and drive is not None:
                await self._sync(record, list_chain(drive))
            await self._forget(vm, merge)
            return True
        return False

    async def _look(self, vm: Vm) -> bool:
        """Read the chains anew; False when that fails, or the VM has ended: what is told then are no chains."""
        record = await self._shared.refresh(vm)
        return record is not None and is_alive(record.state)

    async def _pivot(self, vm: Vm, merge: Merge, drive: Drive) -> bool:
        """Let the guest write to the base from now on; whether it does."""
        chain = list_chain(drive)
        await self._change(vm, merge, move(merge.record, "CLEANUP"))
        await self._grow_base(merge.record)
        await self._sync(merge.record, chain[chain.index(merge.record.base) :])
        await self._change(vm, merge, move(merge.record, "CLEANUP", pivot=False))
        work = self._shared.hypervisor.end_block_job(vm.vm_id, merge.record.drive, pivot=True)
        await attempt(vm, f"{drive.target} did not pivot", work)
        if not await self._look(vm):
            return False  # Nobody knows: the next look tells.
        found = find_disk(vm, merge.record)
        if found is None or merge.record.top not in found.chain:
            return found is not None
        await self._sync(merge.record, chain)
        await self._change(vm, merge, move(merge.record, "COMMIT"))
        return False

    async def _finish(self, vm: Vm, merge: Merge, drive: Drive) -> None:
        """The disk is without the top: let storage and the VM's metadata tell so."""
        record = merge.record
        if record.state != "CLEANUP":
            await self._change(vm, merge, move(record, "CLEANUP"))
        await self._grow_base(record)
        await self._sync(record, list_chain(drive))
        image = await self._shared.prepare(drive.volume)
        vm.metadata = set_volume(vm.metadata, drive.target, drive.volume, image.chain)
        await self._forget(vm, merge)

    async def _conclude(self, vm: Vm, merge: Merge) -> None:
        """The VM ended meanwhile. A top that is in use still must not be called illegal."""
        record = merge.record
        if record.state == "CLEANUP" and record.is_active:
            was_asked = record.pivot is not None
            drive = find_disk(vm, record) if await self._shared.refresh(vm) is not None else None
            if drive.volume.volume_id == record.top if drive is not None else not was_asked:
                await self._sync(record, [record.top])
        await self._forget(vm, merge)

    async def _change(self, vm: Vm, merge: Merge, record: MergeRecord) -> None:
        merge.record = record
        await self._shared.store(vm, note(vm.metadata, vm.merges.values()))

    async def _forget(self, vm: Vm, merge: Merge) -> None:
        others = [other for other in vm.merges.values() if other is not merge]
        await self._shared.save_metadata(vm, note(vm.metadata, others))
        vm.merges.pop(merge.record.id, None)

    async def _grow_base(self, record: MergeRecord) -> None:
        volume, images = record.volume, self._shared.images
        top = await images.get_volume(volume.domain_id, volume.image_id, record.top)
        base = await images.get_volume(volume.domain_id, volume.image_id, record.base)
        if base.capacity_bytes < top.capacity_bytes:
            await images.set_capacity(volume.domain_id, volume.image_id, record.base, top.capacity_bytes)

    async def _sync(self, record: MergeRecord, real: list[str]) -> None:
        volume = record.volume
        await self._shared.images.sync_chain(volume.domain_id, volume.image_id, volume.volume_id, real)


def find_disk(vm: Vm, record: MergeRecord) -> Drive | None:
    """The merge's disk as it is now."""
    for drive in list_drives(vm.view, vm.metadata):
        if drive.target == record.drive and drive.volume.image_id == record.volume.image_id:
            return drive
    return None
