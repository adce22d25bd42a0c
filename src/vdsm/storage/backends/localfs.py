"""Folders of this host as storage: connected by a link, locked by `flock` (facts: storage §2.3, §3.1, §13.1).

The domain's files are left to `file` and `file_volumes`.
"""

import contextlib
import fcntl
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from vdsm.storage import durable, errors
from vdsm.storage.backends.file import check_place, create_file_domain, list_domains, open_file_domain
from vdsm.storage.layout import FileDomainLayout, Layout
from vdsm.storage.metadata import check_line
from vdsm.storage.model import DomainType, ServerConnection
from vdsm.storage.naming import normalize_remote
from vdsm.storage.ports import Backend, DomainPlan, LeaseState, Ownership, Traits

TRAITS = Traits(DomainType.LOCALFS, "fileVolume", "FileVolume")


class LocalKind:
    """`ports.Kind` for folders of this host. Domains that were opened keep their lock object."""

    def __init__(self, layout: Layout, ownership: Ownership) -> None:
        self._layout = layout
        self._ownership = ownership
        self._backends: dict[tuple[str, Path], Backend] = {}

    def connect(self, connection: ServerConnection) -> None:
        """The target is a folder (1000) that the owner of disks may use (469)."""
        folder, link = self._parse(connection.place)
        with errors.io_failing_as(lambda reason: errors.InvalidParameterException("connection", reason)):
            if not folder.is_dir():
                raise errors.InvalidParameterException("connection", str(folder))
            refusal = self._ownership.check_access(folder)
            if refusal:
                raise errors.StorageServerAccessPermissionError(str(folder), refusal)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not (link.is_symlink() and link.readlink() == folder):
                durable.replace_link(link, folder, link.parent / f".{uuid.uuid4()}")

    def disconnect(self, connection: ServerConnection) -> bool:
        _, link = self._parse(connection.place)
        with errors.io_failing_as(lambda reason: errors.InvalidParameterException("connection", reason)):
            if link.is_symlink():
                link.unlink()
        return True

    def list_domains(self) -> Mapping[str, Path]:
        found: dict[str, Path] = {}
        if not self._layout.mounts.is_dir():
            return found
        for mount in sorted(self._layout.mounts.iterdir()):
            if mount.name.startswith("_") and mount.is_symlink():
                with contextlib.suppress(OSError):  # what the link leads to is gone; its domains are, too
                    for name in list_domains(mount)[:1]:
                        found.setdefault(name, mount / name)
        return found

    def open_domain(self, domain_id: str, path: Path) -> Backend:
        if (domain_id, path) not in self._backends:
            lock = FileLock(FileDomainLayout(path).ids)
            backend = open_file_domain(domain_id, path, TRAITS, lock, self._ownership)
            self._backends.setdefault((domain_id, path), backend)
        return self._backends[domain_id, path]

    def check_new(self, remote_path: str) -> int:
        """The path is absolute and normalized (390), connected (360), usable (469) and without a domain (361)."""
        if not remote_path.startswith("/") or normalize_remote(remote_path) != remote_path:
            raise errors.StorageDomainIllegalRemotePath(remote_path)
        _, link = self._parse(remote_path)
        if not link.is_dir():
            raise errors.StorageDomainFsNotMounted(remote_path)
        return check_place(link, remote_path, self._ownership)

    def create_domain(self, plan: DomainPlan) -> None:
        _, link = self._parse(plan.remote_path)
        create_file_domain(link, plan, self._ownership)

    def _parse(self, spec: str) -> tuple[Path, Path]:
        check_line("connection", spec)
        if not spec.startswith("/"):
            raise errors.InvalidParameterException("connection", spec)
        link = self._layout.get_mount(spec)
        if len(os.fsencode(link.name)) > 255:
            raise errors.InvalidParameterException("connection", "too long")
        return Path(normalize_remote(spec)), link


class FileLock:
    """An exclusive `flock` on a file: it ends with the process, however that ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def join(self, host_id: int, *, wait: bool = True) -> None:
        """Nobody shares a local folder."""

    def leave(self, host_id: int) -> None:
        """Nobody shares a local folder."""

    def is_joined(self, host_id: int) -> bool:
        return True

    def is_held(self) -> bool:
        return self._descriptor is not None

    def inspect(self) -> LeaseState | None:
        return None

    def acquire(self, host_id: int) -> None:
        if self._descriptor is not None:
            raise errors.AcquireLockFailure(str(self._path), f"already held by this process (host {host_id})")
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise errors.AcquireLockFailure(str(self._path), str(error)) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise errors.AcquireLockFailure(str(self._path), "held by another process") from error
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
