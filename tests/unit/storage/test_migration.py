"""The move of a pool's master: refusals, what fails half-way, hosts that disagree; kills are in `test_pools_killed`."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.commands import wait_for
from tests.unit.storage.pools.test_members import Killer, add_member
from tests.unit.storage.pools.test_pool import add_domain, read
from vdsm.core.errors import NodeError
from vdsm.storage.errors import (
    AccessTimeout,
    AcquireLockFailure,
    BackupCannotBeMasterDomain,
    InvalidParameterException,
    IsoCannotBeMasterDomain,
    SpmStatusError,
    StorageDomainNotMemberOfPool,
    StoragePoolWrongMaster,
)
from vdsm.storage.errors_pools import StorageDomainNotActive, TarCommandError
from vdsm.storage.model import DomainClass, DomainStatus, DomainType, SpmRole
from vdsm.storage.pools import spm as spm_module
from vdsm.testing.qemuimg import FakeQemuImg
from vdsm.testing.storage import NoOwner, World, make_id, make_world_on_disk


@pytest.fixture
def on_disk(tmp_path: Path) -> World:
    """The SPM of a pool on a folder, with VM definitions."""
    world = make_world_on_disk(tmp_path, FakeQemuImg({}), NoOwner(), Killer()).start_spm()
    world.repository.definitions.update(world.pool_id, {make_id(): "<a/>", make_id(): "<b/>"})
    return world


def add_second(world: World, version: int = 5, domain_class: DomainClass = DomainClass.DATA) -> str:
    server = Path(world.server).with_name(f"server_{make_id()}")
    server.mkdir()
    domain_id = add_domain(world, str(server), version, domain_class)
    world.repository.members.attach(world.pool_id, domain_id)
    world.repository.members.activate(world.pool_id, domain_id)
    return domain_id


def get_master(world: World, domain_id: str) -> Path:
    return world.repository.domains.get_backend(domain_id).domain.path / "master"


def test_another_domain_becomes_the_master_and_back(on_disk: World) -> None:
    second = add_second(on_disk)
    spm, pools, before = on_disk.repository.spm, on_disk.repository.pools, read(on_disk, on_disk.domain_id)
    found = on_disk.repository.definitions.read(on_disk.pool_id, [])
    (get_master(on_disk, on_disk.domain_id) / "tasks" / "link").symlink_to("/etc")
    os.mkfifo(get_master(on_disk, on_disk.domain_id) / "tasks" / "pipe")
    held = []

    @contextmanager
    def hold() -> Iterator[None]:
        held.append(True)
        yield

    spm.migrate(on_disk.pool_id, on_disk.domain_id, second, 2, hold)
    assert held == [True]
    old, new = read(on_disk, on_disk.domain_id), read(on_disk, second)
    assert (old["ROLE"], old["MASTER_VERSION"], "NEXT_MASTER" in old) == ("Regular", "0", False)
    assert {**before, **{key: new[key] for key in ("SDUUID", "DESCRIPTION", "REMOTE_PATH", "MASTER_VERSION")}} == new
    assert new["MASTER_VERSION"] == "2"
    assert on_disk.repository.definitions.read(on_disk.pool_id, []) == found
    assert sorted(os.listdir(get_master(on_disk, second))) == ["tasks", "vms"]
    assert os.listdir(get_master(on_disk, second) / "tasks") == []
    assert os.listdir(get_master(on_disk, on_disk.domain_id)) == []
    assert pools.get_info(on_disk.pool_id).master_id == second
    assert (on_disk.repository.layout.get_pool(on_disk.pool_id) / "mastersd").readlink().name == second
    on_disk.repository.domains.get_backend(on_disk.domain_id).domain.acquire_lock(1)  # it was given up
    on_disk.repository.domains.get_backend(on_disk.domain_id).domain.release_lock()
    with pytest.raises(AcquireLockFailure):
        on_disk.repository.domains.get_backend(second).domain.acquire_lock(1)
    spm.migrate(on_disk.pool_id, second, on_disk.domain_id, 3)
    assert read(on_disk, on_disk.domain_id) == {**before, "MASTER_VERSION": "3"}
    assert on_disk.repository.definitions.read(on_disk.pool_id, []) == found
    spm.stop(on_disk.pool_id)
    pools.disconnect(on_disk.pool_id)
    pools.connect(on_disk.pool_id, 1, on_disk.domain_id, 3)


def test_an_older_domain_gets_the_pools_version_first(on_disk: World) -> None:
    second = add_second(on_disk)
    on_disk.repository.domains.update(second, {"VERSION": "4", "BLOCK_SIZE": None, "ALIGNMENT": None})
    on_disk.repository.spm.migrate(on_disk.pool_id, on_disk.domain_id, second, 2)
    assert read(on_disk, second)["VERSION"] == "5"


def test_refusals_change_nothing(on_disk: World) -> None:
    second, resting = add_second(on_disk), add_second(on_disk)
    iso = add_second(on_disk, domain_class=DomainClass.ISO)
    backup = add_second(on_disk, domain_class=DomainClass.BACKUP)
    on_disk.repository.members.deactivate(on_disk.pool_id, resting)
    first, pool_id, migrate = on_disk.domain_id, on_disk.pool_id, on_disk.repository.spm.migrate
    every = (first, second, resting, iso, backup)
    before = [read(on_disk, domain_id) for domain_id in every]
    refused: list[tuple[str, str, int, type[NodeError]]] = [
        (first, second, 1, StoragePoolWrongMaster),
        (first, second, -1, InvalidParameterException),
        (first, second, 1 << 63, InvalidParameterException),
        (second, first, 2, StoragePoolWrongMaster),
        (first, first, 2, StoragePoolWrongMaster),
        (first, "../x", 2, InvalidParameterException),
        (first, make_id(), 2, StorageDomainNotMemberOfPool),
        (first, resting, 2, StorageDomainNotActive),
        (first, iso, 2, IsoCannotBeMasterDomain),
        (first, backup, 2, BackupCannotBeMasterDomain),
    ]
    for old, new, version, error in refused:
        with pytest.raises(error):
            migrate(pool_id, old, new, version)
    on_disk.repository.domains.get_backend(second).domain.acquire_lock(9)
    with pytest.raises(AcquireLockFailure):
        migrate(pool_id, first, second, 2)
    on_disk.repository.spm.stop(pool_id)
    with pytest.raises(SpmStatusError):
        migrate(pool_id, first, second, 2)
    after = [read(on_disk, domain_id) for domain_id in every]
    assert after[1:] == before[1:] and after[0] == {**before[0], "POOL_SPM_ID": "-1"}


def test_what_cannot_be_copied_leaves_the_old_master(on_disk: World) -> None:
    second = add_second(on_disk)
    before = read(on_disk, on_disk.domain_id), read(on_disk, second)
    deep = get_master(on_disk, on_disk.domain_id)
    for _ in range(20):
        deep = deep / "x"
        deep.mkdir()
    with pytest.raises(TarCommandError):
        on_disk.repository.spm.migrate(on_disk.pool_id, on_disk.domain_id, second, 2)
    assert (read(on_disk, on_disk.domain_id), read(on_disk, second)) == before
    assert on_disk.repository.pools.get_connected(on_disk.pool_id).master_id == on_disk.domain_id
    on_disk.repository.domains.get_backend(second).domain.acquire_lock(1)  # it was given back


def hang(monkeypatch: pytest.MonkeyPatch, function: str) -> tuple[threading.Event, threading.Event]:
    """Let a function of the role wait for the second event, with little patience for it; the first tells of that."""
    hangs, answers, real = threading.Event(), threading.Event(), getattr(spm_module, function)

    def wait(*args: object) -> None:
        hangs.set()
        assert answers.wait(30)
        real(*args)

    monkeypatch.setattr(spm_module, function, wait)
    monkeypatch.setattr(spm_module, "SWEEP_PATIENCE_S", 0.5)
    monkeypatch.setattr(spm_module, "PREPARE_PATIENCE_S", 0.5)
    return hangs, answers


def test_a_copy_that_ends_too_late_moves_no_master(on_disk: World, monkeypatch: pytest.MonkeyPatch) -> None:
    second, role = add_second(on_disk), on_disk.repository.spm
    before = read(on_disk, on_disk.domain_id), read(on_disk, second)
    hangs, answers = hang(monkeypatch, "copy_tree")
    with pytest.raises(AccessTimeout):
        role.migrate(on_disk.pool_id, on_disk.domain_id, second, 2)
    assert hangs.is_set()
    store = on_disk.repository.domains.get_backend(second).domain
    with pytest.raises(AcquireLockFailure):  # it is still written
        store.acquire_lock(1)
    with pytest.raises(AccessTimeout):
        role.migrate(on_disk.pool_id, on_disk.domain_id, second, 2)
    answers.set()
    wait_for(lambda: not role._patience.is_stuck(second), "the copy ends")
    assert (read(on_disk, on_disk.domain_id), read(on_disk, second)) == before
    role.migrate(on_disk.pool_id, on_disk.domain_id, second, 2)
    assert len(on_disk.repository.definitions.read(on_disk.pool_id, [])) == 2


def test_a_master_that_hangs_when_it_is_none_any_more(on_disk: World, monkeypatch: pytest.MonkeyPatch) -> None:
    second, role = add_second(on_disk), on_disk.repository.spm
    hangs, answers = hang(monkeypatch, "clear_tree")
    role.migrate(on_disk.pool_id, on_disk.domain_id, second, 2)
    assert hangs.is_set() and on_disk.repository.pools.get_connected(on_disk.pool_id).master_id == second
    store = on_disk.repository.domains.get_backend(on_disk.domain_id).domain
    with pytest.raises(AcquireLockFailure):  # it is still written
        store.acquire_lock(1)
    answers.set()
    wait_for(lambda: not role._patience.is_stuck(on_disk.domain_id), "the last write ends")
    assert read(on_disk, on_disk.domain_id)["ROLE"] == "Regular"
    store.acquire_lock(1)


def test_a_host_that_missed_the_move_cannot_become_spm(on_disk: World, tmp_path: Path) -> None:
    second = add_second(on_disk)
    missed = make_world_on_disk(tmp_path, FakeQemuImg({}), NoOwner())
    for server in tmp_path.glob("server_*"):
        missed.repository.servers.connect(DomainType.LOCALFS, str(server))
    missed.repository.pools.connect(on_disk.pool_id, 2, on_disk.domain_id, 1)
    on_disk.repository.spm.migrate(on_disk.pool_id, on_disk.domain_id, second, 2)
    with pytest.raises(StoragePoolWrongMaster):
        missed.repository.spm.start(on_disk.pool_id)
    assert missed.repository.pools.get_connected(on_disk.pool_id).role is SpmRole.FREE
    on_disk.repository.spm.stop(on_disk.pool_id)
    with pytest.raises(StoragePoolWrongMaster):
        missed.repository.spm.start(on_disk.pool_id)
    missed.repository.pools.connect(on_disk.pool_id, 2, second, 2)
    missed.repository.spm.start(on_disk.pool_id)


def test_a_former_master_that_comes_back_is_made_regular(spm: World) -> None:
    second = add_member(spm)
    spm.repository.domains.update(second, {"ROLE": "Master", "MASTER_VERSION": "0"})
    spm.repository.spm.stop(spm.pool_id)
    spm.repository.domains.get_backend(second).domain.acquire_lock(9)
    with pytest.raises(AcquireLockFailure):
        spm.repository.spm.start(spm.pool_id)
    spm.repository.domains.get_backend(second).domain.release_lock()
    spm.repository.spm.start(spm.pool_id)
    assert read(spm, second)["ROLE"] == "Regular"


def test_a_newer_master_is_left_alone(spm: World) -> None:
    second = add_member(spm)
    spm.repository.domains.update(second, {"ROLE": "Master", "MASTER_VERSION": "5"})
    spm.repository.spm.stop(spm.pool_id)
    with pytest.raises(StoragePoolWrongMaster):
        spm.repository.spm.start(spm.pool_id)
    assert read(spm, second)["ROLE"] == "Master"


def test_a_master_that_may_have_moved_is_not_taken_for_one(spm: World) -> None:
    second = add_member(spm)
    connect, pool_id, first = spm.repository.pools.connect, spm.pool_id, spm.domain_id
    spm.repository.spm.stop(pool_id)
    spm.repository.domains.update(first, {"NEXT_MASTER": second})
    connect(pool_id, 1, first, 1)
    spm.repository.servers.disconnect(DomainType.LOCALFS, "/second")
    with pytest.raises(StoragePoolWrongMaster):
        connect(pool_id, 1, first, 1)
    spm.repository.servers.connect(DomainType.LOCALFS, "/second")
    for hostile in ("../..", "", "x" * 5000, second.upper()):
        spm.repository.domains.update(first, {"NEXT_MASTER": hostile})
        connect(pool_id, 1, first, 1)
    spm.repository.spm.start(pool_id)
    assert "NEXT_MASTER" not in read(spm, first)
    assert spm.repository.pools.get_connected(pool_id).domains[second] is DomainStatus.ACTIVE
