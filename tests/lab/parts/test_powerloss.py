"""Power loss of a disk: what was flushed is kept, what was not is lost."""

import errno
import os
from pathlib import Path

import pytest

from lab.commands import run
from lab.direct import read_direct, write_direct
from lab.loop import LoopDisk
from lab.powerloss import PowerLossDisk, power_loss_disk

BLOCK = 4096


def read_blocks(disk: LoopDisk, number: int = 4) -> str:
    """The first letter of each block, a dot for zero."""
    data = read_direct(disk.path, 0, number * BLOCK)
    return "".join(chr(data[at]) if data[at] else "." for at in range(0, len(data), BLOCK))


def write_block(disk: PowerLossDisk, block: int, letter: str, flush: bool = False) -> None:
    write_direct(disk.path, block * BLOCK, letter.encode() * BLOCK, flush)


@pytest.mark.parametrize("sector_bytes", [512, 4096])
def test_a_power_loss_keeps_what_was_flushed_and_loses_what_was_not(sector_bytes: int) -> None:
    with power_loss_disk(8 << 20, sector_bytes) as disk:
        write_block(disk, 0, "a")
        write_block(disk, 1, "b", flush=True)
        write_block(disk, 0, "A")
        write_block(disk, 2, "c")
        lost = disk.lose_power()
        with pytest.raises(OSError) as caught:
            write_block(disk, 3, "d")
        assert caught.value.errno == errno.EIO
        with disk.state_at(lost) as state:
            assert read_blocks(state) == "ab.."


def test_a_disk_can_be_seen_as_at_each_flush_and_mark(tmp_path: Path) -> None:
    with power_loss_disk(8 << 20) as disk:
        write_block(disk, 0, "a", flush=True)
        write_block(disk, 1, "b")
        disk.mark("unflushed")
        write_block(disk, 2, "c", flush=True)
        write_block(disk, 0, "A")
        disk.mark("later")
        write_block(disk, 3, "d", flush=True)
        first, second, third = disk.list_flushes()
        seen = []
        for point in (first, "unflushed", second, "later", third):
            with disk.state_at(point) as state:
                seen.append(read_blocks(state))
        assert seen == ["a...", "a...", "abc.", "abc.", "Abcd"]
        # Into a file, and on from one point to the next.
        target = tmp_path / "image"
        target.write_bytes(bytes(8 << 20))
        disk.replay_to(first, target)
        disk.replay_to(third, target, after=first)
        assert [target.read_bytes()[block * BLOCK] for block in range(4)] == list(b"Abcd")


def test_a_forced_write_needs_no_flush() -> None:
    with power_loss_disk(8 << 20) as disk:
        descriptor = os.open(disk.path, os.O_WRONLY | os.O_DSYNC)
        try:
            os.pwrite(descriptor, b"f" * BLOCK, 0)
        finally:
            os.close(descriptor)
        write_block(disk, 1, "b")
        with disk.state_at(disk.lose_power()) as state:
            assert read_blocks(state) == "f..."


def test_a_file_system_keeps_synced_files_only_after_a_power_loss(tmp_path: Path) -> None:
    with power_loss_disk(32 << 20) as disk:
        run("mkfs.ext4", "-q", "-F", "-E", "nodiscard", disk.path)
        run("mount", disk.path, tmp_path)
        try:
            with (tmp_path / "synced").open("wb") as file:
                file.write(b"s" * 10_000)
                file.flush()
                os.fsync(file.fileno())
            (tmp_path / "unsynced").write_bytes(b"u" * 10_000)
            lost = disk.lose_power()
        finally:
            run("umount", tmp_path)
        with disk.state_at(lost) as state:
            run("mount", state.path, tmp_path)  # plays the journal, as after any power loss
            try:
                assert (tmp_path / "synced").read_bytes() == b"s" * 10_000
                assert not (tmp_path / "unsynced").exists()
            finally:
                run("umount", tmp_path)
