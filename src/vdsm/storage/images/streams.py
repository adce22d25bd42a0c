"""A volume's bytes, in and out, as they are stored (facts: storage §9.9); which way they travel is its caller's."""

import logging
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from msgspec import Struct

from vdsm.storage import checks, durable
from vdsm.storage.domain import Domain, Domains
from vdsm.storage.errors import CopyImageError, InvalidParameterException, SharedVolumeNonWritable, io_failing_as
from vdsm.storage.images.formatting import extend_data
from vdsm.storage.images.operation import Operations
from vdsm.storage.model import VolumeFormat, VolumeRef, VolumeRole
from vdsm.storage.pools.pool import Pools, require_writer
from vdsm.storage.ports import Remote, RemoteFailed, RemotePlace, Rollbacks, Steps, Watch

log = logging.getLogger(__name__)

_BLOCK_BYTES = 1 << 20
Write = Callable[[bytes], None]


class Streams(Struct, eq=False):
    """Transfers of images that have one volume, as the pool's SPM."""

    _domains: Domains
    _pools: Pools
    _operations: Operations
    _remote: Remote | None
    _step: Steps

    def find(self, pool_id: str, domain_id: str, image_id: str, volume_id: str | None) -> VolumeRef:
        """The volume that is meant, or the image's only one. Raises 309, 654, 353, 201; 261 for several volumes."""
        checks.check_real_ids(storagepoolID=pool_id, storagedomainID=domain_id, imageID=image_id)
        self._pools.require_spm(pool_id)
        domain = require_writer(self._pools, pool_id, self._domains.get_with_images(domain_id))
        found = domain.backend.volumes.list_records(image_id)
        volume_id = volume_id or next(iter(found), image_id)
        checks.check_real_ids(volumeID=volume_id)
        domain.images.read(image_id, volume_id)
        if len(found) > 1:
            raise CopyImageError(volume_id, "the image has several volumes")
        return VolumeRef(domain_id, image_id, volume_id)

    def send(self, source: VolumeRef, size_bytes: int, write: Write, watch: Watch) -> None:
        """Write the volume's first bytes, read past all caches, to whom it concerns. Raises CopyImageError (261)."""
        failed = partial(CopyImageError, source.volume_id)
        with self._operations.reading(source) as (domain, _), io_failing_as(failed):
            path = domain.backend.data.get_path(source.image_id, source.volume_id)
            with _open_direct(path) as file, mmap.mmap(-1, _BLOCK_BYTES) as buffer, memoryview(buffer) as block:
                sent_bytes = 0
                while sent_bytes < size_bytes:
                    count = min(os.preadv(file, [buffer], sent_bytes), size_bytes - sent_bytes)
                    if not count:
                        raise failed(f"it has {sent_bytes} bytes, not {size_bytes}")
                    write(bytes(block[:count]))
                    sent_bytes += count
                    watch.report_progress(100 * sent_bytes / size_bytes)

    def receive(
        self,
        pool_id: str,
        target: VolumeRef,
        size_bytes: int,
        rollbacks: Rollbacks,
        watch: Watch,
        fill: Callable[[Write], None],
    ) -> None:
        """Let the volume begin with the bytes that `fill` writes, so many exactly; it is extended to have them.

        It is illegal from the first byte until all are on disk, and its generation counts. Whoever is cut off finds it
        illegal, and does it again. Raises 219, 1000, 205, 206, 397, CopyImageError (261).
        """
        if size_bytes > checks.MAXIMUM_CAPACITY_BYTES:
            raise InvalidParameterException("size", str(size_bytes))
        with self._operations.hold(target) as domain:
            require_writer(self._pools, pool_id, domain)
            self._make_room(domain, target, size_bytes, rollbacks)
            path = domain.backend.data.get_path(target.image_id, target.volume_id)
            failed = partial(CopyImageError, target.volume_id)
            with self._operations.count(domain, target, illegal=True), io_failing_as(failed):
                self._step("receive data")
                with open(os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "wb", buffering=0) as file:

                    def write(data: bytes) -> None:
                        if file.tell() + len(data) > size_bytes:
                            raise failed(f"more than {size_bytes} bytes came")
                        written = file.write(data)
                        while written < len(data):
                            written += file.write(data[written:])
                        watch.report_progress(100 * file.tell() / size_bytes)

                    fill(write)
                    if file.tell() != size_bytes:
                        raise failed(f"{file.tell()} of {size_bytes} bytes came")
                domain.backend.data.settle_data(target.image_id, target.volume_id)
        log.info("Received %d bytes into %s", size_bytes, target)

    def upload(self, source: VolumeRef, place: RemotePlace, watch: Watch) -> None:
        """Put the volume's bytes where an HTTP server is told to keep them."""
        remote = self._get_remote(source)
        with self._operations.reading(source) as (domain, _), _remote_failing_as(source):
            remote.put(place, domain.backend.data.get_path(source.image_id, source.volume_id), watch)

    def download(self, pool_id: str, target: VolumeRef, place: RemotePlace, rollbacks: Rollbacks, watch: Watch) -> None:
        """`receive` what an HTTP server has."""
        remote = self._get_remote(target)
        with _remote_failing_as(target):
            size_bytes = remote.get_size(place)
            fetch = partial(remote.fetch, place, watch=watch)
            self.receive(pool_id, target, size_bytes, rollbacks, watch, fetch)

    def _get_remote(self, volume: VolumeRef) -> Remote:
        if self._remote is None:
            raise CopyImageError(volume.volume_id, "nothing here speaks HTTP")
        return self._remote

    def _make_room(self, domain: Domain, target: VolumeRef, size_bytes: int, rollbacks: Rollbacks) -> None:
        record = self._operations.read(domain, target)
        if record.role is VolumeRole.SHARED:
            raise SharedVolumeNonWritable(target.volume_id)
        domain.images.get_usable_chain(target.image_id, target.volume_id, allow_illegal=True)
        data, ids = domain.backend.data, (target.image_id, target.volume_id)
        if size_bytes <= data.get_size(*ids).apparent_bytes:
            return
        if record.format is VolumeFormat.RAW:
            extend_data(domain, target, record, checks.round_up(size_bytes), rollbacks, self._step)
        else:
            data.extend(*ids, size_bytes)


@contextmanager
def _open_direct(path: Path) -> Iterator[int]:
    with ExitStack() as stack:
        try:
            descriptor = stack.enter_context(durable.opened(path, os.O_DIRECT))
        except OSError:
            descriptor = stack.enter_context(durable.opened(path))  # storage without direct I/O has one host
        yield descriptor


@contextmanager
def _remote_failing_as(volume: VolumeRef) -> Iterator[None]:
    try:
        yield
    except RemoteFailed as error:
        raise CopyImageError(volume.volume_id, error.reason) from error
