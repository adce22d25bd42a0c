"""The two requests that tests make most often, to the kernel itself: a started `ip` costs half a second in the lab."""

import os
import socket
import struct
from ipaddress import ip_interface

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, index
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_ERROR = struct.Struct("=i")
_DELETE_LINK, _NEW_ADDRESS = 17, 20
_REQUEST_ACKNOWLEDGED, _CREATE_EXCLUSIVELY = 0x5, 0x600
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_WITHOUT_DAD = 0x2


def add_address(link: str, address: str) -> None:
    """Add an address with its prefix length to a link of this thread's network namespace. Raises OSError.

    One of IPv6 can be used at once: nobody is asked whether it is taken, which takes a second or two.
    """
    interface = ip_interface(address)
    is_new = interface.version == 6
    family = socket.AF_INET6 if is_new else socket.AF_INET
    flags = _WITHOUT_DAD if is_new else 0
    body = _ADDRESS.pack(family, interface.network.prefixlen, flags, 0, socket.if_nametoindex(link))
    body += _pack_attribute(_IFA_LOCAL, interface.packed) + _pack_attribute(_IFA_ADDRESS, interface.packed)
    if not is_new:
        body += _pack_attribute(_IFA_BROADCAST, interface.network.broadcast_address.packed)
    _ask(_NEW_ADDRESS, _CREATE_EXCLUSIVELY, body, f"{address} on {link}")


def delete_link(link: str) -> None:
    """Delete a link of this thread's network namespace. Raises OSError."""
    _ask(_DELETE_LINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, socket.if_nametoindex(link), 0, 0), link)


def _pack_attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value


def _ask(kind: int, flags: int, body: bytes, what: str) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST_ACKNOWLEDGED | flags, 1, 0) + body)
        number = -_ERROR.unpack_from(kernel.recv(4096), _HEADER.size)[0]
    if number:
        raise OSError(number, os.strerror(number), what)
