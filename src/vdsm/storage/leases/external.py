"""External leases, of VMs and jobs: making, finding, fencing them, what is stored in them (facts: storage §6.5, §6.6).

Where they lie is left to `xleases`; a domain's SPM makes and removes them, any host may look and fence.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from msgspec import Struct
from msgspec.structs import asdict, replace

from vdsm.core.clock import Clock
from vdsm.storage import checks, errors, locks
from vdsm.storage.domain import Domains
from vdsm.storage.errors_jobs import GenerationMismatch, JobStatusMismatch, SanlockLvbError
from vdsm.storage.images.volume_metadata import MAXIMUM_GENERATION
from vdsm.storage.model import XLEASES_VERSION
from vdsm.storage.pools.pool import Pools, require_writer
from vdsm.storage.ports import ExternalLeases, Lease, LeaseFailed, Leases

log = logging.getLogger(__name__)

VALUE_BYTES = 512
JOB_STATUSES = ("PENDING", "FAILED", "SUCCEEDED", "FENCED")


class JobMetadata(Struct, frozen=True):
    """What a job keeps in its lease; times are seconds since the epoch."""

    type: str
    job_id: str
    job_status: str
    generation: int
    created: int = 0
    modified: int = 0
    host_hardware_id: str = ""

    def check(self) -> None:
        """Raises InvalidParameterException."""
        checks.check_ids(job_id=self.job_id)
        if self.type != "JOB":
            raise errors.InvalidParameterException("type", self.type)
        if self.job_status not in JOB_STATUSES:
            raise errors.InvalidParameterException("job_status", self.job_status)
        if not 0 <= self.generation <= MAXIMUM_GENERATION:
            raise errors.InvalidParameterException("generation", str(self.generation))


class ExternalLeaseStatus(Struct, frozen=True):
    """Who holds a lease, how often it was taken, and, when nobody holds it, what is stored in it."""

    version: int
    holder: int | None = None
    metadata: JobMetadata | None = None


def format_value(metadata: JobMetadata) -> bytes:
    """Metadata as it is stored, a JSON object; SanlockLvbError (703) when it is too long."""
    data = json.dumps(asdict(metadata)).encode()
    if len(data) > VALUE_BYTES:
        raise SanlockLvbError(f"{len(data)} bytes")
    return data


def parse_value(data: bytes) -> JobMetadata | None:
    """What is stored in a lease, None for nothing; SanlockLvbError (703) for what is no job's metadata."""
    text = data.rstrip(b"\0")
    try:
        value = json.loads(text) if text else {}
        if not isinstance(value, Mapping):
            raise TypeError("no object")
        if not value:
            return None
        known = {name: value[name] for name in JobMetadata.__struct_fields__ if name in value}
        metadata = JobMetadata(**known)
        metadata.check()
    except (ValueError, TypeError, RecursionError, errors.InvalidParameterException) as error:
        raise SanlockLvbError(f"{text[:100]!r}: {error}") from error
    return metadata


class LeasesOfDomains(Struct, frozen=True):
    """External leases of all domains. Every operation needs a connected pool (313)."""

    _domains: Domains
    _pools: Pools
    _locks: locks.Locks
    _leases: Leases | None
    _clock: Clock
    _hardware_id: str = ""

    def create(self, domain_id: str, lease_id: str, metadata: JobMetadata | None = None) -> None:
        """Make a lease with what is stored in it, both or none; one that is there is left alone (SPM only)."""
        self._check(lease_id)
        value = b""
        if metadata is not None:
            metadata.check()
            now = int(self._clock.time())
            value = format_value(replace(metadata, created=now, modified=now, host_hardware_id=self._hardware_id))

        def fill(lease: Lease) -> None:
            if value:
                with self._holding(lease) as leases:
                    leases.write_value(lease, value)

        with self._open(domain_id, as_host=True, as_writer=True) as (external, _):
            if external.add(lease_id, fill):
                log.info("Created lease %s on %s", lease_id, domain_id)

    def delete(self, domain_id: str, lease_id: str) -> None:
        """Remove a lease; success when it is not there (SPM only)."""
        self._check(lease_id)
        with self._open(domain_id, as_writer=True) as (external, _):
            if external.remove(lease_id):
                log.info("Removed lease %s from %s", lease_id, domain_id)

    def rebuild(self, domain_id: str) -> None:
        """Make a domain's index and its leases agree (SPM only)."""
        with self._open(domain_id, as_writer=True) as (external, _):
            external.rebuild()
        log.info("Rebuilt the leases of %s", domain_id)

    def get(self, domain_id: str, lease_id: str) -> Lease:
        """Where a lease lies; NoSuchLease (936)."""
        self._check(lease_id)
        with self._open(domain_id) as (external, _):
            return external.lookup(lease_id)

    def get_status(self, domain_id: str, lease_id: str) -> ExternalLeaseStatus:
        """Who holds a lease; what is stored in it is read by taking it for a moment, so only when nobody does."""
        self._check(lease_id)
        with self._open(domain_id, as_host=True) as (external, leases):
            lease = external.lookup(lease_id)
            state = leases.inspect(lease)
            if state.holder is not None:
                return ExternalLeaseStatus(state.version, state.holder)
            with self._holding(lease):
                return ExternalLeaseStatus(state.version, None, self._read(lease))

    def fence(self, domain_id: str, lease_id: str, expected: JobMetadata) -> None:
        """Let a job that nobody works on never begin again: 2009, 911, 912 when it is not as expected."""
        self._check(lease_id)
        expected.check()
        with self._open(domain_id, as_host=True) as (external, leases):
            lease = external.lookup(lease_id)
            with self._holding(lease):
                self._end_job(leases, lease, self._require(lease, expected), "FENCED")
        log.info("Fenced job %s in lease %s on %s", expected.job_id, lease_id, domain_id)

    @contextmanager
    def work(self, domain_id: str, lease_id: str, job_id: str, generation: int) -> Iterator[None]:
        """Hold the lease of a job that is pending while the block does the job, and keep in it how that ended.

        Raises 2009, 912, 911 when the job is not as expected, AcquireLockFailure (651) when another host works on it.
        """
        self._check(lease_id)
        expected = JobMetadata("JOB", job_id, "PENDING", generation)
        expected.check()
        with self._open(domain_id, as_host=True) as (external, _):
            lease = external.lookup(lease_id)
        with self._holding(lease) as leases:
            found, status = self._require(lease, expected), "FAILED"
            try:
                yield
                status = "SUCCEEDED"
            finally:
                self._end_job(leases, lease, found, status)

    def _require(self, lease: Lease, expected: JobMetadata) -> JobMetadata:
        found = self._read(lease)
        if found is None or (found.type, found.job_id) != (expected.type, expected.job_id):
            raise errors.UnsupportedOperation(f"lease {lease.name} is not of job {expected.job_id}")
        if found.job_status != expected.job_status:
            raise JobStatusMismatch(expected.job_status, found.job_status)
        if found.generation != expected.generation:
            raise GenerationMismatch(expected.generation, found.generation)
        return found

    def _end_job(self, leases: Leases, lease: Lease, found: JobMetadata, status: str) -> None:
        step, now = int(status != "FAILED"), int(self._clock.time())
        generation = (found.generation + step) % (MAXIMUM_GENERATION + 1)
        ended = replace(found, job_status=status, generation=generation, modified=now)
        self._write(leases, lease, replace(ended, host_hardware_id=self._hardware_id))

    def require_spm(self) -> None:
        """Raises StoragePoolNotConnected (313), SpmStatusError (654)."""
        self._pools.require_spm(self._get_pool())

    def _get_pool(self) -> str:
        for pool_id in self._pools.list_connected():
            return pool_id
        raise errors.StoragePoolNotConnected

    def _check(self, lease_id: str) -> None:
        checks.check_real_ids(lease_id=lease_id)
        self._get_pool()

    @contextmanager
    def _open(
        self, domain_id: str, *, as_host: bool = False, as_writer: bool = False
    ) -> Iterator[tuple[ExternalLeases, Leases]]:
        """A domain's leases; `as_host` when some are to be held, which waits until this host is one of the domain's.

        `as_writer` when the index is to be changed: the domain is of the pool whose SPM this host is, and stays
        meanwhile (353, 654).
        """
        spm = (locks.writing(self._get_pool(), shared=True),) if as_writer else ()
        with self._locks.hold(locks.domain(domain_id, shared=True), locks.external_leases(domain_id), *spm):
            domain = self._domains.get_with_images(domain_id)
            opened = domain.backend.open_external_leases
            if opened is None or self._leases is None or domain.metadata.version < XLEASES_VERSION:
                raise errors.UnsupportedOperation(f"domain {domain_id} has no external leases")
            if as_writer:
                require_writer(self._pools, self._get_pool(), domain)
            if as_host:
                domain.backend.domain.join_hosts(self._pools.get_connected(self._get_pool()).host_id)
            yield opened(), self._leases

    @contextmanager
    def _holding(self, lease: Lease) -> Iterator[Leases]:
        assert self._leases is not None
        try:
            self._leases.acquire(lease, with_value=True)
        except LeaseFailed as error:
            raise errors.AcquireLockFailure(lease.name, error.reason) from error
        try:
            yield self._leases
        finally:
            self._leases.release(lease)

    def _read(self, lease: Lease) -> JobMetadata | None:
        assert self._leases is not None
        try:
            return parse_value(self._leases.read_value(lease))
        except LeaseFailed as error:
            raise SanlockLvbError(error.reason) from error

    def _write(self, leases: Leases, lease: Lease, metadata: JobMetadata) -> None:
        try:
            leases.write_value(lease, format_value(metadata))
        except LeaseFailed as error:
            raise SanlockLvbError(error.reason) from error
