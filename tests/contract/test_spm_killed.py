"""What an SPM that is killed amid a creation has begun is undone by the next, another host; see `spm_killed`."""

from pathlib import Path

import pytest

from tests.contract.killed_programs import run_killed
from tests.rounds import SOAK_FACTOR


@pytest.mark.parametrize("scenario", ["base", "layer", "on-template"])
def test_the_next_spm_undoes_what_was_begun(scenario: str, tmp_path: Path) -> None:
    assert run_killed("spm_killed", tmp_path, scenario, 1 if SOAK_FACTOR else 4) >= 3
