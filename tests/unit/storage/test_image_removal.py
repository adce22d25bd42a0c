"""Whole images that are removed, and templates on Backup domains that leave a fake (facts: storage §9.3)."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.storage.test_jobs import fake
from vdsm.core.errors import NodeError
from vdsm.storage.errors import (
    CannotDeleteSharedVolume,
    DiscardIsNotSupported,
    ImagePathError,
    InvalidParameterException,
    SpmStatusError,
    StorageDomainNotInPool,
    VolumeDoesNotExist,
)
from vdsm.storage.errors_jobs import ImageDoesNotExistInSD
from vdsm.storage.model import Allocation, DomainClass, DomainType, Legality, VolumeFormat, VolumeRequest, VolumeRole
from vdsm.testing.storage import World, make_id, make_world_in_memory


def remove(world: World, image_id: str, *, discard: bool = False) -> str | None:
    removals, ids = world.repository.removals, (world.pool_id, world.domain_id, image_id)
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
            spm.repository.removals.set_aside(*ids)
    spm.memory.fail_next("set_aside", ImagePathError("busy"))
    with pytest.raises(ImagePathError):
        remove(spm, user.image_id)
    other = make_id()
    spm.repository.servers.connect(DomainType.LOCALFS, "/other")
    spm.repository.domains.create(DomainType.LOCALFS, other, "n", "/other")
    with pytest.raises(StorageDomainNotInPool):
        spm.repository.removals.set_aside(spm.pool_id, other, user.image_id)
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
    spm.repository.removals.finish(spm.pool_id, spm.domain_id, made.image_id, None)


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
