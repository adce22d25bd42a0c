"""The running configuration of networks on disk (facts §4.3 of networks), read; writing it is not done yet."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from msgspec import DecodeError, Struct, ValidationError, field
from msgspec.json import decode

from vdsm.network.model import NetworkRecord

log = logging.getLogger(__name__)


class _StoredNetwork(Struct, kw_only=True):
    nic: str = ""
    bonding: str = ""
    vlan: int | None = None
    bridged: bool = True
    switch: str = "legacy"
    bootproto: str = "none"
    dhcpv6: bool = False
    ipv6_autoconf: bool = field(name="ipv6autoconf", default=False)


class StoredNetworks:
    """Implements `network.ports.Records` and `virt.ports.NetworkDevices` on a state directory; none is no networks."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "staging/netconf/nets"

    async def list_networks(self) -> Sequence[NetworkRecord]:
        """The networks by name; a file that cannot be understood is logged and left out."""
        return await asyncio.to_thread(self._read)

    async def find_device(self, network: str) -> tuple[str, bool]:
        """Where the network is at home, and whether that is a bridge; an unknown one is the bridge of its name."""
        for record in await self.list_networks():
            if record.name == network and not record.bridged and record.switch == "legacy":
                base = record.bonding or record.nic
                return (base if record.vlan is None else f"{base}.{record.vlan}"), False
        return network, True

    def _read(self) -> list[NetworkRecord]:
        try:
            paths = sorted(self._folder.iterdir())
        except OSError:
            return []
        records = (self._read_one(path) for path in paths)
        return [record for record in records if record is not None]

    def _read_one(self, path: Path) -> NetworkRecord | None:
        try:
            stored = decode(path.read_bytes(), type=_StoredNetwork)
        except (OSError, DecodeError, ValidationError) as error:
            log.warning("network configuration %s is left out: %s", path, error)
            return None
        return NetworkRecord(
            name=path.name,
            nic=stored.nic,
            bonding=stored.bonding,
            vlan=stored.vlan,
            bridged=stored.bridged,
            switch="ovs" if stored.switch == "ovs" else "legacy",
            dhcpv4=stored.bootproto == "dhcp",
            dhcpv6=stored.dhcpv6,
            ipv6_autoconf=stored.ipv6_autoconf,
        )
