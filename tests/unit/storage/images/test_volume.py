"""Volumes: creating and removing them, and that a refusal or a failure leaves everything as it was."""

import copy

import pytest
from msgspec.structs import replace

from vdsm.core.errors import NodeError
from vdsm.core.ids import BLANK_UUID
from vdsm.storage.errors import (
    CannotDeleteSharedVolume,
    CannotDeleteVolume,
    CannotShareVolume,
    CreateIllegalVolumeSnapshotError,
    DiscardIsNotSupported,
    ImagePathError,
    ImagesNotSupportedError,
    IncorrectFormat,
    IncorrectType,
    InvalidParameterException,
    MetadataOverflowError,
    NoSpaceLeftOnDomain,
    SpmStatusError,
    StorageDomainDoesNotExist,
    StorageDomainNotInPool,
    UnsupportedOperation,
    VolumeAlreadyExists,
    VolumeCreationError,
    VolumeDoesNotExist,
    VolumeImageHasChildren,
    VolumeMetadataWriteError,
    VolumeNonShareable,
)
from vdsm.storage.errors_jobs import VolumeNonWritable, VolumeResizeValueError
from vdsm.storage.model import (
    Allocation,
    DomainClass,
    DomainType,
    Legality,
    VolumeFormat,
    VolumeRef,
    VolumeRequest,
    VolumeRole,
    VolumeStatus,
)
from vdsm.storage.ports import QemuImgFailed, Rollback
from vdsm.storage.rollbacks import RollbacksInMemory
from vdsm.testing.storage import MIB, World, make_id


def snapshot(world: World) -> object:
    """All that the storage holds."""
    domain = world.memory.servers[world.server][world.domain_id]
    images = {image: dict(records) for image, records in domain.images.items()}
    data = {image: set(names) for image, names in domain.data.items() if names}
    return copy.deepcopy((domain.metadata, images, data, dict(world.memory.files)))


def role(world: World, volume: VolumeRequest, image_id: str | None = None) -> VolumeRole:
    volumes = world.repository.volumes
    return volumes.get_metadata(world.domain_id, image_id or volume.image_id, volume.volume_id).role


def test_a_new_volume(spm: World) -> None:
    made = spm.create_base(capacity_bytes=10 * MIB + 1, description="d" * 300)
    info = spm.repository.volumes.get_info(spm.domain_id, made.image_id, made.volume_id)
    assert info.status is VolumeStatus.OK
    assert info.metadata.capacity_bytes == 10 * MIB + 4096
    assert info.metadata.description == "d" * 210
    assert (info.metadata.role, info.metadata.legality) == (VolumeRole.LEAF, Legality.LEGAL)
    assert (info.metadata.created_s, info.metadata.domain_id) == (1_700_000_000, spm.domain_id)
    assert spm.repository.domains.list_images(spm.domain_id) == [made.image_id]
    assert spm.repository.domains.list_volumes(spm.domain_id) == [made.volume_id]
    assert spm.repository.images.list_volumes(spm.domain_id, made.image_id) == [made.volume_id]


def test_an_illegal_volume_says_so(spm: World) -> None:
    made = spm.create(replace(spm.request(), legal=False))
    assert spm.repository.volumes.get_info(spm.domain_id, made.image_id, made.volume_id).status is VolumeStatus.ILLEGAL
    with pytest.raises(CreateIllegalVolumeSnapshotError):
        spm.create_layer(made)


def test_a_volume_without_data_is_invalid(spm: World) -> None:
    made = spm.create_base()
    spm.memory.files.clear()
    info = spm.repository.volumes.get_info(spm.domain_id, made.image_id, made.volume_id)
    assert (info.status, info.size.apparent_bytes) == (VolumeStatus.INVALID, 0)


def test_a_layer_makes_its_parent_internal_and_its_removal_a_leaf_again(spm: World) -> None:
    base = spm.create_base()
    layer = spm.create_layer(base)
    assert (role(spm, base), role(spm, layer)) == (VolumeRole.INTERNAL, VolumeRole.LEAF)
    with pytest.raises(VolumeImageHasChildren) as raised:
        spm.delete(base.image_id, base.volume_id)
    assert raised.value.children == (layer.volume_id,)
    spm.delete(base.image_id, layer.volume_id)
    assert role(spm, base) is VolumeRole.LEAF
    spm.delete(base.image_id, base.volume_id)
    assert spm.repository.domains.list_images(spm.domain_id) == []
    assert not spm.memory.files


def test_a_chain_is_removed_leaf_first(spm: World) -> None:
    base = spm.create_base()
    middle = spm.create_layer(base)
    top = spm.create_layer(middle)
    spm.delete(base.image_id, top.volume_id, middle.volume_id, base.volume_id)
    assert spm.repository.domains.list_volumes(spm.domain_id) == []


def test_a_template_is_shared_into_other_images(spm: World) -> None:
    template = spm.create_base(format=VolumeFormat.RAW)
    first = spm.create_layer(template, make_id())
    second = spm.create_layer(template, first.image_id)
    assert role(spm, template) is VolumeRole.SHARED
    assert role(spm, template, first.image_id) is VolumeRole.SHARED
    listed = spm.repository.images.list_volumes(spm.domain_id, first.image_id)
    assert set(listed) == {first.volume_id, second.volume_id}
    assert spm.repository.domains.list_volumes(spm.domain_id).count(template.volume_id) == 1
    with pytest.raises(CannotDeleteSharedVolume):
        spm.delete(template.image_id, template.volume_id)
    with pytest.raises(CannotDeleteSharedVolume):
        spm.delete(first.image_id, template.volume_id)
    spm.delete(first.image_id, second.volume_id, first.volume_id)
    assert spm.repository.domains.list_images(spm.domain_id) == [template.image_id]
    assert role(spm, template) is VolumeRole.SHARED
    spm.delete(template.image_id, template.volume_id, force=True)
    assert spm.repository.domains.list_volumes(spm.domain_id) == []


def test_only_a_parentless_leaf_becomes_a_template(spm: World) -> None:
    base = spm.create_base()
    layer = spm.create_layer(base)
    for parent in (base, layer):
        with pytest.raises(VolumeNonShareable):
            spm.create_layer(parent, make_id())


BAD_REQUESTS: list[tuple[dict[str, object], type[NodeError]]] = [
    ({"volume_id": "UPPER"}, InvalidParameterException),
    ({"volume_id": BLANK_UUID}, InvalidParameterException),
    ({"image_id": "../" + "a" * 33}, InvalidParameterException),
    ({"pool_id": ""}, InvalidParameterException),
    ({"parent_image_id": "x"}, InvalidParameterException),
    ({"parent_id": "a\0"}, InvalidParameterException),
    ({"format": VolumeFormat.UNKNOWN}, IncorrectFormat),
    ({"allocation": Allocation.UNKNOWN}, IncorrectType),
    ({"disk_type": "data"}, InvalidParameterException),
    ({"capacity_bytes": 0}, InvalidParameterException),
    ({"capacity_bytes": -1}, InvalidParameterException),
    ({"capacity_bytes": 1 << 70}, InvalidParameterException),
    ({"sequence": -1}, InvalidParameterException),
    ({"sequence": 1 << 32}, InvalidParameterException),
    ({"initial_size_bytes": -1}, InvalidParameterException),
    ({"initial_size_bytes": 0}, InvalidParameterException),
    ({"allocation": Allocation.PREALLOCATED, "initial_size_bytes": 2 * MIB}, InvalidParameterException),
    ({"description": "a\nLEGALITY=FAKE"}, InvalidParameterException),
    ({"description": "\N{SNOWMAN}" * 210}, MetadataOverflowError),
    ({"add_bitmaps": True}, UnsupportedOperation),
    ({"bitmap": "b"}, InvalidParameterException),
    ({"format": VolumeFormat.RAW, "bitmap": make_id()}, UnsupportedOperation),
    ({"parent_id": make_id()}, VolumeDoesNotExist),
    ({"parent_id": make_id(), "parent_image_id": make_id()}, VolumeDoesNotExist),
    ({"parent_id": make_id(), "format": VolumeFormat.RAW}, IncorrectFormat),
    ({"domain_id": make_id()}, StorageDomainDoesNotExist),
]


@pytest.mark.parametrize(("changes", "failure"), BAD_REQUESTS)
def test_refusals_change_nothing(spm: World, changes: dict[str, object], failure: type[NodeError]) -> None:
    spm.create_base()
    before, calls = snapshot(spm), spm.fake_qemu.calls if spm.fake_qemu else 0
    recorder = RollbacksInMemory()
    with pytest.raises(failure):
        spm.create(replace(spm.request(), **changes), recorder)  # type: ignore[arg-type]
    assert snapshot(spm) == before
    assert spm.fake_qemu is not None and spm.fake_qemu.calls == calls
    assert recorder.entries == []


def test_refusals_that_look_at_the_parent(spm: World) -> None:
    base = spm.create_base(capacity_bytes=2 * MIB, format=VolumeFormat.RAW)
    before = snapshot(spm)
    with pytest.raises(InvalidParameterException):
        spm.create(spm.request(base.image_id, parent_id=base.volume_id, capacity_bytes=MIB))
    with pytest.raises(UnsupportedOperation):
        request = spm.request(base.image_id, parent_id=base.volume_id, capacity_bytes=2 * MIB)
        spm.create(replace(request, add_bitmaps=True))
    with pytest.raises(VolumeAlreadyExists):
        spm.create(spm.request(base.image_id, base.volume_id))
    assert snapshot(spm) == before


def test_only_the_spm_of_the_domains_pool_writes(spm: World) -> None:
    other = make_id()
    spm.repository.servers.connect(DomainType.LOCALFS, "/other")
    spm.repository.domains.create(DomainType.LOCALFS, other, "n", "/other")
    with pytest.raises(StorageDomainNotInPool):
        spm.create(replace(spm.request(), domain_id=other))
    spm.repository.spm.stop(spm.pool_id)
    with pytest.raises(SpmStatusError):
        spm.create_base()
    with pytest.raises(SpmStatusError):
        spm.delete(make_id(), make_id())


def test_iso_domains_hold_no_volumes(world: World) -> None:
    world.create_domain(domain_class=DomainClass.ISO)
    with pytest.raises(ImagesNotSupportedError):
        world.repository.volumes.get_info(world.domain_id, make_id(), make_id())


def test_bitmaps_need_version_4_and_are_copied(world: World) -> None:
    world.start_spm(4)
    qemu_img = world.fake_qemu
    assert qemu_img is not None
    base = world.create(replace(world.request(), bitmap=make_id()))
    request = replace(world.request(base.image_id, parent_id=base.volume_id), add_bitmaps=True)
    layer = world.create(request)
    path = world.repository.domains.get_backend(world.domain_id).data.get_path(base.image_id, layer.volume_id)
    below = path.with_name(base.volume_id)
    assert qemu_img.info(path, "qcow2").bitmaps == qemu_img.info(below, "qcow2").bitmaps != ()
    qemu_img.fail_next("add_bitmap", QemuImgFailed("no"))
    world.create(replace(world.request(), bitmap=make_id()))


def test_version_3_has_old_images_and_no_bitmaps(world: World) -> None:
    world.start_spm(3)
    made = world.create_base()
    path = world.repository.domains.get_backend(world.domain_id).data.get_path(made.image_id, made.volume_id)
    assert world.fake_qemu is not None and world.fake_qemu.images[path].compat == "0.10"
    with pytest.raises(UnsupportedOperation):
        world.create(replace(world.request(), bitmap=make_id()))


FAULTS: list[tuple[str, NodeError]] = [
    ("create_image", ImagePathError("x")),
    ("share", CannotShareVolume("x", "I/O")),
    ("create_data", VolumeCreationError("x", "I/O")),
    ("settle_data", VolumeCreationError("x", "I/O")),
    ("write_record", VolumeMetadataWriteError("x", "I/O")),
]


@pytest.mark.parametrize(("operation", "error"), FAULTS)
def test_a_failed_creation_is_undone(spm: World, operation: str, error: NodeError) -> None:
    template = spm.create_base()
    spm.create_layer(template, make_id())
    before = snapshot(spm)
    spm.memory.fail_next(operation, error)
    with pytest.raises(type(error)):
        spm.create_layer(template, make_id())
    assert snapshot(spm) == before


@pytest.mark.parametrize(("full", "failure"), [(False, VolumeCreationError), (True, NoSpaceLeftOnDomain)])
def test_a_failing_qemu_img_is_undone(spm: World, full: bool, failure: type[NodeError]) -> None:
    base = spm.create_base()
    before = snapshot(spm)
    assert spm.fake_qemu is not None
    spm.fake_qemu.fail_next("create", QemuImgFailed("oops", full=full))
    with pytest.raises(failure):
        spm.create_layer(base)
    assert snapshot(spm) == before


def test_with_a_recorder_undoing_is_its_owners(spm: World) -> None:
    base = spm.create_base()
    before = snapshot(spm)
    recorder = RollbacksInMemory()
    spm.memory.fail_next("settle_data", VolumeCreationError("x", "I/O"))
    with pytest.raises(VolumeCreationError):
        spm.create(spm.request(base.image_id, parent_id=base.volume_id), recorder)
    assert snapshot(spm) != before
    recorder.run(spm.repository.recovery.recover)
    assert snapshot(spm) == before


class Recorder(RollbacksInMemory):
    """Also remembers entries that were replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Rollback] = []

    def push(self, name: str, module: str, object: str, function: str, params: tuple[str, ...]) -> None:
        super().push(name, module, object, function, params)
        self.seen.append(self.entries[-1])


def test_the_entries_of_a_creation_are_those_of_the_facts(spm: World) -> None:
    template = spm.create_base()
    image, volume = make_id(), make_id()
    root = spm.repository.domains.get_backend(spm.domain_id).domain.path
    request = spm.request(image, volume, parent_id=template.volume_id, parent_image_id=template.image_id)
    recorder = Recorder()
    spm.create(request, recorder)
    file, ids = ("fileVolume", "FileVolume"), (spm.domain_id, image, volume)
    path = str(root / "images" / image / volume)
    assert [(entry.module, entry.object, entry.function, entry.params) for entry in recorder.seen] == [
        ("sd", "StorageDomain", "create_image_rollback", (str(root / "images" / image),)),
        (*file, "shareVolumeRollback", (str(root / "images" / image / template.volume_id),)),
        (*file, "startCreateVolumeRollback", ids),
        (*file, "halfbakedVolumeRollback", (spm.domain_id, volume, path)),
        (*file, "createVolumeMetadataRollback", (path,)),
    ]
    assert [entry.name for entry in recorder.seen[2:4]] == ["rollback sentinel", "Halfbaked volume rollback"]
    last = recorder.entries[-1]
    assert len(recorder.entries) == 3
    assert (last.name, last.function) == ("Create volume rollback", "createVolumeRollback")
    repository = str(spm.repository.layout.repository)
    assert last.params == (repository, *ids, str(root / "images" / image))
    parent = Recorder()
    spm.create(spm.request(template.image_id, parent_id=template.volume_id), parent)
    layer = spm.create_base()
    spm.create(spm.request(layer.image_id, parent_id=layer.volume_id), parent)
    roles = [entry for entry in parent.seen if entry.function == "parentVolumeRollback"]
    expected = (spm.domain_id, layer.image_id, layer.volume_id)
    assert [(entry.module, entry.object, entry.params) for entry in roles] == [("volume", "Volume", expected)]


def test_removal_refusals_change_nothing(spm: World) -> None:
    base = spm.create_base()
    before, recorder = snapshot(spm), RollbacksInMemory()
    delete = spm.repository.volumes.delete
    with pytest.raises(VolumeDoesNotExist):
        delete(spm.pool_id, spm.domain_id, base.image_id, [make_id()], rollbacks=recorder)
    with pytest.raises(VolumeDoesNotExist):
        delete(spm.pool_id, spm.domain_id, make_id(), [base.volume_id], rollbacks=recorder)
    with pytest.raises(InvalidParameterException):
        delete(spm.pool_id, spm.domain_id, base.image_id, [base.volume_id, "../x"], rollbacks=recorder)
    with pytest.raises(DiscardIsNotSupported):
        delete(spm.pool_id, spm.domain_id, base.image_id, [base.volume_id], discard=True, rollbacks=recorder)
    assert snapshot(spm) == before
    assert recorder.entries == []


@pytest.mark.parametrize("operation", ["write_record", "remove_data", "remove_record"])
def test_an_interrupted_removal_is_finished_by_its_entry(spm: World, operation: str) -> None:
    base = spm.create_base()
    layer = spm.create_layer(base)
    recorder = RollbacksInMemory()
    spm.memory.fail_next(operation, CannotDeleteVolume(layer.volume_id, "I/O"))
    with pytest.raises(CannotDeleteVolume):
        spm.repository.volumes.delete(spm.pool_id, spm.domain_id, base.image_id, [layer.volume_id], rollbacks=recorder)
    recorder.run(spm.repository.recovery.recover)
    assert spm.repository.images.list_volumes(spm.domain_id, base.image_id) == [base.volume_id]
    assert role(spm, base) is VolumeRole.LEAF


def test_a_record_that_fills_its_place_can_still_be_removed(spm: World) -> None:
    made = spm.create_base()
    volumes = spm.repository.domains.get_backend(spm.domain_id).volumes
    record = volumes.read_record(made.image_id, made.volume_id)
    padded = record.replace(b"DESCRIPTION=", b"DESCRIPTION=" + b"\xe2\x98\x83" * ((511 - len(record)) // 3))
    volumes.write_record(made.image_id, made.volume_id, padded)
    spm.delete(made.image_id, made.volume_id)
    assert spm.repository.domains.list_volumes(spm.domain_id) == []


def test_a_child_with_a_damaged_record_is_a_child(spm: World) -> None:
    base = spm.create_base()
    first, second = spm.create_layer(base), spm.create_layer(base)
    volumes = spm.repository.domains.get_backend(spm.domain_id).volumes
    volumes.write_record(base.image_id, second.volume_id, b"CAP=x\nPUUID=%s\nEOF\n" % base.volume_id.encode())
    spm.delete(base.image_id, first.volume_id)
    metadata = spm.repository.volumes.get_metadata(spm.domain_id, base.image_id, base.volume_id)
    assert metadata.role is VolumeRole.INTERNAL
    with pytest.raises(VolumeImageHasChildren):
        spm.delete(base.image_id, base.volume_id)


def test_an_unreadable_record_is_removed_with_force_only(spm: World) -> None:
    made = spm.create_base()
    spm.repository.domains.get_backend(spm.domain_id).volumes.write_record(made.image_id, made.volume_id, b"junk")
    with pytest.raises(NodeError):
        spm.delete(made.image_id, made.volume_id)
    spm.delete(made.image_id, made.volume_id, force=True)
    assert spm.repository.domains.list_volumes(spm.domain_id) == []


def test_creating_looks_at_its_own_image_only(spm: World) -> None:
    for _ in range(3):
        spm.create_base()
    backend = spm.repository.domains.get_backend(spm.domain_id)
    seen: list[str] = []
    spm.memory.faults.check = seen.append  # type: ignore[method-assign]
    calls = spm.fake_qemu.calls if spm.fake_qemu else 0
    spm.create_base()
    assert "read_record" not in seen
    assert spm.fake_qemu is not None and spm.fake_qemu.calls == calls + 1
    assert len(backend.volumes.list_images()) == 4


# Volumes that become larger.


def extend(world: World, volume: VolumeRequest, size_bytes: int, rollbacks: RollbacksInMemory | None = None) -> None:
    target = VolumeRef(world.domain_id, volume.image_id, volume.volume_id)
    world.repository.volumes.extend(world.pool_id, target, size_bytes, rollbacks)


def sizes(world: World, volume: VolumeRequest) -> tuple[int, int]:
    """What the record tells, and what the file has."""
    return world.get_record(volume).capacity_bytes, world.memory.files[world.get_path(volume)]


@pytest.mark.parametrize("allocation", [Allocation.SPARSE, Allocation.PREALLOCATED])
def test_a_raw_volume_becomes_larger_with_its_record(spm: World, allocation: Allocation) -> None:
    made, entries = spm.create_base(format=VolumeFormat.RAW, allocation=allocation), RollbacksInMemory()
    extend(spm, made, 2 * MIB - 1, entries)
    assert sizes(spm, made) == (2 * MIB, 2 * MIB)
    [entry] = entries.entries
    ids = (spm.domain_id, made.image_id, made.volume_id)
    assert (entry.module, entry.object, entry.function, entry.params) == (
        *("volume", "Volume", "extendSizeFinalize"),
        ids,
    )
    extend(spm, made, 2 * MIB)
    entries.run(spm.repository.recovery.recover)
    assert sizes(spm, made) == (2 * MIB, 2 * MIB)


def test_a_base_becomes_larger_below_its_layers(spm: World) -> None:
    base = spm.create_base(format=VolumeFormat.RAW)
    spm.create_layer(base)
    extend(spm, base, 2 * MIB)
    assert sizes(spm, base) == (2 * MIB, 2 * MIB)


def test_cow_volumes_take_space_only_when_they_are_preallocated(spm: World) -> None:
    sparse, full = spm.create_base(), spm.create_base(allocation=Allocation.PREALLOCATED)
    before = sizes(spm, sparse)
    for volume in (sparse, full):
        extend(spm, volume, 4 * MIB)
    assert sizes(spm, sparse) == before
    assert sizes(spm, full) == (MIB, 4 * MIB)


def test_an_extension_that_fails_is_told_by_its_entry(spm: World) -> None:
    made, entries = spm.create_base(format=VolumeFormat.RAW), RollbacksInMemory()
    spm.memory.fail_next("settle_data", VolumeCreationError("x", "I/O"))
    with pytest.raises(VolumeCreationError):
        extend(spm, made, 2 * MIB, entries)
    assert sizes(spm, made) == (MIB, 2 * MIB)
    entries.run(spm.repository.recovery.recover)
    assert sizes(spm, made) == (2 * MIB, 2 * MIB)


def test_volumes_that_are_not_resized(spm: World) -> None:
    base, template = spm.create_base(format=VolumeFormat.RAW), spm.create_base(format=VolumeFormat.RAW)
    user = spm.create_layer(template, make_id())
    inner = spm.create_layer(base)
    spm.create_layer(inner)
    linked = replace(template, image_id=user.image_id)
    before = snapshot(spm)
    cases: list[tuple[type[NodeError], VolumeRequest, int]] = [
        (VolumeNonWritable, template, 2 * MIB),
        (VolumeNonWritable, linked, 2 * MIB),
        (VolumeNonWritable, inner, 2 * MIB),
        (VolumeResizeValueError, base, MIB - 4096),
        (InvalidParameterException, base, 0),
        (InvalidParameterException, base, 1 << 63),
        (InvalidParameterException, replace(base, volume_id="../x"), MIB),
        (VolumeDoesNotExist, replace(base, volume_id=make_id()), MIB),
    ]
    entries = RollbacksInMemory()
    for error, volume, size_bytes in cases:
        with pytest.raises(error):
            extend(spm, volume, size_bytes, entries)
    assert (snapshot(spm), entries.entries) == (before, [])
    spm.repository.spm.stop(spm.pool_id)
    with pytest.raises(SpmStatusError):
        extend(spm, base, 2 * MIB, entries)
    assert sizes(spm, base) == (MIB, MIB)
