"""What the daemon of another host is told of a VM that comes."""

import pytest

from vdsm import peers
from vdsm.api.guest import GuestInterface
from vdsm.virt.guest.figures import GuestFigures
from vdsm.virt.ports import Place, Traveller
from vdsm.wire.client_session import Address

LOOPBACK = GuestInterface(name="lo", hardware_address="0:0", ipv4=["127.0.0.1"], ipv6=["::1"])


@pytest.mark.parametrize(
    ("guest", "told"),
    [
        (GuestFigures(), ("", "Unknown", [])),
        (
            GuestFigures(fqdn="guest.lan", user="ann", interfaces=[LOOPBACK]),
            ("guest.lan", "ann", [{"name": "lo", "hw": "0:0", "inet": ["127.0.0.1"], "inet6": ["::1"]}]),
        ),
    ],
)
async def test_what_is_known_of_its_inside_goes_along(
    guest: GuestFigures, told: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, object]]] = []

    async def call_once(address: Address, method: str, params: dict[str, object], timeout_s: float) -> object:
        asked.append((method, params))
        return {"migrationPort": 0, "params": {"xml": "<domain/>"}}

    monkeypatch.setattr(peers, "call_once", call_once)
    traveller = Traveller(vm_id="id", live_xml="<a/>", xml="<b/>", elapsed_s=7.0, guest=guest)
    hosts = peers.HostPeers(None, create_timeout_s=600.0)
    assert await hosts.create_incoming(Place("there"), traveller, 3) == "<domain/>"
    [(method, params)] = asked
    given = params["params"]
    assert isinstance(given, dict) and (method, params["incomingLimit"]) == ("VM.migrationCreate", 3)
    assert (given["guestFQDN"], given["username"], given["netIfaces"]) == told
    assert (given["_srcDomXML"], given["xml"], given["elapsedTimeOffset"]) == ("<a/>", "<b/>", 7.0)
