"""sanlock's records as they lie on storage, read without sanlock; pure but for one read (facts: storage §6.1, §6.2).

Only sanlock writes them, and only sanlock knows which host lives: what is told here is who was there last.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from vdsm.storage import durable

# magic, version, flags, sector, hosts, most hosts, owner, its generation, lease version, names, timestamp
RECORD = struct.Struct("<IIIIQQQQQ48s48sQ")
LEASE_MAGIC, HOST_MAGIC = 0x06152010, 0x12212010


class DiskRecord(Struct, frozen=True):
    """One record: a lease, or the sign of life of a host, whose `name` is then the host's own."""

    offset_bytes: int
    lockspace: str
    name: str
    is_host: bool
    owner: int
    generation: int
    version: int
    timestamp_s: int
    """By the owner's own clock since it started; 0 when it gave the lease back, or left."""

    @property
    def is_used(self) -> bool:
        return self.timestamp_s > 0


def parse_record(data: bytes, offset_bytes: int = 0) -> DiskRecord | None:
    """None where there is no record, or one that was cleared; never fails."""
    if len(data) < RECORD.size:
        return None
    magic, _, _, _, _, _, owner, generation, version, space, name, timestamp_s = RECORD.unpack_from(data)
    lockspace, name = (text.rstrip(b"\0").decode("ascii", "replace") for text in (space, name))
    if magic not in (LEASE_MAGIC, HOST_MAGIC) or not lockspace:
        return None
    return DiskRecord(offset_bytes, lockspace, name, magic == HOST_MAGIC, owner, generation, version, timestamp_s)


def read_records(path: Path, begin_bytes: int, step_bytes: int, end_bytes: int) -> Iterator[DiskRecord]:
    """The records that begin at each step, up to the end of the file. Raises OSError, also for what is no file."""
    with durable.opened(path) as descriptor:
        for offset in range(begin_bytes, min(end_bytes, durable.look(descriptor).st_size), step_bytes):
            if (record := parse_record(os.pread(descriptor, RECORD.size, offset), offset)) is not None:
                yield record
