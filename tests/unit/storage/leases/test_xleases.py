"""External leases: the index byte for byte, and its operations, killed anywhere, on a file."""

import os
import random
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.core.errors import NodeError
from vdsm.storage.errors import (
    ClusterLockInitError,
    InvalidMetadata,
    NoSpaceLeftOnDomain,
    StorageDomainAccessError,
)
from vdsm.storage.errors_jobs import NoSuchLease
from vdsm.storage.leases.xleases import (
    HEADER_BYTES,
    INDEX_BYTES,
    RECORDS,
    Index,
    LeaseVolume,
    Record,
    State,
    check_header,
    format_header,
    format_record,
    get_offset,
    parse_record,
)
from vdsm.storage.ports import Lease, LeaseFailed, Lockspace
from vdsm.testing.leases import LeasesInMemory
from vdsm.testing.storage import FixedClock, make_id

MIB = 1 << 20
DOMAIN = "6b0a4f5e-3a1c-4c57-9e2d-0f1b2c3d4e5f"
LEASE = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"


def test_the_bytes_of_a_header() -> None:
    header = format_header(DOMAIN, 1_700_000_000)
    assert header[:10].hex(" ") == "12 15 20 16 00 30 30 30 31 00"
    assert header[10:59] == DOMAIN.encode() + bytes(13)
    assert header[59:71] == b"1700000000\0-"
    assert header[71:] == bytes(440) + b"\n" and len(header) == HEADER_BYTES == 512
    assert format_header(DOMAIN, 7, is_updating=True)[59:71] == b"0000000007\0u"


def test_the_bytes_of_a_record() -> None:
    record = format_record(LEASE, 2, MIB)
    assert record == LEASE.encode() + bytes(12) + b"\x0000005242880\0--\n"
    assert len(record) == 64 and get_offset(2, MIB) == 5 * MIB
    assert parse_record(record) == Record(State.USED, LEASE)
    assert parse_record(record[:61] + b"u-\n") == Record(State.UPDATING, LEASE)
    free = bytes(48) + b"\0" + b"00000000000" + b"\0--\n"
    assert bytes(Index.make(DOMAIN, 0).data[512:576]) == free and parse_record(free) == Record(State.FREE)


def test_sizes() -> None:
    assert (INDEX_BYTES, RECORDS, len(Index.make(DOMAIN, 0).data)) == (253952, 3960, 253952)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda header: header[:511],
        lambda header: b"\x12\x15\x20\x17" + header[4:],
        lambda header: header[:5] + b"0002" + header[9:],
        lambda header: header[:59] + b"17000000x0" + header[69:],
        lambda header: header[:70] + b"u" + header[71:],
        lambda header: bytes(512),
    ],
)
def test_headers_that_are_none(spoil: object) -> None:
    assert callable(spoil)
    with pytest.raises(InvalidMetadata, match="rebuild"):
        check_header(spoil(format_header(DOMAIN, 1_700_000_000)))


@given(st.binary(min_size=64, max_size=64))
def test_whatever_a_record_holds_is_told(data: bytes) -> None:
    record = parse_record(data)
    assert record.state is State.CORRUPT or format_record(record.lease_id, 0, MIB)[:49] == data[:49]


@given(st.lists(st.integers(0, RECORDS - 1), unique=True, max_size=20))
def test_records_are_found_where_they_are(numbers: list[int]) -> None:
    index = Index.make(DOMAIN, 0)
    ids = {number: make_id() for number in numbers}
    for number, lease_id in ids.items():
        index.set(number, lease_id, MIB)
    assert {number: index.find(lease_id) for number, lease_id in ids.items()} == {number: number for number in ids}
    assert index.find_free() == next(number for number in range(RECORDS) if number not in ids)
    assert index.find(make_id()) is None


def test_an_id_across_two_records_is_none() -> None:
    index = Index.make(DOMAIN, 0)
    index.data[520:569] = LEASE.encode() + bytes(13)
    assert index.find(LEASE) is None
    index.set(5, LEASE, MIB)
    assert index.find(LEASE) == 5


class Volume:
    """A volume on a file, with what is on storage behind it."""

    def __init__(self, folder: Path, block_size_bytes: int = 512, alignment_bytes: int = MIB) -> None:
        self.path = folder / "xleases"
        self.path.touch()
        self.leases = LeasesInMemory(writes_files=True)
        self.space = Lockspace(DOMAIN, self.path, block_size_bytes, alignment_bytes)
        self.volume = LeaseVolume(self.path, self.space, self.leases, FixedClock())
        self.volume.format()

    def read(self) -> bytes:
        return self.path.read_bytes()[self.space.alignment_bytes :][:INDEX_BYTES]

    def write(self, begin: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(self.space.alignment_bytes + begin)
            file.write(data)

    def list_leases(self) -> dict[int, str]:
        """Ids of the leases on storage by their number."""
        found = {
            offset // self.space.alignment_bytes - 3: name
            for (_, offset), (_, name) in self.leases.judge.leases.items()
        }
        return dict(sorted(found.items()))


@pytest.fixture(params=[(512, MIB), (4096, 2 * MIB)])
def on_file(request: pytest.FixtureRequest, tmp_path: Path) -> Volume:
    return Volume(tmp_path, *request.param)


def test_a_new_volume(on_file: Volume) -> None:
    assert on_file.path.stat().st_size == on_file.space.alignment_bytes + 253952
    assert on_file.read() == bytes(Index.make(DOMAIN, 1_700_000_000).data)
    with pytest.raises(NoSuchLease):
        on_file.volume.lookup(LEASE)


def test_leases_come_and_go(on_file: Volume) -> None:
    ids = [make_id() for _ in range(9)]
    for number, lease_id in enumerate(ids):
        assert on_file.volume.add(lease_id)
        lease = on_file.volume.lookup(lease_id)
        assert lease.offset_bytes == (3 + number) * on_file.space.alignment_bytes
        assert (
            on_file.volume.lookup(lease_id) == lease == Lease(on_file.space, lease_id, on_file.path, lease.offset_bytes)
        )
    assert on_file.list_leases() == dict(enumerate(ids))
    assert not on_file.volume.add(ids[4])
    assert on_file.volume.remove(ids[4]) and not on_file.volume.remove(ids[4])
    assert 4 not in on_file.list_leases()
    with pytest.raises(NoSuchLease):
        on_file.volume.lookup(ids[4])
    on_file.volume.add(LEASE)
    assert on_file.volume.lookup(LEASE).offset_bytes == 7 * on_file.space.alignment_bytes


def test_a_flagged_record_is_no_lease_and_is_used_again(on_file: Volume) -> None:
    on_file.volume.add(make_id())
    on_file.volume.add(LEASE)
    on_file.write(HEADER_BYTES + 64 + 61, b"u")
    with pytest.raises(NoSuchLease):
        on_file.volume.lookup(LEASE)
    assert on_file.volume.add(LEASE)
    assert on_file.volume.lookup(LEASE).offset_bytes == 4 * on_file.space.alignment_bytes


def test_an_index_without_room(tmp_path: Path) -> None:
    full = Volume(tmp_path)
    full.write(HEADER_BYTES, b"".join(format_record(make_id(), number, MIB) for number in range(RECORDS)))
    with pytest.raises(NoSpaceLeftOnDomain):
        full.volume.add(LEASE)


def test_failures_of_sanlock(on_file: Volume) -> None:
    on_file.leases.fail_next("write_lease", LeaseFailed("I/O timeout", -202))
    before = on_file.read()
    with pytest.raises(ClusterLockInitError):
        on_file.volume.add(LEASE)
    assert on_file.read() == before
    on_file.volume.add(LEASE)
    on_file.leases.fail_next("clear_lease", LeaseFailed("I/O timeout", -202))
    assert on_file.volume.remove(LEASE)
    assert on_file.read() == before


def test_an_index_that_is_not_written_whole_is_no_success(on_file: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwritev", lambda *_: 0)
    for change in (partial(on_file.volume.add, LEASE), on_file.volume.format):
        with pytest.raises(StorageDomainAccessError):
            change()


@pytest.mark.parametrize("size", [0, 100, MIB, MIB + 512, MIB + 253952 - 512])
def test_a_truncated_volume_says_so(tmp_path: Path, size: int) -> None:
    cut = Volume(tmp_path)
    os.truncate(cut.path, size)
    for call in (cut.volume.lookup, cut.volume.add, cut.volume.remove):
        with pytest.raises(InvalidMetadata):
            call(LEASE)


class Killed(Exception):
    """The process ends here."""


class Killing:
    """Lets a process end at the nth write to an index or to a lease."""

    def __init__(self, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = -1
        real_write, real_lease, real_clear = os.pwritev, volume.leases.write_lease, volume.leases.clear_lease
        monkeypatch.setattr(os, "pwritev", lambda *args: (self.count(), real_write(*args))[1])
        monkeypatch.setattr(volume.leases, "write_lease", lambda lease: (self.count(), real_lease(lease))[1])
        monkeypatch.setattr(volume.leases, "clear_lease", lambda lease: (self.count(), real_clear(lease))[1])

    def count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("operation", ["add", "remove"])
def test_killed_anywhere_the_index_tells_only_of_leases_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, step: int
) -> None:
    on_file = Volume(tmp_path)
    first, second = make_id(), make_id()
    on_file.volume.add(first)
    if operation == "remove":
        on_file.volume.add(second)
    killing = Killing(on_file, monkeypatch)
    killing.left = step
    with pytest.raises(Killed):
        getattr(on_file.volume, operation)(second)
    index = Index.parse(on_file.read())
    used = {number: index.get(number).lease_id for number in range(5) if index.get(number).state is State.USED}
    assert used.items() <= on_file.list_leases().items() and used[0] == first
    getattr(on_file.volume, operation)(second)
    assert (index.find(second) is None) or operation == "remove"
    expected = {0: first} if operation == "remove" else {0: first, 1: second}
    on_file.volume.rebuild()
    assert on_file.list_leases() == expected


def test_a_killed_rebuild_is_told_and_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_file = Volume(tmp_path)
    on_file.volume.add(LEASE)
    before = on_file.read()
    killing = Killing(on_file, monkeypatch)
    killing.left = 2
    with pytest.raises(Killed):
        on_file.volume.rebuild()
    with pytest.raises(InvalidMetadata, match="rebuild"):
        on_file.volume.lookup(LEASE)
    on_file.volume.rebuild()
    assert on_file.read() == before


def test_rebuilding_makes_index_and_leases_agree(tmp_path: Path) -> None:
    on_file = Volume(tmp_path)
    ids = [make_id() for _ in range(8)]
    for lease_id in ids:
        on_file.volume.add(lease_id)
    judge = on_file.leases.judge
    place = {number: next(key for key in judge.leases if key[1] == (3 + number) * MIB) for number in range(8)}
    del judge.leases[place[0]]  # a lease that is missing
    on_file.write(HEADER_BYTES + 64, bytes(Index.make(DOMAIN, 0).data[512:576]))  # a lease without a record
    judge.leases[place[2]] = (DOMAIN, make_id())  # another lease in its place
    on_file.write(HEADER_BYTES + 3 * 64, b"\xff" * 64)  # a corrupt record before its lease
    on_file.write(HEADER_BYTES + 4 * 64, b"\xff" * 64)  # a corrupt record before nothing
    del judge.leases[place[4]]
    judge.leases[place[5]] = ("another domain", ids[5])
    on_file.write(HEADER_BYTES + 6 * 64, format_record(ids[0], 6, MIB))  # twice the same
    on_file.write(HEADER_BYTES + 3000 * 64, format_record(make_id(), 3000, MIB))  # beyond the volume
    on_file.write(0, bytes(512))
    on_file.volume.rebuild()
    index = Index.parse(on_file.read())
    told = {
        number: index.get(number).lease_id for number in range(RECORDS) if index.get(number).state is not State.FREE
    }
    assert told == on_file.list_leases()
    assert told == {0: ids[0], 2: ids[2], 3: ids[3], 5: ids[5], 6: ids[6], 7: ids[7]}
    assert {space for space, _ in judge.leases.values()} == {DOMAIN}


def test_whatever_lies_there_is_rebuilt_or_refused_by_name(tmp_path: Path) -> None:
    """Random bytes in a volume: errors have names, nothing is written but the volume, and a rebuild makes it whole."""
    random_ = random.Random(7)
    for round_ in range(8):
        folder = tmp_path / str(round_)
        folder.mkdir()
        on_file = Volume(folder)
        on_file.volume.add(LEASE)
        for _ in range(random_.randrange(1, 5)):
            on_file.write(random_.randrange(0, 2000), random_.randbytes(random_.randrange(1, 300)))
        for call in (on_file.volume.lookup, on_file.volume.add, on_file.volume.remove):
            try:
                call(LEASE)
            except NodeError:
                continue
        on_file.volume.rebuild()
        on_file.volume.add(LEASE)
        index = Index.parse(on_file.read())
        told = {n: index.get(n).lease_id for n in range(RECORDS) if index.get(n).state is not State.FREE}
        assert told == on_file.list_leases() and LEASE in told.values()
        assert [path.name for path in folder.iterdir()] == ["xleases"]
