"""No kill, at any instant, leaves a pool without a master or with two, or half a VM definition; see `pools_killed`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rounds import SOAK_FACTOR

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "tests.contract.pools_killed", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=3600 if SOAK_FACTOR else 110,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return int(done.stdout)


@pytest.mark.parametrize("mode", ["disk", "memory"])
def test_a_master_migration_killed_at_every_step(mode: str, tmp_path: Path) -> None:
    assert run(str(tmp_path), "migrate", mode, "steps", "1") == 6


@pytest.mark.parametrize(("scenario", "mode"), [("migrate", "disk"), ("migrate", "memory"), ("update", "disk")])
def test_killed_at_every_system_call(scenario: str, mode: str, tmp_path: Path) -> None:
    stride = "1" if SOAK_FACTOR else "13"
    assert run(str(tmp_path), scenario, mode, "calls", stride) >= 3
