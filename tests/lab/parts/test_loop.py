"""Loop devices: their sectors, their size, and that a folder on one knows O_DIRECT."""

import errno
import fcntl
import os
import struct
from pathlib import Path

import pytest

from lab.direct import measure_size, read_direct, write_direct
from lab.loop import loop_disk, scratch

SECTOR_SIZE = 0x1268  # BLKSSZGET


def ask_sector_size(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        (size,) = struct.unpack("i", fcntl.ioctl(descriptor, SECTOR_SIZE, bytes(4)))
        return int(size)
    finally:
        os.close(descriptor)


def test_sectors_of_4096_bytes_refuse_smaller_writes() -> None:
    with loop_disk(8 << 20, sector_bytes=4096) as disk:
        assert ask_sector_size(disk.path) == 4096
        write_direct(disk.path, 4096, b"w" * 4096)
        with pytest.raises(OSError) as caught:
            write_direct(disk.path, 4096, b"s" * 512)
        assert caught.value.errno == errno.EINVAL
        with pytest.raises(OSError) as caught:
            read_direct(disk.path, 512, 4096)
        assert caught.value.errno == errno.EINVAL
        assert read_direct(disk.path, 4096, 4096) == b"w" * 4096


def test_sectors_of_512_bytes_and_growth() -> None:
    with loop_disk(8 << 20) as disk:
        assert ask_sector_size(disk.path) == 512
        write_direct(disk.path, 512, b"s" * 512)
        with pytest.raises(OSError) as caught:
            write_direct(disk.path, 8 << 20, b"s" * 512)
        assert caught.value.errno == errno.ENOSPC
        disk.grow(16 << 20)
        assert measure_size(disk.path) == 16 << 20
        write_direct(disk.path, (16 << 20) - 512, b"e" * 512)
        assert os.pread(disk.descriptor, 512, 512) == b"s" * 512


def test_what_fails_within_leaves_no_device() -> None:
    with pytest.raises(ZeroDivisionError), loop_disk(8 << 20) as disk:
        raise ZeroDivisionError
    assert not Path(f"/sys/block/{disk.path.name}/loop").exists()


def test_a_scratch_folder_knows_direct_io() -> None:
    with scratch(64 << 20) as folder:
        (folder / "file").write_bytes(bytes(8192))
        write_direct(folder / "file", 4096, b"d" * 4096, flush=True)
        assert (folder / "file").read_bytes() == bytes(4096) + b"d" * 4096
    assert not folder.exists()
