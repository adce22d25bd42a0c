"""What the demo guest is made of: modules in loadable order, an initramfs that others can read, pictures."""

import gzip
import lzma
import struct
import zlib

from demo import cpio
from demo.guest import order_modules
from demo.screen import convert_ppm


def make_module(*depends: str) -> bytes:
    return b"\x7fELF\0license=GPL\0depends=" + ",".join(depends).encode() + b"\0name=x\0"


def test_modules_come_after_what_they_need() -> None:
    modules = {
        "virtio": make_module("virtio_ring"),
        "virtio_ring": make_module(),
        "virtio_blk": lzma.compress(make_module("virtio", "virtio-ring", "builtin")),
        "unwanted": make_module(),
    }
    ordered = order_modules(["virtio_blk", "virtio", "absent"], modules)
    assert [name for name, _ in ordered] == ["virtio_ring", "virtio", "virtio_blk"]
    assert dict(ordered)["virtio_blk"].startswith(b"\x7fELF")


def read_archive(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Path to mode and content, read as the kernel does."""
    found, position = {}, 0
    while True:
        assert position % 4 == 0 and data[position : position + 6] == b"070701"
        fields = [int(data[position + 6 + 8 * n : position + 14 + 8 * n], 16) for n in range(13)]
        name_at = position + 110
        name = data[name_at : name_at + fields[11] - 1].decode()
        content_at = (name_at + fields[11] + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (fields[1], data[content_at : content_at + fields[6]])
        position = (content_at + fields[6] + 3) // 4 * 4


def test_the_initramfs_holds_what_went_in_and_is_the_same_every_time() -> None:
    entries = [cpio.folder("bin"), cpio.program("bin/x", b"12345"), cpio.link("bin/sh", "x")]
    archive = cpio.format_initramfs(entries)
    assert archive == cpio.format_initramfs(entries)
    assert read_archive(gzip.decompress(archive)) == {
        "bin": (0o040755, b""),
        "bin/x": (0o100755, b"12345"),
        "bin/sh": (0o120777, b"x"),
    }


def test_a_picture_keeps_its_pixels() -> None:
    pixels = bytes(range(18))
    png = convert_ppm(b"P6\n3 2\n255\n" + pixels)
    length = struct.unpack(">I", png[33:37])[0]
    assert struct.unpack(">II", png[16:24]) == (3, 2)
    assert zlib.decompress(png[41 : 41 + length]) == b"\0" + pixels[:9] + b"\0" + pixels[9:]
