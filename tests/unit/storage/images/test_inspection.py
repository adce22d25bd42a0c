"""Looking at volumes' data, and changing what is told of them by the SPM."""

import pytest
from msgspec.structs import replace

from tests.unit.storage.images.test_jobs import add_bitmap, fake
from vdsm.core.errors import NodeError
from vdsm.storage.errors import (
    ImageIsNotLegalChain,
    ImageVerificationError,
    InvalidParameterException,
    SharedVolumeNonWritable,
    SpmStatusError,
    StorageDomainDoesNotExist,
    StorageDomainNotInPool,
    StoragePoolUnknown,
    UnsupportedOperation,
    VolumeAccessError,
    VolumeDoesNotExist,
)
from vdsm.storage.model import Legality, VolumeFormat, VolumeRef, VolumeRequest
from vdsm.storage.ports import ImageFile, QemuImgFailed
from vdsm.testing.storage import World, make_id

RAW, COW = VolumeFormat.RAW, VolumeFormat.COW


def ids(world: World, volume: VolumeRequest) -> tuple[str, str, str]:
    return world.domain_id, volume.image_id, volume.volume_id


def tamper(world: World, volume: VolumeRequest, **changes: object) -> None:
    path = world.get_path(volume)
    fake(world).images[path] = replace(fake(world).images[path], **changes)  # type: ignore[arg-type]


def test_what_qemu_tells(spm: World) -> None:
    base = spm.create_base(format=RAW)
    top = spm.create_layer(base)
    bitmap = add_bitmap(spm, top, "in-use", "auto")
    info = spm.repository.inspection.get_image_info(*ids(spm, top))
    assert (info.format, info.backing_file, [one.name for one in info.bitmaps]) == ("qcow2", base.volume_id, [bitmap])
    assert spm.repository.inspection.get_image_info(*ids(spm, base)).format == "raw"
    tamper(spm, top, has_data_file=True)
    with pytest.raises(ImageVerificationError):
        spm.repository.inspection.get_image_info(*ids(spm, top))
    for call in ("info", "inspect"):
        tamper(spm, top, has_data_file=False)
        fake(spm).fail_next(call, QemuImgFailed("broken"))
        with pytest.raises(VolumeAccessError):
            spm.repository.inspection.get_image_info(*ids(spm, top))


def test_which_layers_are_measured(spm: World, monkeypatch: pytest.MonkeyPatch) -> None:
    base = spm.create_base(format=RAW)
    middle = spm.create_layer(base)
    top = spm.create_layer(middle)
    measured: list[list[str]] = []
    measure = fake(spm).measure
    monkeypatch.setattr(
        fake(spm),
        "measure",
        lambda layers, format: (measured.append([one.path.name for one in layers]), measure(layers, format))[1],
    )
    names = [one.volume_id for one in (top, middle, base)]
    for more, wanted in (
        ({}, names),
        ({"backing_chain": False}, names[:1]),
        ({"base_id": middle.volume_id}, names[:2]),
        ({"base_id": middle.volume_id, "backing_chain": False}, names[:2]),
    ):
        spm.repository.inspection.measure(*ids(spm, top), COW, **more)  # type: ignore[arg-type]
        assert measured.pop() == wanted
    for base_id, error in ((base.volume_id, UnsupportedOperation), ("../x", InvalidParameterException)):
        with pytest.raises(error):
            spm.repository.inspection.measure(*ids(spm, top), COW, base_id=base_id)
    tamper(spm, middle, backing_file="/etc/shadow")
    with pytest.raises(ImageIsNotLegalChain):
        spm.repository.inspection.measure(*ids(spm, top), COW)


def test_untrusted_data_is_verified(spm: World) -> None:
    base = spm.create_base(format=RAW)
    top = spm.create_layer(base)
    verify = spm.repository.inspection.verify
    for volume in (base, top):
        verify(*ids(spm, volume))
    tamper(spm, base, format="vmdk")
    tamper(spm, top, backing_file=make_id())
    for volume in (base, top):
        with pytest.raises(ImageVerificationError):
            verify(*ids(spm, volume))
    tamper(spm, top, backing_file=base.volume_id)
    for call in ("inspect", "info"):
        fake(spm).fail_next(call, QemuImgFailed("broken"))
        with pytest.raises(ImageVerificationError):
            verify(*ids(spm, top))
    with pytest.raises(VolumeDoesNotExist):
        verify(spm.domain_id, top.image_id, make_id())
    assert isinstance(fake(spm).images[spm.get_path(top)], ImageFile)


def test_old_domains_take_old_versions_only(world: World) -> None:
    world.start_spm(3)
    volume = world.create_base()
    world.repository.inspection.verify(*ids(world, volume))
    tamper(world, volume, compat="1.1")
    with pytest.raises(ImageVerificationError):
        world.repository.inspection.verify(*ids(world, volume))


def test_the_spm_changes_records_and_counts_nothing(spm: World) -> None:
    volume = spm.create_base()
    change = spm.repository.corrections.change
    change(spm.pool_id, VolumeRef(*ids(spm, volume)), description="x" * 300)
    change(spm.pool_id, VolumeRef(*ids(spm, volume)), legality=Legality.ILLEGAL)
    record = spm.get_record(volume)
    assert (record.description, record.legality, record.generation) == ("x" * 210, Legality.ILLEGAL, 0)


def test_changes_that_are_refused(spm: World) -> None:
    volume, template = spm.create_base(), spm.create_base()
    user = spm.create_layer(template, make_id())
    change, pool_id = spm.repository.corrections.change, spm.pool_id
    linked = replace(template, image_id=user.image_id)
    before = spm.get_record(volume)
    cases: list[tuple[type[NodeError], str, tuple[str, str, str], dict[str, object]]] = [
        (InvalidParameterException, pool_id, ids(spm, volume), {"legality": Legality.FAKE}),
        (InvalidParameterException, pool_id, ids(spm, volume), {"description": "a\nVOLTYPE=SHARED"}),
        (InvalidParameterException, pool_id, (spm.domain_id, "..", volume.volume_id), {"description": "x"}),
        (SharedVolumeNonWritable, pool_id, ids(spm, linked), {"description": "x"}),
        (VolumeDoesNotExist, pool_id, (spm.domain_id, volume.image_id, make_id()), {"description": "x"}),
        (StorageDomainDoesNotExist, pool_id, (make_id(), volume.image_id, volume.volume_id), {"description": "x"}),
        (StoragePoolUnknown, make_id(), ids(spm, volume), {"description": "x"}),
    ]
    for error, pool, where, changes in cases:
        with pytest.raises(error):
            change(pool, VolumeRef(*where), **changes)  # type: ignore[arg-type]
    other = World(spm.repository, str(spm.memory.folder / "other"), spm.kind, spm.fake_qemu)
    other.create_domain()
    with pytest.raises(StorageDomainNotInPool):
        change(pool_id, VolumeRef(other.domain_id, volume.image_id, volume.volume_id), description="x")
    spm.repository.spm.stop(pool_id)
    with pytest.raises(SpmStatusError):
        change(pool_id, VolumeRef(*ids(spm, volume)), description="x")
    assert spm.get_record(volume) == before
