"""The oVirt guest agent's messages (facts §2.20): bytes into values and back, pure; `figures` knows what they mean.

Nobody vouches for who writes these bytes. Whatever they are, they become a message within bounds, or BadMessage.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

LONGEST_LINE = 1 << 20
LONGEST_REPAIRED = 1 << 16
"""Bytes of a line whose lone surrogates are worth the time to look for them."""

_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_EMPTY = re.compile(rb"\n{2,}")
_HEX = rb"[0-9a-fA-F]"
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB]%b{2}\\u[dD][c-fC-F]%b{2}|(u[dD][89a-fA-F]%b{2})|.)" % (_HEX, _HEX, _HEX), re.DOTALL
)

Number = Annotated[float, Meta(ge=-(2.0**63), lt=2.0**63)] | UnsetType
Session = Literal["Active", "Locked", "LoggedOff", "Unknown", "UserLoggedOn"]


class BadMessage(ValueError):
    """A line that is no message of the agent; the text says why, and repeats little of it."""


class Memory(Struct, frozen=True):
    """`memory-stat` of a heartbeat: KiB, and events a second."""

    mem_total: Number = UNSET
    mem_unused: Number = UNSET
    mem_buffers: Number = UNSET
    mem_cached: Number = UNSET
    swap_in: Number = UNSET
    swap_out: Number = UNSET
    pageflt: Number = UNSET
    majflt: Number = UNSET


class Heartbeat(Struct, frozen=True, rename={"free_mib": "free-ram", "memory": "memory-stat", "version": "apiVersion"}):
    """The agent lives."""

    free_mib: Number = UNSET
    memory: Memory | UnsetType = UNSET
    version: Number = UNSET


class HostName(Struct, frozen=True):
    """The guest's name for itself."""

    name: str


class OsVersion(Struct, frozen=True):
    """The guest's operating system in one text."""

    version: str


class OsInfo(Struct, frozen=True):
    """The guest's operating system in parts."""

    codename: str = ""
    arch: str = ""
    version: str = ""
    type: str = ""
    distribution: str = ""
    kernel: str = ""


class Timezone(Struct, frozen=True):
    """The guest's time zone; minutes from UTC."""

    zone: str
    offset: Number = UNSET


class Interface(Struct, frozen=True):
    """A network interface."""

    name: str
    hw: str | None = ""
    inet: list[str] = []
    inet6: list[str] = []


class Interfaces(Struct, frozen=True):
    """All network interfaces."""

    interfaces: list[Interface]


class Applications(Struct, frozen=True):
    """Installed applications."""

    applications: list[str]


class ActiveUser(Struct, frozen=True):
    """Who sits at the screen."""

    name: str


class Fqdn(Struct, frozen=True):
    """The guest's name in DNS."""

    fqdn: str


class Container(Struct, frozen=True):
    """A container."""

    id: str = ""
    names: list[str] = []
    image: str = ""
    status: str = ""
    command: str = ""


class Containers(Struct, frozen=True, rename={"containers": "list"}):
    """All containers."""

    containers: list[Container]


class Disk(Struct, frozen=True):
    """A file system: bytes."""

    path: str
    total: Number
    used: Number
    fs: str = ""


class Mapped(Struct, frozen=True):
    """A disk's name inside the guest."""

    name: str


class DisksUsage(Struct, frozen=True):
    """File systems, and the disks by their serials."""

    disks: list[Disk]
    mapping: dict[str, Mapped] | UnsetType = UNSET


class CpuCount(Struct, frozen=True):
    """Processors that the guest uses."""

    count: Number


class SessionChanged(Struct, frozen=True):
    """What happened on the screen."""

    session: Session


class Uninstalled(Struct, frozen=True):
    """The agent is being removed."""


class Completion(Struct, frozen=True):
    """The guest is ready for what it was told of."""

    reply_id: str | int


class Noted(Struct, frozen=True):
    """A message that changes nothing."""


Told = (
    HostName | OsVersion | OsInfo | Timezone | Interfaces | Applications | ActiveUser | Fqdn | Containers | DisksUsage
)
Message = Told | Heartbeat | CpuCount | SessionChanged | Uninstalled | Completion | Noted


class _Name(Struct, frozen=True, rename={"name": "__name__"}):
    name: str


_name = msgspec.json.Decoder(_Name)
_KINDS: Mapping[str, type[Message]] = {
    "heartbeat": Heartbeat,
    "host-name": HostName,
    "os-version": OsVersion,
    "os-info": OsInfo,
    "timezone": Timezone,
    "network-interfaces": Interfaces,
    "applications": Applications,
    "active-user": ActiveUser,
    "fqdn": Fqdn,
    "containers": Containers,
    "disks-usage": DisksUsage,
    "number-of-cpus": CpuCount,
    "uninstalled": Uninstalled,
    "completion": Completion,
    **dict.fromkeys(("session-startup", "session-shutdown"), Noted),
}
# Agents of Windows tell some numbers as text.
_decoders = {name: msgspec.json.Decoder(kind, strict=False) for name, kind in _KINDS.items()}
_SESSIONS: Mapping[str, Session] = {
    "session-logon": "UserLoggedOn",
    "session-lock": "Locked",
    "session-unlock": "Active",
    "session-logoff": "LoggedOff",
}


def decode(line: bytes) -> Message:
    """The message of one line; raises BadMessage."""
    text = line.decode("utf-8", "replace").encode()
    if len(text) <= LONGEST_REPAIRED and b"\\u" in text:
        text = _ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], text)
    try:
        name = _name.decode(text).name
        if name in _SESSIONS:
            return SessionChanged(_SESSIONS[name])
        if name not in _decoders:
            raise BadMessage(f"no message is called {clean(name, 40)!r}")
        return _decoders[name].decode(text)
    except msgspec.MsgspecError as error:
        raise BadMessage(clean(str(error), 200)) from None
    except RecursionError:
        raise BadMessage("nested too deep") from None


def encode(name: str, arguments: Mapping[str, object]) -> bytes:
    """A message for the agent, as its line."""
    return msgspec.json.encode({"__name__": name, **arguments}) + b"\n"


def clean(text: str, longest: int) -> str:
    """The text without characters that XML and terminals stumble over, and not longer than that."""
    return _FORBIDDEN.sub("\ufffd", text[:longest])


class Lines:
    """Cuts what arrives into lines; one that is too long is skipped, and costs no more memory than its limit."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._skips = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that are complete with this. To be read to the end before more is fed."""
        *ended, rest = _EMPTY.sub(b"\n", data).split(b"\n")
        for piece in ended:
            line = bytes(self._rest) + piece
            skips, self._skips = self._skips, False
            self._rest.clear()
            if not skips and 0 < len(line) <= LONGEST_LINE:
                yield line
        self._rest += rest
        if len(self._rest) > LONGEST_LINE:
            self._rest.clear()
            self._skips = True
        elif self._skips:
            self._rest.clear()
