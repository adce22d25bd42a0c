"""The fuzzer finds what it is there for: a failure behind several doors, a hang, a write elsewhere."""

import os
import sys
from pathlib import Path

import pytest

from tests.fuzzing import fuzz, writing_only_in

HERE = sys.modules[__name__]


def open_doors(data: bytes) -> None:
    """A parser that fails where chance alone would not get in years."""
    if data[:1] == b"v":
        if data[1:2] == b"d":
            if data[2:3] == b"s":
                if data[3:4] == b"m":
                    raise ValueError("all doors are open")


def turn_round(data: bytes) -> None:
    """A parser that goes on for ever when the length it reads is none."""
    place = 0
    while place < len(data):
        place += data[place]


def test_a_failure_behind_several_doors() -> None:
    with pytest.raises(AssertionError, match=b"vdsm".hex()):
        fuzz(open_doors, [b"____"], under=[HERE], count=6_000, words=[b"v", b"d", b"s", b"m"])


def test_what_hangs() -> None:
    with pytest.raises(AssertionError, match="input"):
        fuzz(turn_round, [b"\1\2\3"], under=[HERE], count=3_000)


def test_what_is_borne_is_no_finding() -> None:
    assert fuzz(len, [b"ab"], under=[HERE], count=100) == 0


@pytest.mark.parametrize("way", ["open", "remove", "rename", "link"])
def test_a_write_elsewhere(tmp_path: Path, way: str) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir(), outside.mkdir()
    (outside / "file").touch()
    (inside / "way").symlink_to(outside)
    (inside / "own").touch()
    with pytest.raises(AssertionError, match="written outside"), writing_only_in(inside):
        (inside / "another").write_bytes(b"fine")
        if way == "open":
            os.close(os.open(inside / "way/file", os.O_WRONLY))
        elif way == "remove":
            os.remove(inside / "way" / "file")
        elif way == "rename":
            os.rename(inside / "own", outside / "own")
        else:
            os.link(inside / "own", inside / "../outside/own")
    with writing_only_in(inside):
        (inside / "own").touch()
        assert list(outside.iterdir()) is not None
