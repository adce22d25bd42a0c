"""Storage that several hosts mount: NFS, POSIX file systems and Gluster, with sanlock between them (facts: storage §2).

The domain's files are left to `file` and `file_volumes`, its leases to `domain_leases`, options to `connect`.
"""

import contextlib
import errno
import logging
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from vdsm.core.clock import Clock
from vdsm.core.ids import BLANK_UUID
from vdsm.core.patience import Patience
from vdsm.storage import errors
from vdsm.storage.backends.domain_leases import DomainLeases
from vdsm.storage.backends.file import check_place, create_file_domain, list_domains, open_file_domain
from vdsm.storage.connect import (
    check_connection,
    format_gluster_options,
    format_nfs_options,
    list_other_servers,
    split_gluster,
)
from vdsm.storage.layout import Layout
from vdsm.storage.model import DomainType, NetworkPlace, ServerConnection
from vdsm.storage.naming import normalize_remote
from vdsm.storage.ports import Backend, DomainPlan, Gluster, Leases, MountFailed, Mounts, Ownership, Traits

log = logging.getLogger(__name__)

R = TypeVar("R")

LOOK_TIMEOUT_S = 10.0
"""So long a mount that does not answer holds up who looks at all of them; then it is left out until it answers."""
ALLOWED_REPLICA_COUNTS = (1, 3)
_DEAD = (errno.ENOTCONN, errno.ESTALE)  # the FUSE process died, or the server forgot what was mounted
_LONGEST_NAME = 255
_TAGGED = re.compile(r"(PART)?(UUID|LABEL)=")
"""What the kernel tells by another name, as it does the monitors of Ceph; the target has no other place's name."""
_FALSE_ZEROES = (
    "it says that it zeroed a range of a file, and left the old data there, which VMs could read; serve it by NFS or"
    " another FUSE client, or accept that in the configuration: [storage] accept_false_zeroes"
)
TYPES = (DomainType.NFS, DomainType.POSIXFS, DomainType.GLUSTERFS)


class Outside(Struct, frozen=True):
    """What all kinds of mounted storage need of the machine."""

    mounts: Mounts
    leases: Leases
    gluster: Gluster
    clock: Clock
    end: Callable[[str], None]
    """Ends this process at once, telling why: it must not write any more."""
    hardware_id: str = ""
    """Who this host is, wherever it leaves its name."""
    users: dict[Path, set[tuple[str, str]]] = field(default_factory=lambda: defaultdict(set))
    """Types and ids of the connections that use a mount: one place may be connected as NFS and as POSIX."""
    locks: dict[Path, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))
    accepts_false_zeroes: bool = False
    """Whether FUSE mounts are used that say that they zeroed a range, and did not (decision 19)."""


class MountedKind:
    """`ports.Kind` for one type. A mount is used by connections, told apart by id; the last one takes it away.

    One that a killed daemon left is found and used. The blank id stands for a caller who only wants to look, and keeps
    nothing connected.
    """

    def __init__(
        self,
        type: DomainType,
        layout: Layout,
        ownership: Ownership,
        outside: Outside,
        look_timeout_s: float = LOOK_TIMEOUT_S,
    ) -> None:
        self._type = type
        self._layout = layout
        self._ownership = ownership
        self._outside = outside
        self._look_timeout_s = look_timeout_s
        self._is_gluster = type is DomainType.GLUSTERFS
        name = "gluster" if self._is_gluster else "file"
        self._traits = Traits(type, f"{name}Volume", f"{name.capitalize()}Volume")
        self._folder = layout.gluster_mounts if self._is_gluster else layout.mounts
        self._users, self._locks = outside.users, outside.locks
        self._patience = Patience(OSError)
        self._found: dict[str, Path] = {}
        self._networks: dict[Path, NetworkPlace] = {}
        self._false_zeroes: dict[Path, bool] = {}
        self._backends: dict[tuple[str, Path], Backend] = {}

    def connect(self, connection: ServerConnection) -> None:
        """Mount it (477), and see that the owner of disks may use it (469) and it zeroes (399), or mount nothing."""
        connection = check_connection(self._type, connection)
        target = self._get_target(connection.place)
        with self._locks[target]:
            is_new = self._mount(connection, target)
            try:
                self._check_access(connection.place, target)
                self._check_zeroes(connection.place, target)
            except (MountFailed, errors.StorageServerAccessPermissionError, errors.StorageDomainTargetUnsupported):
                if is_new:
                    self._unmount(target)
                raise
            self._users[target].add((self._type, connection.id))

    def disconnect(self, connection: ServerConnection) -> bool:
        """Unmount it when nobody else uses it; 477 when that fails."""
        connection = check_connection(self._type, connection)
        target = self._get_target(connection.place)
        with self._locks[target]:
            users = self._users[target]
            users.discard((self._type, connection.id))
            if any(id != BLANK_UUID for _, id in users):
                log.info("%s stays mounted for connections %s", connection.place, sorted(users))
                return False
            users.clear()
            if self._is_mounted(connection.place, target):
                self._unmount(target)
            return True

    def list_domains(self) -> Mapping[str, Path]:
        """Domains that were found on a mount that does not answer, or cannot be read, now are still there."""
        places: defaultdict[str, list[Path]] = defaultdict(list)
        targets = self._list_targets()
        with ThreadPoolExecutor(max(1, len(targets))) as pool:  # those that hang are waited for all at once
            for target, domain_ids in zip(targets, pool.map(self._look, targets), strict=True):
                for domain_id in domain_ids:
                    places[domain_id].append(target / domain_id)
        # The same server may be mounted under two names: a domain stays where it was found first.
        found = {id: self._found[id] if self._found.get(id) in paths else paths[0] for id, paths in places.items()}
        self._found = found
        return found

    def open_domain(self, domain_id: str, path: Path) -> Backend:
        if (domain_id, path) not in self._backends:
            lock = DomainLeases(self._outside.leases, domain_id, path)
            clock = self._outside.clock
            backend = open_file_domain(domain_id, path, self._traits, lock, self._ownership, clock)
            if self._is_gluster:
                backend = replace(backend, find_network=partial(self._find_network, path.parent))
            self._backends.setdefault((domain_id, path), backend)
        return self._backends[domain_id, path]

    def check_new(self, remote_path: str) -> int:
        """It is mounted (360), usable (469), without a domain (361), with direct I/O and, where it is FUSE, without
        false zeroes (399); NFS has a colon (390)."""
        if self._type is DomainType.NFS and ":" not in remote_path:
            raise errors.StorageDomainIllegalRemotePath(remote_path)
        target = self._get_target(remote_path)
        if not self._is_mounted(remote_path, target):
            raise errors.StorageDomainFsNotMounted(remote_path)
        self._check_zeroes(remote_path, target)
        return check_place(target, remote_path, self._ownership)

    def create_domain(self, plan: DomainPlan) -> None:
        def format(building: Path) -> None:
            leases = DomainLeases(self._outside.leases, plan.domain_id, building)
            leases.format(plan.block_size_bytes, plan.alignment_bytes, plan.version, self._outside.clock)

        target = self._get_target(plan.remote_path)
        create_file_domain(target, plan, self._ownership, format)
        # An earlier domain of that name may have had another geometry.
        self._backends.pop((plan.domain_id, target / plan.domain_id), None)

    def _find_network(self, target: Path) -> NetworkPlace:
        """A Gluster volume with its servers; which these are is asked once for each mount."""
        if target not in self._networks:
            sources = [one.source for one in self._outside.mounts.list_mounted() if one.target == target]
            if not sources:
                raise errors.StorageDomainFsNotMounted(str(target))
            server, volume = split_gluster(_normalize(sources[-1]))
            info = self._outside.gluster.get_info(server, volume)
            servers = (server, *list_other_servers(server, info))
            self._networks[target] = NetworkPlace(volume, servers, transport=info.transport if info else "tcp")
        return self._networks[target]

    def _get_target(self, place: str) -> Path:
        name = self._layout.get_mount(place).name
        if len(name.encode(errors="surrogateescape")) > _LONGEST_NAME:
            raise errors.InvalidParameterException("connection", "too long")
        return self._folder / name

    def _mount(self, connection: ServerConnection, target: Path) -> bool:
        """Whether it had to be mounted."""
        mounts = self._outside.mounts
        if self._is_mounted(connection.place, target):
            if not self._is_dead(target):
                return False
            log.warning("%s is dead and is mounted anew", connection.place)
            self._unmount(target)
        if target.is_symlink():
            raise MountFailed(f"{target} leads to a local folder")
        filesystem, options = self._get_options(connection)
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MountFailed(str(error)) from error
        try:
            mounts.mount(connection.place, target, filesystem=filesystem, options=options)
        except MountFailed:
            with contextlib.suppress(OSError):
                target.rmdir()
            raise
        return True

    def _unmount(self, target: Path) -> None:
        self._networks.pop(target, None)
        self._false_zeroes.pop(target, None)
        self._outside.mounts.unmount(target)
        with contextlib.suppress(OSError):
            target.rmdir()

    def _get_options(self, connection: ServerConnection) -> tuple[str, str]:
        if self._type is DomainType.NFS:
            return "nfs", format_nfs_options(connection)
        if not self._is_gluster:
            return connection.filesystem, connection.options
        info = self._outside.gluster.get_info(*split_gluster(connection.place))
        if info is not None and (info.replica_count not in ALLOWED_REPLICA_COUNTS or info.is_dispersed):
            log.warning("Gluster volume %s: replica count %d is not supported", connection.place, info.replica_count)
        return connection.filesystem or "glusterfs", format_gluster_options(connection, info)

    def _check_access(self, place: str, target: Path) -> None:
        try:
            refusal = self._ask(target, lambda: self._ownership.check_access(target))
        except (OSError, TimeoutError) as error:
            raise MountFailed(f"{place} does not answer: {error}") from error
        if refusal:
            raise errors.StorageServerAccessPermissionError(place, refusal)

    def _check_zeroes(self, place: str, target: Path) -> None:
        """Refuse a FUSE mount with false zeroes, or warn of it where these are accepted; each is tried once."""
        mounts = self._outside.mounts
        if target not in self._false_zeroes:
            is_fuse = any(one.target == target and one.filesystem.startswith("fuse") for one in mounts.list_mounted())
            try:
                is_false = is_fuse and self._ask(target, lambda: mounts.has_false_zeroes(target))
            except TimeoutError as error:
                raise MountFailed(f"{place} does not answer: {error}") from error
            except OSError as error:  # one that is full, or only read, is used all the same
                log.warning("Whether %s zeroes what it says it does is not known: %s", place, error)
                return
            self._false_zeroes[target] = is_false
        if self._false_zeroes[target]:
            refusal = errors.StorageDomainTargetUnsupported(place, _FALSE_ZEROES)
            if not self._outside.accepts_false_zeroes:
                raise refusal
            log.warning("Accepted: %s", refusal)

    def _is_dead(self, target: Path) -> bool:
        try:
            self._ask(target, target.stat)
        except TimeoutError:
            return False
        except OSError as error:
            return error.errno in _DEAD
        return False

    def _is_mounted(self, place: str, target: Path) -> bool:
        source = normalize_remote(place)
        real = str(Path(source).resolve()) if source.startswith("/") else source
        is_renamed = bool(_TAGGED.match(place))
        return any(
            mounted.target == target
            and (
                is_renamed
                or mounted.filesystem == "ceph"
                or bool({_normalize(mounted.source), mounted.device} & {source, real})
            )
            for mounted in self._outside.mounts.list_mounted()
        )

    def _list_targets(self) -> list[Path]:
        mounted = self._outside.mounts.list_mounted()
        refused = {} if self._outside.accepts_false_zeroes else self._false_zeroes
        mine = {
            one.target: one.filesystem
            for one in mounted
            if one.target.parent == self._folder and not refused.get(one.target)
        }
        if self._is_gluster:
            return sorted(mine)
        is_nfs = self._type is DomainType.NFS
        return sorted(target for target, filesystem in mine.items() if filesystem.startswith("nfs") is is_nfs)

    def _look(self, target: Path) -> list[str]:
        try:
            return self._ask(target, lambda: list_domains(target))[:1]
        except OSError as error:
            log.warning("%s: its domains are taken to be as they were: %s", target, error)
            return [domain_id for domain_id, path in self._found.items() if path.parent == target]

    def _ask(self, target: Path, question: Callable[[], R]) -> R:
        return self._patience.call(str(target), question, self._look_timeout_s)


def _normalize(source: str) -> str:
    return normalize_remote(source.removesuffix(".rdma"))
