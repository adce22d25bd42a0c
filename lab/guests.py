"""A guest of one sector that writes its disk at a chosen rate, tells how far it is, stops when told, and reads it back.

Its program is `tools/boot-sectors/disk-writer.S`, assembled when it is first wanted. It needs 16 MiB of memory and says
its first word within a second of qemu's start (the lab's qemu: 15 s). `read_contents` finds out from outside what of
its writes is on a disk, torn ones included.
"""

import select
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self
from xml.sax.saxutils import quoteattr

from lab.commands import PartFailed, run
from lab.processes import DIES_WITH_PARENT

SECTOR_BYTES = 512
TICKS_PER_S = 18.2065
WRITE, DONE, VERIFIED, MISMATCH, IO_ERROR = b".", b"!", b"V", b"X", b"E"
_STOP = b"s"
_SOURCE = Path(__file__).parent.parent / "tools/boot-sectors/disk-writer.S"
_MAGIC = b"LABW"
_RECORD = struct.Struct("<4sIII")  # magic, seed, sector, generation
_RECORDS = SECTOR_BYTES // _RECORD.size
_PARAMETERS_OFFSET = 0x1C4
_PARAMETERS = struct.Struct("<IIIIHHB")
_SECTORS_OFFSET = 0x1DE
_MOST_SECTORS = 127  # the BIOS takes no more at once
_LONGEST_BURST_TICKS = 18
_TIMEOUT_S = 120.0


def why_not() -> str | None:
    """Why the program cannot be made and run here, or None."""
    missing = [name for name in ("as", "ld", "qemu-system-x86_64") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


@dataclass(frozen=True)
class Writer:
    """What the guest does: it writes place after place of a range, then begins anew: that is the next generation."""

    first_sector: int = 2048
    sectors_per_write: int = 64
    slots: int = 256
    """So many writes fill the range."""
    writes: int = 0
    """So many are made in all; 0: it writes until told to stop."""
    burst_writes: int = 1
    ticks: int = 0
    """Bursts of `burst_writes` begin at least so far from each other (18.2 ticks are a second); 0: without pause."""
    seed: int = 1
    """Tells what this guest wrote from what another one did."""
    verifies: bool = True
    """Whether it reads everything back at the end."""

    def at_rate(self, bytes_per_s: float) -> "Writer":
        """The same at about that rate, in bursts of less than a second; within a tenth from 1 KiB/s a sector on."""
        per_tick = bytes_per_s / TICKS_PER_S / self.write_bytes
        if per_tick * _LONGEST_BURST_TICKS < 1:
            return replace(self, burst_writes=1, ticks=round(1 / per_tick))
        choices = ((max(1, round(per_tick * ticks)), ticks) for ticks in range(1, _LONGEST_BURST_TICKS + 1))
        burst, ticks = min(choices, key=lambda choice: (round(abs(choice[0] / choice[1] / per_tick - 1), 2), choice[1]))
        return replace(self, burst_writes=burst, ticks=ticks)

    @property
    def bytes_per_s(self) -> float:
        """The rate that it keeps where the disk is fast enough; infinite without ticks."""
        return self.burst_writes * self.write_bytes * TICKS_PER_S / self.ticks if self.ticks else float("inf")

    @property
    def write_bytes(self) -> int:
        return self.sectors_per_write * SECTOR_BYTES

    @property
    def end_bytes(self) -> int:
        """Where the range ends on the disk."""
        return self.first_sector * SECTOR_BYTES + self.slots * self.write_bytes

    def make_sector(self) -> bytes:
        """The boot sector: the program with these numbers in it."""
        if not 1 <= self.sectors_per_write <= _MOST_SECTORS:
            raise ValueError(f"{self.sectors_per_write} sectors per write: 1 to {_MOST_SECTORS} can be had")
        sector = bytearray(_assemble(_SOURCE))
        numbers = (self.seed, self.first_sector, self.slots, self.writes, self.burst_writes, self.ticks, self.verifies)
        _PARAMETERS.pack_into(sector, _PARAMETERS_OFFSET, *numbers)
        struct.pack_into("<H", sector, _SECTORS_OFFSET, self.sectors_per_write)
        return bytes(sector)

    def create_disk(self, path: Path, size_bytes: int = 0) -> None:
        """Create a sparse raw disk that starts with the program, as small as the range allows unless told otherwise."""
        with path.open("xb") as disk:
            disk.write(self.make_sector())
            disk.truncate(size_bytes or self.end_bytes)

    def install(self, path: Path) -> None:
        """Put the program onto a disk that is there: a raw file or a block device."""
        with path.open("r+b") as disk:
            disk.write(self.make_sector())


@cache
def _assemble(source: Path) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        code, sector = Path(folder, "code"), Path(folder, "sector")
        run("as", "--32", source, "-o", code)
        run("ld", "-m", "elf_i386", "-Ttext=0x7c00", "--oformat=binary", "-o", sector, code)
        return sector.read_bytes()


class Console:
    """The other end of the guest's serial port: a socket that qemu connects to, so that no word is lost.

    A guest that migrates connects once more, from its new qemu, to the same path; what both say counts. A context
    manager. Paths are 107 bytes long at most.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said = b""
        """Everything so far, as of the last look."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._guests: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for guest in [self._listener, *self._guests]:
            guest.close()
        self.path.unlink(missing_ok=True)

    def look(self, wait_s: float = 0.0) -> None:
        """Read what has come, waiting so long for something to come."""
        ready, _, _ = select.select([self._listener, *self._guests], [], [], wait_s)
        for one in ready:
            if one is self._listener:
                self._guests.append(one.accept()[0])
                continue
            try:
                words = one.recv(65536)
            except ConnectionResetError:
                words = b""
            self.said += words
            if not words:
                one.close()
                self._guests.remove(one)

    @property
    def writes(self) -> int:
        """How many writes were acknowledged to the guest, as of the last look."""
        return self.said.count(WRITE)

    def wait_for_writes(self, count: int, limit_s: float = _TIMEOUT_S) -> None:
        """Wait until so many writes are acknowledged. Raises PartFailed when the guest ends before, or is too slow."""
        self._wait(lambda: self.writes >= count, f"{count} writes", limit_s)

    def wait_for_end(self, limit_s: float = _TIMEOUT_S) -> None:
        """Wait until the guest has made its last write, told or not. Raises PartFailed when it does not get there."""
        self._wait(lambda: DONE in self.said, "an end", limit_s)

    def wait_until_verified(self, limit_s: float = _TIMEOUT_S) -> None:
        """Wait until the guest has read back and found all that it wrote. Raises PartFailed when it does not."""
        self._wait(lambda: VERIFIED in self.said, "a verification", limit_s)

    def stop_writes(self) -> None:
        """Tell the guest to end its writing; see `wait_for_end`."""
        for guest in self._guests:
            guest.sendall(_STOP)

    def _wait(self, look: Callable[[], bool], what: str, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while not look():
            bad = next((word for word in (MISMATCH, IO_ERROR) if word in self.said), None)
            left = deadline - time.monotonic()
            if bad or left <= 0:
                end = self.said[-20:].decode("ascii", "replace")
                raise PartFailed(f"no {what} after {self.writes} writes; the guest's last words: {end!r}")
            self.look(min(left, 1.0))


def make_command(disk: Path, console: Path, *, image_format: str = "raw", cache_mode: str = "none") -> list[str]:
    """qemu for such a guest; it ends by itself when the guest does, with status 33 (35 mismatch, 37 I/O error)."""
    drive = f"file={str(disk).replace(',', ',,')},format={image_format},if=virtio,cache={cache_mode}"
    return [
        *("qemu-system-x86_64", "-accel", "tcg", "-m", "16", "-nodefaults", "-display", "none", "-drive", drive),
        *("-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-chardev", f"socket,id=console,path={console}"),
        *("-serial", "chardev:console"),
    ]


def make_domain(
    name: str, disk: Path, console: Path, *, image_format: str = "raw", cache_mode: str = "none", block: bool = False
) -> str:
    """The same guest for libvirt. It stays, halted, when the program has ended."""
    kind, attribute = ("block", "dev") if block else ("file", "file")
    return f"""
<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <disk type='{kind}' device='disk'>
      <driver name='qemu' type='{image_format}' cache='{cache_mode}'/>
      <source {attribute}={quoteattr(str(disk))}/><target dev='vda' bus='virtio'/>
    </disk>
    <serial type='unix'><source mode='connect' path={quoteattr(str(console))}/></serial>
    <memballoon model='none'/>
  </devices>
</domain>"""


@contextmanager
def running(disk: Path, *, image_format: str = "raw", cache_mode: str = "none") -> Iterator[tuple[Console, int]]:
    """The guest of that disk runs under a qemu of its own meanwhile; that qemu's PID, for whom wants to kill it."""
    with tempfile.TemporaryDirectory() as folder, Console(Path(folder, "console")) as console:
        command = make_command(disk, console.path, image_format=image_format, cache_mode=cache_mode)
        qemu = subprocess.Popen([*DIES_WITH_PARENT, *command], stdin=subprocess.DEVNULL)
        try:
            yield console, qemu.pid
        finally:
            qemu.kill()
            qemu.wait()


@dataclass(frozen=True)
class Contents:
    """What of a writer's work is on a disk: for each place the oldest and the newest generation in it, 0 for none."""

    oldest: Sequence[int]
    newest: Sequence[int]

    def list_torn(self) -> list[int]:
        """The places of which one part was written later than another."""
        return [slot for slot, oldest in enumerate(self.oldest) if oldest != self.newest[slot]]

    def list_lost(self, writes: int) -> list[int]:
        """The places where something older is than after so many writes, the first ones, were made in full."""
        full, rest = divmod(writes, len(self.oldest))
        return [slot for slot, oldest in enumerate(self.oldest) if oldest < full + (slot < rest)]


def read_contents(disk: Path, writer: Writer, image_format: str = "raw") -> Contents:
    """Look through the range on a disk that nobody writes to."""
    if image_format == "raw":
        return _read_raw(disk, writer)
    with tempfile.TemporaryDirectory(dir=disk.parent) as folder:
        raw = Path(folder, "raw")
        run("qemu-img", "convert", "-f", image_format, "-O", "raw", disk, raw)
        return _read_raw(raw, writer)


def _read_raw(disk: Path, writer: Writer) -> Contents:
    places = []
    with disk.open("rb") as file:
        for slot in range(writer.slots):
            first = writer.first_sector + slot * writer.sectors_per_write
            file.seek(first * SECTOR_BYTES)
            data = file.read(writer.write_bytes).ljust(writer.write_bytes, b"\0")
            generations = set[int]()
            for number in range(writer.sectors_per_write):
                sector = data[number * SECTOR_BYTES : (number + 1) * SECTOR_BYTES]
                generations |= _read_generations(sector, writer.seed, first + number)
            places.append((min(generations), max(generations)))
    return Contents([oldest for oldest, _ in places], [newest for _, newest in places])


def _read_generations(sector: bytes, seed: int, number: int) -> set[int]:
    record = sector[: _RECORD.size]
    pieces = [record] if sector == record * _RECORDS else [sector[at : at + 16] for at in range(0, len(sector), 16)]
    found = map(_RECORD.unpack, pieces)
    return {words[3] if words[:3] == (_MAGIC, seed, number) else 0 for words in found}
