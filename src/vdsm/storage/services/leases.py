"""Answers the verbs on external leases."""

from functools import partial

import msgspec
from msgspec import UNSET

from vdsm.api import storage_leases as api
from vdsm.storage import checks
from vdsm.storage.lanes import Lanes
from vdsm.storage.leases.external import JobMetadata
from vdsm.storage.repository import Repository
from vdsm.storage.services.ports import LongWork


def _parse(metadata: api.JobMetadata) -> JobMetadata:
    return JobMetadata(metadata.type, metadata.job_id, metadata.job_status, metadata.generation)


def _format(metadata: JobMetadata) -> api.JobMetadata:
    return api.JobMetadata(
        type="JOB",
        job_status=msgspec.convert(metadata.job_status, api.JobStatus),
        generation=metadata.generation,
        job_id=metadata.job_id,
        created_s=metadata.created,
        modified_s=metadata.modified,
        host_hardware_id=metadata.host_hardware_id or UNSET,
    )


class LeaseService:
    """Implements `api.storage_leases.LeaseApi`."""

    def __init__(self, repository: Repository, lanes: Lanes, work: LongWork) -> None:
        self._leases = repository.external_leases
        self._lanes = lanes
        self._start = work.start_persistent

    async def create(self, lease: api.LeaseName, metadata: api.JobMetadata | None = None) -> str:
        kept = None if metadata is None else _parse(metadata)
        self._check(lease)
        create = partial(self._leases.create, lease.domain_id, lease.lease_id, kept)
        return await self._start("create_lease", lease.domain_id, lambda *_: create())

    async def delete(self, lease: api.LeaseName) -> str:
        self._check(lease)
        delete = partial(self._leases.delete, lease.domain_id, lease.lease_id)
        return await self._start("delete_lease", lease.domain_id, lambda *_: delete())

    async def get_info(self, lease: api.LeaseName) -> api.LeaseInfo:
        found = await self._lanes.run(lease.domain_id, self._leases.get, lease.domain_id, lease.lease_id)
        return api.LeaseInfo(
            domain_id=lease.domain_id, lease_id=lease.lease_id, path=str(found.path), offset=found.offset_bytes
        )

    async def get_status(self, lease: api.LeaseName) -> api.ExternalLeaseStatus:
        status = await self._lanes.run(lease.domain_id, self._leases.get_status, lease.domain_id, lease.lease_id)
        return api.ExternalLeaseStatus(
            owners=[] if status.holder is None else [status.holder],
            version=status.version,
            metadata=UNSET if status.metadata is None else _format(status.metadata),
        )

    async def fence(self, lease: api.LeaseName, metadata: api.JobMetadata) -> None:
        expected = _parse(metadata)
        await self._lanes.run(lease.domain_id, self._leases.fence, lease.domain_id, lease.lease_id, expected)

    async def rebuild(self, domain_id: str) -> str:
        checks.check_ids(sd_id=domain_id)
        self._leases.require_spm()
        return await self._start("rebuild_leases", domain_id, lambda *_: self._leases.rebuild(domain_id))

    def _check(self, lease: api.LeaseName) -> None:
        checks.check_ids(sd_id=lease.domain_id)
        checks.check_real_ids(lease_id=lease.lease_id)
        self._leases.require_spm()
