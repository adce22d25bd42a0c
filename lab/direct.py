"""Direct I/O: reads and writes that pass by the page cache, so that a device's faults are seen by who asks."""

import mmap
import os
from pathlib import Path


def read_direct(path: Path, offset: int, length: int) -> bytes:
    """Read bytes of a device or file, in whole sectors. Raises OSError as the device does."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, length) as pages:  # O_DIRECT asks for aligned memory, which a mapping is
            if os.preadv(descriptor, [pages], offset) != length:
                raise EOFError(f"{path}: nothing at {offset}+{length}")
            return pages[:]
    finally:
        os.close(descriptor)


def write_direct(path: Path, offset: int, data: bytes, flush: bool = False) -> None:
    """Write bytes to a device or file, in whole sectors; with `flush`, return when its cache has been written too."""
    descriptor = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, len(data)) as pages:
            pages[:] = data
            if os.pwritev(descriptor, [pages], offset) != len(data):
                raise EOFError(f"{path}: no room at {offset}+{len(data)}")
        if flush:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def measure_size(path: Path) -> int:
    """The size in bytes of a block device or a file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)
