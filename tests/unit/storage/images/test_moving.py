"""Images that are copied and moved to other domains (facts: storage §9.6)."""

import pytest
from msgspec.structs import replace

from tests.unit.storage.images.test_jobs import add_bitmap, change, fake, list_bitmaps
from vdsm.core.errors import NodeError
from vdsm.core.ids import BLANK_UUID
from vdsm.storage.errors import (
    CannotDeleteSharedVolume,
    CopyImageError,
    DiscardIsNotSupported,
    ImageIsNotLegalChain,
    InvalidParameterException,
    PrepareIllegalVolumeError,
    SpmStatusError,
    StorageDomainNotInPool,
    VolumeDoesNotExist,
)
from vdsm.storage.errors_jobs import ImageDoesNotExistInSD, MoveTemplateImageError, OverwriteImageError
from vdsm.storage.model import (
    Allocation,
    DomainClass,
    DomainType,
    ImageMove,
    Legality,
    VolumeFormat,
    VolumeMetadata,
    VolumeRequest,
    VolumeRole,
)
from vdsm.storage.ports import Conversion, QemuImgFailed, Unwatched
from vdsm.storage.rollbacks import RollbacksInMemory
from vdsm.testing.storage import MIB, World, make_id

Records = dict[str, VolumeMetadata]


def add_domain(world: World, domain_class: DomainClass = DomainClass.DATA) -> str:
    """Another active domain of the pool."""
    repository, domain_id, server = world.repository, make_id(), f"/{make_id()}"
    repository.servers.connect(DomainType.LOCALFS, server)
    repository.domains.create(DomainType.LOCALFS, domain_id, "other", server, domain_class)
    repository.members.attach(world.pool_id, domain_id)
    repository.members.activate(world.pool_id, domain_id)
    return domain_id


def see(world: World, domain_id: str, image_id: str) -> Records:
    return world.repository.domains.get(domain_id).images.read_all(image_id)


def list_all(world: World, domain_id: str | None = None) -> list[str]:
    return sorted(world.repository.domains.list_volumes(domain_id or world.domain_id))


def make_image(world: World) -> list[VolumeRequest]:
    """A preallocated base, a layer, and a layer on that."""
    base = world.request(format=VolumeFormat.RAW, allocation=Allocation.PREALLOCATED, description="base")
    image = [world.create(replace(base, disk_type="SCRD", sequence=3))]
    image.append(world.create(replace(world.request(base.image_id, parent_id=base.volume_id), capacity_bytes=2 * MIB)))
    top = world.request(base.image_id, parent_id=image[1].volume_id, capacity_bytes=2 * MIB)
    return [*image, world.create(top)]


def to(world: World, target_id: str, image: list[VolumeRequest]) -> ImageMove:
    return ImageMove(world.pool_id, world.domain_id, target_id, image[0].image_id)


def as_made(records: Records, target_id: str) -> Records:
    return {
        volume_id: replace(record, domain_id=target_id, generation=0, created_s=0)
        for volume_id, record in records.items()
    }


@pytest.mark.parametrize("keep", [True, False])
def test_an_image_with_all_its_layers(spm: World, keep: bool) -> None:
    image, target_id, watch = make_image(spm), add_domain(spm), Unwatched()
    change(spm, image[1], generation=7)
    bitmap, told = add_bitmap(spm, image[2]), []
    before = see(spm, spm.domain_id, image[0].image_id)
    paths = [spm.get_path(volume) for volume in image]
    entries = RollbacksInMemory()
    spm.repository.moves.transfer(
        to(spm, target_id, image), keep=keep, rollbacks=entries, watch=replace(watch, report_progress=told.append)
    )
    after = see(spm, target_id, image[0].image_id)
    assert as_made(after, target_id) == as_made(before, target_id)
    assert {record.generation for record in after.values()} == {0}
    assert see(spm, spm.domain_id, image[0].image_id) == (before if keep else {})
    assert [(one.source.path, one.backing) for one in fake(spm).done if isinstance(one, Conversion)] == [
        (path, None if volume.parent_id == BLANK_UUID else volume.parent_id)
        for path, volume in zip(paths, image, strict=True)
    ]
    assert told == sorted(told) and len(told) == 3 and told[-1] <= 100
    source_id, spm.domain_id = spm.domain_id, target_id
    assert list_bitmaps(spm, image[2]) == [bitmap]
    # What a manager may revert: the copy goes again; of a move nothing is left to be taken back.
    entries.run(spm.repository.recovery.recover)
    assert list_all(spm) == ([] if keep else sorted(before))
    assert list_all(spm, source_id) == (sorted(before) if keep else [])


def test_what_is_refused_changes_nothing(spm: World) -> None:
    image, target_id = make_image(spm), add_domain(spm)
    moves, move, entries = spm.repository.moves, to(spm, target_id, image), RollbacksInMemory()
    outside, template = make_id(), spm.create_base()
    spm.create_layer(template, make_id())
    spm.repository.servers.connect(DomainType.LOCALFS, "/other")
    spm.repository.domains.create(DomainType.LOCALFS, outside, "n", "/other")
    before = list_all(spm)
    cases: list[tuple[type[NodeError], ImageMove]] = [
        (InvalidParameterException, replace(move, target_id=spm.domain_id)),
        (InvalidParameterException, replace(move, image_id="../x")),
        (InvalidParameterException, replace(move, image_id=BLANK_UUID)),
        (ImageDoesNotExistInSD, replace(move, image_id=make_id())),
        (StorageDomainNotInPool, replace(move, target_id=outside)),
        (ImageDoesNotExistInSD, replace(move, source_id=outside)),
        (MoveTemplateImageError, replace(move, image_id=template.image_id)),
    ]
    for error, wrong in cases:
        with pytest.raises(error):
            moves.transfer(wrong, keep=False, rollbacks=entries)
    with pytest.raises(DiscardIsNotSupported):
        moves.transfer(move, keep=False, discard=True, rollbacks=entries)
    for legality in (Legality.ILLEGAL, Legality.FAKE):
        change(spm, image[1], legality=legality)
        with pytest.raises(ImageIsNotLegalChain):
            moves.transfer(move, keep=True, rollbacks=entries)
        change(spm, image[1], legality=Legality.LEGAL)
    spm.repository.domains.get(spm.domain_id).backend.volumes.write_record(image[0].image_id, make_id(), b"damaged")
    with pytest.raises(ImageIsNotLegalChain, match="cannot be read"):
        moves.transfer(move, keep=False, rollbacks=entries)
    spm.repository.spm.stop(spm.pool_id)
    with pytest.raises(SpmStatusError):
        moves.transfer(replace(move, image_id=template.image_id), keep=True, rollbacks=entries)
    with pytest.raises(SpmStatusError):
        moves.sync_data(move, inner=True, leaf=True)
    assert (set(before) <= set(list_all(spm)), list_all(spm, target_id)) == (True, [])
    assert (entries.entries, fake(spm).done) == ([], [])


def test_what_is_in_its_place(spm: World) -> None:
    image, target_id = make_image(spm), add_domain(spm)
    move, source_id = to(spm, target_id, image), spm.domain_id
    spm.domain_id = target_id
    there = spm.create(spm.request(move.image_id))
    with pytest.raises(OverwriteImageError):
        spm.repository.moves.transfer(move, keep=True)
    assert list_all(spm) == [there.volume_id]
    spm.repository.moves.transfer(move, keep=True, force=True)
    assert list_all(spm) == list_all(spm, source_id)
    change(spm, image[0], legality=Legality.ILLEGAL)
    spm.repository.moves.transfer(move, keep=True)
    assert spm.get_record(image[0]).legality is Legality.LEGAL


@pytest.mark.parametrize("stopped", [False, True])
def test_one_that_fails_is_taken_back_without_a_task_too(spm: World, stopped: bool) -> None:
    image, target_id, watch = make_image(spm), add_domain(spm), Unwatched()
    if stopped:
        watch.stopping.set()
    fake(spm).fail_next("convert", QemuImgFailed("broken"))
    with pytest.raises(CopyImageError):
        spm.repository.moves.transfer(to(spm, target_id, image), keep=False, watch=watch)
    assert (list_all(spm, target_id), len(list_all(spm))) == ([], 3)


def test_a_template_must_be_there_and_is_faked_on_a_backup_domain(spm: World) -> None:
    template = spm.create_base()
    user = spm.create_layer(template, make_id())
    target_id, backup_id = add_domain(spm), add_domain(spm, DomainClass.BACKUP)
    moves, move = spm.repository.moves, to(spm, target_id, [user])
    with pytest.raises(ImageDoesNotExistInSD):
        moves.transfer(move, keep=True)
    assert list_all(spm, target_id) == []
    moves.transfer(to(spm, target_id, [template]), keep=True)
    moves.transfer(move, keep=True)
    assert see(spm, target_id, user.image_id).keys() == {user.volume_id, template.volume_id}
    assert see(spm, target_id, template.image_id)[template.volume_id].role is VolumeRole.SHARED
    # To a Backup domain, and back from it; then the template goes there, too.
    moves.transfer(replace(move, target_id=backup_id), keep=False)
    faked = see(spm, backup_id, user.image_id)[template.volume_id]
    assert (faked.legality, faked.role, faked.format) == (Legality.FAKE, VolumeRole.SHARED, VolumeFormat.COW)
    assert faked == see(spm, backup_id, template.image_id)[template.volume_id]
    assert list_all(spm) == [template.volume_id]
    moves.transfer(replace(move, source_id=backup_id, target_id=spm.domain_id), keep=True)
    assert spm.get_record(user).legality is Legality.LEGAL
    moves.transfer(to(spm, backup_id, [template]), keep=True)
    assert see(spm, backup_id, user.image_id)[template.volume_id].legality is Legality.LEGAL
    with pytest.raises(CannotDeleteSharedVolume):
        moves.transfer(to(spm, backup_id, [template]), keep=True, force=True)


def test_structure_first_and_data_later(spm: World) -> None:
    image, target_id = make_image(spm), add_domain(spm)
    moves, move = spm.repository.moves, to(spm, target_id, image)
    with pytest.raises(VolumeDoesNotExist):
        moves.sync_data(move, inner=True, leaf=True)
    moves.clone_structure(move)
    assert fake(spm).done == []
    made = see(spm, target_id, move.image_id)
    assert as_made(made, target_id) == as_made(see(spm, spm.domain_id, move.image_id), target_id)
    with pytest.raises(OverwriteImageError):
        moves.clone_structure(move)
    moves.sync_data(move, inner=True, leaf=False)
    moves.sync_data(move, inner=False, leaf=True)
    copied = [one.source.path.name for one in fake(spm).done if isinstance(one, Conversion)]
    assert copied == [volume.volume_id for volume in image]
    assert {record.generation for record in see(spm, target_id, move.image_id).values()} == {1}
    change(spm, image[0], legality=Legality.ILLEGAL)
    with pytest.raises(PrepareIllegalVolumeError):
        moves.sync_data(move, inner=True, leaf=True)


def test_a_source_that_changed_while_it_was_copied_stays(spm: World, monkeypatch: pytest.MonkeyPatch) -> None:
    image, target_id, convert = make_image(spm), add_domain(spm), fake(spm).convert

    def change_then_convert(conversion: Conversion, watch: Unwatched) -> None:
        change(spm, image[2], generation=9)  # as who takes no lock of ours
        convert(conversion, watch)

    monkeypatch.setattr(fake(spm), "convert", change_then_convert)
    with pytest.raises(ImageIsNotLegalChain, match="changed"):
        spm.repository.moves.transfer(to(spm, target_id, image), keep=False)
    assert (len(list_all(spm)), list_all(spm, target_id)) == (3, [])


def test_a_failed_removal_of_the_source_is_finished(spm: World) -> None:
    image, target_id = make_image(spm), add_domain(spm)
    spm.memory.fail_next("set_aside", CopyImageError("x", "busy"))
    with pytest.raises(CopyImageError):
        spm.repository.moves.transfer(to(spm, target_id, image), keep=False)
    assert (list_all(spm), len(list_all(spm, target_id))) == ([], 3)
