"""A move that is killed at any instant is taken back or finished by the next SPM: never lost, never half."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rounds import SOAK_FACTOR

ROOT = Path(__file__).parents[2]
SCENARIOS = {"copy": 25, "move": 28, "export": 20, "clone": 15}


def run(folder: Path, scenario: str, hook: str, stride: int) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "tests.contract.moves_killed", str(folder), scenario, hook, str(stride)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=3600 if SOAK_FACTOR else 110,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return int(done.stdout)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_every_step(scenario: str, tmp_path: Path) -> None:
    stride = 1 if SOAK_FACTOR else 2 if scenario == "move" else 4
    assert run(tmp_path, scenario, "steps", stride) >= SCENARIOS[scenario] // stride


@pytest.mark.parametrize("scenario", SCENARIOS if SOAK_FACTOR else ["move"])
def test_killed_at_every_system_call(scenario: str, tmp_path: Path) -> None:
    assert run(tmp_path, scenario, "calls", 1 if SOAK_FACTOR else 61) >= 2
