"""No kill, at any instant, leaves a pool without a master or with two, or half a VM definition; see `pools_killed`."""

from pathlib import Path

import pytest

from tests.contract.killed_programs import run_killed
from tests.rounds import SOAK_FACTOR


@pytest.mark.parametrize("mode", ["disk", "memory"])
def test_a_master_migration_killed_at_every_step(mode: str, tmp_path: Path) -> None:
    assert run_killed("pools_killed", tmp_path, "migrate", mode, "steps", 1) == 6


@pytest.mark.parametrize(("scenario", "mode"), [("migrate", "disk"), ("migrate", "memory"), ("update", "disk")])
def test_killed_at_every_system_call(scenario: str, mode: str, tmp_path: Path) -> None:
    stride = 1 if SOAK_FACTOR else 13
    assert run_killed("pools_killed", tmp_path, scenario, mode, "calls", stride) >= 3
