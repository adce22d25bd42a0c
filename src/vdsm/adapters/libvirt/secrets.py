"""The part of the port `virt.ports.Hypervisor` that keeps secrets (`virt.ports.SecretStore`)."""

import libvirt

from vdsm.adapters.libvirt.calls import Calls


class SecretCalls:
    """What `LibvirtHypervisor` does with secrets."""

    _calls: Calls

    async def list_secrets(self) -> dict[str, str]:
        return await self._calls.on_host("list of secrets", _list)

    async def set_secret(self, uuid: str, xml: str, value: bytes) -> None:
        await self._calls.on_host("set secret", lambda connection: connection.secretDefineXML(xml).setValue(value))

    async def remove_secret(self, uuid: str) -> None:
        await self._calls.on_host("remove secret", lambda connection: _remove(connection, uuid))


def _list(connection: libvirt.virConnect) -> dict[str, str]:
    return {secret.UUIDString(): secret.usageID() for secret in connection.listAllSecrets()}


def _remove(connection: libvirt.virConnect, uuid: str) -> None:
    try:
        connection.secretLookupByUUIDString(uuid).undefine()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SECRET:
            raise
