"""Sealing disks: what it refuses, what it marks, what a failure leaves (facts: storage §9.11)."""

import contextvars
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from vdsm.core.errors import NodeError
from vdsm.core.ids import BLANK_UUID
from vdsm.storage import locks
from vdsm.storage.errors import (
    InternalVolumeNonWritable,
    InvalidParameterException,
    ResourceTimeout,
    SharedVolumeNonWritable,
    StoragePoolUnknown,
    UnsupportedOperation,
    VolumeDoesNotExist,
)
from vdsm.storage.errors_jobs import GenerationMismatch
from vdsm.storage.images.jobs import DataJobs
from vdsm.storage.model import Legality, VolumeFormat, VolumeRef, VolumeRequest
from vdsm.storage.ports import GuestToolFailed, Layer, Unwatched, Watch
from vdsm.testing.storage import World, make_id

Tool = Callable[[Sequence[Layer], Watch], None]


def ref(world: World, volume: VolumeRequest, generation: int | None = None) -> VolumeRef:
    return VolumeRef(world.domain_id, volume.image_id, volume.volume_id, generation)


def state(world: World, volume: VolumeRequest) -> tuple[int, Legality]:
    record = world.get_record(volume)
    return record.generation, record.legality


def link(world: World, volume: VolumeRequest) -> Path:
    return world.repository.layout.get_run_link(world.domain_id, volume.image_id)


def with_tool(world: World, tool: Tool) -> DataJobs:
    return dataclasses.replace(world.repository.jobs, _seal=tool)


def never(_layers: Sequence[Layer], _watch: Watch) -> None:
    raise AssertionError("it must not be called")


@pytest.fixture
def disks(spm: World) -> list[VolumeRequest]:
    """Of one guest: an image on a template that is illegal yet, and a raw one."""
    template = spm.create_base()
    layer = spm.request(parent_id=template.volume_id, parent_image_id=template.image_id)
    return [spm.create(replace(layer, legal=False)), spm.create_base(format=VolumeFormat.RAW)]


@pytest.mark.parametrize("blank", [False, True])
def test_disks_are_sealed_together_prepared_meanwhile_and_counted(
    spm: World, disks: list[VolumeRequest], blank: bool
) -> None:
    seen: list[tuple[Sequence[Layer], Watch]] = []

    def tool(layers: Sequence[Layer], watch: Watch) -> None:
        assert all(link(spm, disk).is_symlink() for disk in disks)
        assert [state(spm, disk)[0] for disk in disks] == [0, 0]
        seen.append((layers, watch))

    watch = Unwatched()
    targets = [ref(spm, disk, 0) for disk in disks]
    with_tool(spm, tool).seal_volumes(BLANK_UUID if blank else spm.pool_id, targets, watch=watch)
    [(layers, given)] = seen
    assert layers == [Layer(spm.get_path(disks[0]), "qcow2"), Layer(spm.get_path(disks[1]), "raw")]
    assert given is watch
    assert [state(spm, disk) for disk in disks] == [(1, Legality.ILLEGAL), (1, Legality.LEGAL)]
    assert not any(link(spm, disk).is_symlink() for disk in disks)


def test_what_was_prepared_before_stays_so(spm: World, disks: list[VolumeRequest]) -> None:
    spm.repository.images.prepare(spm.pool_id, spm.domain_id, disks[1].image_id, disks[1].volume_id)
    with_tool(spm, lambda *_: None).seal_volumes(spm.pool_id, [ref(spm, disk) for disk in disks])
    assert [link(spm, disk).is_symlink() for disk in disks] == [False, True]


def test_a_failure_counts_nothing_and_leaves_nothing_prepared(spm: World, disks: list[VolumeRequest]) -> None:
    def fail(_layers: Sequence[Layer], _watch: Watch) -> None:
        raise GuestToolFailed("no operating system")

    targets = [ref(spm, disk, 0) for disk in disks]
    with pytest.raises(GuestToolFailed, match="no operating system"):
        with_tool(spm, fail).seal_volumes(spm.pool_id, targets)
    assert [state(spm, disk) for disk in disks] == [(0, Legality.ILLEGAL), (0, Legality.LEGAL)]
    assert not any(link(spm, disk).is_symlink() for disk in disks)
    with pytest.raises(UnsupportedOperation):
        spm.repository.jobs.seal_volumes(spm.pool_id, targets)  # was given no program
    with_tool(spm, lambda *_: None).seal_volumes(spm.pool_id, targets)
    assert [state(spm, disk)[0] for disk in disks] == [1, 1]


def test_what_cannot_be_sealed_changes_nothing(spm: World, disks: list[VolumeRequest]) -> None:
    template, base = spm.create_base(), spm.create_base()
    spm.create_layer(template, make_id())
    spm.create_layer(base)
    good, raw = (ref(spm, disk) for disk in disks)
    unknown = VolumeRef(spm.domain_id, raw.image_id, make_id())
    bad: list[tuple[list[VolumeRef], type[NodeError]]] = [
        ([], InvalidParameterException),
        ([good, raw, good], InvalidParameterException),
        ([good, VolumeRef(spm.domain_id, BLANK_UUID, raw.volume_id)], InvalidParameterException),
        ([good, unknown], VolumeDoesNotExist),
        ([good, replace(raw, generation=5)], GenerationMismatch),
        ([good, ref(spm, template)], SharedVolumeNonWritable),
        ([good, ref(spm, base)], InternalVolumeNonWritable),
    ]
    jobs = with_tool(spm, never)
    for targets, error in bad:
        with pytest.raises(error):
            jobs.seal_volumes(spm.pool_id, targets)
    with pytest.raises(StoragePoolUnknown):
        jobs.seal_volumes(make_id(), [good])
    with pytest.raises(InvalidParameterException):
        jobs.seal_volumes("pool", [good])
    assert [state(spm, disk) for disk in disks] == [(0, Legality.ILLEGAL), (0, Legality.LEGAL)]
    assert not any(link(spm, disk).is_symlink() for disk in disks)


def test_images_are_locked_meanwhile(spm: World, disks: list[VolumeRequest]) -> None:
    ids = (spm.pool_id, spm.domain_id, disks[1].image_id, disks[1].volume_id)
    refused: list[str] = []

    def tool(_layers: Sequence[Layer], _watch: Watch) -> None:
        locks.WAITS.set(locks.Waits(0.1, lambda _: None))
        for name, act in {
            "prepare": lambda: spm.repository.images.prepare(*ids),
            "teardown": lambda: spm.repository.images.teardown(*ids[1:3]),
        }.items():
            with pytest.raises(ResourceTimeout):
                act()
            refused.append(name)
        spm.create_base()  # others of the domain are not held up

    seal = with_tool(spm, tool).seal_volumes
    contextvars.copy_context().run(seal, spm.pool_id, [ref(spm, disk) for disk in disks])
    assert refused == ["prepare", "teardown"]
