"""Every operation on images, on Gluster and on sectors of 4096 bytes: after each, guests read what they wrote."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import lab.gluster
from lab.gluster import GlusterVolume
from lab.hosts import Hosts
from lab.images import PROJECT
from lab.loop import CONTROL
from lab.namespaces import Namespaces
from lab.vdsmd import SOURCES
from tests.image_operations import CELLS

pytestmark = pytest.mark.timeout(0)  # the program has a limit of its own
LIMIT_S = 300.0
IN_CHECK = 14


def run_cells(place: Namespaces, root: Path, count: int, *words: str) -> None:
    """A part of the table, as a process of that place does it."""
    program = [sys.executable, "-m", "tests.image_operations", "--root", root, "--count", str(count), *words]
    path = f"PYTHONPATH={PROJECT}:{SOURCES}"
    place.run("env", path, *program, timeout_s=LIMIT_S * (1 + count // IN_CHECK))


@pytest.mark.skipif(lab.gluster.why_not() is not None, reason=str(lab.gluster.why_not()))
def test_on_gluster(hosts: Callable[[int], Hosts], rounds: Callable[[int, int], int]) -> None:
    pair = hosts(1)
    [host] = pair
    with GlusterVolume(pair.switch, pair.switch.address, pair.base / "gluster") as volume:
        pair.switch.run("chown", "36:36", pair.base / "gluster/brick")
        words = ["--type", "GLUSTERFS", "--server", f"{pair.switch.address}:/{volume.name}", "--place", "1"]
        words += ("--first", "make_sparse-RAW-1")  # this mount likes to be asked for 128 KiB at once
        run_cells(host.namespaces, host.root, rounds(IN_CHECK, len(CELLS)), *words)


@pytest.mark.skipif(os.geteuid() != 0 or not CONTROL.exists(), reason="needs root and loop devices")
def test_on_sectors_of_4096_bytes(tmp_path: Path, rounds: Callable[[int, int], int]) -> None:
    with Namespaces("sectors") as place:
        run_cells(place, tmp_path, rounds(IN_CHECK, len(CELLS)), "--place", "2")
