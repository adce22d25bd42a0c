"""What a virtual machine shows on its serial console and its display; the API is left to others."""

import os
import select
import struct
import time
import tty
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.libvirtd import virsh


@contextmanager
def open_console(vm_id: str) -> Iterator["Console"]:
    """The serial console of a running VM."""
    terminal = os.open(virsh("ttyconsole", vm_id).strip(), os.O_RDWR | os.O_NOCTTY)
    try:
        tty.setraw(terminal)  # or the terminal would echo the guest's words back to it
        yield Console(terminal)
    finally:
        os.close(terminal)


class Console:
    """Reads lines from a terminal."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._rest = b""

    def read_lines(self, deadline_s: float, quiet_s: float) -> Iterator[str]:
        """Lines as they come, without control characters, until so many seconds have passed, or passed in silence."""
        end = time.monotonic() + deadline_s
        while (left := end - time.monotonic()) > 0:
            ready, _, _ = select.select([self._terminal], [], [], min(left, quiet_s))
            if not ready:
                return
            try:
                data = os.read(self._terminal, 4096)
            except OSError:  # the machine is gone, and its terminal with it
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                text = line.decode(errors="replace")
                yield "".join(character for character in text if character.isprintable())


def save_screenshot(vm_id: str, file: Path) -> None:
    """Save what the VM's display shows now as PNG. Raises LibvirtError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    raw = file.with_suffix(".raw")
    try:
        virsh("screenshot", vm_id, "--file", str(raw))
        picture = raw.read_bytes()
    finally:
        raw.unlink(missing_ok=True)
    file.write_bytes(convert_ppm(picture) if picture.startswith(b"P6") else picture)


def convert_ppm(picture: bytes) -> bytes:
    """A PNG of a binary PPM, the form in which qemu hands out its screen."""
    _, size, _, pixels = picture.split(b"\n", 3)
    width, height = map(int, size.split())
    rows = b"".join(b"\0" + pixels[row * width * 3 : (row + 1) * width * 3] for row in range(height))

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    image = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in image)
