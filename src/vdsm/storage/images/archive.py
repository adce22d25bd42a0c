"""The files in an archive (tar, as OVA is), found without unpacking; what they are is left to others."""

import os
from collections.abc import Iterator
from pathlib import Path

from vdsm.storage import durable

_BLOCK_BYTES = 512
_MAGIC_AT, _MAGIC = 257, b"ustar"
_MOST = 4096
"""Entries of an archive; one with more is no OVA."""
_KIND_AT, _FILES, _NOTES = 156, (b"0", b"\0"), (b"x", b"g")
_LONGEST_NOTE_BYTES = 1 << 20


class BadArchive(ValueError):
    """It is cut off, contradicts itself, or has what no OVA has."""


def is_archive(path: Path) -> bool:
    """Whether the file begins as an archive does. Raises OSError."""
    return durable.read_file(path, _BLOCK_BYTES)[_MAGIC_AT:].startswith(_MAGIC)


def list_members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, place and size of each plain file in it. Raises OSError, BadArchive."""
    with durable.opened(path) as descriptor:
        end, place = os.fstat(descriptor).st_size, 0
        for _ in range(_MOST):
            header = os.pread(descriptor, _BLOCK_BYTES, place)
            if not any(header):
                return
            size, place = _read_size(header), place + _BLOCK_BYTES
            if place + size > end:
                raise BadArchive("an entry goes beyond the end")
            kind = header[_KIND_AT : _KIND_AT + 1]
            if kind in _NOTES:
                note = os.pread(descriptor, min(size, _LONGEST_NOTE_BYTES), place)
                if size > _LONGEST_NOTE_BYTES or b" size=" in note or b" path=" in note:
                    raise BadArchive("an entry with extended names or sizes")
            elif kind in _FILES:
                yield header[:100].rstrip(b"\0").decode("utf-8", "backslashreplace"), place, size
            place += -(-size // _BLOCK_BYTES) * _BLOCK_BYTES
        raise BadArchive(f"more than {_MOST} entries")


def _read_size(header: bytes) -> int:
    """As text in base 8, or beyond 8 GiB as a number."""
    field = header[124:136]
    try:
        size = int.from_bytes(field[1:], "big") if field[:1] == b"\x80" else int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        size = -1
    if len(header) < _BLOCK_BYTES or not header[_MAGIC_AT:].startswith(_MAGIC) or not 0 <= size < 1 << 62:
        raise BadArchive("an entry without a header")
    return size
