"""From the kernel's devices to what managers are told of them (facts §5.1 to §5.8 of networks); pure."""

import ipaddress
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Literal

from msgspec import UNSET
from msgspec.structs import asdict

from vdsm.api import host_types
from vdsm.network.bonds import get_bond_speed, list_bond_options
from vdsm.network.model import LINK_SCOPE, MAIN_TABLE, Address, Link, NetworkRecord, NetworkState, Visibility

_DUMMY_BRIDGE = ";vdsmdummy;"
_ASSUMED_SPEED_MBPS = 1000


class Devices:
    """One look at the kernel, ready to be asked about single devices."""

    def __init__(self, state: NetworkState, visibility: Visibility, records: Sequence[NetworkRecord] = ()) -> None:
        self._state = state
        self._visibility = visibility
        self._by_name = {link.name: link for link in state.links}
        self._by_index = {link.index: link for link in state.links}
        self._records = {record.device: record for record in records}

    def list_kind(self, kind: str) -> list[Link]:
        """The visible devices of the kernel's kind `bridge`, `bond` or `vlan`."""
        hidden = {"bond": self._visibility.hidden_bonds, "vlan": self._visibility.hidden_vlans}.get(kind, ())
        return [
            link
            for link in self._state.links
            if link.kind == kind and link.name != _DUMMY_BRIDGE and not _matches(link.name, hidden)
        ]

    def list_nics(self) -> list[Link]:
        """Hardware, virtual functions, and what settings let pass for a NIC."""
        return [link for link in self._state.links if self._is_nic(link)]

    def find(self, name: str) -> Link | None:
        """The device of that name, visible or not."""
        return self._by_name.get(name)

    def get_master(self, link: Link) -> Link | None:
        """The bond or bridge that the device belongs to."""
        return self._by_index.get(link.master)

    def get_base(self, link: Link) -> Link | None:
        """What a VLAN stands on."""
        return self._by_index.get(link.base)

    def list_ports(self, link: Link) -> list[str]:
        """The names of a bridge's ports or a bond's slaves."""
        return sorted(port.name for port in self._state.links if port.master == link.index)

    def get_speed(self, link: Link) -> int:
        """Mb/s (facts §5.7 of networks); 0 when it is down or not known."""
        if link.kind == "bond":
            mode = list_bond_options(link.options).get("mode", "")
            speeds = {name: self.get_speed(self._by_name[name]) for name in self.list_ports(link)}
            return get_bond_speed(mode, link.options.get("active_slave", ""), speeds)
        if link.kind == "vlan":
            base = self.get_base(link)
            return self.get_speed(base) if base is not None and base.kind == "bond" else link.speed_mbps
        return link.speed_mbps if self._is_nic(link) else 0

    def describe_ip(self, link: Link, record: NetworkRecord | None = None) -> host_types.IpAddresses:
        """The block of address fields that every device has."""
        known = record or self._records.get(link.name)
        addresses = [item for item in self._state.addresses if item.index == link.index and item.scope != LINK_SCOPE]
        ipv4 = [item for item in addresses if item.family == 4]
        gateway = self._get_gateway(link, 4)
        primary = _get_primary(ipv4, gateway)
        main = {
            route.gateway for route in self._state.default_routes if route.family == 4 and route.table == MAIN_TABLE
        }
        return host_types.IpAddresses(
            address=primary.address if primary else "",
            netmask=_format_netmask(primary.prefix_length) if primary else "",
            ipv4_addresses=[f"{item.address}/{item.prefix_length}" for item in ipv4],
            ipv6_addresses=[f"{item.address}/{item.prefix_length}" for item in addresses if item.family == 6],
            gateway=gateway,
            ipv6_gateway=self._get_gateway(link, 6) or "::",
            ipv4_default_route=bool(gateway) and gateway in main,
            dhcpv4=known.dhcpv4 if known else False,
            dhcpv6=known.dhcpv6 if known else False,
            ipv6_autoconf=known.ipv6_autoconf if known else False,
        )

    def _get_gateway(self, link: Link, family: Literal[4, 6]) -> str:
        routes = self._state.default_routes
        found = {route.gateway for route in routes if route.index == link.index and route.family == family}
        return found.pop() if len(found) == 1 else ""

    def _is_nic(self, link: Link) -> bool:
        patterns = self._visibility
        if link.kind in ("dummy", "veth", "macvlan"):
            return _matches(link.name, patterns.fake_nics)
        if link.kind or not (link.has_driver or link.is_virtual_function):
            return False
        master = self.get_master(link)
        in_hidden_bond = master is not None and master.kind == "bond" and _matches(master.name, patterns.hidden_bonds)
        return not (_matches(link.name, patterns.hidden_nics) or in_hidden_bond or self._is_lent(link))

    def _is_lent(self, link: Link) -> bool:
        """Whether a virtual function has been given to a VM: its address shows on a macvtap."""
        taps = (other for other in self._state.links if other.kind in ("macvlan", "macvtap"))
        return link.is_virtual_function and any(tap.mac_address == link.mac_address for tap in taps)


def make_capabilities(
    state: NetworkState, visibility: Visibility, records: Sequence[NetworkRecord]
) -> host_types.NetworkCapabilities:
    """Everything that `Host.getNetworkCapabilities` tells."""
    devices = Devices(state, visibility, records)
    networks = {record.name: _make_network(devices, record) for record in records}
    return host_types.NetworkCapabilities(
        networks={name: network for name, network in networks.items() if network is not None},
        bridges={link.name: _make_bridge(devices, link) for link in devices.list_kind("bridge")},
        bondings={link.name: _make_bonding(devices, link) for link in devices.list_kind("bond")},
        nics={link.name: _make_nic(devices, link) for link in devices.list_nics()},
        vlans={link.name: _make_vlan(devices, link) for link in devices.list_kind("vlan")},
        nameservers=list(state.nameservers),
        ipv6_supported=state.ipv6_supported,
        uncommitted_changes=False,  # no network can be changed yet
    )


def make_statistics(state: NetworkState, *, time_s: float) -> host_types.NetworkStatistics:
    """The counters of every device. Each total is the sum of its own name: the original swaps the two."""
    devices = Devices(state, Visibility())
    return host_types.NetworkStatistics(
        network={link.name: _make_device_stats(devices, link, time_s) for link in state.links},
        receive_dropped=sum(link.counters.receive_dropped for link in state.links),
        send_dropped=sum(link.counters.send_dropped for link in state.links),
    )


def find_interface(state: NetworkState, address: str) -> str:
    """The device that owns an address, which may be written as IPv6 for IPv4 or carry a zone; empty for none."""
    try:
        wanted = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(wanted, ipaddress.IPv6Address) and wanted.ipv4_mapped:
        wanted = wanted.ipv4_mapped
    names = {link.index: link.name for link in state.links}
    found = (item.index for item in state.addresses if ipaddress.ip_address(item.address) == wanted)
    return names.get(next(found, 0), "")


def _make_nic(devices: Devices, link: Link) -> host_types.Nic:
    master = devices.get_master(link)
    enslaved = master is not None and master.kind == "bond"
    return host_types.Nic(
        **asdict(devices.describe_ip(link)),
        mtu=link.mtu,
        mac_address=link.mac_address,
        permanent_mac_address=link.permanent_mac_address if enslaved and link.permanent_mac_address else UNSET,
        speed_mbps=devices.get_speed(link) or UNSET,
        aggregator_id=link.options.get("ad_aggregator_id", UNSET) if enslaved else UNSET,
    )


def _make_bonding(devices: Devices, link: Link) -> host_types.Bonding:
    aggregator, partner = link.options.get("ad_aggregator", ""), link.options.get("ad_partner_mac", "")
    return host_types.Bonding(
        **asdict(devices.describe_ip(link)),
        mtu=link.mtu,
        mac_address=link.mac_address,
        slaves=devices.list_ports(link),
        active_slave=link.options.get("active_slave", ""),
        options=list_bond_options(link.options),
        speed_mbps=devices.get_speed(link) or UNSET,
        aggregator_id=aggregator or UNSET,
        partner_mac_address=partner or UNSET,
    )


def _make_vlan(devices: Devices, link: Link) -> host_types.Vlan:
    base = devices.get_base(link)
    return host_types.Vlan(
        **asdict(devices.describe_ip(link)),
        mtu=link.mtu,
        iface=base.name if base is not None else "",
        vlan_id=link.vlan_id,
    )


def _make_bridge(devices: Devices, link: Link) -> host_types.Bridge:
    return host_types.Bridge(
        **asdict(devices.describe_ip(link)),
        mtu=link.mtu,
        ports=devices.list_ports(link),
        stp=_get_stp(link),
        options={name: text for name, text in link.options.items() if name != "flush"},
    )


def _make_network(devices: Devices, record: NetworkRecord) -> host_types.Network | None:
    """The network as it is now; None when its device is gone."""
    link = devices.find(record.device)
    if link is None:
        return None
    ports = devices.list_ports(link) if record.bridged else []
    southbound = devices.find(_get_southbound(devices, ports) if record.bridged else link.name)
    return host_types.Network(
        **asdict(devices.describe_ip(link, record)),
        mtu=link.mtu,
        iface=link.name,
        bridged=record.bridged,
        switch=record.switch,
        southbound=southbound.name if southbound else UNSET,
        vlan_id=southbound.vlan_id if southbound and southbound.kind == "vlan" else UNSET,
        interface=UNSET if record.bridged else link.name,
        ports=ports if record.bridged else UNSET,
        stp=_get_stp(link) if record.bridged else UNSET,
    )


def _get_southbound(devices: Devices, ports: Iterable[str]) -> str:
    """The bridge's one port that is a bond, else its one NIC, else its one VLAN; empty for none."""
    kinds = (devices.list_kind("bond"), devices.list_nics(), devices.list_kind("vlan"))
    for names in ({link.name for link in links} for links in kinds):
        matching = [port for port in ports if port in names]
        if len(matching) == 1:
            return matching[0]
    return ""


def _make_device_stats(devices: Devices, link: Link, time_s: float) -> host_types.DeviceStats:
    return host_types.DeviceStats(
        name=link.name,
        state=link.state,
        speed_mbps=devices.get_speed(link) or _ASSUMED_SPEED_MBPS,
        duplex=link.duplex,
        **asdict(link.counters),
        sample_time_s=time_s,
    )


def _get_stp(link: Link) -> Literal["on", "off"]:
    return "on" if link.options.get("stp_state", "0") != "0" else "off"


def _get_primary(addresses: Sequence[Address], gateway: str) -> Address | None:
    for item in addresses if gateway else ():
        network = ipaddress.ip_network(f"{item.address}/{item.prefix_length}", strict=False)
        if not item.secondary and ipaddress.ip_address(gateway) in network:
            return item
    return addresses[0] if addresses else None


def _format_netmask(prefix_length: int) -> str:
    return str(ipaddress.ip_network(f"0.0.0.0/{prefix_length}").netmask)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
