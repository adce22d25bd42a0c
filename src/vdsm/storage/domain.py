"""Storage domains: finding, making, reading and validating them; belonging to a pool is left to `pool`."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from vdsm.core.errors import NodeError
from vdsm.core.patience import Patience
from vdsm.storage import checks, errors, locks, model
from vdsm.storage.health.monitor import DomainLook
from vdsm.storage.images.chain import Images
from vdsm.storage.metadata import DomainMetadata, format_domain_metadata, new_domain_keys, parse_domain_metadata
from vdsm.storage.naming import normalize_remote
from vdsm.storage.ports import Backend, DomainPlan, Kind

log = logging.getLogger(__name__)

R = TypeVar("R")

LOOK_TIMEOUT_S = 10.0
"""So long a domain that does not answer holds up who looks at many."""
UNREADABLE = (
    errors.InvalidMetadata,
    errors.MetaDataSealIsBroken,
    errors.MetaDataValidationError,
    errors.StorageDomainDoesNotExist,
    errors.StorageDomainMetadataNotFound,
)
"""What reading a sick domain raises."""


def call_in_time(
    patience: Patience,
    domain_id: str,
    call: Callable[[], R],
    timeout_s: float,
    late: Callable[[R], object] | None = None,
) -> R:
    """As `patience` calls by the name of a domain. Raises AccessTimeout (3) for one that takes too long."""
    try:
        return patience.call(domain_id, call, timeout_s, late)
    except TimeoutError as error:
        raise errors.AccessTimeout(domain_id) from error


class Servers:
    """Storage servers of this host: what is connected makes domains visible."""

    def __init__(self, kinds: Mapping[model.DomainType, Kind], domains: "Domains") -> None:
        self._kinds = kinds
        self._domains = domains

    def connect(self, type: model.DomainType, server: model.ServerConnection | str) -> None:
        """Connect one server or folder; repeating it is harmless. Raises by facts §2.3: 372, 1000, 469, 477."""
        self._get(type).connect(_as_connection(server))
        self._domains.refresh()

    def disconnect(self, type: model.DomainType, server: model.ServerConnection | str) -> bool:
        """Whether the place is connected no more: True also when it never was, False while other connections use it."""
        try:
            return self._get(type).disconnect(_as_connection(server))
        finally:
            self._domains.refresh()

    def _get(self, type: model.DomainType) -> Kind:
        if type not in self._kinds:
            raise errors.StorageDomainTypeError(type)
        return self._kinds[type]


class Domain(Struct, frozen=True):
    """One domain that was found: its metadata as read now, and the ways to its files."""

    metadata: DomainMetadata
    backend: Backend

    @property
    def domain_id(self) -> str:
        return self.backend.domain.domain_id

    @property
    def images(self) -> Images:
        return Images(self.domain_id, self.metadata.version, self.backend)

    @contextmanager
    def locked(self, host_id: int) -> Iterator[None]:
        """Be the one host that writes the domain's metadata, for the block. Raises AcquireLockFailure (651)."""
        self.backend.domain.acquire_lock(host_id)
        try:
            yield
        finally:
            self.backend.domain.release_lock()


class Domains:
    """The domains on connected servers. Metadata is read anew by each operation."""

    def __init__(self, kinds: Mapping[model.DomainType, Kind], resource_locks: locks.Locks) -> None:
        self._kinds = kinds
        self._locks = resource_locks
        self._found: dict[str, tuple[Kind, Path]] = {}
        self._patience = Patience(NodeError)

    def refresh(self) -> None:
        """Look at the connected servers again."""
        found: dict[str, tuple[Kind, Path]] = {}
        for kind in self._kinds.values():
            for domain_id, path in kind.list_domains().items():
                found.setdefault(domain_id, (kind, path))
        self._found = found

    def list_domains(
        self,
        *,
        pool_id: str | None = None,
        domain_class: model.DomainClass | None = None,
        type: model.DomainType | None = None,
        remote_path: str | None = None,
    ) -> list[str]:
        """Ids of the domains that fit all that is given; one that cannot be read fits nothing but no filter."""
        self.refresh()
        path = normalize_remote(remote_path) if remote_path else None
        wanted = {"pool": pool_id, "class": domain_class, "type": type, "path": path}
        if not any(wanted.values()):
            return sorted(self._found)
        return [domain_id for domain_id in sorted(self._found) if self._fits(domain_id, wanted)]

    def get_backend(self, domain_id: str) -> Backend:
        """Raises InvalidParameterException, StorageDomainDoesNotExist."""
        checks.check_ids(storagedomainID=domain_id)
        if domain_id in self._found and _is_gone(self._found[domain_id][1]):
            self.refresh()
        kind, path = self._find(domain_id)
        return kind.open_domain(domain_id, path)

    def get_path(self, domain_id: str) -> Path:
        """Where a domain was found, without looking at it: it may hang. Raises StorageDomainDoesNotExist."""
        return self._find(domain_id)[1]

    def get(self, domain_id: str) -> Domain:
        """A domain with its metadata; raises what reading metadata raises (364, 751 to 753)."""
        backend = self.get_backend(domain_id)
        metadata = parse_domain_metadata(backend.domain.read_metadata())
        metadata.check()
        if metadata.domain_id != domain_id:
            raise errors.StorageDomainDoesNotExist(domain_id)
        return Domain(metadata, backend)

    def get_in_time(self, domain_id: str) -> Domain:
        """`get` for who must not wait for a sick domain; AccessTimeout after 10 s, and at once while that goes on."""
        return self._look_in_time(domain_id, self.get)

    def get_accessible(self, domain_id: str) -> Domain:
        """`get_in_time`; one that is there and cannot be read is StorageDomainAccessError (379)."""
        try:
            return self.get_in_time(domain_id)
        except errors.StorageDomainDoesNotExist:
            raise
        except UNREADABLE as error:
            raise errors.StorageDomainAccessError(domain_id) from error

    def get_with_images(self, domain_id: str) -> Domain:
        """`get`, and the domain holds disk images (329)."""
        domain = self.get(domain_id)
        if domain.metadata.domain_class is model.DomainClass.ISO:
            raise errors.ImagesNotSupportedError(domain_id)
        return domain

    def get_space(self, domain_id: str) -> model.DomainSpace:
        return self.get_backend(domain_id).domain.get_space()

    def look(self, domain_id: str) -> DomainLook:
        """What monitoring sees of a domain; raises what `get` raises, 379 and 384 (facts: storage §11.2)."""
        domain = self.get(domain_id)
        store = domain.backend.domain
        is_iso = domain.metadata.domain_class is model.DomainClass.ISO
        return DomainLook(domain.metadata.version, store.get_space(), store.checked_path, is_iso)

    def list_images(self, domain_id: str) -> list[str]:
        """Images that have a volume of their own."""
        domain = self.get(domain_id)
        if domain.metadata.domain_class is model.DomainClass.ISO:
            return [model.ISO_IMAGE]
        return domain.images.list_images()

    def list_volumes(self, domain_id: str) -> list[str]:
        """All volumes of the domain, templates once."""
        return self.get(domain_id).images.list_all_volumes()

    def validate(self, domain_id: str) -> Domain:
        """Check metadata, layout (371) and block size (348, 399), within the time that `get_in_time` has."""
        return self._look_in_time(domain_id, self._validate)

    def _look_in_time(self, domain_id: str, look: Callable[[str], Domain]) -> Domain:
        return call_in_time(self._patience, domain_id, partial(look, domain_id), LOOK_TIMEOUT_S)

    def _validate(self, domain_id: str) -> Domain:
        domain = self.get(domain_id)
        domain.backend.domain.check_layout()
        probed = domain.backend.domain.get_block_size_bytes()
        if probed not in (1, domain.metadata.block_size_bytes):
            raise errors.StorageDomainBlockSizeMismatch(domain.metadata.block_size_bytes, probed)
        return domain

    def create(
        self,
        type: model.DomainType,
        domain_id: str,
        name: str,
        remote_path: str,
        domain_class: model.DomainClass = model.DomainClass.DATA,
        version: int = 5,
        block_size_bytes: int = model.DEFAULT_BLOCK_SIZE_BYTES,
        maximum_hosts: int = 2000,
    ) -> None:
        """Make a domain on a connected server (facts: storage §3.3). A block size of 0 takes the storage's."""
        checks.check_real_ids(storagedomainID=domain_id)
        if type not in self._kinds:
            raise errors.StorageDomainTypeError(type)
        checks.check_new_domain(type, domain_class, name, version, block_size_bytes, maximum_hosts)
        if type is not model.DomainType.LOCALFS:
            remote_path = normalize_remote(remote_path)
        with self._locks.hold(locks.domain(domain_id), locks.place(remote_path)):
            self.refresh()
            if domain_id in self._found:
                raise errors.StorageDomainAlreadyExists(domain_id)
            kind = self._kinds[type]
            block_size = _choose_block_size(block_size_bytes, kind.check_new(remote_path))
            alignment = checks.get_alignment_bytes(block_size, maximum_hosts)
            keys = new_domain_keys(domain_id, name, type, domain_class, version, remote_path, block_size, alignment)
            data, is_iso = format_domain_metadata(keys), domain_class is model.DomainClass.ISO
            kind.create_domain(DomainPlan(domain_id, remote_path, data, is_iso, version, block_size, alignment))
            self.refresh()
        log.info("Created domain %s at %s", domain_id, remote_path)

    def update(self, domain_id: str, changes: Mapping[str, str | None]) -> DomainMetadata:
        """Change keys of a domain's metadata as one; the caller holds the domain's lock."""
        domain = self.get(domain_id)
        changed = domain.metadata.replace(changes)
        if changed.keys != domain.metadata.keys:
            domain.backend.domain.write_metadata(format_domain_metadata(changed))
        return changed

    def _find(self, domain_id: str) -> tuple[Kind, Path]:
        if domain_id not in self._found:
            self.refresh()
        try:
            return self._found[domain_id]
        except KeyError:
            raise errors.StorageDomainDoesNotExist(domain_id) from None

    def _fits(self, domain_id: str, wanted: Mapping[str, str | None]) -> bool:
        try:
            metadata = self.get_in_time(domain_id).metadata
        except (errors.AccessTimeout, *UNREADABLE) as error:
            log.warning("Domain %s cannot be read: %s", domain_id, error)
            return False
        has = {"class": metadata.domain_class, "type": metadata.type, "path": metadata.remote_path}
        return all(
            value in metadata.pool_ids if key == "pool" else has[key] == value for key, value in wanted.items() if value
        )


def _is_gone(path: Path) -> bool:
    try:
        return not path.is_dir()
    except OSError:
        return False  # sick, as whoever uses it will be told


def _as_connection(server: model.ServerConnection | str) -> model.ServerConnection:
    return model.ServerConnection(server) if isinstance(server, str) else server


def _choose_block_size(wanted_bytes: int, probed_bytes: int) -> int:
    if wanted_bytes == 0:
        return model.DEFAULT_BLOCK_SIZE_BYTES if probed_bytes == 1 else probed_bytes
    if probed_bytes not in (1, wanted_bytes):
        raise errors.StorageDomainBlockSizeMismatch(wanted_bytes, probed_bytes)
    return wanted_bytes
