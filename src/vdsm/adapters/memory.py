"""How this process asks for memory and gives it back: glibc's allocator and Python's collector.

Left alone, both keep what a burst of large requests took: glibc spreads it over an arena per thread, learns to serve
large blocks from there, where small ones pin them, and Python collects cycles by their number, not by their size. By
itself glibc returns only the end of its heap, where the next event that is kept pins all that is free below it. What is
kept for how long is left to those who hold it.
"""

import ctypes
import gc
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

ARENAS = 2
"""One for the loop and one for threads: while they run Python they take turns anyway."""
LARGE_BYTES = 320 << 10
"""Blocks from here on are given back as soon as they are freed; what asyncio reads at once (256 KiB) is smaller."""
SPARE_BYTES = 4 << 20
"""Free memory at the end of the heap that is kept for later."""
_PARAMETERS = {"arenas": (-8, ARENAS), "large blocks": (-3, LARGE_BYTES), "spare": (-1, SPARE_BYTES)}
"""M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of <malloc.h>."""
THRESHOLDS = (700, 10, 2)
"""The third, usually 10, tells how often all objects are looked at that are neither young nor frozen."""


GIVE_BACK_EVERY_S = 10.0
GROWTH_BYTES = 8 << 20
"""So much more than the least that it needed a process takes before it looks for pages to give back: this costs some
milliseconds."""
_RESIDENT = Path("/proc/self/statm")


def bound_allocator() -> None:
    """Have glibc return freed memory; for the beginning of a process. Other allocators are left as they are."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        log.info("this C library has no mallopt: its allocator stays as it is")
        return
    for name, (parameter, value) in _PARAMETERS.items():
        if not mallopt(parameter, value):
            log.warning("the allocator does not take its bound of %s", name)


def bound_garbage() -> None:
    """Have Python find garbage soon; for when what lasts has been made, which it does not look at any more."""
    gc.collect()
    gc.freeze()
    gc.collect()  # Python waits for garbage in proportion to what this one leaves: nothing
    gc.set_threshold(*THRESHOLDS)


class Heap:
    """glibc's heap, whose free pages are given back when the process has grown; nothing with other C libraries."""

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._least_bytes = _get_resident_bytes()

    async def look(self) -> None:
        """For every few seconds. Gives free pages back, wherever in the heap they are."""
        resident_bytes = _get_resident_bytes()
        if self._trim is not None and resident_bytes > self._least_bytes + GROWTH_BYTES:
            self._trim(0)
            self._least_bytes = _get_resident_bytes()
        else:
            self._least_bytes = min(self._least_bytes, resident_bytes)


def _get_resident_bytes() -> int:
    return int(_RESIDENT.read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
