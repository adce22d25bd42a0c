"""Tells of the insides of VMs and remembers what must survive the daemon; what is known of them comes from others."""

from collections.abc import Mapping

from msgspec import UNSET
from msgspec.structs import replace

from vdsm.virt.domain import DiskView
from vdsm.virt.guest.figures import find_name
from vdsm.virt.lifecycle import Status
from vdsm.virt.metadata import DeviceMetadata, VmMetadata
from vdsm.virt.shared import Shared
from vdsm.virt.vm import Vm

TELL_EVERY_S = 5.0
"""A guest that changes its mind more often is told of only so often."""
RECORD_EVERY_S = 10.0
_NOTHING = (None, False, UNSET, UNSET, UNSET)


class GuestNews:
    """Compares what agents say with what was told and recorded of it."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._recorded_at_s: dict[str, float] = {}

    def look_at(self, vm: Vm) -> None:
        """Tell of the guest if its state, its user or its session changed, and that was not just done."""
        now_s, state = self._shared.clock.monotonic(), vm.state
        responds = state.is_responsive(now_s)
        news = (state.agent_state, responds, vm.guest.user, vm.guest.session, vm.qemu_guest.user)
        if news == (vm.guest_news or _NOTHING) or now_s - vm.guest_told_at_s < TELL_EVERY_S or not vm.is_alive:
            return
        vm.guest_news, vm.guest_told_at_s = news, now_s
        self._shared.notify(vm, guest=True)

    async def look(self) -> None:
        """Look at all VMs: at what could not be told at once, and at what libvirt should keep."""
        now_s = self._shared.clock.monotonic()
        vms = self._shared.vms
        for vm in list(vms.values()):
            self.look_at(vm)
            due_s = self._recorded_at_s.get(vm.vm_id, float("-inf")) + RECORD_EVERY_S
            # While a VM moves or is saved, libvirt keeps others waiting.
            is_settled = vm.state.status in (Status.UP, Status.PAUSED)
            if is_settled and not vm.is_external and now_s >= due_s and (metadata := _update(vm)) != vm.metadata:
                self._recorded_at_s[vm.vm_id] = now_s
                vm.metadata = metadata
                self._shared.children.spawn(self._record(vm), f"remember the inside of VM {vm.vm_id}")
        self._recorded_at_s = {vm_id: at_s for vm_id, at_s in self._recorded_at_s.items() if vm_id in vms}

    async def _record(self, vm: Vm) -> None:
        await self._shared.save(vm)
        vm.is_stale = True  # The names of disks inside the guest are part of what tells clients to read again.


def _update(vm: Vm) -> VmMetadata:
    """The metadata with the agent's version and the disks' names; names that are no longer told stay."""
    metadata = vm.metadata
    if vm.agent_version != metadata.agent_version:
        metadata = metadata.changed(guestAgentAPIVersion=vm.agent_version)
    names = vm.qemu_guest.disk_names or vm.guest.disk_names
    # While its devices change, nobody knows which of them will be there.
    for disk in () if vm.view is None or not names or vm.changing.locked() else vm.view.disks:
        name = _find(disk, names)
        if name is None:
            continue
        known = metadata.device(devtype="disk", name=disk.target)
        device = known or DeviceMetadata({"devtype": "disk", "name": disk.target})
        if device.values.get("guestName") != name:
            metadata = metadata.with_device(replace(device, values={**device.values, "guestName": name}))
    return metadata


def _find(disk: DiskView, names: Mapping[str, str]) -> str | None:
    identities = ("" if disk.volume is None else disk.volume.image_id, disk.lun_id or "", disk.serial)
    return next((name for identity in identities if (name := find_name(names, identity)) is not None), None)
