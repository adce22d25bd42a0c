"""Runs the programs `*_killed`, each of which kills children of its own and looks at what they left."""

import os
import subprocess
import sys
from pathlib import Path

from tests.rounds import SOAK_FACTOR

ROOT = Path(__file__).parents[2]


def run_killed(program: str, *arguments: object, **environment: str) -> int:
    """How often it killed; the test fails with what it says when something was not as it should be."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.contract.{program}", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment},
        capture_output=True,
        text=True,
        timeout=3600 if SOAK_FACTOR else 110,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return int(done.stdout)
