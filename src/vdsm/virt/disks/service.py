"""Answers the verbs on disks of VMs that run: reads what is wanted, and hands it to who does it."""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

from vdsm.api import disks as api
from vdsm.api.errors import OnlyWithoutVm
from vdsm.api.storage_types import VolumeSize
from vdsm.core.ids import BLANK_UUID
from vdsm.virt.disks import freezing
from vdsm.virt.disks.alignment import find_alignment
from vdsm.virt.disks.merges import Merges
from vdsm.virt.disks.replication import Replication
from vdsm.virt.disks.resize import Resizer
from vdsm.virt.disks.snapshots import SnapshotOrder, Snapshots
from vdsm.virt.metadata import VolumeRef
from vdsm.virt.saved import MemoryVolumes
from vdsm.virt.shared import Shared
from vdsm.virt.vm import Vm


class DiskService:
    """Fits `api.disks.DiskApi`."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._snapshots = Snapshots(shared)
        self._merges = Merges(shared)
        self._replication = Replication(shared)
        self._resizer = Resizer(shared)

    def recover(self, vm: Vm) -> None:
        """See, in the background, to what an earlier daemon began on the VM's disks."""
        if vm.metadata.values.get(freezing.FROZEN):
            freezing.begin_thaw(self._shared, vm, asyncio.Event())
        self._snapshots.recover(vm)
        self._merges.recover(vm)
        self._replication.recover(vm)

    async def snapshot(
        self,
        vm_id: str,
        drives: Sequence[api.SnapshotDrive],
        memory: str | None = None,
        frozen: bool = False,
        job_id: str | None = None,
        timeout_minutes: int = 30,
        freeze_timeout_minutes: int = 8,
    ) -> None:
        """Begin to put new tops on disks."""
        vm = self._shared.get(vm_id)
        order = SnapshotOrder(
            job_id=job_id or str(uuid4()),
            drives=drives,
            frozen=frozen,
            timeout_s=60 * timeout_minutes,
            freeze_timeout_s=60 * freeze_timeout_minutes,
            memory=MemoryVolumes.parse(memory) if memory else None,
        )
        await self._snapshots.begin(vm, order)

    async def merge(
        self,
        vm_id: str,
        disk: api.ActiveVolume,
        base_id: str,
        top_id: str,
        bandwidth_mib: int = 0,
        job_id: str | None = None,
    ) -> None:
        """Begin to write layers of a disk into the one below."""
        vm = self._shared.get(vm_id)
        volume = _read_volume(disk)
        await self._merges.begin(vm, volume, base_id, top_id, bandwidth_mib, job_id or str(uuid4()))

    async def start_replication(
        self, vm_id: str, source: api.ActiveVolume, replica: api.ActiveVolume, extend: bool = True
    ) -> None:
        """Begin to write a disk to other storage, too."""
        await self._replication.begin(self._shared.get(vm_id), _read_volume(source), _read_volume(replica))

    async def finish_replication(self, vm_id: str, source: api.ActiveVolume, target: api.ActiveVolume) -> None:
        """Go over to the replica, or drop it."""
        await self._replication.finish(self._shared.get(vm_id), _read_volume(source), _read_volume(target))

    async def extend(self, vm_id: str, disk: api.ActiveVolume, size_bytes: int) -> str:
        """Let the guest see a larger disk."""
        volume = _read_volume(disk)
        if vm_id == BLANK_UUID:
            return str(await self._resizer.record(volume, size_bytes))
        return str(await self._resizer.extend(self._shared.get(vm_id), volume, size_bytes))

    async def get_alignment(self, vm_id: str, disk: api.ActiveVolume) -> dict[str, bool]:
        """Whether the partitions of a disk are aligned; only of one that no VM is named for (44)."""
        if vm_id != BLANK_UUID:
            raise OnlyWithoutVm()
        volume = _read_volume(disk)

        async def read(first: int, count: int) -> bytes:
            ids = (volume.domain_id, volume.image_id, volume.volume_id)
            return await self._shared.images.read_sectors(*ids, first, count)

        return await find_alignment(read)

    async def refresh(self, vm_id: str, disk: api.ActiveVolume) -> VolumeSize:
        """The size of a disk's volume."""
        return await self._resizer.refresh(self._shared.get(vm_id), _read_volume(disk))

    async def freeze(self, vm_id: str) -> None:
        """Have the guest hold back writes."""
        await freezing.freeze(self._shared, self._shared.get(vm_id))

    async def thaw(self, vm_id: str) -> None:
        """Let the guest write again."""
        await freezing.thaw(self._shared, self._shared.get(vm_id))


def _read_volume(disk: api.ActiveVolume) -> VolumeRef:
    return VolumeRef(disk.pool_id, disk.domain_id, disk.image_id, disk.volume_id)
