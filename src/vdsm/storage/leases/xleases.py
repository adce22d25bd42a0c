"""The index of external leases, of VMs and jobs: its bytes, and a domain's volume of them (facts: storage §6.5).

The codec is pure. What is in a lease's value block is left to others.
"""

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from vdsm.core.clock import Clock
from vdsm.core.ids import is_uuid
from vdsm.storage import durable, errors
from vdsm.storage.errors_jobs import NoSuchLease
from vdsm.storage.leases.on_disk import read_records
from vdsm.storage.ports import Lease, LeaseFailed, Leases, Lockspace

INDEX_BYTES = 62 * 4096
HEADER_BYTES = 512
RECORD_BYTES = 64
RECORDS = (INDEX_BYTES - HEADER_BYTES) // RECORD_BYTES
FIRST_SLOT = 3
"""The slot of record 0's lease; a slot is as large as the domain's alignment."""
_MAGIC = (0x12152016).to_bytes(4, "big")
_VERSION = b"0001"
_ID_BYTES = 48
_FREE = bytes(49) + b"0" * 11 + b"\0--\n"
_UPDATING, _SETTLED = b"u", b"-"


class State(Enum):
    """What a record says of its slot; UPDATING is of old writers, CORRUPT what no writer writes."""

    FREE = "free"
    USED = "used"
    UPDATING = "updating"
    CORRUPT = "corrupt"


class Record(Struct, frozen=True):
    """One record of the index."""

    state: State
    lease_id: str = ""


def format_header(domain_id: str, modified_s: int, *, is_updating: bool = False) -> bytes:
    """The first 512 bytes of the index, on all block sizes."""
    flag = _UPDATING if is_updating else _SETTLED
    name = domain_id.encode("ascii").ljust(_ID_BYTES, b"\0")
    head = b"\0".join((_MAGIC, _VERSION, name, f"{modified_s:010d}".encode(), flag))
    return head.ljust(HEADER_BYTES - 1, b"\0") + b"\n"


def check_header(header: bytes) -> None:
    """Raises InvalidMetadata (751) for what is no header, or one whose index was being rewritten."""
    if len(header) < HEADER_BYTES:
        raise errors.InvalidMetadata("xleases", "the index is truncated; rebuild the leases")
    version, modified, flag = header[5:9], header[59:69], header[70:71]
    if header[:4] != _MAGIC or version != _VERSION or not modified.isdigit():
        raise errors.InvalidMetadata("xleases", f"no index: {header[:16]!r}; rebuild the leases")
    if flag != _SETTLED:
        raise errors.InvalidMetadata("xleases", "the index was being rewritten; rebuild the leases")


def format_record(lease_id: str, number: int, alignment_bytes: int) -> bytes:
    """The record of a lease; the offset in it is for people."""
    offset = get_offset(number, alignment_bytes)
    return lease_id.encode("ascii").ljust(_ID_BYTES, b"\0") + f"\0{offset:011d}\0--\n".encode()


def parse_record(data: bytes) -> Record:
    """What a record says; never fails."""
    if data == _FREE:
        return Record(State.FREE)
    lease_id = data[:_ID_BYTES].rstrip(b"\0").decode("ascii", "replace")
    flag = data[61:62]
    if len(data) != RECORD_BYTES or data[48:49] != b"\0" or data[63:] != b"\n" or not is_uuid(lease_id):
        return Record(State.CORRUPT)
    if flag not in (_UPDATING, _SETTLED):
        return Record(State.CORRUPT)
    return Record(State.UPDATING if flag == _UPDATING else State.USED, lease_id)


def get_offset(number: int, alignment_bytes: int) -> int:
    """Where the lease of a record lies."""
    return (FIRST_SLOT + number) * alignment_bytes


class Index:
    """The bytes of an index, changed a record at a time."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)

    @classmethod
    def make(cls, domain_id: str, modified_s: int, *, is_updating: bool = False) -> "Index":
        """An index without leases."""
        return cls(format_header(domain_id, modified_s, is_updating=is_updating) + _FREE * RECORDS)

    @classmethod
    def parse(cls, data: bytes) -> "Index":
        """Raises InvalidMetadata (751)."""
        check_header(data)
        if len(data) != INDEX_BYTES:
            raise errors.InvalidMetadata("xleases", f"{len(data)} bytes; rebuild the leases")
        return cls(data)

    def find(self, lease_id: str) -> int | None:
        """The number of a lease's record, also of one that is flagged."""
        wanted = lease_id.encode("ascii") + bytes(_ID_BYTES + 1 - len(lease_id))
        position = HEADER_BYTES - RECORD_BYTES
        while (position := self.data.find(wanted, position + RECORD_BYTES)) >= 0:
            if position % RECORD_BYTES == 0:
                return (position - HEADER_BYTES) // RECORD_BYTES
            position -= position % RECORD_BYTES
        return None

    def find_free(self) -> int | None:
        """The number of the first free record."""
        numbers = range(RECORDS)
        return next((number for number in numbers if self.data[_span(number)] == _FREE), None)

    def get(self, number: int) -> Record:
        return parse_record(bytes(self.data[_span(number)]))

    def set(self, number: int, lease_id: str, alignment_bytes: int) -> None:
        self.data[_span(number)] = format_record(lease_id, number, alignment_bytes)

    def clear(self, number: int) -> None:
        self.data[_span(number)] = _FREE

    def get_block(self, number: int, block_size_bytes: int) -> tuple[int, bytes]:
        """The block that has a record, and where it begins in the index."""
        begin = _span(number).start // block_size_bytes * block_size_bytes
        return begin, bytes(self.data[begin : begin + block_size_bytes])


def _span(number: int) -> slice:
    begin = HEADER_BYTES + number * RECORD_BYTES
    return slice(begin, begin + RECORD_BYTES)


class LeaseVolume:
    """A domain's external leases: the index in one file with the leases behind it, read anew by each operation.

    Only the domain's one writer may change it. A process that is killed leaves an index whose leases are all there.
    """

    def __init__(self, path: Path, lockspace: Lockspace, leases: Leases, clock: Clock) -> None:
        self._path = path
        self._lockspace = lockspace
        self._leases = leases
        self._clock = clock

    def format(self) -> None:
        """Make an index without leases over whatever is there."""
        self._write_all(Index.make(self._lockspace.name, int(self._clock.time()), is_updating=True))

    def lookup(self, lease_id: str) -> Lease:
        """Where a lease lies. Raises NoSuchLease (936), InvalidMetadata (751)."""
        index = self._load()
        number = index.find(lease_id)
        if number is None or index.get(number).state is not State.USED:
            raise NoSuchLease(lease_id)
        return self._make_lease(lease_id, number)

    def add(self, lease_id: str, fill: Callable[[Lease], None] = lambda _: None) -> bool:
        """Make a lease, unless it is there, and tell whether it is new; a new one is filled before it is found.

        Raises NoSpaceLeftOnDomain (397).
        """
        index = self._load()
        number = index.find(lease_id)
        if number is not None and index.get(number).state is State.USED:
            return False
        if number is None:
            number = index.find_free()
        if number is None:
            raise errors.NoSpaceLeftOnDomain(f"all {RECORDS} external leases are in use")
        lease = self._make_lease(lease_id, number)
        self._write_lease(lease)
        fill(lease)
        index.set(number, lease_id, self._lockspace.alignment_bytes)
        self._write(*index.get_block(number, self._lockspace.block_size_bytes))
        return True

    def remove(self, lease_id: str) -> bool:
        """Whether there was such a lease."""
        index = self._load()
        number = index.find(lease_id)
        if number is None:
            return False
        index.clear(number)
        self._write(*index.get_block(number, self._lockspace.block_size_bytes))
        try:
            self._leases.clear_lease(self._make_lease(lease_id, number))
        except LeaseFailed:
            return True  # without its record the lease is of no use, and the next one in its place overwrites it
        return True

    def rebuild(self) -> None:
        """Make index and leases agree: the index wins where it can be read, then the leases behind it."""
        data = self._read()
        index = Index(data.ljust(INDEX_BYTES, b"\0"))
        index.data[:HEADER_BYTES] = format_header(self._lockspace.name, int(self._clock.time()), is_updating=True)
        with self._failing():
            size_bytes = durable.look(self._path).st_size
        known = {index.get(number).lease_id for number in range(RECORDS) if index.get(number).state is State.USED}
        seen: set[str] = set()
        for number in range(RECORDS):
            slot = self._make_lease("", number)
            if slot.offset_bytes + self._lockspace.alignment_bytes > size_bytes:
                index.clear(number)
            else:
                self._rebuild_slot(index, number, known, seen)
        self._write_all(index)

    def list_all(self) -> dict[str, tuple[int, bool]]:
        """Where each lease lies, by its id, and whether its record is flagged as being changed. Raises 751."""
        index, step = self._load(), self._lockspace.alignment_bytes
        records = ((number, index.get(number)) for number in range(RECORDS))
        return {
            record.lease_id: (get_offset(number, step), record.state is State.UPDATING)
            for number, record in records
            if record.state in (State.USED, State.UPDATING)
        }

    def find_faults(self) -> Iterator[str]:
        """Where index and leases do not agree, in words; read without sanlock. Raises InvalidMetadata (751)."""
        index, seen, step = self._load(), set[str](), self._lockspace.alignment_bytes
        with self._failing():
            records = read_records(self._path, get_offset(0, step), step, get_offset(RECORDS, step))
            names = {one.offset_bytes: (one.lockspace, one.name) for one in records}
        for number in range(RECORDS):
            record, found = index.get(number), names.get(get_offset(number, step))
            wanted = (self._lockspace.name, record.lease_id) if record.state is State.USED else None
            if record.state not in (State.FREE, State.USED) or wanted != found or (wanted and record.lease_id in seen):
                name = "" if found is None else found[1]
                yield f"record {number} is {record.state.value} {record.lease_id!r}, its lease {name!r}"
            seen.add(record.lease_id)

    def _rebuild_slot(self, index: Index, number: int, known: set[str], seen: set[str]) -> None:
        record, slot = index.get(number), self._make_lease("", number)
        names = self._leases.read_lease_name(slot)
        on_storage = names[1] if names and names[0] == self._lockspace.name and is_uuid(names[1]) else ""
        lease_id = ""
        if record.state is State.USED and record.lease_id not in seen:
            lease_id = record.lease_id
        elif record.state is not State.FREE and on_storage not in known | seen:
            lease_id = on_storage
        if not lease_id:
            index.clear(number)
            if names is not None:
                self._leases.clear_lease(slot)
            return
        seen.add(lease_id)
        index.set(number, lease_id, self._lockspace.alignment_bytes)
        if lease_id != on_storage:
            self._write_lease(replace(slot, name=lease_id))

    def _make_lease(self, lease_id: str, number: int) -> Lease:
        return Lease(self._lockspace, lease_id, self._path, get_offset(number, self._lockspace.alignment_bytes))

    def _write_lease(self, lease: Lease) -> None:
        try:
            self._leases.write_lease(lease)
        except LeaseFailed as error:
            raise errors.ClusterLockInitError(error.reason) from error
        with self._failing():
            durable.sync(self._path)

    def _load(self) -> Index:
        return Index.parse(self._read())

    def _read(self) -> bytes:
        with self._failing(), self._open(os.O_RDONLY) as descriptor, mmap.mmap(-1, INDEX_BYTES) as buffer:
            count = os.preadv(descriptor, [buffer], self._lockspace.alignment_bytes)
            return buffer[:count]

    def _write(self, begin: int, data: bytes) -> None:
        with self._failing(), self._open(os.O_WRONLY) as descriptor, mmap.mmap(-1, len(data)) as buffer:
            buffer[:] = data
            written = os.pwritev(descriptor, [buffer], self._lockspace.alignment_bytes + begin)
            if written != len(data):
                raise OSError(errno.EIO, f"{written} of {len(data)} bytes were written", str(self._path))
            os.fsync(descriptor)

    def _write_all(self, index: Index) -> None:
        """Write an index that is flagged, then take the flag away."""
        self._write(0, bytes(index.data))
        index.data[:HEADER_BYTES] = format_header(self._lockspace.name, int(index.data[59:69]))
        self._write(0, bytes(index.data[: self._lockspace.block_size_bytes]))

    @contextmanager
    def _open(self, flags: int) -> Iterator[int]:
        descriptor = os.open(self._path, flags | os.O_DIRECT | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        with errors.io_failing_as(lambda _: errors.StorageDomainAccessError(self._lockspace.name)):
            yield
