"""Jobs on volumes' data: what they refuse, what they mark, what a failure leaves (facts: storage §10)."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace

from vdsm.core.errors import NodeError
from vdsm.core.ids import BLANK_UUID
from vdsm.storage.errors import (
    CopyImageError,
    ImageIsNotLegalChain,
    InternalVolumeNonWritable,
    InvalidParameterException,
    InvalidVolumeUpdate,
    NoSpaceLeftOnDomain,
    PrepareIllegalVolumeError,
    SharedVolumeNonWritable,
    UnsupportedOperation,
    VolumeDoesNotExist,
)
from vdsm.storage.errors_jobs import AddBitmapError, GenerationMismatch, RemoveBitmapError
from vdsm.storage.model import Legality, VolumeChange, VolumeFormat, VolumeRef, VolumeRequest, VolumeRole
from vdsm.storage.ports import Bitmap, Conversion, QemuImgFailed, Unwatched
from vdsm.testing.qemuimg import FakeQemuImg
from vdsm.testing.storage import World, make_id, make_world_in_memory

RAW, COW = VolumeFormat.RAW, VolumeFormat.COW


def ref(world: World, volume: VolumeRequest, generation: int | None = 0) -> VolumeRef:
    return VolumeRef(world.domain_id, volume.image_id, volume.volume_id, generation)


def fake(world: World) -> FakeQemuImg:
    assert world.fake_qemu is not None
    return world.fake_qemu


def state(world: World, volume: VolumeRequest) -> tuple[int, Legality]:
    record = world.get_record(volume)
    return record.generation, record.legality


def change(world: World, volume: VolumeRequest, **changes: object) -> None:
    images = world.repository.domains.get(world.domain_id).images
    images.change(volume.image_id, volume.volume_id, replace(world.get_record(volume), **changes))  # type: ignore[arg-type]


def add_bitmap(world: World, volume: VolumeRequest, *flags: str) -> str:
    name, path = make_id(), world.get_path(volume)
    image = fake(world).images[path]
    fake(world).images[path] = replace(image, bitmaps=(*image.bitmaps, Bitmap(name, 65536, flags or ("auto",))))
    return name


def list_bitmaps(world: World, volume: VolumeRequest) -> list[str]:
    return [bitmap.name for bitmap in fake(world).images[world.get_path(volume)].bitmaps]


@pytest.fixture
def jobs(spm: World) -> World:
    return spm


# Copies.


def copy(world: World, source: VolumeRequest, target: VolumeRequest, **more: object) -> None:
    world.repository.jobs.copy_data(ref(world, source), ref(world, target), **more)  # type: ignore[arg-type]


def test_a_copy_makes_its_target_legal_and_counts(jobs: World) -> None:
    source, target = jobs.create_base(), jobs.create(replace(jobs.request(), legal=False))
    copy(jobs, source, target)
    assert state(jobs, target) == (1, Legality.LEGAL)
    assert state(jobs, source) == (0, Legality.LEGAL)
    [done] = fake(jobs).done
    assert isinstance(done, Conversion)
    assert (done.source.path, done.target.path) == (jobs.get_path(source), jobs.get_path(target))
    assert (done.backing, done.is_zero) == (None, True)


def test_a_layer_is_copied_onto_the_targets_own_parent(jobs: World) -> None:
    source, other = jobs.create_base(format=RAW), jobs.create_base(format=RAW)
    top, target = jobs.create_layer(source), jobs.create_layer(other)
    copy(jobs, top, target)
    [done] = fake(jobs).done
    assert isinstance(done, Conversion)
    assert (done.backing, done.is_zero) == (other.volume_id, False)


def test_a_larger_source_makes_the_target_larger(jobs: World) -> None:
    source, target = jobs.create_base(capacity_bytes=2 << 20), jobs.create_base()
    copy(jobs, source, target)
    assert jobs.get_record(target).capacity_bytes == 2 << 20
    assert fake(jobs).images[jobs.get_path(target)].virtual_size_bytes == 2 << 20


def test_the_target_is_illegal_while_data_moves(tmp_path: Path) -> None:
    seen: list[tuple[str, int, Legality]] = []

    def step(name: str) -> None:
        if seen_target:
            seen.append((name, *state(world, seen_target[0])))

    seen_target: list[VolumeRequest] = []
    world = make_world_in_memory(tmp_path, step).start_spm()
    source, target = world.create_base(), world.create_base()
    seen_target.append(target)
    copy(world, source, target)
    assert seen == [
        ("make illegal", 0, Legality.LEGAL),
        ("format data", 0, Legality.ILLEGAL),
        ("copy data", 0, Legality.ILLEGAL),
        ("settle data", 0, Legality.ILLEGAL),
        ("count generation", 0, Legality.ILLEGAL),
        ("done", 1, Legality.LEGAL),
    ]


def test_a_copy_that_fails_leaves_its_target_illegal_and_uncounted(jobs: World) -> None:
    source, target = jobs.create_base(), jobs.create_base()
    for error, raised in ((QemuImgFailed("broken"), CopyImageError), (QemuImgFailed("", True), NoSpaceLeftOnDomain)):
        fake(jobs).fail_next("convert", error)
        with pytest.raises(raised):
            copy(jobs, source, target)
        assert state(jobs, target) == (0, Legality.ILLEGAL)
        assert state(jobs, source) == (0, Legality.LEGAL)
    copy(jobs, source, target)
    assert state(jobs, target) == (1, Legality.LEGAL)


def test_a_copy_that_is_stopped(jobs: World) -> None:
    source, target, watch, heard = jobs.create_base(), jobs.create_base(), Unwatched(), []
    watch = Unwatched(heard.append)
    watch.stopping.set()
    with pytest.raises(CopyImageError):
        copy(jobs, source, target, watch=watch)
    assert heard == [50.0]
    assert state(jobs, target) == (0, Legality.ILLEGAL)


def test_what_a_copy_refuses_before_it_touches_anything(jobs: World) -> None:
    source, target = jobs.create_base(), jobs.create_base()
    raw, template = jobs.create_base(format=RAW), jobs.create_base()
    jobs.create_layer(template, make_id())
    illegal = jobs.create(replace(jobs.request(), legal=False))
    nowhere = VolumeRequest(BLANK_UUID, jobs.domain_id, make_id(), make_id(), 1, COW, source.allocation)
    before = state(jobs, target)
    copy_data = jobs.repository.jobs.copy_data
    cases: list[tuple[type[NodeError], Callable[[], None]]] = [
        (GenerationMismatch, lambda: copy_data(ref(jobs, source), ref(jobs, target, 7))),
        (GenerationMismatch, lambda: copy_data(ref(jobs, source, 7), ref(jobs, target))),
        (InvalidParameterException, lambda: copy(jobs, source, source)),
        (PrepareIllegalVolumeError, lambda: copy(jobs, illegal, target)),
        (VolumeDoesNotExist, lambda: copy(jobs, nowhere, target)),
        (VolumeDoesNotExist, lambda: copy(jobs, source, nowhere)),
        (SharedVolumeNonWritable, lambda: copy(jobs, source, template)),
        (UnsupportedOperation, lambda: copy(jobs, source, raw, copy_bitmaps=True)),
        (UnsupportedOperation, lambda: copy(jobs, raw, target, copy_bitmaps=True)),
        (InvalidParameterException, lambda: copy_data(ref(jobs, source), replace(ref(jobs, target), image_id="../x"))),
    ]
    for error, call in cases:
        with pytest.raises(error):
            call()
    assert state(jobs, target) == before
    assert fake(jobs).done == []
    copy(jobs, template, target)


@pytest.mark.parametrize("changes", [{"backing_file": "/etc/shadow"}, {"has_data_file": True}, {"format": "raw"}])
def test_a_source_that_leads_elsewhere_is_not_opened(jobs: World, changes: dict[str, object]) -> None:
    source, target = jobs.create_base(), jobs.create_base()
    path = jobs.get_path(source)
    fake(jobs).images[path] = replace(fake(jobs).images[path], **changes)  # type: ignore[arg-type]
    with pytest.raises(ImageIsNotLegalChain):
        copy(jobs, source, target)
    assert state(jobs, target) == (0, Legality.LEGAL)


# Attributes.


def update(world: World, volume: VolumeRequest, seen: int | None = 0, **changes: object) -> None:
    world.repository.jobs.update_volume(ref(world, volume, seen), VolumeChange(**changes))  # type: ignore[arg-type]


def test_attributes_change_in_one_write_that_counts(jobs: World) -> None:
    volume = jobs.create_base()
    update(jobs, volume, description="new", legality=Legality.ILLEGAL, role=VolumeRole.SHARED)
    record = jobs.get_record(volume)
    assert (record.description, record.legality, record.role) == ("new", Legality.ILLEGAL, VolumeRole.SHARED)
    assert record.generation == 1
    update(jobs, volume, 1, generation=999)
    assert jobs.get_record(volume).generation == 999
    update(jobs, volume, 999, description="")
    assert (jobs.get_record(volume).generation, jobs.get_record(volume).description) == (0, "")


def test_attributes_that_cannot_be(jobs: World) -> None:
    volume = jobs.create_base()
    layer = jobs.create_layer(volume)
    cases: list[tuple[type[NodeError], VolumeRequest, int | None, dict[str, object]]] = [
        (InvalidParameterException, volume, 0, {}),
        (GenerationMismatch, volume, 3, {"description": "x"}),
        (GenerationMismatch, volume, None, {"description": "x"}),
        (InvalidVolumeUpdate, volume, 0, {"legality": Legality.LEGAL}),
        (InvalidParameterException, volume, 0, {"legality": Legality.FAKE}),
        (InvalidVolumeUpdate, volume, 0, {"role": VolumeRole.SHARED}),
        (InvalidVolumeUpdate, layer, 0, {"role": VolumeRole.SHARED}),
        (InvalidParameterException, layer, 0, {"role": VolumeRole.LEAF}),
        (InvalidParameterException, volume, 0, {"generation": 1000}),
        (InvalidParameterException, volume, 0, {"generation": -1}),
        (InvalidParameterException, volume, 0, {"description": "two\nLEGALITY=LEGAL"}),
    ]
    before = jobs.get_record(volume), jobs.get_record(layer)
    for error, target, generation, changes in cases:
        with pytest.raises(error):
            update(jobs, target, generation, **changes)
    assert (jobs.get_record(volume), jobs.get_record(layer)) == before


def test_a_template_is_not_changed_by_way_of_an_image_that_uses_it(jobs: World) -> None:
    template = jobs.create_base()
    user = jobs.create_layer(template, make_id())
    linked = replace(template, image_id=user.image_id)
    with pytest.raises(SharedVolumeNonWritable):
        update(jobs, linked, description="x")


# Formats and bitmaps.


def test_a_format_is_amended(jobs: World) -> None:
    volume, raw = jobs.create_base(), jobs.create_base(format=RAW)
    jobs.repository.jobs.amend_volume(ref(jobs, volume), "0.10")
    assert fake(jobs).images[jobs.get_path(volume)].compat == "0.10"
    assert state(jobs, volume) == (1, Legality.LEGAL)
    for target, compat in ((raw, "1.1"), (volume, "9.9"), (volume, None)):
        with pytest.raises(UnsupportedOperation):
            jobs.repository.jobs.amend_volume(ref(jobs, target, None), compat)
    fake(jobs).fail_next("amend", QemuImgFailed("broken"))
    with pytest.raises(QemuImgFailed):
        jobs.repository.jobs.amend_volume(ref(jobs, volume, 1), "1.1")
    assert state(jobs, volume) == (1, Legality.LEGAL)


def test_old_domains_have_old_formats_only(world: World) -> None:
    world.start_spm(3)
    volume = world.create_base()
    with pytest.raises(UnsupportedOperation):
        world.repository.jobs.amend_volume(ref(world, volume), "1.1")


def test_bitmaps_come_and_go(jobs: World) -> None:
    base = jobs.create_base()
    top = jobs.create_layer(base)
    name, other = make_id(), make_id()
    jobs.repository.jobs.add_bitmap(ref(jobs, top), name)
    jobs.repository.jobs.add_bitmap(ref(jobs, top, 1), other)
    assert list_bitmaps(jobs, top) == [name, other]
    jobs.repository.jobs.remove_bitmap(ref(jobs, top, 2), name)
    jobs.repository.jobs.remove_bitmap(ref(jobs, top, 3), name)
    assert list_bitmaps(jobs, top) == [other]
    jobs.repository.jobs.clear_bitmaps(ref(jobs, top, 4))
    assert list_bitmaps(jobs, top) == []
    assert state(jobs, top) == (5, Legality.LEGAL)


def test_a_bitmaps_name_is_used_once_in_a_chain(jobs: World) -> None:
    base = jobs.create_base()
    name = add_bitmap(jobs, base, "in-use")
    top = jobs.create_layer(base)
    with pytest.raises(AddBitmapError):
        jobs.repository.jobs.add_bitmap(ref(jobs, top), name)
    assert state(jobs, top) == (0, Legality.LEGAL)
    fake(jobs).fail_next("add_bitmap", QemuImgFailed("broken"))
    with pytest.raises(AddBitmapError):
        jobs.repository.jobs.add_bitmap(ref(jobs, top), make_id())


def test_bitmaps_that_cannot_be(jobs: World) -> None:
    raw, template = jobs.create_base(format=RAW), jobs.create_base()
    jobs.create_layer(template, make_id())
    data = jobs.repository.jobs
    for call in (
        lambda: data.add_bitmap(ref(jobs, raw), make_id()),
        lambda: data.remove_bitmap(ref(jobs, raw), make_id()),
        lambda: data.clear_bitmaps(ref(jobs, raw)),
        lambda: data.clear_bitmaps(ref(jobs, template)),
    ):
        with pytest.raises(UnsupportedOperation):
            call()
    volume = jobs.create_base()
    add_bitmap(jobs, volume)
    fake(jobs).fail_next("remove_bitmap", QemuImgFailed("broken"))
    with pytest.raises(RemoveBitmapError):
        data.clear_bitmaps(ref(jobs, volume))
    assert state(jobs, volume) == (0, Legality.LEGAL)


def test_only_the_top_is_sparsified_and_only_where_a_program_can(jobs: World) -> None:
    base = jobs.create_base()
    template, top = jobs.create_base(), jobs.create_layer(base)
    jobs.create_layer(template, make_id())
    for target, error in (
        (base, InternalVolumeNonWritable),
        (template, SharedVolumeNonWritable),
        (top, UnsupportedOperation),
    ):
        with pytest.raises(error):
            jobs.repository.jobs.sparsify_volume(ref(jobs, target))
        assert state(jobs, target) == (0, Legality.LEGAL)


@pytest.mark.parametrize("name", ["amend_volume", "sparsify_volume", "add_bitmap", "remove_bitmap", "clear_bitmaps"])
def test_each_job_refuses_another_generation(jobs: World, name: str) -> None:
    volume = jobs.create_base()
    more = {"amend_volume": ("1.1",), "add_bitmap": (make_id(),), "remove_bitmap": (make_id(),)}.get(name, ())
    calls = fake(jobs).calls
    with pytest.raises(GenerationMismatch):
        getattr(jobs.repository.jobs, name)(ref(jobs, volume, 5), *more)
    assert fake(jobs).calls == calls


def test_the_role_changes_while_a_copy_goes_on(tmp_path: Path) -> None:
    copying, go = threading.Event(), threading.Event()

    def step(name: str) -> None:
        if name == "copy data":
            copying.set()
            go.wait(10)

    world = make_world_in_memory(tmp_path, step).start_spm()
    source, target = world.create_base(), world.create_base()
    with ThreadPoolExecutor() as threads:
        copied = threads.submit(copy, world, source, target)
        assert copying.wait(10)
        world.repository.spm.stop(world.pool_id)
        world.repository.spm.start(world.pool_id)
        assert not copied.done()
        go.set()
        copied.result(10)
    assert state(world, target) == (1, Legality.LEGAL)


def test_the_role_stays_while_the_spm_makes_a_volume(tmp_path: Path) -> None:
    making, go = threading.Event(), threading.Event()

    def step(name: str) -> None:
        if name == "format data":
            making.set()
            go.wait(10)

    world = make_world_in_memory(tmp_path, step).start_spm()
    with ThreadPoolExecutor() as threads:
        made = threads.submit(world.create_base)
        assert making.wait(10)
        stopped = threads.submit(world.repository.spm.stop, world.pool_id)
        with pytest.raises(TimeoutError):
            stopped.result(0.1)
        go.set()
        stopped.result(10)
        assert made.done()


def test_jobs_need_no_spm(jobs: World) -> None:
    source, target = jobs.create_base(), jobs.create_base()
    jobs.repository.spm.stop(jobs.pool_id)
    copy(jobs, source, target)
    update(jobs, target, 1, description="by any host")
