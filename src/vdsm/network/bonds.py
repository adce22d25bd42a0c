"""Options of bonds as they are reported: numbers for words, and only those that differ from the kernel's defaults."""

from collections.abc import Mapping

_NOT_OPTIONS = frozenset(
    "slaves active_slave mii_status queue_id ad_aggregator ad_num_ports ad_actor_key ad_partner_key ad_partner_mac"
    " ad_actor_system".split()
)
# Facts §3.8 of networks; kernels since 2014 start with tlb_dynamic_lb 1, peer_notif_delay 0 and lacp_active on.
_DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "ad_actor_sys_prio": ("", "65535"),
    "ad_select": ("0",),
    "ad_user_port_key": ("", "0"),
    "all_slaves_active": ("0",),
    "arp_all_targets": ("0",),
    "arp_interval": ("0",),
    "arp_ip_target": ("",),
    "arp_missed_max": ("2",),
    "arp_validate": ("", "0"),
    "downdelay": ("0",),
    "fail_over_mac": ("0",),
    "lacp_active": ("", "1"),
    "lacp_rate": ("", "0"),
    "lp_interval": ("1",),
    "miimon": ("0",),
    "min_links": ("0",),
    "ns_ip6_target": ("",),
    "num_grat_arp": ("1",),
    "num_unsol_na": ("1",),
    "packets_per_slave": ("1",),
    "peer_notif_delay": ("0",),
    "primary": ("",),
    "primary_reselect": ("0",),
    "resend_igmp": ("1",),
    "tlb_dynamic_lb": ("0", "1"),
    "updelay": ("0",),
    "use_carrier": ("1",),
    "xmit_hash_policy": ("0",),
}


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
