"""One host with everything: two bonded cards, a VLAN on the bond, a bridge with a VM's tap, and what is not shown."""

import pytest

from vdsm.network.model import RUNNING, UP, Address, Counters, Link, NetworkState, Route

ON = UP | RUNNING
BOND_OPTIONS = {
    "mode": "802.3ad 4",
    "miimon": "100",
    "lacp_rate": "fast 1",
    "xmit_hash_policy": "layer2 0",
    "arp_validate": "none 0",
    "ad_aggregator": "1",
    "ad_partner_mac": "aa:bb:cc:00:00:01",
    "slaves": "eth1 eth2",
    "active_slave": "",
    "primary": "",
}

LINKS = (
    Link(index=1, name="lo", mtu=65536, flags=ON, counters=Counters(10, 10)),
    Link(
        index=2,
        name="eth0",
        mac_address="52:54:00:00:00:02",
        flags=ON,
        has_driver=True,
        speed_mbps=10000,
        duplex="full",
        counters=Counters(1000, 2000, 1, 2, 3, 4),
        master=20,
    ),
    Link(
        index=3,
        name="eth1",
        mac_address="52:54:00:00:00:03",
        permanent_mac_address="52:54:00:00:00:aa",
        mtu=9000,
        flags=ON,
        has_driver=True,
        speed_mbps=1000,
        master=10,
        options={"ad_aggregator_id": "1"},
        counters=Counters(receive_dropped=40, send_dropped=50),
    ),
    Link(index=4, name="eth2", mac_address="52:54:00:00:00:03", mtu=9000, flags=UP, has_driver=True, master=10),
    Link(index=5, name="wlan0", flags=UP, has_driver=True),
    Link(index=6, name="veth_test", kind="veth", flags=ON),
    Link(index=7, name="veth12", kind="veth", flags=ON),
    Link(index=8, name="eth0v0", mac_address="52:54:00:00:00:08", is_virtual_function=True, has_driver=True),
    Link(index=9, name="macvtap0", kind="macvtap", mac_address="52:54:00:00:00:08"),
    Link(
        index=10, name="bond0", kind="bond", mac_address="52:54:00:00:00:03", mtu=9000, flags=ON, options=BOND_OPTIONS
    ),
    Link(index=11, name="bond0.100", kind="vlan", base=10, vlan_id=100, mtu=9000, flags=ON, master=21),
    Link(
        index=20,
        name="ovirtmgmt",
        kind="bridge",
        mac_address="52:54:00:00:00:02",
        flags=ON,
        options={"stp_state": "0", "forward_delay": "1500", "flush": ""},
    ),
    Link(index=21, name="storage", kind="bridge", mtu=9000, flags=ON, options={"stp_state": "1"}),
    Link(index=22, name=";vdsmdummy;", kind="bridge"),
    Link(index=30, name="vnet0", kind="tun", flags=ON, master=20),
)
ADDRESSES = (
    Address(index=1, family=4, address="127.0.0.1", prefix_length=8, scope=254),
    Address(index=20, family=4, address="198.51.100.9", prefix_length=24),
    Address(index=20, family=4, address="192.0.2.11", prefix_length=24, secondary=True),
    Address(index=20, family=4, address="192.0.2.10", prefix_length=24),
    Address(index=20, family=4, address="169.254.1.1", prefix_length=16, scope=253),
    Address(index=20, family=6, address="fe80::1", prefix_length=64, scope=253),
    Address(index=20, family=6, address="2001:db8::10", prefix_length=64),
    Address(index=11, family=4, address="203.0.113.5", prefix_length=30),
)
ROUTES = (
    Route(index=20, family=4, gateway="192.0.2.1"),
    Route(index=20, family=6, gateway="fe80::ff"),
    Route(index=11, family=4, gateway="203.0.113.6", table=3405774592),
)


@pytest.fixture
def state() -> NetworkState:
    return NetworkState(LINKS, ADDRESSES, ROUTES, nameservers=("192.0.2.53",), ipv6_supported=True)
