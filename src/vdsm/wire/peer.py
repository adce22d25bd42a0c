"""Who is at the other end of a connection, and what that entitles to; carrying it along is left to the context."""

import asyncio
import socket
import struct
from enum import Enum

from msgspec import Struct

from vdsm.core.context import Request, Right


class Door(Enum):
    """How a client came in."""

    TLS = "tls"
    PLAIN = "plain"
    UNIX = "unix"


class Peer(Struct, frozen=True):
    """One connection's other end. For the unix socket `host` is `unix` and `port` the client's process id."""

    door: Door
    host: str = ""
    port: int = 0
    local_address: str = ""
    common_name: str = ""
    """Of the client's certificate, on the TLS door."""

    def __str__(self) -> str:
        return f"{self.host},{self.port}"

    def make_request(self, flow_id: str = "") -> Request:
        """The origin of one call from this peer."""
        return Request(self.host, self.port, self.local_address, flow_id, decide_right(self))


def decide_right(peer: Peer) -> Right:
    """What a client may do that was let in: today everything (facts: rpc §1.2). Finer rights are to be decided here.

    A certificate of our authority, the owner's group on the unix socket and (where a setting opened it) loopback count
    alike.
    """
    return Right.ADMINISTER


def get_peer(transport: asyncio.BaseTransport, door: Door) -> Peer:
    """Describe the other end of an accepted connection."""
    connection = transport.get_extra_info("socket")
    if door is Door.UNIX:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        process_id, _user, _group = struct.unpack("3i", credentials)
        return Peer(door, "unix", process_id)
    remote = transport.get_extra_info("peername") or ("", 0)
    local = transport.get_extra_info("sockname") or ("", 0)
    return Peer(door, plain_address(remote[0]), remote[1], plain_address(local[0]), _common_name(transport))


def plain_address(address: str) -> str:
    """The IPv4 address that a dual-stack socket shows as `::ffff:a.b.c.d`; others unchanged, without their zone."""
    return address.removeprefix("::ffff:").partition("%")[0]


def _common_name(transport: asyncio.BaseTransport) -> str:
    certificate = transport.get_extra_info("peercert") or {}
    for relative_name in certificate.get("subject", ()):
        for key, value in relative_name:
            if key == "commonName":
                return str(value)
    return ""
