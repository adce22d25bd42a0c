"""Whole images that are removed or made of others, and templates on Backup domains (facts: storage §9.3, §9.6)."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.unit.storage.images.test_jobs import change, fake, ref, state
from vdsm.core.errors import NodeError
from vdsm.storage.errors import (
    CannotDeleteSharedVolume,
    CopyImageError,
    DiscardIsNotSupported,
    ImageIsNotLegalChain,
    ImagePathError,
    InvalidParameterException,
    SpmStatusError,
    StorageDomainNotInPool,
    VolumeDoesNotExist,
)
from vdsm.storage.errors_jobs import ImageDoesNotExistInSD, OverwriteImageError
from vdsm.storage.model import Allocation, DomainClass, DomainType, Legality, VolumeFormat, VolumeRequest, VolumeRole
from vdsm.storage.ports import Conversion, QemuImgFailed, Unwatched
from vdsm.storage.rollbacks import RollbacksInMemory
from vdsm.testing.storage import MIB, World, make_id, make_world_in_memory


def remove(world: World, image_id: str, *, discard: bool = False) -> str | None:
    removals, ids = world.repository.whole_images, (world.pool_id, world.domain_id, image_id)
    template_id = removals.set_aside(*ids)
    removals.finish(*ids, template_id, discard=discard)
    return template_id


def list_all(world: World) -> list[str]:
    return world.repository.domains.list_volumes(world.domain_id)


def make_backup(world: World) -> World:
    """The world's volumes are to be on a Backup domain of its pool from now on."""
    repository, world.domain_id = world.repository, make_id()
    repository.servers.connect(DomainType.LOCALFS, "/backup")
    repository.domains.create(DomainType.LOCALFS, world.domain_id, "backup", "/backup", DomainClass.BACKUP)
    repository.members.attach(world.pool_id, world.domain_id)
    repository.members.activate(world.pool_id, world.domain_id)
    return world


def test_an_image_goes_with_all_its_volumes_and_its_template_stays(spm: World) -> None:
    template = spm.create_base()
    user = spm.create_layer(template, make_id())
    spm.create_layer(user)
    assert remove(spm, user.image_id) is None
    assert list_all(spm) == [template.volume_id]
    with pytest.raises(ImageDoesNotExistInSD):
        remove(spm, user.image_id)
    spm.create_layer(template, user.image_id)
    remove(spm, user.image_id)
    remove(spm, template.image_id)  # nobody uses it any more
    assert list_all(spm) == [] and not spm.memory.files


def test_discard_is_told_when_the_image_is_gone(spm: World) -> None:
    made = spm.create_base()
    with pytest.raises(DiscardIsNotSupported):
        remove(spm, made.image_id, discard=True)
    assert list_all(spm) == []


def test_refusals_change_nothing(spm: World) -> None:
    template = spm.create_base()
    user = spm.create_layer(template, make_id())
    before = sorted(list_all(spm))
    cases: list[tuple[type[NodeError], tuple[str, str, str]]] = [
        (CannotDeleteSharedVolume, (spm.pool_id, spm.domain_id, template.image_id)),
        (ImageDoesNotExistInSD, (spm.pool_id, spm.domain_id, make_id())),
        (InvalidParameterException, (spm.pool_id, spm.domain_id, "../x")),
    ]
    for error, ids in cases:
        with pytest.raises(error):
            spm.repository.whole_images.set_aside(*ids)
    spm.memory.fail_next("set_aside", ImagePathError("busy"))
    with pytest.raises(ImagePathError):
        remove(spm, user.image_id)
    other = make_id()
    spm.repository.servers.connect(DomainType.LOCALFS, "/other")
    spm.repository.domains.create(DomainType.LOCALFS, other, "n", "/other")
    with pytest.raises(StorageDomainNotInPool):
        spm.repository.whole_images.set_aside(spm.pool_id, other, user.image_id)
    spm.repository.spm.stop(spm.pool_id)
    with pytest.raises(SpmStatusError):
        remove(spm, user.image_id)
    assert sorted(list_all(spm)) == before


def test_a_purge_that_fails_is_done_again(spm: World) -> None:
    made = spm.create_base()
    spm.memory.fail_next("purge", ImagePathError("busy"))
    with pytest.raises(ImagePathError):
        remove(spm, made.image_id)
    assert list_all(spm) == []
    spm.repository.whole_images.finish(spm.pool_id, spm.domain_id, made.image_id, None)


def make_used_template(world: World) -> tuple[VolumeRequest, list[VolumeRequest]]:
    template = world.create_base(format=VolumeFormat.RAW, allocation=Allocation.PREALLOCATED)
    return template, [world.create_layer(template, make_id()) for _ in range(2)]


def check_fake(world: World, template: VolumeRequest, users: list[VolumeRequest]) -> None:
    for image_id in (template.image_id, *(user.image_id for user in users)):
        record = world.get_record(replace(template, image_id=image_id))
        assert (record.legality, record.role) == (Legality.FAKE, VolumeRole.SHARED)
        assert (record.format, record.allocation, record.has_parent) == (VolumeFormat.COW, Allocation.SPARSE, False)
        assert world.memory.files[world.get_path(replace(template, image_id=image_id))] < template.capacity_bytes
    assert fake(world).images[world.get_path(template)].format == "qcow2"


def test_a_template_on_a_backup_domain_leaves_a_fake(spm: World) -> None:
    template, users = make_used_template(make_backup(spm))
    for _ in range(2):
        assert remove(spm, template.image_id) == template.volume_id
        check_fake(spm, template, users)
    for user in users:
        remove(spm, user.image_id)
    assert remove(spm, template.image_id) is None
    assert list_all(spm) == []


def test_a_template_with_more_in_its_image_is_refused_there_too(spm: World) -> None:
    template, _ = make_used_template(make_backup(spm))
    spm.create_layer(template)
    with pytest.raises(CannotDeleteSharedVolume):
        remove(spm, template.image_id)


@pytest.mark.parametrize("number", range(1, 8))
def test_a_fake_that_is_killed_is_finished_by_doing_it_again(tmp_path: Path, number: int) -> None:
    steps: list[str] = []

    def step(name: str) -> None:
        steps.append(name)
        if is_armed and len(steps) == number:
            raise ZeroDivisionError

    is_armed = False
    world = make_backup(make_world_in_memory(tmp_path, step).start_spm())
    template, users = make_used_template(world)
    is_armed, steps[:] = True, []
    try:
        remove(world, template.image_id)
        assert number == 7, steps
    except ZeroDivisionError:
        is_armed = False
        for user in users:
            # What was used is there as it was, or is known for a fake, or missed.
            path = world.get_path(replace(template, image_id=user.image_id))
            try:
                if world.get_record(replace(template, image_id=user.image_id)).legality is Legality.LEGAL:
                    assert world.memory.files[path] == template.capacity_bytes
            except VolumeDoesNotExist:
                assert path not in world.memory.files
        remove(world, template.image_id)
    check_fake(world, template, users)


# Copies.

UNWATCHED = Unwatched()
SHARED, LEAF = VolumeRole.SHARED, VolumeRole.LEAF


def copy(
    world: World,
    source: VolumeRequest,
    target: VolumeRequest,
    role: VolumeRole = SHARED,
    *,
    force: bool = False,
    rollbacks: RollbacksInMemory | None = None,
    watch: Unwatched = UNWATCHED,
) -> None:
    images = world.repository.whole_images
    images.copy(replace(ref(world, source, None)), target, role, force, rollbacks, watch)


def make_chain(world: World) -> tuple[VolumeRequest, VolumeRequest]:
    base = world.create(replace(world.request(format=VolumeFormat.RAW, capacity_bytes=2 * MIB), disk_type="SCRD"))
    return base, world.create(replace(world.request(base.image_id, parent_id=base.volume_id), capacity_bytes=2 * MIB))


def test_a_chain_becomes_a_template(spm: World) -> None:
    base, top = make_chain(spm)
    change(spm, top, disk_type="SCRD", generation=7)
    before = [spm.get_record(volume) for volume in (base, top)]
    target = spm.request(description="golden")
    copy(spm, top, target)
    record = spm.get_record(target)
    assert (record.role, record.legality, record.generation) == (SHARED, Legality.LEGAL, 0)
    assert (record.capacity_bytes, record.disk_type, record.description) == (2 * MIB, "SCRD", "golden")
    [done] = fake(spm).done
    assert isinstance(done, Conversion)
    assert (done.source.path, done.target.path, done.backing) == (spm.get_path(top), spm.get_path(target), None)
    assert [spm.get_record(volume) for volume in (base, top)] == before
    spm.create(spm.request(parent_id=target.volume_id, parent_image_id=target.image_id, capacity_bytes=2 * MIB))
    plain = spm.request(format=VolumeFormat.RAW, allocation=Allocation.PREALLOCATED)
    copy(spm, base, plain, LEAF)
    assert spm.get_record(plain).role is LEAF


@pytest.mark.parametrize("force", [False, True])
def test_what_is_in_the_place_of_a_copy(spm: World, force: bool) -> None:
    _, top = make_chain(spm)
    legal, illegal = spm.create_base(), spm.create(replace(spm.request(), legal=False))
    copy(spm, top, spm.request(illegal.image_id), force=force)
    assert illegal.volume_id not in list_all(spm)
    if force:
        copy(spm, top, spm.request(legal.image_id, legal.volume_id), force=True)
        assert spm.get_record(legal).role is SHARED
        layer = spm.request(parent_id=legal.volume_id, parent_image_id=legal.image_id, capacity_bytes=2 * MIB)
        user = spm.create(layer)
        with pytest.raises(CannotDeleteSharedVolume):
            copy(spm, top, spm.request(legal.image_id), force=True)
        assert {legal.volume_id, user.volume_id} <= set(list_all(spm))
    else:
        with pytest.raises(OverwriteImageError):
            copy(spm, top, spm.request(legal.image_id))
        assert spm.get_record(legal).role is LEAF


def test_copies_that_are_refused_change_nothing(spm: World) -> None:
    base, top = make_chain(spm)
    there, before = spm.create(replace(spm.request(), legal=False)), sorted(list_all(spm))
    target, entries = spm.request(there.image_id), RollbacksInMemory()
    cases: list[tuple[type[NodeError], VolumeRequest, VolumeRequest, VolumeRole]] = [
        (InvalidParameterException, top, spm.request(top.image_id), SHARED),
        (InvalidParameterException, top, target, VolumeRole.INTERNAL),
        (InvalidParameterException, replace(top, volume_id="../x"), target, SHARED),
        (InvalidParameterException, top, replace(target, image_id="../x"), SHARED),
        (InvalidParameterException, top, replace(target, description="a\nb"), SHARED),
        (VolumeDoesNotExist, replace(top, volume_id=make_id()), target, SHARED),
        (VolumeDoesNotExist, replace(top, image_id=make_id()), target, SHARED),
    ]
    for error, source, request, role in cases:
        with pytest.raises(error):
            copy(spm, source, request, role, rollbacks=entries)
    for legality in (Legality.ILLEGAL, Legality.FAKE):
        change(spm, base, legality=legality)
        with pytest.raises(ImageIsNotLegalChain):
            copy(spm, top, target, rollbacks=entries)
        change(spm, base, legality=Legality.LEGAL)
    fake(spm).images[spm.get_path(top)] = replace(fake(spm).images[spm.get_path(top)], backing_file="/etc/shadow")
    with pytest.raises(ImageIsNotLegalChain):
        copy(spm, top, target, rollbacks=entries)
    spm.repository.spm.stop(spm.pool_id)
    with pytest.raises(SpmStatusError):
        copy(spm, base, target, rollbacks=entries)
    assert (sorted(list_all(spm)), entries.entries, fake(spm).done) == (before, [], [])


def test_a_job_reads_no_fake_either(spm: World) -> None:
    base, top = make_chain(spm)
    target = spm.create_base()
    change(spm, base, legality=Legality.FAKE)
    with pytest.raises(ImageIsNotLegalChain):
        spm.repository.jobs.copy_data(ref(spm, top), ref(spm, target))
    assert state(spm, target) == (0, Legality.LEGAL)


def test_only_an_illegal_volume_is_filled(spm: World) -> None:
    _, top = make_chain(spm)
    target = spm.create_base()
    with pytest.raises(NodeError, match="LEGAL already"):
        spm.repository.jobs.fill_volume(ref(spm, top), ref(spm, target), SHARED)
    assert fake(spm).done == []


@pytest.mark.parametrize("stopped", [False, True])
def test_a_copy_that_fails_is_taken_back(spm: World, stopped: bool) -> None:
    _, top = make_chain(spm)
    before, target, entries, watch = sorted(list_all(spm)), spm.request(), RollbacksInMemory(), Unwatched()
    if stopped:
        watch.stopping.set()
    else:
        fake(spm).fail_next("convert", QemuImgFailed("broken"))
    with pytest.raises(CopyImageError):
        copy(spm, top, target, rollbacks=entries, watch=watch)
    assert state(spm, target) == (0, Legality.ILLEGAL)
    entries.run(spm.repository.recovery.recover)
    assert sorted(list_all(spm)) == before
    copy(spm, top, target)


def test_a_fake_is_replaced_by_its_template_for_all_that_use_it(spm: World) -> None:
    template, users = make_used_template(make_backup(spm))
    remove(spm, template.image_id)
    _, top = make_chain(spm)
    again = replace(template, format=VolumeFormat.COW, allocation=Allocation.SPARSE)
    with pytest.raises(ImageIsNotLegalChain):
        copy(spm, users[0], spm.request())
    copy(spm, top, again)
    for image_id in (template.image_id, *(user.image_id for user in users)):
        record = spm.get_record(replace(template, image_id=image_id))
        assert (record.legality, record.role) == (Legality.LEGAL, SHARED)


@pytest.mark.parametrize("number", range(1, 24))
def test_a_copy_that_is_killed_leaves_no_legal_half(tmp_path: Path, number: int) -> None:
    steps: list[str] = []

    def step(name: str) -> None:
        steps.append(name)
        if is_armed and len(steps) == number:
            raise ZeroDivisionError

    is_armed = False
    world = make_world_in_memory(tmp_path, step).start_spm()
    base, top = make_chain(world)
    target = world.create(replace(world.request(), legal=False))
    before = [world.get_record(volume) for volume in (base, top)]
    is_armed, entries, steps[:] = True, RollbacksInMemory(), []
    try:
        copy(world, top, target, rollbacks=entries)
        assert steps[-1] == "done" and number > len(steps)
    except ZeroDivisionError:
        is_armed = False
        if target.volume_id in list_all(world) and state(world, target)[1] is Legality.LEGAL:
            assert (steps[-1], world.get_record(target).role) == ("done", SHARED)
        entries.run(world.repository.recovery.recover)
        if number > 1:
            assert target.volume_id not in list_all(world)
        copy(world, top, target)
    assert world.get_record(target).role is SHARED
    assert [world.get_record(volume) for volume in (base, top)] == before


def test_two_copies_to_one_place_do_not_remove_each_other(spm: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _, top = make_chain(spm)
    target, jobs, made, go_on = spm.request(), spm.repository.jobs, threading.Event(), threading.Event()
    fill = jobs.fill_volume

    def fill_late(*args: Any, **more: Any) -> None:
        made.set()
        assert go_on.wait(5)
        fill(*args, **more)

    monkeypatch.setattr(jobs, "fill_volume", fill_late)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(copy, spm, top, target)
        assert made.wait(5)
        second = threads.submit(copy, spm, top, target)
        with pytest.raises(TimeoutError):
            second.result(0.05)
        go_on.set()
        first.result(5)
        with pytest.raises(OverwriteImageError):
            second.result(5)
    assert spm.get_record(target).role is SHARED
