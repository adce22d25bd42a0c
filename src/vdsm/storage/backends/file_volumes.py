"""Images and volumes of a file domain: a folder for each image, a data file and a `.meta` record for each volume.

What the records mean, and in which order they change, is left to the operations. Templates are shared by hard links
(facts: storage §3.5).
"""

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from vdsm.core.errors import NodeError
from vdsm.core.ids import is_uuid
from vdsm.storage import durable, errors
from vdsm.storage.backends.domain_leases import DomainLeases
from vdsm.storage.images.volume_metadata import RECORD_BYTES
from vdsm.storage.layout import FileDomainLayout
from vdsm.storage.model import RAW_HEAD_BYTES, VolumeLease, VolumeSize
from vdsm.storage.ports import HalfMade, Ownership

IMAGE_MODE = 0o755
DRAFT_MODE = 0o600
"""Of data that is being made: by it, what a kill leaves is told from data whose record was lost."""
RECORD_MODE = 0o644
LEASE_MODE = 0o660
PURGED_PREFIX = "_remove_me_"
_STAT_BLOCK_BYTES = 512
_RECORD = ".meta"
_LEASE = ".lease"
_TEMPORARY = ".meta.new"


class FileVolumeStore:
    """`ports.VolumeStore` over a directory tree."""

    def __init__(self, domain_id: str, path: Path, ownership: Ownership, leases: DomainLeases | None = None) -> None:
        """Without `leases` volumes have none."""
        self._domain_id = domain_id
        self._layout = FileDomainLayout(path)
        self._ownership = ownership
        self._leases = leases

    def list_images(self) -> list[str]:
        with (
            errors.io_failing_as(lambda _: errors.StorageDomainAccessError(self._domain_id)),
            os.scandir(self._layout.images) as entries,
        ):
            return sorted(
                entry.name for entry in entries if is_uuid(entry.name) and entry.is_dir(follow_symlinks=False)
            )

    def list_records(self, image_id: str) -> list[str]:
        folder = self.get_image_path(image_id)
        with errors.io_failing_as(lambda _: errors.ImagePathError(str(folder))):
            try:
                names = os.listdir(folder)
            except FileNotFoundError:
                return []
        stems = (name.removesuffix(_RECORD) for name in names if name.endswith(_RECORD))
        return sorted(stem for stem in stems if is_uuid(stem))

    def has_image(self, image_id: str) -> bool:
        return _is(stat.S_ISDIR, self.get_image_path(image_id))

    def create_image(self, image_id: str) -> None:
        folder = self.get_image_path(image_id)
        with errors.io_failing_as(lambda _: errors.ImagePathError(str(folder))):
            durable.create_folder(folder, IMAGE_MODE, owner=self._ownership.give)

    def remove_image(self, image_id: str) -> bool:
        folder = self.get_image_path(image_id)
        with errors.io_failing_as(lambda _: errors.ImagePathError(str(folder))):
            if not self.has_image(image_id):
                return True
            if os.listdir(folder):
                return False
            folder.rmdir()
            durable.sync(folder.parent)
        return True

    def set_aside(self, image_id: str) -> None:
        self.purge(image_id)  # an earlier image of that id, whose purge did not end
        folder = self.get_image_path(image_id)
        with errors.io_failing_as(lambda _: errors.ImagePathError(str(folder))):
            folder.rename(folder.with_name(PURGED_PREFIX + image_id))
            durable.sync(folder.parent)

    def purge(self, image_id: str) -> None:
        folder = self.get_image_path(PURGED_PREFIX + image_id)
        with errors.io_failing_as(lambda _: errors.ImagePathError(str(folder))), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)

    def get_image_path(self, image_id: str) -> Path:
        return self._layout.get_image(image_id)

    def create_lease(self, image_id: str, volume_id: str) -> None:
        if self._leases is None:
            return
        path = self._layout.get_lease(image_id, volume_id)
        with errors.io_failing_as(errors.ClusterLockInitError):
            durable.remove_file(path)  # of a killed creation of this volume
            durable.create_file(path, LEASE_MODE, owner=self._ownership.give)
        self._leases.create(path, volume_id)

    def get_lease(self, image_id: str, volume_id: str) -> VolumeLease | None:
        path = self._layout.get_lease(image_id, volume_id)
        return None if self._leases is None else self._leases.inspect_volume(path, volume_id)

    def find_lease(self, image_id: str, volume_id: str) -> VolumeLease | None:
        return None if self._leases is None else VolumeLease(self._layout.get_lease(image_id, volume_id))

    def hold_lease(self, image_id: str, volume_id: str) -> AbstractContextManager[None]:
        path = self._layout.get_lease(image_id, volume_id)
        is_there = _is(stat.S_ISREG, self._layout.get_record(image_id, volume_id))
        return self._leases.hold_volume(path, volume_id) if self._leases is not None and is_there else nullcontext()

    def read_record(self, image_id: str, volume_id: str) -> bytes:
        with errors.io_failing_as(lambda reason: errors.VolumeMetadataReadError(volume_id, reason)):
            try:
                return durable.read_file(self._layout.get_record(image_id, volume_id), RECORD_BYTES + 1)
            except (FileNotFoundError, NotADirectoryError):
                raise errors.VolumeDoesNotExist(volume_id) from None

    def write_record(self, image_id: str, volume_id: str, record: bytes) -> None:
        path = self._layout.get_record(image_id, volume_id)
        with errors.io_failing_as(lambda reason: errors.VolumeMetadataWriteError(volume_id, reason)):
            # Its own: two hosts that write at once must not put each other's half of one in place.
            temporary = path.with_name(f"{volume_id}.{uuid.uuid4()}{_TEMPORARY}")
            durable.write_file(path, temporary, record, RECORD_MODE, owner=self._ownership.give)

    def remove_record(self, image_id: str, volume_id: str) -> None:
        with errors.io_failing_as(lambda reason: errors.CannotDeleteVolume(volume_id, reason)):
            _remove(self._layout.get_lease(image_id, volume_id), self._layout.get_record(image_id, volume_id))

    def share(self, volume_id: str, source_image_id: str, image_id: str) -> None:
        # The record goes last: it is what makes the volume appear.
        paths = (self._layout.get_volume, self._layout.get_lease, self._layout.get_record)
        with errors.io_failing_as(lambda reason: errors.CannotShareVolume(volume_id, reason)):
            for path in paths:
                source, target = path(source_image_id, volume_id), path(image_id, volume_id)
                if source.exists():
                    durable.remove_file(target)
                    os.link(source, target, follow_symlinks=False)
            durable.sync(self.get_image_path(image_id))

    def is_shared(self, image_id: str, volume_id: str) -> bool:
        return _is_linked(self._layout.get_volume(image_id, volume_id))

    def unshare(self, image_id: str, volume_id: str) -> None:
        paths = (self._layout.get_record, self._layout.get_lease, self._layout.get_volume)
        with errors.io_failing_as(lambda reason: errors.CannotDeleteVolume(volume_id, reason)):
            _remove(*(path(image_id, volume_id) for path in paths))


class FileDataStore:
    """`ports.DataStore` over data files."""

    def __init__(self, path: Path, ownership: Ownership) -> None:
        self._layout = FileDomainLayout(path)
        self._ownership = ownership

    def get_path(self, image_id: str, volume_id: str) -> Path:
        return self._layout.get_volume(image_id, volume_id)

    def has_data(self, image_id: str, volume_id: str) -> bool:
        return _is(stat.S_ISREG, self.get_path(image_id, volume_id))

    def create_data(self, image_id: str, volume_id: str) -> None:
        with errors.io_failing_as(lambda reason: errors.VolumeCreationError(volume_id, reason)):
            try:
                durable.create_file(self.get_path(image_id, volume_id), DRAFT_MODE, owner=self._ownership.give)
            except FileExistsError:
                raise errors.VolumeAlreadyExists(volume_id) from None

    def preallocate(self, image_id: str, volume_id: str, start_bytes: int, end_bytes: int) -> None:
        def allocate(descriptor: int) -> None:
            if end_bytes > start_bytes:
                os.posix_fallocate(descriptor, start_bytes, end_bytes - start_bytes)

        self._with_data(image_id, volume_id, allocate)

    def settle_data(self, image_id: str, volume_id: str) -> None:
        with errors.io_failing_as(lambda reason: errors.VolumeCreationError(volume_id, reason)):
            self._ownership.give(self.get_path(image_id, volume_id))
        self._with_data(image_id, volume_id, os.fsync)

    def remove_data(self, image_id: str, volume_id: str) -> None:
        with errors.io_failing_as(lambda reason: errors.CannotDeleteVolume(volume_id, reason)):
            _remove(self.get_path(image_id, volume_id))

    def rename_data(self, image_id: str, volume_id: str, new_id: str) -> None:
        path = self.get_path(image_id, volume_id)
        with errors.io_failing_as(lambda reason: errors.VolumeAccessError(volume_id, reason)):
            path.rename(path.with_name(new_id))
            durable.sync(path.parent)

    def open_access(self, image_id: str, volume_id: str) -> None:
        with errors.io_failing_as(lambda reason: errors.VolumeAccessError(volume_id, reason)):
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self.get_path(image_id, volume_id), flags)
            try:
                mode = stat.S_IMODE(durable.look(descriptor).st_mode)
                wanted = mode & ~0o070 | (mode & 0o700) >> 3
                if wanted != mode:
                    os.fchmod(descriptor, wanted)
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def get_size(self, image_id: str, volume_id: str) -> VolumeSize:
        with errors.io_failing_as(lambda reason: errors.VolumeAccessError(volume_id, reason)):
            status = durable.look(self.get_path(image_id, volume_id))
        if stat.S_ISLNK(status.st_mode):
            raise errors.VolumeAccessError(volume_id, "it is a link, which may lead anywhere")
        return VolumeSize(status.st_size, status.st_blocks * _STAT_BLOCK_BYTES)

    def extend(self, image_id: str, volume_id: str, size_bytes: int) -> None:
        def grow(descriptor: int) -> None:
            if durable.look(descriptor).st_size < size_bytes:
                os.ftruncate(descriptor, size_bytes)
                os.fsync(descriptor)

        self._with_data(image_id, volume_id, grow, errors.VolumeExtendingError)

    def is_zero(self, image_id: str, volume_id: str) -> bool:
        heads: list[bytes] = []

        def look(descriptor: int) -> None:
            try:
                os.lseek(descriptor, RAW_HEAD_BYTES, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # there is none
                    raise
                heads.append(os.pread(descriptor, RAW_HEAD_BYTES, 0))

        self._with_data(image_id, volume_id, look)
        return bool(heads) and not any(heads[0])

    def _with_data(
        self,
        image_id: str,
        volume_id: str,
        act: Callable[[int], None],
        failure: Callable[[str, str], NodeError] = errors.VolumeCreationError,
    ) -> None:
        with errors.io_failing_as(lambda reason: failure(volume_id, reason)):
            flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self.get_path(image_id, volume_id), flags)
            try:
                act(descriptor)
            finally:
                os.close(descriptor)


class FileLeftovers:
    """`ports.Leftovers` over a directory tree; names, modes and links are looked at, contents are not."""

    def __init__(self, domain_id: str, path: Path) -> None:
        self._domain_id = domain_id
        self._layout = FileDomainLayout(path)

    def clean_temporaries(self) -> None:
        with errors.io_failing_as(lambda _: errors.StorageDomainAccessError(self._domain_id)):
            durable.remove_file(self._layout.metadata.with_name("metadata.new"))
            for path in self._list_folders():
                if is_uuid(path.name):
                    _clean_image(path)
                elif is_uuid(path.name.removeprefix(PURGED_PREFIX)):
                    shutil.rmtree(path)

    def list_half_made(self) -> Iterator[HalfMade]:
        with errors.io_failing_as(lambda _: errors.StorageDomainAccessError(self._domain_id)):
            for path in self._list_folders():
                if is_uuid(path.name):
                    names = os.listdir(path)
                    data = {name for name in names if is_uuid(name)}
                    records = {name.removesuffix(_RECORD) for name in names if name.endswith(_RECORD)}
                    records = {name for name in records if is_uuid(name)}
                    drafts = {name for name in data - records if _is_draft(path / name)}
                    if data != records or not names:
                        parts = (drafts, records - data, data - records - drafts)
                        yield HalfMade(path.name, *(tuple(sorted(part)) for part in parts))

    def _list_folders(self) -> list[Path]:
        with os.scandir(self._layout.images) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        return [self._layout.images / name for name in names]


def _clean_image(folder: Path) -> None:
    names = set(os.listdir(folder))
    for name in names:
        stem = name.partition(".")[0]
        volume_is_there = stem in names or stem + _RECORD in names
        if is_uuid(stem) and (name.endswith(_TEMPORARY) or (name == stem + _LEASE and not volume_is_there)):
            durable.remove_file(folder / name)


def _remove(*paths: Path) -> None:
    try:
        removed = [durable.remove_file(path) for path in paths]
        if any(removed):
            durable.sync(paths[0].parent)
    except (FileNotFoundError, NotADirectoryError):
        return  # the image's folder is gone, and the volume with it


def _is(kind: Callable[[int], bool], path: Path) -> bool:
    try:
        return kind(durable.look(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _is_linked(path: Path) -> bool:
    return _is(stat.S_ISREG, path) and durable.look(path).st_nlink > 1


def _is_draft(path: Path) -> bool:
    return _is_linked(path) or _is(lambda mode: stat.S_ISREG(mode) and stat.S_IMODE(mode) == DRAFT_MODE, path)
