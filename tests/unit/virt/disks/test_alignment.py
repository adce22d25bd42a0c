"""Partitions are found in real tables and in broken ones, and told aligned or not."""

import struct
from random import Random

import pytest

from tests.unit.virt.builders import VOLUME
from tests.unit.virt.world import World
from vdsm.api.disks import ActiveVolume
from vdsm.api.errors import OnlyWithoutVm
from vdsm.core.ids import BLANK_UUID
from vdsm.virt.disks.alignment import find_alignment

ENTRY = struct.Struct("<4xB3xII")


def make_table(*entries: tuple[int, int, int]) -> bytes:
    return bytes(446) + b"".join(ENTRY.pack(*entry) for entry in entries).ljust(64, b"\0") + b"\x55\xaa"


def make_disk(**sectors: bytes) -> bytes:
    """With these sectors, by `s` and their number."""
    disk = bytearray(1 << 20)
    for name, data in sectors.items():
        at = int(name[1:]) * 512
        disk[at : at + len(data)] = data
    return bytes(disk)


def make_gpt(*starts: int, size: int = 128) -> dict[str, bytes]:
    header = struct.pack("<8s64xQII", b"EFI PART", 2, 128, size)
    entries = b"".join((b"t" * 16 + bytes(16) + struct.pack("<Q", start)).ljust(size, b"\0") for start in starts)
    return {"s0": make_table((0xEE, 1, 100)), "s1": header, "s2": entries}


async def find(disk: bytes) -> dict[str, bool]:
    async def read(first: int, count: int) -> bytes:
        return disk[first * 512 : (first + count) * 512]

    return await find_alignment(read)


async def test_primary_and_logical_partitions() -> None:
    disk = make_disk(
        s0=make_table((0x83, 63, 100), (0, 0, 0), (0x0F, 512, 900), (0x83, 256, 10)),
        s512=make_table((0x83, 128, 100), (0x05, 300, 200)),
        s812=make_table((0x83, 1, 100)),
    )
    assert await find(disk) == {"/dev/sda1": False, "/dev/sda4": True, "/dev/sda5": True, "/dev/sda6": False}


async def test_a_gpt() -> None:
    assert await find(make_disk(**make_gpt(2048, 34, 4096))) == {
        "/dev/sda1": True,
        "/dev/sda2": False,
        "/dev/sda3": True,
    }


@pytest.mark.parametrize(
    "disk",
    [
        b"",
        make_disk(),
        make_disk(s0=b"\x55\xaa"),
        make_disk(s0=make_table((0xEE, 1, 100))),
        make_disk(**make_gpt(2048, size=0)),
        make_disk(**make_gpt(2048, size=1 << 31)),
    ],
)
async def test_disks_without_partitions(disk: bytes) -> None:
    assert await find(disk) == {}


async def test_a_ring_of_logical_partitions_ends() -> None:
    ring = make_disk(s0=make_table((0x05, 64, 900)), s64=make_table((0x83, 1, 1), (0x05, 0, 1)))
    assert len(await find(ring)) == 64


async def test_tables_of_strangers() -> None:
    chance = Random(7)
    sane = [make_disk(**make_gpt(2048, 34)), make_disk(s0=make_table((0x05, 64, 9)), s64=make_table((0x83, 1, 1)))]
    for _ in range(300):
        disk = bytearray(chance.choice(sane))
        for _ in range(chance.randrange(1, 20)):
            disk[chance.randrange(4096)] = chance.randrange(256)
        assert len(await find(bytes(disk[: chance.choice((0, 100, 600, 1100, 1 << 20))]))) <= 256


async def test_the_verb() -> None:
    world = World()
    world.images.contents[VOLUME["volume_id"]] = make_disk(s0=make_table((0x83, 128, 100)))
    async with world.ready() as service:
        disk = ActiveVolume(**VOLUME)  # type: ignore[arg-type]
        assert await service.disks.get_alignment(BLANK_UUID, disk) == {"/dev/sda1": True}
        with pytest.raises(OnlyWithoutVm):
            await service.disks.get_alignment(VOLUME["image_id"], disk)
