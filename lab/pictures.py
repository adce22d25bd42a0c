"""Pictures of displays, decoded to look at their pixels; only the kind of PNG that qemu makes."""

import struct
import zlib
from dataclasses import dataclass

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BYTES_PER_PIXEL = 3


@dataclass(frozen=True)
class Picture:
    """`rows` hold three bytes a pixel."""

    width: int
    height: int
    rows: tuple[bytes, ...]

    def list_colours(self) -> set[bytes]:
        """Each colour that is somewhere in it."""
        step = _BYTES_PER_PIXEL
        return {row[at : at + step] for row in set(self.rows) for at in range(0, len(row), step)}


def decode_png(data: bytes) -> Picture:
    """A PNG of eight bits a channel, red, green and blue, not interlaced. Raises ValueError."""
    if not data.startswith(_SIGNATURE):
        raise ValueError("not a PNG")
    at, packed, header = len(_SIGNATURE), b"", b""
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + size]
        if zlib.crc32(kind + body) != int.from_bytes(data[at + 8 + size : at + 12 + size], "big"):
            raise ValueError(f"a chunk is damaged: {kind!r}")
        header, packed = (body, packed) if kind == b"IHDR" else (header, packed + body * (kind == b"IDAT"))
        at += 12 + size
    width, height, *kind_of_pixels = struct.unpack(">IIBBBBB", header)
    if kind_of_pixels != [8, 2, 0, 0, 0]:
        raise ValueError(f"not the kind that is known: {kind_of_pixels}")
    return Picture(width, height, tuple(_unfilter(zlib.decompress(packed), width * _BYTES_PER_PIXEL, height)))


def _unfilter(raw: bytes, row_bytes: int, height: int) -> list[bytes]:
    if len(raw) != (row_bytes + 1) * height:
        raise ValueError("too many or too few pixels")
    rows, above = [], bytes(row_bytes)
    for number in range(height):
        begin = number * (row_bytes + 1)
        method, row = raw[begin], bytearray(raw[begin + 1 : begin + 1 + row_bytes])
        if method:
            for at in range(row_bytes):
                row[at] = (row[at] + _predict(method, row, above, at)) & 0xFF
        above = bytes(row)
        rows.append(above)
    return rows


def _predict(method: int, row: bytearray, above: bytes, at: int) -> int:
    """What the filter of that number takes a byte to be, by the bytes left of it and above it."""
    left, up = (row[at - _BYTES_PER_PIXEL] if at >= _BYTES_PER_PIXEL else 0), above[at]
    corner = above[at - _BYTES_PER_PIXEL] if at >= _BYTES_PER_PIXEL else 0
    if method == 4:
        distances = [(abs(left + up - corner - one), order, one) for order, one in enumerate((left, up, corner))]
        return min(distances)[2]
    return {1: left, 2: up, 3: (left + up) // 2}[method]
