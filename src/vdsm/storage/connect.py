"""How servers are connected: what a connection may say, and the mount options that it stands for (facts: storage §13).

Pure; mounting is left to the kinds. Options that would give files on the storage power over this host, or let its users
mount, or lead elsewhere, are refused: docs/decisions/0011.
"""

import re

from msgspec.structs import replace

from vdsm.storage.errors import InvalidParameterException
from vdsm.storage.metadata import check_line
from vdsm.storage.model import DomainType, ServerConnection
from vdsm.storage.naming import normalize_remote
from vdsm.storage.ports import GlusterInfo

LONGEST_PLACE = 4096
"""The kernel takes no longer path."""
_HARMLESS = re.compile(r"[A-Za-z0-9_.,:=/@%+\[\]-]*")  # mount helpers are shell scripts
_FORBIDDEN = frozenset(
    "bg bind dev dump-fuse exec fuse-mountopts group log-file loop move owner rbind remount suid user users".split()
) | {"xlator-option"}
_RESERVED = ("..", "blockSD", "glusterSD")  # what would be mounted over others
_NFS_DEFAULT = "soft,nosharecache"
_LOCK_WORDS = ("lock", "nolock")


def check_connection(type: DomainType, connection: ServerConnection) -> ServerConnection:
    """The connection with its place in the one form of it. Raises InvalidParameterException (1000)."""
    if not connection.place:
        raise InvalidParameterException("connection", "")
    if len(connection.place) > LONGEST_PLACE:
        raise InvalidParameterException("connection", f"{len(connection.place)} characters")
    place = normalize_remote(connection.place)
    if type is DomainType.LOCALFS:
        return replace(connection, place=place)
    check_line("connection", place)
    if place.startswith("-") or place in _RESERVED:
        raise InvalidParameterException("connection", place)
    if type is DomainType.NFS:
        _parse_version(connection.protocol_version)
        for name, number in (("retrans", connection.retransmissions), ("timeout", connection.timeout_ds)):
            if not 0 <= number < 1 << 31:
                raise InvalidParameterException(name, str(number))
    _check_options(connection.options)
    _check_filesystem(type, place, connection.filesystem)
    return replace(connection, place=place)


def format_nfs_options(connection: ServerConnection) -> str:
    """What an NFS server is mounted with (facts: storage §13.2)."""
    version = _parse_version(connection.protocol_version)
    words = [_NFS_DEFAULT, f"timeo={connection.timeout_ds}", f"retrans={connection.retransmissions}"]
    if version:
        words.append(f"nfsvers={version[0]}")
    words += [f"minorversion={minor}" for minor in version[1:]]
    extra = _split(connection.options)
    if version[:1] in ((), ("3",)) and not any(word in extra for word in _LOCK_WORDS):
        extra.append("nolock")
    return ",".join((*words, *extra))


def format_gluster_options(connection: ServerConnection, info: GlusterInfo | None) -> str:
    """What a Gluster volume is mounted with: its other servers stand in for the first (facts: storage §13.3)."""
    words = _split(connection.options)
    others = list_other_servers(split_gluster(connection.place)[0], info)
    if others and not any(word.startswith("backup-volfile-servers=") for word in words):
        words.append(f"backup-volfile-servers={':'.join(others)}")
    return ",".join(words)


def list_other_servers(server: str, info: GlusterInfo | None) -> list[str]:
    """A Gluster volume's servers but this one; names that could be taken for more than a name are left out."""
    others = [other for other in dict.fromkeys(info.servers) if other != server] if info else []
    return [other for other in others if _HARMLESS.fullmatch(other) and not {",", ":"} & set(other)]


def split_gluster(place: str) -> tuple[str, str]:
    """The server and the volume of `server:/volume`."""
    head, bracket, tail = place.partition("]:")
    if bracket:
        return f"{head}]", tail.strip("/")
    server, _, volume = place.partition(":")
    return server, volume.strip("/")


def _parse_version(text: str) -> tuple[str, ...]:
    """Major and minor; nothing for `auto`."""
    if text == "auto":
        return ()
    parts = tuple(text.split("."))
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and len(part) <= 2 for part in parts):
        raise InvalidParameterException("protocol_version", text)
    return parts


def _check_filesystem(type: DomainType, place: str, filesystem: str) -> None:
    # FUSE runs the program that the type or the source names, and a Gluster source that is a file loads what it names.
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*|", filesystem) or filesystem.lower().startswith("fuse"):
        raise InvalidParameterException("vfs_type", filesystem)
    is_gluster = type is DomainType.GLUSTERFS or filesystem == "glusterfs"
    if is_gluster and (place.startswith("/") or ":" not in place or not _HARMLESS.fullmatch(place)):
        raise InvalidParameterException("connection", place)


def _check_options(options: str) -> None:
    if not _HARMLESS.fullmatch(options):
        raise InvalidParameterException("mnt_options", options)
    for word in _split(options):
        name = word.partition("=")[0].lower()
        if name in _FORBIDDEN or name.startswith(("x-mount.", "make-")):
            raise InvalidParameterException("mnt_options", word)


def _split(options: str) -> list[str]:
    return [word for word in options.split(",") if word]
