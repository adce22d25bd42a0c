"""Loop devices in memory, with sectors of 512 or 4096 bytes, and a scratch folder that knows O_DIRECT.

The ioctls are called directly: `losetup` would cost half a second a call inside the lab.
"""

import errno
import fcntl
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lab.commands import load, run, wait_for

CONTROL = Path("/dev/loop-control")
SET_CAPACITY, CLEAR, CONFIGURE = 0x4C07, 0x4C01, 0x4C0A
REMOVE, GET_FREE = 0x4C81, 0x4C82
CONFIG = struct.Struct("=II 232x 64x")  # struct loop_config: descriptor, sector size, an empty loop_info64, reserved
BUSY_LIMIT_S = 20.0


@dataclass
class LoopDisk:
    """A block device whose bytes are in memory; what was never written costs none."""

    path: Path
    descriptor: int  # of the memory file behind it: for who wants to see what the device holds, without its cache
    size_bytes: int
    sector_bytes: int

    def grow(self, size_bytes: int) -> None:
        """Give the live device a new size."""
        os.ftruncate(self.descriptor, size_bytes)
        device = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(device, SET_CAPACITY)
        finally:
            os.close(device)
        self.size_bytes = size_bytes


@contextmanager
def loop_disk(size_bytes: int, sector_bytes: int = 512) -> Iterator[LoopDisk]:
    """A loop device full of zeros. It and its content are gone afterwards, when nobody holds it any longer."""
    if not CONTROL.exists():
        load("loop")
    with ExitStack() as undo:
        memory = os.memfd_create("lab-disk", os.MFD_CLOEXEC)
        undo.callback(os.close, memory)
        os.ftruncate(memory, size_bytes)
        yield LoopDisk(undo.enter_context(_attached(memory, sector_bytes)), memory, size_bytes, sector_bytes)


@contextmanager
def _attached(memory: int, sector_bytes: int) -> Iterator[Path]:
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        known = {entry.name for entry in os.scandir("/sys/block")}
        number = _attach(control, memory, sector_bytes)
        try:
            yield Path(f"/dev/loop{number}")
        finally:
            _detach(number)
            if f"loop{number}" not in known:
                with suppress(OSError):  # udev looks at it once more, or another took it: then it stays as a free one
                    fcntl.ioctl(control, REMOVE, number)
    finally:
        os.close(control)


def _attach(control: int, memory: int, sector_bytes: int) -> int:
    while True:
        number = fcntl.ioctl(control, GET_FREE)
        wait_for(Path(f"/dev/loop{number}").exists, f"/dev/loop{number} appears")
        device = os.open(f"/dev/loop{number}", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(device, CONFIGURE, CONFIG.pack(memory, sector_bytes))
            return number
        except OSError as error:
            if error.errno != errno.EBUSY:  # another took the free one first
                raise
        finally:
            os.close(device)


def _detach(number: int) -> None:
    device = os.open(f"/dev/loop{number}", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, CLEAR)
    finally:
        os.close(device)
    # While others (udev, most times) hold it open too, the kernel detaches it only when the last of them lets go.
    attached = Path(f"/sys/block/loop{number}/loop")
    wait_for(lambda: not attached.exists(), f"/dev/loop{number} is let go of by its users", BUSY_LIMIT_S)


@contextmanager
def scratch(size_bytes: int = 256 << 20, sector_bytes: int = 512) -> Iterator[Path]:
    """An empty folder on an ext4 of its own (a tmpfs knows no O_DIRECT). It is unmounted and gone afterwards."""
    with ExitStack() as undo:
        disk = undo.enter_context(loop_disk(size_bytes, sector_bytes))
        # No journal, which would be a quarter of a small disk; and what is zero needs no zeroing.
        run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-E", "nodiscard,lazy_itable_init=1", "-m0", disk.path)
        folder = Path(tempfile.mkdtemp(prefix="lab-scratch-"))
        undo.callback(folder.rmdir)
        run("mount", disk.path, folder)
        undo.callback(run, "umount", folder)
        (folder / "lost+found").rmdir()
        yield folder
