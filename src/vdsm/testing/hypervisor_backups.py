"""Backups and checkpoints of the hypervisor that is only memory: what libvirt tells of them; no data is served."""

from typing import Protocol
from xml.etree.ElementTree import Element

from vdsm.testing import hypervisor_xml
from vdsm.virt import ports
from vdsm.virt.elements import element, format_xml, parse_xml

_INVALID_ARGUMENT, _OPERATION_FAILED, _INVALID, _UNSUPPORTED, _NO_CHECKPOINT = 8, 9, 55, 67, 103
_SIZE_BYTES = 1 << 20


class _Domain(Protocol):
    backup: str | None
    checkpoints: dict[str, str]

    @property
    def xml(self) -> Element: ...


class _World(Protocol):
    async def _find_active(self, method: str, vm_id: str) -> _Domain: ...


class FakeBackups:
    """Fits `virt.ports.BackupMaker`."""

    async def begin_backup(self: _World, vm_id: str, xml: str, checkpoint_xml: str | None) -> None:
        domain = await self._find_active("begin_backup", vm_id)
        if domain.backup is not None:
            raise ports.HypervisorTimeout(vm_id, "begin_backup", 30.0)  # libvirt waits for the end of the first
        backup = parse_xml(xml)
        targets = {disk.target for disk in hypervisor_xml.list_disks(domain.xml)}
        for disk in backup.iterfind("disks/disk"):
            if disk.get("name") not in targets:
                raise ports.HypervisorRefused(f"no disk named '{disk.get('name')}'", _UNSUPPORTED)
            since = disk.get("incremental")
            if since is not None and since not in domain.checkpoints:
                raise ports.HypervisorRefused(f"no domain checkpoint with matching name '{since}'", _NO_CHECKPOINT)
            disk.set("backup", "yes")
            disk.set("exportname", disk.get("name", ""))
        if checkpoint_xml is not None:
            _add(domain, checkpoint_xml)
        domain.backup = format_xml(backup)

    async def get_backup(self: _World, vm_id: str) -> str | None:
        return (await self._find_active("get_backup", vm_id)).backup

    async def end_backup(self: _World, vm_id: str) -> None:
        domain = await self._find_active("end_backup", vm_id)
        if domain.backup is None:
            raise ports.HypervisorRefused("no job is active on the domain", _INVALID)
        domain.backup = None

    async def get_disk_size(self: _World, vm_id: str, target: str) -> int:
        domain = await self._find_active("get_disk_size", vm_id)
        if all(disk.target != target for disk in hypervisor_xml.list_disks(domain.xml)):
            raise ports.HypervisorRefused(f"invalid path {target} not assigned to domain", _INVALID_ARGUMENT)
        return _SIZE_BYTES

    async def list_checkpoints(self: _World, vm_id: str) -> list[str]:
        return list((await self._find_active("list_checkpoints", vm_id)).checkpoints)

    async def get_checkpoint(self: _World, vm_id: str, name: str) -> str | None:
        return (await self._find_active("get_checkpoint", vm_id)).checkpoints.get(name)

    async def delete_checkpoint(self: _World, vm_id: str, name: str) -> None:
        checkpoints = (await self._find_active("delete_checkpoint", vm_id)).checkpoints
        if checkpoints.pop(name, None) is None:
            raise ports.HypervisorRefused(f"no domain checkpoint with matching name '{name}'", _NO_CHECKPOINT)

    async def redefine_checkpoint(self: _World, vm_id: str, xml: str) -> None:
        _add(await self._find_active("redefine_checkpoint", vm_id), xml, again=True)


def _add(domain: _Domain, xml: str, *, again: bool = False) -> None:
    checkpoint = parse_xml(xml)
    name = checkpoint.findtext("name", "")
    if name in domain.checkpoints and not again:
        raise ports.HypervisorRefused(f"domain moment {name} already exists", _OPERATION_FAILED)
    if domain.checkpoints and checkpoint.find("parent") is None:
        checkpoint.append(element("parent", element("name", text=list(domain.checkpoints)[-1])))
    domain.checkpoints[name] = format_xml(checkpoint)
