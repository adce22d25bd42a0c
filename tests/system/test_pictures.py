"""Pictures are decoded as they were made, by whatever filter; what is damaged or of another kind is refused."""

import random
import struct
import zlib

import pytest

from lab.pictures import decode_png

WIDTH, HEIGHT = 7, 10
_PIXELS = random.Random(1)
ROWS = tuple(_PIXELS.randbytes(WIDTH * 3) for _ in range(HEIGHT))


def paeth(left: int, up: int, corner: int) -> int:
    """As the standard has it."""
    guess = left + up - corner
    to_left, to_up, to_corner = abs(guess - left), abs(guess - up), abs(guess - corner)
    if to_left <= to_up and to_left <= to_corner:
        return left
    return up if to_up <= to_corner else corner


def filter_row(method: int, row: bytes, above: bytes) -> bytes:
    lefts, corners = bytes(3) + row, bytes(3) + above
    guesses = {
        0: lambda at: 0,
        1: lambda at: lefts[at],
        2: lambda at: above[at],
        3: lambda at: (lefts[at] + above[at]) // 2,
        4: lambda at: paeth(lefts[at], above[at], corners[at]),
    }
    return bytes([method]) + bytes((one - guesses[method](at)) & 0xFF for at, one in enumerate(row))


def make_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def make_png(rows: tuple[bytes, ...] = ROWS, colour_kind: int = 2) -> bytes:
    """Each filter has its turn; the pixels are in two chunks."""
    filtered = [filter_row(at % 5, row, rows[at - 1] if at else bytes(WIDTH * 3)) for at, row in enumerate(rows)]
    packed = zlib.compress(b"".join(filtered))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, colour_kind, 0, 0, 0)
    bodies = ((b"IHDR", header), (b"IDAT", packed[:20]), (b"IDAT", packed[20:]), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(make_chunk(kind, body) for kind, body in bodies)


def test_what_was_drawn_is_seen() -> None:
    picture = decode_png(make_png())
    assert (picture.width, picture.height, picture.rows) == (WIDTH, HEIGHT, ROWS)
    assert len(picture.list_colours()) == WIDTH * HEIGHT
    assert decode_png(make_png((bytes(WIDTH * 3),) * HEIGHT)).list_colours() == {bytes(3)}


@pytest.mark.parametrize("data", [b"P6\n", make_png()[:-20] + b"x" * 20, make_png(colour_kind=6), make_png(ROWS[1:])])
def test_what_is_no_such_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="PNG|damaged|kind|pixels"):
        decode_png(data)
