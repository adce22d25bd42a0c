"""A guest of 512 bytes that writes to its disk and says so on its serial port; running it is left to qemu.

It writes 64 sectors at a time through the BIOS, from sector 2048 on, sends a dot to COM1 for each write and "!" at the
end or at the first error. 16 MiB of memory are plenty. Its source is `tools/boot-sectors/writer.S`.
"""

from pathlib import Path

SECTOR_BYTES = 512
FIRST_SECTOR = 2048
SECTORS_PER_WRITE = 64
DEFAULT_WRITES = 4000

_LIMIT_OFFSET = 0x110
_WRITER = (
    (
        bytes.fromhex(
            "fa31c08ed88ec08ed0bc007cfb66a1087d663b06107d731bb443b000b280be007dcd13720e668306087d40baf803b02eeeeb"
            "dabaf803b021eef4ebfd"
        ).ljust(0x100, b"\0")
        + bytes.fromhex("10004000000000100008000000000000")
    )
    .ljust(SECTOR_BYTES - 2, b"\0")
    + b"\x55\xaa"
)  # fmt: skip


def make_writer(writes: int = DEFAULT_WRITES) -> bytes:
    """The boot sector that makes so many writes of 32 KiB."""
    limit = FIRST_SECTOR + SECTORS_PER_WRITE * writes
    return _WRITER[:_LIMIT_OFFSET] + limit.to_bytes(4, "little") + _WRITER[_LIMIT_OFFSET + 4 :]


def create_writer_disk(path: Path, size_bytes: int, writes: int = DEFAULT_WRITES) -> None:
    """Create a sparse raw disk that starts with the writer."""
    with path.open("xb") as disk:
        disk.truncate(size_bytes)
        disk.write(make_writer(writes))
