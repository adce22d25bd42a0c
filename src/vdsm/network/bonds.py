"""Options of bonds as they are reported: numbers for words, and only those that differ from the kernel's defaults."""

from collections.abc import Mapping

_NOT_OPTIONS = frozenset(
    "slaves active_slave mii_status queue_id ad_aggregator ad_num_ports ad_actor_key ad_partner_key ad_partner_mac"
    " ad_actor_system".split()
)
_DEFAULTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        "ad_select all_slaves_active arp_all_targets arp_interval downdelay fail_over_mac miimon min_links"
        " peer_notif_delay primary_reselect updelay xmit_hash_policy".split(),
        ("0",),
    ),
    **dict.fromkeys("ad_user_port_key arp_validate lacp_rate".split(), ("", "0")),
    **dict.fromkeys("lp_interval num_grat_arp num_unsol_na packets_per_slave resend_igmp use_carrier".split(), ("1",)),
    "ad_actor_sys_prio": ("", "65535"),
    "arp_missed_max": ("2",),
    "lacp_active": ("", "1"),
    "tlb_dynamic_lb": ("0", "1"),
}
"""Facts §3.8 of networks, and what newer kernels start with; options that are not here are empty by default."""


def list_bond_options(texts: Mapping[str, str]) -> dict[str, str]:
    """The mode always, the others where they are not the default; `texts` are sysfs' (`active-backup 1`)."""
    options = {name: _get_value(name, text) for name, text in texts.items() if name not in _NOT_OPTIONS}
    return {
        name: value
        for name, value in sorted(options.items())
        if name == "mode" or value not in _DEFAULTS.get(name, ("",))
    }


def get_bond_speed(mode: str, active: str, speeds: Mapping[str, int]) -> int:
    """Mb/s of a bond from those of its slaves by name (facts §5.7 of networks)."""
    if not speeds:
        return 0
    match mode:
        case "1":
            return speeds.get(active, 0)
        case "3":
            return min(speeds.values())
        case _:
            return sum(speeds.values())


def _get_value(name: str, text: str) -> str:
    if name in ("arp_ip_target", "ns_ip6_target"):
        return ",".join(text.split())
    word, _, number = text.partition(" ")
    return number if number.isdecimal() else word
