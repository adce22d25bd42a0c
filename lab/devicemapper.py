"""Faults of block devices, by the device mapper: errors, delays, hangs, growth, each switched on a live device.

The kernel's ioctls are called directly, which takes a thousandth of what `dmsetup` takes inside the lab. They carry no
udev cookie, and that is of use: udev then only makes the link in /dev/mapper and keeps its hands off the device, where
it would hang on a suspended one and complain of a failing one.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from lab.commands import PartFailed, load, wait_for
from lab.direct import measure_size

CONTROL = Path("/dev/mapper/control")
SECTOR = 512  # what tables count in, whatever the device's own sectors are
BUSY_LIMIT_S = 20.0

LIST, CREATE, REMOVE, SUSPEND, STATUS, LOAD, TABLE_STATUS, MESSAGE = 2, 3, 4, 6, 7, 9, 12, 14
SUSPENDED, TABLE, SKIP_LOCKFS, NOFLUSH = 1 << 1, 1 << 4, 1 << 10, 1 << 11
HEAD = struct.Struct("=3I 7I Q 128s 129s 7x")  # struct dm_ioctl
TARGET = struct.Struct("=QQ iI 16s")  # struct dm_target_spec
ENTRY = struct.Struct("=QI")  # struct dm_name_list, before the name
ROOM = 64 << 10

_numbers = count()


@dataclass(frozen=True)
class Target:
    """A line of a table: what happens to the sectors (of 512 bytes) from `start` on."""

    start: int
    length: int
    kind: str
    arguments: str = ""

    def pack(self) -> bytes:
        text = self.arguments.encode() + b"\0"
        text += b"\0" * (-len(text) % 8)
        return TARGET.pack(self.start, self.length, 0, TARGET.size + len(text), self.kind.encode()) + text


@dataclass(frozen=True)
class Answer:
    """What the kernel answers: the device's number, its flags, and data of the command."""

    minor: int
    flags: int
    open_count: int
    targets: int
    data: bytes


def call(command: int, name: str, flags: int = 0, data: bytes = b"", targets: int = 0, uuid: str = "") -> Answer:
    """One ioctl of the device mapper, on the device of that name."""
    if not CONTROL.exists():
        load("dm_mod")
    head = (4, 0, 0, ROOM, HEAD.size, targets, 0, flags, 0, 0, 0, name.encode(), uuid.encode())
    buffer = bytearray(HEAD.pack(*head) + data)
    buffer += bytes(ROOM - len(buffer))
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(control, 3 << 30 | HEAD.size << 16 | 0xFD << 8 | command, buffer)
    finally:
        os.close(control)
    _, _, _, size, start, targets, opened, flags, _, _, device, _, _ = HEAD.unpack_from(buffer)
    return Answer(os.minor(device), flags, opened, targets, bytes(buffer[start : max(size, start)]))


def read_status(name: str, table: bool = False) -> list[tuple[str, str]]:
    """Kind and status (or arguments) of each target of a device's live table."""
    answer = call(TABLE_STATUS, name, TABLE if table else 0)
    found, offset = [], 0
    for _ in range(answer.targets):
        _, _, _, offset_of_next, kind = TARGET.unpack_from(answer.data, offset)
        text = answer.data[offset + TARGET.size :].split(b"\0", 1)[0]
        found.append((kind.rstrip(b"\0").decode(), text.decode()))
        offset = offset_of_next
    return found


def send_message(name: str, message: str, sector: int = 0) -> None:
    """Tell the target at a sector of a live device something."""
    call(MESSAGE, name, data=struct.pack("=Q", sector) + message.encode() + b"\0")


def list_devices() -> list[str]:
    """Names of all devices of the device mapper."""
    data, names, offset = call(LIST, "").data, [], 0
    while data[offset : offset + 8] not in (b"", bytes(8)):
        _, following = ENTRY.unpack_from(data, offset)
        names.append(data[offset + ENTRY.size :].split(b"\0", 1)[0].decode())
        if not following:
            break
        offset += following
    return names


def remove(name: str) -> None:
    """Remove a device, once nobody holds it open. Who waits for a suspended device gets an error."""
    if call(STATUS, name).flags & SUSPENDED:
        load_table(name, [Target(0, _count_sectors(name), "error")])

    def try_it() -> bool:
        try:
            call(REMOVE, name)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    wait_for(try_it, f"{name} is let go of by its users", BUSY_LIMIT_S)


def load_table(name: str, targets: Sequence[Target]) -> None:
    """Switch a live device to another table. Waiting requests follow the new one."""
    call(LOAD, name, data=b"".join(target.pack() for target in targets), targets=len(targets))
    # Without these flags the switch would first sync the file system above, through the very fault that shall end.
    call(SUSPEND, name, SUSPENDED | SKIP_LOCKFS | NOFLUSH)
    call(SUSPEND, name)


def _count_sectors(name: str) -> int:
    return int(Path(f"/sys/block/dm-{call(STATUS, name).minor}/size").read_text())


@contextmanager
def device(targets: Sequence[Target], name: str = "") -> Iterator[str]:
    """A device with that table; gives its name. Afterwards it is removed, also when it is suspended."""
    name = name or f"lab-{os.getpid()}-{next(_numbers)}"
    call(CREATE, name)
    try:
        load_table(name, targets)
        yield name
    finally:
        remove(name)


def path_of(name: str) -> Path:
    """The device's node, which is there at once; udev's link /dev/mapper/NAME comes a little later."""
    return Path(f"/dev/dm-{call(STATUS, name).minor}")


@dataclass
class Mapping:
    """A block device that passes all on to the one below, until it is told otherwise. All faults start and end live."""

    name: str
    path: Path
    below: Path
    size_bytes: int
    _failed: list[tuple[int, int]] = field(default_factory=list)

    def fail(self) -> None:
        """Fail every read and write with EIO."""
        self._switch("error")

    def fail_range(self, start_bytes: int, length_bytes: int) -> None:
        """Fail what touches this range with EIO, also what was named so before. Whole sectors only."""
        if start_bytes % SECTOR or length_bytes % SECTOR or start_bytes + length_bytes > self.size_bytes:
            raise PartFailed(f"{self.name}: {start_bytes}+{length_bytes} are no whole sectors of the device")
        self._failed = sorted([*self._failed, (start_bytes // SECTOR, length_bytes // SECTOR)])
        load_table(self.name, list(self._split()))

    def delay(self, read_ms: int, write_ms: int | None = None) -> None:
        """Let every read and write, and flush, take this much longer."""
        load("dm_delay")
        writes = f"{self.below} 0 {read_ms if write_ms is None else write_ms}"
        self._switch("delay", f"{self.below} 0 {read_ms} {writes}")

    def heal(self) -> None:
        """End all faults; who hung goes on."""
        self._failed = []
        self._switch("linear", f"{self.below} 0")

    def suspend(self) -> None:
        """Hang: who reads or writes waits in the kernel, and no signal ends that, until `resume` or another fault."""
        call(SUSPEND, self.name, SUSPENDED | SKIP_LOCKFS | NOFLUSH)

    def resume(self) -> None:
        """Go on after `suspend`, with the fault that was there before it, if any."""
        call(SUSPEND, self.name)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Hang while the block runs."""
        self.suspend()
        try:
            yield
        finally:
            self.resume()

    def grow(self, size_bytes: int | None = None) -> None:
        """Take a new size, that of the device below when none is named; ends all other faults."""
        self.size_bytes = measure_size(self.below) if size_bytes is None else size_bytes
        self.heal()

    def _switch(self, kind: str, arguments: str = "") -> None:
        load_table(self.name, [Target(0, self.size_bytes // SECTOR, kind, arguments)])

    def _split(self) -> Iterator[Target]:
        at, end = 0, self.size_bytes // SECTOR
        for start, length in [*self._failed, (end, 0)]:
            if start > at:
                yield Target(at, start - at, "linear", f"{self.below} {at}")
            if start + length > (at := max(at, start)):
                yield Target(at, start + length - at, "error")
                at = start + length


@contextmanager
def mapped(below: Path, name: str = "", size_bytes: int | None = None) -> Iterator[Mapping]:
    """A healthy mapping of a block device. Removed afterwards; who then hangs on it gets EIO."""
    size_bytes = measure_size(below) if size_bytes is None else size_bytes
    with ExitStack() as undo:
        name = undo.enter_context(device([Target(0, size_bytes // SECTOR, "linear", f"{below} 0")], name))
        yield Mapping(name, path_of(name), below, size_bytes)
