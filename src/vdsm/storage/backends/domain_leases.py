"""A shared file domain's leases: its lockspace, its one writer's, and one for each volume (facts: storage §6).

The files are made by `file` and `file_volumes`; sanlock is behind a port.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from vdsm.core.clock import Clock
from vdsm.storage import durable, errors
from vdsm.storage.layout import METADATA_BYTES, FileDomainLayout
from vdsm.storage.leases.xleases import LeaseVolume
from vdsm.storage.metadata import parse_domain_metadata
from vdsm.storage.model import XLEASES_VERSION, VolumeLease
from vdsm.storage.ports import Lease, LeaseFailed, Leases, LeaseState, Lockspace

log = logging.getLogger(__name__)

LEASES_MODE = 0o660
WRITER = "SDM"
"""The lease of the domain's one writer, one alignment after the beginning of `leases`."""


class DomainLeases:
    """`file.Lock` through sanlock. What it knows of the domain's geometry it reads once."""

    def __init__(self, leases: Leases, domain_id: str, path: Path) -> None:
        self._leases = leases
        self._domain_id = domain_id
        self._layout = FileDomainLayout(path)
        self._known: Lockspace | None = None
        self._lock = threading.Lock()
        self._changing_hosts = threading.Lock()  # sanlock refuses to join while it leaves
        self._acquired_as: int | None = None
        self._joined_as: int | None = None

    def join(self, host_id: int, *, wait: bool = True) -> None:
        try:
            with self._changing_hosts:
                self._leases.join(self.lockspace, host_id, wait=wait)
                self._joined_as = None  # who holds the writer's lease leaves the host to us
        except LeaseFailed as error:
            raise errors.AcquireHostIdFailure(self._domain_id, host_id, error.reason) from error

    def leave(self, host_id: int) -> None:
        try:
            with self._changing_hosts:
                self._leases.leave(self.lockspace, host_id)
        except LeaseFailed as error:
            raise errors.ReleaseHostIdFailure(self._domain_id, host_id, error.reason) from error

    def is_joined(self, host_id: int) -> bool:
        return self._leases.is_member(self.lockspace, host_id)

    def acquire(self, host_id: int) -> None:
        with self._lock:
            if self._acquired_as is not None:
                raise errors.AcquireLockFailure(self._domain_id, "this process has it")
            try:
                if not self.is_joined(host_id):
                    self.join(host_id)
                    self._joined_as = host_id
                self._leases.acquire(self._writer)
            except LeaseFailed as error:
                self._leave_again()
                raise errors.AcquireLockFailure(self._domain_id, error.reason) from error
            self._acquired_as = host_id

    def release(self) -> None:
        with self._lock:
            if self._acquired_as is None:
                return
            self._acquired_as = None
            try:
                self._leases.release(self._writer)
            except LeaseFailed as error:
                raise errors.ReleaseLockFailure(self._domain_id, error.reason) from error
            self._leave_again()

    def is_held(self) -> bool:
        host_id, writer = self._acquired_as, self._writer
        if not self._leases.is_held(writer):
            return False
        # Nothing tells sanlock when a lease is overwritten: it renews the host, and never looks at leases that it gave.
        try:
            is_there = self._leases.read_lease_name(writer) == (self._domain_id, WRITER)
            return is_there and self._leases.inspect(writer).holder == host_id
        except LeaseFailed as error:
            log.warning("What the lease of domain %s says cannot be read: %s", self._domain_id, error)
            return True  # storage that does not answer is judged by sanlock, which renews the host there

    def inspect(self) -> LeaseState | None:
        return self._leases.inspect(self._writer)

    def create(self, path: Path, volume_id: str) -> None:
        """Make the lease of a volume in an empty file."""
        self._write(path, partial(self._leases.write_lease, Lease(self.lockspace, volume_id, path)))

    def inspect_volume(self, path: Path, volume_id: str) -> VolumeLease:
        """Where a volume's lease lies, and who holds it when that can be told."""
        try:
            state = self._leases.inspect(Lease(self.lockspace, volume_id, path))
        except LeaseFailed as error:
            log.warning("Who holds volume %s is not known: %s", volume_id, error)
            return VolumeLease(path)
        return VolumeLease(path, 0, state.version, state.holder)

    @contextmanager
    def hold_volume(self, path: Path, volume_id: str) -> Iterator[None]:
        """Hold a volume's lease for the block. Raises AcquireLockFailure, ReleaseLockFailure."""
        # A join that goes on is waited for: it ends by itself or by its time limit (facts: storage §6.1).
        self._changing_hosts.acquire()
        self._changing_hosts.release()
        lease = Lease(self.lockspace, volume_id, path)
        try:
            self._leases.acquire(lease)
        except LeaseFailed as error:
            raise errors.AcquireLockFailure(volume_id, error.reason) from error
        try:
            yield
        finally:
            try:
                self._leases.release(lease)
            except LeaseFailed as error:
                raise errors.ReleaseLockFailure(volume_id, error.reason) from error

    def format(self, block_size_bytes: int, alignment_bytes: int, version: int, clock: Clock) -> None:
        """Make lockspace, writer's lease and external leases of a new domain in their empty files."""
        self._known = Lockspace(self._domain_id, self._layout.ids, block_size_bytes, alignment_bytes)
        self._write(self._layout.ids, partial(self._leases.write_lockspace, self._known))
        self._write(self._layout.leases, partial(self._leases.write_lease, self._writer))
        if version >= XLEASES_VERSION:
            LeaseVolume(self._layout.xleases, self._known, self._leases, clock).format()

    def create_external(self, clock: Clock, owner: Callable[[Path], None]) -> None:
        """Make the file of external leases, or make it anew, without leases."""
        path = self._layout.xleases
        with errors.io_failing_as(errors.ClusterLockInitError):
            durable.remove_file(path)
            durable.create_file(path, LEASES_MODE, owner=owner)
        self.open_external(clock).format()

    def open_external(self, clock: Clock) -> LeaseVolume:
        """The domain's external leases."""
        return LeaseVolume(self._layout.xleases, self.lockspace, self._leases, clock)

    @property
    def lockspace(self) -> Lockspace:
        """Raises what reading metadata raises."""
        if self._known is None:
            with errors.io_failing_as(lambda reason: errors.StorageDomainMetadataNotFound(self._domain_id, reason)):
                data = durable.read_file(self._layout.metadata, METADATA_BYTES)
            metadata = parse_domain_metadata(data)
            geometry = (metadata.block_size_bytes, metadata.alignment_bytes)
            self._known = Lockspace(self._domain_id, self._layout.ids, *geometry)
        return self._known

    @property
    def _writer(self) -> Lease:
        return Lease(self.lockspace, WRITER, self._layout.leases, self.lockspace.alignment_bytes)

    def _write(self, path: Path, write: Callable[[], None]) -> None:
        with errors.io_failing_as(errors.ClusterLockInitError):
            try:
                write()
            except LeaseFailed as error:
                raise errors.ClusterLockInitError(error.reason) from error
            durable.sync(path)  # sanlock's writes bypass caches, but the file's new size does not

    def _leave_again(self) -> None:
        host_id, self._joined_as = self._joined_as, None
        if host_id is not None:
            try:
                self._leases.leave(self.lockspace, host_id)
            except LeaseFailed as error:
                log.warning("Host %d stays among those of domain %s: %s", host_id, self._domain_id, error)
