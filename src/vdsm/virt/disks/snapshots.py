"""Takes snapshots of the disks of VMs that run (facts §2.14); which disks, and what is noted, `snapshot_plan` tells.

The note of a snapshot is in the VM's metadata before libvirt is asked. What came of it is read from libvirt's XML, also
by the next daemon: libvirt does what it was asked for whoever is there to hear of it.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from xml.etree.ElementTree import Element

from msgspec import Struct

from vdsm.api import errors
from vdsm.api.disks import SnapshotDrive
from vdsm.core.children import wait_until
from vdsm.core.errors import NodeError
from vdsm.virt.disks.drives import build_disk, list_drives, set_volume
from vdsm.virt.disks.freezing import frozen
from vdsm.virt.disks.snapshot_plan import (
    KEY,
    CannotSnapshot,
    NewTop,
    SnapshotRecord,
    check_image,
    find_record,
    plan_snapshot,
)
from vdsm.virt.domain import get_attribute
from vdsm.virt.elements import element, format_xml, parse_xml
from vdsm.virt.lifecycle import Request
from vdsm.virt.ports import PreparedImage
from vdsm.virt.power import check_possible
from vdsm.virt.saved import MemoryVolumes, format_snapshot
from vdsm.virt.shared import Shared, attempt, find_chain, sync_time
from vdsm.virt.vm import Vm

log = logging.getLogger(__name__)

JOB_NAME = "snapshot_vm"


class SnapshotOrder(Struct, frozen=True, kw_only=True):
    """A snapshot as its caller wants it."""

    job_id: str
    drives: Sequence[SnapshotDrive]
    frozen: bool
    timeout_s: int
    freeze_timeout_s: int
    memory: MemoryVolumes | None = None


class Snapshots:
    """Snapshots of disks, one at a time of each VM."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def begin(self, vm: Vm, order: SnapshotOrder) -> None:
        """Begin, as a job. Raises what `check_possible` does, and for a job id that is in use."""
        check_possible(self._shared, vm, Request.SNAPSHOT)
        await self._shared.jobs.start(order.job_id, JOB_NAME, vm.vm_id, lambda: self._run(vm, order))

    def recover(self, vm: Vm) -> None:
        """Go on with what an earlier daemon began, in the background, and tell its end under the same id."""
        if KEY not in vm.metadata.values:
            return
        record = find_record(vm.metadata)
        work = self._shared.save(vm, **{KEY: None}) if record is None else self._recover(vm, record)
        self._shared.children.spawn(work, f"end the snapshot of VM {vm.vm_id}")

    async def _run(self, vm: Vm, order: SnapshotOrder) -> None:
        try:
            async with vm.changing:
                check_possible(self._shared, vm, Request.SNAPSHOT)
                await self._take(vm, order)
        except (CannotSnapshot, NodeError) as error:
            raise errors.SnapshotFailed(str(error)) from error

    async def _take(self, vm: Vm, order: SnapshotOrder) -> None:
        if vm.is_external:
            raise CannotSnapshot("the VM is somebody else's")
        await self._shared.refresh(vm)
        plan = plan_snapshot(vm.view, vm.metadata, order.drives)
        if order.memory is not None and not order.drives:
            raise CannotSnapshot("memory goes with disks of the same moment")
        if not plan:
            return
        record = make_record(order, self._shared.clock.monotonic())
        failure: CannotSnapshot | NodeError | None = None
        await self._note(vm, record)
        try:
            tops = [(top, await self._prepare(top)) for top in plan]
            disks = [self._build_disk(*top) for top in tops]
            if record.memory is not None:
                record = record.with_memory(await self._prepare_memory(vm, record.memory))
            record = record.with_drives(tops, _list_disks(vm))
            await self._note(vm, record)
            async with frozen(self._shared, vm) if record.freezes else nullcontext():
                check_possible(self._shared, vm, Request.SNAPSHOT)
                await self._ask(vm, disks, record)
        except (CannotSnapshot, NodeError) as error:
            failure = error
        if not await self._settle(vm, record):
            raise failure or CannotSnapshot("libvirt did not do it")
        if self._shared.settings.syncs_time:
            await sync_time(self._shared, vm)

    async def _prepare(self, top: NewTop) -> PreparedImage:
        image = await self._shared.prepare(top.volume)
        check_image(top, image)
        return image

    async def _prepare_memory(self, vm: Vm, memory: MemoryVolumes) -> str:
        """Leave beside the memory what there is to know of the VM; the path for the memory."""
        images = self._shared.images
        target, beside = [await self._shared.prepare(volume) for volume in memory.volumes]
        domain = parse_xml(await self._shared.hypervisor.get_migratable_xml(vm.vm_id))
        for display in domain.iterfind("devices/graphics"):
            display.attrib.pop("passwd", None)
        content = format_snapshot(format_xml(domain), self._shared.find_elapsed_s(vm))
        await images.write(memory.parameters.domain_id, beside.path, content)
        return target.path

    def _build_disk(self, top: NewTop, image: PreparedImage) -> Element:
        disk = build_disk(top.drive, image, relabel=self._shared.settings.relabel_disks)
        return element("disk", *disk, name=top.drive.target, snapshot="external", type=disk.get("type"))

    async def _note(self, vm: Vm, record: SnapshotRecord) -> None:
        await self._shared.record(vm, **{KEY: record.encode()})

    async def _ask(self, vm: Vm, disks: Sequence[Element], record: SnapshotRecord) -> None:
        path = record.memoryVolPath
        if path is None and self._shared.clock.monotonic() > record.freeze_deadline_s:
            raise CannotSnapshot(f"it took more than {record.freezeTimeout} s to come so far")
        named = {disk.get("name") for disk in disks}
        all_disks = () if vm.view is None else vm.view.disks
        others = [element("disk", name=disk.target, snapshot="no") for disk in all_disks if disk.target not in named]
        document = element("domainsnapshot", element("disks", *disks, *others))
        if path is None:
            await self._shared.hypervisor.snapshot(vm.vm_id, format_xml(document))
            return
        document.append(element("memory", snapshot="external", file=path))
        taken = asyncio.create_task(self._shared.hypervisor.snapshot(vm.vm_id, format_xml(document), has_memory=True))
        over = asyncio.Event()
        taken.add_done_callback(lambda _: over.set())
        try:
            while not await wait_until(over, min(60.0, float(record.timeout) / 10), self._shared.clock):
                await self._abort_late(vm, record)
        finally:
            taken.cancel()
        await taken

    async def _abort_late(self, vm: Vm, record: SnapshotRecord) -> None:
        if self._shared.clock.monotonic() > record.deadline_s:
            log.warning("VM %s: its memory is not saved within %s s", vm.vm_id, record.timeout)
            await attempt(vm, "that could not be ended", self._shared.hypervisor.abort_move(vm.vm_id))

    async def _settle(self, vm: Vm, record: SnapshotRecord) -> bool:
        """Ask until libvirt tells what came of it, and let the metadata tell so; whether all disks have their tops."""
        shared = self._shared
        while await shared.refresh(vm) is None and vm.is_alive:
            await wait_until(vm.stopped, shared.settings.retry_s, shared.clock)
        wanted, drives = record.list_tops(), list_drives(vm.view, vm.metadata)
        drives = [drive for drive in drives if wanted.get(drive.target) == drive.volume.volume_id]
        is_done = bool(wanted) and len(drives) == len(wanted)
        if record.memory is not None:
            await self._settle_memory(vm, record.memory, is_done)
        chains = [await find_chain(shared, drive.volume) for drive in drives]
        metadata = vm.metadata.changed(**{KEY: None})
        for drive, chain in zip(drives, chains, strict=True):
            metadata = set_volume(metadata, drive.target, drive.volume, chain)
        await shared.save_metadata(vm, metadata)
        await shared.refresh(vm)
        return is_done

    async def _settle_memory(self, vm: Vm, memory: MemoryVolumes, is_done: bool) -> None:
        images, volume = self._shared.images, memory.memory
        try:
            if is_done:
                image = await self._shared.prepare(volume)
                await images.pad(volume.domain_id, image.path)
        except NodeError as error:
            log.warning("VM %s: its saved memory does not end with a whole block: %s", vm.vm_id, error)
        for one in memory.volumes:
            await self._shared.release_image(vm, one)

    async def _recover(self, vm: Vm, record: SnapshotRecord) -> None:
        work = partial(self._go_on, vm, record)
        job = self._shared.jobs.start(record.jobUUID, JOB_NAME, vm.vm_id, work)
        if await attempt(vm, "its snapshot ends unseen", job):
            await work()

    async def _go_on(self, vm: Vm, record: SnapshotRecord) -> None:
        shared = self._shared
        async with vm.changing:
            # To store waits for what libvirt does for the VM just now.
            while vm.is_alive and await attempt(
                vm, "its snapshot goes on", shared.store(vm, vm.metadata), logging.INFO
            ):
                if record.memory is not None:
                    await self._abort_late(vm, record)
                await wait_until(vm.stopped, shared.settings.retry_s, shared.clock)
            is_done = await self._settle(vm, record)
        if vm.is_alive:
            shared.notify(vm)
        if not is_done:
            raise errors.SnapshotFailed("the daemon ended before it asked libvirt")


def make_record(order: SnapshotOrder, now_s: float) -> SnapshotRecord:
    """The note of a snapshot that begins now."""
    memory = order.memory
    return SnapshotRecord(
        startTime=str(now_s),
        timeout=str(order.timeout_s),
        freezeTimeout=str(order.freeze_timeout_s),
        jobUUID=order.job_id,
        frozen=order.frozen,
        memoryParams={} if memory is None else {"dst": memory.memory.ids, "dstparams": memory.parameters.ids},
    )


def _list_disks(vm: Vm) -> dict[str, str]:
    """The XML of the VM's disks, by target name."""
    disks = parse_xml(vm.xml).iterfind("devices/disk")
    return {get_attribute(disk, "target", "dev"): format_xml(disk) for disk in disks}
