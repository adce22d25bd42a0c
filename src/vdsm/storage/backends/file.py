"""A file domain's own files: metadata, space, master tree, and its making (facts: storage §3).

Locks differ between local and shared file systems and are left to the kinds; images and volumes to `file_volumes`.
"""

import contextlib
import mmap
import os
import shutil
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from vdsm.core.clock import Clock
from vdsm.core.errors import NodeError
from vdsm.core.ids import is_uuid
from vdsm.storage import durable, errors
from vdsm.storage.backends.domain_leases import DomainLeases
from vdsm.storage.backends.file_volumes import FileDataStore, FileLeftovers, FileVolumeStore
from vdsm.storage.layout import METADATA_BYTES, FileDomainLayout
from vdsm.storage.model import ISO_IMAGE, XLEASES_VERSION, DomainSpace
from vdsm.storage.ports import Backend, DomainPlan, LeaseState, Ownership, Traits

FOLDER_MODE = 0o755
METADATA_MODE = 0o644
SPECIAL_MODE = 0o660
MAILBOX_BYTES = 16 << 20
MAILBOXES = ("inbox", "outbox")
_SPECIAL_FILES = {"ids": 0, "leases": 0, **dict.fromkeys(MAILBOXES, MAILBOX_BYTES)}
_PROBE_SIZES_BYTES = (1, 512, 4096)


Format = Callable[[Path], None]


class Lock(Protocol):
    """How hosts that share a domain know of each other and find the one metadata writer; as in `ports.DomainStore`."""

    def join(self, host_id: int, *, wait: bool = True) -> None: ...

    def leave(self, host_id: int) -> None: ...

    def is_joined(self, host_id: int) -> bool: ...

    def acquire(self, host_id: int) -> None: ...

    def release(self) -> None: ...

    def is_held(self) -> bool: ...

    def inspect(self) -> LeaseState | None: ...


class FileDomainStore:
    """`ports.DomainStore` over a directory tree."""

    def __init__(self, domain_id: str, path: Path, lock: Lock, ownership: Ownership) -> None:
        self._domain_id = domain_id
        self._layout = FileDomainLayout(path)
        self._lock = lock
        self._ownership = ownership

    @property
    def domain_id(self) -> str:
        return self._domain_id

    @property
    def path(self) -> Path:
        return self._layout.root

    @property
    def checked_path(self) -> Path:
        return self._layout.metadata

    def read_metadata(self) -> bytes:
        with errors.io_failing_as(lambda reason: errors.StorageDomainMetadataNotFound(self._domain_id, reason)):
            return durable.read_file_directly(self._layout.metadata, METADATA_BYTES)

    def write_metadata(self, data: bytes) -> None:
        path = self._layout.metadata
        with errors.io_failing_as(lambda _: errors.StorageDomainAccessError(self._domain_id)):
            durable.write_file(path, path.with_name("metadata.new"), data, METADATA_MODE, owner=self._ownership.give)

    def check_layout(self) -> None:
        parts = {**dict.fromkeys(("dom_md", "images"), Path.is_dir)}
        parts |= dict.fromkeys((f"dom_md/{name}" for name in ("metadata", *_SPECIAL_FILES)), Path.is_file)
        with errors.io_failing_as(lambda _: errors.StorageDomainAccessError(self._domain_id)):
            for part, is_there in parts.items():
                if not is_there(self.path / part):
                    raise errors.StorageDomainLayoutError(self._domain_id, part)

    def get_block_size_bytes(self) -> int:
        return probe_block_size(self.path.parent)

    def get_space(self) -> DomainSpace:
        with errors.io_failing_as(lambda _: errors.StorageDomainAccessError(self._domain_id)):
            figures = os.statvfs(self.path)
        return DomainSpace(figures.f_frsize * figures.f_blocks, figures.f_frsize * figures.f_bavail)

    def join_hosts(self, host_id: int, *, wait: bool = True) -> None:
        self._lock.join(host_id, wait=wait)

    def leave_hosts(self, host_id: int) -> None:
        self._lock.leave(host_id)

    def is_joined(self, host_id: int) -> bool:
        return self._lock.is_joined(host_id)

    def acquire_lock(self, host_id: int) -> None:
        self._lock.acquire(host_id)

    def release_lock(self) -> None:
        self._lock.release()

    def has_lock(self) -> bool:
        return self._lock.is_held()

    def inspect_lock(self) -> LeaseState | None:
        return self._lock.inspect()

    def create_master_tree(self) -> None:
        master = self._layout.master
        with errors.io_failing_as(lambda _: errors.StorageDomainAccessError(self._domain_id)):
            for folder in (master, master / "vms", master / "tasks"):
                if not folder.is_dir():
                    durable.create_folder(folder, FOLDER_MODE, owner=self._ownership.give)
            for name in MAILBOXES:
                self._grow(self._layout.metadata.with_name(name), MAILBOX_BYTES)

    def _grow(self, path: Path, size_bytes: int) -> None:
        if not path.exists():
            durable.create_file(path, SPECIAL_MODE, size_bytes=size_bytes, owner=self._ownership.give)
        elif path.stat().st_size < size_bytes:
            os.truncate(path, size_bytes)
            durable.sync(path)


def create_file_domain(folder: Path, plan: DomainPlan, ownership: Ownership, format: Format | None = None) -> None:
    """Make the tree under a hidden name and rename it into place, so that a domain that is found is whole.

    `format` is told the tree when all files are there, and makes its leases; local domains have none. What a kill
    leaves has a hidden name that no search matches; the next creation in that folder removes it.
    """
    building = folder / f".{plan.domain_id}.new"
    with errors.io_failing_as(lambda reason: errors.StorageDomainCreationError(plan.domain_id, reason)):
        remove_unfinished(folder)
        try:
            _build(building, plan, ownership, format)
            building.rename(folder / plan.domain_id)
        except (OSError, NodeError):
            shutil.rmtree(building, ignore_errors=True)
            raise
        durable.sync(folder)


def remove_unfinished(folder: Path) -> None:
    """Remove domains that were being made in this folder when the process was killed."""
    for path in folder.glob(".*.new"):
        if is_uuid(path.name[1:-4]) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def probe_block_size(folder: Path) -> int:
    """The smallest write that direct I/O takes: 512, 4096, or 1 when storage does not tell (facts: storage §3.1)."""
    probe = folder / f".prob-{uuid.uuid4()}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_DIRECT | os.O_DSYNC | os.O_CLOEXEC
    try:
        descriptor = os.open(probe, flags, 0o600)
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink()
        raise errors.StorageDomainTargetUnsupported(str(folder), "no direct I/O") from error
    try:
        with mmap.mmap(-1, _PROBE_SIZES_BYTES[-1]) as aligned:
            return _probe(descriptor, aligned, folder)
    finally:
        os.close(descriptor)
        probe.unlink(missing_ok=True)


def _probe(descriptor: int, aligned: mmap.mmap, folder: Path) -> int:
    for size in _PROBE_SIZES_BYTES:
        with memoryview(aligned) as whole, whole[:size] as part, contextlib.suppress(OSError):
            os.pwritev(descriptor, [part], 0)
            return size
    raise errors.StorageDomainTargetUnsupported(str(folder), "no direct I/O")


def list_domains(mount: Path) -> list[str]:
    """Ids of the domains below a mount or link, the one that counts first. Raises OSError."""
    with os.scandir(mount) as entries:
        names = sorted(entry.name for entry in entries if is_uuid(entry.name))
    return [name for name in names if (mount / name / "dom_md").is_dir()]


def check_place(path: Path, remote_path: str, ownership: Ownership) -> int:
    """Whether a domain may be made there (469, 361); the probed block size (399)."""
    with errors.io_failing_as(lambda reason: errors.StorageServerAccessPermissionError(remote_path, reason)):
        refusal = ownership.check_access(path)
        if refusal:
            raise errors.StorageServerAccessPermissionError(remote_path, refusal)
        if any(not found.parent.name.startswith(".") for found in path.glob("*/dom_md")):
            raise errors.StorageDomainNotEmpty(remote_path)
    return probe_block_size(path)


def open_file_domain(
    domain_id: str, path: Path, traits: Traits, lock: Lock, ownership: Ownership, clock: Clock | None = None
) -> Backend:
    """The ways to a domain's files; with a clock it has external leases."""
    leases = lock if isinstance(lock, DomainLeases) else None
    return Backend(
        traits=traits,
        domain=FileDomainStore(domain_id, path, lock, ownership),
        volumes=FileVolumeStore(domain_id, path, ownership, leases),
        data=FileDataStore(path, ownership),
        leftovers=FileLeftovers(domain_id, path),
        open_external_leases=partial(leases.open_external, clock) if leases and clock else None,
        create_external_leases=partial(leases.create_external, clock, ownership.give) if leases and clock else None,
    )


def _build(building: Path, plan: DomainPlan, ownership: Ownership, format: Format | None) -> None:
    give: Callable[[Path], None] = ownership.give
    durable.create_folder(building, FOLDER_MODE, owner=give)
    durable.create_folder(building / "dom_md", FOLDER_MODE, owner=give)
    for name, size_bytes in _SPECIAL_FILES.items():
        durable.create_file(building / "dom_md" / name, SPECIAL_MODE, size_bytes=size_bytes, owner=give)
    metadata = building / "dom_md" / "metadata"
    durable.write_file(metadata, metadata.with_name("metadata.new"), plan.metadata, METADATA_MODE, owner=give)
    durable.create_folder(building / "images", FOLDER_MODE, owner=give)
    if format is not None:
        if plan.version >= XLEASES_VERSION:
            durable.create_file(building / "dom_md" / "xleases", SPECIAL_MODE, owner=give)
        format(building)
    if plan.iso_image:
        durable.create_folder(building / "images" / ISO_IMAGE, FOLDER_MODE, owner=give)
