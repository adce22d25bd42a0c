"""A process that saves tasks is killed: what is found afterwards is the old record or the new one, never a mixture."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import vdsm

COUNT = 100 if "VDSM_SOAK" not in os.environ else 10_000 * int(os.environ["VDSM_SOAK"])


def run_killed(tmp_path: Path, *arguments: str) -> int:
    folder = tmp_path / "tasks"
    folder.mkdir()
    script = Path(__file__).with_name("journal_killed.py")
    source = Path(vdsm.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, str(script), str(folder), *arguments],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout.split()[-1])


@pytest.mark.parametrize("left", [(), (".temp",), (".backup", ".temp")])
def test_killed_at_every_step(tmp_path: Path, left: tuple[str, ...]) -> None:
    assert run_killed(tmp_path, "steps", *left) > 40


@pytest.mark.timeout(3600)
def test_killed_at_random_instants(tmp_path: Path) -> None:
    assert run_killed(tmp_path, "random", str(COUNT), "1") == COUNT
