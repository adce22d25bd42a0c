"""Links and what goes wrong with them: a cable that is pulled is out, loss loses, and servers give addresses."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from lab.commands import PartFailed, wait_for
from lab.dhcp import address_server, leased, list_addresses
from lab.impairments import impaired, ping, wait_until_reached
from lab.networks import (
    Link,
    Namespace,
    Switch,
    bond,
    bridge,
    dummy,
    get_active_slave,
    namespace,
    switch,
    veth,
    vlan,
)

HERE, PEER = "198.18.9.1", "198.18.9.2"


@contextmanager
def cable() -> Iterator[tuple[Link, Namespace]]:
    """A veth pair between HERE and PEER."""
    with namespace("peer") as peer, veth("here0", Link("there0", peer)) as here:
        here.add_addresses(f"{HERE}/24")
        Link("there0", peer).add_addresses(f"{PEER}/24")
        yield here, peer


@contextmanager
def station(switch: Switch, name: str, address: str, *, untagged: int | None = None) -> Iterator[Namespace]:
    """A peer on a switch."""
    with namespace(name) as peer, switch.port("eth0", peer, addresses=[address], untagged=untagged):
        yield peer


def test_link_that_goes_down_loses_its_carrier() -> None:
    with cable() as (here, _), dummy("dummy7") as nic:
        for link in (here, nic):
            assert link.has_carrier()
            with link.unplugged():
                assert not link.has_carrier()
                assert int(Path("/sys/class/net", link.name, "flags").read_text(), 16) & 1  # it is up all the same
                assert Path("/sys/class/net", link.name, "carrier").read_text() == "0\n"
            assert link.has_carrier()
        wait_until_reached(PEER)
    assert not here.exists()
    assert not nic.exists()


@contextmanager
def traffic() -> Iterator[list[bool]]:
    """One echo request after the other goes to PEER meanwhile; whether each was answered within a second."""
    answered: list[bool] = []
    ends = Event()

    def send() -> None:
        while not ends.wait(0.02):
            answered.append(bool(ping(PEER, wait_s=1)))

    sender = Thread(target=send)
    sender.start()
    try:
        yield answered
    finally:
        ends.set()
        sender.join()


def wait_for_answers(answered: list[bool]) -> None:
    """Wait until the next requests, three in a row, were answered."""
    begin = len(answered) + 1  # the one that is under way does not count
    wait_for(lambda: len(answered) >= begin + 3 and all(answered[-3:]), "traffic goes on")


def test_bond_fails_over_while_traffic_goes_on() -> None:
    with ExitStack() as stack:
        lan = stack.enter_context(switch("lan"))
        stack.enter_context(station(lan, "peer", f"{PEER}/24"))
        slaves = {link.name: link for link in (stack.enter_context(lan.port(f"slave{n}")) for n in range(2))}
        bonded = stack.enter_context(bond("bond7", list(slaves.values())))
        bonded.add_addresses(f"{HERE}/24")
        wait_for(lambda: get_active_slave(bonded), "an active slave")
        first = get_active_slave(bonded)
        with traffic() as answered:
            wait_for_answers(answered)
            with slaves[first].unplugged():
                wait_for(lambda: get_active_slave(bonded) not in ("", first), "the other slave takes over")
                second = get_active_slave(bonded)
                wait_for_answers(answered)
            with slaves[second].unplugged():
                wait_for(lambda: get_active_slave(bonded) == first, "the first slave takes over again")
                wait_for_answers(answered)
        with slaves[first].unplugged(), slaves[second].unplugged():
            bonded.wait_for_carrier(False)
            assert ping(PEER, 3, wait_s=0.5) == []
    assert not bonded.exists()


@pytest.mark.parametrize("mode", ["balance-rr", "802.3ad"])
def test_bonds_of_other_modes(mode: str) -> None:
    with dummy("dummy7") as nic, bond("bond7", [nic], mode):
        assert Path("/sys/class/net/bond7/bonding/mode").read_text().split()[0] == mode
        assert Path("/sys/class/net/bond7/bonding/slaves").read_text().split() == ["dummy7"]
    assert not Path("/sys/class/net/bond0").exists()  # that the module would have made


def test_vlans_separate() -> None:
    with ExitStack() as stack:
        lan = stack.enter_context(switch("lan", filters_vlans=True))
        ten = stack.enter_context(station(lan, "ten", "198.18.9.10/24", untagged=10))
        stack.enter_context(station(lan, "ten2", "198.18.9.11/24", untagged=10))
        stack.enter_context(station(lan, "twenty", "198.18.9.20/24", untagged=20))
        trunk = stack.enter_context(lan.port("trunk0", tagged=(10, 20)))
        tagged = stack.enter_context(vlan(trunk, 20))
        on_top = stack.enter_context(bridge("br20", [tagged]))
        on_top.add_addresses(f"{HERE}/24")
        assert tagged.name == "trunk0.20"
        wait_until_reached("198.18.9.20")
        wait_until_reached("198.18.9.11", namespace=ten)
        assert ping("198.18.9.10", 3) == []
        assert ping("198.18.9.20", 3, namespace=ten) == []


def test_cut_network_drops_packets() -> None:
    with cable() as (here, _):
        wait_until_reached(PEER)
        with impaired(here, loss_percent=100):
            assert ping(PEER, 5, wait_s=1) == []
        assert len(ping(PEER, 5, wait_s=10)) == 5


def test_loss_drops_some_packets() -> None:
    with cable() as (here, _):
        wait_until_reached(PEER)
        with impaired(here, loss_percent=50):
            assert 0 < len(ping(PEER, 60, interval_s=0.005, wait_s=1)) < 60  # else by a chance of 2^-59


def test_delay_delays() -> None:
    with cable() as (here, _):
        wait_until_reached(PEER)
        quick = ping(PEER, 3, wait_s=10)
        with impaired(here, delay_ms=500):
            # Whether all come is another test's matter; on a busy machine none may come for a while.
            late = wait_for(lambda: ping(PEER, 3, wait_s=10), "a late answer")
    assert min(quick) < 0.5 <= min(late)


def test_rate_limits() -> None:
    with cable() as (here, _):
        wait_until_reached(PEER)
        with impaired(here, rate_kbit=8):
            # 28 bytes of echo request and 14 of its frame, 8 kbit/s, 16 KiB of burst: the rest comes late or never.
            trips = ping(PEER, 600, interval_s=0, wait_s=2)
    assert len(trips) < 600 or max(trips) > 1


def test_dhcp4_gives_an_address() -> None:
    with namespace("peer") as peer, veth("here0", Link("there0", peer)) as here:
        with address_server(Link("there0", peer), ipv4="198.18.9.1/24"), leased(here) as address:
            assert address.startswith("198.18.9.1")
            assert address.endswith("/24")
            wait_until_reached("198.18.9.1")
        assert list_addresses(here, 4) == []


def test_dhcp6_gives_an_address() -> None:
    with namespace("peer") as peer, veth("here0", Link("there0", peer)) as here:
        with address_server(Link("there0", peer), ipv6="fd00:198:18:9::1/64"), leased(here, 6) as address:
            assert address.startswith("fd00:198:18:9::1")
        assert list_addresses(here, 6) == []


def test_router_advertisements_give_a_prefix() -> None:
    with (
        namespace("peer") as peer,
        veth("here0", Link("there0", peer)) as here,
        address_server(Link("there0", peer), ipv6="fd00:198:18:9::1/64", stateful=False),
    ):
        wait_for(lambda: list_addresses(here, 6), "an address of the advertised prefix", pause_s=0.5)
        [address] = list_addresses(here, 6)
        assert address.startswith("fd00:198:18:9:")
        assert address.endswith("/64")


def test_names_that_are_taken_stay_with_their_owners() -> None:
    with dummy("dummy7") as nic:
        with pytest.raises(PartFailed), dummy("dummy7"):
            pass
        assert nic.exists()


def test_links_that_cannot_be_finished_go() -> None:
    with pytest.raises(PartFailed), bridge("br7", [Link("none")]):
        pass
    assert not Link("br7").exists()
