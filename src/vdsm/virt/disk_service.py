"""Answers the verbs on disks of VMs that run: reads what is wanted, and hands it to who does it."""

from collections.abc import Sequence
from uuid import uuid4

from vdsm.api import disks as api
from vdsm.api import errors
from vdsm.virt.shared import Shared
from vdsm.virt.snapshots import SnapshotOrder, Snapshots


class DiskService:
    """Fits `api.disks.DiskApi`."""

    def __init__(self, shared: Shared, snapshots: Snapshots) -> None:
        self._shared = shared
        self._snapshots = snapshots

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
        if memory:
            raise errors.MemoryNotSupported()
        order = SnapshotOrder(
            job_id=job_id or str(uuid4()),
            drives=drives,
            frozen=frozen,
            timeout_s=60 * timeout_minutes,
            freeze_timeout_s=60 * freeze_timeout_minutes,
        )
        await self._snapshots.begin(vm, order)

    async def freeze(self, vm_id: str) -> None:
        """Have the guest hold back writes."""
        await self._snapshots.freeze(self._shared.get(vm_id))

    async def thaw(self, vm_id: str) -> None:
        """Let the guest write again."""
        await self._snapshots.thaw(self._shared.get(vm_id))
