"""The guest that writes, inside the lab, where it is emulated twice."""

from pathlib import Path

from lab import guests
from lab.guests import Writer, read_contents


def test_writer_writes_stops_and_verifies(tmp_path: Path) -> None:
    writer = Writer(slots=32)
    disk = tmp_path / "disk"
    writer.create_disk(disk)
    with guests.running(disk, cache_mode="writeback") as (console, _):
        console.wait_for_writes(40)
        console.stop_writes()
        console.wait_until_verified()
    assert read_contents(disk, writer).list_lost(console.writes) == []
