"""A guest of 512 bytes that writes to its disk and reads what it wrote, and a look at what is on that disk.

Its source is `tools/boot-sectors/verifier.S`, which tells what it does.
"""

import struct

BLOCK, BLOCKS = 4096, 64
_FIRST, _REPORT = 2048 * 512, 1024 * 512
DISK_BYTES = 2 << 20

_CODE = (
    "fa31c08ed88ed0bc007cfcfb66ff06b07cbb00208ec331ffb9004066a1b07c66f3ab81c3001081fb009072e866a1b07cb643e8380066a1b07c66"
    "4874cfb642e82b00b800108ec031ffb9000466a1b07c664866f3af74b566c706bc7c00040000b80043b280beb47ccd13f4ebfd6689c3b900108e"
    "c131ffb9000466f3ab6683e33f66c1e3036681c30008000066891ebc7c80fe42750a2666c70600000000000088f4b000b280beb47ccd1372aac3"
    "6690000000001000080000000010"
)
BOOT_SECTOR = bytes.fromhex(_CODE).ljust(510, b"\0") + b"\x55\xaa"


class DiskCorrupt(AssertionError):
    """The disk holds what one guest alone cannot have written."""


def read_count(disk: bytes) -> int:
    """How far the guest has counted, by its disk while it stands still. Raises DiskCorrupt."""
    if any(disk[_REPORT : _REPORT + BLOCK]):
        raise DiskCorrupt("the guest read something else than it had written")
    numbers = []
    for place in range(BLOCKS):
        block = disk[_FIRST + place * BLOCK : _FIRST + (place + 1) * BLOCK]
        words = set(struct.unpack(f"<{BLOCK // 4}I", block))
        if len(words) != 1:
            raise DiskCorrupt(f"block {place} holds {len(words)} numbers")
        numbers.append(words.pop())
    last = max(numbers)
    expected = [last - (last - place) % BLOCKS for place in range(BLOCKS)]
    if numbers != [max(0, number) for number in expected]:
        raise DiskCorrupt(f"these are not the last {BLOCKS} numbers: {numbers}")
    return last
