"""Recovery entries of this and other implementations, and the sweep."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from vdsm.storage.errors import (
    InvalidParameterException,
    StorageDomainDoesNotExist,
    StorageDomainNotInPool,
    VolumeDoesNotExist,
)
from vdsm.storage.model import Legality, VolumeFormat, VolumeRequest, VolumeRole
from vdsm.storage.recovery import _ENTRIES, Recovery
from vdsm.testing.storage import World, make_id

FILE = ("fileVolume", "FileVolume")


def paths(world: World, volume: VolumeRequest) -> tuple[str, str]:
    """The image's folder and the volume's path, as another host would write them."""
    folder = f"/rhev/data-center/mnt/server:_a,b/{world.domain_id}/images/{volume.image_id}"
    return folder, f"{folder}/{volume.volume_id}"


def list_all(world: World) -> list[str]:
    return world.repository.domains.list_volumes(world.domain_id)


def test_create_volume_rollback_removes_the_volume_and_its_image(spm: World) -> None:
    template = spm.create_base()
    made = spm.create_layer(template, make_id())
    ids = (spm.domain_id, made.image_id, made.volume_id)
    params = ("/rhev/data-center", *ids, *paths(spm, made)[0].split(","))
    for _ in range(2):
        spm.repository.recovery.recover(*FILE, "createVolumeRollback", params)
    assert list_all(spm) == [template.volume_id]
    assert spm.repository.domains.list_images(spm.domain_id) == [template.image_id]


def test_create_volume_rollback_keeps_an_image_that_has_more(spm: World) -> None:
    base = spm.create_base()
    layer = spm.create_layer(base)
    ids = (spm.domain_id, layer.image_id, layer.volume_id)
    spm.repository.recovery.recover(*FILE, "createVolumeRollback", ("/r", *ids, paths(spm, layer)[0]))
    assert list_all(spm) == [base.volume_id]
    role = spm.repository.volumes.get_metadata(spm.domain_id, base.image_id, base.volume_id).role
    assert role is VolumeRole.LEAF


@pytest.mark.parametrize("with_ids", [True, False])
def test_half_baked_data_goes_only_without_a_record(spm: World, with_ids: bool) -> None:
    made = spm.create_base()
    path = paths(spm, made)[1]
    params = (spm.domain_id, made.volume_id, *path.split(",")) if with_ids else tuple(path.split(","))
    recover = spm.repository.recovery.recover
    recover("glusterVolume", "GlusterVolume", "halfbakedVolumeRollback", params)
    data = spm.repository.domains.get_backend(spm.domain_id).data
    assert data.has_data(made.image_id, made.volume_id)
    recover(*FILE, "createVolumeMetadataRollback", (path,))
    recover(*FILE, "halfbakedVolumeRollback", params)
    assert not data.has_data(made.image_id, made.volume_id)
    recover("sd", "StorageDomain", "create_image_rollback", (paths(spm, made)[0],))
    assert not spm.repository.domains.get_backend(spm.domain_id).volumes.has_image(made.image_id)


def test_an_image_that_is_not_empty_stays(spm: World) -> None:
    made = spm.create_base()
    spm.repository.recovery.recover("sd", "StorageDomain", "create_image_rollback", (paths(spm, made)[0],))
    assert list_all(spm) == [made.volume_id]


def test_share_rollback_removes_only_links_that_nobody_uses(spm: World) -> None:
    template = spm.create_base()
    user = spm.create_layer(template, make_id())
    volumes = spm.repository.domains.get_backend(spm.domain_id).volumes
    link = replace(template, image_id=user.image_id)
    recover = spm.repository.recovery.recover
    recover(*FILE, "shareVolumeRollback", (paths(spm, link)[1],))
    recover(*FILE, "shareVolumeRollback", (paths(spm, template)[1],))
    assert template.volume_id in volumes.list_records(user.image_id)
    assert template.volume_id in volumes.list_records(template.image_id)
    recover(*FILE, "createVolumeMetadataRollback", (paths(spm, user)[1],))
    recover(*FILE, "shareVolumeRollback", (paths(spm, link)[1],))
    assert volumes.list_records(user.image_id) == []
    assert template.volume_id in volumes.list_records(template.image_id)


@pytest.mark.parametrize("done", [(), ("data",), ("record",), ("data", "record")])
def test_a_volume_that_was_renamed_gets_its_old_name_back_however_far_that_came(
    spm: World, done: tuple[str, ...]
) -> None:
    made, other = spm.create_base(), spm.create_base()
    renamed, backend = replace(made, volume_id=make_id()), spm.repository.domains.get_backend(spm.domain_id)
    before, ids = spm.get_record(made), (made.image_id, made.volume_id)
    if "data" in done:
        backend.data.rename_data(*ids, renamed.volume_id)
    if "record" in done:
        backend.volumes.write_record(made.image_id, renamed.volume_id, backend.volumes.read_record(*ids))
        backend.volumes.remove_record(*ids)
    params = (*paths(spm, made)[1].split(","), *paths(spm, renamed)[1].split(","))
    for _ in range(2):
        spm.repository.recovery.recover(*FILE, "renameVolumeRollback", params)
    assert sorted(list_all(spm)) == sorted([made.volume_id, other.volume_id])
    assert (spm.get_record(made), backend.data.has_data(*ids)) == (before, True)
    assert list(backend.leftovers.list_half_made()) == []


def test_two_volumes_keep_their_names(spm: World) -> None:
    base = spm.create_base()
    layer = spm.create_layer(base)
    params = (*paths(spm, base)[1].split(","), *paths(spm, layer)[1].split(","))
    spm.repository.recovery.recover(*FILE, "renameVolumeRollback", params)
    assert sorted(list_all(spm)) == sorted([base.volume_id, layer.volume_id])


def test_extend_size_finalize_follows_the_data(spm: World) -> None:
    made = spm.create_base(format=VolumeFormat.RAW)
    data = spm.repository.domains.get_backend(spm.domain_id).data
    data.preallocate(made.image_id, made.volume_id, 0, 4 << 20)
    ids = (spm.domain_id, made.image_id, made.volume_id)
    spm.repository.recovery.recover("volume", "Volume", "extendSizeFinalize", ids)
    assert spm.repository.volumes.get_metadata(*ids).capacity_bytes == 4 << 20
    spm.repository.recovery.recover("volume", "Volume", "extendSizeFinalize", (*ids[:2], make_id()))


@pytest.mark.parametrize(
    ("function", "params"),
    [
        ("createVolumeMetadataRollback", ("/etc/passwd",)),
        ("createVolumeMetadataRollback", ("",)),
        ("createVolumeMetadataRollback", ()),
        ("halfbakedVolumeRollback", (make_id(), make_id(), "/x")),
        ("createVolumeRollback", ("/r", "a", "b", "c", "/d")),
        ("renameVolumeRollback", (f"/{make_id()}/images/{make_id()}/{make_id()}",)),
        ("renameVolumeRollback", tuple(f"/{make_id()}/images/{make_id()}/{make_id()}" for _ in "ab")),
        ("shareVolumeRollback", (f"/{make_id()}/images/{make_id()}",)),
        ("halfbakedVolumeRollback", (f"/{make_id()}/images/../images/{make_id()}/{make_id()}",)),
        ("halfbakedVolumeRollback", (f"/{make_id()}/other/{make_id()}/{make_id()}",)),
        ("os.system", ("true",)),
    ],
)
def test_entries_outside_a_domain_are_refused(spm: World, function: str, params: tuple[str, ...]) -> None:
    with pytest.raises(InvalidParameterException):
        spm.repository.recovery.recover(*FILE, function, params)


def test_an_entry_of_a_domain_that_is_away_fails(spm: World) -> None:
    path = f"/x/{make_id()}/images/{make_id()}/{make_id()}"
    with pytest.raises(StorageDomainDoesNotExist):
        spm.repository.recovery.recover(*FILE, "createVolumeMetadataRollback", (path,))


def test_an_entry_of_a_domain_that_left_the_pool_is_left_alone(spm: World) -> None:
    made = spm.create_base()
    spm.repository.domains.update(spm.domain_id, {"POOL_UUID": make_id()})
    params = ("/r", spm.domain_id, made.image_id, made.volume_id, "/d")
    with pytest.raises(StorageDomainNotInPool):
        spm.repository.recovery.recover(*FILE, "createVolumeRollback", params)
    assert list_all(spm) == [made.volume_id]


@given(st.sampled_from(sorted(_ENTRIES)), st.lists(st.text(st.sampled_from("/ab,.-\0") | st.characters(), max_size=50)))
def test_any_parameters_are_understood_or_refused(key: tuple[str, str, str], params: list[str]) -> None:
    class NoDomains:
        def get_with_images(self, domain_id: str) -> None:
            raise StorageDomainDoesNotExist(domain_id)

    from vdsm.storage.locks import Locks

    recovery = Recovery(NoDomains(), None, Locks(), lambda _: None)  # type: ignore[arg-type]
    try:
        recovery.recover(*key, tuple(params))
    except (InvalidParameterException, StorageDomainDoesNotExist):
        pass


def test_the_sweep_finishes_what_no_entry_tells_of(spm: World) -> None:
    """Leftovers of every kind, made by hand as a killed process leaves them."""
    repository, domain_id = spm.repository, spm.domain_id
    backend = repository.domains.get_backend(domain_id)
    images = repository.domains.get(domain_id).images
    parent = spm.create_base()
    orphan, empty, linked = make_id(), make_id(), make_id()
    # killed while a layer was created: data without record, parent internal
    record = images.read(parent.image_id, parent.volume_id)
    images.change(parent.image_id, parent.volume_id, replace(record, role=VolumeRole.INTERNAL))
    backend.data.create_data(parent.image_id, orphan)
    # killed while a volume was removed: illegal, data gone
    half_removed = spm.create_base()
    record = images.read(half_removed.image_id, half_removed.volume_id)
    images.change(half_removed.image_id, half_removed.volume_id, replace(record, legality=Legality.ILLEGAL))
    backend.data.remove_data(half_removed.image_id, half_removed.volume_id)
    # killed after the folder, and after the template's links
    backend.volumes.create_image(empty)
    template = spm.create_base()
    spm.create_layer(template, make_id())
    backend.volumes.create_image(linked)
    backend.volumes.share(template.volume_id, template.image_id, linked)
    # storage that lost data: told, not removed
    lost = spm.create_base()
    backend.data.remove_data(lost.image_id, lost.volume_id)
    illegal = spm.create(replace(spm.request(), legal=False))

    repository.spm.stop(spm.pool_id)
    repository.spm.start(spm.pool_id)

    assert images.read(parent.image_id, parent.volume_id).role is VolumeRole.LEAF
    assert not backend.data.has_data(parent.image_id, orphan)
    assert {half_removed.image_id, empty, linked}.isdisjoint(backend.volumes.list_images())
    assert {lost.volume_id, illegal.volume_id, template.volume_id} <= set(list_all(spm))
    with pytest.raises(VolumeDoesNotExist):
        images.read(half_removed.image_id, half_removed.volume_id)
