"""Daemons are killed while a VM is on its way: it is never lost, never on two hosts, and its disk stays whole."""

import random
import threading
from collections.abc import Callable

import pytest

from lab.commands import wait_for
from lab.shared_pool import SharedPool
from tests.system.hosts.moving import SLOW, Mover, mover, settings
from tests.system.vdsmd import CallFailed, kill_during

__all__ = ["mover", "settings"]  # fixtures: pytest finds them here


@pytest.mark.timeout(900)
def test_a_daemon_is_killed_at_any_moment_of_a_migration(mover: Mover, rounds: Callable[[int, int], int]) -> None:
    chance, count = random.Random(), rounds(3, 30)
    for number in range(count):
        victims = [[mover.here], [mover.there], [mover.here, mover.there]][number % 3]
        way = chance.choice([{}, SLOW])
        migrate_and_kill(mover, victims, way, chance)
        if way:
            end_slow_one(mover, chance)
        mover.settle()


@pytest.mark.timeout(900)
def test_a_vm_moves_to_and_fro_whatever_befalls_it(mover: Mover, rounds: Callable[[int, int], int]) -> None:
    chance, moved = random.Random(), 0
    for number in range(count := rounds(8, 100)):
        what = ("moves", "moves", "is canceled", "loses a daemon")[number % 4]
        if what == "moves":
            mover.migrate()
        elif what == "is canceled":
            mover.migrate(**SLOW)
            threading.Event().wait(chance.uniform(0, 3))  # any moment of it
            end_slow_one(mover, chance)
        else:
            migrate_and_kill(mover, [chance.choice([mover.here, mover.there])], {}, chance)
        moved += mover.settle()
    assert moved >= count // 2 and mover.count > 0


def migrate_and_kill(mover: Mover, victims: list[SharedPool], way: dict[str, object], chance: random.Random) -> None:
    """Whoever is killed is back when this returns."""
    mover.migrate(**way)
    life_s = chance.uniform(0, 4)

    def wait() -> None:
        wait_for(lambda: victims[0].vdsmd.process.poll() is not None, "it is killed")

    def kill() -> None:
        for pool in victims:
            pool.vdsmd.kill()

    kill_during(victims[0].vdsmd, life_s, wait, kill)
    for pool in victims:
        pool.come_back()


def end_slow_one(mover: Mover, chance: random.Random) -> None:
    """One way or the other, again and again until that is heard: it would take for ever."""
    cancels = chance.random() < 0.5
    while mover.get_status(mover.here) == "Migration Source":
        try:
            if cancels:
                mover.here.vdsmd.call("VM.migrateCancel", vmID=mover.vm_id)
            else:
                mover.here.vdsmd.call("VM.migrateChangeParams", vmID=mover.vm_id, params={"maxBandwidth": 1000})
        except CallFailed as error:
            assert error.code in (47, 81, 100), error  # it is over, or about to be
        threading.Event().wait(0.5)
