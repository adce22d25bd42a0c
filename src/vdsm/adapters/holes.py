"""A process that makes holes of the blocks of zeros in a file, in place: `python -m vdsm.adapters.holes FILE`.

`fallocate --dig-holes` takes the size that a file system would like to be asked for (st_blksize: 128 KiB on GlusterFS,
up to 1 MiB on NFS) for that of its blocks, and makes holes of data that lies behind zeros.
"""

import ctypes
import errno
import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import suppress

BLOCK_BYTES = 4096
READ_BYTES = 1 << 20
NOT_SUPPORTED = 95
"""The status when the storage makes no holes, as NFS before 4.2."""
_PUNCH_HOLE_KEEP_SIZE = 0x2 | 0x1
_ZEROS = bytes(READ_BYTES)
_libc = ctypes.CDLL(None, use_errno=True)


def dig_holes(path: str) -> None:
    """Give back whole aligned blocks of zeros; what else there is stays. Raises OSError, EOPNOTSUPP for one.

    Nobody else may write to the file meanwhile.
    """
    descriptor = _open(path)
    try:
        for start, end in _list_data(descriptor):
            _dig(descriptor, start // BLOCK_BYTES * BLOCK_BYTES, end)
    finally:
        os.close(descriptor)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_DIRECT)  # other hosts may have written: no cache
    except OSError:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)  # storage without direct I/O has one host


def _list_data(descriptor: int) -> Iterator[tuple[int, int]]:
    end = 0
    with suppress(OSError):  # ENXIO: no data from there on
        while True:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
            yield start, end


def _dig(descriptor: int, start: int, end: int) -> None:
    with mmap.mmap(-1, READ_BYTES) as buffer, memoryview(buffer) as view:
        for place in range(start, end, READ_BYTES):
            size = os.preadv(descriptor, [view], place)
            for first, last in list(_list_zeros(view[: min(size, end - place)])):
                _punch(descriptor, place + first, last - first)


def _list_zeros(data: memoryview) -> Iterator[tuple[int, int]]:
    """Runs of whole blocks that are zero."""
    first = None
    for block in range(0, len(data) + 1, BLOCK_BYTES):
        is_zero = len(data) - block >= BLOCK_BYTES and data[block : block + BLOCK_BYTES] == _ZEROS[:BLOCK_BYTES]
        if is_zero and first is None:
            first = block
        elif not is_zero and first is not None:
            yield first, block
            first = None


def _punch(descriptor: int, start: int, size: int) -> None:
    if _libc.fallocate64(descriptor, _PUNCH_HOLE_KEEP_SIZE, ctypes.c_int64(start), ctypes.c_int64(size)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot give {size} bytes at {start} back: {os.strerror(number)}")


if __name__ == "__main__":
    try:
        dig_holes(sys.argv[1])
    except OSError as error:
        sys.stderr.write(f"{sys.argv[1]}: {error.strerror or error}\n")
        sys.exit(NOT_SUPPORTED if error.errno == errno.EOPNOTSUPP else 1)
