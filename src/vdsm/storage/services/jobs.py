"""Answers the verbs that start jobs on volumes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from msgspec import UNSET, UnsetType

from vdsm.api import sdm as api
from vdsm.api import storage_types
from vdsm.core.errors import NodeError
from vdsm.storage.errors import InvalidParameterException, UnsupportedOperation
from vdsm.storage.model import ExternalPlace, Legality, Subchain, VolumeChange, VolumeRef, VolumeRole
from vdsm.storage.ports import GuestToolFailed, Watch
from vdsm.storage.repository import Repository
from vdsm.storage.services.ports import LongWork

T = TypeVar("T")


def _known(value: T | UnsetType) -> T | None:
    return None if value is UNSET else value


def _read_volume(volume: api.VolumeEndpoint) -> VolumeRef:
    return VolumeRef(volume.domain_id, volume.image_id, volume.volume_id, _known(volume.generation))


def _read_endpoint(name: str, end: api.DataEndpoint) -> VolumeRef | ExternalPlace:
    if end.endpoint_type == "external":
        if end.url is UNSET or end.lease is UNSET or end.generation is UNSET:
            raise InvalidParameterException(name, "url, lease or generation is missing")
        lease = (end.lease.domain_id, end.lease.lease_id)
        return ExternalPlace(end.url, lease, end.generation, end.format, end.is_sparse, end.create, end.is_zero)
    domain_id, image_id, volume_id = map(_known, (end.domain_id, end.image_id, end.volume_id))
    if domain_id is None or image_id is None or volume_id is None:
        raise InvalidParameterException(name, "sd_id, img_id or vol_id is missing")
    return VolumeRef(domain_id, image_id, volume_id, _known(end.generation))


def read_subchain(subchain: storage_types.Subchain) -> Subchain:
    """The repository's own value."""
    ids = (subchain.domain_id, subchain.image_id, subchain.top_id, subchain.base_id)
    return Subchain(*ids, _known(subchain.base_generation))


class SdmService:
    """Implements what `api.sdm` declares. A file needs no preparing, so it does not matter whose that is."""

    def __init__(self, repository: Repository, work: LongWork) -> None:
        self._jobs = repository.jobs
        self._merges = repository.merges
        self._external = repository.external_copies
        self._start_job = work.start_job

    async def copy_data(
        self, job_id: str, source: api.DataEndpoint, target: api.DataEndpoint, copy_bitmaps: bool = False
    ) -> None:
        here, there = _read_endpoint("source", source), _read_endpoint("destination", target)
        if isinstance(here, VolumeRef) and isinstance(there, VolumeRef):
            owner, copy = f"{here.domain_id} {there.domain_id}", partial(self._jobs.copy_data, here, there)
            work = partial(copy, copy_bitmaps=copy_bitmaps)
            await self._start_job(job_id, "copy_data", owner, lambda watch: work(watch=watch))
        elif copy_bitmaps:
            raise UnsupportedOperation("bitmaps are copied from volume to volume")
        elif isinstance(there, VolumeRef) and isinstance(here, ExternalPlace):
            fetch = partial(self._external.fetch, job_id, here, there)
            await self._start(job_id, "copy_data", there, lambda watch: fetch(watch=watch))
        elif isinstance(here, VolumeRef) and isinstance(there, ExternalPlace):
            send = partial(self._external.send, job_id, here, there)
            await self._start(job_id, "copy_data", here, lambda watch: send(watch=watch))
        else:
            raise UnsupportedOperation("one end of a copy is a volume")

    async def update_volume(self, job_id: str, volume: api.VolumeEndpoint, attributes: api.VolumeAttributes) -> None:
        legality, role = _known(attributes.legality), _known(attributes.role)
        change = VolumeChange(
            description=_known(attributes.description),
            legality=None if legality is None else Legality(legality),
            role=None if role is None else VolumeRole(role),
            generation=_known(attributes.generation),
        )
        target = _read_volume(volume)
        await self._start(job_id, "update_volume", target, lambda _: self._jobs.update_volume(target, change))

    async def merge(self, job_id: str, subchain: storage_types.Subchain, merge_bitmaps: bool = False) -> None:
        pair = read_subchain(subchain)
        merge = partial(self._merges.merge, pair, merge_bitmaps=merge_bitmaps)
        await self._start(job_id, "merge_subchain", pair.base, lambda watch: merge(watch=watch))

    async def amend_volume(self, job_id: str, volume: api.VolumeEndpoint, attributes: api.Qcow2Attributes) -> None:
        target, amend = _read_volume(volume), partial(self._jobs.amend_volume, compat=_known(attributes.compat))
        await self._start(job_id, "amend_volume", target, lambda watch: amend(target, watch=watch))

    async def sparsify_volume(self, job_id: str, volume: api.VolumeEndpoint) -> None:
        target, sparsify = _read_volume(volume), self._jobs.sparsify_volume
        await self._start(job_id, "sparsify_volume", target, lambda watch: sparsify(target, watch=watch))

    async def add_bitmap(self, job_id: str, volume: api.VolumeEndpoint, bitmap: str) -> None:
        target = _read_volume(volume)
        await self._start(job_id, "add_bitmap", target, lambda _: self._jobs.add_bitmap(target, bitmap))

    async def remove_bitmap(self, job_id: str, volume: api.VolumeEndpoint, bitmap: str) -> None:
        target = _read_volume(volume)
        await self._start(job_id, "remove_bitmap", target, lambda _: self._jobs.remove_bitmap(target, bitmap))

    async def clear_bitmaps(self, job_id: str, volume: api.VolumeEndpoint) -> None:
        target = _read_volume(volume)
        await self._start(job_id, "clear_bitmaps", target, lambda _: self._jobs.clear_bitmaps(target))

    async def seal(self, vm_id: str, job_id: str, pool_id: str, images: Sequence[api.VolumeEndpoint]) -> None:
        targets = [_read_volume(volume) for volume in images]

        def work(watch: Watch) -> None:
            try:
                self._jobs.seal_volumes(pool_id, targets, watch=watch)
            except NodeError as error:  # whatever it is, this job has one number for it (facts: rpc §2.21)
                raise GuestToolFailed(f"VM {vm_id} is not sealed: {error}") from error

        await self._start_job(job_id, "seal_vm", pool_id, work, of_vms=True)

    async def _start(self, job_id: str, name: str, target: VolumeRef, work: Callable[[Watch], None]) -> None:
        await self._start_job(job_id, name, target.domain_id, work)
