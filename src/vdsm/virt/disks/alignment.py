"""Where the partitions of a disk begin, from its tables (MBR with logical partitions, GPT); others read the disk."""

import struct
from collections.abc import Awaitable, Callable

SECTOR_BYTES = 512
GRAIN_SECTORS = (64 << 10) // SECTOR_BYTES
"""Partitions that begin at a multiple of it are aligned to all that storage is made of."""
_EXTENDED, _PROTECTIVE = (0x05, 0x0F, 0x85), 0xEE
_MOST_LOGICAL, _MOST_ENTRIES = 64, 256
_FIRST_LOGICAL = 5
_ENTRY, _GPT = struct.Struct("<4xB3xII"), struct.Struct("<8s64xQII")

Read = Callable[[int, int], Awaitable[bytes]]
"""Sectors of the disk: the first, and how many. Behind the end there are fewer, or none."""


async def find_alignment(read: Read) -> dict[str, bool]:
    """Whether each partition is aligned, by its name in a guest whose only disk it is."""
    table = _read_table(await read(0, 1))
    if any(kind == _PROTECTIVE for kind, _, _ in table):
        starts = await _list_gpt(read)
    else:
        starts = {number: start for number, (kind, start, _) in enumerate(table, 1) if kind and kind not in _EXTENDED}
        for kind, start, _ in table:
            if kind in _EXTENDED:
                starts |= await _list_logical(read, start)
    return {f"/dev/sda{number}": start % GRAIN_SECTORS == 0 for number, start in sorted(starts.items())}


def _read_table(sector: bytes) -> list[tuple[int, int, int]]:
    """The four entries of an MBR: kind, first sector, sectors. None for what is no MBR."""
    if len(sector) < SECTOR_BYTES or sector[510:512] != b"\x55\xaa":
        return []
    return list(_ENTRY.iter_unpack(sector[446:510]))


async def _list_logical(read: Read, begin: int) -> dict[int, int]:
    """The partitions within an extended one, each of which tells where the next is; a ring of them ends somewhere."""
    found: dict[int, int] = {}
    place = begin
    for number in range(_FIRST_LOGICAL, _FIRST_LOGICAL + _MOST_LOGICAL):
        table = _read_table(await read(place, 1))
        if not table or not table[0][0]:
            break
        found[number] = place + table[0][1]
        kind, offset, _ = table[1]
        if kind not in _EXTENDED:
            break
        place = begin + offset
    return found


async def _list_gpt(read: Read) -> dict[int, int]:
    header = await read(1, 1)
    if len(header) < SECTOR_BYTES or header[:8] != b"EFI PART":
        return {}
    _, place, count, size = _GPT.unpack_from(header)
    if not 128 <= size <= SECTOR_BYTES:
        return {}
    count = min(count, _MOST_ENTRIES)
    entries = await read(place, -(-count * size // SECTOR_BYTES))
    found: dict[int, int] = {}
    for number in range(len(entries) // size if len(entries) < count * size else count):
        entry = entries[number * size :]
        if any(entry[:16]):
            found[number + 1] = int.from_bytes(entry[32:40], "little")
    return found
