"""Every operation on images, over formats and depths of chains, on whatever storage the world lies: a table.

After each, images are whole, records tell their chain, and guests read what they wrote. Run as a program it does a part
of the table on a place that only its own namespaces see; what fails is told by its cell.
"""

import argparse
import itertools
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs
from msgspec.structs import replace

from lab.loop import scratch
from tests.disks import UNIT, Disk, make_disk, read_units
from vdsm.adapters.files import NumericOwner
from vdsm.adapters.gluster import GlusterCommand
from vdsm.adapters.guestfs import dig
from vdsm.adapters.mount import KernelMounts
from vdsm.adapters.qemuimg import QemuImgCommand
from vdsm.core.paths import Paths
from vdsm.storage.backends.mounted import Outside
from vdsm.storage.errors import UnsupportedOperation
from vdsm.storage.model import (
    Allocation,
    DomainClass,
    DomainType,
    ImageMove,
    Legality,
    Subchain,
    VolumeChange,
    VolumeFormat,
    VolumeRef,
    VolumeRole,
)
from vdsm.storage.ports import Layer, Ownership
from vdsm.storage.repository import Repository
from vdsm.testing.leases import LeasesInMemory
from vdsm.testing.storage import FixedClock, World, make_id

RAW, COW, SPARSE, FULL = VolumeFormat.RAW, VolumeFormat.COW, Allocation.SPARSE, Allocation.PREALLOCATED
SIZE = 10 * 65536 + 3 * UNIT
"""Not a whole number of clusters."""
DEPTHS = (1, 2, 3, 4)


def refer_to(disk: Disk) -> VolumeRef:
    """The volume as operations on data name it."""
    return VolumeRef(disk.volume.domain_id, disk.volume.image_id, disk.volume.volume_id)


class Place(World):
    """A pool of a domain on the storage under test, and of `other`, which is a folder here."""

    other: World | None = None


@dataclass(frozen=True)
class Case:
    """An image to work on, whose top is `disk`."""

    world: Place
    disk: Disk
    chance: random.Random

    @property
    def repository(self) -> Repository:
        return self.world.repository

    @property
    def ids(self) -> tuple[str, str, str]:
        volume = self.disk.volume
        return volume.domain_id, volume.image_id, volume.volume_id


Operation = Callable[[Case], list[Disk]]
"""Does it, and gives the tops of the chains that there must be now."""


def snapshot(case: Case) -> list[Disk]:
    return [case.disk.add_layer(case.chance)]


def prepare_and_tear_down(case: Case) -> list[Disk]:
    prepared = case.repository.images.prepare(case.world.pool_id, *case.ids)
    assert [place.path for place in prepared.chain] == [disk.path for disk in case.disk.chain]
    case.repository.images.teardown(*case.ids[:2])
    return [case.disk]


def copy_collapsed(case: Case) -> list[Disk]:
    copies = [case.disk]
    for format, allocation in ((RAW, SPARSE), (RAW, FULL), (COW, SPARSE), (COW, FULL)):
        target = case.world.create_base(format=format, allocation=allocation, capacity_bytes=SIZE)
        copy = case.disk.collapse(target)
        case.repository.jobs.copy_data(refer_to(case.disk), refer_to(copy))
        copies.append(copy)
    return copies


def copy_onto_what_was_used(case: Case) -> list[Disk]:
    """Nothing of what an earlier copy, or a guest, left in the target shines through."""
    copies = [case.disk]
    for format, allocation in ((RAW, SPARSE), (RAW, FULL), (COW, FULL)):
        used = Disk(case.world, case.world.create_base(format=format, allocation=allocation, capacity_bytes=SIZE))
        used.write(case.chance, 20)
        copies.append(case.disk.collapse(used.volume))
        case.repository.jobs.copy_data(refer_to(case.disk), refer_to(copies[-1]))
    return copies


def copy_layer_by_layer(case: Case) -> list[Disk]:
    """As a disk with its snapshots moves."""
    image_id, copy = make_id(), None
    for disk in reversed(case.disk.chain):
        parent = {"parent_id": copy.volume.volume_id} if copy else {}
        volume = case.world.request(image_id, format=disk.volume.format, capacity_bytes=SIZE, **parent)
        copy = Disk(case.world, case.world.create(volume), copy, dict(disk.written))
        case.repository.jobs.copy_data(refer_to(disk), refer_to(copy))
    assert copy is not None
    return [case.disk, copy]


def make_template(case: Case) -> list[Disk]:
    """Of all that the image reads as, with a layer on it in an image of its own."""
    request = case.world.request(format=case.chance.choice((RAW, COW)), capacity_bytes=SIZE)
    case.repository.whole_images.copy(refer_to(case.disk), request, VolumeRole.SHARED, False)
    template = case.disk.collapse(request)
    layer = case.world.request(
        parent_id=request.volume_id, parent_image_id=request.image_id, capacity_bytes=case.disk.size_bytes
    )
    return [case.disk, Disk(case.world, case.world.create(layer), template).write(case.chance)]


def clone(case: Case) -> list[Disk]:
    request = case.world.request(
        format=case.chance.choice((RAW, COW)), allocation=case.chance.choice((SPARSE, FULL)), capacity_bytes=SIZE
    )
    case.repository.whole_images.copy(refer_to(case.disk), request, VolumeRole.LEAF, False)
    return [case.disk, case.disk.collapse(request).write(case.chance)]


def extend(case: Case) -> list[Disk]:
    """A raw volume becomes larger, a sparse COW one grows by itself; a layer above may be larger at once."""
    case.repository.volumes.extend(case.world.pool_id, refer_to(case.disk), 2 * SIZE)
    if case.disk.volume.format is RAW:
        case.disk.size_bytes = 2 * SIZE
    layer = case.world.request(case.ids[1], parent_id=case.ids[2], capacity_bytes=3 * SIZE)
    return [Disk(case.world, case.world.create(layer), case.disk).write(case.chance)]


def make_sparse(case: Case) -> list[Disk]:
    try:
        case.repository.jobs.sparsify_volume(refer_to(case.disk))
    except UnsupportedOperation:
        assert case.disk.volume.format is COW or case.world.type is DomainType.NFS  # whose version 3 has no holes
    return [case.disk]


def amend(case: Case) -> list[Disk]:
    """Old qcow2 knows no clusters of zeros: they must hide what is below all the same."""
    if case.disk.volume.format is COW:
        for compat in ("0.10", "1.1", "0.10"):
            case.repository.jobs.amend_volume(refer_to(case.disk), compat)
            assert QemuImgCommand().inspect(case.disk.path).compat == compat
            case.disk.check()
    return [case.disk]


def merge(case: Case) -> list[Disk]:
    """One layer after another, at any place, until the base is alone."""
    top = case.disk
    while len(layers := top.chain) > 1:
        at = case.chance.randrange(len(layers) - 1)
        upper, base = layers[at], layers[at + 1]
        ids = (upper.volume.volume_id, base.volume.volume_id)
        subchain = Subchain(*case.ids[:2], *ids)
        case.repository.merges.prepare(case.world.pool_id, subchain)
        case.repository.merges.merge(subchain)
        base.written |= upper.written
        base.size_bytes = upper.size_bytes
        top.check()  # until it is finalized, everybody reads the same as before
        case.repository.merges.finalize(case.world.pool_id, subchain)
        case.world.delete(case.ids[1], ids[0])
        if at:
            layers[at - 1].below = base
        else:
            top = base
        top.check_chain()
    return [top]


def merge_onto_smaller(case: Case) -> list[Disk]:
    layer = case.world.request(case.ids[1], parent_id=case.ids[2], capacity_bytes=2 * SIZE)
    top = Disk(case.world, case.world.create(layer), case.disk).write(case.chance)
    return merge(Case(case.world, top, case.chance))


def delete_top(case: Case) -> list[Disk]:
    case.world.delete(case.ids[1], case.ids[2])
    return [case.disk.below.write(case.chance)] if case.disk.below else []


def delete_image(case: Case) -> list[Disk]:
    """Another image, made of this one, stays."""
    _, left = clone(case)
    ids = (case.world.pool_id, *case.ids[:2])
    images = case.repository.whole_images
    images.finish(*ids, images.set_aside(*ids))
    assert not case.disk.path.parent.exists()
    return [left]


def use_bitmaps(case: Case) -> list[Disk]:
    if case.disk.volume.format is COW:
        names = [make_id() for _ in range(3)]
        for name in names:
            case.repository.jobs.add_bitmap(refer_to(case.disk), name)
            case.disk.write(case.chance, 1)
        case.repository.jobs.remove_bitmap(refer_to(case.disk), names[1])
        case.disk.check_chain()
        case.repository.jobs.clear_bitmaps(refer_to(case.disk))
    return [case.disk]


def go_out_and_in(case: Case) -> list[Disk]:
    """Exported into a file in either format, and imported from it."""
    disks = [case.disk]
    for format in (RAW, COW):
        path = case.disk.path.parents[3] / f"{make_id()}.exported"
        case.repository.inspection.export_file(refer_to(case.disk), Layer(path, format.qemu))
        assert read_units(path, format) == case.disk.get_units()
        target = case.disk.collapse(case.world.create_base(format=case.chance.choice((RAW, COW)), capacity_bytes=UNIT))
        case.repository.jobs.import_file(Layer(path, format.qemu), refer_to(target))
        path.unlink()
        disks.append(target)
    return disks


def measure(case: Case) -> list[Disk]:
    """What is measured suffices for the copy."""
    found = case.repository.inspection.measure(*case.ids, COW)
    copy = case.disk.collapse(case.world.create_base(capacity_bytes=SIZE))
    case.repository.jobs.copy_data(refer_to(case.disk), refer_to(copy))
    assert copy.path.stat().st_size <= found.required_bytes
    return [case.disk, copy]


def move_there_and_back(case: Case) -> list[Disk]:
    here, there = case.world, case.world.other
    assert there is not None
    disk = case.disk
    for source, target in ((here, there), (there, here)):
        left, disk = disk.path.parent, disk.relocate(target)
        move = ImageMove(here.pool_id, source.domain_id, target.domain_id, case.ids[1])
        case.repository.moves.transfer(move, keep=False)
        disk.check_chain()
        assert not left.exists()
    return [disk]


def copy_as_it_is(case: Case) -> list[Disk]:
    """To another domain, at once, or structure first and data later, and from there."""
    here, there = case.world, case.world.other
    assert there is not None
    there_and_back = [
        (here.pool_id, *pair, case.ids[1]) for pair in itertools.permutations((here.domain_id, there.domain_id))
    ]
    case.repository.moves.transfer(ImageMove(*there_and_back[0]), keep=True)
    copy = case.disk.relocate(there)
    copy.check_chain()
    copy.write(case.chance)
    images, ids = case.repository.whole_images, (here.pool_id, *case.ids[:2])
    images.finish(*ids, images.set_aside(*ids))
    case.repository.moves.clone_structure(ImageMove(*there_and_back[1]))
    for inner in (True, False):
        case.repository.moves.sync_data(ImageMove(*there_and_back[1]), inner=inner, leaf=not inner)
    return [copy, copy.relocate(here)]


def change_records(case: Case) -> list[Disk]:
    """Description and legality, by either way."""
    pool_id, target = case.world.pool_id, refer_to(case.disk)
    for legality in (Legality.ILLEGAL, Legality.LEGAL):
        case.repository.corrections.change(pool_id, target, description=f"it is {legality}", legality=legality)
    generation = case.world.get_record(case.disk.volume).generation
    change = VolumeChange(description="other", legality=Legality.ILLEGAL)
    case.repository.jobs.update_volume(replace(target, generation=generation), change)
    change = VolumeChange(legality=Legality.LEGAL, generation=0)
    case.repository.jobs.update_volume(replace(target, generation=generation + 1), change)
    return [case.disk]


def reconcile(case: Case) -> list[Disk]:
    chain = [disk.volume.volume_id for disk in case.disk.chain]
    assert case.repository.corrections.reconcile(case.world.pool_id, *case.ids) == chain[::-1]
    return [case.disk]


OPERATIONS: tuple[Operation, ...] = (
    snapshot,
    prepare_and_tear_down,
    copy_collapsed,
    copy_onto_what_was_used,
    copy_layer_by_layer,
    make_template,
    clone,
    extend,
    make_sparse,
    amend,
    merge,
    merge_onto_smaller,
    delete_top,
    delete_image,
    use_bitmaps,
    go_out_and_in,
    measure,
    move_there_and_back,
    copy_as_it_is,
    change_records,
    reconcile,
)


@dataclass(frozen=True)
class Cell:
    """One operation on one kind of image."""

    operation: Operation
    format: VolumeFormat
    depth: int

    def __str__(self) -> str:
        return f"{self.operation.__name__}-{self.format}-{self.depth}"

    def run(self, world: Place) -> None:
        """Do it in a world of many images: these are its own."""
        chance = random.Random(str(self))
        disk = make_disk(world, chance, self.format, self.depth, SIZE)
        for top in self.operation(Case(world, disk, chance)):
            top.check_chain()


CELLS = [Cell(operation, format, depth) for depth in DEPTHS for format in (RAW, COW) for operation in OPERATIONS]


def choose_cells(count: int, place: int) -> list[Cell]:
    """So many cells, other ones at each place: each operation comes with another format and depth."""
    kinds = len(CELLS) // len(OPERATIONS)
    turns = [
        CELLS[(operation + turn + place * 3) % kinds * len(OPERATIONS) + operation]
        for turn in range(kinds)
        for operation in range(len(OPERATIONS))
    ]
    first = place * 5 % len(OPERATIONS) if count < len(OPERATIONS) else 0
    return [*turns[first:], *turns[:first]][:count]


def open_world(root: Path, type: DomainType, server: str, ownership: Ownership, block_size_bytes: int = 512) -> Place:
    """A domain there, and this process its pool's SPM. Its files and mounts are real, its leases are not: they are
    tested where several hosts are."""
    leases = LeasesInMemory(writes_files=True)
    outside = Outside(KernelMounts(), leases, GlusterCommand(), FixedClock(), sys.exit, accepts_false_zeroes=True)
    repository = Repository(
        Paths(root),
        qemu_img=QemuImgCommand(),
        ownership=ownership,
        clock=FixedClock(),
        shared=outside,
        sparsify=dig,  # without a program that boots a VM for each
    )
    world = Place(repository, server, type=type)
    repository.servers.connect(type, server)
    repository.domains.create(
        type, world.domain_id, "matrix", server, DomainClass.DATA, 5, block_size_bytes, maximum_hosts=250
    )
    repository.pools.create(world.pool_id, "pool", world.domain_id, 1, [world.domain_id])
    world.resume()
    folder = root / "other"
    folder.mkdir()
    ownership.give(folder)
    world.other = structs.replace(world, domain_id=make_id(), server=str(folder), type=DomainType.LOCALFS)
    world.other.create_domain()
    repository.members.attach(world.pool_id, world.other.domain_id)
    repository.members.activate(world.pool_id, world.other.domain_id)
    return world


def run_cells(world: Place, cells: Sequence[Cell]) -> Iterator[str]:
    """Tells of each cell that fails."""
    for cell in cells:
        try:
            cell.run(world)
        except Exception:
            yield f"{cell}:\n{traceback.format_exc()}"


def main() -> None:
    """Cells on a server that is mounted here, or, without one, on a disk whose sectors have 4096 bytes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--type", type=DomainType, default=DomainType.LOCALFS)
    parser.add_argument("--server", default="")
    parser.add_argument("--place", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--first", action="append", default=[], help="the name of a cell that is to be among them")
    asked = parser.parse_args()
    with ExitStack() as stack:
        server, block_size_bytes = asked.server, 512
        if not server:
            folder = stack.enter_context(scratch(1 << 29, sector_bytes=4096)) / "server"
            folder.mkdir()
            NumericOwner().give(folder)
            server, block_size_bytes = str(folder), 4096
        world = open_world(asked.root, asked.type, server, NumericOwner(), block_size_bytes)
        first = [cell for cell in CELLS if str(cell) in asked.first]
        assert len(first) == len(asked.first), asked.first
        failed = list(run_cells(world, [*first, *choose_cells(asked.count, asked.place)]))
        world.repository.spm.stop(world.pool_id)
        world.repository.pools.disconnect(world.pool_id)
        world.repository.servers.disconnect(asked.type, server)
    sys.exit("\n".join(failed) or 0)


if __name__ == "__main__":
    main()
