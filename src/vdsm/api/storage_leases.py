"""The surface of external leases: who runs a VM, or works on a job, on all hosts that share a domain."""

from typing import Annotated, Literal, Protocol

from msgspec import UNSET, Meta, Struct, UnsetType

from vdsm.api.declare import Number, Text, group, ovirt, verb
from vdsm.core.ids import DomainId, TaskId, Uuid

JobStatus = Literal["PENDING", "FAILED", "SUCCEEDED", "FENCED"]


class LeaseName(Struct, frozen=True, kw_only=True):
    """A lease of a storage domain."""

    domain_id: Annotated[Uuid, ovirt("sd_id")]
    lease_id: Uuid


class JobMetadata(Struct, frozen=True, kw_only=True):
    """What a job keeps in its lease (facts: storage §6.6); times are seconds since the epoch."""

    type: Literal["JOB"]
    job_status: JobStatus
    generation: Annotated[int, Meta(ge=0, le=999)]
    job_id: Uuid
    created_s: Annotated[Number, ovirt("created")] = UNSET
    modified_s: Annotated[Number, ovirt("modified")] = UNSET
    host_hardware_id: Text = UNSET


class LeaseInfo(Struct, frozen=True, kw_only=True):
    """Where a lease lies."""

    domain_id: Annotated[str, ovirt("sd_id")]
    lease_id: str
    path: str
    offset: int


class ExternalLeaseStatus(Struct, frozen=True, kw_only=True):
    """Which hosts hold a lease, how often it was taken, and what a job keeps in it while nobody holds it."""

    owners: Annotated[list[int], ovirt("owners", declared="uint")]
    version: int
    metadata: JobMetadata | UnsetType = UNSET


_Lease = Annotated[LeaseName, ovirt("lease"), "the lease"]
_FAILS = ("storage-pool-not-connected", "storage-domain-does-not-exist", "unsupported-storage-operation")
_SPM = (*_FAILS, "secure-error")


@group("lease", "/storage/leases", invalid="invalid-parameter")
class LeaseApi(Protocol):
    """External leases of shared storage domains, from version 4 on."""

    @verb("Lease.create", "POST", task=True, fails=_SPM)
    async def create(
        self,
        lease: _Lease,
        metadata: Annotated[JobMetadata | None, ovirt("metadata"), "kept in the lease, for jobs"] = None,
    ) -> TaskId:
        """Make a lease; one that is there is left alone, with what it keeps (SPM only)."""

    @verb("Lease.delete", "POST /delete", task=True, fails=_SPM)
    async def delete(self, lease: _Lease) -> TaskId:
        """Remove a lease; success when it is not there (SPM only)."""

    @verb("Lease.info", "POST /info", fails=(*_FAILS, "no-such-lease"))
    async def get_info(self, lease: _Lease) -> LeaseInfo:
        """Where a lease lies, for who takes it."""

    @verb("Lease.status", "POST /status", fails=(*_FAILS, "no-such-lease"))
    async def get_status(self, lease: _Lease) -> ExternalLeaseStatus:
        """Who holds a lease; when nobody does, it is taken for a moment to read what a job keeps in it."""

    @verb(
        "Lease.fence",
        "POST /fence",
        fails=(*_FAILS, "no-such-lease", "acquire-lock-failure", "generation-mismatch", "job-status-mismatch"),
    )
    async def fence(
        self, lease: _Lease, metadata: Annotated[JobMetadata, ovirt("metadata"), "what the caller believes to be there"]
    ) -> None:
        """Let a job that nobody works on never begin again, if it still is as the caller believes."""

    @verb("Lease.rebuild_leases", "POST /rebuild", task=True, fails=_SPM)
    async def rebuild(self, domain_id: Annotated[DomainId, ovirt("sd_id"), "the domain's id"]) -> TaskId:
        """Make a domain's index of leases agree with its leases, after damage (SPM only)."""
