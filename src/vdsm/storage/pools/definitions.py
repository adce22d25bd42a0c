"""VM definitions that managers keep on a pool's master or on its Backup domains (facts: storage §9.10)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from vdsm.core.ids import BLANK_UUID
from vdsm.storage import checks, errors_pools, locks
from vdsm.storage.domain import Domain, Domains
from vdsm.storage.errors import InvalidParameterException, StorageDomainAccessError, io_failing_as
from vdsm.storage.layout import FileDomainLayout
from vdsm.storage.metadata import SURROGATE
from vdsm.storage.model import DomainClass, DomainStatus
from vdsm.storage.pools import master_tree
from vdsm.storage.pools.pool import Pools
from vdsm.storage.ports import Ownership


class Definitions(Struct, eq=False):
    """Texts by VM; a blank domain stands for the master, another must be an active Backup domain (378, 369)."""

    _pools: Pools
    _domains: Domains
    _locks: locks.Locks
    _ownership: Ownership

    def update(self, pool_id: str, definitions: Mapping[str, str], domain_id: str = BLANK_UUID) -> None:
        """Write definitions (SPM only), each as one and on disk. Raises 322, 378, 397, 654."""
        checks.check_ids(**{f"vmList[{index}]": vm_id for index, vm_id in enumerate(definitions)})
        for vm_id, ovf in definitions.items():
            if SURROGATE.search(ovf):
                raise InvalidParameterException("ovf", f"of {vm_id} is not encodable as UTF-8")
            if len(ovf.encode()) > master_tree.LONGEST_OVF_BYTES:
                raise InvalidParameterException(
                    "ovf", f"of {vm_id} has more than {master_tree.LONGEST_OVF_BYTES} bytes"
                )
        with self._changing(pool_id, domain_id) as (domain, folder):
            with io_failing_as(lambda _: StorageDomainAccessError(domain.domain_id)):
                for vm_id, ovf in definitions.items():
                    master_tree.write_definition(folder, vm_id, ovf, self._ownership.give)

    def remove(self, pool_id: str, vm_id: str, domain_id: str = BLANK_UUID) -> None:
        """Remove a definition (SPM only); nothing when there is none. Raises 322, 378, 654."""
        checks.check_ids(vmUUID=vm_id)
        with self._changing(pool_id, domain_id) as (domain, folder):
            with io_failing_as(lambda _: StorageDomainAccessError(domain.domain_id)):
                master_tree.remove_definition(folder, vm_id)

    def list_vms(self, pool_id: str, domain_id: str = BLANK_UUID) -> list[str]:
        """Ids of VMs with a definition. Raises 322, 378."""
        domain = self._get(pool_id, domain_id)
        with io_failing_as(lambda _: StorageDomainAccessError(domain.domain_id)):
            return master_tree.list_definitions(_get_folder(domain))

    def read(self, pool_id: str, vm_ids: Sequence[str], domain_id: str = BLANK_UUID) -> dict[str, str]:
        """Definitions of these VMs, or of all when none is named; VMs without one are left out (320, 322, 378)."""
        checks.check_ids(**{f"vmList[{index}]": vm_id for index, vm_id in enumerate(vm_ids)})
        domain = self._get(pool_id, domain_id)
        folder = _get_folder(domain)
        found = {vm_id: _read(folder, vm_id) for vm_id in vm_ids or self.list_vms(pool_id, domain_id)}
        return {vm_id: ovf for vm_id, ovf in found.items() if ovf is not None}

    @contextmanager
    def _changing(self, pool_id: str, domain_id: str) -> Iterator[tuple[Domain, Path]]:
        # The master stays the master meanwhile; a domain that hangs does not hold up the pool.
        with self._locks.hold(locks.definitions(domain_id), locks.writing(pool_id, shared=True)):
            self._pools.require_spm(pool_id)
            domain = self._get(pool_id, domain_id)
            yield domain, _get_folder(domain)

    def _get(self, pool_id: str, domain_id: str) -> Domain:
        pool = self._pools.get_connected(pool_id)
        checks.check_ids(storagedomainID=domain_id)
        if domain_id in (BLANK_UUID, pool.master_id):
            return self._domains.get(pool.master_id)
        domain = self._domains.get(domain_id)
        if domain.metadata.domain_class is not DomainClass.BACKUP:
            raise errors_pools.StorageDomainTypeNotBackup(domain_id)
        if pool.domains.get(domain_id) is not DomainStatus.ACTIVE:
            raise errors_pools.StorageDomainNotActive(domain_id)
        return domain


def _get_folder(domain: Domain) -> Path:
    folder = FileDomainLayout(domain.backend.domain.path).master / "vms"
    if not folder.is_dir():
        raise errors_pools.VmPathNotExists(str(folder))
    return folder


def _read(folder: Path, vm_id: str) -> str | None:
    with io_failing_as(lambda reason: errors_pools.MissingOvfFileFromVm(vm_id, reason)):
        try:
            return master_tree.read_definition(folder, vm_id)
        except UnicodeDecodeError as error:
            raise errors_pools.MissingOvfFileFromVm(vm_id, f"not UTF-8 at byte {error.start}") from error
