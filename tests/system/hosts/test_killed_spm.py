"""The SPM or its whole host ends at random instants of its work; the other takes over, and nothing is lost."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lab.commands import wait_for
from lab.sanlock import TAKE_OVER_AFTER_S
from tests.ledger import Work, check
from tests.shared_pool import SharedPool
from tests.system.vdsmd import kill_during
from tests.writes import Watch

LONGEST_LIFE_S = 4.0
TAKE_OVER_S = 10.0
CHILDREN_END_S = 1.0
SLACK_S = 60.0
UNDISTURBED = 3
"""So many steps are done before the kill, or a busy machine would come to nothing but creating."""
ENOUGH = 20

Pools = tuple[SharedPool, SharedPool]


def kill_in_rounds(
    pools: Pools, scratch: Path, count: int, kill: Callable[[SharedPool], object], take_over_s: float
) -> None:
    """The SPM of the two works and is killed, so many times; the other takes over and finds what it should."""
    spm, other = pools
    work = Work(spm, random.Random())
    spm.start_spm()
    for _ in range(count):
        for _ in range(UNDISTURBED):
            work.step()
        kill_during(spm.vdsmd, work.chance.uniform(0, LONGEST_LIFE_S), work.run, partial(kill, spm))
        take_over(spm, other, take_over_s)
        work.pool = other
        check(other, work.ledger, scratch)
        watch = Watch(spm.path)
        spm.come_back()
        assert watch.list_changes() == [], "who came back and is not the SPM has written"
        spm, other = other, spm
    assert count < ENOUGH or work.done.keys() >= {"create", "copy", "refill", "merge", "delete"}, work.done


def take_over(dead: SharedPool, other: SharedPool, limit_s: float) -> None:
    """The other is the SPM when this returns; of the dead one's daemon nothing was left before."""
    wait_for(lambda: not dead.list_children(), "no child of the daemon lives on", CHILDREN_END_S)
    wait_for(lambda: other.try_spm() == 0, f"host {other.host_id} takes over", limit_s, pause_s=0.1)


def test_the_daemon_of_the_spm_is_killed(pools: Pools, tmp_path: Path, rounds: Callable[[int, int], int]) -> None:
    kill_in_rounds(pools, tmp_path, rounds(2, 20), lambda spm: spm.vdsmd.spawned.end(), TAKE_OVER_S)


@pytest.mark.timeout(400)
def test_the_host_of_the_spm_is_killed(pools: Pools, tmp_path: Path, rounds: Callable[[int, int], int]) -> None:
    limit_s = TAKE_OVER_AFTER_S + SLACK_S
    kill_in_rounds(pools, tmp_path, rounds(1, 20), lambda spm: spm.host.kill(), limit_s)
