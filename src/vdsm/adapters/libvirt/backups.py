"""The part of the port `virt.ports.Hypervisor` that makes backups and checkpoints (`virt.ports.BackupMaker`)."""

import libvirt

from vdsm.adapters.libvirt.calls import Calls

_REDEFINE = libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE | libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE


class BackupCalls:
    """What `LibvirtHypervisor` does with backups."""

    _calls: Calls

    async def begin_backup(self, vm_id: str, xml: str, checkpoint_xml: str | None) -> None:
        flags = libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL
        await self._calls.on_vm(vm_id, "begin backup", lambda domain: domain.backupBegin(xml, checkpoint_xml, flags))

    async def get_backup(self, vm_id: str) -> str | None:
        return await self._calls.on_vm(vm_id, "look at backup", _get_backup)

    async def end_backup(self, vm_id: str) -> None:
        await self._calls.on_vm(vm_id, "end backup", lambda domain: domain.abortJob())

    async def get_disk_size(self, vm_id: str, target: str) -> int:
        return await self._calls.on_vm(vm_id, "look at disk", lambda domain: int(domain.blockInfo(target)[0]))

    async def list_checkpoints(self, vm_id: str) -> list[str]:
        flags = libvirt.VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL
        return await self._calls.on_vm(
            vm_id, "list checkpoints", lambda domain: [one.getName() for one in domain.listAllCheckpoints(flags)]
        )

    async def get_checkpoint(self, vm_id: str, name: str) -> str | None:
        return await self._calls.on_vm(vm_id, "look at checkpoint", lambda domain: _get_checkpoint(domain, name))

    async def delete_checkpoint(self, vm_id: str, name: str) -> None:
        await self._calls.on_vm(vm_id, "delete checkpoint", lambda domain: domain.checkpointLookupByName(name).delete())

    async def redefine_checkpoint(self, vm_id: str, xml: str) -> None:
        await self._calls.on_vm(vm_id, "redefine checkpoint", lambda domain: domain.checkpointCreateXML(xml, _REDEFINE))


def _get_backup(domain: libvirt.virDomain) -> str | None:
    try:
        return domain.backupGetXMLDesc()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_BACKUP:
            return None
        raise


def _get_checkpoint(domain: libvirt.virDomain, name: str) -> str | None:
    try:
        return domain.checkpointLookupByName(name).getXMLDesc(libvirt.VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT:
            return None
        raise
