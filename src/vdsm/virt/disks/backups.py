"""Backups of running VMs, and their checkpoints (facts §2.18).

libvirt knows whether a backup goes on, so nothing of it is written down. When the daemon is killed before one begins,
the next one removes its scratch disks.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import PurePath

from msgspec import UNSET

from vdsm.api import backup as api
from vdsm.api import errors
from vdsm.core.errors import NodeError
from vdsm.core.undo import AsyncUndo
from vdsm.virt.disks import backup_plan as plan
from vdsm.virt.disks.freezing import frozen
from vdsm.virt.domain import DomainView
from vdsm.virt.elements import check_text
from vdsm.virt.lifecycle import Request
from vdsm.virt.ports import BackupPlace, HypervisorRefused, HypervisorTimeout
from vdsm.virt.power import check_possible, failing_as
from vdsm.virt.shared import Shared
from vdsm.virt.vm import Vm

log = logging.getLogger(__name__)

_INCONSISTENT = 109
"""libvirt's number for checkpoints whose bitmaps are missing."""
_END_CHECKS, _END_CHECK_S = 60, 0.5


class BackupService:
    """Fits `api.backup.BackupApi`."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def start(self, vm_id: str, config: api.BackupConfig) -> api.BackupInfo:
        """Serve disks as they are now; raises BackupFailed (1600), InconsistentCheckpoint (1612)."""
        shared, vm = self._shared, self._shared.get(vm_id)
        async with self._changing(vm):
            view = await self._look(vm)
            disks = plan.plan_disks(config, view)
            checkpoint = None
            if config.to_checkpoint_id is not UNSET:
                checkpoint = plan.build_checkpoint(config.to_checkpoint_id, config, view)
            await self._check_scratch(disks)
            if await shared.hypervisor.get_backup(vm_id) is not None:
                raise errors.BackupFailed("the VM has a backup already")
            sizes = {disk.target: await shared.hypervisor.get_disk_size(vm_id, disk.target) for disk in disks}
            async with AsyncUndo() as undo:
                place = await self._prepare(vm_id, config.backup_id, plan.list_scratch_sizes(disks, sizes))
                undo.push(shared.images.clear_backup, vm_id, config.backup_id)
                async with frozen(shared, vm) as why_not:
                    if why_not is not None and config.require_consistency:
                        raise errors.BackupFailed(f"the guest cannot be frozen: {why_not}") from why_not
                    xml = plan.build_backup(config, disks, place)
                    try:
                        await shared.hypervisor.begin_backup(vm_id, xml, checkpoint)
                    except HypervisorTimeout:
                        undo.forget()  # It may begin yet.
                        raise
                undo.forget()
            return await self._tell(vm, config.backup_id, config.to_checkpoint_id or None)

    async def stop(self, vm_id: str, backup_id: str) -> None:
        """Stop serving, and remove what was needed for it; raises BackupFailed (1600) when it does not end."""
        vm = self._shared.get(vm_id)
        if not vm.is_alive:
            await self._shared.images.clear_backup(vm_id, backup_id)
            return
        async with self._changing(vm):
            if await self._find(vm, backup_id) is not None:
                await self._shared.hypervisor.end_backup(vm_id)
                await self._wait_gone(vm, backup_id)
            await self._shared.images.clear_backup(vm_id, backup_id)

    async def get_info(self, vm_id: str, backup_id: str, checkpoint_id: str | None = None) -> api.BackupInfo:
        """Where the disks are served; raises NoSuchBackup (1601), NoSuchCheckpoint (1611)."""
        vm = self._shared.get(vm_id)
        async with self._changing(vm):
            await self._look(vm)
            return await self._tell(vm, backup_id, checkpoint_id)

    async def list_checkpoints(self, vm_id: str) -> list[str]:
        """The ids of all checkpoints, the base first."""
        vm = self._shared.get(vm_id)
        check_possible(self._shared, vm, Request.TUNE)
        with _failing_as(vm, errors.CheckpointFailed):
            return await self._shared.hypervisor.list_checkpoints(vm_id)

    async def dump_checkpoint(self, vm_id: str, checkpoint_id: str) -> api.CheckpointInfo:
        """A checkpoint's XML; raises NoSuchCheckpoint (1611)."""
        vm = self._shared.get(vm_id)
        check_possible(self._shared, vm, Request.TUNE)
        with _failing_as(vm, errors.CheckpointFailed):
            return api.CheckpointInfo(checkpoint=await self._get_checkpoint(vm_id, checkpoint_id))

    async def delete_checkpoints(self, vm_id: str, checkpoint_ids: list[str]) -> api.CheckpointsDone:
        """Delete them in this order, up to the first that cannot be."""
        hypervisor = self._shared.hypervisor

        async def delete(checkpoint_id: str) -> None:
            if await hypervisor.get_checkpoint(vm_id, checkpoint_id) is not None:
                await hypervisor.delete_checkpoint(vm_id, checkpoint_id)

        vm = self._shared.get(vm_id)
        async with self._changing(vm, errors.CheckpointFailed):
            return await _do_each([(one, one) for one in checkpoint_ids], delete)

    async def redefine_checkpoints(self, vm_id: str, checkpoints: list[api.Checkpoint]) -> api.CheckpointsDone:
        """Tell libvirt of them in this order, up to the first that it refuses."""

        async def redefine(xml: str) -> None:
            await self._shared.hypervisor.redefine_checkpoint(vm_id, xml)

        vm = self._shared.get(vm_id)
        async with self._changing(vm, errors.CheckpointFailed):
            view = await self._look(vm)
            wanted = [(one.id, plan.read_checkpoint(one, view)) for one in checkpoints]
            return await _do_each(wanted, redefine)

    async def settle(self, vm: Vm) -> None:
        """Undo what a daemon that ended amid the start of a backup left; a backup that goes on stays."""
        if vm.is_external:
            return
        try:
            async with vm.changing:
                if not vm.is_alive or await self._shared.hypervisor.get_backup(vm.vm_id) is None:
                    await self._shared.images.clear_backup(vm.vm_id)
        except NodeError as error:
            log.warning("VM %s: what is left of its backups was not removed: %s", vm.vm_id, error)

    @asynccontextmanager
    async def _changing(self, vm: Vm, failure: Callable[[str], NodeError] = errors.BackupFailed) -> AsyncIterator[None]:
        async with vm.changing:
            check_possible(self._shared, vm, Request.PLUG)
            with _failing_as(vm, failure):
                yield

    async def _prepare(self, vm_id: str, backup_id: str, sizes: dict[str, int]) -> BackupPlace:
        try:
            return await self._shared.images.prepare_backup(vm_id, backup_id, sizes)
        except NodeError as error:
            raise errors.BackupFailed(f"no room for what is overwritten meanwhile: {error}") from error

    async def _check_scratch(self, disks: list[plan.PlannedDisk]) -> None:
        for scratch in plan.list_own_scratch(disks):
            path = check_text("scratch_disk.path", scratch.path)
            if not path.startswith("/") or await self._shared.images.find_kind(path) != "file":
                raise errors.BackupFailed(f"scratch disk {path[:200]!r} is no file")

    async def _tell(self, vm: Vm, backup_id: str, checkpoint_id: str | None) -> api.BackupInfo:
        addresses = await self._find(vm, backup_id)
        if addresses is None:
            raise errors.NoSuchBackup(vm.vm_id, backup_id)
        xml = await self._get_checkpoint(vm.vm_id, checkpoint_id) if checkpoint_id else UNSET
        return api.BackupInfo(disks=addresses, checkpoint=xml)

    async def _find(self, vm: Vm, backup_id: str) -> dict[str, str] | None:
        """The addresses of the disks of that backup; None when it does not go on."""
        xml = await self._shared.hypervisor.get_backup(vm.vm_id)
        if xml is None or vm.view is None:
            return None
        socket, addresses = plan.read_backup(xml, vm.view)
        return addresses if PurePath(socket).name == backup_id else None

    async def _wait_gone(self, vm: Vm, backup_id: str) -> None:
        for _ in range(_END_CHECKS):
            if await self._find(vm, backup_id) is None:
                return
            await self._shared.clock.sleep(_END_CHECK_S)
        raise errors.BackupFailed(f"backup {backup_id} has not ended within {_END_CHECKS * _END_CHECK_S:g} s")

    async def _get_checkpoint(self, vm_id: str, checkpoint_id: str) -> str:
        xml = await self._shared.hypervisor.get_checkpoint(vm_id, checkpoint_id)
        if xml is None:
            raise errors.NoSuchCheckpoint(vm_id, checkpoint_id)
        return xml

    async def _look(self, vm: Vm) -> DomainView:
        """What libvirt says of the VM now."""
        self._shared.read(vm, await self._shared.hypervisor.get_domain(vm.vm_id))
        if vm.view is None:
            raise errors.BackupFailed("the VM's definition cannot be understood")
        return vm.view


@contextmanager
def _failing_as(vm: Vm, failure: Callable[[str], NodeError]) -> Iterator[None]:
    try:
        with failing_as(vm, failure):
            yield
    except NodeError as error:
        cause = error.__cause__
        if isinstance(cause, HypervisorRefused) and cause.kind == _INCONSISTENT:
            raise errors.InconsistentCheckpoint(cause.reason) from error
        raise


async def _do_each(wanted: list[tuple[str, str]], act: Callable[[str], Awaitable[None]]) -> api.CheckpointsDone:
    done: list[str] = []
    for checkpoint_id, argument in wanted:
        try:
            await act(argument)
        except HypervisorRefused as error:
            failed = api.CheckpointError(code=error.kind, message=error.reason)
            return api.CheckpointsDone(checkpoint_ids=done, error=failed)
        done.append(checkpoint_id)
    return api.CheckpointsDone(checkpoint_ids=done)
