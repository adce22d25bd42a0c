"""No kill, at any instant, loses what was acknowledged or leaves anything half made; see `storage_killed`."""

from pathlib import Path

import pytest

from tests.contract.killed_programs import run_killed
from tests.rounds import SOAK_FACTOR

SCENARIOS = """
create-base create-raw create-layer create-on-template delete-leaf delete-image delete-chain remove-image
""".split()


@pytest.mark.parametrize("storage", ["local", "shared"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_every_step(scenario: str, storage: str, tmp_path: Path) -> None:
    stride = 1 if SOAK_FACTOR else {"local": 3, "shared": 2}[storage]
    assert run_killed("storage_killed", tmp_path, "every", scenario, "steps", stride, STORAGE=storage) >= 3 // stride


@pytest.mark.parametrize("scenario", ["create-on-template", "delete-chain"])
def test_killed_again_while_it_recovers(scenario: str, tmp_path: Path) -> None:
    stride = 1 if SOAK_FACTOR else 3
    assert run_killed("storage_killed", tmp_path, "every", scenario, "steps", stride, "again") >= 2


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_every_system_call(scenario: str, tmp_path: Path) -> None:
    stride = 1 if SOAK_FACTOR else 5 if scenario == "remove-image" else 17
    assert run_killed("storage_killed", tmp_path, "every", scenario, "calls", stride) >= 2


@pytest.mark.parametrize("scenario", ["create-on-template", "delete-chain"])
def test_killed_at_every_system_call_on_shared_storage(scenario: str, tmp_path: Path) -> None:
    stride = 1 if SOAK_FACTOR else 11
    assert run_killed("storage_killed", tmp_path, "every", scenario, "calls", stride, STORAGE="shared") >= 2


def test_killed_at_random_instants(tmp_path: Path) -> None:
    count = max(1, round(1000 * SOAK_FACTOR)) if SOAK_FACTOR else 12
    assert run_killed("storage_killed", tmp_path, "random", count, 2) == count
