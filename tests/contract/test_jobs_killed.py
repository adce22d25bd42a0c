"""A job that is killed at any instant leaves its source as it was, and is done again by its caller."""

from pathlib import Path

import pytest

from tests.contract.killed_programs import run_killed
from tests.rounds import SOAK_FACTOR

SCENARIOS = {
    "copy": 5,
    "copy-layer": 5,
    "import": 5,
    "receive": 3,
    "merge-internal": 10,
    "merge-leaf": 8,
    "extend": 3,
    "copy-volume": 10,
    "seal": 7,
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_every_step(scenario: str, tmp_path: Path) -> None:
    stride = 1 if SOAK_FACTOR else 2
    assert run_killed("jobs_killed", tmp_path, scenario, "steps", stride) >= SCENARIOS[scenario] // stride


@pytest.mark.parametrize("scenario", SCENARIOS if SOAK_FACTOR else ["copy", "merge-internal", "extend", "copy-volume"])
def test_killed_at_every_system_call(scenario: str, tmp_path: Path) -> None:
    stride = 1 if SOAK_FACTOR else 5 if scenario == "extend" else 19
    assert run_killed("jobs_killed", tmp_path, scenario, "calls", stride) >= 2


def test_a_copy_that_is_killed_underway_leaves_its_target_illegal(tmp_path: Path) -> None:
    assert run_killed("jobs_killed", tmp_path, "copy-underway", "progress", 1) >= 2
