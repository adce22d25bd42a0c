"""Copies between volumes and what an NBD server has, as jobs whose state a lease keeps (facts: storage §10.2, §6.6)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.contract.blocks import BLOCK, RAW, make, read, write
from tests.contract.test_external_leases import JOB, Place, place, spm
from vdsm.adapters.qemunbd import QemuNbd
from vdsm.core.errors import NodeError
from vdsm.storage.errors import AcquireLockFailure, CopyImageError, InvalidParameterException, UnsupportedOperation
from vdsm.storage.errors_jobs import GenerationMismatch, JobStatusMismatch
from vdsm.storage.model import ExternalPlace, Legality, VolumeFormat, VolumeRef, VolumeRequest
from vdsm.storage.ports import Layer, NbdExport
from vdsm.testing.storage import make_id

__all__ = ["place", "spm"]  # fixtures


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[tuple[Layer, str]]:
    """An image outside of all domains, and its address."""
    layer, socket = make(tmp_path / "outside", RAW, "xy.."), tmp_path / "s.sock"
    QemuNbd().start(socket, NbdExport((layer,)))
    yield layer, f"nbd:unix:{socket}"
    QemuNbd().stop(socket)


def see(served: Layer) -> str:
    """`read` of a raw file that a server has open."""
    data = served.path.read_bytes()
    return "".join(chr(data[at]) if data[at] else "." for at in range(0, len(data), BLOCK))


def begin(spm: Place, url: str, **changes: object) -> ExternalPlace:
    """A job that is pending, in a new lease."""
    lease_id = make_id()
    spm.external.create(spm.domain_id, lease_id, JOB)
    return replace(ExternalPlace(url, (spm.domain_id, lease_id), 0, create=False), **changes)  # type: ignore[arg-type]


def get_state(spm: Place, place: ExternalPlace) -> tuple[str, int]:
    metadata = spm.external.get_status(*place.lease).metadata
    assert metadata is not None
    return metadata.job_status, metadata.generation


def make_volume(spm: Place, word: str, format: VolumeFormat) -> tuple[VolumeRequest, VolumeRef, Layer]:
    volume = spm.world.create_base(format=format, capacity_bytes=len(word) * BLOCK)
    layer = Layer(spm.world.get_path(volume), format.qemu)
    write(layer, word)
    return volume, VolumeRef(spm.domain_id, volume.image_id, volume.volume_id, 0), layer


@pytest.mark.parametrize("format", [VolumeFormat.COW, VolumeFormat.RAW])
def test_in_and_out(spm: Place, outside: tuple[Layer, str], format: VolumeFormat) -> None:
    copies, (there, url) = spm.world.repository.external_copies, outside
    volume, ref, layer = make_volume(spm, "old.", format)
    source = begin(spm, url)
    copies.fetch(JOB.job_id, source, ref)
    assert (read(layer), get_state(spm, source)) == ("xy..", ("SUCCEEDED", 1))
    record = spm.world.get_record(volume)
    assert (record.generation, record.legality) == (1, Legality.LEGAL)
    write(layer, ".Y.z")
    target = begin(spm, url)
    copies.send(JOB.job_id, replace(ref, generation=1), target)
    assert (see(there), get_state(spm, target)) == ("xY.z", ("SUCCEEDED", 1))


def test_a_failure_is_kept_and_leaves_the_volume_illegal(spm: Place, tmp_path: Path) -> None:
    copies = spm.world.repository.external_copies
    volume, ref, layer = make_volume(spm, "old.", VolumeFormat.COW)
    source = begin(spm, f"nbd:unix:{tmp_path}/nobody")
    with pytest.raises(CopyImageError):
        copies.fetch(JOB.job_id, source, ref)
    assert get_state(spm, source) == ("FAILED", 0)
    record = spm.world.get_record(volume)
    assert (record.generation, record.legality) == (0, Legality.ILLEGAL)
    with pytest.raises(JobStatusMismatch):
        copies.fetch(JOB.job_id, source, ref)


def test_what_is_not_as_expected_is_not_begun(spm: Place, outside: tuple[Layer, str]) -> None:
    copies, (there, url) = spm.world.repository.external_copies, outside
    _, ref, layer = make_volume(spm, "old.", VolumeFormat.COW)
    good = begin(spm, url)
    cases: list[tuple[type[NodeError], str, ExternalPlace]] = [
        (UnsupportedOperation, make_id(), good),
        (GenerationMismatch, JOB.job_id, replace(good, generation=1)),
        (UnsupportedOperation, JOB.job_id, replace(good, format="qcow2")),
        *((InvalidParameterException, JOB.job_id, replace(good, url=bad)) for bad in ("/etc/shadow", "json:{}", "-n")),
    ]
    for error, job_id, wrong in cases:
        with pytest.raises(error):
            copies.fetch(job_id, wrong, ref)
        with pytest.raises(error):
            copies.send(job_id, ref, wrong)
    held = spm.external.get(*good.lease)
    spm.leases.acquire(held)
    with pytest.raises(AcquireLockFailure):
        copies.fetch(JOB.job_id, good, ref)
    spm.leases.release(held)
    assert (read(layer), see(there), get_state(spm, good)) == ("old.", "xy..", ("PENDING", 0))
