"""Storage that hosts share, over links that stand for mounts: connecting, finding, making domains, two hosts."""

import asyncio
import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
from msgspec.structs import replace

import vdsm.storage.domain
from vdsm.adapters.qemuimg import QemuImgCommand
from vdsm.core.errors import NodeError
from vdsm.core.ids import BLANK_UUID
from vdsm.core.paths import Paths
from vdsm.storage import locks
from vdsm.storage.backends.mounted import MountedKind, Outside
from vdsm.storage.errors import (
    AccessTimeout,
    AcquireHostIdFailure,
    AcquireLockFailure,
    ClusterLockInitError,
    InvalidParameterException,
    ReleaseLockFailure,
    StorageDomainAccessError,
    StorageDomainBlockSizeMismatch,
    StorageDomainDoesNotExist,
    StorageDomainFsNotMounted,
    StorageDomainIllegalRemotePath,
    StorageDomainMetadataNotFound,
    StorageDomainNotEmpty,
    StorageDomainTargetUnsupported,
    StorageDomainTypeError,
    StorageServerAccessPermissionError,
    VolumeDoesNotExist,
)
from vdsm.storage.lanes import Lanes
from vdsm.storage.layout import Layout
from vdsm.storage.leases.host_ids import LaneHostIds
from vdsm.storage.metadata import format_domain_metadata, new_domain_keys
from vdsm.storage.model import (
    DomainClass,
    DomainType,
    ServerConnection,
    SpmRole,
    SpmStatus,
    VolumeChange,
    VolumeFormat,
    VolumeLease,
    VolumeRef,
    VolumeRequest,
)
from vdsm.storage.ports import DomainPlan, GlusterInfo, Lease, LeaseFailed, Lockspace, Mounted, MountFailed
from vdsm.storage.repository import Repository
from vdsm.testing.leases import Judge, LeasesInMemory
from vdsm.testing.mounts import FakeGluster, MountsInMemory
from vdsm.testing.storage import FixedClock, NoOwner, World, make_id

MIB = 1 << 20
NFS = "stor_1:/exports/vms"
GLUSTER = "gl1:/vol0"
NUMBERED = "[2001:db8::5]:/x_1"


@dataclass
class Machine:
    """One of several hosts, with its mounts, its sanlock and its repository."""

    root: Path
    servers: dict[str, Path]
    judge: Judge
    lost: list[str] = field(default_factory=list)
    accepts_false_zeroes: bool = False

    def __post_init__(self) -> None:
        self.root.mkdir(exist_ok=True)
        self.mounts = MountsInMemory(self.servers)
        self.leases = LeasesInMemory(self.judge, writes_files=True)
        self.gluster = FakeGluster()
        self.owner = NoOwner()
        self.clock = FixedClock()
        self.restart()

    def restart(self) -> None:
        """A new daemon: what it knew is forgotten, mounts stay."""
        outside = Outside(self.mounts, self.leases, self.gluster, FixedClock(), self.lost.append)
        self.outside = replace(outside, accepts_false_zeroes=self.accepts_false_zeroes)
        self.repository = Repository(
            Paths(self.root), qemu_img=QemuImgCommand(), ownership=self.owner, clock=self.clock, shared=self.outside
        )

    def make_kind(self, type: DomainType, look_timeout_s: float = 10.0) -> MountedKind:
        return MountedKind(type, Layout(Paths(self.root)), self.owner, self.outside, look_timeout_s)

    @property
    def mounted(self) -> list[str]:
        mounts = self.root / "rhev/data-center/mnt"
        return [str(one.target.relative_to(mounts)) for one in self.mounts.list_mounted()]


@pytest.fixture
def hosts(tmp_path: Path) -> list[Machine]:
    servers = {
        source: tmp_path / f"disk{number}" for number, source in enumerate((NFS, GLUSTER, NUMBERED, "/dev/vg_a/lv"))
    }
    for folder in servers.values():
        folder.mkdir()
    judge = Judge()
    return [Machine(tmp_path / f"host{number}", servers, judge) for number in (1, 2)]


@pytest.fixture
def host(hosts: list[Machine]) -> Machine:
    return hosts[0]


# Connecting.


@pytest.mark.parametrize(
    ("type", "filesystem"), [(DomainType.GLUSTERFS, ""), (DomainType.POSIXFS, "glusterfs"), (DomainType.POSIXFS, "xfs")]
)
def test_fuse_that_says_that_it_zeroed_and_did_not_is_refused(
    host: Machine, type: DomainType, filesystem: str, caplog: pytest.LogCaptureFixture
) -> None:
    host.mounts.false_zeroes.add(GLUSTER)
    place = ServerConnection(GLUSTER, filesystem=filesystem)
    if filesystem == "xfs":
        host.repository.servers.connect(type, place)
        assert host.mounts.probes == 0, "only FUSE is tried"
        return
    with pytest.raises(StorageDomainTargetUnsupported, match="accept_false_zeroes"):
        host.repository.servers.connect(type, place)
    assert host.mounted == [] and host.mounts.probes == 1
    host.accepts_false_zeroes = True
    host.restart()
    for _ in range(2):
        host.repository.servers.connect(type, place)
    assert host.mounts.probes == 2, "once for each mount"
    assert caplog.text.count("Accepted: ") == 2, "at each connection"


def test_a_fuse_mount_that_was_there_is_tried_too_and_has_no_domains_when_it_is_refused(host: Machine) -> None:
    host.mounts.false_zeroes.add(GLUSTER)
    host.accepts_false_zeroes = True
    host.restart()
    world = create(host, DomainType.GLUSTERFS, GLUSTER)
    host.accepts_false_zeroes = False
    host.restart()
    assert host.repository.domains.list_domains() == [world.domain_id], "nobody has tried it yet"
    with pytest.raises(StorageDomainTargetUnsupported):
        host.repository.servers.connect(DomainType.GLUSTERFS, GLUSTER)
    assert len(host.mounted) == 1, "somebody may use it"
    host.repository.domains.refresh()
    assert host.repository.domains.list_domains() == []
    with pytest.raises(StorageDomainTargetUnsupported):
        host.repository.domains.create(DomainType.GLUSTERFS, make_id(), "new", GLUSTER, DomainClass.DATA, 5)


def test_fuse_that_cannot_be_tried_is_used_and_tried_again(host: Machine) -> None:
    place = ServerConnection(GLUSTER)
    host.mounts.fail_next("has_false_zeroes", OSError(errno.ENOSPC, "full"))
    host.repository.servers.connect(DomainType.GLUSTERFS, place)
    host.mounts.false_zeroes.add(GLUSTER)
    with pytest.raises(StorageDomainTargetUnsupported):
        host.repository.servers.connect(DomainType.GLUSTERFS, place)
    host.repository.servers.disconnect(DomainType.GLUSTERFS, place)
    host.mounts.fail_next("has_false_zeroes", TimeoutError())
    with pytest.raises(MountFailed):
        host.repository.servers.connect(DomainType.GLUSTERFS, place)
    assert host.mounted == []


@pytest.mark.parametrize(
    ("type", "connection", "target", "filesystem", "options"),
    [
        (
            DomainType.NFS,
            ServerConnection("stor_1://exports/vms/"),
            "stor__1:_exports_vms",
            "nfs4",
            "soft,nosharecache,timeo=100,retrans=3,nfsvers=3,nolock",
        ),
        (
            DomainType.NFS,
            ServerConnection("[2001:db8::5]:/x_1///"),
            "[2001:db8::5]:_x__1",
            "nfs4",
            "soft,nosharecache,timeo=100,retrans=3,nfsvers=3,nolock",
        ),
        (
            DomainType.GLUSTERFS,
            ServerConnection(GLUSTER),
            "glusterSD/gl1:_vol0",
            "fuse.glusterfs",
            "backup-volfile-servers=gl2",
        ),
        (
            DomainType.POSIXFS,
            ServerConnection("/dev/vg_a/lv", filesystem="xfs", options="ro"),
            "_dev_vg__a_lv",
            "xfs",
            "ro",
        ),
    ],
)
def test_each_kind_is_mounted_as_the_facts_tell(
    host: Machine, type: DomainType, connection: ServerConnection, target: str, filesystem: str, options: str
) -> None:
    host.gluster.info = GlusterInfo(("gl1", "gl2"), 2)
    host.repository.servers.connect(type, connection)
    [mounted] = host.mounts.list_mounted()
    assert host.mounted == [target] and mounted.filesystem == filesystem
    assert host.mounts.options[mounted.target] == options
    assert host.repository.servers.disconnect(type, connection)
    assert host.mounted == [] and not mounted.target.exists()


def test_a_mount_stays_until_its_last_user_is_gone(host: Machine) -> None:
    servers = host.repository.servers
    first, second, looker = (ServerConnection(NFS, id) for id in (make_id(), make_id(), BLANK_UUID))
    for connection in (looker, first, first, second):
        servers.connect(DomainType.NFS, connection)
    assert len(host.mounted) == 1
    assert not servers.disconnect(DomainType.NFS, ServerConnection(NFS, make_id()))
    assert not servers.disconnect(DomainType.NFS, first)
    assert len(host.mounted) == 1
    assert servers.disconnect(DomainType.NFS, second), "who only looks keeps nothing connected"
    assert host.mounted == []
    assert servers.disconnect(DomainType.NFS, second)


def test_two_who_connect_at_once_mount_once(host: Machine) -> None:
    threads = [
        threading.Thread(
            target=host.repository.servers.connect, args=(DomainType.NFS, ServerConnection(NFS, make_id()))
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(host.mounted) == 1


def test_what_an_earlier_daemon_mounted_is_used(host: Machine) -> None:
    host.repository.servers.connect(DomainType.NFS, NFS)
    host.mounts.fail_next("mount", MountFailed("it must not be mounted again"))
    host.restart()
    host.repository.servers.connect(DomainType.NFS, ServerConnection(NFS, make_id()))
    assert len(host.mounted) == 1
    host.restart()
    assert host.repository.servers.disconnect(DomainType.NFS, ServerConnection(NFS, make_id()))
    assert host.mounted == []


def test_a_dead_mount_is_replaced(host: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    host.repository.servers.connect(DomainType.GLUSTERFS, GLUSTER)
    [dead] = host.mounts.list_mounted()
    real = Path.stat

    def stat_dead(path: Path, **options: bool) -> os.stat_result:
        if path == dead.target and any(one is dead for one in host.mounts.mounted):
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", stat_dead)
    host.restart()
    host.repository.servers.connect(DomainType.GLUSTERFS, GLUSTER)
    [alive] = host.mounts.list_mounted()
    assert alive is not dead and alive == dead


def test_failures_leave_nothing(host: Machine) -> None:
    mounts = host.root / "rhev/data-center/mnt"
    servers = host.repository.servers
    with pytest.raises(MountFailed):
        servers.connect(DomainType.NFS, "nobody:/there")
    host.owner.refusal = "needs rwx"
    with pytest.raises(StorageServerAccessPermissionError):
        servers.connect(DomainType.NFS, NFS)
    for bad in ("", "-osuid:/x", "a\nb:/c", "server:/" + "x" * 300):
        with pytest.raises(InvalidParameterException):
            servers.connect(DomainType.NFS, bad)
    with pytest.raises(InvalidParameterException):
        servers.connect(DomainType.NFS, ServerConnection(NFS, options="exec,suid,dev"))
    assert host.mounted == [] and list(mounts.iterdir()) == []
    with pytest.raises(StorageDomainTypeError):
        servers.connect(DomainType.FCP, NFS)


def test_a_mount_of_an_earlier_daemon_survives_a_refused_connect(host: Machine) -> None:
    host.repository.servers.connect(DomainType.NFS, NFS)
    host.owner.refusal = "needs rwx"
    with pytest.raises(StorageServerAccessPermissionError):
        host.repository.servers.connect(DomainType.NFS, NFS)
    assert len(host.mounted) == 1


def test_nothing_is_mounted_over_a_local_folder(host: Machine, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    host.repository.servers.connect(DomainType.LOCALFS, str(folder))
    host.servers[str(folder)] = tmp_path
    with pytest.raises(MountFailed, match="local folder"):
        host.repository.servers.connect(DomainType.POSIXFS, ServerConnection(str(folder), filesystem="ext4"))


# Finding.


def create(host: Machine, type: DomainType = DomainType.NFS, server: str = NFS, version: int = 5) -> World:
    world = World(host.repository, server)
    host.repository.servers.connect(type, server)
    host.repository.domains.create(type, world.domain_id, "shared", server, version=version, maximum_hosts=250)
    return world


def test_a_domain_is_found_while_it_is_mounted(host: Machine) -> None:
    nfs, gluster = create(host), create(host, DomainType.GLUSTERFS, GLUSTER)
    domains = host.repository.domains
    assert set(domains.list_domains()) == {nfs.domain_id, gluster.domain_id}
    assert domains.list_domains(type=DomainType.NFS) == [nfs.domain_id]
    assert domains.list_domains(remote_path=f"{NFS}/") == [nfs.domain_id]
    for world, module in ((nfs, "fileVolume"), (gluster, "glusterVolume")):
        assert domains.get(world.domain_id).backend.traits.recovery_module == module
    host.mounts.unmount(host.mounts.list_mounted()[0].target)
    assert domains.list_domains() == [gluster.domain_id]
    with pytest.raises(StorageDomainDoesNotExist):
        domains.get(nfs.domain_id)


def test_folders_where_nothing_is_mounted_hold_no_domains(host: Machine) -> None:
    world = create(host)
    [mounted] = host.mounts.list_mounted()
    host.mounts.mounted.clear()
    assert (mounted.target / world.domain_id / "dom_md").is_dir()
    assert host.repository.domains.list_domains() == []


def test_a_domain_under_two_names_stays_where_it_was_found(host: Machine) -> None:
    world = create(host)
    before = host.repository.domains.get_backend(world.domain_id).domain.path
    host.servers["another:/name"] = host.servers[NFS]
    host.repository.servers.connect(DomainType.NFS, "another:/name")
    assert host.repository.domains.get_backend(world.domain_id).domain.path == before
    host.repository.servers.disconnect(DomainType.NFS, NFS)
    assert "another:_name" in str(host.repository.domains.get_backend(world.domain_id).domain.path)


def test_a_mount_that_hangs_costs_one_thread_and_keeps_its_domains(
    host: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, kind = create(host), host.make_kind(DomainType.NFS, 0.05)
    found = kind.list_domains()
    assert list(found) == [world.domain_id]
    gate, real = threading.Event(), os.scandir

    def hang(path: Path) -> AbstractContextManager[object]:
        gate.wait(30)
        return real(path)

    monkeypatch.setattr(os, "scandir", hang)
    before = threading.active_count()
    for _ in range(3):
        assert kind.list_domains() == found
    with pytest.raises(MountFailed, match="does not answer"):
        kind.connect(ServerConnection(NFS))
    assert threading.active_count() == before + 1
    gate.set()


def test_a_domain_whose_mount_died_is_sick_and_not_unknown(host: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    world = create(host)
    domains = host.repository.domains
    store = domains.get_backend(world.domain_id).domain

    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    for name in ("stat", "is_dir", "is_file"):
        monkeypatch.setattr(Path, name, refuse)
    for name in ("open", "scandir", "statvfs"):
        monkeypatch.setattr(os, name, refuse)
    for call in (domains.get, domains.validate, domains.get_space):
        with pytest.raises((StorageDomainAccessError, StorageDomainMetadataNotFound)):
            call(world.domain_id)
    with pytest.raises(StorageDomainAccessError):
        store.check_layout()


# Making domains.


@pytest.mark.parametrize("version", [3, 4, 5])
def test_a_new_domain_has_its_files_and_leases(host: Machine, version: int) -> None:
    world = create(host, version=version)
    folder = host.servers[NFS] / world.domain_id / "dom_md"
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert sizes.pop("metadata") > 200
    expected = {"ids": MIB, "leases": 2 * MIB, "inbox": 16 * MIB, "outbox": 16 * MIB}
    assert sizes == expected | ({"xleases": 1302528} if version >= 4 else {})
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes.pop("metadata") == 0o644 and set(modes.values()) == {0o660}
    assert "REMOTE_PATH=stor_1:/exports/vms\n" in (folder / "metadata").read_text()
    assert set(host.judge.lockspaces.values()) == {world.domain_id}
    assert set(host.judge.leases.values()) == {(world.domain_id, "SDM")}
    host.repository.domains.validate(world.domain_id)


def test_a_domain_that_is_made_anew_has_its_new_geometry(host: Machine) -> None:
    world = create(host)
    domains = host.repository.domains
    host.repository.pools.create(world.pool_id, "pool", world.domain_id, 1, [world.domain_id])
    host.repository.members.format(world.domain_id, detach=True)
    kind = domains._kinds[DomainType.NFS]
    keys = new_domain_keys(world.domain_id, "b", DomainType.NFS, DomainClass.DATA, 5, NFS, 4096, 8 * MIB)
    kind.create_domain(DomainPlan(world.domain_id, NFS, format_domain_metadata(keys), False, 5, 4096, 8 * MIB))
    host.repository.pools.create(world.pool_id, "pool", world.domain_id, 1, [world.domain_id])
    assert {offset for (_, offset), lease in host.judge.leases.items() if lease[1] == "SDM"} == {MIB, 8 * MIB}


def test_of_two_domains_that_are_made_at_one_place_at_once_one_is_made(
    host: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.repository.servers.connect(DomainType.NFS, NFS)
    ids, gate, failures = [make_id(), make_id()], threading.Event(), list[Exception]()
    begun, write = threading.Event(), host.leases.write_lockspace

    def write_slowly(lockspace: Lockspace) -> None:
        begun.set()
        gate.wait(30)
        write(lockspace)

    def make(domain_id: str) -> None:
        try:
            host.repository.domains.create(DomainType.NFS, domain_id, "shared", NFS)
        except NodeError as error:
            failures.append(error)

    monkeypatch.setattr(host.leases, "write_lockspace", write_slowly)
    first, second = (threading.Thread(target=make, args=(id,), daemon=True) for id in ids)
    first.start()
    assert begun.wait(30)
    second.start()
    second.join(0.1)
    gate.set()
    for thread in (first, second):
        thread.join(30)
    assert [type(failure) for failure in failures] == [StorageDomainNotEmpty]
    assert host.repository.domains.list_domains() == [ids[0]]


def test_refused_domains(host: Machine) -> None:
    create_domain = host.repository.domains.create
    with pytest.raises(StorageDomainIllegalRemotePath):
        create_domain(DomainType.NFS, make_id(), "n", "/no/colon")
    with pytest.raises(StorageDomainFsNotMounted):
        create_domain(DomainType.NFS, make_id(), "n", NFS)
    host.repository.servers.connect(DomainType.NFS, NFS)
    for type, size in ((DomainType.NFS, 0), (DomainType.NFS, 4096), (DomainType.POSIXFS, 4096)):
        with pytest.raises(InvalidParameterException):
            create_domain(type, make_id(), "n", NFS, block_size_bytes=size)
    host.repository.servers.connect(DomainType.GLUSTERFS, GLUSTER)
    with pytest.raises((StorageDomainBlockSizeMismatch, InvalidParameterException)):
        create_domain(DomainType.GLUSTERFS, make_id(), "n", GLUSTER, block_size_bytes=4096, version=5)
    assert os.listdir(host.servers[NFS]) == os.listdir(host.servers[GLUSTER]) == []


def test_without_sanlock_no_domain_is_made(host: Machine) -> None:
    for call in ("write_lockspace", "write_lease"):
        host.leases.fail_next(call, LeaseFailed("Connection refused", errno.ECONNREFUSED))
        with pytest.raises(ClusterLockInitError, match="refused"):
            create(host)
    assert os.listdir(host.servers[NFS]) == []
    create(host)


def test_iso_domains_are_shared_too(host: Machine) -> None:
    host.repository.servers.connect(DomainType.NFS, NFS)
    host.repository.domains.create(DomainType.NFS, make_id(), "isos", NFS, DomainClass.ISO)


def test_a_domain_of_version_3_gets_external_leases_with_version_4(host: Machine) -> None:
    world = create(host, version=3)
    host.repository.pools.create(world.pool_id, "pool", world.domain_id, 1, [world.domain_id])
    host.repository.pools.connect(world.pool_id, 1, world.domain_id, 1)
    xleases = host.servers[NFS] / world.domain_id / "dom_md/xleases"
    xleases.write_bytes(b"what a killed upgrade left")
    host.repository.spm.start(world.pool_id, 5)
    assert (xleases.stat().st_size, stat.S_IMODE(xleases.stat().st_mode)) == (1302528, 0o660)
    assert host.repository.domains.get(world.domain_id).metadata.version == 5
    host.repository.external_leases.create(world.domain_id, make_id())


# Volumes.


def be_spm(host: Machine, world: World, host_id: int = 1) -> World:
    mine = World(host.repository, world.server, domain_id=world.domain_id, pool_id=world.pool_id)
    if not host.mounts.list_mounted():
        host.repository.servers.connect(DomainType.NFS, world.server)
    host.repository.pools.connect(world.pool_id, host_id, world.domain_id, 1, {world.domain_id: "Active"})
    host.repository.spm.start(world.pool_id)
    return mine


@pytest.fixture
def spm(host: Machine) -> World:
    world = create(host)
    host.repository.pools.create(world.pool_id, "pool", world.domain_id, 1, [world.domain_id])
    return be_spm(host, world)


def names_in(world: World, host: Machine, volume: VolumeRequest) -> list[str]:
    return sorted(os.listdir(host.servers[NFS] / world.domain_id / "images" / volume.image_id))


def test_volumes_have_leases_that_go_with_them(spm: World, host: Machine) -> None:
    base = spm.create_base(format=VolumeFormat.RAW)
    folder = host.servers[NFS] / spm.domain_id / "images" / base.image_id
    lease = folder / f"{base.volume_id}.lease"
    assert (stat.S_IMODE(lease.stat().st_mode), lease.stat().st_size) == (0o660, MIB)
    assert (spm.domain_id, base.volume_id) in host.judge.leases.values()
    user = spm.create_layer(base, make_id())
    for suffix in ("", ".meta", ".lease"):
        name = f"{base.volume_id}{suffix}"
        assert (folder / name).samefile(folder.parent / user.image_id / name)
    spm.delete(user.image_id, user.volume_id)
    assert not (folder.parent / user.image_id).exists() and len(os.listdir(folder)) == 3
    spm.delete(base.image_id, base.volume_id, force=True)
    assert not folder.exists()


def test_a_lease_that_cannot_be_made_undoes_the_volume(spm: World, host: Machine) -> None:
    host.leases.fail_next("write_lease", LeaseFailed("I/O timeout", -202))
    with pytest.raises(ClusterLockInitError):
        spm.create_base()
    assert os.listdir(host.servers[NFS] / spm.domain_id / "images") == []
    base = spm.create_base()
    host.leases.fail_next("write_lease", LeaseFailed("I/O timeout", -202))
    with pytest.raises(ClusterLockInitError):
        spm.create_layer(base)
    assert names_in(spm, host, base) == [base.volume_id, f"{base.volume_id}.lease", f"{base.volume_id}.meta"]


def test_a_volume_that_gets_its_old_name_back_has_its_lease_back(spm: World, host: Machine) -> None:
    made, new_id = spm.create_base(), make_id()
    folder = host.servers[NFS] / spm.domain_id / "images" / made.image_id
    before = names_in(spm, host, made)
    for name in before:
        (folder / name).rename(folder / name.replace(made.volume_id, new_id))
    params = (str(folder / made.volume_id), str(folder / new_id))
    spm.repository.recovery.recover("fileVolume", "FileVolume", "renameVolumeRollback", params)
    assert names_in(spm, host, made) == before
    lease = Lease(Lockspace(spm.domain_id, folder, 512, MIB), made.volume_id, folder / f"{made.volume_id}.lease")
    assert host.leases.read_lease_name(lease) == (spm.domain_id, made.volume_id)


def test_who_holds_a_volume_is_told_as_far_as_it_is_known(spm: World, host: Machine) -> None:
    base = spm.create_base()
    get_info = host.repository.volumes.get_info
    told = get_info(spm.domain_id, base.image_id, base.volume_id).lease
    assert told is not None and (told.offset_bytes, told.version, told.holder) == (0, 0, None)
    assert told.path.name == f"{base.volume_id}.lease"
    space = Lockspace(spm.domain_id, told.path, 512, MIB)
    host.leases.acquire(Lease(space, base.volume_id, told.path))
    told = get_info(spm.domain_id, base.image_id, base.volume_id).lease
    assert told is not None and (told.version, told.holder) == (1, 1)
    host.leases.fail_next("inspect", LeaseFailed("Lease resource name is incorrect", -227))
    assert get_info(spm.domain_id, base.image_id, base.volume_id).lease == VolumeLease(told.path)


def test_one_host_at_a_time_works_on_a_volume(spm: World, hosts: list[Machine]) -> None:
    first, second = hosts
    base = spm.create_base()
    target = VolumeRef(spm.domain_id, base.image_id, base.volume_id, 0)
    second.repository.servers.connect(DomainType.NFS, NFS)
    second.repository.pools.connect(spm.pool_id, 2, spm.domain_id, 1, {spm.domain_id: "Active"})
    change = VolumeChange(description="changed")

    def get_holder() -> int | None:
        lease = first.repository.volumes.get_info(spm.domain_id, base.image_id, base.volume_id).lease
        return lease.holder if lease else None

    with pytest.raises(AcquireLockFailure):  # it is no host of the lockspace yet
        second.repository.jobs.update_volume(target, change)
    second.repository.domains.get_backend(spm.domain_id).domain.join_hosts(2)
    volumes = first.repository.domains.get_backend(spm.domain_id).volumes
    with volumes.hold_lease(base.image_id, base.volume_id):
        assert get_holder() == 1
        with pytest.raises(AcquireLockFailure):
            second.repository.jobs.update_volume(target, change)
        assert first.repository.volumes.get_metadata(spm.domain_id, base.image_id, base.volume_id).generation == 0
    second.repository.jobs.update_volume(target, change)
    assert first.repository.volumes.get_metadata(spm.domain_id, base.image_id, base.volume_id).generation == 1
    assert get_holder() is None
    with pytest.raises(VolumeDoesNotExist):
        second.repository.jobs.update_volume(replace(target, volume_id=make_id()), change)
    second.leases.fail_next("release", LeaseFailed("Connection refused", -111))
    with pytest.raises(ReleaseLockFailure):
        second.repository.jobs.update_volume(replace(target, generation=1), change)


@pytest.mark.parametrize("force", [False, True])
def test_a_volume_that_another_host_works_on_is_not_removed(spm: World, hosts: list[Machine], force: bool) -> None:
    first, second = hosts
    base, idle = spm.create_base(), spm.create_base()
    second.repository.servers.connect(DomainType.NFS, NFS)
    second.repository.domains.get_backend(spm.domain_id).domain.join_hosts(2)
    with second.repository.domains.get(spm.domain_id).backend.volumes.hold_lease(base.image_id, base.volume_id):
        before = spm.get_record(base)
        with pytest.raises(AcquireLockFailure):
            spm.delete(base.image_id, base.volume_id, force=force)
        spm.delete(idle.image_id, idle.volume_id)
        assert spm.get_record(base) == before and spm.get_path(base).exists()
    spm.delete(base.image_id, base.volume_id, force=force)
    assert os.listdir(first.servers[NFS] / spm.domain_id / "images") == []


def test_a_volume_whose_lease_tells_nothing_can_be_removed(spm: World, host: Machine) -> None:
    base = spm.create_base()
    host.leases.fail_next("inspect", LeaseFailed("I/O timeout", -202))
    spm.delete(base.image_id, base.volume_id)
    lost = spm.create_base()
    (host.servers[NFS] / spm.domain_id / "images" / lost.image_id / f"{lost.volume_id}.lease").unlink()
    spm.delete(lost.image_id, lost.volume_id)
    assert os.listdir(host.servers[NFS] / spm.domain_id / "images") == []


def test_the_masters_mailboxes_are_mended(spm: World, host: Machine) -> None:
    folder = host.servers[NFS] / spm.domain_id / "dom_md"
    host.repository.spm.stop(spm.pool_id)
    os.truncate(folder / "inbox", 0)
    os.truncate(folder / "outbox", 4096)
    host.repository.spm.start(spm.pool_id)
    for name in ("inbox", "outbox"):
        status = (folder / name).stat()
        assert (status.st_size, stat.S_IMODE(status.st_mode)) == (16 * MIB, 0o660)


# The one writer.


def test_of_two_hosts_one_is_the_spm_and_both_know_it(spm: World, hosts: list[Machine]) -> None:
    first, second = hosts
    pools = second.repository.pools
    with pytest.raises(AcquireLockFailure):
        be_spm(second, spm, 2)
    assert pools.get_spm_status(spm.pool_id) == SpmStatus(SpmRole.FREE, 1, 2)
    assert first.repository.pools.get_spm_status(spm.pool_id) == SpmStatus(SpmRole.SPM, 1, 2)
    assert pools.get_info(spm.pool_id).spm.host_id == 1
    first.repository.spm.stop(spm.pool_id)
    assert pools.get_spm_status(spm.pool_id) == SpmStatus(SpmRole.FREE, -1, 2)
    second.repository.spm.start(spm.pool_id)
    assert first.repository.pools.get_spm_status(spm.pool_id) == SpmStatus(SpmRole.FREE, 2, 3)


def test_a_host_that_is_gone_is_followed_by_another(spm: World, hosts: list[Machine]) -> None:
    hosts[0].leases.die()
    be_spm(hosts[1], spm, 2)
    assert hosts[1].repository.pools.get_spm_status(spm.pool_id).host_id == 2


def test_two_hosts_with_one_number(spm: World, hosts: list[Machine]) -> None:
    with pytest.raises(AcquireHostIdFailure):
        be_spm(hosts[1], spm, 1)
    assert hosts[1].repository.pools.get_connected(spm.pool_id).role is SpmRole.FREE


def test_making_a_pool_leaves_no_host_behind(host: Machine) -> None:
    world = create(host)
    host.repository.pools.create(world.pool_id, "pool", world.domain_id, 1, [world.domain_id])
    assert host.judge.members[world.domain_id] == {} and host.judge.holders == {}


def test_a_pool_is_made_only_of_domains_that_nobody_else_writes(hosts: list[Machine]) -> None:
    first, second = hosts
    world, other = create(first), create(first, DomainType.GLUSTERFS, GLUSTER)
    ids = [world.domain_id, other.domain_id]
    second.repository.servers.connect(DomainType.GLUSTERFS, GLUSTER)
    with second.repository.domains.get(other.domain_id).locked(7):
        with pytest.raises(AcquireLockFailure):
            first.repository.pools.create(world.pool_id, "pool", world.domain_id, 1, ids)
        assert not any(first.repository.domains.get(domain_id).metadata.pool_ids for domain_id in ids)
        assert first.judge.members[world.domain_id] == {}
    first.repository.pools.create(world.pool_id, "pool", world.domain_id, 1, ids)
    assert first.judge.holders == {}


async def test_host_ids_are_taken_and_given_up_as_they_are_wanted_last(host: Machine) -> None:
    world, lanes = create(host), Lanes(30)
    ids = LaneHostIds(host.repository.domains, lanes)
    members = host.judge.members.setdefault(world.domain_id, {})

    async def settle() -> None:
        while ids._tasks:
            await asyncio.sleep(0.001)

    assert not ids.is_held(world.domain_id)
    ids.acquire(world.domain_id, 3)
    assert not ids.is_held(world.domain_id)
    await settle()
    assert ids.is_held(world.domain_id) and set(members) == {3}
    for _ in range(3):
        ids.release(world.domain_id)
        ids.acquire(world.domain_id, 4)
    await settle()
    assert ids.is_held(world.domain_id) and set(members) == {4}
    host.leases.die()  # sanlock was started anew
    assert ids.is_held(world.domain_id) and not ids._tasks  # asking begins nothing
    ids.check(world.domain_id)
    await settle()
    assert not ids.is_held(world.domain_id) and not members
    ids.acquire(world.domain_id, 4)
    await settle()
    assert set(members) == {4}
    host.leases.die()
    host.leases.fail_next("join", LeaseFailed("I/O timeout", -202))
    ids.acquire(world.domain_id, 4)
    await settle()
    assert members == {} and not ids.is_held(world.domain_id)
    ids.acquire(world.domain_id, 4)
    await settle()
    assert ids.is_held(world.domain_id)
    ids.check(world.domain_id)
    await settle()
    assert ids.is_held(world.domain_id)
    host.leases.fail_next("is_member", LeaseFailed("Connection refused", errno.ECONNREFUSED))
    ids.check(world.domain_id)
    await settle()
    assert not ids.is_held(world.domain_id), "nobody can tell"
    ids.acquire(world.domain_id, 4)
    await settle()
    ids.check(world.domain_id)
    ids.release(world.domain_id)  # while that goes on
    assert not ids.is_held(world.domain_id)
    await settle()
    assert members == {}
    ids.release(world.domain_id)
    ids.check(world.domain_id)
    assert not ids._tasks
    ids.acquire(make_id(), 1)
    await settle()
    lanes.close()


async def test_a_host_id_is_given_up_also_when_the_server_was_disconnected_first(host: Machine) -> None:
    world, lanes = create(host), Lanes(30)
    ids = LaneHostIds(host.repository.domains, lanes)
    ids.acquire(world.domain_id, 3)
    await asyncio.gather(*ids._tasks.values())
    assert set(host.judge.members[world.domain_id]) == {3}
    host.repository.servers.disconnect(DomainType.NFS, NFS)
    ids.release(world.domain_id)
    await asyncio.gather(*ids._tasks.values())
    assert host.judge.members[world.domain_id] == {}
    lanes.close()


async def test_a_host_id_that_is_given_up_when_it_was_just_taken_is_given_up(
    host: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, lanes = create(host), Lanes(30)
    ids = LaneHostIds(host.repository.domains, lanes)
    change = ids._change

    async def change_and_have_it_released(domain_id: str, wanted: int | None) -> None:
        await change(domain_id, wanted)
        asyncio.get_running_loop().call_soon(ids.release, domain_id)  # runs when the task has just ended

    monkeypatch.setattr(ids, "_change", change_and_have_it_released)
    ids.acquire(world.domain_id, 3)
    await asyncio.gather(*ids._tasks.values())
    await asyncio.gather(*ids._tasks.values())
    assert host.judge.members[world.domain_id] == {}
    lanes.close()


async def test_joining_takes_no_thread_of_the_domain(host: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    world, lanes = create(host), Lanes(30)
    ids, gate = LaneHostIds(host.repository.domains, lanes), threading.Event()
    monkeypatch.setattr(host.leases, "join", lambda *_, **__: gate.wait(30))
    ids.acquire(world.domain_id, 3)
    await asyncio.sleep(0)
    assert lanes.get(world.domain_id).thread_count == 0
    gate.set()
    await asyncio.gather(*ids._tasks.values())
    lanes.close()


def test_a_host_that_joined_meanwhile_stays_when_the_writers_lease_is_given_back(host: Machine) -> None:
    world = create(host)
    store = host.repository.domains.get_backend(world.domain_id).domain
    store.acquire_lock(3)
    store.join_hosts(3)  # as the domain's monitor does
    store.release_lock()
    assert set(host.judge.members[world.domain_id]) == {3}


def test_work_on_a_volume_waits_for_the_host_id(spm: World, host: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    base = spm.create_base()
    store, volumes = host.repository.domains.get(spm.domain_id).backend.domain, []
    host.leases.die()  # sanlock was started anew
    gate, begun, join = threading.Event(), threading.Event(), host.leases.join

    def join_slowly(*args: Any, **named: Any) -> None:
        begun.set()
        gate.wait(30)
        join(*args, **named)

    def work() -> None:
        with host.repository.domains.get(spm.domain_id).backend.volumes.hold_lease(base.image_id, base.volume_id):
            volumes.append(base.volume_id)

    monkeypatch.setattr(host.leases, "join", join_slowly)
    joining, working = (threading.Thread(target=call, daemon=True) for call in (lambda: store.join_hosts(1), work))
    joining.start()
    assert begun.wait(30)
    working.start()
    working.join(0.1)
    gate.set()
    for thread in (joining, working):
        thread.join(30)
    assert volumes == [base.volume_id]


def test_who_is_spm_is_not_known_while_sanlock_does_not_tell(spm: World, host: Machine) -> None:
    host.leases.fail_next("inspect", LeaseFailed("No such file", errno.ENOENT))
    with pytest.raises(LeaseFailed):
        host.repository.pools.get_spm_status(spm.pool_id)
    host.leases.fail_next("inspect", LeaseFailed("No such file", errno.ENOENT))
    assert host.repository.pools.get_info(spm.pool_id).spm == SpmStatus(SpmRole.SPM, -1, -1)


def test_a_lost_lease_ends_the_process(spm: World, host: Machine) -> None:
    host.repository.spm.watch_lease()
    assert host.lost == []
    host.leases.held.clear()
    host.repository.spm.watch_lease()
    assert len(host.lost) == 1 and spm.domain_id in host.lost[0]


@pytest.mark.parametrize("is_made_anew", [False, True])
def test_a_lease_that_is_overwritten_on_storage_ends_the_process(spm: World, host: Machine, is_made_anew: bool) -> None:
    [lease] = host.leases.held.values()
    (host.leases.write_lease if is_made_anew else host.leases.clear_lease)(lease)
    assert host.leases.is_held(lease), "sanlock does not know"
    host.repository.spm.watch_lease()
    assert len(host.lost) == 1 and spm.domain_id in host.lost[0]


def test_a_lease_that_cannot_be_read_is_not_lost(spm: World, host: Machine) -> None:
    for call in ("read_lease_name", "inspect"):
        for _ in range(5):
            host.leases.fail_next(call, LeaseFailed("Sanlock exception", -202))
            host.repository.spm.watch_lease()
    assert host.lost == []


def test_who_takes_a_lease_that_was_made_anew_writes_when_another_holder_must_have_noticed(
    spm: World, hosts: list[Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = hosts
    [lease] = first.leases.held.values()
    second.repository.servers.connect(DomainType.NFS, NFS)
    second.repository.pools.connect(spm.pool_id, 2, spm.domain_id, 1, {spm.domain_id: "Active"})
    store = second.repository.domains.get(spm.domain_id).backend.domain
    written, waited_s = store.read_metadata(), list[float]()

    def sleep(seconds: float) -> None:
        assert store.read_metadata() == written and second.leases.held
        waited_s.append(seconds)

    monkeypatch.setattr("time.sleep", sleep)
    first.leases.write_lease(lease)
    second.repository.spm.start(spm.pool_id)
    assert waited_s == [100.0]
    second.repository.spm.stop(spm.pool_id)
    second.repository.spm.start(spm.pool_id)
    assert len(waited_s) == 1, "it is an old one by now"


def test_silence_of_sanlock_is_borne_three_times_in_a_row(spm: World, host: Machine) -> None:
    busy = LeaseFailed("Device or resource busy", errno.EBUSY)

    def look(*failures: LeaseFailed, every_s: float = 20.0) -> None:
        for failure in failures:
            host.clock.now_s += every_s
            host.leases.fail_next("is_held", failure)
            host.repository.spm.watch_lease()

    look(busy, busy, busy)
    host.clock.now_s += 20.0
    host.repository.spm.watch_lease()
    look(busy, busy, busy)
    assert host.lost == []
    look(busy)
    assert len(host.lost) == 1


def test_silence_of_sanlock_is_borne_for_as_long_as_a_lease_lives(spm: World, host: Machine) -> None:
    host.repository.spm.watch_lease()
    stuck = LeaseFailed("no answer: an earlier call has not come back", errno.ETIMEDOUT)
    for _ in range(799):  # however often one looks
        host.clock.now_s += 0.1
        host.leases.fail_next("is_held", stuck)
        host.repository.spm.watch_lease()
    assert host.lost == []
    host.clock.now_s += 0.2
    host.leases.fail_next("is_held", stuck)
    host.repository.spm.watch_lease()
    assert len(host.lost) == 1


def test_nothing_that_only_an_spm_does_goes_on_while_the_lease_is_given_up(
    spm: World, host: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    role, refused = host.repository.spm, list[NodeError]()

    def release(_: Lease) -> None:
        impatient = locks.WAITS.set(locks.Waits(0.05, lambda _: None))
        for resource in (locks.writing(spm.pool_id, shared=True), locks.pool(spm.pool_id, shared=True)):
            try:
                with role._locks.hold(resource):
                    return
            except NodeError as error:
                refused.append(error)
        locks.WAITS.reset(impatient)

    monkeypatch.setattr(host.leases, "release", release)
    role.stop(spm.pool_id)
    assert len(refused) == 2


def test_a_lease_that_cannot_be_given_back_ends_the_process(spm: World, host: Machine) -> None:
    host.leases.fail_next("release", LeaseFailed("I/O timeout", -202))
    with pytest.raises(ReleaseLockFailure):
        host.repository.spm.stop(spm.pool_id)
    assert len(host.lost) == 1
    host.repository.spm.watch_lease()
    assert len(host.lost) == 1


def test_mounts_that_others_made_are_left_alone(host: Machine, tmp_path: Path) -> None:
    host.mounts.mounted.append(Mounted("tmpfs", tmp_path, "tmpfs"))
    host.mounts.mounted.append(Mounted("else:/where", host.root / "rhev/data-center/mnt/x/y", "nfs4"))
    assert host.repository.domains.list_domains() == []


# Storage that hangs.


QUICK_S = 0.3
"""So long storage is waited for once some of it hangs: what is well has to answer in this on a busy machine, too."""
Hang = Callable[..., None]


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hang]:
    """What is below folders of the names that it is called with hangs until the end of the test."""
    names: set[str] = set()
    ended = threading.Event()

    def slow(call: Callable[..., Any]) -> Callable[..., Any]:
        def wait_and_call(path: Any, *args: Any, **named: Any) -> Any:
            if not names.isdisjoint(Path(path).parts):
                ended.wait(30)
            return call(path, *args, **named)

        return wait_and_call

    for name in ("open", "stat", "scandir"):
        monkeypatch.setattr(os, name, slow(getattr(os, name)))

    def begin(*more: str) -> None:
        monkeypatch.setattr(vdsm.storage.domain, "LOOK_TIMEOUT_S", QUICK_S)
        names.update(more)

    yield begin
    ended.set()


@pytest.fixture
def sick(spm: World, host: Machine, hang: Hang, tmp_path: Path) -> str:
    """A second domain of the pool, which hangs."""
    server = "stor_2:/exports/more"
    host.servers[server] = tmp_path / "disk of stor_2"
    host.servers[server].mkdir()
    second = create(host, server=server)
    host.repository.members.attach(spm.pool_id, second.domain_id)
    host.repository.members.activate(spm.pool_id, second.domain_id)
    for kind in host.repository.domains._kinds.values():
        if isinstance(kind, MountedKind):
            kind._look_timeout_s = QUICK_S
    hang("stor__2:_exports_more")
    return second.domain_id


def within(limit_s: float, call: Callable[[], object]) -> None:
    """Call it, in a thread that may be left behind when it hangs."""
    ended = []
    thread = threading.Thread(target=lambda: ended.append(call()), daemon=True)
    thread.start()
    thread.join(limit_s)
    assert ended, "it hangs, or failed"


def test_a_domain_that_hangs_can_be_put_out_of_use(spm: World, host: Machine, sick: str) -> None:
    pool = host.repository.pools.get_connected(spm.pool_id)
    within(5, lambda: host.repository.pools.rebuild_links(pool))
    within(5, lambda: host.repository.members.deactivate(spm.pool_id, sick))
    within(5, lambda: host.repository.members.detach(spm.pool_id, sick, force=True))
    assert list(pool.domains) == [spm.domain_id]


def test_a_domain_that_hangs_holds_up_no_list(spm: World, host: Machine, sick: str) -> None:
    lists = []
    for _ in range(2):
        within(5, lambda: lists.append(host.repository.domains.list_domains(domain_class=DomainClass.DATA)))
        within(5, lambda: lists.append(host.repository.inventory.find_image(spm.pool_id, make_id())))
    assert lists == [[spm.domain_id], []] * 2


def test_a_domain_that_hangs_keeps_nobody_from_being_spm(spm: World, host: Machine, sick: str) -> None:
    within(5, lambda: host.repository.spm.stop(spm.pool_id))
    within(5, lambda: host.repository.spm.start(spm.pool_id))
    assert host.repository.pools.get_spm_status(spm.pool_id).role is SpmRole.SPM


def test_the_role_is_given_up_also_when_the_master_hangs(
    spm: World, host: Machine, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools, role = host.repository.pools, host.repository.spm
    role.stop(spm.pool_id)
    pools.disconnect(spm.pool_id)
    pools.connect(spm.pool_id, 1, spm.domain_id, 1)
    role.start(spm.pool_id)
    released = list[str]()
    monkeypatch.setattr(host.leases, "release", lambda lease: released.append(lease.name))  # sanlock has its own files
    hang("stor__1:_exports_vms")
    within(5, lambda: role.stop(spm.pool_id))
    assert released == ["SDM"]


def test_a_domain_that_hangs_keeps_no_lock_of_the_pool(spm: World, host: Machine, sick: str) -> None:
    members = host.repository.members
    members.deactivate(spm.pool_id, sick)
    for call in (members.attach, members.activate, members.detach):
        with pytest.raises(AccessTimeout):
            call(spm.pool_id, sick)
    members.detach(spm.pool_id, sick, force=True)


def test_a_domain_that_hangs_keeps_no_lock_of_the_host(spm: World, host: Machine, sick: str) -> None:
    pools, members = host.repository.pools, host.repository.members
    host.repository.spm.stop(spm.pool_id)
    with pytest.raises(AccessTimeout):
        members.destroy(spm.pool_id, 1)
    pools.disconnect(spm.pool_id)
    for call in (
        partial(members.detach_everywhere, sick),
        partial(members.format, sick),
        partial(pools.connect, spm.pool_id, 1, sick, 1),
        partial(pools.reconstruct, spm.pool_id, 1, "pool", sick, 2, {sick: "Active"}),
        partial(pools.create, make_id(), "pool", sick, 1, [sick]),
    ):
        with pytest.raises(AccessTimeout):
            call()
    pools.connect(spm.pool_id, 1, spm.domain_id, 1, {spm.domain_id: "Active"})


def test_mounts_that_hang_are_waited_for_all_at_once(host: Machine, hang: Hang, tmp_path: Path) -> None:
    for number in range(8):
        source = f"stor{number}:/a"
        host.servers[source] = tmp_path / f"another{number}"
        host.servers[source].mkdir()
        host.repository.servers.connect(DomainType.NFS, source)
    hang(*(f"stor{number}:_a" for number in range(8)))
    begun_s = time.monotonic()
    assert host.make_kind(DomainType.NFS, 1.0).list_domains() == {}
    assert time.monotonic() - begun_s < 4.0, "one after another they take eight"


def test_domains_on_a_mount_that_cannot_be_read_are_sick_and_not_unknown(
    host: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, kind = create(host), host.make_kind(DomainType.NFS)
    found = kind.list_domains()

    def refuse(_: Path) -> NoReturn:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "scandir", refuse)
    assert kind.list_domains() == found == {world.domain_id: found[world.domain_id]}


def test_a_prepared_image_tells_of_leases_and_of_the_network(host: Machine) -> None:
    host.gluster.info = GlusterInfo(("gl1", "gl2", "gl,3:/x", "gl2"), 3)
    for type, server in ((DomainType.GLUSTERFS, GLUSTER), (DomainType.NFS, NFS)):
        world = create(host, type, server)
        host.repository.pools.create(world.pool_id, "pool", world.domain_id, 1, [world.domain_id])
        host.repository.pools.connect(world.pool_id, 1, world.domain_id, 1)
        host.repository.spm.start(world.pool_id)
        base = world.create_base()
        top = world.create_layer(base)
        image = host.repository.images.prepare(world.pool_id, world.domain_id, top.image_id, top.volume_id)
        assert [one.volume_id for one in image.chain] == [top.volume_id, base.volume_id]
        assert [one.lease for one in image.chain] == [
            VolumeLease(one.path.with_suffix(".lease")) for one in image.chain
        ]
        if type is DomainType.NFS:
            assert image.network is None
            continue
        assert image.network is not None and image.network.servers == ("gl1", "gl2")
        assert image.network.name == f"vol0/{world.domain_id}/images/{top.image_id}/{top.volume_id}"
        host.gluster.info = None  # asked once for each mount
        again = host.repository.images.prepare(world.pool_id, world.domain_id, top.image_id, top.volume_id)
        assert again.network == image.network
        host.repository.spm.stop(world.pool_id)
        host.repository.pools.disconnect(world.pool_id)


@pytest.mark.parametrize(
    ("place", "filesystem", "told"),
    [
        ("UUID=2f4c6f0e-9a55", "xfs", "/dev/sdb1"),
        ("LABEL=vms", "ext4", "/dev/dm-7"),
        ("mon1,mon2:/vms", "ceph", "10.0.0.1:6789,10.0.0.2:6789:/vms"),
    ],
)
def test_what_the_kernel_tells_by_another_name_is_mounted_once_and_goes(
    host: Machine, tmp_path: Path, place: str, filesystem: str, told: str
) -> None:
    host.servers[place] = tmp_path / "renamed"
    host.servers[place].mkdir()
    servers, connection = host.repository.servers, ServerConnection(place, "a", filesystem=filesystem)
    servers.connect(DomainType.POSIXFS, connection)
    [mounted] = host.mounts.mounted
    host.mounts.mounted[:] = [replace(mounted, source=told)]
    servers.connect(DomainType.POSIXFS, connection)
    assert host.make_kind(DomainType.POSIXFS).check_new(place) in (512, 4096)
    host.restart()
    host.repository.servers.connect(DomainType.POSIXFS, connection)
    assert len(host.mounts.mounted) == 1
    assert host.repository.servers.disconnect(DomainType.POSIXFS, connection)
    assert not host.mounts.mounted


def test_a_place_that_two_types_use_stays_until_both_are_gone(host: Machine) -> None:
    servers = host.repository.servers
    nfs, posix = ServerConnection(NFS, "same id"), ServerConnection(NFS, "same id", filesystem="nfs")
    servers.connect(DomainType.NFS, nfs)
    servers.connect(DomainType.POSIXFS, posix)
    assert not servers.disconnect(DomainType.NFS, nfs)
    assert len(host.mounted) == 1
    assert servers.disconnect(DomainType.POSIXFS, posix)
    assert not host.mounted
