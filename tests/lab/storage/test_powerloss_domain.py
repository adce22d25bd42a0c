"""The disk of a domain loses its power in a run of create, copy, merge and delete; in soak, at each of its flushes."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab import kernel
from lab.commands import run
from lab.powerloss import PowerLossDisk, power_loss_disk
from tests.contract.blocks import BLOCK, read, write
from vdsm.adapters.files import OwnOwner
from vdsm.adapters.qemuimg import QemuImgCommand
from vdsm.core.ids import BLANK_UUID
from vdsm.storage.model import Legality, Subchain, VolumeFormat, VolumeRef, VolumeRole
from vdsm.storage.ports import Layer
from vdsm.tasks.journal import Journal
from vdsm.tasks.model import SPM, Rollback, TaskRecord
from vdsm.testing.storage import World, make_id, make_world_on_disk

pytestmark = pytest.mark.timeout(1500)  # a point takes 2 s; on a machine that many share, ten times as long

DISK_BYTES = 48 << 20
ALL = 1 << 30
DOMAIN, POOL = make_id(), make_id()
IMAGE, BASE, TOP, LEAF, COPY_IMAGE, COPY = (make_id() for _ in range(6))
IMAGES = {BASE: IMAGE, TOP: IMAGE, LEAF: IMAGE, COPY: COPY_IMAGE}
EMPTY, BASE_WORD, TOP_WORD, LEAF_WORD = "......", "abcd..", ".BC.E.", "...De."
TOP_READS, LEAF_READS = "aBCdE.", "aBCDe."
SUBCHAIN = Subchain(DOMAIN, IMAGE, TOP, BASE)

GONE, ILLEGAL = "gone", "illegal"
LEGAL = "legal"
"""With whatever in it: a layer below others, or one that is being written to."""

State = Mapping[str, str]
"""The volumes that are there, and what each reads as, or one of the words."""


@dataclass(frozen=True)
class Step:
    """One thing that a client asks for, and what it relies on from the acknowledgement on."""

    name: str
    act: Callable[[World], None]
    after: State
    meanwhile: State = field(default_factory=dict)
    """What volumes may be besides what they were and what they become: what is illegal, its client removes."""
    again: bool = False
    """Whether a client that was not told the end asks again before it uses what the step is about."""


def create(
    volume_id: str, parent_id: str = BLANK_UUID, format: VolumeFormat = VolumeFormat.COW
) -> Callable[[World], None]:
    def act(world: World) -> None:
        size_bytes = len(EMPTY) * BLOCK
        request = world.request(IMAGE, volume_id, format=format, parent_id=parent_id, capacity_bytes=size_bytes)
        world.create(request)

    return act


def fill(volume_id: str, word: str) -> Callable[[World], None]:
    """What a VM does, which flushes in the end."""
    return lambda world: write(find_layer(world, volume_id), word)


def delete(volume_id: str) -> Callable[[World], None]:
    return lambda world: world.delete(IMAGES[volume_id], volume_id)


def copy(world: World) -> None:
    request = world.request(COPY_IMAGE, COPY)
    world.repository.whole_images.copy(VolumeRef(DOMAIN, IMAGE, LEAF), request, VolumeRole.LEAF, False)


def remove_image(world: World) -> None:
    images = world.repository.whole_images
    images.finish(POOL, DOMAIN, IMAGE, images.set_aside(POOL, DOMAIN, IMAGE))


def merge(world: World) -> None:
    world.repository.merges.prepare(POOL, SUBCHAIN)
    world.repository.merges.merge(SUBCHAIN)


def finalize_merge(world: World) -> None:
    world.repository.merges.finalize(POOL, SUBCHAIN)


CHAIN = {BASE: LEGAL, TOP: LEGAL, LEAF: LEAF_READS}
COPIED = {**CHAIN, COPY: LEAF_READS}
MERGED = {BASE: LEGAL, LEAF: LEAF_READS, COPY: LEAF_READS}
STEPS = (
    Step("create-base", create(BASE, format=VolumeFormat.RAW), {BASE: EMPTY}),
    Step("write-base", fill(BASE, BASE_WORD), {BASE: BASE_WORD}, {BASE: LEGAL}),
    Step("create-top", create(TOP, BASE), {BASE: LEGAL, TOP: BASE_WORD}),
    Step("write-top", fill(TOP, TOP_WORD), {BASE: LEGAL, TOP: TOP_READS}, {TOP: LEGAL}),
    Step("create-leaf", create(LEAF, TOP), {**CHAIN, LEAF: TOP_READS}),
    Step("write-leaf", fill(LEAF, LEAF_WORD), CHAIN, {LEAF: LEGAL}),
    Step("copy", copy, COPIED, {COPY: ILLEGAL}),
    Step("merge", merge, COPIED),
    Step("finalize-merge", finalize_merge, {**COPIED, TOP: ILLEGAL}, again=True),
    Step("delete-top", delete(TOP), MERGED),
    Step("delete-copy", delete(COPY), {BASE: LEGAL, LEAF: LEAF_READS}, {COPY: ILLEGAL}),
    Step("remove-image", remove_image, {}),
)


def find_layer(world: World, volume_id: str) -> Layer:
    image_id = IMAGES[volume_id]
    path = world.repository.domains.get_backend(DOMAIN).data.get_path(image_id, volume_id)
    return Layer(path, world.repository.volumes.get_metadata(DOMAIN, image_id, volume_id).format.qemu)


@contextmanager
def opened(folder: Path, root: Path) -> Iterator[World]:
    """The repository of a host whose only storage is that folder; it gives the role up in the end."""
    root.mkdir()
    world = make_world_on_disk(root, QemuImgCommand(), OwnOwner())
    server = folder / "domains"
    server.mkdir(exist_ok=True)
    world.server, world.domain_id, world.pool_id = str(server), DOMAIN, POOL
    try:
        yield world
    finally:
        world.repository.spm.stop(POOL)


@contextmanager
def mounted(device: Path, folder: Path) -> Iterator[None]:
    """Mounted, and less kind than usual: the kernel does not flush a file by itself that replaces another."""
    kernel.mount(device, folder, "ext4", "noauto_da_alloc")
    try:
        yield
    finally:
        kernel.unmount(folder)


class Looks:
    """What is found on disks; what has the same bytes as before is not read again, which spares programs."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, ...], str] = {}

    def look(self, world: World) -> dict[str, str]:
        """All volumes of the domain as they are; each that is legal is whole and can be used."""
        found: dict[str, str] = {}
        for image_id in world.repository.domains.list_images(DOMAIN):
            for volume_id in world.repository.images.list_volumes(DOMAIN, image_id):
                assert IMAGES[volume_id] == image_id
                record = world.repository.volumes.get_metadata(DOMAIN, image_id, volume_id)
                is_legal = record.legality is Legality.LEGAL
                found[volume_id] = self._read(world, volume_id) if is_legal else ILLEGAL
        return found

    def _read(self, world: World, volume_id: str) -> str:
        prepared = world.repository.images.prepare(POOL, DOMAIN, IMAGES[volume_id], volume_id)
        key = tuple(hashlib.sha256(place.path.read_bytes()).digest() for place in prepared.chain)
        if key not in self._known:
            self._known[key] = read(find_layer(world, volume_id), may_leak=True)
        return self._known[key]


def check_found(found: State, before: State, step: Step | None) -> None:
    """Each volume is what it was before the step, what it is afterwards, or what it may be meanwhile."""
    states = [before, *([step.after, {**before, **step.meanwhile}] if step else [])]
    for volume_id in {*found, *(volume_id for state in states for volume_id in state)}:
        is_now, expected = found.get(volume_id, GONE), {state.get(volume_id, GONE) for state in states}
        fits = is_now in expected or (LEGAL in expected and is_now not in (GONE, ILLEGAL))
        assert fits, f"{volume_id} is {is_now}, not {expected}, at {step}: {found}"


def check_tidy(folder: Path, found: State) -> None:
    """There are the files of these volumes, and no others."""
    expected: dict[str, set[str]] = {}
    for volume_id in found:
        expected.setdefault(IMAGES[volume_id], set()).update((volume_id, f"{volume_id}.meta"))
    images = (folder / "domains" / DOMAIN / "images").iterdir()
    assert {image.name: {path.name for path in image.iterdir()} for image in images} == expected


def check_state(folder: Path, root: Path, acknowledged: int, looks: Looks) -> None:
    """What a host finds that starts when so many steps were acknowledged."""
    before = STEPS[acknowledged - 1].after if acknowledged else {}
    step = STEPS[acknowledged] if acknowledged < len(STEPS) else None
    with opened(folder, root) as world:
        world.resume()
        if step and step.again:
            step.act(world)
            before, step = step.after, None
        found = looks.look(world)
        check_tidy(folder, found)
    check_found(found, before, step)


def choose_points(disk: PowerLossDisk, count: int) -> Iterator[tuple[int, int]]:
    """Points of the log, and how many marks came before: all marks, and so many flushes between them.

    At a mark the disk holds what it did at the flush before, but what was acknowledged must be in it.
    """
    flushes = disk.list_flushes()
    marks = [entry.index for entry in disk.read_log() if entry.mark and not entry.mark.startswith("listed")]
    flushes = [flush for flush in flushes if flush > marks[0]]
    some = flushes[:: max(1, len(flushes) // count)]
    for point in sorted({*marks, *some}):
        yield point, sum(mark <= point for mark in marks) - 1


@contextmanager
def formatted() -> Iterator[PowerLossDisk]:
    """A disk with a file system, which may lose its power."""
    with power_loss_disk(DISK_BYTES) as disk:
        run("mkfs.ext4", "-q", "-F", "-E", "nodiscard", disk.path)
        yield disk


def test_what_was_acknowledged_is_there_after_a_power_loss(tmp_path: Path, rounds: Callable[[int, int], int]) -> None:
    folder, looks = tmp_path / "disk", Looks()
    folder.mkdir()
    with formatted() as disk:
        with mounted(disk.path, folder), opened(folder, tmp_path / "root") as world:
            world.start_spm()
            disk.mark("begin")
            for step in STEPS:
                step.act(world)
                disk.mark(step.name)
        with disk.states() as state_at:
            for point, acknowledged in choose_points(disk, rounds(10, ALL)):
                with state_at(point) as state, mounted(state.path, folder):
                    check_state(folder, tmp_path / f"root-{point}", acknowledged, looks)


def make_record(number: int) -> TaskRecord:
    """A task whose name and number of rollbacks tell which of its records this is."""
    rollbacks = tuple(Rollback(f"rollback {index}", "volume", "Volume", "undo", ("a", "b")) for index in range(number))
    return TaskRecord("2f4c6f0e-9a55-4d0e-8a51-5b0f3c7d1e22", str(number), SPM, rollbacks=rollbacks)


def test_a_task_is_found_as_it_was_saved_last(tmp_path: Path, rounds: Callable[[int, int], int]) -> None:
    saved = 4
    with formatted() as disk:
        with mounted(disk.path, tmp_path):
            journal = Journal(tmp_path / "tasks")
            journal.path.mkdir()
            journal.remove("nothing")  # puts the folder on disk
            disk.mark("begin")
            for number in range(saved):
                journal.save(make_record(number))
                disk.mark(f"saved-{number}")
            journal.remove(make_record(0).task_id)
            disk.mark("removed")
        with disk.states() as state_at:
            states = [[], *([str(number)] for number in range(saved)), []]
            for point, acknowledged in choose_points(disk, rounds(3, ALL)):
                with state_at(point) as state, mounted(state.path, tmp_path):
                    names = [record.name for record in journal.load_all()]
                assert names in states[acknowledged : acknowledged + 2], f"at {point}"
