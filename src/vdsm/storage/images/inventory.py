"""What is on domains, for those who look: dumps, files of ISO domains, where an image is; nothing is changed."""

import contextlib
import fnmatch
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct, field

from vdsm.core.errors import NodeError
from vdsm.storage import checks, errors, model
from vdsm.storage.domain import Domain, Domains
from vdsm.storage.errors_pools import GetFileStatsError
from vdsm.storage.layout import FileDomainLayout
from vdsm.storage.leases.on_disk import DiskRecord, read_records
from vdsm.storage.metadata import SURROGATE
from vdsm.storage.pools.pool import Pools
from vdsm.storage.ports import Ownership

log = logging.getLogger(__name__)

LONGEST_PATTERN = 255
"""No file has a longer name."""


class FileStats(Struct, frozen=True):
    """One file of an ISO domain; `status` is 0, or 469 when qemu may not read it."""

    size_bytes: int
    changed_s: int
    status: int


class DumpedVolume(Struct, frozen=True):
    """One volume as storage has it; a record that cannot be read is absent and the status INVALID."""

    image_id: str
    status: model.VolumeStatus
    size: model.VolumeSize
    metadata: model.VolumeMetadata | None = None


class Dump(Struct, frozen=True):
    """A domain with all its volumes, templates once; its leases, where they were asked for and hosts share it."""

    domain: Domain
    volumes: Mapping[str, DumpedVolume] = field(default_factory=dict)
    leases: Sequence[DiskRecord] | None = None
    hosts: Sequence[DiskRecord] | None = None
    external_leases: Mapping[str, tuple[int, bool]] | None = None
    """Where each is, and whether it is being changed."""


class Inventory(Struct, eq=False):
    """Looks at domains without locks: what changes meanwhile is told as it was or as it is."""

    _domains: Domains
    _pools: Pools
    _ownership: Ownership

    def dump(self, domain_id: str, *, full: bool = False) -> Dump:
        """All that metadata tells of a domain (facts: storage §4.4), and with `full` its leases, read from storage."""
        domain = self._domains.get(domain_id)
        volumes: dict[str, DumpedVolume] = {}
        for image_id in domain.backend.volumes.list_images():
            for volume_id in domain.backend.volumes.list_records(image_id):
                dumped = _dump_volume(domain, image_id, volume_id)
                if dumped is not None and (volume_id not in volumes or dumped.image_id == image_id):
                    volumes[volume_id] = dumped
        opened = domain.backend.open_external_leases
        if not full or opened is None:
            return Dump(domain, volumes)
        layout, step = FileDomainLayout(domain.backend.domain.path), domain.metadata.alignment_bytes
        with errors.io_failing_as(lambda _: errors.StorageDomainAccessError(domain_id)):
            hosts = [*read_records(layout.ids, 0, domain.metadata.block_size_bytes, step)]
            leases = [*read_records(layout.leases, step, step, 2 * step)]
        external = opened().list_all() if domain.metadata.version >= model.XLEASES_VERSION else None
        return Dump(domain, volumes, leases, [host for host in hosts if host.name], external)

    def list_files(self, domain_id: str, pattern: str, *, case_sensitive: bool) -> dict[str, FileStats]:
        """Files of an ISO domain whose name fits a shell pattern, by path below the pseudo image (facts: storage §3.6).

        Links, and names that are not UTF-8, are left out. Raises GetFileStatsError (330), also for another class.
        """
        if len(pattern) > LONGEST_PATTERN:
            raise errors.InvalidParameterException("pattern", f"{len(pattern)} characters")
        domain = self._domains.get(domain_id)
        if domain.metadata.domain_class is not model.DomainClass.ISO:
            raise GetFileStatsError(domain_id, f"a {domain.metadata.domain_class} domain")
        root = domain.backend.volumes.get_image_path(model.ISO_IMAGE)
        fits = re.compile(fnmatch.translate(pattern), 0 if case_sensitive else re.IGNORECASE).match
        with errors.io_failing_as(lambda reason: GetFileStatsError(domain_id, reason)):
            return {
                str(path.relative_to(root)): self._describe(path, status)
                for path, status in _walk(root)
                if fits(path.name)
            }

    def find_image(self, pool_id: str, image_id: str) -> list[str]:
        """The active data domains of a connected pool that have volumes of this image's own."""
        checks.check_ids(imageID=image_id)
        pool = self._pools.get_connected(pool_id)
        active = [domain_id for domain_id, status in pool.domains.items() if status is model.DomainStatus.ACTIVE]
        return [domain_id for domain_id in active if self._has_image(domain_id, image_id)]

    def _has_image(self, domain_id: str, image_id: str) -> bool:
        try:
            domain = self._domains.get_in_time(domain_id)
            return domain.metadata.domain_class is model.DomainClass.DATA and domain.images.has_own(image_id)
        except NodeError as error:
            log.warning("Whether domain %s has image %s cannot be told: %s", domain_id, image_id, error)
            return False

    def _describe(self, path: Path, status: os.stat_result) -> FileStats:
        code = 0 if self._ownership.can_read(status) else errors.StorageServerAccessPermissionError.number
        return FileStats(status.st_size, int(status.st_ctime), code)


def _dump_volume(domain: Domain, image_id: str, volume_id: str) -> DumpedVolume | None:
    try:
        metadata = domain.images.read(image_id, volume_id)
        size = domain.backend.data.get_size(image_id, volume_id)
    except errors.VolumeDoesNotExist:
        return None  # removed meanwhile
    except (errors.InvalidMetadata, errors.VolumeMetadataReadError):
        return DumpedVolume(image_id, model.VolumeStatus.INVALID, model.VolumeSize(0, 0))
    except errors.VolumeAccessError:
        return DumpedVolume(metadata.image_id, model.VolumeStatus.INVALID, model.VolumeSize(0, 0), metadata)
    status = model.VolumeStatus.ILLEGAL if metadata.legality is model.Legality.ILLEGAL else model.VolumeStatus.OK
    return DumpedVolume(metadata.image_id, status, size, metadata)


def _walk(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    folders = [root]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False) and not SURROGATE.search(entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        yield Path(entry.path), entry.stat(follow_symlinks=False)
