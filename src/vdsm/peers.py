"""The daemons of other hosts, as virt wants them (`virt.ports.Peers`), over the wire that all clients use."""

from pathlib import Path

from vdsm.local import choose_certificate
from vdsm.virt.ports import PeerRefused, PeerUnreachable, Place, Traveller
from vdsm.wire.client_session import Address, CallFailed, ClientFailure
from vdsm.wire.one_call import call_once

TIMEOUT_S = 30.0
_NO_VM = 1


class HostPeers:
    """Calls them with the certificates below `pki`; without it there is no TLS."""

    def __init__(self, pki: Path | None, *, create_timeout_s: float) -> None:
        self._pki = pki
        self._create_timeout_s = create_timeout_s

    async def ping(self, place: Place) -> None:
        await self._call(place, "Host.ping", {})

    async def create_incoming(self, place: Place, traveller: Traveller, incoming_limit: int | None) -> str:
        """Names and shapes are those of facts §2.19, source flow 4."""
        guest = traveller.guest
        params = {
            "_srcDomXML": traveller.live_xml,
            "vmId": traveller.vm_id,
            "xml": traveller.xml,
            "elapsedTimeOffset": traveller.elapsed_s,
            "guestFQDN": guest.fqdn or "",
            "username": guest.user or "Unknown",
            "netIfaces": [
                {"name": one.name, "hw": one.hardware_address, "inet": one.ipv4, "inet6": one.ipv6}
                for one in guest.interfaces or ()
            ],
            "enableGuestEvents": traveller.guest_events,
            "migrationDest": "libvirt",
        }
        limit = {} if incoming_limit is None else {"incomingLimit": incoming_limit}
        answer = await self._call(
            place,
            "VM.migrationCreate",
            {"vmID": traveller.vm_id, "params": params, **limit},
            self._create_timeout_s,
        )
        vm = answer.get("params") if isinstance(answer, dict) else None
        xml = vm.get("xml") if isinstance(vm, dict) else None
        return xml if isinstance(xml, str) else ""

    async def get_status(self, place: Place, vm_id: str) -> str | None:
        try:
            answer = await self._call(place, "VM.getStats", {"vmID": vm_id})
        except PeerRefused as error:
            if error.failure == _NO_VM:
                return None
            raise
        stats = answer[0] if isinstance(answer, list) and answer else None
        status = stats.get("status") if isinstance(stats, dict) else None
        if not isinstance(status, str):
            raise PeerRefused(str(place), PeerRefused.number, "its answer has no status")
        return status

    async def destroy(self, place: Place, vm_id: str) -> None:
        try:
            await self._call(place, "VM.destroy", {"vmID": vm_id})
        except PeerRefused as error:
            if error.failure != _NO_VM:
                raise

    async def _call(self, place: Place, method: str, params: dict[str, object], timeout_s: float = TIMEOUT_S) -> object:
        try:
            tls = None if self._pki is None else choose_certificate(self._pki)
            return await call_once(Address(place.host, place.port, tls), method, params, timeout_s)
        except CallFailed as error:
            raise PeerRefused(str(place), error.code, error.message) from error
        except (ClientFailure, OSError, ValueError) as error:
            raise PeerUnreachable(str(place), str(error)) from error
