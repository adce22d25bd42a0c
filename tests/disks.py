"""Disks as a guest sees them: what it wrote, byte by byte, kept apart from the images, and compared with them."""

import random
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from vdsm.storage.model import DomainType, VolumeFormat, VolumeRequest, VolumeRole
from vdsm.testing.storage import World

UNIT = 4096
"""Guests write so many bytes at once, or several of it: sixteen are one cluster of qcow2."""
TIMEOUT_S = 120.0


@dataclass
class Disk:
    """A volume and what reading it must give; `written` tells units of its own layer, those below shine through."""

    world: World
    volume: VolumeRequest
    below: "Disk | None" = None
    written: dict[int, int] = field(default_factory=dict)
    size_bytes: int = 0

    def __post_init__(self) -> None:
        self.size_bytes = self.size_bytes or self.volume.capacity_bytes

    @property
    def path(self) -> Path:
        return self.world.get_path(self.volume)

    @property
    def chain(self) -> "list[Disk]":
        """This one and all below it, top first."""
        return [self, *(self.below.chain if self.below else ())]

    def get_units(self) -> bytes:
        """One byte for each unit: what the guest reads there."""
        below = self.below.get_units() if self.below else b""
        units = bytearray(below.ljust(self.size_bytes // UNIT, b"\0"))
        for unit, value in self.written.items():
            units[unit] = value
        return bytes(units)

    def write(self, chance: random.Random, pieces: int = 5) -> "Disk":
        """Write letters and zeros where chance wants them, as a guest does: of any length, at any place."""
        count, words = self.size_bytes // UNIT, []
        # GlusterFS takes a request to zero a range for done, and does nothing.
        zero = "write -q -P 0" if self.world.type is DomainType.GLUSTERFS else "write -q -z"
        for _ in range(pieces):
            start, letter = chance.randrange(count), chance.choice(b"\0abcdefghijklmnop")
            length = min(chance.choice((1, 3, 16, 40)), count - start)
            how = f"write -q -P {letter}" if letter else zero
            words += ["-c", f"{how} {start * UNIT} {length * UNIT}"]
            self.written |= dict.fromkeys(range(start, start + length), letter)
        _run("qemu-io", "-t", "none", "-f", self.volume.format.qemu, *words, self.path)
        return self

    def check(self) -> None:
        """The image is whole, and a guest reads what it must, block for block."""
        if self.volume.format is VolumeFormat.COW:
            _run("qemu-img", "check", "-q", "-f", "qcow2", self.path)
        assert read_units(self.path, self.volume.format) == self.get_units(), f"{self.volume.volume_id} reads otherwise"

    def check_chain(self) -> None:
        """`check` of this and all below; records tell the same chain (facts: storage §18.6)."""
        for disk, above in zip(self.chain, [None, *self.chain], strict=False):
            disk.check()
            record, image = self.world.get_record(disk.volume), self.world.repository.inspection
            is_leaf = record.role is VolumeRole.LEAF
            assert is_leaf == (above is None) or record.role is VolumeRole.SHARED, record
            assert record.capacity_bytes == disk.size_bytes, record
            ids = (disk.volume.domain_id, disk.volume.image_id, disk.volume.volume_id)
            info = image.get_image_info(*ids)
            parent = None if disk.below is None else disk.below.volume
            assert (info.backing_file, info.backing_format) == (
                (parent.volume_id, parent.format.qemu) if parent else (None, None)
            )
            image.verify(*ids)

    def add_layer(self, chance: random.Random) -> "Disk":
        """A snapshot: a layer on this one, in its image, with something written into it."""
        volume = self.world.request(
            self.volume.image_id, parent_id=self.volume.volume_id, capacity_bytes=self.size_bytes
        )
        return Disk(self.world, self.world.create(volume), self).write(chance)

    def relocate(self, world: World) -> "Disk":
        """What must be on another domain when the image was copied there, with all its layers."""
        below = self.below.relocate(world) if self.below else None
        volume = replace(self.volume, domain_id=world.domain_id)
        return Disk(world, volume, below, dict(self.written), self.size_bytes)

    def collapse(self, volume: VolumeRequest) -> "Disk":
        """What a copy of all that this one reads as must be."""
        units = dict(enumerate(self.get_units()))
        return Disk(self.world, replace(volume, capacity_bytes=self.size_bytes), None, units)


def make_disk(world: World, chance: random.Random, format: VolumeFormat, depth: int, size_bytes: int) -> Disk:
    """An image of so many layers, base first of that format; a guest wrote into each while it was the top."""
    base = world.create_base(format=format, capacity_bytes=size_bytes)
    disk = Disk(world, base).write(chance)
    for _ in range(depth - 1):
        disk = disk.add_layer(chance)
    return disk


def read_units(path: Path, format: VolumeFormat) -> bytes:
    """What a guest reads, a byte for each unit; a unit of two values fails."""
    out = path.with_name("read.out")
    _run("qemu-img", "convert", "-T", "none", "-f", format.qemu, "-O", "raw", path, out)
    data = out.read_bytes()
    out.unlink()
    units = data[::UNIT]
    assert data == b"".join(bytes((value,)) * UNIT for value in units), f"{path}: a unit was torn"
    return units


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
