"""The kernel's network devices, addresses and routes as values; reading them is left to an adapter."""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct, field

UP = 0x1
RUNNING = 0x40
SECONDARY = 0x1
LINK_SCOPE = 253
MAIN_TABLE = 254


class Counters(Struct, frozen=True):
    """Totals of one device since it was made."""

    received_bytes: int = 0
    sent_bytes: int = 0
    receive_errors: int = 0
    send_errors: int = 0
    receive_dropped: int = 0
    send_dropped: int = 0


class Link(Struct, frozen=True):
    """One device. `kind` is the kernel's (bridge, bond, vlan, veth, …), empty for hardware and loopback.

    `options` are the texts below `bonding/`, `bridge/` or `bonding_slave/` in sysfs; `speed_mbps` is what sysfs says
    while the link is up, else 0.
    """

    index: int
    name: str
    kind: str = ""
    mac_address: str = ""
    permanent_mac_address: str = ""
    mtu: int = 1500
    flags: int = 0
    master: int = 0
    base: int = 0
    vlan_id: int = 0
    has_driver: bool = False
    is_virtual_function: bool = False
    speed_mbps: int = 0
    duplex: str = "unknown"
    options: Mapping[str, str] = field(default_factory=dict)
    counters: Counters = Counters()

    @property
    def state(self) -> Literal["down", "up"]:
        return "up" if self.flags & UP and self.flags & RUNNING else "down"


class Address(Struct, frozen=True):
    """One address of one device."""

    index: int
    family: Literal[4, 6]
    address: str
    prefix_length: int
    scope: int = 0
    secondary: bool = False


class Route(Struct, frozen=True):
    """One default route."""

    index: int
    family: Literal[4, 6]
    gateway: str
    table: int = MAIN_TABLE


class NetworkState(Struct, frozen=True):
    """All that the kernel said at one moment."""

    links: tuple[Link, ...]
    addresses: tuple[Address, ...] = ()
    default_routes: tuple[Route, ...] = ()
    nameservers: tuple[str, ...] = ()
    ipv6_supported: bool = False


class NetworkRecord(Struct, frozen=True):
    """One network that a manager has set up, as the running configuration says (facts §4.3 of networks)."""

    name: str
    nic: str = ""
    bonding: str = ""
    vlan: int | None = None
    bridged: bool = True
    switch: Literal["legacy", "ovs"] = "legacy"
    dhcpv4: bool = False
    dhcpv6: bool = False
    ipv6_autoconf: bool = False

    @property
    def device(self) -> str:
        """The device that carries the network's addresses (facts §3.2 of networks)."""
        if self.bridged:
            return self.name
        base = self.bonding or self.nic
        return base if self.vlan is None else f"{base}.{self.vlan}"


class Visibility(Struct, frozen=True):
    """Which devices are told of: patterns of names, as the shell knows them."""

    fake_nics: tuple[str, ...] = ("dummy_*", "veth_*")
    hidden_nics: tuple[str, ...] = ("w*", "usb*")
    hidden_bonds: tuple[str, ...] = ()
    hidden_vlans: tuple[str, ...] = ()
