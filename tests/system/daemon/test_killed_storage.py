"""The daemon killed at random instants of storage work: what was acknowledged is there, nothing half made is left."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ledger import Work, check
from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import Pool, Vdsmd, kill_during

LONGEST_LIFE_S = 0.9


@pytest.fixture(scope="module")
def daemon(_libvirtd_of_session: PrivateLibvirtd) -> Iterator[Vdsmd]:
    _libvirtd_of_session.start()
    with Vdsmd(_libvirtd_of_session.uri) as daemon:
        yield daemon


@pytest.mark.timeout(600)  # 36 starts of a daemon, each with limits of its own: a busy machine takes 5 s for one
def test_killed_at_random_instants(daemon: Vdsmd, tmp_path: Path, rounds: Callable[[int, int], int]) -> None:
    chance = random.Random()
    pool = Pool.create(daemon)
    work = Work(pool, chance)
    for number in range(rounds(30, 1000)):
        kill_during(daemon, chance.uniform(0, LONGEST_LIFE_S), work.run)
        if number % 5 == 4:  # recovery, too, is killed
            daemon.start(wait=False)
            kill_during(daemon, chance.uniform(0.6, 1.2), lambda: recover(pool))
        daemon.start()
        recover(pool)
        check(pool, work.ledger, tmp_path)


def recover(pool: Pool) -> None:
    """Do what a client does after a restart."""
    pool.vdsmd.wait_listening()
    pool.vdsmd.wait_ready()
    pool.connect_server()
    pool.connect()
    pool.start_spm()
