"""A repository with a pool to work in: over memory for unit tests, over a folder for contract tests."""

import os
import uuid
from itertools import count
from pathlib import Path

from msgspec import Struct, field

from vdsm.core.ids import BLANK_UUID
from vdsm.core.paths import Paths
from vdsm.storage.backends.memory import MemoryKind
from vdsm.storage.backends.mounted import Outside
from vdsm.storage.model import Allocation, DomainClass, DomainType, VolumeFormat, VolumeMetadata, VolumeRequest
from vdsm.storage.ports import Ownership, QemuImg, Rollbacks, Steps
from vdsm.storage.repository import Repository
from vdsm.testing.qemuimg import FakeQemuImg

MIB = 1 << 20
_numbers = count(1)


def make_id() -> str:
    """A UUID that nobody else has."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, str(next(_numbers))))


class NoOwner:
    """`storage.ports.Ownership` that leaves files alone; `refusal` is what access checks answer."""

    def __init__(self) -> None:
        self.refusal: str | None = None

    def give(self, path: Path) -> None:
        """Nothing."""

    def check_access(self, folder: Path) -> str | None:
        return self.refusal

    def can_read(self, status: os.stat_result) -> bool:
        return self.refusal is None


class FixedClock:
    """A clock that stands still."""

    def __init__(self, now_s: float = 1_700_000_000.0) -> None:
        self.now_s = now_s

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def ignore_step(_: str) -> None:
    """For work whose steps nobody watches."""


class World(Struct):
    """A repository, a server, and the ids of a domain and a pool on it."""

    repository: Repository
    server: str
    kind: MemoryKind | None = None
    fake_qemu: FakeQemuImg | None = None
    domain_id: str = field(default_factory=make_id)
    pool_id: str = field(default_factory=make_id)
    type: DomainType = DomainType.LOCALFS

    def create_domain(self, version: int = 5, domain_class: DomainClass = DomainClass.DATA) -> None:
        self.repository.servers.connect(self.type, self.server)
        self.repository.domains.create(self.type, self.domain_id, "first", self.server, domain_class, version)

    def create_pool(self, version: int = 5) -> None:
        self.create_domain(version)
        self.repository.pools.create(self.pool_id, "pool", self.domain_id, 1, [self.domain_id])

    def start_spm(self, version: int = 5) -> "World":
        """Make domain and pool, and become SPM."""
        self.create_pool(version)
        return self.resume()

    def resume(self) -> "World":
        """What a restarted process does: connect server and pool, become SPM."""
        self.repository.servers.connect(self.type, self.server)
        self.repository.pools.connect(self.pool_id, 1, self.domain_id, 1)
        self.repository.spm.start(self.pool_id)
        return self

    def request(
        self,
        image_id: str | None = None,
        volume_id: str | None = None,
        *,
        format: VolumeFormat = VolumeFormat.COW,
        allocation: Allocation = Allocation.SPARSE,
        capacity_bytes: int = MIB,
        parent_id: str = BLANK_UUID,
        parent_image_id: str = BLANK_UUID,
        description: str = "",
    ) -> VolumeRequest:
        return VolumeRequest(
            self.pool_id,
            self.domain_id,
            image_id or make_id(),
            volume_id or make_id(),
            capacity_bytes,
            format,
            allocation,
            description=description,
            parent_id=parent_id,
            parent_image_id=parent_image_id,
        )

    def create(self, request: VolumeRequest, rollbacks: Rollbacks | None = None) -> VolumeRequest:
        self.repository.volumes.create(request, rollbacks)
        return request

    def create_base(self, **changes: VolumeFormat | Allocation | int | str) -> VolumeRequest:
        """A volume without a parent in an image of its own."""
        return self.create(self.request(**changes))  # type: ignore[arg-type]

    def create_layer(self, on: VolumeRequest, image_id: str | None = None) -> VolumeRequest:
        """A layer on a volume, in its image or in another."""
        where = image_id or on.image_id
        parent_image_id = BLANK_UUID if image_id is None else on.image_id
        return self.create(self.request(where, parent_id=on.volume_id, parent_image_id=parent_image_id))

    def get_record(self, volume: VolumeRequest) -> VolumeMetadata:
        return self.repository.volumes.get_metadata(self.domain_id, volume.image_id, volume.volume_id)

    def get_path(self, volume: VolumeRequest) -> Path:
        backend = self.repository.domains.get_backend(self.domain_id)
        return backend.data.get_path(volume.image_id, volume.volume_id)

    def delete(self, image_id: str, *volume_ids: str, force: bool = False) -> None:
        self.repository.volumes.delete(self.pool_id, self.domain_id, image_id, volume_ids, force=force)

    @property
    def memory(self) -> MemoryKind:
        assert self.kind is not None
        return self.kind


def make_world_in_memory(folder: Path, steps: Steps = ignore_step) -> World:
    """A world whose storage is memory; links are made in the folder."""
    files: dict[Path, int] = {}
    kind, qemu_img = MemoryKind(folder / "storage", files), FakeQemuImg(files)
    repository = Repository(
        Paths(folder),
        qemu_img=qemu_img,
        ownership=NoOwner(),
        clock=FixedClock(),
        kinds={DomainType.LOCALFS: kind},
        steps=steps,
        lock_timeout_s=5,
    )
    return World(repository, "/server", kind, qemu_img)


def make_world_on_disk(folder: Path, qemu_img: QemuImg, ownership: Ownership, steps: Steps = ignore_step) -> World:
    """A world on a folder of this host."""
    server = folder / "server_1"
    server.mkdir(exist_ok=True)
    ownership.give(server)
    repository = Repository(Paths(folder), qemu_img=qemu_img, ownership=ownership, clock=FixedClock(), steps=steps)
    return World(repository, str(server))


def make_shared_world(
    folder: Path, qemu_img: QemuImg, outside: Outside, ownership: Ownership, steps: Steps = ignore_step
) -> World:
    """A world on storage that hosts share: `outside` can mount "server:/1"."""
    repository = Repository(
        Paths(folder),
        qemu_img=qemu_img,
        ownership=ownership,
        clock=FixedClock(),
        steps=steps,
        shared=outside,
        lease_notice_s=0,  # leases in memory are new in each process
    )
    return World(repository, "server:/1", type=DomainType.NFS)
