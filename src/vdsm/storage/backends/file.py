"""A file domain's own files: metadata, space, master tree, and its making (facts: storage §3).

Locks differ between local and shared file systems and are left to the kinds; images and volumes to `file_volumes`.
"""

import contextlib
import mmap
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from vdsm.core.ids import is_uuid
from vdsm.storage import durable
from vdsm.storage.errors import (
    StorageDomainAccessError,
    StorageDomainCreationError,
    StorageDomainLayoutError,
    StorageDomainMetadataNotFound,
    StorageDomainTargetUnsupported,
    io_failing_as,
)
from vdsm.storage.layout import FileDomainLayout
from vdsm.storage.model import ISO_IMAGE, DomainSpace
from vdsm.storage.ports import DomainPlan, Ownership

FOLDER_MODE = 0o755
METADATA_MODE = 0o644
SPECIAL_MODE = 0o660
MAILBOX_BYTES = 16 << 20
_METADATA_BYTES = 1 << 20  # more than a hundred domains take up
_SPECIAL_FILES = {"ids": 0, "leases": 0, "inbox": MAILBOX_BYTES, "outbox": MAILBOX_BYTES}
_PROBE_SIZES_BYTES = (1, 512, 4096)


class Lock(Protocol):
    """How a domain's one metadata writer is found."""

    def acquire(self, host_id: int) -> None: ...

    def release(self) -> None: ...


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
        with io_failing_as(lambda reason: StorageDomainMetadataNotFound(self._domain_id, reason)):
            return durable.read_file(self._layout.metadata, _METADATA_BYTES)

    def write_metadata(self, data: bytes) -> None:
        path = self._layout.metadata
        with io_failing_as(lambda _: StorageDomainAccessError(self._domain_id)):
            durable.write_file(path, path.with_name("metadata.new"), data, METADATA_MODE, owner=self._ownership.give)

    def check_layout(self) -> None:
        parts = {**dict.fromkeys(("dom_md", "images"), Path.is_dir)}
        parts |= dict.fromkeys((f"dom_md/{name}" for name in ("metadata", *_SPECIAL_FILES)), Path.is_file)
        for part, is_there in parts.items():
            if not is_there(self.path / part):
                raise StorageDomainLayoutError(self._domain_id, part)

    def get_block_size_bytes(self) -> int:
        return probe_block_size(self.path.parent)

    def get_space(self) -> DomainSpace:
        with io_failing_as(lambda _: StorageDomainAccessError(self._domain_id)):
            figures = os.statvfs(self.path)
        return DomainSpace(figures.f_frsize * figures.f_blocks, figures.f_frsize * figures.f_bavail)

    def acquire_lock(self, host_id: int) -> None:
        self._lock.acquire(host_id)

    def release_lock(self) -> None:
        self._lock.release()

    def create_master_tree(self) -> None:
        master = self._layout.master
        with io_failing_as(lambda _: StorageDomainAccessError(self._domain_id)):
            for folder in (master, master / "vms", master / "tasks"):
                if not folder.is_dir():
                    durable.create_folder(folder, FOLDER_MODE, owner=self._ownership.give)


def create_file_domain(folder: Path, plan: DomainPlan, ownership: Ownership) -> None:
    """Make the tree under a hidden name and rename it into place, so that a domain that is found is whole.

    What a kill leaves has a hidden name that no search matches; the next creation in that folder removes it.
    """
    building = folder / f".{plan.domain_id}.new"
    with io_failing_as(lambda reason: StorageDomainCreationError(plan.domain_id, reason)):
        remove_unfinished(folder)
        try:
            _build(building, plan, ownership)
            building.rename(folder / plan.domain_id)
        except OSError:
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
        raise StorageDomainTargetUnsupported(str(folder)) from error
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
    raise StorageDomainTargetUnsupported(str(folder))


def _build(building: Path, plan: DomainPlan, ownership: Ownership) -> None:
    give: Callable[[Path], None] = ownership.give
    durable.create_folder(building, FOLDER_MODE, owner=give)
    durable.create_folder(building / "dom_md", FOLDER_MODE, owner=give)
    for name, size_bytes in _SPECIAL_FILES.items():
        durable.create_file(building / "dom_md" / name, SPECIAL_MODE, size_bytes=size_bytes, owner=give)
    metadata = building / "dom_md" / "metadata"
    durable.write_file(metadata, metadata.with_name("metadata.new"), plan.metadata, METADATA_MODE, owner=give)
    durable.create_folder(building / "images", FOLDER_MODE, owner=give)
    if plan.iso_image:
        durable.create_folder(building / "images" / ISO_IMAGE, FOLDER_MODE, owner=give)
