"""Asks storage how large the volumes of VMs are (facts §3.1), a domain at a time; statistics tell what it said last."""

import asyncio
import logging

from vdsm.core.errors import NodeError
from vdsm.virt.disks.drives import Drive, list_drives
from vdsm.virt.shared import Shared
from vdsm.virt.vm import Vm

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
SIZES_EVERY_S = 60.0


class VolumeSizes:
    """One question to a domain at a time: one that hangs costs its own VMs their sizes and nobody else's."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._asked_at_s: dict[tuple[str, str], float] = {}

    async def look(self) -> None:
        """Begin to ask for sizes that are old, of disks that came, and of volumes that took others' places."""
        due: dict[str, list[tuple[Vm, Drive]]] = {}
        drives = [(vm, d) for vm in self._shared.vms.values() if vm.is_alive for d in list_drives(vm.view, vm.metadata)]
        now_s = self._shared.clock.monotonic()
        for vm, drive in drives:
            key = (vm.vm_id, drive.volume.volume_id)
            if now_s - self._asked_at_s.get(key, float("-inf")) >= SIZES_EVERY_S:
                due.setdefault(drive.volume.domain_id, []).append((vm, drive))
        known = {(vm.vm_id, drive.volume.volume_id) for vm, drive in drives}
        self._asked_at_s = {key: at_s for key, at_s in self._asked_at_s.items() if key in known}
        self._asking = {domain_id: task for domain_id, task in self._asking.items() if not task.done()}
        for domain_id in due.keys() - self._asking.keys():
            work = self._ask(due[domain_id])
            self._asking[domain_id] = self._shared.children.spawn(work, f"sizes of volumes of domain {domain_id}")

    async def _ask(self, due: list[tuple[Vm, Drive]]) -> None:
        for vm, drive in due:
            volume = drive.volume
            self._asked_at_s[vm.vm_id, volume.volume_id] = self._shared.clock.monotonic()
            try:
                size = await self._shared.images.get_size(*volume.ids.values())
            except NodeError as error:
                log.debug("VM %s: nobody knows how large %s is: %s", vm.vm_id, drive.target, error)
                continue
            vm.volume_sizes = {**vm.volume_sizes, drive.target: size}
