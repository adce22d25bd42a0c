"""Network devices, addresses and routes from the kernel: netlink, and sysfs for what netlink does not tell.

Reading only; it is done in a thread and given up after a bound.
"""

import asyncio
import socket
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from msgspec.structs import replace

from vdsm.adapters.procfs import MachineFiles
from vdsm.network.model import MAIN_TABLE, SECONDARY, Address, Counters, Link, NetworkState, Route
from vdsm.network.ports import KernelSilent

if TYPE_CHECKING:
    from pyroute2 import IPRoute
    from pyroute2.netlink import nlmsg

_TIMEOUT_S = 5.0
_OPER_UP = "UP"
_NOT_SPEEDS = (65535, 4294967295)  # drivers' ways of saying that they do not know
_OPTION_FOLDERS = ("bonding", "bridge", "bonding_slave")
_UNICAST = 1


class Netlink:
    """Implements `network.ports.Kernel` for the network namespace that the daemon runs in."""

    def __init__(self, files: MachineFiles | None = None) -> None:
        self._files = files or MachineFiles()

    async def read_state(self) -> NetworkState:
        """Everything at once. Raises KernelSilent."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await asyncio.to_thread(self._read)
        except TimeoutError:
            raise KernelSilent(f"no answer within {_TIMEOUT_S} s") from None

    def _read(self) -> NetworkState:
        # Imported here, in the thread: it takes longer than the rest of the daemon's start.
        from pyroute2 import IPRoute
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            with IPRoute() as kernel:
                links = [parse_link(message) for message in kernel.get_links()]
                addresses = [parse_address(message) for message in kernel.get_addr()]
                routes = [*_list_routes(kernel, socket.AF_INET), *_list_routes(kernel, socket.AF_INET6)]
        except (NetlinkError, OSError) as error:
            raise KernelSilent(str(error)) from error
        return NetworkState(
            links=tuple(self._add_sysfs(link, operational) for link, operational in links),
            addresses=tuple(addresses),
            default_routes=tuple(routes),
            nameservers=tuple(parse_nameservers(self._files.read("/etc/resolv.conf") or "")),
            ipv6_supported=self._files.exists("/proc/net/if_inet6"),
        )

    def _add_sysfs(self, link: Link, operational: bool) -> Link:
        folder = f"/sys/class/net/{link.name}"
        speed = self._files.read_number(f"{folder}/speed") if operational else None
        return replace(
            link,
            has_driver=self._files.exists(f"{folder}/device/driver"),
            is_virtual_function=self._files.exists(f"{folder}/device/physfn"),
            speed_mbps=speed if speed is not None and speed > 0 and speed not in _NOT_SPEEDS else 0,
            duplex=self._files.read(f"{folder}/duplex") or "unknown",
            options=self._read_options(folder),
        )

    def _read_options(self, folder: str) -> dict[str, str]:
        found = {}
        for name in _OPTION_FOLDERS:
            for option in self._files.list_names(f"{folder}/{name}"):
                text = self._files.read(f"{folder}/{name}/{option}")
                if text is not None:
                    found[option] = text
        return found


def parse_link(message: "nlmsg") -> tuple[Link, bool]:
    """One device of a netlink answer, and whether it is operational; what sysfs alone knows is left empty."""
    kind, vlan_id = _parse_kind(message.get_attr("IFLA_LINKINFO"))
    link = Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME") or "",
        kind=kind,
        mac_address=message.get_attr("IFLA_ADDRESS") or "",
        permanent_mac_address=message.get_attr("IFLA_PERM_ADDRESS") or "",
        mtu=message.get_attr("IFLA_MTU") or 0,
        flags=message["flags"],
        master=message.get_attr("IFLA_MASTER") or 0,
        base=message.get_attr("IFLA_LINK") or 0,
        vlan_id=vlan_id,
        counters=_parse_counters(message.get_attr("IFLA_STATS64")),
    )
    return link, message.get_attr("IFLA_OPERSTATE") == _OPER_UP


def parse_address(message: "nlmsg") -> Address:
    """One address of a netlink answer; on point-to-point devices the local end counts."""
    family: Literal[4, 6] = 4 if message["family"] == socket.AF_INET else 6
    return Address(
        index=message["index"],
        family=family,
        address=message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"),
        prefix_length=message["prefixlen"],
        scope=message["scope"],
        # The bit says `temporary` of IPv6 addresses.
        secondary=bool(message["flags"] & SECONDARY) and family == 4,
    )


def parse_default_route(message: "nlmsg") -> Iterable[Route]:
    """The default routes that one netlink answer tells of: none, one, or several next hops."""
    if message["dst_len"] != 0 or message["type"] != _UNICAST:
        return
    family: Literal[4, 6] = 4 if message["family"] == socket.AF_INET else 6
    table = message.get_attr("RTA_TABLE") or message["table"] or MAIN_TABLE
    hops = message.get_attr("RTA_MULTIPATH")
    for hop in hops or [message]:
        gateway = hop.get_attr("RTA_GATEWAY")
        index = hop["oif"] if hops else message.get_attr("RTA_OIF")
        if gateway and index:
            yield Route(index=index, family=family, gateway=gateway, table=table)


def parse_nameservers(text: str) -> list[str]:
    """The servers of resolv.conf, in its order."""
    lines = (line.split() for line in text.splitlines())
    return [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]


def _list_routes(kernel: "IPRoute", family: int) -> Iterable[Route]:
    # Without `table` the kernel dumps the routes of every table.
    for message in kernel.get_routes(family=family):
        yield from parse_default_route(message)


def _parse_kind(info: "nlmsg | None") -> tuple[str, int]:
    if info is None:
        return "", 0
    kind, data = info.get_attr("IFLA_INFO_KIND") or "", info.get_attr("IFLA_INFO_DATA")
    vlan_id = data.get_attr("IFLA_VLAN_ID") if kind == "vlan" and data is not None else None
    return kind, vlan_id or 0


def _parse_counters(totals: Mapping[str, int] | None) -> Counters:
    if totals is None:
        return Counters()
    return Counters(
        received_bytes=totals["rx_bytes"],
        sent_bytes=totals["tx_bytes"],
        receive_errors=totals["rx_errors"],
        send_errors=totals["tx_errors"],
        receive_dropped=totals["rx_dropped"],
        send_dropped=totals["tx_dropped"],
    )
