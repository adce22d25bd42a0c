"""The shapes that every kind of storage keeps, tried on memory and on a folder of this host."""

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from vdsm.core.paths import Paths
from vdsm.storage.backends.file import probe_block_size
from vdsm.storage.backends.file_volumes import FileVolumeStore
from vdsm.storage.backends.localfs import LocalKind
from vdsm.storage.backends.memory import MemoryKind
from vdsm.storage.backends.mounted import MountedKind, Outside
from vdsm.storage.errors import (
    AcquireLockFailure,
    CannotShareVolume,
    ImagePathError,
    InvalidParameterException,
    StorageDomainFsNotMounted,
    StorageDomainIllegalRemotePath,
    StorageDomainLayoutError,
    StorageDomainMetadataNotFound,
    StorageDomainNotEmpty,
    StorageDomainTargetUnsupported,
    StorageServerAccessPermissionError,
    VolumeAccessError,
    VolumeAlreadyExists,
    VolumeDoesNotExist,
    VolumeMetadataReadError,
)
from vdsm.storage.layout import Layout
from vdsm.storage.model import DomainType, ServerConnection
from vdsm.storage.ports import Backend, DomainPlan, HalfMade, Kind, MountFailed
from vdsm.testing.leases import LeasesInMemory
from vdsm.testing.mounts import FakeGluster, MountsInMemory
from vdsm.testing.storage import FixedClock, NoOwner, make_id

Place = tuple[Kind, str]


def make_memory(folder: Path) -> Place:
    return MemoryKind(folder / "memory"), "/server"


def make_local(folder: Path) -> Place:
    server = folder / "ser_ver"
    server.mkdir()
    return LocalKind(Layout(Paths(folder)), NoOwner()), str(server)


def make_mounted(folder: Path, type: DomainType, server: str) -> Place:
    disk = folder / "disk"
    disk.mkdir()
    outside = Outside(
        MountsInMemory({server: disk}), LeasesInMemory(writes_files=True), FakeGluster(), FixedClock(), print
    )
    return MountedKind(type, Layout(Paths(folder)), NoOwner(), outside), server


def make_nfs(folder: Path) -> Place:
    return make_mounted(folder, DomainType.NFS, "ser_ver:/a")


def make_gluster(folder: Path) -> Place:
    return make_mounted(folder, DomainType.GLUSTERFS, "gl1:/vol0")


@pytest.fixture(params=[make_memory, make_local, make_nfs, make_gluster])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    make: Callable[[Path], Place] = request.param
    return make(tmp_path)


@pytest.fixture
def backend(place: Place) -> Backend:
    return create(*place)


def create(kind: Kind, server: str, domain_id: str | None = None) -> Backend:
    kind.connect(ServerConnection(server))
    domain_id = domain_id or make_id()
    kind.create_domain(DomainPlan(domain_id, server, b"VERSION=5\n", iso_image=False))
    return kind.open_domain(domain_id, kind.list_domains()[domain_id])


def test_servers_show_their_domains_while_they_are_connected(place: Place) -> None:
    kind, server = place
    assert kind.list_domains() == {}
    backend = create(kind, server)
    assert list(kind.list_domains()) == [backend.domain.domain_id]
    kind.connect(ServerConnection(server))
    assert kind.disconnect(ServerConnection(server))
    assert kind.disconnect(ServerConnection(server))
    assert kind.list_domains() == {}
    kind.connect(ServerConnection(server))
    assert list(kind.list_domains()) == [backend.domain.domain_id]


def test_places_that_take_no_domain(place: Place) -> None:
    kind, server = place
    with pytest.raises(StorageDomainFsNotMounted):
        kind.check_new(server)
    with pytest.raises((InvalidParameterException, MountFailed)):
        kind.connect(ServerConnection("relative/path"))
    create(kind, server)
    with pytest.raises(StorageDomainNotEmpty):
        kind.check_new(server)


def test_metadata_and_space(backend: Backend) -> None:
    backend.domain.check_layout()
    assert backend.domain.read_metadata() == b"VERSION=5\n"
    backend.domain.write_metadata(b"VERSION=4\n")
    assert backend.domain.read_metadata() == b"VERSION=4\n"
    space = backend.domain.get_space()
    assert 0 < space.free_bytes <= space.total_bytes
    assert backend.domain.get_block_size_bytes() in (1, 512, 4096)


def test_there_is_one_writer(backend: Backend) -> None:
    backend.domain.acquire_lock(1)
    with pytest.raises(AcquireLockFailure):
        backend.domain.acquire_lock(2)
    backend.domain.release_lock()
    backend.domain.release_lock()
    backend.domain.acquire_lock(2)
    backend.domain.release_lock()


def test_records_make_volumes(backend: Backend) -> None:
    volumes, image, volume = backend.volumes, make_id(), make_id()
    assert volumes.list_records(image) == []
    assert not volumes.has_image(image)
    volumes.create_image(image)
    with pytest.raises(ImagePathError):
        volumes.create_image(image)
    assert volumes.list_images() == [image]
    with pytest.raises(VolumeDoesNotExist):
        volumes.read_record(image, volume)
    volumes.write_record(image, volume, b"one")
    volumes.write_record(image, volume, b"two")
    assert volumes.read_record(image, volume) == b"two"
    assert volumes.list_records(image) == [volume]
    assert not volumes.remove_image(image)
    for _ in range(2):
        volumes.remove_record(image, volume)
        assert volumes.remove_image(image)
    assert volumes.list_images() == []
    volumes.remove_record(image, volume)
    with pytest.raises(VolumeDoesNotExist):
        volumes.read_record(image, volume)


def test_an_image_is_set_aside_whole(backend: Backend) -> None:
    volumes, image, volume = backend.volumes, make_id(), make_id()
    for _ in range(2):  # the second lies where the first was not purged yet
        volumes.create_image(image)
        backend.data.create_data(image, volume)
        volumes.write_record(image, volume, b"x")
        volumes.set_aside(image)
        assert not volumes.has_image(image)
        assert volumes.list_images() == list(backend.leftovers.list_half_made()) == []
        assert not backend.data.has_data(image, volume)
    for _ in range(2):
        volumes.purge(image)
    with pytest.raises((ImagePathError, KeyError)):
        volumes.set_aside(image)


def test_data(backend: Backend) -> None:
    data, image, volume = backend.data, make_id(), make_id()
    backend.volumes.create_image(image)
    with pytest.raises(VolumeAccessError):
        data.get_size(image, volume)
    data.create_data(image, volume)
    with pytest.raises(VolumeAlreadyExists):
        data.create_data(image, volume)
    assert data.get_size(image, volume).apparent_bytes == 0
    data.preallocate(image, volume, 4096, 1 << 20)
    data.settle_data(image, volume)
    data.open_access(image, volume)
    size = data.get_size(image, volume)
    assert size.apparent_bytes == 1 << 20
    assert size.allocated_bytes >= (1 << 20) - 4096
    assert data.has_data(image, volume)
    assert not backend.volumes.remove_image(image)
    volume, old = make_id(), volume
    data.rename_data(image, old, volume)
    assert (data.has_data(image, old), data.get_size(image, volume).apparent_bytes) == (False, 1 << 20)
    with pytest.raises(VolumeAccessError):
        data.rename_data(image, old, make_id())
    for _ in range(2):
        data.remove_data(image, volume)
        assert not data.has_data(image, volume)


def test_templates_are_shared(backend: Backend) -> None:
    template, user, volume = make_id(), make_id(), make_id()
    for image in (template, user):
        backend.volumes.create_image(image)
    backend.data.create_data(template, volume)
    backend.volumes.write_record(template, volume, b"template")
    backend.volumes.share(volume, template, user)
    assert backend.volumes.read_record(user, volume) == b"template"
    assert backend.data.has_data(user, volume)
    backend.volumes.share(volume, template, user)
    backend.volumes.unshare(user, volume)
    assert backend.volumes.list_records(user) == []
    assert backend.volumes.read_record(template, volume) == b"template"
    with pytest.raises(CannotShareVolume):
        backend.volumes.share(volume, template, make_id())


def test_half_made_images_are_found(backend: Backend) -> None:
    whole, orphan, dataless, empty = sorted(make_id() for _ in range(4))
    for image in (whole, orphan, dataless, empty):
        backend.volumes.create_image(image)
    volume = make_id()
    backend.data.create_data(whole, volume)
    backend.volumes.write_record(whole, volume, b"x")
    backend.data.create_data(orphan, volume)
    backend.volumes.write_record(dataless, volume, b"x")
    found = [HalfMade(orphan, (volume,)), HalfMade(dataless, (), (volume,)), HalfMade(empty)]
    assert list(backend.leftovers.list_half_made()) == found
    backend.leftovers.clean_temporaries()
    assert list(backend.leftovers.list_half_made()) == found


# What only files have ------------------------------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path: Path) -> tuple[LocalKind, Path, Backend]:
    kind, server = make_local(tmp_path)
    assert isinstance(kind, LocalKind)
    return kind, Path(server), create(kind, server)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_tree_of_a_domain(local: tuple[LocalKind, Path, Backend], tmp_path: Path) -> None:
    _, server, backend = local
    root = server / backend.domain.domain_id
    link = tmp_path / "rhev/data-center/mnt" / str(server).replace("_", "__").replace("/", "_")
    assert link.readlink() == server
    tree = {
        str(path.relative_to(root)): (mode(path), path.stat().st_size) for path in root.rglob("*") if path.is_file()
    }
    assert tree == {
        "dom_md/metadata": (0o644, 10),
        "dom_md/ids": (0o660, 0),
        "dom_md/leases": (0o660, 0),
        "dom_md/inbox": (0o660, 16 << 20),
        "dom_md/outbox": (0o660, 16 << 20),
    }
    assert {mode(path) for path in (root, root / "dom_md", root / "images")} == {0o755}
    tasks = backend.domain.create_master_tree()
    assert backend.domain.create_master_tree() == tasks
    assert {path.name for path in (root / "master").iterdir()} == {"tasks", "vms"}
    assert sorted(path.name for path in server.iterdir()) == [backend.domain.domain_id]


@pytest.fixture
def strict_umask() -> object:
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_modes_do_not_depend_on_the_umask(strict_umask: object, local: tuple[LocalKind, Path, Backend]) -> None:
    _, server, backend = local
    root = server / backend.domain.domain_id
    image, volume = make_id(), make_id()
    backend.volumes.create_image(image)
    backend.data.create_data(image, volume)
    backend.volumes.write_record(image, volume, b"x")
    backend.data.open_access(image, volume)
    folder = root / "images" / image
    assert [mode(path) for path in (root / "dom_md/ids", root / "dom_md/metadata", folder)] == [0o660, 0o644, 0o755]
    assert [mode(path) for path in (folder / volume, folder / f"{volume}.meta")] == [0o660, 0o644]


def test_links_share_one_inode(local: tuple[LocalKind, Path, Backend]) -> None:
    _, _, backend = local
    template, user, volume = make_id(), make_id(), make_id()
    for image in (template, user):
        backend.volumes.create_image(image)
    backend.data.create_data(template, volume)
    backend.volumes.write_record(template, volume, b"x")
    backend.volumes.share(volume, template, user)
    for name in (volume, f"{volume}.meta"):
        paths = [backend.volumes.get_image_path(image) / name for image in (template, user)]
        assert paths[0].samefile(paths[1])


def test_purging_leaves_what_others_link(local: tuple[LocalKind, Path, Backend]) -> None:
    _, root, backend = local
    template, user, volume = make_id(), make_id(), make_id()
    for image in (template, user):
        backend.volumes.create_image(image)
    backend.data.create_data(template, volume)
    backend.volumes.write_record(template, volume, b"x")
    backend.volumes.share(volume, template, user)
    backend.volumes.set_aside(user)
    [aside] = [path for path in (root / backend.domain.domain_id / "images").iterdir() if path.name != template]
    assert aside.name == f"_remove_me_{user}"
    backend.volumes.purge(user)
    assert not aside.exists()
    assert backend.data.has_data(template, volume)
    (aside.parent / "elsewhere").mkdir()
    aside.with_name(f"_remove_me_{template}").symlink_to("elsewhere")
    with pytest.raises(ImagePathError):
        backend.volumes.set_aside(template)
    assert backend.data.has_data(template, volume)


def test_the_group_may_do_what_the_owner_may(local: tuple[LocalKind, Path, Backend]) -> None:
    _, _, backend = local
    image, volume = make_id(), make_id()
    backend.volumes.create_image(image)
    backend.data.create_data(image, volume)
    path = backend.data.get_path(image, volume)
    path.chmod(0o604)
    backend.data.open_access(image, volume)
    assert mode(path) == 0o664


def test_data_whose_record_was_lost_is_no_draft(local: tuple[LocalKind, Path, Backend]) -> None:
    _, _, backend = local
    image, draft, lost, link = sorted(make_id() for _ in range(4))
    backend.volumes.create_image(image)
    for volume in (draft, lost, link):
        backend.data.create_data(image, volume)
    for volume in (lost, link):
        backend.data.open_access(image, volume)
    backend.volumes.create_image(other := make_id())
    backend.volumes.share(link, image, other)
    found = {half.image_id: half for half in backend.leftovers.list_half_made()}
    assert found[image] == HalfMade(image, (draft, link), (), (lost,))


def test_links_and_other_files_in_the_place_of_ours_are_not_used(
    local: tuple[LocalKind, Path, Backend], tmp_path: Path
) -> None:
    _, server, backend = local
    secret = tmp_path / "secret"
    secret.write_bytes(b"VERSION=5\nEOF\n")
    secret.chmod(0o600)
    image, volume, pipe = make_id(), make_id(), make_id()
    backend.volumes.create_image(image)
    folder = backend.volumes.get_image_path(image)
    (folder / volume).symlink_to(secret)
    (folder / f"{volume}.meta").symlink_to(secret)
    os.mkfifo(folder / pipe)
    os.mkfifo(folder / f"{pipe}.meta")
    assert not backend.data.has_data(image, volume) and not backend.data.has_data(image, pipe)
    for name in (volume, pipe):
        with pytest.raises(VolumeMetadataReadError):
            backend.volumes.read_record(image, name)
    with pytest.raises(VolumeAccessError):
        backend.data.open_access(image, volume)
    with pytest.raises(VolumeAlreadyExists):
        backend.data.create_data(image, volume)
    backend.data.remove_data(image, volume)
    assert mode(secret) == 0o600
    linked = make_id()
    (server / backend.domain.domain_id / "images" / linked).symlink_to(tmp_path)
    assert not backend.volumes.has_image(linked) and linked not in backend.volumes.list_images()
    with pytest.raises(ImagePathError):
        backend.volumes.create_image(linked)
    metadata = backend.domain.path / "dom_md" / "metadata"
    metadata.unlink()
    metadata.symlink_to(secret)
    with pytest.raises(StorageDomainMetadataNotFound):
        backend.domain.read_metadata()


def test_two_hosts_that_write_one_record_leave_one_of_both(tmp_path: Path) -> None:
    image, volume, domain_id = make_id(), make_id(), make_id()
    (tmp_path / "images").mkdir()
    begun, go = threading.Event(), threading.Event()

    class Slow(NoOwner):
        def give(self, path: Path) -> None:
            begun.set()
            go.wait(10)

    class Overtaken(NoOwner):
        def give(self, path: Path) -> None:
            writes.append(threads.submit(slow.write_record, image, volume, b"slow"))
            assert begun.wait(10)

    FileVolumeStore(domain_id, tmp_path, NoOwner()).create_image(image)
    slow, store = (FileVolumeStore(domain_id, tmp_path, owner) for owner in (Slow(), Overtaken()))
    writes: list[Future[None]] = []
    with ThreadPoolExecutor() as threads:
        try:
            store.write_record(image, volume, b"quick")
            assert store.read_record(image, volume) == b"quick"
        finally:
            go.set()
        writes[0].result(10)
    assert store.read_record(image, volume) == b"slow"
    assert os.listdir(tmp_path / "images" / image) == [f"{volume}.meta"]


def test_temporaries_go_and_foreign_files_stay(local: tuple[LocalKind, Path, Backend]) -> None:
    _, server, backend = local
    image, volume, lost = make_id(), make_id(), make_id()
    backend.volumes.create_image(image)
    backend.data.create_data(image, volume)
    backend.volumes.write_record(image, volume, b"x")
    folder = backend.volumes.get_image_path(image)
    kept, draft = {volume, f"{volume}.meta", f"{volume}.lease", "notes.txt", "notes.meta.new"}, f"{volume}.x.meta.new"
    for name in (f"{volume}.lease", "notes.txt", "notes.meta.new", f"{volume}.meta.new", f"{lost}.lease", draft):
        (folder / name).touch()
    purged = folder.with_name(f"_remove_me_{make_id()}")
    purged.mkdir()
    (purged / make_id()).touch()
    (folder.parent / "lost+found").mkdir()
    (folder.parent / "_remove_me_later").mkdir()
    (folder.parent / f"_remove_me_{make_id()}").symlink_to(folder)
    stay = set(os.listdir(folder.parent)) - {purged.name}
    backend.leftovers.clean_temporaries()
    assert set(os.listdir(folder)) == kept
    assert set(os.listdir(folder.parent)) == stay


def test_a_domain_that_was_being_made_is_never_found(local: tuple[LocalKind, Path, Backend], tmp_path: Path) -> None:
    kind, _, _ = local
    server = tmp_path / "second"
    half = server / f".{make_id()}.new"
    (half / "dom_md").mkdir(parents=True)
    mine = server / ".my-copy-of-the-files.new"
    mine.mkdir()
    before = set(kind.list_domains())
    kind.connect(ServerConnection(str(server)))
    assert set(kind.list_domains()) == before
    kind.check_new(str(server))
    create(kind, str(server))
    assert not half.exists() and mine.exists()


@pytest.mark.parametrize("part", ["images", "dom_md/ids", "dom_md/metadata"])
def test_missing_parts_are_named(local: tuple[LocalKind, Path, Backend], part: str) -> None:
    _, _, backend = local
    path = backend.domain.path / part
    path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(StorageDomainLayoutError) as raised:
        backend.domain.check_layout()
    assert raised.value.missing == part
    if part.endswith("metadata"):
        with pytest.raises(StorageDomainMetadataNotFound):
            backend.domain.read_metadata()


def test_bad_places(tmp_path: Path) -> None:
    owner = NoOwner()
    kind = LocalKind(Layout(Paths(tmp_path)), owner)
    file = tmp_path / "file"
    file.touch()
    for spec in (str(file), str(tmp_path / "missing"), "/a\nb", "/a\0b", "", "server:/x", "/" + "x" * 300):
        with pytest.raises(InvalidParameterException):
            kind.connect(ServerConnection(spec))
    owner.refusal = "needs rwx"
    with pytest.raises(StorageServerAccessPermissionError):
        kind.connect(ServerConnection(str(tmp_path)))
    assert not (tmp_path / "rhev").exists()
    for path in ("relative", f"{tmp_path}/", f"{tmp_path}/../x"):
        with pytest.raises(StorageDomainIllegalRemotePath):
            kind.check_new(path)


def test_connecting_again_mends_a_wrong_link(tmp_path: Path) -> None:
    kind, server = make_local(tmp_path)
    link = Layout(Paths(tmp_path)).get_mount(server)
    link.parent.mkdir(parents=True)
    link.symlink_to("/wrong")
    kind.connect(ServerConnection(server))
    assert link.readlink() == Path(server)
    assert os.listdir(link.parent) == [link.name]


def test_the_lock_holds_against_other_processes_and_ends_with_them(local: tuple[LocalKind, Path, Backend]) -> None:
    _, _, backend = local
    code = (
        "import sys, pathlib; from vdsm.storage.backends.localfs import FileLock\n"
        "FileLock(pathlib.Path(sys.argv[1])).acquire(1); print('held', flush=True); sys.stdin.read()"
    )
    path = backend.domain.path / "dom_md" / "ids"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(AcquireLockFailure):
            backend.domain.acquire_lock(1)
        other.kill()
    backend.domain.acquire_lock(1)
    backend.domain.release_lock()


def test_probing_leaves_nothing(tmp_path: Path) -> None:
    assert probe_block_size(tmp_path) in (1, 512, 4096)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("errors", [{0: errno.EINVAL}, {1: errno.EINVAL, 512: errno.EINVAL, 4096: errno.EIO}])
def test_storage_without_direct_io_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errors: dict[int, int]
) -> None:
    """Which file systems refuse depends on the kernel, so the refusal is put in its place: 0 stands for opening."""
    real_open = os.open

    def refusing_open(path: str, flags: int, mode: int = 0o777) -> int:
        if 0 in errors and flags & os.O_DIRECT:
            raise OSError(errors[0], "no direct I/O")
        return real_open(path, flags, mode)

    def refusing_write(descriptor: int, parts: list[memoryview], offset: int) -> int:
        raise OSError(errors[len(parts[0])], "no")

    monkeypatch.setattr(os, "open", refusing_open)
    monkeypatch.setattr(os, "pwritev", refusing_write)
    with pytest.raises(StorageDomainTargetUnsupported):
        probe_block_size(tmp_path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []
