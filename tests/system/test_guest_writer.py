"""The guest that writes at a chosen rate: it keeps the rate, stops when told, finds what it wrote, and so do we."""

import os
import signal
import time
from pathlib import Path

import pytest

from lab import guests
from lab.commands import PartFailed, run
from lab.guests import SECTOR_BYTES, Writer, read_contents

pytestmark = pytest.mark.skipif(guests.why_not() is not None, reason=str(guests.why_not()))


def test_it_writes_all_and_verifies(tmp_path: Path) -> None:
    writer = Writer(first_sector=100, sectors_per_write=127, slots=10, writes=25, seed=7)
    disk = tmp_path / "disk"
    writer.create_disk(disk)
    with guests.running(disk, cache_mode="writeback") as (console, pid):
        console.wait_until_verified()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 33
    assert console.said == b"." * 25 + b"!V"
    contents = read_contents(disk, writer)
    assert list(contents.oldest) == [3] * 5 + [2] * 5
    assert contents.list_torn() == []
    assert contents.list_lost(25) == []
    assert contents.list_lost(26) == [5]
    assert set(read_contents(disk, Writer(first_sector=100, sectors_per_write=127, slots=10, seed=8)).newest) == {0}
    data = disk.read_bytes()
    assert len(data) == writer.end_bytes
    assert not any(data[SECTOR_BYTES : 100 * SECTOR_BYTES])


def test_it_keeps_the_rate_and_stops_when_told(tmp_path: Path) -> None:
    writer = Writer(sectors_per_write=8, slots=64).at_rate(400_000)
    assert writer.bytes_per_s == pytest.approx(400_000, rel=0.1)
    disk = tmp_path / "disk"
    writer.create_disk(disk)
    with guests.running(disk, cache_mode="writeback") as (console, _):
        console.wait_for_writes(10)
        began, before = time.monotonic(), console.writes
        console.wait_for_writes(before + 200)
        rate = (console.writes - before) * writer.write_bytes / (time.monotonic() - began)
        console.stop_writes()
        console.wait_until_verified()
    assert rate < 400_000 * 1.4  # how far below, on a busy machine, is not the writer's doing
    assert read_contents(disk, writer).list_lost(console.writes) == []
    assert set(read_contents(disk, writer).list_lost(console.writes + 1)) == {console.writes % 64}


def test_acknowledged_writes_survive_the_death_of_qemu(tmp_path: Path) -> None:
    writer = Writer(slots=32)
    disk = tmp_path / "disk"
    writer.create_disk(disk)
    with guests.running(disk, cache_mode="writeback") as (console, pid):
        console.wait_for_writes(50)
        os.kill(pid, signal.SIGKILL)
    console_writes = console.writes
    assert read_contents(disk, writer).list_lost(console_writes) == []


def test_it_tells_what_is_not_as_written(tmp_path: Path) -> None:
    # A place after the last write of a generation is expected to hold the one before; we spoil it meanwhile.
    writer = Writer(slots=16, writes=30).at_rate(64 * 512 * 18)
    disk = tmp_path / "disk"
    writer.create_disk(disk)
    with guests.running(disk, cache_mode="writeback") as (console, _):
        console.wait_for_writes(17)
        with disk.open("r+b") as file:
            file.seek((writer.first_sector + 15 * 64 + 3) * SECTOR_BYTES + 100)
            file.write(b"spoilt")
        with pytest.raises(PartFailed, match="X"):
            console.wait_until_verified()
    assert read_contents(disk, writer).list_torn() == [15]


def test_it_tells_of_a_disk_that_refuses(tmp_path: Path) -> None:
    writer = Writer(slots=4)
    disk = tmp_path / "disk"
    writer.create_disk(disk, writer.end_bytes - SECTOR_BYTES)
    with guests.running(disk, cache_mode="writeback") as (console, _), pytest.raises(PartFailed, match="E"):
        console.wait_for_end()
    assert console.said == b"...E"


@pytest.mark.parametrize("rate", [2_000, 32_000, 500_000, 3_000_000, 40_000_000])
def test_rates_are_met(rate: int) -> None:
    assert Writer().at_rate(rate).bytes_per_s == pytest.approx(rate, rel=0.1)


def test_qcow2_is_read_as_well(tmp_path: Path) -> None:
    writer = Writer(slots=4, writes=6)
    raw, disk = tmp_path / "raw", tmp_path / "disk"
    writer.create_disk(raw)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk)
    with guests.running(disk, image_format="qcow2", cache_mode="writeback") as (console, _):
        console.wait_until_verified()
    assert read_contents(disk, writer, "qcow2").list_lost(6) == []
