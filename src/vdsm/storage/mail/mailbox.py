"""The mailbox's bytes (facts: storage §7.3, §7.4, §7.6): messages, mailboxes with their checksum, and the event block.

Pure: who says what when is left to `exchange`.
"""

import re
import struct
import uuid
from collections.abc import Sequence

from msgspec import Struct

MAILBOX_BYTES = 4096
MESSAGE_BYTES = 64
SLOTS = 63
MAXIMUM_SIZE_MIB = 0xFFFFFFFF
IDENTITY_BYTES = 37
"""The beginning of a message that a reply repeats: all but the size."""

EMPTY = bytes(MESSAGE_BYTES)
CLEAN = b"\x01" * MESSAGE_BYTES
"""Takes the place of a message that is done with, on both sides, before the slot is empty again."""
EXTEND = b"xtnd"
"""The code of the one request there is: a volume shall have that absolute size."""

_VERSION = b"1"
_EVENT = b"\0evt"
_PADDING = b"0" * 11
_MESSAGE = struct.Struct("<1s4s16s16s16s11s")
_CHECKSUM = struct.Struct("<I")
_SLOTS_END = SLOTS * MESSAGE_BYTES
_CHECKSUM_OFFSET = MAILBOX_BYTES - _CHECKSUM.size
_size = re.compile(rb"[0-9a-f]{16}")


class Extension(Struct, frozen=True):
    """A volume and the size that it shall have; in a reply 0 MiB says that it could not be had."""

    domain_id: str
    volume_id: str
    size_mib: int


def format_extension(extension: Extension) -> bytes:
    """The message. Raises ValueError for what is no UUID or no size."""
    if not 0 <= extension.size_mib <= MAXIMUM_SIZE_MIB:
        raise ValueError(f"{extension.size_mib} MiB is no size that a message can carry")
    ids = (uuid.UUID(id).bytes[::-1] for id in (extension.domain_id, extension.volume_id))
    return _MESSAGE.pack(_VERSION, EXTEND, *ids, b"%016x" % extension.size_mib, _PADDING)


def get_code(message: bytes) -> bytes:
    """What a message asks for. Raises ValueError for one of another version or length."""
    if len(message) != MESSAGE_BYTES or message[:1] != _VERSION:
        raise ValueError(f"no message of version 1: {message[:MESSAGE_BYTES].hex()}")
    return message[1:5]


def parse_extension(message: bytes) -> Extension:
    """Read a message of code EXTEND; its padding means nothing. Raises ValueError."""
    if get_code(message) != EXTEND:
        raise ValueError(f"no request for an extension: {message.hex()}")
    _, _, domain, volume, size, _ = _MESSAGE.unpack(message)
    if not _size.fullmatch(size) or int(size, 16) > MAXIMUM_SIZE_MIB:
        raise ValueError(f"no size: {size!r}")
    return Extension(str(uuid.UUID(bytes=domain[::-1])), str(uuid.UUID(bytes=volume[::-1])), int(size, 16))


def compute_checksum(mailbox: bytes) -> int:
    """Of all before the place where it is stored."""
    return sum(mailbox[:_CHECKSUM_OFFSET]) % (1 << 32)


def format_mailbox(slots: Sequence[bytes]) -> bytes:
    """The mailbox with these 63 messages and its checksum."""
    content = b"".join(slots).ljust(_CHECKSUM_OFFSET, b"\0")
    return content + _CHECKSUM.pack(compute_checksum(content))


def has_checksum(mailbox: bytes) -> bool:
    """Whether a mailbox is whole; one that says nothing is."""
    return len(mailbox) == MAILBOX_BYTES and _CHECKSUM.pack(compute_checksum(mailbox)) == mailbox[_CHECKSUM_OFFSET:]


def split_mailbox(mailbox: bytes) -> list[bytes]:
    """The 63 messages; the checksum is not looked at."""
    return [mailbox[start : start + MESSAGE_BYTES] for start in range(0, _SLOTS_END, MESSAGE_BYTES)]


def is_empty(message: bytes) -> bool:
    """Whether a slot says nothing: its version is 0."""
    return message[:1] == b"\0"


def format_event(event_id: uuid.UUID) -> bytes:
    """Mailbox 0 of the inbox, by which a host says that there is mail: each time with another id."""
    return (_EVENT + event_id.bytes).ljust(MAILBOX_BYTES, b"\0")


def parse_event(block: bytes) -> uuid.UUID | None:
    """The id of the last event; None when nobody ever told one."""
    return uuid.UUID(bytes=block[4:20]) if block[:4] == _EVENT and len(block) >= 20 else None
