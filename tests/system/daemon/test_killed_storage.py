"""The daemon killed at random instants of storage work: what was acknowledged is there, nothing half made is left."""

import random
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import Pool, Vdsmd, Volume, kill_during
from vdsm.core.ids import BLANK_UUID

LONGEST_LIFE_S = 0.6
VOLUMES = 8
"""About so many are kept: creating and deleting balance."""


@dataclass
class Ledger:
    """What the client was told: these are there, these are gone, of these nobody knows."""

    there: dict[str, Volume] = field(default_factory=dict)
    gone: dict[str, Volume] = field(default_factory=dict)
    unsure: dict[str, Volume] = field(default_factory=dict)
    creating: tuple[str, str] = ("", "")
    """The task and the volume of the creation that was accepted and not acknowledged."""
    finished: set[str] = field(default_factory=set)
    """Tasks that succeeded and were not cleared."""

    def list_leaves(self) -> list[Volume]:
        parents = {volume.parent_id for volume in (*self.there.values(), *self.unsure.values())}
        return [volume for volume in self.there.values() if volume.volume_id not in parents]

    def settle(self, listed: set[str]) -> None:
        """What nobody knew is decided by what is listed."""
        for volume_id, volume in self.unsure.items():
            (self.there if volume_id in listed else self.gone)[volume_id] = volume
        self.unsure.clear()


class Work:
    """Endless storage work of one client, which notes what was acknowledged."""

    def __init__(self, pool: Pool, chance: random.Random) -> None:
        self.pool = pool
        self.chance = chance
        self.ledger = Ledger()

    def run(self) -> None:
        """Work until the connection breaks."""
        while True:
            if self.chance.random() < 0.1:
                self.pool.stop_spm()
                self.pool.start_spm()
            elif len(self.ledger.there) > VOLUMES or (self.ledger.there and self.chance.random() < 0.4):
                self._delete(self.chance.choice(self.ledger.list_leaves()))
            else:
                self._create(self._plan())

    def _plan(self) -> Volume:
        bases = [volume for volume in self.ledger.list_leaves() if volume.format == "COW"]
        if bases and self.chance.random() < 0.4:
            base = self.chance.choice(bases)
            return replace(Volume(image_id=base.image_id), parent_id=base.volume_id)
        if self.chance.random() < 0.5:
            return Volume()
        return Volume(format="RAW", allocation=self.chance.choice(("SPARSE", "PREALLOCATED")))

    def _create(self, volume: Volume) -> None:
        ledger = self.ledger
        ledger.unsure[volume.volume_id] = volume
        task_id = self.pool.begin_create(volume)
        ledger.creating = (task_id, volume.volume_id)
        self._finish(task_id)
        ledger.creating = ("", "")
        ledger.there[volume.volume_id] = ledger.unsure.pop(volume.volume_id)

    def _delete(self, volume: Volume) -> None:
        ledger = self.ledger
        ledger.unsure[volume.volume_id] = ledger.there.pop(volume.volume_id)
        self._finish(self.pool.begin_delete(volume))
        ledger.gone[volume.volume_id] = ledger.unsure.pop(volume.volume_id)

    def _finish(self, task_id: str) -> None:
        status = self.pool.vdsmd.wait_task(task_id, clear=False)
        assert status["code"] == 0, status
        if self.chance.random() < 0.7:
            self.pool.vdsmd.call("Task.clear", taskID=task_id)
        else:
            self.ledger.finished.add(task_id)  # as of a client that crashed: left for the next SPM


def check(pool: Pool, ledger: Ledger) -> None:
    """Compare what is listed with what was acknowledged and with the files. The pool is connected and its SPM here."""
    listed = pool.list_volumes()
    check_tasks(pool, ledger, listed)
    assert ledger.there.keys() <= listed, "an acknowledged volume is lost"
    assert not ledger.gone.keys() & listed, "a deleted volume is back"
    known = ledger.there.keys() | ledger.unsure.keys()
    assert listed <= known, "nobody made these"
    ledger.settle(listed)
    parents = {volume.parent_id for volume in ledger.there.values()} - {BLANK_UUID}
    for volume_id, volume in ledger.there.items():
        info = pool.get_info(volume)
        assert (info["status"], info["legality"], info["parent"]) == ("OK", "LEGAL", volume.parent_id)
        assert (info["voltype"] == "INTERNAL") == (volume_id in parents), info
    check_files(pool.path / "images", ledger)


def check_tasks(pool: Pool, ledger: Ledger, listed: set[str]) -> None:
    """Tasks tell the truth about their volumes, and when all are cleared nothing of them is left."""
    statuses = pool.vdsmd.call("Host.getAllTasksStatuses")
    assert {status["taskState"] for status in statuses.values()} <= {"finished"}
    successes = {task_id for task_id, status in statuses.items() if status["taskResult"] == "success"}
    assert ledger.finished <= successes, "an acknowledged success is lost"
    task_id, volume_id = ledger.creating
    if task_id in statuses and volume_id in ledger.unsure:
        assert (task_id in successes) == (volume_id in listed), statuses[task_id]
    for task_id in statuses:
        pool.vdsmd.call("Task.clear", taskID=task_id)
    ledger.finished.clear()
    assert list((pool.path / "master/tasks").iterdir()) == []


def check_files(images: Path, ledger: Ledger) -> None:
    """Each volume has its two files, and there are no others; qemu-img finds no fault."""
    wanted: dict[str, set[str]] = {}
    for volume_id, volume in ledger.there.items():
        wanted.setdefault(volume.image_id, set()).update((volume_id, f"{volume_id}.meta"))
    found = {folder.name: {path.name for path in folder.iterdir()} for folder in images.iterdir()}
    leases = {name for names in found.values() for name in names if name.endswith(".lease")}
    assert {image: names - leases for image, names in found.items()} == wanted
    for volume in ledger.there.values():
        if volume.format == "COW":
            path = images / volume.image_id / volume.volume_id
            done = subprocess.run(["qemu-img", "check", "-q", path], capture_output=True, text=True, timeout=30)
            assert done.returncode == 0, f"{path}: {done.stderr or done.stdout}"


@pytest.fixture(scope="module")
def daemon(_libvirtd_of_session: PrivateLibvirtd) -> Iterator[Vdsmd]:
    _libvirtd_of_session.start()
    with Vdsmd(_libvirtd_of_session.uri) as daemon:
        yield daemon


@pytest.mark.timeout(600)  # 36 starts of a daemon, each with limits of its own: a busy machine takes 5 s for one
def test_killed_at_random_instants(daemon: Vdsmd, rounds: Callable[[int, int], int]) -> None:
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
        check(pool, work.ledger)


def recover(pool: Pool) -> None:
    """Do what a client does after a restart."""
    pool.vdsmd.wait_listening()
    pool.vdsmd.wait_ready()
    pool.connect_server()
    pool.connect()
    pool.start_spm()
