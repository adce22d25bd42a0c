"""What managers are told of the host in `conftest`."""

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from vdsm.api.host_types import NetworkCapabilities
from vdsm.network.capabilities import find_interface, make_capabilities, make_statistics
from vdsm.network.model import Link, NetworkRecord, NetworkState, Route, Visibility

RECORDS = (
    NetworkRecord("ovirtmgmt", nic="eth0", dhcpv4=True),
    NetworkRecord("storage", bonding="bond0", vlan=100),
    NetworkRecord("migration", bonding="bond0", vlan=100, bridged=False),
    NetworkRecord("gone", nic="eth9", bridged=False),
)


def describe(state: NetworkState, *records: NetworkRecord, **visibility: tuple[str, ...]) -> NetworkCapabilities:
    return make_capabilities(state, Visibility(**visibility), records)


def test_what_is_shown(state) -> None:
    found = describe(state)
    assert set(found.nics) == {"eth0", "eth1", "eth2", "veth_test"}
    assert set(found.bondings) == {"bond0"}
    assert set(found.vlans) == {"bond0.100"}
    assert set(found.bridges) == {"ovirtmgmt", "storage"}
    assert (found.networks, found.nameservers, found.ipv6_supported) == ({}, ["192.0.2.53"], True)


def test_patterns_hide_devices(state) -> None:
    assert set(describe(state, hidden_nics=("eth0",), fake_nics=()).nics) == {"eth1", "eth2", "wlan0"}
    without = describe(state, hidden_bonds=("bond*",), hidden_vlans=("*.100",))
    assert not without.bondings and not without.vlans
    assert set(without.nics) == {"eth0", "veth_test"}, "the cards of a hidden bond are hidden with it"


def test_a_virtual_function_that_no_vm_has_is_a_nic(state) -> None:
    links = tuple(link for link in state.links if link.name != "macvtap0")
    assert "eth0v0" in describe(replace(state, links=links)).nics


def test_addresses_of_a_bridge(state) -> None:
    bridge = describe(state).bridges["ovirtmgmt"]
    assert (bridge.address, bridge.netmask) == ("192.0.2.10", "255.255.255.0"), "the primary one beside the gateway"
    assert bridge.ipv4_addresses == ["198.51.100.9/24", "192.0.2.11/24", "192.0.2.10/24"]
    assert bridge.ipv6_addresses == ["2001:db8::10/64"]
    assert (bridge.gateway, bridge.ipv4_default_route, bridge.ipv6_gateway) == ("192.0.2.1", True, "fe80::ff")


def test_a_gateway_outside_the_main_table_is_not_the_hosts(state) -> None:
    vlan = describe(state).vlans["bond0.100"]
    assert (vlan.gateway, vlan.ipv4_default_route) == ("203.0.113.6", False)
    assert (vlan.address, vlan.netmask) == ("203.0.113.5", "255.255.255.252")


def test_two_gateways_are_none(state) -> None:
    routes = (*state.default_routes, Route(index=20, family=4, gateway="192.0.2.254"))
    bridge = describe(replace(state, default_routes=routes)).bridges["ovirtmgmt"]
    assert (bridge.gateway, bridge.ipv4_default_route) == ("", False)
    assert bridge.address == "198.51.100.9", "without a gateway the first address counts"


def test_a_device_without_addresses(state) -> None:
    nic = describe(state).nics["eth1"]
    assert (nic.address, nic.netmask, nic.gateway, nic.ipv6_gateway) == ("", "", "", "::")
    assert nic.ipv4_addresses == nic.ipv6_addresses == []
    assert (nic.dhcpv4, nic.dhcpv6, nic.ipv6_autoconf, nic.ipv4_default_route) == (False,) * 4


def test_cards_tell_their_own_address_only_in_a_bond(state) -> None:
    nics = describe(state).nics
    assert (nics["eth1"].mac_address, nics["eth1"].permanent_mac_address) == ("52:54:00:00:00:03", "52:54:00:00:00:aa")
    assert nics["eth1"].aggregator_id == "1"
    assert nics["eth0"].permanent_mac_address is UNSET and nics["eth0"].aggregator_id is UNSET
    assert nics["eth0"].speed_mbps == 10000
    assert nics["eth2"].speed_mbps is UNSET, "a speed that is not known is absent"


def test_a_bond(state) -> None:
    bond = describe(state).bondings["bond0"]
    assert bond.slaves == ["eth1", "eth2"]
    assert bond.options == {"mode": "4", "miimon": "100", "lacp_rate": "1"}
    assert (bond.active_slave, bond.mtu, bond.speed_mbps) == ("", 9000, 1000)
    assert (bond.aggregator_id, bond.partner_mac_address) == ("1", "aa:bb:cc:00:00:01")


def test_vlans_and_bridges(state) -> None:
    found = describe(state)
    assert (found.vlans["bond0.100"].iface, found.vlans["bond0.100"].vlan_id) == ("bond0", 100)
    assert found.bridges["ovirtmgmt"].ports == ["eth0", "vnet0"]
    assert (found.bridges["ovirtmgmt"].stp, found.bridges["storage"].stp) == ("off", "on")
    assert found.bridges["ovirtmgmt"].options == {"stp_state": "0", "forward_delay": "1500"}


def test_networks_that_a_manager_has_set_up(state) -> None:
    networks = describe(state, *RECORDS).networks
    assert set(networks) == {"ovirtmgmt", "storage", "migration"}, "one whose device is gone is not told of"
    management = networks["ovirtmgmt"]
    assert (management.iface, management.bridged, management.southbound) == ("ovirtmgmt", True, "eth0")
    assert (management.ports, management.stp, management.switch) == (["eth0", "vnet0"], "off", "legacy")
    assert management.interface is UNSET and management.vlan_id is UNSET
    assert (management.address, management.dhcpv4) == ("192.0.2.10", True)
    storage = networks["storage"]
    assert (storage.southbound, storage.vlan_id, storage.mtu) == ("bond0.100", 100, 9000)
    migration = networks["migration"]
    assert (migration.iface, migration.interface, migration.southbound) == ("bond0.100",) * 3
    assert (migration.vlan_id, migration.bridged) == (100, False)
    assert migration.ports is UNSET and migration.stp is UNSET


def test_a_device_has_its_networks_way_to_addresses(state) -> None:
    assert describe(state, *RECORDS).bridges["ovirtmgmt"].dhcpv4 is True


def test_a_bridge_without_cards_has_no_southbound(state) -> None:
    links = tuple(replace(link, master=0) if link.name == "eth0" else link for link in state.links)
    found = describe(replace(state, links=links), *RECORDS).networks["ovirtmgmt"]
    assert found.southbound is UNSET and found.ports == ["vnet0"]


def test_statistics_of_every_device(state) -> None:
    found = make_statistics(state, time_s=1700000000.5)
    assert set(found.network) == {link.name for link in state.links}
    card = found.network["eth0"]
    assert (card.received_bytes, card.sent_bytes, card.receive_errors, card.send_errors) == (1000, 2000, 1, 2)
    assert (card.state, card.speed_mbps, card.duplex, card.sample_time_s) == ("up", 10000, "full", 1700000000.5)
    assert (found.network["eth2"].state, found.network["eth2"].speed_mbps) == ("down", 1000)
    assert found.network["bond0.100"].speed_mbps == 1000


def test_each_total_is_the_sum_of_its_own_name(state) -> None:
    found = make_statistics(state, time_s=0.0)
    assert (found.receive_dropped, found.send_dropped) == (43, 54)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.10", "ovirtmgmt"),
        ("::ffff:192.0.2.10", "ovirtmgmt"),
        ("2001:DB8:0::10", "ovirtmgmt"),
        ("fe80::1%ovirtmgmt", "ovirtmgmt"),
        ("127.0.0.1", "lo"),
        ("192.0.2.99", ""),
        ("", ""),
        ("/run/vdsm/vdsmd.sock", ""),
    ],
)
def test_the_device_that_owns_an_address(state, address: str, name: str) -> None:
    assert find_interface(state, address) == name


def test_a_link_without_a_kernel_kind_or_driver_is_not_a_card() -> None:
    state = NetworkState(links=(Link(index=1, name="ib0"), Link(index=2, name="eth0", has_driver=True)))
    assert set(describe(state).nics) == {"eth0"}
