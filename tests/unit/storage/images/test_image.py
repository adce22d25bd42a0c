"""Preparing images: chains, paths, repair, and what is refused."""

import pytest
from msgspec.structs import replace

from vdsm.core.ids import BLANK_UUID
from vdsm.storage import locks
from vdsm.storage.errors import (
    ImageIsNotLegalChain,
    ImagePathError,
    InvalidParameterException,
    PrepareIllegalVolumeError,
    ResourceTimeout,
    StoragePoolUnknown,
    VolumeAccessError,
    VolumeDoesNotExist,
)
from vdsm.storage.model import VolumeFormat, VolumeMetadata, VolumeRequest
from vdsm.testing.storage import World, make_id


def change(world: World, volume: VolumeRequest, **changes: object) -> None:
    images = world.repository.domains.get(world.domain_id).images
    record: VolumeMetadata = images.read(volume.image_id, volume.volume_id)
    images.change(volume.image_id, volume.volume_id, replace(record, **changes))  # type: ignore[arg-type]


def test_an_image_is_used_while_it_is_copied_but_not_while_it_changes(spm: World) -> None:
    made = spm.create_base()
    images = spm.repository.images
    images._locks._timeout_s = 0.01
    with images._locks.hold(locks.image(spm.domain_id, made.image_id, shared=True)):
        images.prepare(spm.pool_id, spm.domain_id, made.image_id, made.volume_id)
        images.teardown(spm.domain_id, made.image_id)
    with images._locks.hold(locks.image(spm.domain_id, made.image_id)), pytest.raises(ResourceTimeout):
        images.prepare(spm.pool_id, spm.domain_id, made.image_id, made.volume_id)


def test_a_prepared_chain_tells_all_its_volumes_top_first(spm: World) -> None:
    template = spm.create_base(format=VolumeFormat.RAW)
    top = spm.create_layer(template, make_id())
    image = spm.repository.images.prepare(spm.pool_id, spm.domain_id, top.image_id, top.volume_id)
    folder = spm.memory.folder / spm.domain_id / "images" / top.image_id
    assert (image.path, image.kind, image.format) == (folder / top.volume_id, "file", VolumeFormat.COW)
    assert [one.volume_id for one in image.chain] == [top.volume_id, template.volume_id]
    assert {one.path for one in image.chain} == {folder / top.volume_id, folder / template.volume_id}
    link = spm.repository.layout.get_run_link(spm.domain_id, top.image_id)
    assert link.readlink() == folder
    assert (
        spm.repository.images.prepare(BLANK_UUID, spm.domain_id, top.image_id, top.volume_id).path
        == link / top.volume_id
    )
    spm.repository.images.teardown(spm.domain_id, top.image_id)
    spm.repository.images.teardown(spm.domain_id, top.image_id)
    assert not link.is_symlink()


def test_refusals_leave_no_link(spm: World) -> None:
    base = spm.create_base()
    prepare, domain_id = spm.repository.images.prepare, spm.domain_id
    with pytest.raises(StoragePoolUnknown):
        prepare(make_id(), domain_id, base.image_id, base.volume_id)
    with pytest.raises(VolumeDoesNotExist):
        prepare(spm.pool_id, domain_id, base.image_id, make_id())
    with pytest.raises(VolumeDoesNotExist):
        prepare(spm.pool_id, domain_id, make_id(), base.volume_id)
    with pytest.raises(InvalidParameterException):
        prepare(spm.pool_id, domain_id, "../..", base.volume_id)
    spm.memory.files.clear()
    with pytest.raises(VolumeAccessError):
        prepare(spm.pool_id, domain_id, base.image_id, base.volume_id)
    assert not spm.repository.layout.get_run_link(domain_id, base.image_id).is_symlink()


def test_a_failed_repeat_leaves_the_first_preparation_alone(spm: World) -> None:
    base = spm.create_base()
    prepare = spm.repository.images.prepare
    prepare(spm.pool_id, spm.domain_id, base.image_id, base.volume_id)
    spm.memory.files.clear()
    with pytest.raises(VolumeAccessError):
        prepare(spm.pool_id, spm.domain_id, base.image_id, base.volume_id)
    assert spm.repository.layout.get_run_link(spm.domain_id, base.image_id).is_symlink()


def test_illegal_volumes_are_prepared_on_request_only(spm: World) -> None:
    base = spm.create(replace(spm.request(), legal=False))
    prepare = spm.repository.images.prepare
    with pytest.raises(PrepareIllegalVolumeError):
        prepare(spm.pool_id, spm.domain_id, base.image_id, base.volume_id)
    prepare(spm.pool_id, spm.domain_id, base.image_id, base.volume_id, allow_illegal=True)


def test_broken_chains_are_refused(spm: World) -> None:
    base = spm.create_base()
    top = spm.create_layer(base)
    prepare = spm.repository.images.prepare
    change(spm, base, parent_id=top.volume_id)
    with pytest.raises(ImageIsNotLegalChain):
        prepare(spm.pool_id, spm.domain_id, top.image_id, top.volume_id)
    change(spm, base, parent_id=make_id())
    with pytest.raises(ImageIsNotLegalChain):
        prepare(spm.pool_id, spm.domain_id, top.image_id, top.volume_id)


def test_a_capacity_below_the_images_is_repaired_and_a_larger_one_kept(spm: World) -> None:
    base = spm.create_base(capacity_bytes=1 << 20)
    for stored, expected in ((0, 1 << 20), (1 << 21, 1 << 21)):
        change(spm, base, capacity_bytes=stored)
        spm.repository.images.prepare(spm.pool_id, spm.domain_id, base.image_id, base.volume_id)
        metadata = spm.repository.volumes.get_metadata(spm.domain_id, base.image_id, base.volume_id)
        assert metadata.capacity_bytes == expected


def test_an_image_that_is_not_there(spm: World) -> None:
    with pytest.raises(ImagePathError):
        spm.repository.images.list_volumes(spm.domain_id, make_id())
    with pytest.raises(ImagePathError):
        spm.repository.volumes.get_size(spm.domain_id, make_id(), make_id())
