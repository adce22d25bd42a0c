"""A disk that loses power: what was not flushed is lost, as of any moment one likes to look at.

The kernel's dm-log-writes notes each write once the flush that follows it is done (a forced write at once), and marks
in between. Playing the log from zeros up to a point gives what a disk that lost power then holds in the worst case.
"""

import errno
import fcntl
import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from lab.commands import PartFailed, load, wait_for
from lab.devicemapper import SECTOR, Target, device, load_table, path_of, read_status, send_message
from lab.loop import LoopDisk, loop_disk

# The log: a sector with the head, then for each entry a sector that describes it and the sectors that were written.
MAGIC, VERSION = 0x6A736677736872, 1
HEAD = struct.Struct("<QQQI")  # magic, version, number of entries, bytes of a sector
ENTRY = struct.Struct("<QQQQ")  # first sector, number of sectors, flags, bytes of the mark
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
LOG_BYTES = 1 << 38  # a hole; memory is the limit
DISCARD_RANGE = 0x1277  # BLKDISCARD
MARK_LIMIT_S = 30.0
_PIECE_BYTES = 1 << 20

Point = int | str  # an entry's index in the log, or a mark's name


@dataclass(frozen=True)
class Entry:
    """Something that reached the disk for good, or a mark."""

    index: int
    offset: int  # in bytes, on the disk
    length: int
    flags: int
    mark: str
    data_at: int  # in bytes, in the log
    end_at: int


@dataclass
class PowerLossDisk:
    """A block device whose past can be looked at: as it would be, had it lost power then."""

    path: Path
    name: str
    _data: LoopDisk
    _log: LoopDisk
    _numbers: Iterator[int] = field(default_factory=count)
    _off: bool = False
    _entries: list[Entry] = field(default_factory=list)  # a log only grows

    def mark(self, name: str) -> int:
        """Name this moment, for `replay_to`; gives its index. What was not flushed until now is not in it."""
        if not re.fullmatch(r"[\w.-]{1,100}", name):
            raise PartFailed(f"a mark is a short word: {name!r}")
        if self._off:
            raise PartFailed(f"{self.name} has lost power: mark {name} comes too late")
        already = len(self.read_log())
        send_message(self.name, f"mark {name}")
        wait_for(
            lambda: any(entry.mark == name for entry in self.read_log()[already:]),
            f"mark {name} is in the log",
            MARK_LIMIT_S,
        )
        self._check()
        return self._find(name)

    def lose_power(self) -> int:
        """Lose power now: all I/O fails from here on, and what was not flushed is not at this point of the log."""
        point = self.mark(f"power-loss-{next(self._numbers)}")
        self._off = True
        load_table(self.name, [Target(0, self._data.size_bytes // SECTOR, "error")])
        return point

    def read_log(self) -> list[Entry]:
        """All entries that the log's head counts: those up to the last mark or forced write are among them."""
        head = os.pread(self._log.descriptor, HEAD.size, 0)
        magic, version, entries, sector = HEAD.unpack(head)
        if not magic:
            return []
        if (magic, version) != (MAGIC, VERSION):
            raise PartFailed(f"{self._log.path} holds no log of writes")
        self._entries.extend(self._walk(len(self._entries), entries, sector))
        return self._entries

    def list_flushes(self) -> list[int]:
        """Indexes of all flushes and forced writes until now: from each on, somebody relies on what was written."""
        if not self._off:
            self.mark(f"listed-{next(self._numbers)}")  # only with a mark the log's head counts all
        return [entry.index for entry in self.read_log() if entry.flags & (FLUSH | FUA)]

    def replay_to(self, point: Point, target: Path, after: int = -1) -> None:
        """Write to a device or file of zeros what the disk holds for sure at that point, the point itself included.

        With `after`, the target holds the state at that index already. What a device discards it must read as zeros, as
        loop disks do.
        """
        last = point if isinstance(point, int) else self._find(point)
        entries = self.read_log()
        if last >= len(entries):
            raise PartFailed(f"the log ends at {len(entries) - 1}, before {point}")
        descriptor = os.open(target, os.O_RDWR | os.O_CLOEXEC)
        try:
            with (
                mmap.mmap(self._log.descriptor, entries[last].end_at, prot=mmap.PROT_READ) as log,
                memoryview(log) as view,
            ):
                for entry in entries[after + 1 : last + 1]:
                    _replay(entry, view, descriptor)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextmanager
    def state_at(self, point: Point) -> Iterator[LoopDisk]:
        """A fresh disk that holds what this one holds for sure at that point. Gone afterwards."""
        with loop_disk(self._data.size_bytes, self._data.sector_bytes) as fresh:
            self.replay_to(point, fresh.path)
            yield fresh

    @contextmanager
    def states(self) -> Iterator[Callable[[int], AbstractContextManager[LoopDisk]]]:
        """`state_at` for points that only go forward, without playing the log from its beginning for each."""
        with open(os.memfd_create("lab-states", os.MFD_CLOEXEC), "r+b") as image:
            image.truncate(self._data.size_bytes)
            played = -1

            @contextmanager
            def state_at(point: int) -> Iterator[LoopDisk]:
                nonlocal played
                self.replay_to(point, Path(f"/proc/self/fd/{image.fileno()}"), after=played)
                played = point
                with loop_disk(self._data.size_bytes, self._data.sector_bytes) as fresh:
                    _copy_data(image.fileno(), fresh.descriptor)
                    yield fresh

            yield state_at

    def _walk(self, known: int, entries: int, sector: int) -> Iterator[Entry]:
        at = self._entries[-1].end_at if known else sector
        for index in range(known, entries):
            first, number, flags, mark_bytes = ENTRY.unpack(os.pread(self._log.descriptor, ENTRY.size, at))
            mark = os.pread(self._log.descriptor, mark_bytes, at + ENTRY.size) if flags & MARK else b""
            data_at, at = at + sector, at + sector * (1 if flags & DISCARD else number + 1)
            yield Entry(index, first * sector, number * sector, flags, mark.decode(), data_at, at)

    def _find(self, mark: str) -> int:
        found = [entry.index for entry in self.read_log() if entry.mark == mark]
        if not found:
            raise PartFailed(f"no mark {mark} in the log")
        return found[-1]

    def _check(self) -> None:
        ((_, status),) = read_status(self.name)
        if "disabled" in status:
            raise PartFailed(f"{self.name}: the kernel gave up the log (no memory?): {status}")


def _replay(entry: Entry, log: memoryview, descriptor: int) -> None:
    if entry.flags & DISCARD:
        try:
            fcntl.ioctl(descriptor, DISCARD_RANGE, struct.pack("=QQ", entry.offset, entry.length))
        except OSError:  # a file
            os.pwrite(descriptor, bytes(entry.length), entry.offset)
    elif entry.length:
        os.pwrite(descriptor, log[entry.data_at : entry.data_at + entry.length], entry.offset)


def _copy_data(source: int, target: int) -> None:
    """What is no hole; the target is empty."""
    end = 0
    while True:
        try:
            begin = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no more of it
                return
            raise
        end = os.lseek(source, begin, os.SEEK_HOLE)
        for at in range(begin, end, _PIECE_BYTES):
            os.pwrite(target, os.pread(source, min(_PIECE_BYTES, end - at), at), at)


@contextmanager
def power_loss_disk(size_bytes: int, sector_bytes: int = 512, name: str = "") -> Iterator[PowerLossDisk]:
    """A disk of zeros that may lose power, in memory with a copy of all that is ever written. Gone afterwards."""
    load("dm_log_writes")
    with ExitStack() as undo:
        data = undo.enter_context(loop_disk(size_bytes, sector_bytes))
        log = undo.enter_context(loop_disk(LOG_BYTES, sector_bytes))
        table = [Target(0, size_bytes // SECTOR, "log-writes", f"{data.path} {log.path}")]
        name = undo.enter_context(device(table, name))
        yield PowerLossDisk(path_of(name), name, data, log)
