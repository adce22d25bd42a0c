"""Faults of block devices: each really happens, and ends."""

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import devicemapper
from lab.commands import wait_for
from lab.devicemapper import mapped
from lab.direct import measure_size, read_direct, write_direct
from lab.loop import loop_disk

SIZE = 8 << 20


def fork(work: Callable[[], object]) -> int:
    """Do something in a child; its status is 0, or the number of the OSError."""
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        work()
        status = 0
    except OSError as error:
        status = error.errno or 98
    finally:
        os._exit(status)


def hangs_in_block_layer(child: int) -> bool:
    # A state alone would not do: who loads a page of a program is in state D for a moment, too.
    state = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return state == "D" and "blkdev" in Path(f"/proc/{child}/stack").read_text()


def has_sigkill_pending(child: int) -> bool:
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{child}/status").read_text().splitlines() if ":\t" in line
    )
    return bool((int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)) >> (signal.SIGKILL - 1) & 1)


def expect_eio(work: Callable[[], object]) -> None:
    with pytest.raises(OSError) as caught:
        work()
    assert caught.value.errno == errno.EIO


def test_a_failing_device_returns_eio_until_healed() -> None:
    with loop_disk(SIZE) as disk, mapped(disk.path) as mapping:
        write_direct(mapping.path, 0, b"k" * 4096)
        mapping.fail()
        expect_eio(lambda: read_direct(mapping.path, 0, 4096))
        expect_eio(lambda: write_direct(mapping.path, 0, b"x" * 4096))
        mapping.heal()
        assert read_direct(mapping.path, 0, 4096) == b"k" * 4096


def test_bad_sectors_fail_and_their_neighbours_do_not() -> None:
    with loop_disk(SIZE) as disk, mapped(disk.path) as mapping:
        mapping.fail_range(4096, 4096)
        mapping.fail_range(65536, 512)
        mapping.fail_range(SIZE - 512, 512)
        for start, length in ((4096, 4096), (7680, 512), (0, 8192), (65536, 512), (SIZE - 512, 512)):
            expect_eio(lambda: read_direct(mapping.path, start, length))  # noqa: B023
        for start, length in ((0, 4096), (8192, 57344), (66048, 512), (SIZE - 1024, 512)):
            write_direct(mapping.path, start, b"n" * length)
            assert read_direct(mapping.path, start, length) == b"n" * length
            assert os.pread(disk.descriptor, length, start) == b"n" * length
        mapping.heal()
        read_direct(mapping.path, 0, 8192)


def test_a_slow_device_takes_its_time() -> None:
    with loop_disk(SIZE) as disk, mapped(disk.path) as mapping:
        mapping.delay(read_ms=400, write_ms=800)
        began = time.monotonic()
        read_direct(mapping.path, 0, 4096)
        read = time.monotonic()
        write_direct(mapping.path, 0, b"x" * 4096)
        written = time.monotonic()
        assert read - began >= 0.4
        assert written - read >= 0.8
        mapping.heal()
        began = time.monotonic()
        for _ in range(10):
            read_direct(mapping.path, 0, 4096)
        assert time.monotonic() - began < 4


def test_a_hung_device_blocks_its_reader_in_the_kernel_until_resumed() -> None:
    with loop_disk(SIZE) as disk, mapped(disk.path) as mapping:
        write_direct(mapping.path, 0, b"k" * 4096)
        with mapping.suspended():
            child = fork(lambda: read_direct(mapping.path, 0, 4096))
            killed = fork(lambda: read_direct(mapping.path, 0, 4096))
            for reader in (child, killed):
                wait_for(lambda: hangs_in_block_layer(reader), "the reader hangs")  # noqa: B023
            os.kill(killed, signal.SIGKILL)
            assert has_sigkill_pending(killed) and hangs_in_block_layer(killed)
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert os.waitstatus_to_exitcode(os.waitpid(killed, 0)[1]) == -signal.SIGKILL


def test_who_hangs_at_the_end_of_a_mapping_gets_eio() -> None:
    with loop_disk(SIZE) as disk:
        with mapped(disk.path, "lab-hung") as mapping:
            mapping.suspend()
            child = fork(lambda: read_direct(mapping.path, 0, 4096))
            wait_for(lambda: hangs_in_block_layer(child), "the reader hangs")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == errno.EIO
        assert "lab-hung" not in devicemapper.list_devices()


def test_a_mapping_grows_with_its_device() -> None:
    with loop_disk(SIZE) as disk, mapped(disk.path) as mapping:
        write_direct(mapping.path, 0, b"k" * 512)
        disk.grow(2 * SIZE)
        assert measure_size(mapping.path) == SIZE
        mapping.grow()
        assert measure_size(mapping.path) == 2 * SIZE
        write_direct(mapping.path, 2 * SIZE - 512, b"e" * 512)
        assert read_direct(mapping.path, 0, 512) == b"k" * 512
