"""What a process gives back after a burst, measured in one of its own; and that it would not without these bounds."""

import subprocess
import sys

import pytest

HEAD = """
import re, threading
from collections import deque
from pathlib import Path
from vdsm.adapters.memory import bound_allocator, bound_garbage

def get_resident_mib() -> int:
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10
"""

BURSTS = """
{bound}
pins = []

def burst() -> None:
    together.wait()
    large = []
    for _ in range(60):
        large.append(b"x" * (640 << 10))
        pins.append(bytes(2000 + len(pins) % 7))  # what lasts, between what does not

together = threading.Barrier(8)
for _ in range(3):
    b"x" * (1 << 20)
    bursts = [threading.Thread(target=burst) for _ in range(8)]
    for thread in bursts:
        thread.start()
    for thread in bursts:
        thread.join()
print(get_resident_mib())
"""

HEAP = """
import asyncio
from vdsm.adapters.memory import Heap
bound_allocator()
heap = Heap()
blocks = [bytes(4000) for _ in range(40_000)]
kept = blocks[::50]
del blocks
{bound}
print(get_resident_mib())
"""

GARBAGE = """
lasting = [[] for _ in range(300_000)]
{bound}

class Connection:
    alive = most = 0

    def __init__(self) -> None:
        self.transport = [self]
        Connection.alive += 1
        Connection.most = max(Connection.most, Connection.alive)

    def __del__(self) -> None:
        Connection.alive -= 1

open_ones = deque((Connection() for _ in range(100_000)), maxlen=5_000)
print(Connection.most)
"""


def measure(program: str, bound: str) -> int:
    text = HEAD + program.format(bound=bound)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=True)
    return int(done.stdout)


@pytest.mark.parametrize(
    ("program", "bound", "most", "unbounded"),
    [
        (BURSTS, "bound_allocator()", 60, 150),
        (HEAP, "asyncio.run(heap.look())", 60, 100),
        (GARBAGE, "bound_garbage()", 25_000, 40_000),
    ],
)
def test_what_was_let_go_is_given_back(program: str, bound: str, most: int, unbounded: int) -> None:
    assert measure(program, bound) < most
    assert measure(program, "") > unbounded, "nothing to bound any more: is it still needed?"
