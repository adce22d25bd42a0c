"""A move that is killed at any instant is taken back or finished by the next SPM: never lost, never half."""

from pathlib import Path

import pytest

from tests.contract.killed_programs import run_killed
from tests.rounds import SOAK_FACTOR

SCENARIOS = {"copy": 25, "move": 28, "export": 20, "clone": 15}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_every_step(scenario: str, tmp_path: Path) -> None:
    stride = 1 if SOAK_FACTOR else 2 if scenario == "move" else 4
    assert run_killed("moves_killed", tmp_path, scenario, "steps", stride) >= SCENARIOS[scenario] // stride


@pytest.mark.parametrize("scenario", SCENARIOS if SOAK_FACTOR else ["move"])
def test_killed_at_every_system_call(scenario: str, tmp_path: Path) -> None:
    assert run_killed("moves_killed", tmp_path, scenario, "calls", 1 if SOAK_FACTOR else 61) >= 2
