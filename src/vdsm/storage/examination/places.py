"""Domains as they are found without a daemon, by path or by id, and the right to write to them."""

import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from vdsm.core.clock import Clock
from vdsm.core.errors import NodeError
from vdsm.core.ids import is_uuid
from vdsm.core.patience import Patience
from vdsm.storage import errors
from vdsm.storage.backends.domain_leases import DomainLeases
from vdsm.storage.backends.file import open_file_domain
from vdsm.storage.backends.localfs import TRAITS, FileLock
from vdsm.storage.backends.mounted import TYPES
from vdsm.storage.domain import Domain
from vdsm.storage.examination.survey import Finding, Survey, repair
from vdsm.storage.layout import FileDomainLayout, Layout
from vdsm.storage.metadata import NEXT_MASTER, DomainMetadata, parse_domain_metadata
from vdsm.storage.model import XLEASES_VERSION, DomainRole, DomainType
from vdsm.storage.ports import Leases, Ownership, QemuImg, Steps

LOOK_TIMEOUT_S = 10.0


def find_domain(layout: Layout, word: str) -> Path:
    """The folder of a domain: its path, or `DOMAIN` or `POOL/DOMAIN` for one that is connected under this root.

    A mount that does not answer is left out. Raises StorageDomainDoesNotExist (358).
    """
    domain_id = word.rpartition("/")[2]
    if not is_uuid(domain_id) or word.startswith("/") or Path(word).is_dir():
        return Path(word).absolute()
    patience = Patience(OSError)
    for folder in (layout.mounts, layout.gluster_mounts):
        for mount in sorted(folder.iterdir()) if folder.is_dir() else ():
            try:
                if patience.call(str(mount), (mount / domain_id / "dom_md").is_dir, LOOK_TIMEOUT_S):
                    return mount / domain_id
            except (OSError, TimeoutError):
                continue
    raise errors.StorageDomainDoesNotExist(domain_id)


def check_folders(path: Path) -> None:
    """Raises StorageDomainLayoutError (371) for a folder that is missing or leads elsewhere, and 1000 for its name."""
    if not is_uuid(path.name):
        raise errors.InvalidParameterException("domain", f"{path}: its name is no UUID")
    with errors.io_failing_as(lambda _: errors.StorageDomainAccessError(path.name)):
        for part in (".", "dom_md", "images"):
            try:
                is_folder = stat.S_ISDIR((path / part).lstat().st_mode)
            except FileNotFoundError:
                is_folder = False
            if not is_folder:
                raise errors.StorageDomainLayoutError(path.name, part)


class Examination(Struct, frozen=True):
    """Looks at domains of one root, or anywhere. `owner_of` says who is to own what is mended on a domain."""

    layout: Layout
    leases: Leases
    qemu_img: QemuImg
    clock: Clock
    owner_of: Callable[[Path], Ownership]

    def open(self, word: str) -> Domain:
        """The file domain that `find_domain` finds. Raises what `check_folders` does, and 364, 751 to 753."""
        path = find_domain(self.layout, word)
        check_folders(path)
        metadata = parse_domain_metadata(self._open_local(path).backend.domain.read_metadata())
        metadata.check()
        if metadata.domain_id != path.name:
            raise errors.InvalidMetadata("SDUUID", f"{metadata.domain_id} in the folder {path.name}")
        if metadata.type is DomainType.LOCALFS:
            return self._open_local(path, metadata)
        if metadata.type not in TYPES:
            raise errors.InvalidMetadata("TYPE", f"{metadata.type} in files")
        lock = DomainLeases(self.leases, path.name, path)
        traits = replace(TRAITS, type=metadata.type)
        return Domain(metadata, open_file_domain(path.name, path, traits, lock, self.owner_of(path), self.clock))

    def survey(self, domain: Domain) -> Survey:
        return Survey(domain, self.qemu_img)

    def find_all(self, word: str) -> list[Finding]:
        """All that is wrong on a domain, also on one that cannot be opened. Raises StorageDomainDoesNotExist (358)."""
        path, findings = find_domain(self.layout, word), list[Finding]()
        try:
            try:
                domain = self.open(word)
            except NodeError as error:
                check_folders(path)
                findings, domain = [_tell(error)], self._open_local(path)
            findings += self.survey(domain).find_all()
        except NodeError as error:
            findings.append(_tell(error))
        return findings

    def repair(self, domain: Domain, step: Steps = lambda _: None) -> list[tuple[Finding, NodeError | None]]:
        """`survey.repair`; the caller is `writing`."""
        return list(repair(self.survey(domain), step))

    def rebuild_leases(self, domain: Domain) -> None:
        """Make index and external leases agree; the caller is `writing`. Raises UnsupportedOperation (2009)."""
        opened = domain.backend.open_external_leases
        if opened is None or domain.metadata.version < XLEASES_VERSION:
            raise errors.UnsupportedOperation(f"domain {domain.domain_id} has no external leases")
        opened().rebuild()

    def _open_local(self, path: Path, metadata: DomainMetadata | None = None) -> Domain:
        """A domain of this host, or one whose metadata cannot be read: as if it had no leases."""
        lock = FileLock(FileDomainLayout(path).ids)
        backend = open_file_domain(path.name, path, TRAITS, lock, self.owner_of(path))
        return Domain(metadata or DomainMetadata({"VERSION": "5"}), backend)


@contextmanager
def writing(domain: Domain, host_id: int, master: Domain | None = None) -> Iterator[None]:
    """Be the only host that writes a domain, for the block. Of a pool, that is who holds its master: a regular domain
    needs the master, too. Raises AcquireLockFailure (651), InvalidParameterException for what is not its master, or
    may have ceased to be it, and for what changed while the locks were waited for."""
    pools, holders = set(domain.metadata.pool_ids), [domain]
    if pools and not _is_master(domain):
        if master is None:
            raise errors.InvalidParameterException(
                "master", f"needed: the master domain of pool {', '.join(sorted(pools))}"
            )
        if not _is_master(master) or not pools <= set(master.metadata.pool_ids):
            next_id = master.metadata.keys.get(NEXT_MASTER)
            follows = f": {next_id} follows it; whoever becomes the SPM settles that" if next_id else ""
            raise errors.InvalidParameterException(
                "master", f"{master.domain_id} is not the master of {', '.join(pools)}{follows}"
            )
        holders.insert(0, master)
    with ExitStack() as stack:
        for holder in holders:
            stack.enter_context(holder.locked(host_id))
        for holder in holders:
            if parse_domain_metadata(holder.backend.domain.read_metadata()).keys != holder.metadata.keys:
                raise errors.InvalidParameterException("domain", f"{holder.domain_id} changed meanwhile: ask again")
        yield


def _is_master(domain: Domain) -> bool:
    return domain.metadata.role is DomainRole.MASTER and not domain.metadata.keys.get(NEXT_MASTER)


def _tell(error: NodeError) -> Finding:
    return Finding("domain", ".", str(error))
