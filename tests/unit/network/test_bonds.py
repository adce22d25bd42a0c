"""Options and speeds of bonds."""

import pytest

from vdsm.network.bonds import get_bond_speed, list_bond_options


def test_the_mode_always_and_the_rest_where_it_differs() -> None:
    texts = {"mode": "balance-rr 0", "miimon": "0", "updelay": "200", "fail_over_mac": "active 1", "mii_status": "up"}
    assert list_bond_options(texts) == {"mode": "0", "updelay": "200", "fail_over_mac": "1"}


def test_targets_are_a_list_with_commas() -> None:
    texts = {"mode": "active-backup 1", "arp_ip_target": "192.0.2.1 192.0.2.2", "primary": "eth1"}
    assert list_bond_options(texts) == {"mode": "1", "arp_ip_target": "192.0.2.1,192.0.2.2", "primary": "eth1"}


def test_an_option_that_nobody_knows_is_told_when_it_is_set() -> None:
    assert list_bond_options({"mode": "802.3ad 4", "shiny": "2", "dull": ""}) == {"mode": "4", "shiny": "2"}


@pytest.mark.parametrize(
    ("mode", "active", "speed"), [("0", "", 1100), ("1", "b", 100), ("1", "", 0), ("3", "", 100), ("4", "", 1100)]
)
def test_speed(mode: str, active: str, speed: int) -> None:
    assert get_bond_speed(mode, active, {"a": 1000, "b": 100}) == speed


def test_a_bond_without_slaves_has_no_speed() -> None:
    assert get_bond_speed("3", "", {}) == 0
