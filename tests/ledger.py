"""Storage work of a client whose daemons and hosts are killed, and what must hold of it afterwards, on any domain.

The client notes what it was told and what each volume reads as. It goes on with what was interrupted as a client
does: a creation or removal is decided by what is listed, a merge or copy of data is done again.
"""

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from lab.commands import PartFailed, run
from lab.vdsmd import LIMIT_S
from tests.system.vdsmd import FORMATS, ConnectionFailed, Pool, Volume
from vdsm.core.ids import BLANK_UUID

VOLUMES = 6
"""About so many are kept: creating and deleting balance."""
BLOCKS = 8
BLOCK_BYTES = 1 << 20
SIZE_BYTES = BLOCKS * BLOCK_BYTES
MASTER_TASKS = "master/tasks"
LEAKS = 3
"""The status of `qemu-img check` when space is lost and no data."""

Contents = tuple[int, ...]
"""The value of all bytes of each block."""
EMPTY: Contents = (0,) * BLOCKS


@dataclass
class Merge:
    """A merge of a top into its base, and how far it came as the client was told."""

    top: Volume
    base: Volume
    steps: int = 0
    """Of: prepare, merge, finalize, delete the top."""
    generation: int = -1

    @property
    def is_illegal(self) -> bool:
        """Whether the top may have become illegal; the base reads as the top did by then."""
        return self.steps >= 2


@dataclass
class Refill:
    """A copy of data into a volume that exists; its generation tells whether that was done."""

    source: Volume
    target: Volume
    generation: int


@dataclass
class Ledger:
    """What the client was told: these are there, these are gone, of these nobody knows."""

    there: dict[str, Volume] = field(default_factory=dict)
    gone: dict[str, Volume] = field(default_factory=dict)
    unsure: dict[str, Volume] = field(default_factory=dict)
    contents: dict[str, Contents] = field(default_factory=dict)
    making: tuple[str, str] = ("", "")
    """The task and the volume of the creation or copy that was accepted and not acknowledged."""
    finished: set[str] = field(default_factory=set)
    """Tasks that succeeded and were not cleared."""
    removing: str = ""
    """The image that is being removed as a whole."""
    merge: Merge | None = None
    refill: Refill | None = None
    writing: tuple[str, Contents] | None = None
    """The volume that a guest wrote to when it was interrupted, and what it should read as."""
    leaky: set[str] = field(default_factory=set)
    """Volumes that somebody wrote to when that was interrupted: qcow2 may have lost space by it, and nothing else."""

    def list_leaves(self) -> list[Volume]:
        """Those that have no children, but not those of an unfinished merge or copy."""
        parents = {volume.parent_id for volume in (*self.there.values(), *self.unsure.values())}
        return [volume for volume in self.there.values() if volume.volume_id not in parents | self._busy()]

    def list_readable(self) -> list[Volume]:
        """Those whose contents are known: all leaves, or what a merge made of one."""
        merge, refill = self.merge, self.refill
        busy = {refill.target.volume_id} if refill else set()
        tops = {merge.top.volume_id} if merge and merge.is_illegal else set()
        parents = {one.parent_id for one in self.there.values() if one.volume_id not in tops}
        return [one for one in self.there.values() if one.volume_id not in parents | tops | busy]

    def settle(self, listed: set[str]) -> None:
        """What nobody knew is decided by what is listed."""
        for volume_id, volume in self.unsure.items():
            (self.there if volume_id in listed else self.gone)[volume_id] = volume
        self.unsure.clear()
        if self.merge and self.merge.steps == 1:
            self.leaky.add(self.merge.base.volume_id)
        if self.writing:
            self.leaky.add(self.writing[0])
        self.making = ("", "")
        self.removing = ""
        if self.merge and self.merge.top.volume_id in self.gone:
            self.merge = None

    def _busy(self) -> set[str]:
        volumes = [self.merge.top, self.merge.base] if self.merge else []
        volumes += [self.refill.source, self.refill.target] if self.refill else []
        return {volume.volume_id for volume in volumes}


class Work:
    """Endless storage work of one client, which notes what was acknowledged. `pool` is on the SPM, and may change.

    Now and then the SPM role is given up and taken again, unless the client is one that keeps it.
    """

    def __init__(self, pool: Pool, chance: random.Random, *, keeps_role: bool = False) -> None:
        self.pool = pool
        self.chance = chance
        self.keeps_role = keeps_role
        self.ledger = Ledger()
        self.done: dict[str, int] = {}
        """How often what was acknowledged."""

    def run(self) -> None:
        """Work until the connection breaks."""
        while True:
            self.step()

    def step(self) -> None:
        """Go on with what was interrupted, or do one thing."""
        ledger, leaves = self.ledger, self.ledger.list_leaves()
        dice = self.chance.random()
        if ledger.merge:
            self._go_on_merging(ledger.merge)
        elif ledger.refill:
            self._refill(ledger.refill)
        elif ledger.writing:
            self._write(ledger.there[ledger.writing[0]], ledger.writing[1])
        elif dice < 0.05 and not self.keeps_role:
            self.pool.stop_spm()
            self.pool.start_spm()
        elif len(ledger.there) > VOLUMES or (leaves and dice < 0.3):
            self._remove(self.chance.choice(leaves))
        elif leaves and dice < 0.5:
            self._copy(self.chance.choice(leaves))
        elif leaves and dice < 0.7:
            self._snapshot(self.chance.choice(leaves))
        else:
            self._create(self._plan(), EMPTY)

    def _plan(self) -> Volume:
        if self.chance.random() < 0.5:
            return Volume()
        return Volume(format="RAW", allocation=self.chance.choice(("SPARSE", "PREALLOCATED")))

    def _create(self, volume: Volume, contents: Contents) -> None:
        with self._making(volume, contents):
            self._finish(self.pool.begin_create(volume, SIZE_BYTES), volume)

    def _snapshot(self, base: Volume) -> None:
        """Put a layer on a volume, write into it as a guest would, and merge it again, all of this or a part."""
        top = replace(Volume(image_id=base.image_id), parent_id=base.volume_id)
        self._create(top, self.ledger.contents[base.volume_id])
        block = self.chance.randrange(BLOCKS)
        contents = self.ledger.contents[top.volume_id]
        self._write(top, (*contents[:block], self.chance.randrange(1, 256), *contents[block + 1 :]))
        if self.chance.random() < 0.7:
            self.ledger.merge = Merge(top, base)

    def _write(self, volume: Volume, contents: Contents) -> None:
        ledger = self.ledger
        ledger.writing = (volume.volume_id, contents)
        old = ledger.contents[volume.volume_id]
        changed = [index for index in range(BLOCKS) if contents[index] != old[index]]
        writes = [f"write -P {contents[index]} {index * BLOCK_BYTES} {BLOCK_BYTES}" for index in changed]
        try:
            self.pool.write(volume, *writes)
        except PartFailed as error:
            if self.pool.is_alive():
                raise
            raise ConnectionFailed("the host of the guest ended, or stands still") from error
        ledger.contents[volume.volume_id] = contents
        ledger.writing = None
        self._count("write")

    def _copy(self, source: Volume) -> None:
        ledger = self.ledger
        contents = ledger.contents[source.volume_id]
        targets = [one for one in ledger.list_leaves() if one.parent_id == BLANK_UUID and one != source]
        if targets and self.chance.random() < 0.5:
            target = self.chance.choice(targets)
            ledger.refill = Refill(source, target, self.pool.get_info(target)["generation"])
            return
        target = self._plan()
        with self._making(target, contents):
            self._finish(self.pool.begin_copy(source, target), target)

    def _refill(self, refill: Refill) -> None:
        """Copy data, unless that was done before the answer was lost."""
        ids = [volume.volume_id for volume in (refill.source, refill.target)]
        if self.pool.get_info(refill.target)["generation"] == refill.generation:
            self.pool.copy_data(refill.source, refill.target, refill.generation)
        self.ledger.contents[ids[1]] = self.ledger.contents[ids[0]]
        self.ledger.refill = None
        self._count("refill")

    def _go_on_merging(self, merge: Merge) -> None:
        pool, ledger = self.pool, self.ledger
        if merge.steps == 0:
            self._finish(pool.begin_merge_step("prepareMerge", merge.top, merge.base))
            merge.generation = pool.get_info(merge.base)["generation"]
            merge.steps = 1
        if merge.steps == 1:
            if pool.get_info(merge.base)["generation"] == merge.generation:
                pool.merge_data(merge.top, merge.base, merge.generation)
            ledger.contents[merge.base.volume_id] = ledger.contents[merge.top.volume_id]
            merge.steps = 2
        if merge.steps == 2:
            self._finish(pool.begin_merge_step("finalizeMerge", merge.top, merge.base))
            merge.steps = 3
        self._delete(merge.top)
        ledger.merge = None
        self._count("merge")

    def _remove(self, leaf: Volume) -> None:
        image = [one for one in self.ledger.there.values() if one.image_id == leaf.image_id]
        if self.chance.random() < 0.5:
            self._delete_image(leaf.image_id, image)
        else:
            self._delete(leaf)

    def _delete(self, volume: Volume) -> None:
        ledger = self.ledger
        ledger.unsure[volume.volume_id] = ledger.there.pop(volume.volume_id)
        self._finish(self.pool.begin_delete(volume))
        ledger.gone[volume.volume_id] = ledger.unsure.pop(volume.volume_id)
        self._count("delete")

    def _delete_image(self, image_id: str, volumes: list[Volume]) -> None:
        ledger = self.ledger
        ledger.removing = image_id
        for volume in volumes:
            ledger.unsure[volume.volume_id] = ledger.there.pop(volume.volume_id)
        task_id = self.pool.begin_delete_image(image_id)
        for volume in volumes:  # gone when the verb answers
            ledger.gone[volume.volume_id] = ledger.unsure.pop(volume.volume_id)
        ledger.removing = ""
        self._finish(task_id)
        self._count("delete image")

    @contextmanager
    def _making(self, volume: Volume, contents: Contents) -> Iterator[None]:
        """The block makes a volume and is told that it did."""
        ledger = self.ledger
        ledger.unsure[volume.volume_id] = volume
        ledger.contents[volume.volume_id] = contents
        yield
        ledger.making = ("", "")
        ledger.there[volume.volume_id] = ledger.unsure.pop(volume.volume_id)
        self._count("create" if contents == EMPTY else "copy")

    def _finish(self, task_id: str, made: Volume | None = None) -> None:
        if made:
            self.ledger.making = (task_id, made.volume_id)
        status = self.pool.vdsmd.wait_task(task_id, clear=False)
        assert status["code"] == 0, status
        if self.chance.random() < 0.7:
            self.pool.vdsmd.call("Task.clear", taskID=task_id)
        else:
            self.ledger.finished.add(task_id)  # as of a client that crashed: left for the next SPM

    def _count(self, what: str) -> None:
        self.done[what] = self.done.get(what, 0) + 1


def check(pool: Pool, ledger: Ledger, scratch: Path) -> None:
    """Compare what is listed with what was acknowledged and with the files. The pool is connected and its SPM here."""
    listed = pool.list_volumes()
    check_tasks(pool, ledger, listed)
    assert ledger.there.keys() <= listed, "an acknowledged volume is lost"
    assert not ledger.gone.keys() & listed, "a deleted volume is back"
    known = ledger.there.keys() | ledger.unsure.keys()
    assert listed <= known, "nobody made these"
    if ledger.removing:
        assert ledger.unsure.keys() <= listed or not ledger.unsure.keys() & listed, "half of an image is removed"
    ledger.settle(listed)
    illegal = check_records(pool, ledger)
    check_files(pool.path / "images", ledger)
    for volume_id in ledger.there.keys() - illegal:
        check_format(pool, ledger.there[volume_id], has_leaks=volume_id in ledger.leaky)
    check_contents(pool, ledger, scratch)


def check_tasks(pool: Pool, ledger: Ledger, listed: set[str]) -> None:
    """Tasks tell the truth about their volumes, and when all are cleared nothing of them is left."""
    statuses = pool.vdsmd.call("Host.getAllTasksStatuses")
    assert {status["taskState"] for status in statuses.values()} <= {"finished"}
    successes = {task_id for task_id, status in statuses.items() if status["taskResult"] == "success"}
    assert ledger.finished <= successes, "an acknowledged success is lost"
    task_id, volume_id = ledger.making
    if task_id in statuses and volume_id in ledger.unsure:
        assert (task_id in successes) == (volume_id in listed), statuses[task_id]
    for task_id in statuses:
        pool.vdsmd.call("Task.clear", taskID=task_id)
    ledger.finished.clear()
    assert list((pool.path / MASTER_TASKS).iterdir()) == []


def check_records(pool: Pool, ledger: Ledger) -> set[str]:
    """Legality, parent, role and generation of each volume (facts: storage §6.7, §10); gives the illegal ones."""
    merge, refill = ledger.merge, ledger.refill
    illegal = set()
    parents = {volume.parent_id for volume in ledger.there.values()} - {BLANK_UUID}
    for volume_id, volume in ledger.there.items():
        info = pool.get_info(volume)
        status = "OK" if info["legality"] == "LEGAL" else info["legality"]
        assert (info["status"], info["parent"]) == (status, volume.parent_id), info
        assert (info["voltype"] == "INTERNAL") == (volume_id in parents), info
        legalities, generations = {"LEGAL"}, {info["generation"]}
        if merge and volume == merge.top and merge.is_illegal:
            legalities = {"LEGAL", "ILLEGAL"} if merge.steps == 2 else {"ILLEGAL"}
        if merge and volume == merge.base and merge.steps == 1:
            generations = {merge.generation, merge.generation + 1}
        if refill and volume == refill.target:
            is_done = info["generation"] != refill.generation
            legalities = {"LEGAL"} if is_done else {"LEGAL", "ILLEGAL"}
            generations = {refill.generation, refill.generation + 1}
        assert info["legality"] in legalities and info["generation"] in generations, (info, merge, refill)
        if info["legality"] == "ILLEGAL":
            illegal.add(volume_id)
    return illegal


def check_files(images: Path, ledger: Ledger) -> None:
    """Each volume has its two files, perhaps with a lease, and there are no others."""
    wanted: dict[str, set[str]] = {}
    for volume_id, volume in ledger.there.items():
        wanted.setdefault(volume.image_id, set()).update((volume_id, f"{volume_id}.meta"))
    found = {folder.name: {path.name for path in folder.iterdir()} for folder in images.iterdir()}
    leases = {image: {name for name in names if name.endswith(".lease")} for image, names in found.items()}
    assert {image: names - leases[image] for image, names in found.items()} == wanted
    stems = {image: {name.removesuffix(".lease") for name in names} for image, names in leases.items()}
    assert all(stems[image] <= wanted[image] for image in stems), "the lease of no volume"


def check_format(pool: Pool, volume: Volume, *, has_leaks: bool) -> None:
    """qemu-img finds no fault in what may be used."""
    if volume.format == "COW":
        check = ["qemu-img", "check", "-q", pool.get_data_path(volume)]
        done = subprocess.run(check, capture_output=True, text=True, timeout=LIMIT_S)
        assert done.returncode in ((0, LEAKS) if has_leaks else (0,)), f"{volume}: {done.stderr or done.stdout}"


def check_contents(pool: Pool, ledger: Ledger, scratch: Path) -> None:
    """Each volume reads as what was written last."""
    expected = scratch / "expected"
    refill = ledger.refill
    for volume in ledger.list_readable():
        if ledger.writing and ledger.writing[0] == volume.volume_id:
            continue  # whatever a guest that died half-way left there
        _compare(pool, volume, ledger.contents[volume.volume_id], expected)
    if refill:
        info = pool.get_info(refill.target)
        if info["legality"] == "LEGAL":
            end = refill.target if info["generation"] == refill.generation else refill.source
            _compare(pool, refill.target, ledger.contents[end.volume_id], expected)


def _compare(pool: Pool, volume: Volume, contents: Contents, expected: Path) -> None:
    expected.write_bytes(b"".join(bytes([value]) * BLOCK_BYTES for value in contents))
    form = FORMATS[volume.format]
    run("qemu-img", "compare", "-q", "-f", "raw", "-F", form, expected, pool.get_data_path(volume))
