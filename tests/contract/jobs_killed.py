"""Jobs in processes that are killed, and what their caller finds and goes on from: run by `test_jobs_killed`.

`python -m tests.contract.jobs_killed FOLDER SCENARIO HOOK STRIDE` kills at each named step (HOOK `steps`), at each
system call that the interpreter reports (`calls`) or each time that qemu-img tells how far it is (`progress`), one
after another, in a world of its own. Prints how many were killed.
"""

import dataclasses
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.contract.blocks import BLOCK, COW, make, read, write
from tests.contract.storage_killed import DOMAIN, POOL, Killer, RollbacksOnDisk, make_world, recover, run_child
from vdsm.storage.errors import PrepareIllegalVolumeError
from vdsm.storage.model import Legality, Subchain, VolumeFormat, VolumeRef, VolumeRequest, VolumeRole
from vdsm.storage.ports import UNWATCHED, Layer, Unwatched, Watch
from vdsm.testing.storage import World, ignore_step, make_id

IMAGE, BASE, TOP, LEAF, TARGET_IMAGE, TARGET_BASE, TARGET, NEW_IMAGE, NEW = (make_id() for _ in range(9))
BASE_WORD, TOP_WORD, LEAF_WORD = "abcd", ".BC.", "...D"
TOP_READS, LEAF_READS = "aBCd..", "aBCD.."
SMALL, LARGE = len(BASE_WORD) * BLOCK, len(LEAF_READS) * BLOCK


def prepare(folder: Path) -> None:
    """A chain of three whose base is smaller, a volume with a parent to copy to, and a file to import."""
    make(folder.parent / "disk", COW, LEAF_READS)
    world = make_world(folder).start_spm()
    base = world.request(IMAGE, BASE, format=VolumeFormat.RAW, capacity_bytes=SMALL)
    for request, word in (
        (base, BASE_WORD),
        (world.request(IMAGE, TOP, parent_id=BASE, capacity_bytes=LARGE), TOP_WORD),
        (world.request(IMAGE, LEAF, parent_id=TOP, capacity_bytes=LARGE), LEAF_WORD),
        (world.request(TARGET_IMAGE, TARGET_BASE, capacity_bytes=LARGE), "old..."),
        (world.request(TARGET_IMAGE, TARGET, parent_id=TARGET_BASE, capacity_bytes=LARGE), ""),
    ):
        write(get_layer(world, world.create(request)), word)


def get_layer(world: World, volume: VolumeRequest) -> Layer:
    return Layer(world.get_path(volume), volume.format.qemu)


def see(world: World, image_id: str, volume_id: str) -> str:
    """What a volume reads as, through whatever its files name."""
    backend = world.repository.domains.get_backend(DOMAIN)
    record = world.repository.volumes.get_metadata(DOMAIN, image_id, volume_id)
    return read(Layer(backend.data.get_path(image_id, volume_id), record.format.qemu))


Act = Callable[[World, RollbacksOnDisk], None]


def copy(source_id: str, target_id: str) -> Act:
    """A copy as its caller sees it through: it is over when the generation was counted."""

    def act(world: World, _: RollbacksOnDisk) -> None:
        if world.repository.volumes.get_metadata(DOMAIN, TARGET_IMAGE, target_id).generation == 0:
            source, target = VolumeRef(DOMAIN, IMAGE, source_id), VolumeRef(DOMAIN, TARGET_IMAGE, target_id, 0)
            world.repository.jobs.copy_data(source, target)

    return act


def bring(world: World, _: RollbacksOnDisk) -> None:
    """An import as its caller sees it through."""
    if world.repository.volumes.get_metadata(DOMAIN, TARGET_IMAGE, TARGET_BASE).generation == 0:
        target = VolumeRef(DOMAIN, TARGET_IMAGE, TARGET_BASE, 0)
        world.repository.jobs.import_file(Layer(Path(world.server).parents[1] / "disk", VolumeFormat.COW.qemu), target)


def receive(world: World, rollbacks: RollbacksOnDisk) -> None:
    """A transfer as its caller sees it through."""
    if world.repository.volumes.get_metadata(DOMAIN, TARGET_IMAGE, TARGET_BASE).generation == 0:
        data = (Path(world.server).parents[1] / "disk").read_bytes()

        def fill(write: Callable[[bytes], None]) -> None:
            for at in range(0, len(data), BLOCK):
                write(data[at : at + BLOCK])

        target = VolumeRef(DOMAIN, TARGET_IMAGE, TARGET_BASE)
        world.repository.streams.receive(POOL, target, len(data), rollbacks, UNWATCHED, fill)
        rollbacks.acknowledge()


def check_copy(target_id: str, old: str, new: str) -> Callable[[World, bool], None]:
    def check(world: World, over: bool) -> None:
        assert see(world, IMAGE, LEAF) == LEAF_READS
        record = world.repository.volumes.get_metadata(DOMAIN, TARGET_IMAGE, target_id)
        if record.legality is Legality.LEGAL:
            assert see(world, TARGET_IMAGE, target_id) == (new if record.generation else old)
        assert not over or (record.generation, record.legality) == (1, Legality.LEGAL)

    return check


def check_underway(world: World, over: bool) -> None:
    """As another host finds what was killed while data was copied (facts: storage §18.6)."""
    record = world.repository.volumes.get_metadata(DOMAIN, TARGET_IMAGE, TARGET_BASE)
    assert (record.generation, record.legality) in ((0, Legality.ILLEGAL), (1, Legality.LEGAL))
    check_copy(TARGET_BASE, "old...", LEAF_READS)(world, over)
    try:
        world.repository.images.prepare(POOL, DOMAIN, TARGET_IMAGE, TARGET_BASE)
    except PrepareIllegalVolumeError:
        assert record.legality is Legality.ILLEGAL
    else:
        assert record.legality is Legality.LEGAL


def merge(top_id: str, base_id: str) -> Act:
    """A whole merge as a manager sees it through, whatever was done of it already."""

    def act(world: World, rollbacks: RollbacksOnDisk) -> None:
        images, merges = world.repository.domains.get(DOMAIN).images, world.repository.merges
        records = images.read_all(IMAGE)
        if top_id not in records:
            return
        subchain = Subchain(DOMAIN, IMAGE, top_id, base_id, 0)
        if records[top_id].legality is Legality.LEGAL:
            merges.prepare(POOL, subchain, rollbacks)
            rollbacks.acknowledge()
            if images.read(IMAGE, base_id).generation == 0:
                merges.merge(subchain)
        merges.finalize(POOL, subchain)
        world.repository.volumes.delete(POOL, DOMAIN, IMAGE, [top_id], rollbacks=rollbacks)
        rollbacks.acknowledge()

    return act


def check_merge(top_id: str, base_id: str) -> Callable[[World, bool], None]:
    def check(world: World, over: bool) -> None:
        records = world.repository.domains.get(DOMAIN).images.read_all(IMAGE)
        if top_id == LEAF:
            top_is_used = LEAF in records and records[LEAF].legality is Legality.LEGAL
            assert see(world, IMAGE, LEAF if top_is_used else TOP) == LEAF_READS
        else:
            assert see(world, IMAGE, LEAF) == LEAF_READS
        if over:
            assert set(records) == {BASE, TOP, LEAF} - {top_id}
            assert records[base_id].capacity_bytes == LARGE
            leaf_id = TOP if top_id == LEAF else LEAF
            world.repository.images.prepare(POOL, DOMAIN, IMAGE, leaf_id)

    return check


def extend(world: World, rollbacks: RollbacksOnDisk) -> None:
    world.repository.volumes.extend(POOL, VolumeRef(DOMAIN, IMAGE, BASE), LARGE, rollbacks)
    rollbacks.acknowledge()


def check_extended(world: World, over: bool) -> None:
    assert see(world, IMAGE, LEAF) == LEAF_READS
    info = world.repository.volumes.get_info(DOMAIN, IMAGE, BASE)
    if over:
        assert info.metadata.capacity_bytes == info.size.apparent_bytes == LARGE


def copy_volume(world: World, rollbacks: RollbacksOnDisk) -> None:
    """A template as a manager makes it: what was not acknowledged is taken back, and then done again."""
    if NEW not in world.repository.domains.get(DOMAIN).images.read_all(NEW_IMAGE):
        request = world.request(NEW_IMAGE, NEW)
        source = VolumeRef(DOMAIN, IMAGE, LEAF)
        world.repository.whole_images.copy(source, request, VolumeRole.SHARED, False, rollbacks)
        rollbacks.acknowledge()


def check_copied(world: World, over: bool) -> None:
    assert see(world, IMAGE, LEAF) == LEAF_READS
    record = world.repository.domains.get(DOMAIN).images.read_all(NEW_IMAGE).get(NEW)
    if over or (record is not None and record.legality is Legality.LEGAL):
        assert record is not None and (record.role, record.generation) == (VolumeRole.SHARED, 0)
        assert see(world, NEW_IMAGE, NEW) == LEAF_READS


SEALED = ((IMAGE, LEAF, LEAF_READS, "aBCD.s"), (TARGET_IMAGE, TARGET, "old...", "old..s"))
"""Disks of one guest: ids, and what they read as before and after."""


def seal(world: World, _: RollbacksOnDisk) -> None:
    """Sealing as its caller sees it through: it is over when the generation of each was counted."""

    def tool(layers: Sequence[Layer], _watch: Watch) -> None:
        for layer in layers:
            world.repository.jobs._step("seal one")
            write(layer, ".....s")

    if not all(world.repository.volumes.get_metadata(DOMAIN, *ids).generation for *ids, _, _ in SEALED):
        targets = [VolumeRef(DOMAIN, *ids) for *ids, _, _ in SEALED]
        dataclasses.replace(world.repository.jobs, _seal=tool).seal_volumes(POOL, targets)


def check_sealed(world: World, over: bool) -> None:
    for image_id, volume_id, old, new in SEALED:
        record = world.repository.volumes.get_metadata(DOMAIN, image_id, volume_id)
        assert record.legality is Legality.LEGAL
        assert see(world, image_id, volume_id) in ({new} if record.generation else {old, new})
        assert record.generation or not over
        world.repository.images.prepare(POOL, DOMAIN, image_id, volume_id)


SCENARIOS: dict[str, tuple[Act, Callable[[World, bool], None]]] = {
    "copy": (copy(LEAF, TARGET_BASE), check_copy(TARGET_BASE, "old...", LEAF_READS)),
    "copy-underway": (copy(LEAF, TARGET_BASE), check_underway),
    "copy-layer": (copy(TOP, TARGET), check_copy(TARGET, "old...", "oBC...")),
    "receive": (receive, check_copy(TARGET_BASE, "old...", LEAF_READS)),
    "import": (bring, check_copy(TARGET_BASE, "old...", LEAF_READS)),
    "merge-internal": (merge(TOP, BASE), check_merge(TOP, BASE)),
    "extend": (extend, check_extended),
    "copy-volume": (copy_volume, check_copied),
    "merge-leaf": (merge(LEAF, TOP), check_merge(LEAF, TOP)),
    "seal": (seal, check_sealed),
}


def work(folder: Path, act: Act, hook: str, number: int) -> None:
    killer = Killer(number)
    world = make_world(folder, killer.step if hook == "steps" else ignore_step)
    world.resume()
    rollbacks = RollbacksOnDisk(folder / "rollbacks")
    if hook == "calls":
        killer.watch_calls()
    elif hook == "progress":
        jobs = world.repository.jobs
        jobs.copy_data = partial(jobs.copy_data, watch=Unwatched(killer.step))
    killer.armed = True
    act(world, rollbacks)
    killer.armed = False


def look(folder: Path, check: Callable[[World, bool], None], over: bool) -> None:
    check(make_world(folder).resume(), over)


def kill_everywhere(folder: Path, scenario: str, hook: str, stride: int) -> int:
    act, check = SCENARIOS[scenario]
    killed = 0
    origin = folder / "origin"
    origin.mkdir()
    run_child(lambda: prepare(origin))
    for number in range(0, 10_000, stride):
        place = folder / str(number)
        shutil.copytree(origin / "server_1", place / "server_1")
        died = run_child(lambda place=place, number=number: work(place, act, hook, number))
        run_child(lambda place=place: look(place, check, False))
        run_child(lambda place=place: recover(place))
        run_child(lambda place=place: work(place, act, "", 0))
        run_child(lambda place=place: look(place, check, True))
        if not died:
            return killed
        killed += 1
        shutil.rmtree(place)
    raise AssertionError("it never ends")


if __name__ == "__main__":
    sys.stdout.write(f"{kill_everywhere(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))}\n")
