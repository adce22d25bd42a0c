"""Domains that leave a pool, pools that end or change their master, formatting: refusals, and what a kill leaves."""

from pathlib import Path

import pytest

from tests.unit.storage.pools.test_pool import add_domain, read
from vdsm.core.errors import NodeError
from vdsm.storage.errors import (
    AcquireLockFailure,
    InvalidParameterException,
    IsoCannotBeMasterDomain,
    IsSpm,
    SpmStatusError,
    StorageDomainAccessError,
    StorageDomainAlreadyAttached,
    StorageDomainDoesNotExist,
    StorageDomainIsMemberOfPool,
    StorageDomainNotMemberOfPool,
    StorageDomainStatusError,
    StoragePoolConnected,
    StoragePoolUnknown,
    StoragePoolWrongMaster,
    TooManyDomainsInStoragePoolError,
)
from vdsm.storage.errors_pools import (
    CannotDetachMasterStorageDomain,
    CannotFormatAttachedStorageDomain,
    CannotFormatStorageDomainInConnectedPool,
    HostIdMismatch,
    StorageDomainDescriptionTooLongError,
    StorageDomainIllegalStateError,
)
from vdsm.storage.model import DomainClass, DomainStatus, DomainType
from vdsm.testing.qemuimg import FakeQemuImg
from vdsm.testing.storage import NoOwner, World, make_id, make_world_in_memory, make_world_on_disk


class Killed(BaseException):
    """The process ends here: nothing that follows is run, as little as possible is cleaned up."""


class Killer:
    """Ends the work at a step of that number; counts them all."""

    def __init__(self) -> None:
        self.left = -1
        self.names: list[str] = []

    def __call__(self, name: str) -> None:
        self.names.append(name)
        self.left -= 1
        if self.left == -1:
            raise Killed(name)


def add_member(
    world: World, server: str = "/second", status: DomainStatus = DomainStatus.ACTIVE, version: int = 5
) -> str:
    domain_id = add_domain(world, server, version)
    world.repository.members.attach(world.pool_id, domain_id)
    if status is DomainStatus.ACTIVE:
        world.repository.members.activate(world.pool_id, domain_id)
    return domain_id


def get_map(world: World) -> dict[str, DomainStatus]:
    return world.repository.pools.get_connected(world.pool_id).domains


def restart(world: World) -> World:
    """What the next process finds: no pool is connected, no lock is held."""
    kind = world.memory
    again = make_world_in_memory(kind.folder.parent)
    again.memory.servers, again.memory.connected = kind.servers, set(kind.connected)
    again.domain_id, again.pool_id = world.domain_id, world.pool_id
    for server in kind.servers.values():
        for domain in server.values():
            domain.locked_by = None
    return again


def test_leaving_a_pool(spm: World) -> None:
    unattached = read(spm, add_domain(spm, "/other"))
    domain_id = add_member(spm)
    members = spm.repository.members
    with pytest.raises(StorageDomainIllegalStateError):
        members.detach(spm.pool_id, domain_id)
    members.deactivate(spm.pool_id, domain_id)
    members.deactivate(spm.pool_id, domain_id)
    assert get_map(spm)[domain_id] is DomainStatus.ATTACHED
    assert not (spm.repository.layout.get_pool(spm.pool_id) / domain_id).is_symlink()
    members.detach(spm.pool_id, domain_id)
    left = read(spm, domain_id)
    assert left.keys() == unattached.keys() and left["POOL_UUID"] == "" and left["ROLE"] == "Regular"
    assert read(spm, spm.domain_id)["POOL_DOMAINS"] == f"{spm.domain_id}:Active"
    with pytest.raises(StorageDomainNotMemberOfPool):
        members.detach(spm.pool_id, domain_id)
    members.attach(spm.pool_id, domain_id)


def test_the_master_stays(spm: World) -> None:
    before = read(spm, spm.domain_id)
    spm.repository.members.deactivate(spm.pool_id, spm.domain_id)
    for force in (False, True):
        with pytest.raises(CannotDetachMasterStorageDomain):
            spm.repository.members.detach(spm.pool_id, spm.domain_id, force=force)
    assert read(spm, spm.domain_id) == before


def test_only_the_spm_changes_the_map(spm: World) -> None:
    domain_id = add_member(spm, status=DomainStatus.ATTACHED)
    members, before = spm.repository.members, get_map(spm)
    spm.repository.spm.stop(spm.pool_id)
    for change in (members.deactivate, members.detach, members.activate):
        with pytest.raises(SpmStatusError):
            change(spm.pool_id, domain_id)
    spm.repository.pools.disconnect(spm.pool_id)
    with pytest.raises(StoragePoolUnknown):
        members.detach(spm.pool_id, domain_id, force=True)
    assert read(spm, domain_id)["POOL_UUID"] == spm.pool_id
    assert before == spm.repository.domains.get(spm.domain_id).metadata.pool_domains


def test_a_lost_domain_leaves_by_force(spm: World) -> None:
    domain_id = add_member(spm)
    spm.repository.servers.disconnect(DomainType.LOCALFS, "/second")
    members = spm.repository.members
    members.deactivate(spm.pool_id, domain_id)
    with pytest.raises(StorageDomainDoesNotExist):
        members.detach(spm.pool_id, domain_id)
    members.detach(spm.pool_id, domain_id, force=True)
    assert get_map(spm) == {spm.domain_id: DomainStatus.ACTIVE}
    spm.repository.servers.connect(DomainType.LOCALFS, "/second")
    assert read(spm, domain_id)["POOL_UUID"] == spm.pool_id
    members.detach_everywhere(domain_id)
    assert read(spm, domain_id)["POOL_UUID"] == ""
    with pytest.raises(StorageDomainIsMemberOfPool):
        members.detach_everywhere(spm.domain_id)


def test_a_domain_that_another_host_writes_on_stays(spm: World) -> None:
    domain_id = add_member(spm, status=DomainStatus.ATTACHED)
    spm.repository.domains.get_backend(domain_id).domain.acquire_lock(9)
    with pytest.raises(AcquireLockFailure):
        spm.repository.members.detach(spm.pool_id, domain_id)
    assert read(spm, domain_id)["POOL_UUID"] == spm.pool_id
    assert domain_id in get_map(spm)


@pytest.mark.parametrize("on_disk", [True, False])
def test_the_end_of_a_pool(world: World, on_disk: bool) -> None:
    world.create_domain()
    unattached = read(world, world.domain_id)
    other = add_domain(world)
    world.repository.pools.create(world.pool_id, "p", world.domain_id, 1, [world.domain_id, other])
    given = None if on_disk else {world.domain_id: "Active", other: "Active"}
    world.repository.pools.connect(world.pool_id, 1, world.domain_id, 1, given)
    world.repository.spm.start(world.pool_id)
    members = world.repository.members
    with pytest.raises(IsSpm):
        members.destroy(world.pool_id, 1)
    world.repository.spm.stop(world.pool_id)
    with pytest.raises(HostIdMismatch):
        members.destroy(world.pool_id, 2)
    members.destroy(world.pool_id, 1)
    for domain_id in (other, world.domain_id):
        keys = read(world, domain_id)
        assert keys.keys() == unattached.keys() and (keys["POOL_UUID"], keys["ROLE"]) == ("", "Regular")
    assert world.repository.pools.list_connected() == []
    assert not world.repository.layout.get_pool(world.pool_id).exists()
    with pytest.raises(StoragePoolUnknown):
        members.destroy(world.pool_id, 1)


def test_a_pool_with_a_domain_out_of_reach_does_not_end(spm: World) -> None:
    domain_id = add_member(spm)
    spm.repository.spm.stop(spm.pool_id)
    spm.memory.servers["/second"][domain_id].metadata = b"VERSION=5\n_SHA_CKSUM=0\n"
    with pytest.raises(StorageDomainAccessError):
        spm.repository.members.destroy(spm.pool_id, 1)
    assert read(spm, spm.domain_id)["POOL_DOMAINS"] == f"{spm.domain_id}:Active,{domain_id}:Active"


def test_a_pool_whose_spm_is_elsewhere_does_not_end(world: World) -> None:
    world.create_pool()
    world.repository.pools.connect(world.pool_id, 1, world.domain_id, 1)
    world.repository.domains.get_backend(world.domain_id).domain.acquire_lock(2)
    before = read(world, world.domain_id)
    with pytest.raises(AcquireLockFailure):
        world.repository.members.destroy(world.pool_id, 1)
    assert read(world, world.domain_id) == before
    assert world.repository.pools.list_connected() == [world.pool_id]


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("operation", ["attach", "detach", "destroy"])
def test_killed_at_any_step_it_is_finished_when_asked_again(tmp_path: Path, operation: str, number: int) -> None:
    killer = Killer()
    world = make_world_in_memory(tmp_path, killer).start_spm()
    other = add_domain(world) if operation == "attach" else add_member(world, status=DomainStatus.ATTACHED)

    def act(world: World) -> None:
        if operation == "destroy":
            world.repository.spm.stop(world.pool_id)
            world.repository.members.destroy(world.pool_id, 1)
        else:
            getattr(world.repository.members, operation)(world.pool_id, other)

    killer.left = number
    try:
        act(world)
    except Killed:
        again = restart(world)
        again.repository.servers.connect(DomainType.LOCALFS, world.server)
        assert again.repository.domains.get(other).metadata.keys["SDUUID"] == other
        act(again.resume())
    else:
        assert number >= len(killer.names) or killer.left >= 0
        again = world
    attached = operation == "attach"
    assert read(again, other)["POOL_UUID"] == (world.pool_id if attached else "")
    if operation == "destroy":
        assert again.repository.pools.list_connected() == []
        assert read(again, world.domain_id)["POOL_UUID"] == ""
    else:
        expected = {world.domain_id: DomainStatus.ACTIVE, **({other: DomainStatus.ATTACHED} if attached else {})}
        assert get_map(again) == again.repository.domains.get(world.domain_id).metadata.pool_domains == expected


def test_another_master_after_the_first_was_lost(spm: World) -> None:
    domain_id = add_member(spm)
    pools = spm.repository.pools
    given = {spm.domain_id: "Attached", domain_id: "active"}
    arguments = (spm.pool_id, 3, "again", domain_id, 7, given)
    with pytest.raises(StoragePoolConnected):
        pools.reconstruct(*arguments)
    spm.repository.spm.stop(spm.pool_id)
    pools.disconnect(spm.pool_id)
    spm.repository.servers.disconnect(DomainType.LOCALFS, spm.server)
    pools.reconstruct(*arguments)
    pools.reconstruct(*arguments)
    keys = read(spm, domain_id)
    assert (keys["ROLE"], keys["MASTER_VERSION"], keys["POOL_DESCRIPTION"]) == ("Master", "7", "again")
    assert (keys["POOL_UUID"], keys["POOL_SPM_ID"], keys["POOL_SPM_LVER"]) == (spm.pool_id, "-1", "-1")
    assert keys["POOL_DOMAINS"] == f"{spm.domain_id}:Attached,{domain_id}:Active"
    pools.connect(spm.pool_id, 1, domain_id, 7)
    spm.repository.spm.start(spm.pool_id)
    spm.repository.servers.connect(DomainType.LOCALFS, spm.server)
    spm.repository.members.activate(spm.pool_id, spm.domain_id)
    assert (read(spm, spm.domain_id)["ROLE"], read(spm, spm.domain_id)["MASTER_VERSION"]) == ("Regular", "0")
    with pytest.raises(StoragePoolWrongMaster):
        pools.get_master(spm.pool_id, spm.domain_id)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"host_id": 0}, InvalidParameterException),
        ({"name": "x" * 51}, NodeError),
        ({"name": "x\ny"}, InvalidParameterException),
        ({"master_version": -1}, InvalidParameterException),
        ({"master_version": 1 << 63}, InvalidParameterException),
        ({"domains": {}}, InvalidParameterException),
        ({"domains": {"no id": "Active"}}, InvalidParameterException),
        ({"domains": {make_id(): "Active" for _ in range(101)}}, TooManyDomainsInStoragePoolError),
        ({"master_id": make_id()}, InvalidParameterException),
        ({"pool_id": make_id()}, StorageDomainAlreadyAttached),
    ],
)
def test_reconstruction_refusals(world: World, changes: dict[str, object], error: type[NodeError]) -> None:
    world.create_pool()
    before = read(world, world.domain_id)
    given = {"pool_id": world.pool_id, "host_id": 1, "name": "p", "master_id": world.domain_id, "master_version": 2}
    with pytest.raises(error):
        world.repository.pools.reconstruct(**{**given, "domains": {world.domain_id: "Active"}, **changes})  # type: ignore[arg-type]
    with pytest.raises(StorageDomainStatusError):
        world.repository.pools.reconstruct(**given, domains={world.domain_id: "Sleepy"})  # type: ignore[arg-type]
    iso = add_domain(world, "/iso", domain_class=DomainClass.ISO)
    with pytest.raises(IsoCannotBeMasterDomain):
        world.repository.pools.reconstruct(make_id(), 1, "p", iso, 1, {iso: "Active"})
    world.repository.domains.get_backend(world.domain_id).domain.acquire_lock(5)
    with pytest.raises(AcquireLockFailure):
        world.repository.pools.reconstruct(**given, domains={world.domain_id: "Active"})  # type: ignore[arg-type]
    assert read(world, world.domain_id) == before


def test_names_of_domains(spm: World) -> None:
    rename = spm.repository.members.rename
    domain_id, alone = add_member(spm), add_domain(spm, "/alone")
    for one in (spm.domain_id, domain_id, alone):
        rename(one, "é" * 50)
        assert read(spm, one)["DESCRIPTION"] == "é" * 50
    with pytest.raises(StorageDomainDescriptionTooLongError):
        rename(domain_id, "x" * 51)
    for hostile in ("x\nROLE=Master", "x\0", "\ud800", "x\x85y"):
        with pytest.raises(InvalidParameterException):
            rename(domain_id, hostile)
    spm.repository.spm.stop(spm.pool_id)
    with pytest.raises(SpmStatusError):
        rename(domain_id, "another")
    rename(alone, "another")
    assert (read(spm, domain_id)["DESCRIPTION"], read(spm, alone)["DESCRIPTION"]) == ("é" * 50, "another")


@pytest.fixture
def on_disk(tmp_path: Path) -> World:
    """A pool on a folder; nothing is connected."""
    world = make_world_on_disk(tmp_path, FakeQemuImg({}), NoOwner(), Killer())
    world.create_pool()
    return world


def test_formatting(on_disk: World) -> None:
    members, domain_id = on_disk.repository.members, on_disk.domain_id
    with pytest.raises(CannotFormatAttachedStorageDomain):
        members.format(domain_id)
    on_disk.repository.pools.connect(on_disk.pool_id, 1, domain_id, 1)
    with pytest.raises(CannotFormatStorageDomainInConnectedPool):
        members.format(domain_id, detach=True)
    on_disk.repository.pools.disconnect(on_disk.pool_id)
    members.format(domain_id, detach=True)
    assert list(Path(on_disk.server).iterdir()) == []
    with pytest.raises(StorageDomainDoesNotExist):
        members.format(domain_id)
    for hostile in ("..", "../..", "", "x/../y", domain_id.upper()):
        with pytest.raises(InvalidParameterException):
            members.format(hostile, detach=True)
    on_disk.create_domain()


def test_what_cannot_be_read_can_be_formatted(on_disk: World) -> None:
    folder = Path(on_disk.server, on_disk.domain_id)
    (folder / "dom_md" / "metadata").write_bytes(b"VERSION=5\n_SHA_CKSUM=0\n")
    (folder / "images" / "link").symlink_to(folder.parent)
    on_disk.repository.members.format(on_disk.domain_id)
    assert list(Path(on_disk.server).iterdir()) == []


def test_a_killed_format_leaves_a_domain_or_none(tmp_path: Path) -> None:
    killer = Killer()
    world = make_world_on_disk(tmp_path, FakeQemuImg({}), NoOwner(), killer)
    world.create_domain()
    killer.left = 0
    with pytest.raises(Killed):
        world.repository.members.format(world.domain_id)
    world.repository.domains.validate(world.domain_id)
    killer.left = 1
    with pytest.raises(Killed):
        world.repository.members.format(world.domain_id)
    again = make_world_on_disk(tmp_path, FakeQemuImg({}), NoOwner())
    again.repository.servers.connect(DomainType.LOCALFS, world.server)
    assert again.repository.domains.list_domains() == []
    again.create_domain()
    assert [path.name for path in Path(world.server).iterdir()] == [again.domain_id]
    assert killer.names[-2:] == ["hide domain", "remove files"]
