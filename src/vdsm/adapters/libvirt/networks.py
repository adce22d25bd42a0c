"""The part of the port `virt.ports.Hypervisor` that knows networks (`virt.ports.NetworkStore`)."""

import libvirt

from vdsm.adapters.libvirt.calls import Calls


class NetworkCalls:
    """What `LibvirtHypervisor` does with networks."""

    _calls: Calls

    async def start_network(self, name: str, xml: str) -> None:
        await self._calls.on_host("start network", lambda connection: _start(connection, name, xml))

    async def remove_network(self, name: str) -> None:
        await self._calls.on_host("remove network", lambda connection: _remove(connection, name))


def _start(connection: libvirt.virConnect, name: str, xml: str) -> None:
    network = _find(connection, name)
    if network is None:
        connection.networkCreateXML(xml)  # without a definition: it is gone with the host
    elif not network.isActive():
        network.create()


def _remove(connection: libvirt.virConnect, name: str) -> None:
    network = _find(connection, name)
    if network is None:
        return
    is_persistent = network.isPersistent()
    if network.isActive():
        network.destroy()
    if is_persistent:
        network.undefine()


def _find(connection: libvirt.virConnect, name: str) -> libvirt.virNetwork | None:
    try:
        return connection.networkLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_NETWORK:
            raise
        return None
