"""Cold merges and chains that are put right: what is refused, in which order things change (facts: storage §9.7)."""

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.unit.storage.images.test_jobs import add_bitmap, change, fake, list_bitmaps, state
from vdsm.core.errors import NodeError
from vdsm.storage.errors import (
    ImageIsNotLegalChain,
    PrepareIllegalVolumeError,
    SharedVolumeNonWritable,
    SpmStatusError,
    StoragePoolUnknown,
    VolumeDoesNotExist,
)
from vdsm.storage.errors_jobs import (
    GenerationMismatch,
    MergeBitmapError,
    RemoveBitmapError,
    UnexpectedVolumeState,
    VolumeIsNotInChain,
    WrongParentVolume,
)
from vdsm.storage.model import Allocation, Legality, Subchain, VolumeFormat, VolumeRequest, VolumeRole
from vdsm.storage.ports import Layer, QemuImgFailed
from vdsm.storage.rollbacks import RollbacksInMemory
from vdsm.testing.storage import MIB, World, make_id, make_world_in_memory

RAW, COW = VolumeFormat.RAW, VolumeFormat.COW


def make_chain(world: World, depth: int = 3, format: VolumeFormat = RAW) -> list[VolumeRequest]:
    """Volumes of one image, base first."""
    chain = [world.create_base(format=format)]
    while len(chain) < depth:
        chain.append(world.create_layer(chain[-1]))
    return chain


def pair(world: World, top: VolumeRequest, base: VolumeRequest, generation: int | None = None) -> Subchain:
    return Subchain(world.domain_id, base.image_id, top.volume_id, base.volume_id, generation)


def grow(world: World, volume: VolumeRequest) -> None:
    """As if the volume had been made larger than what is below it."""
    change(world, volume, capacity_bytes=2 * MIB)


def test_preparing_lets_a_raw_base_grow_with_its_file(spm: World) -> None:
    base, top, _ = make_chain(spm)
    grow(spm, top)
    entries = RollbacksInMemory()
    spm.repository.merges.prepare(spm.pool_id, pair(spm, top, base), entries)
    assert spm.get_record(base).capacity_bytes == 2 * MIB
    assert fake(spm).files[spm.get_path(base)] == 2 * MIB
    [entry] = entries.entries
    assert (entry.module, entry.object, entry.function) == ("volume", "Volume", "extendSizeFinalize")
    spm.repository.recovery.recover(entry.module, entry.object, entry.function, entry.params)
    assert spm.get_record(base).capacity_bytes == 2 * MIB
    assert state(spm, base) == (0, Legality.LEGAL)


def test_preparing_that_is_killed_in_the_middle_is_finished_by_its_entry(tmp_path: Path) -> None:
    def step(name: str) -> None:
        if name == "write capacity":
            raise SpmStatusError("killed")

    world = make_world_in_memory(tmp_path, step).start_spm()
    base, top, _ = make_chain(world)
    grow(world, top)
    entries = RollbacksInMemory()
    with pytest.raises(SpmStatusError):
        world.repository.merges.prepare(world.pool_id, pair(world, top, base), entries)
    assert world.get_record(base).capacity_bytes == MIB
    entries.run(world.repository.recovery.recover)
    assert world.get_record(base).capacity_bytes == 2 * MIB == fake(world).files[world.get_path(base)]


def test_preparing_tells_a_cow_base_its_new_size_only(spm: World) -> None:
    base, top, _ = make_chain(spm, format=COW)
    grow(spm, top)
    size_bytes = fake(spm).files[spm.get_path(base)]
    spm.repository.merges.prepare(spm.pool_id, pair(spm, top, base))
    assert (spm.get_record(base).capacity_bytes, fake(spm).files[spm.get_path(base)]) == (2 * MIB, size_bytes)


def test_preparing_takes_the_space_that_a_preallocated_base_has(spm: World) -> None:
    base = spm.create_base(format=RAW, allocation=Allocation.PREALLOCATED)
    top = spm.create_layer(base)
    grow(spm, top)
    spm.memory.faults.fail_next("preallocate", NodeError())
    with pytest.raises(NodeError):
        spm.repository.merges.prepare(spm.pool_id, pair(spm, top, base))
    assert spm.get_record(base).capacity_bytes == MIB
    spm.repository.merges.prepare(spm.pool_id, pair(spm, top, base))
    assert spm.get_record(base).capacity_bytes == 2 * MIB


def test_preparing_drops_bitmaps_that_do_not_go_on(spm: World) -> None:
    base, top, _ = make_chain(spm, format=COW)
    kept, stale, broken = (add_bitmap(spm, base) for _ in range(3))
    path = spm.get_path(top)
    bitmaps = {kept: ("auto",), broken: ("auto", "in-use")}
    below = {bitmap.name: bitmap for bitmap in fake(spm).images[spm.get_path(base)].bitmaps}
    fake(spm).images[path] = replace(
        fake(spm).images[path], bitmaps=tuple(replace(below[name], flags=flags) for name, flags in bitmaps.items())
    )
    fake(spm).fail_next("remove_bitmap", QemuImgFailed("no"))
    with pytest.raises(RemoveBitmapError):
        spm.repository.merges.prepare(spm.pool_id, pair(spm, top, base))
    spm.repository.merges.prepare(spm.pool_id, pair(spm, top, base))
    assert list_bitmaps(spm, base) == [kept]
    assert stale not in list_bitmaps(spm, base)


def test_a_merge_writes_the_top_into_the_base_and_counts(spm: World) -> None:
    base, top, leaf = make_chain(spm)
    spm.repository.merges.merge(pair(spm, top, base, 0))
    assert fake(spm).done == [("commit", Layer(spm.get_path(top), "qcow2"), base.volume_id)]
    assert state(spm, base) == (1, Legality.LEGAL)
    assert state(spm, top) == state(spm, leaf) == (0, Legality.LEGAL)


def test_a_merge_that_nobody_prepared_tells_the_size_that_came_of_it(spm: World) -> None:
    base, top, _ = make_chain(spm)
    grow(spm, top)
    spm.repository.merges.merge(pair(spm, top, base))
    assert spm.get_record(base).capacity_bytes == 2 * MIB


def test_a_merge_that_fails_is_not_counted_and_done_again(spm: World) -> None:
    base, top, _ = make_chain(spm)
    fake(spm).fail_next("commit", QemuImgFailed("broken"))
    with pytest.raises(QemuImgFailed):
        spm.repository.merges.merge(pair(spm, top, base, 0))
    assert state(spm, base) == (0, Legality.LEGAL)
    spm.repository.merges.merge(pair(spm, top, base, 0))
    assert state(spm, base) == (1, Legality.LEGAL)


def test_which_bitmaps_are_merged(spm: World) -> None:
    base, middle, top = make_chain(spm, format=COW)
    incomplete = add_bitmap(spm, base)
    shared, new, broken = add_bitmap(spm, middle), make_id(), make_id()
    path = spm.get_path(top)
    [known] = fake(spm).images[spm.get_path(base)].bitmaps
    names = ((incomplete, ("auto",)), (shared, ("auto",)), (new, ("auto",)), (broken, ("in-use", "auto")))
    bitmaps = tuple(replace(known, name=name, flags=flags, granularity_bytes=131072) for name, flags in names)
    fake(spm).images[path] = replace(fake(spm).images[path], bitmaps=bitmaps)
    spm.repository.merges.merge(pair(spm, top, middle))
    assert [done[0] for done in fake(spm).done] == ["commit"]  # type: ignore[index]
    spm.repository.merges.merge(pair(spm, top, middle), merge_bitmaps=True)
    merged = [done[3] for done in fake(spm).done if done[0] == "merge_bitmap"]  # type: ignore[index]
    assert merged == [shared, new]
    assert [(one.name, one.granularity_bytes) for one in fake(spm).images[spm.get_path(middle)].bitmaps] == [
        (shared, 65536),
        (new, 131072),
    ]
    fake(spm).fail_next("merge_bitmap", QemuImgFailed("no"))
    with pytest.raises(MergeBitmapError):
        spm.repository.merges.merge(pair(spm, top, middle, 2), merge_bitmaps=True)
    assert state(spm, middle) == (2, Legality.LEGAL)


def test_finalizing_takes_the_top_out_of_the_chain(spm: World) -> None:
    base, top, leaf = make_chain(spm)
    merges = spm.repository.merges
    for _ in range(2):
        merges.finalize(spm.pool_id, pair(spm, top, base))
        assert state(spm, top) == (0, Legality.ILLEGAL)
        assert spm.get_record(leaf).parent_id == base.volume_id
        image = fake(spm).images[spm.get_path(leaf)]
        assert (image.backing_file, image.backing_format) == (base.volume_id, "raw")
    spm.delete(top.image_id, top.volume_id)
    assert spm.get_record(base).role is VolumeRole.INTERNAL
    spm.repository.images.prepare(spm.pool_id, spm.domain_id, leaf.image_id, leaf.volume_id)


def test_finalizing_the_leaf_leaves_its_base_as_the_top(spm: World) -> None:
    base, top = make_chain(spm, 2)
    spm.repository.merges.finalize(spm.pool_id, pair(spm, top, base))
    assert state(spm, top) == (0, Legality.ILLEGAL)
    spm.delete(top.image_id, top.volume_id)
    assert spm.get_record(base).role is VolumeRole.LEAF


@pytest.mark.parametrize("killed_at", ["make illegal", "rebase child", "change parent", "done"])
def test_finalizing_that_is_killed_is_done_again(tmp_path: Path, killed_at: str) -> None:
    armed = True

    def step(name: str) -> None:
        if armed and name == killed_at and chain:
            raise SpmStatusError("killed")

    chain: list[VolumeRequest] = []
    world = make_world_in_memory(tmp_path, step).start_spm()
    chain += make_chain(world)
    base, top, leaf = chain
    with pytest.raises(SpmStatusError):
        world.repository.merges.finalize(world.pool_id, pair(world, top, base))
    armed = False
    world.repository.merges.finalize(world.pool_id, pair(world, top, base))
    assert world.get_record(leaf).parent_id == base.volume_id
    assert fake(world).images[world.get_path(leaf)].backing_file == base.volume_id
    assert state(world, top) == (0, Legality.ILLEGAL)


def test_finalizing_does_not_open_what_a_child_names(spm: World) -> None:
    base, top, leaf = make_chain(spm)
    image = fake(spm).images[spm.get_path(leaf)] = replace(fake(spm).images[spm.get_path(leaf)], has_data_file=True)
    with pytest.raises(ImageIsNotLegalChain):
        spm.repository.merges.finalize(spm.pool_id, pair(spm, top, base))
    assert fake(spm).images[spm.get_path(leaf)] == image
    assert spm.get_record(leaf).parent_id == top.volume_id
    assert state(spm, top) == (0, Legality.LEGAL), "the leaf is as usable as it was"


def test_pairs_that_are_none(spm: World) -> None:
    base, middle, top = make_chain(spm)
    template = spm.create_base()
    user = spm.create_layer(template, make_id())
    stranger = replace(base, volume_id=make_id())
    on_template = Subchain(spm.domain_id, user.image_id, user.volume_id, template.volume_id)
    cases: list[tuple[type[NodeError], Subchain]] = [
        (WrongParentVolume, pair(spm, top, base)),
        (WrongParentVolume, pair(spm, base, middle)),
        (VolumeIsNotInChain, pair(spm, stranger, base)),
        (VolumeIsNotInChain, pair(spm, top, stranger)),
        (SharedVolumeNonWritable, on_template),
    ]
    before = [spm.get_record(volume) for volume in (base, middle, top)]
    merges = spm.repository.merges
    calls: tuple[Callable[[Subchain], None], ...] = (
        lambda subchain: merges.prepare(spm.pool_id, subchain),
        merges.merge,
        lambda subchain: merges.finalize(spm.pool_id, subchain),
    )
    for call in calls:
        for error, subchain in cases:
            with pytest.raises(error):
                call(subchain)
    with pytest.raises(GenerationMismatch):
        merges.merge(pair(spm, middle, base, 3))
    change(spm, middle, legality=Legality.ILLEGAL)
    for call in calls[:2]:
        with pytest.raises(PrepareIllegalVolumeError):
            call(pair(spm, middle, base))
    change(spm, middle, legality=Legality.LEGAL)
    path = spm.get_path(middle)
    image = fake(spm).images[path]
    fake(spm).images[path] = replace(image, backing_file="/etc/shadow")
    for call in calls[:2]:
        with pytest.raises(ImageIsNotLegalChain):
            call(pair(spm, middle, base))
    fake(spm).images[path] = image
    with pytest.raises(StoragePoolUnknown):
        merges.prepare(make_id(), pair(spm, middle, base))
    spm.repository.spm.stop(spm.pool_id)
    for call in (calls[0], calls[2]):
        with pytest.raises(SpmStatusError):
            call(pair(spm, middle, base))
    assert [spm.get_record(volume) for volume in (base, middle, top)] == before
    assert fake(spm).done == []


# Chains that are put right.


def reconcile(world: World, leaf: VolumeRequest) -> list[str]:
    return world.repository.corrections.reconcile(world.pool_id, world.domain_id, leaf.image_id, leaf.volume_id)


def lead(world: World, volume: VolumeRequest, to: str | None) -> None:
    path = world.get_path(volume)
    fake(world).images[path] = replace(fake(world).images[path], backing_file=to)


def test_a_chain_that_is_right_stays(spm: World) -> None:
    chain = make_chain(spm)
    names = [volume.volume_id for volume in chain]
    lead(spm, chain[2], f"../{chain[1].image_id}/{names[1]}")
    before = [spm.get_record(volume) for volume in chain]
    assert reconcile(spm, chain[2]) == names
    assert [spm.get_record(volume) for volume in chain] == before


@pytest.mark.parametrize("missing", [1, 2])
def test_layers_that_a_live_merge_took_out(spm: World, missing: int) -> None:
    chain = make_chain(spm, 4)
    names = [volume.volume_id for volume in chain]
    lead(spm, chain[3], names[2 - missing])
    assert reconcile(spm, chain[3]) == [*names[: 3 - missing], names[3]]
    assert spm.get_record(chain[3]).parent_id == names[2 - missing]
    assert spm.get_record(chain[2]).parent_id == names[1]


def test_a_leaf_that_was_merged_away_is_not_in_its_chain(spm: World) -> None:
    chain = make_chain(spm)
    change(spm, chain[2], legality=Legality.ILLEGAL)
    assert reconcile(spm, chain[2]) == [volume.volume_id for volume in chain[:2]]
    assert state(spm, chain[2]) == (0, Legality.ILLEGAL)


def test_a_chain_on_a_template(spm: World) -> None:
    template = spm.create_base(format=RAW)
    top = spm.create_layer(template, make_id())
    assert reconcile(spm, top) == [template.volume_id, top.volume_id]


@pytest.mark.parametrize("to", ["/etc/shadow", "nbd:evil:10809", "../x/y", None])
def test_files_that_lead_elsewhere(spm: World, to: str | None) -> None:
    chain = make_chain(spm)
    lead(spm, chain[2], to or chain[2].volume_id)
    before = [spm.get_record(volume) for volume in chain]
    with pytest.raises(UnexpectedVolumeState):
        reconcile(spm, chain[2])
    assert [spm.get_record(volume) for volume in chain] == before
    with pytest.raises(VolumeDoesNotExist):
        reconcile(spm, replace(chain[2], volume_id=make_id()))
    spm.repository.spm.stop(spm.pool_id)
    with pytest.raises(SpmStatusError):
        reconcile(spm, chain[2])
