"""Holes where zeros are, and nowhere else."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import vdsm.adapters.guestfs
from vdsm.adapters.guestfs import dig
from vdsm.adapters.holes import BLOCK_BYTES, NOT_SUPPORTED, READ_BYTES, dig_holes
from vdsm.storage.ports import UNWATCHED, GuestToolFailed, Layer


def make_blocks(chance: random.Random, count: int) -> list[bytes]:
    """Blocks of zeros, of letters, of zeros with one letter at their end, and such that are not written, as empty."""
    kinds = (bytes(BLOCK_BYTES), b"x" * BLOCK_BYTES, b"y".rjust(BLOCK_BYTES, b"\0"), b"")
    blocks: list[bytes] = []
    while len(blocks) < count:
        blocks += [chance.choice(kinds)] * chance.choice((1, 2, 5, 300))
    return blocks[:count]


@pytest.mark.parametrize("seed", range(4))
def test_whole_blocks_of_zeros_are_given_back_and_nothing_else_changes(tmp_path: Path, seed: int) -> None:
    blocks = make_blocks(random.Random(seed), 3 * READ_BYTES // BLOCK_BYTES)
    path = tmp_path / "file"
    with path.open("wb") as file:
        for number, block in enumerate(blocks):
            file.seek(number * BLOCK_BYTES)
            file.write(block)
        file.truncate(len(blocks) * BLOCK_BYTES + 512)
    before = path.read_bytes()
    dig_holes(str(path))
    assert path.read_bytes() == before
    assert path.stat().st_blocks * 512 == sum(BLOCK_BYTES for block in blocks if block.strip(b"\0"))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vdsm.adapters.holes", tmp_path / "no"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (1, f"{tmp_path / 'no'}: {os.strerror(2)}\n")


def test_storage_that_makes_no_holes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(BLOCK_BYTES))
    assert dig(Layer(path, "raw"), UNWATCHED)
    monkeypatch.setattr(vdsm.adapters.guestfs, "_DIG_HOLES", ("sh", "-c", f"exit {NOT_SUPPORTED}"))
    assert not dig(Layer(path, "raw"), UNWATCHED)
    monkeypatch.setattr(vdsm.adapters.guestfs, "_DIG_HOLES", ("sh", "-c", "exit 1"))
    with pytest.raises(GuestToolFailed):
        dig(Layer(path, "raw"), UNWATCHED)
