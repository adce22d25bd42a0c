"""Storage in memory, of the same shape as real kinds: for tests and demonstrations; it survives nothing.

`fail_next` lets one later operation fail as storage would.
"""

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from msgspec import Struct, field

from vdsm.core.errors import NodeError
from vdsm.storage import errors
from vdsm.storage.model import ISO_IMAGE, DomainSpace, DomainType, ServerConnection, VolumeLease, VolumeSize
from vdsm.storage.ports import Backend, DomainPlan, HalfMade, LeaseState, Traits

TRAITS = Traits(DomainType.LOCALFS, "fileVolume", "FileVolume")
_TOTAL_BYTES = 1 << 40


class Faults:
    """Failures to come, by the name of the operation."""

    def __init__(self) -> None:
        self._next: dict[str, NodeError] = {}

    def fail_next(self, operation: str, error: NodeError) -> None:
        """Let the next such operation raise this."""
        self._next[operation] = error

    def check(self, operation: str) -> None:
        error = self._next.pop(operation, None)
        if error is not None:
            raise error


class MemoryDomain(Struct):
    """What a domain holds: records and data by image, data as the number of its bytes."""

    metadata: bytes
    images: dict[str, dict[str, bytes]] = field(default_factory=dict)
    data: dict[str, set[str]] = field(default_factory=dict)
    locked_by: int | None = None


class MemoryKind:
    """`ports.Kind`: every server has room for one domain. `files` are the sizes of all data by path."""

    def __init__(self, folder: Path, files: dict[Path, int] | None = None, block_size_bytes: int = 512) -> None:
        self.folder = folder
        self.files = {} if files is None else files
        self.faults = Faults()
        self.servers: dict[str, dict[str, MemoryDomain]] = {}
        self.connected: set[str] = set()
        self._block_size_bytes = block_size_bytes

    def fail_next(self, operation: str, error: NodeError) -> None:
        """Let the next operation of that name (a method of the ports) raise this."""
        self.faults.fail_next(operation, error)

    def connect(self, connection: ServerConnection) -> None:
        spec = connection.place
        if not spec.startswith("/"):
            raise errors.InvalidParameterException("connection", spec)
        self.faults.check("connect")
        self.servers.setdefault(spec, {})
        self.connected.add(spec)

    def disconnect(self, connection: ServerConnection) -> bool:
        self.connected.discard(connection.place)
        return True

    def list_domains(self) -> Mapping[str, Path]:
        return {
            domain_id: self.folder / domain_id for spec in sorted(self.connected) for domain_id in self.servers[spec]
        }

    def open_domain(self, domain_id: str, path: Path) -> Backend:
        domain = next(server[domain_id] for server in self.servers.values() if domain_id in server)
        store = MemoryStore(domain_id, path, domain, self.files, self.faults, self._block_size_bytes)
        return Backend(TRAITS, store, MemoryVolumes(store), MemoryData(store), MemoryLeftovers(store))

    def check_new(self, remote_path: str) -> int:
        if remote_path not in self.connected:
            raise errors.StorageDomainFsNotMounted(remote_path)
        if self.servers[remote_path]:
            raise errors.StorageDomainNotEmpty(remote_path)
        return self._block_size_bytes

    def create_domain(self, plan: DomainPlan) -> None:
        self.faults.check("create_domain")
        domain = MemoryDomain(plan.metadata)
        if plan.iso_image:
            domain.images[ISO_IMAGE] = {}
        self.servers[plan.remote_path][plan.domain_id] = domain


class MemoryStore(Struct, frozen=True):
    """`ports.DomainStore`."""

    domain_id: str
    path: Path
    domain: MemoryDomain
    files: dict[Path, int]
    faults: Faults
    _block_size_bytes: int

    @property
    def checked_path(self) -> Path:
        return self.path / "dom_md" / "metadata"

    def read_metadata(self) -> bytes:
        self.faults.check("read_metadata")
        return self.domain.metadata

    def write_metadata(self, data: bytes) -> None:
        self.faults.check("write_metadata")
        self.domain.metadata = data

    def check_layout(self) -> None:
        self.faults.check("check_layout")

    def get_block_size_bytes(self) -> int:
        return self._block_size_bytes

    def get_space(self) -> DomainSpace:
        return DomainSpace(_TOTAL_BYTES, _TOTAL_BYTES - sum(self.files.values()))

    def join_hosts(self, host_id: int, *, wait: bool = True) -> None:
        self.faults.check("join_hosts")

    def leave_hosts(self, host_id: int) -> None:
        self.faults.check("leave_hosts")

    def is_joined(self, host_id: int) -> bool:
        return True

    def has_lock(self) -> bool:
        self.faults.check("has_lock")
        return self.domain.locked_by is not None

    def inspect_lock(self) -> LeaseState | None:
        self.faults.check("inspect_lock")
        return None

    def acquire_lock(self, host_id: int) -> None:
        self.faults.check("acquire_lock")
        if self.domain.locked_by is not None:
            raise errors.AcquireLockFailure(self.domain_id, f"held by host {self.domain.locked_by}")
        self.domain.locked_by = host_id

    def release_lock(self) -> None:
        self.domain.locked_by = None

    def create_master_tree(self) -> None:
        self.faults.check("create_master_tree")


class MemoryVolumes:
    """`ports.VolumeStore`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._images = store.domain.images
        self._data = store.domain.data

    def list_images(self) -> list[str]:
        return sorted(self._images)

    def list_records(self, image_id: str) -> list[str]:
        return sorted(self._images.get(image_id, {}))

    def has_image(self, image_id: str) -> bool:
        return image_id in self._images

    def create_image(self, image_id: str) -> None:
        self._store.faults.check("create_image")
        if image_id in self._images:
            raise errors.ImagePathError(image_id)
        self._images[image_id] = {}

    def remove_image(self, image_id: str) -> bool:
        if self._images.get(image_id) or self._data.get(image_id):
            return False
        self._images.pop(image_id, None)
        return True

    def set_aside(self, image_id: str) -> None:
        self._store.faults.check("set_aside")
        for volume_id in {*self._images.pop(image_id), *self._data.pop(image_id, set())}:
            self._store.files.pop(self.get_image_path(image_id) / volume_id, None)

    def purge(self, image_id: str) -> None:
        self._store.faults.check("purge")

    def get_image_path(self, image_id: str) -> Path:
        return self._store.path / "images" / image_id

    def create_lease(self, image_id: str, volume_id: str) -> None:
        self._store.faults.check("create_lease")

    def hold_lease(self, image_id: str, volume_id: str) -> AbstractContextManager[None]:
        return nullcontext()

    def get_lease(self, image_id: str, volume_id: str) -> VolumeLease | None:
        return None

    find_lease = get_lease

    def read_record(self, image_id: str, volume_id: str) -> bytes:
        self._store.faults.check("read_record")
        try:
            return self._images[image_id][volume_id]
        except KeyError:
            raise errors.VolumeDoesNotExist(volume_id) from None

    def write_record(self, image_id: str, volume_id: str, record: bytes) -> None:
        self._store.faults.check("write_record")
        self._images[image_id][volume_id] = record

    def remove_record(self, image_id: str, volume_id: str) -> None:
        self._store.faults.check("remove_record")
        self._images.get(image_id, {}).pop(volume_id, None)

    def share(self, volume_id: str, source_image_id: str, image_id: str) -> None:
        self._store.faults.check("share")
        if image_id not in self._images or volume_id not in self._images.get(source_image_id, {}):
            raise errors.CannotShareVolume(volume_id, "no such image or volume")
        self._images[image_id][volume_id] = self._images[source_image_id][volume_id]
        self._data.setdefault(image_id, set()).add(volume_id)
        source = self.get_image_path(source_image_id) / volume_id
        self._store.files[self.get_image_path(image_id) / volume_id] = self._store.files.get(source, 0)

    def is_shared(self, image_id: str, volume_id: str) -> bool:
        return any(volume_id in volumes for other, volumes in self._images.items() if other != image_id)

    def unshare(self, image_id: str, volume_id: str) -> None:
        self._images.get(image_id, {}).pop(volume_id, None)
        self._data.get(image_id, set()).discard(volume_id)
        self._store.files.pop(self.get_image_path(image_id) / volume_id, None)


class MemoryData:
    """`ports.DataStore`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._data = store.domain.data

    def get_path(self, image_id: str, volume_id: str) -> Path:
        return self._store.path / "images" / image_id / volume_id

    def has_data(self, image_id: str, volume_id: str) -> bool:
        return volume_id in self._data.get(image_id, set())

    def create_data(self, image_id: str, volume_id: str) -> None:
        self._store.faults.check("create_data")
        if self.has_data(image_id, volume_id):
            raise errors.VolumeAlreadyExists(volume_id)
        self._data.setdefault(image_id, set()).add(volume_id)
        self._store.files[self.get_path(image_id, volume_id)] = 0

    def preallocate(self, image_id: str, volume_id: str, start_bytes: int, end_bytes: int) -> None:
        self._store.faults.check("preallocate")
        path = self.get_path(image_id, volume_id)
        self._store.files[path] = max(self._store.files[path], end_bytes)

    def settle_data(self, image_id: str, volume_id: str) -> None:
        self._store.faults.check("settle_data")

    def remove_data(self, image_id: str, volume_id: str) -> None:
        self._store.faults.check("remove_data")
        self._data.get(image_id, set()).discard(volume_id)
        self._store.files.pop(self.get_path(image_id, volume_id), None)

    def rename_data(self, image_id: str, volume_id: str, new_id: str) -> None:
        size_bytes = self.get_size(image_id, volume_id).apparent_bytes
        self.remove_data(image_id, volume_id)
        self._data[image_id].add(new_id)
        self._store.files[self.get_path(image_id, new_id)] = size_bytes

    def open_access(self, image_id: str, volume_id: str) -> None:
        self.get_size(image_id, volume_id)

    def get_size(self, image_id: str, volume_id: str) -> VolumeSize:
        with contextlib.suppress(KeyError):
            size_bytes = self._store.files[self.get_path(image_id, volume_id)]
            return VolumeSize(size_bytes, size_bytes)
        raise errors.VolumeAccessError(volume_id, "no data")

    def extend(self, image_id: str, volume_id: str, size_bytes: int) -> None:
        self.preallocate(image_id, volume_id, 0, size_bytes)

    def is_zero(self, image_id: str, volume_id: str) -> bool:
        return False


class MemoryLeftovers:
    """`ports.Leftovers`."""

    def __init__(self, store: MemoryStore) -> None:
        self._domain = store.domain

    def clean_temporaries(self) -> None:
        """Memory has none."""

    def list_half_made(self) -> Iterator[HalfMade]:
        for image_id, records in sorted(self._domain.images.items()):
            data = self._domain.data.get(image_id, set())
            if data != set(records) or not records:
                yield HalfMade(image_id, tuple(sorted(data - set(records))), tuple(sorted(set(records) - data)))
