"""A job that is killed at any instant leaves its source as it was, and is done again by its caller."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rounds import SOAK_FACTOR

ROOT = Path(__file__).parents[2]
SCENARIOS = {
    "copy": 5,
    "copy-layer": 5,
    "import": 5,
    "receive": 3,
    "merge-internal": 10,
    "merge-leaf": 8,
    "extend": 3,
} | {"copy-volume": 10}


def run(folder: Path, scenario: str, hook: str, stride: str) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "tests.contract.jobs_killed", str(folder), scenario, hook, stride],
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
    stride = 1 if SOAK_FACTOR else 2
    assert run(tmp_path, scenario, "steps", str(stride)) >= SCENARIOS[scenario] // stride


@pytest.mark.parametrize("scenario", SCENARIOS if SOAK_FACTOR else ["copy", "merge-internal", "extend", "copy-volume"])
def test_killed_at_every_system_call(scenario: str, tmp_path: Path) -> None:
    assert run(tmp_path, scenario, "calls", "1" if SOAK_FACTOR else "5" if scenario == "extend" else "19") >= 2
