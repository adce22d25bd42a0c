"""Networks as a manager's change has left them on disk."""

import json
from pathlib import Path

import pytest

from vdsm.adapters.netconf import StoredNetworks
from vdsm.network.model import NetworkRecord


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    """The folder behind the link that a change moves."""
    real = tmp_path / "staging/netconf.Ab3dE9xQ/nets"
    real.mkdir(parents=True)
    (tmp_path / "staging/netconf").symlink_to(real.parent)
    return real


async def test_networks_by_name(nets: Path, tmp_path: Path) -> None:
    stored = {"nic": "eth0", "vlan": 100, "bridged": True, "mtu": 1500, "switch": "legacy", "bootproto": "dhcp"}
    (nets / "ovirtmgmt").write_text(json.dumps(stored, indent=4))
    (nets / "storage").write_text('{"bonding": "bond0", "bridged": false, "ipv6autoconf": true, "switch": "ovs"}')
    assert await StoredNetworks(tmp_path).list_networks() == [
        NetworkRecord("ovirtmgmt", nic="eth0", vlan=100, dhcpv4=True),
        NetworkRecord("storage", bonding="bond0", bridged=False, ipv6_autoconf=True, switch="ovs"),
    ]


async def test_a_file_that_cannot_be_understood_is_left_out(nets: Path, tmp_path: Path, caplog) -> None:
    (nets / "broken").write_text("{")
    (nets / "wrong").write_text('{"vlan": "one"}')
    (nets / "good").write_text("{}")
    assert [record.name for record in await StoredNetworks(tmp_path).list_networks()] == ["good"]
    assert "nets/broken is left out" in caplog.text and "nets/wrong is left out" in caplog.text


async def test_no_folder_is_no_networks(tmp_path: Path) -> None:
    assert await StoredNetworks(tmp_path).list_networks() == []


@pytest.mark.parametrize(
    ("record", "device"),
    [
        (NetworkRecord("red", nic="eth0", vlan=7), "red"),
        (NetworkRecord("red", nic="eth0", bridged=False), "eth0"),
        (NetworkRecord("red", nic="eth0", vlan=7, bridged=False), "eth0.7"),
        (NetworkRecord("red", bonding="bond0", vlan=0, bridged=False), "bond0.0"),
    ],
)
def test_the_device_that_carries_the_addresses(record: NetworkRecord, device: str) -> None:
    assert record.device == device


@pytest.mark.parametrize(
    ("stored", "home"),
    [
        ({"nic": "eth0"}, ("red", True)),
        ({"nic": "eth0", "bridged": False}, ("eth0", False)),
        ({"nic": "eth0", "vlan": 7, "bridged": False}, ("eth0.7", False)),
        ({"bonding": "bond0", "vlan": 0, "bridged": False}, ("bond0.0", False)),
        ({"bonding": "bond0", "bridged": False, "switch": "ovs"}, ("red", True)),
        (None, ("red", True)),
    ],
)
async def test_where_a_network_is_at_home(
    nets: Path, tmp_path: Path, stored: dict[str, object] | None, home: tuple[str, bool]
) -> None:
    (nets / ("red" if stored is not None else "blue")).write_text(json.dumps(stored or {}))
    assert await StoredNetworks(tmp_path).find_device("red") == home
