"""Answers of the kernel as pyroute2 hands them over."""

import socket

import pytest

from vdsm.adapters.netlink import parse_address, parse_default_route, parse_link, parse_nameservers
from vdsm.network.model import Address, Counters, Route


class Message(dict):
    """A netlink answer: a header as a mapping, and attributes."""

    def __init__(self, header=(), **attributes) -> None:
        super().__init__(header)
        self._attributes = attributes

    def get_attr(self, name):
        return self._attributes.get(name)


TOTALS = {
    "rx_bytes": 1,
    "tx_bytes": 2,
    "rx_errors": 3,
    "tx_errors": 4,
    "rx_dropped": 5,
    "tx_dropped": 6,
}


def test_a_vlan() -> None:
    link, operational = parse_link(
        Message(
            {"index": 11, "flags": 0x10043},
            IFLA_IFNAME="bond0.100",
            IFLA_ADDRESS="52:54:00:00:00:03",
            IFLA_MTU=9000,
            IFLA_MASTER=21,
            IFLA_LINK=10,
            IFLA_OPERSTATE="UP",
            IFLA_STATS64=TOTALS,
            IFLA_LINKINFO=Message(IFLA_INFO_KIND="vlan", IFLA_INFO_DATA=Message(IFLA_VLAN_ID=100)),
        )
    )
    assert (link.index, link.name, link.kind, link.vlan_id) == (11, "bond0.100", "vlan", 100)
    assert (link.base, link.master, link.mtu, link.state, operational) == (10, 21, 9000, "up", True)
    assert link.counters == Counters(1, 2, 3, 4, 5, 6)


def test_loopback_has_hardly_any_attributes() -> None:
    link, operational = parse_link(Message({"index": 1, "flags": 0x9}, IFLA_IFNAME="lo", IFLA_OPERSTATE="UNKNOWN"))
    assert (link.kind, link.mac_address, link.master, link.state, operational) == ("", "", 0, "down", False)
    assert link.counters == Counters()


def test_the_local_end_of_a_point_to_point_address() -> None:
    header = {"family": socket.AF_INET, "index": 4, "prefixlen": 32, "scope": 0, "flags": 0}
    message = Message(header, IFA_LOCAL="192.0.2.2", IFA_ADDRESS="192.0.2.1")
    assert parse_address(message) == Address(index=4, family=4, address="192.0.2.2", prefix_length=32)


@pytest.mark.parametrize(("family", "secondary"), [(socket.AF_INET, True), (socket.AF_INET6, False)])
def test_the_secondary_bit_is_another_one_for_ipv6(family: int, secondary: bool) -> None:
    header = {"family": family, "index": 4, "prefixlen": 24, "scope": 0, "flags": 1}
    assert parse_address(Message(header, IFA_ADDRESS="192.0.2.3")).secondary is secondary


def route(dst_len: int = 0, kind: int = 1, table: int = 254, **attributes) -> list[Route]:
    header = {"family": socket.AF_INET, "dst_len": dst_len, "type": kind, "table": table}
    return list(parse_default_route(Message(header, **attributes)))


def test_default_routes() -> None:
    assert route(RTA_GATEWAY="192.0.2.1", RTA_OIF=4) == [Route(index=4, family=4, gateway="192.0.2.1")]
    assert route(RTA_GATEWAY="192.0.2.1", RTA_OIF=4, RTA_TABLE=3405774592, table=252)[0].table == 3405774592


def test_what_is_not_a_default_route_through_a_gateway() -> None:
    assert route(dst_len=24, RTA_GATEWAY="192.0.2.1", RTA_OIF=4) == []
    assert route(kind=7, RTA_OIF=4) == []
    assert route(RTA_OIF=4) == []


def test_several_next_hops() -> None:
    hops = [Message({"oif": 4}, RTA_GATEWAY="192.0.2.1"), Message({"oif": 5}, RTA_GATEWAY="198.51.100.1")]
    assert [(hop.index, hop.gateway) for hop in route(RTA_MULTIPATH=hops)] == [(4, "192.0.2.1"), (5, "198.51.100.1")]


def test_nameservers() -> None:
    text = "# nameserver 1.1.1.1\nsearch example\nnameserver 192.0.2.53\nnameserver\nnameserver 2001:db8::53\n"
    assert parse_nameservers(text) == ["192.0.2.53", "2001:db8::53"]
