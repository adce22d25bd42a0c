"""The SPM or its whole host ends at random instants of its work; the other takes over, and nothing is lost."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lab.sanlock import TAKE_OVER_AFTER_S
from lab.shared_pool import SharedPool
from tests.killed_spm import Killing

pytestmark = pytest.mark.timeout(400)

LONGEST_LIFE_S = 4.0
TAKE_OVER_S = 10.0
CHILDREN_END_S = 1.0
SLACK_S = 60.0
UNDISTURBED = 3
"""So many steps are done before the kill, or a busy machine would come to nothing but creating."""

Pools = tuple[SharedPool, SharedPool]


def kill_in_rounds(
    pools: Pools, scratch: Path, count: int, kill: Callable[[SharedPool], object], take_over_s: float
) -> None:
    pools[0].start_spm()
    Killing(kill, LONGEST_LIFE_S, take_over_s, CHILDREN_END_S, UNDISTURBED).in_rounds(pools, scratch, count)


def test_the_daemon_of_the_spm_is_killed(pools: Pools, tmp_path: Path, rounds: Callable[[int, int], int]) -> None:
    kill_in_rounds(pools, tmp_path, rounds(2, 20), lambda spm: spm.vdsmd.spawned.end(), TAKE_OVER_S)


def test_the_host_of_the_spm_is_killed(pools: Pools, tmp_path: Path, rounds: Callable[[int, int], int]) -> None:
    limit_s = TAKE_OVER_AFTER_S + SLACK_S
    kill_in_rounds(pools, tmp_path, rounds(1, 20), lambda spm: spm.host.kill(), limit_s)
