"""Bringing domains to a newer on-disk version (facts: storage §1.4), in steps that any kill leaves finishable.

At every moment a domain is readable as the old or as the new version: while records change, they carry what both need.
"""

import logging
from functools import partial

from msgspec import Struct

from vdsm.storage import locks
from vdsm.storage.domain import Domain, Domains
from vdsm.storage.errors import InvalidMetadata, InvalidParameterException, MetadataOverflowError, VolumeDoesNotExist
from vdsm.storage.images.volume_metadata import format_volume_metadata, parse_volume_metadata
from vdsm.storage.metadata import UPGRADING
from vdsm.storage.model import DEFAULT_ALIGNMENT_BYTES, DEFAULT_BLOCK_SIZE_BYTES, DomainClass, DomainStatus
from vdsm.storage.pools.pool import Pools
from vdsm.storage.ports import Steps

log = logging.getLogger(__name__)


class Upgrades(Struct, eq=False):
    """Upgrades of single domains; which version a pool wants is its master's."""

    _pools: Pools
    _domains: Domains
    _locks: locks.Locks
    _step: Steps

    def convert(self, domain_id: str, version: int) -> None:
        """Bring a domain to at least this version, and finish what a kill left of an earlier try.

        The caller holds the domain's locks in this process and between hosts. Images may be in use: data stays.
        """
        while (domain := self._domains.get(domain_id)).metadata.version < version:
            log.info("Upgrading domain %s from version %d", domain_id, domain.metadata.version)
            if domain.metadata.version == 3:
                self._convert_to_4(domain)
            else:
                self._convert_to_5(domain)
        if UPGRADING in domain.metadata.keys:
            self._write_records(domain, transitional=False)
            self._step("upgrade done")
            self._domains.update(domain_id, {UPGRADING: None})

    def list_members(self, pool_id: str) -> list[str]:
        """Active domains beside the master of a connected pool."""
        pool = self._pools.get_connected(pool_id)
        active = [domain_id for domain_id, status in pool.domains.items() if status is DomainStatus.ACTIVE]
        return [domain_id for domain_id in active if domain_id != pool.master_id]

    def convert_member(self, pool_id: str, domain_id: str) -> None:
        """Bring an active data domain to the master's version (SPM only); another stays as it is. Raises 651, 654."""
        with self._locks.hold(locks.domain(domain_id), locks.writing(pool_id, shared=True)):
            self._pools.require_spm(pool_id)
            if domain_id not in self.list_members(pool_id):
                return
            pool = self._pools.get_connected(pool_id)
            version = self._domains.get(pool.master_id).metadata.version
            domain = self._domains.get(domain_id)
            if is_older(domain, version):
                with domain.locked(pool.host_id):
                    self.convert(domain_id, version)

    def _convert_to_4(self, domain: Domain) -> None:
        if domain.backend.create_external_leases is not None:
            self._step("create external leases")
            domain.backend.create_external_leases()
        self._step("upgrade version")
        self._domains.update(domain.domain_id, {"VERSION": "4"})

    def _convert_to_5(self, domain: Domain) -> None:
        self._write_records(domain, transitional=True)
        self._step("upgrade version")
        changes = {
            "VERSION": "5",
            "BLOCK_SIZE": str(DEFAULT_BLOCK_SIZE_BYTES),
            "ALIGNMENT": str(DEFAULT_ALIGNMENT_BYTES),
            "LOGBLKSIZE": None,
            "PHYBLKSIZE": None,
            UPGRADING: "5",
        }
        self._domains.update(domain.domain_id, changes)

    def _write_records(self, domain: Domain, *, transitional: bool) -> None:
        version = domain.metadata.version
        form = partial(format_volume_metadata, version=version, transitional=transitional)
        volumes = domain.backend.volumes
        for image_id in volumes.list_images():
            for volume_id in volumes.list_records(image_id):
                try:
                    old = volumes.read_record(image_id, volume_id)
                    new = form(parse_volume_metadata(old))
                except VolumeDoesNotExist:
                    continue
                except (InvalidMetadata, InvalidParameterException, MetadataOverflowError) as error:
                    # Whoever reads the new version takes old records, too; this one is no worse than it was.
                    log.warning("The record of volume %s of image %s stays as it is: %s", volume_id, image_id, error)
                    continue
                if new != old:
                    self._step("upgrade record")
                    volumes.write_record(image_id, volume_id, new)


def is_older(domain: Domain, version: int) -> bool:
    """Whether a data domain has this version still before it, or an upgrade unfinished."""
    is_data = domain.metadata.domain_class is DomainClass.DATA
    return is_data and (domain.metadata.version < version or UPGRADING in domain.metadata.keys)
