"""External leases on shared storage, over links that stand for mounts: made, found, fenced; what jobs keep in them."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from vdsm.adapters.files import OwnOwner
from vdsm.adapters.qemuimg import QemuImgCommand
from vdsm.storage.backends.mounted import Outside
from vdsm.storage.errors import (
    AcquireLockFailure,
    InvalidMetadata,
    InvalidParameterException,
    SpmStatusError,
    StorageDomainNotInPool,
    StoragePoolNotConnected,
    UnsupportedOperation,
)
from vdsm.storage.errors_jobs import GenerationMismatch, JobStatusMismatch, NoSuchLease, SanlockLvbError
from vdsm.storage.leases.external import (
    ExternalLeaseStatus,
    JobMetadata,
    LeasesOfDomains,
    format_value,
    parse_value,
)
from vdsm.storage.ports import LeaseFailed
from vdsm.testing.leases import LeasesInMemory
from vdsm.testing.mounts import FakeGluster, MountsInMemory
from vdsm.testing.storage import FixedClock, World, make_id, make_shared_world, make_world_on_disk

MIB = 1 << 20
HARDWARE = "11111111-2222-4333-8444-555555555555"
NOW_S = 1_700_000_000
JOB = JobMetadata("JOB", "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d", "PENDING", 0)
KEPT = replace(JOB, created=NOW_S, modified=NOW_S, host_hardware_id=HARDWARE)


@dataclass
class Place:
    world: World
    leases: LeasesInMemory
    disk: Path

    @property
    def external(self) -> LeasesOfDomains:
        return self.world.repository.external_leases

    @property
    def domain_id(self) -> str:
        return self.world.domain_id


@pytest.fixture
def place(tmp_path: Path) -> Place:
    disk, leases = tmp_path / "disk", LeasesInMemory(writes_files=True)
    disk.mkdir()
    mounts = MountsInMemory({"server:/1": disk})
    outside = Outside(mounts, leases, FakeGluster(), FixedClock(NOW_S), print, HARDWARE)
    return Place(make_shared_world(tmp_path, QemuImgCommand(), outside, OwnOwner()), leases, disk)


@pytest.fixture
def spm(place: Place) -> Place:
    place.world.start_spm()
    return place


def test_the_bytes_of_a_value() -> None:
    data = format_value(KEPT)
    assert json.loads(data) == {
        "type": "JOB",
        "job_id": JOB.job_id,
        "job_status": "PENDING",
        "generation": 0,
        "created": NOW_S,
        "modified": NOW_S,
        "host_hardware_id": HARDWARE,
    }
    assert parse_value(data.ljust(512, b"\0")) == KEPT
    assert parse_value(bytes(512)) is parse_value(b"{}") is None
    assert parse_value(data[:-1] + b', "unknown": 1}') == KEPT
    with pytest.raises(SanlockLvbError):
        format_value(replace(KEPT, host_hardware_id="x" * 600))


@pytest.mark.parametrize(
    "data",
    [b"no JSON", b"[1]", b'"text"', b"\xff\xff", b'{"type": "JOB"}', b"[" * 500, b'{"type": "JOB", "job_id": 7}'],
)
def test_values_that_are_none(data: bytes) -> None:
    with pytest.raises(SanlockLvbError):
        parse_value(data)


@given(st.binary(max_size=512))
def test_whatever_is_stored_is_read_or_refused(data: bytes) -> None:
    try:
        parse_value(data)
    except SanlockLvbError:
        return


def test_leases_come_and_go(spm: Place) -> None:
    first, second = make_id(), make_id()
    for lease_id in (first, second, first):
        spm.external.create(spm.domain_id, lease_id)
    found = spm.external.get(spm.domain_id, second)
    assert (found.path.name, found.offset_bytes) == ("xleases", 4 * MIB)
    assert spm.external.get_status(spm.domain_id, second) == ExternalLeaseStatus(0)
    spm.leases.acquire(found)
    assert spm.external.get_status(spm.domain_id, second).holder == 1
    spm.leases.release(found)
    for _ in range(2):
        spm.external.delete(spm.domain_id, second)
    with pytest.raises(NoSuchLease):
        spm.external.get(spm.domain_id, second)
    spm.external.rebuild(spm.domain_id)
    assert spm.external.get(spm.domain_id, first).offset_bytes == 3 * MIB


def test_what_a_job_keeps_is_there_as_soon_as_its_lease_is(spm: Place) -> None:
    lease_id = make_id()
    spm.leases.fail_next("write_value", LeaseFailed("I/O timeout", -202))
    with pytest.raises(LeaseFailed):
        spm.external.create(spm.domain_id, lease_id, JOB)
    with pytest.raises(NoSuchLease):
        spm.external.get(spm.domain_id, lease_id)
    spm.external.create(spm.domain_id, lease_id, JOB)
    assert spm.external.get_status(spm.domain_id, lease_id).metadata == KEPT
    spm.external.create(spm.domain_id, lease_id, replace(JOB, generation=7))
    assert spm.external.get_status(spm.domain_id, lease_id).metadata == KEPT


def test_a_job_is_fenced_as_it_is_known_or_not_at_all(spm: Place) -> None:
    lease_id = make_id()
    spm.external.create(spm.domain_id, lease_id, replace(JOB, generation=999))
    known = replace(JOB, generation=999)
    for wrong, failure in (
        (replace(known, job_id=make_id()), UnsupportedOperation),
        (replace(known, job_status="FAILED"), JobStatusMismatch),
        (replace(known, generation=0), GenerationMismatch),
        (replace(known, generation=1000), InvalidParameterException),
        (replace(known, job_status="DONE"), InvalidParameterException),
        (replace(known, type="VM"), InvalidParameterException),
    ):
        with pytest.raises(failure):
            spm.external.fence(spm.domain_id, lease_id, wrong)
    spm.external.fence(spm.domain_id, lease_id, known)
    after = spm.external.get_status(spm.domain_id, lease_id).metadata
    assert after is not None and (after.job_status, after.generation) == ("FENCED", 0)
    assert spm.leases.held.keys() == {key for key, lease in spm.leases.held.items() if lease.name == "SDM"}


def test_a_job_that_somebody_works_on_is_not_fenced(spm: Place) -> None:
    lease_id = make_id()
    spm.external.create(spm.domain_id, lease_id, JOB)
    spm.leases.acquire(spm.external.get(spm.domain_id, lease_id))
    with pytest.raises(AcquireLockFailure):
        spm.external.fence(spm.domain_id, lease_id, JOB)
    assert spm.external.get_status(spm.domain_id, lease_id).metadata is None


def test_refusals(spm: Place, tmp_path: Path) -> None:
    lease_id = make_id()
    for bad in ("X", "../../etc", "0" * 36, lease_id.upper(), "00000000-0000-0000-0000-000000000000"):
        with pytest.raises(InvalidParameterException):
            spm.external.create(spm.domain_id, bad)
    xleases = spm.disk / spm.domain_id / "dom_md/xleases"
    before = xleases.read_bytes()
    with xleases.open("r+b") as file:
        file.seek(MIB)
        file.write(b"\0" * 4)
    for call in (spm.external.create, spm.external.delete, spm.external.get):
        with pytest.raises(InvalidMetadata, match="rebuild"):
            call(spm.domain_id, lease_id)
    spm.external.rebuild(spm.domain_id)
    assert xleases.read_bytes() == before
    spm.world.repository.spm.stop(spm.world.pool_id)
    for call in (spm.external.create, spm.external.delete):
        with pytest.raises(SpmStatusError):
            call(spm.domain_id, lease_id)
    with pytest.raises(SpmStatusError):
        spm.external.rebuild(spm.domain_id)
    spm.world.repository.pools.disconnect(spm.world.pool_id)
    for call in (spm.external.create, spm.external.get, spm.external.get_status):
        with pytest.raises(StoragePoolNotConnected):
            call(spm.domain_id, lease_id)


def test_leases_of_another_pool_are_its_spms(spm: Place) -> None:
    lease_id = make_id()
    spm.external.create(spm.domain_id, lease_id)
    spm.world.repository.domains.update(spm.domain_id, {"POOL_UUID": make_id()})
    for change in (spm.external.create, spm.external.delete):
        with pytest.raises(StorageDomainNotInPool):
            change(spm.domain_id, lease_id)
    with pytest.raises(StorageDomainNotInPool):
        spm.external.rebuild(spm.domain_id)
    assert spm.external.get(spm.domain_id, lease_id).name == lease_id


def test_storage_without_external_leases(place: Place, tmp_path: Path) -> None:
    place.world.start_spm(version=3)
    with pytest.raises(UnsupportedOperation):
        place.external.create(place.domain_id, make_id())
    local = make_world_on_disk(tmp_path, QemuImgCommand(), OwnOwner()).start_spm()
    with pytest.raises(UnsupportedOperation):
        local.repository.external_leases.create(local.domain_id, make_id())
