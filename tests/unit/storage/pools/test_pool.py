"""Pools and the SPM role: life cycle, refusals, and both places where the map lives."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from vdsm.storage.backends.memory import MemoryStore
from vdsm.storage.errors import (
    AcquireLockFailure,
    CannotConnectMultiplePools,
    InvalidParameterException,
    IsoCannotBeMasterDomain,
    IsSpm,
    MixedSdVersionError,
    SpmStatusError,
    StorageDomainAccessError,
    StorageDomainAlreadyAttached,
    StorageDomainDoesNotExist,
    StorageDomainNotMemberOfPool,
    StorageDomainStatusError,
    StoragePoolConnected,
    StoragePoolDescriptionTooLongError,
    StoragePoolMasterNotFound,
    StoragePoolUnknown,
    StoragePoolWrongMaster,
)
from vdsm.storage.health.monitor import Check, DomainLook, Health
from vdsm.storage.model import (
    DomainClass,
    DomainRole,
    DomainSpace,
    DomainStatus,
    DomainType,
    PoolDomain,
    SpmRole,
    SpmStatus,
)
from vdsm.storage.services.pools import format_pool
from vdsm.testing.storage import World, make_id, make_world_in_memory


def add_domain(
    world: World, server: str = "/second", version: int = 5, domain_class: DomainClass = DomainClass.DATA
) -> str:
    domain_id = make_id()
    world.repository.servers.connect(DomainType.LOCALFS, server)
    world.repository.domains.create(DomainType.LOCALFS, domain_id, server, server, domain_class, version)
    return domain_id


def read(world: World, domain_id: str) -> dict[str, str]:
    return dict(world.repository.domains.get(domain_id).metadata.keys)


def test_life_of_a_pool_on_disk(world: World) -> None:
    pools, spm = world.repository.pools, world.repository.spm
    world.create_pool()
    pools.connect(world.pool_id, 7, world.domain_id, 1)
    assert pools.list_connected() == [world.pool_id]
    assert pools.get_spm_status(world.pool_id) == SpmStatus(SpmRole.FREE, -1, -1)
    spm.start(world.pool_id)
    spm.stop(world.pool_id)
    spm.start(world.pool_id)
    assert pools.get_spm_status(world.pool_id) == SpmStatus(SpmRole.SPM, 7, 1)
    assert read(world, world.domain_id)["POOL_SPM_ID"] == "7"
    info = pools.get_info(world.pool_id)
    assert (info.name, info.master_id, info.master_version, info.version) == ("pool", world.domain_id, 1, 5)
    assert info.domains[world.domain_id].status is DomainStatus.ACTIVE
    assert info.domains[world.domain_id].space is not None
    with pytest.raises(IsSpm):
        pools.disconnect(world.pool_id)
    spm.stop(world.pool_id)
    assert read(world, world.domain_id)["POOL_SPM_ID"] == "-1"
    pools.disconnect(world.pool_id)
    pools.disconnect(world.pool_id)
    assert pools.list_connected() == []
    with pytest.raises(StoragePoolUnknown):
        pools.get_info(world.pool_id)


def test_links_follow_the_map(world: World) -> None:
    world.create_pool()
    folder = world.repository.layout.get_pool(world.pool_id)
    folder.mkdir(parents=True)
    (folder / make_id()).symlink_to("/stale")
    world.repository.pools.connect(world.pool_id, 1, world.domain_id, 1)
    assert {path.name for path in folder.iterdir()} == {"mastersd", world.domain_id}
    assert (folder / "mastersd").readlink() == world.memory.folder / world.domain_id
    world.repository.pools.disconnect(world.pool_id)
    assert not folder.exists()


def test_with_a_map_given_the_pools_keys_are_left_alone(world: World) -> None:
    world.create_pool()
    before = read(world, world.domain_id)
    other = add_domain(world)
    domains = {world.domain_id: "active", other: "INACTIVE"}
    world.repository.pools.connect(world.pool_id, 3, world.domain_id, 99, domains)
    world.repository.spm.start(world.pool_id)
    assert world.repository.pools.get_spm_status(world.pool_id) == SpmStatus(SpmRole.SPM, 3, 1)
    assert world.repository.pools.get_info(world.pool_id).name == "No Description"
    world.repository.members.attach(world.pool_id, other)
    world.repository.members.activate(world.pool_id, other)
    assert world.repository.pools.get_connected(world.pool_id).domains[other] is DomainStatus.ACTIVE
    world.repository.spm.stop(world.pool_id)
    assert read(world, world.domain_id) == before
    assert "MASTER_VERSION" not in read(world, other)
    assert world.repository.pools.get_spm_status(world.pool_id) == SpmStatus(SpmRole.FREE, -1, -1)
    with pytest.raises(StoragePoolConnected):
        world.repository.pools.connect(world.pool_id, 3, world.domain_id, 1)


def test_a_new_spm_goes_on_with_the_map_that_the_last_one_left(spm: World, tmp_path: Path) -> None:
    other = make_world_in_memory(tmp_path / "other")  # another host, which sees the same storage
    other.memory.servers, other.memory.connected = spm.memory.servers, spm.memory.connected
    other.repository.pools.connect(spm.pool_id, 2, spm.domain_id, 1)
    first, second = add_domain(spm, "/second"), add_domain(spm, "/third")
    spm.repository.members.attach(spm.pool_id, first)
    spm.repository.spm.stop(spm.pool_id)
    other.repository.spm.start(spm.pool_id)
    other.repository.members.attach(spm.pool_id, second)
    assert read(spm, spm.domain_id)["POOL_DOMAINS"].count("Attached") == 2


@pytest.mark.parametrize("operation", ["create", "attach", "reconstruct"])
def test_of_two_pools_that_want_one_domain_the_first_gets_it(
    spm: World, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    domain_id, pool_id, rival_id = add_domain(spm), make_id(), make_id()
    acquire_lock = MemoryStore.acquire_lock

    def come_late(store: MemoryStore, host_id: int) -> None:
        monkeypatch.undo()
        spm.repository.domains.update(domain_id, {"POOL_UUID": rival_id})
        acquire_lock(store, host_id)

    monkeypatch.setattr(MemoryStore, "acquire_lock", come_late)
    pools, domains = spm.repository.pools, {domain_id: "Active"}
    with pytest.raises(StorageDomainAlreadyAttached):
        if operation == "create":
            pools.create(pool_id, "pool", domain_id, 1, [domain_id])
        elif operation == "attach":
            spm.repository.members.attach(spm.pool_id, domain_id)
        else:
            pools.reconstruct(pool_id, 1, "pool", domain_id, 2, domains)
    assert read(spm, domain_id)["POOL_UUID"] == rival_id


def test_attach_and_activate_on_disk(spm: World) -> None:
    other = add_domain(spm)
    spm.repository.members.attach(spm.pool_id, other)
    spm.repository.members.attach(spm.pool_id, other)
    assert read(spm, other)["POOL_UUID"] == spm.pool_id
    domains = f"{spm.domain_id}:Active,{other}:Attached"
    assert read(spm, spm.domain_id)["POOL_DOMAINS"] == domains
    spm.repository.members.activate(spm.pool_id, other)
    assert (read(spm, other)["ROLE"], read(spm, other)["MASTER_VERSION"]) == ("Regular", "0")
    assert (spm.repository.layout.get_pool(spm.pool_id) / other).is_symlink()
    spm.repository.members.activate(spm.pool_id, spm.domain_id)
    assert read(spm, spm.domain_id)["ROLE"] == DomainRole.MASTER


def test_attach_refusals(spm: World) -> None:
    with pytest.raises(MixedSdVersionError):
        spm.repository.spm.stop(spm.pool_id)
        spm.repository.pools.disconnect(spm.pool_id)
        low = World(spm.repository, "/low", spm.kind)
        low.start_spm(4)
        spm.repository.members.attach(low.pool_id, add_domain(spm))
    with pytest.raises(StorageDomainAlreadyAttached):
        spm.repository.members.attach(low.pool_id, spm.domain_id)
    with pytest.raises(StorageDomainNotMemberOfPool):
        spm.repository.members.activate(low.pool_id, spm.domain_id)
    older = add_domain(spm, "/older", 3)
    spm.repository.members.attach(low.pool_id, older)
    spm.repository.members.activate(low.pool_id, older)
    assert read(spm, older)["VERSION"] == "4"


def test_only_the_spm_attaches(world: World) -> None:
    world.create_pool()
    other = add_domain(world)
    with pytest.raises(StoragePoolUnknown):
        world.repository.members.attach(world.pool_id, other)
    world.repository.pools.connect(world.pool_id, 1, world.domain_id, 1)
    with pytest.raises(SpmStatusError):
        world.repository.members.attach(world.pool_id, other)


def test_create_attaches_all_domains(world: World) -> None:
    world.create_domain()
    other, iso = add_domain(world), add_domain(world, "/iso", domain_class=DomainClass.ISO)
    world.repository.pools.create(world.pool_id, "p", world.domain_id, 5, [other, world.domain_id, iso])
    assert read(world, world.domain_id)["POOL_DOMAINS"] == f"{world.domain_id}:Active,{other}:Attached,{iso}:Attached"
    assert read(world, other)["POOL_UUID"] == read(world, iso)["POOL_UUID"] == world.pool_id
    with pytest.raises(StorageDomainAlreadyAttached):
        world.repository.pools.create(make_id(), "q", other, 1, [other])


def test_an_iso_domain_is_in_several_pools(world: World) -> None:
    world.create_domain()
    other, iso, second = add_domain(world), add_domain(world, "/iso", domain_class=DomainClass.ISO), make_id()
    world.repository.pools.create(world.pool_id, "p", world.domain_id, 1, [world.domain_id, iso])
    world.repository.pools.create(second, "q", other, 1, [other, iso])
    assert read(world, iso)["POOL_UUID"] == f"{world.pool_id},{second}"


def test_create_takes_back_what_it_wrote(world: World) -> None:
    world.create_domain()
    other = add_domain(world)
    before = [read(world, world.domain_id), read(world, other)]
    store = world.repository.domains.get_backend(other)
    writes = iter([None, None, StorageDomainAccessError(other)])

    def fail_third(operation: str) -> None:
        if operation == "write_metadata" and (error := next(writes, None)):
            raise error

    world.memory.faults.check = fail_third  # type: ignore[method-assign]
    with pytest.raises(StorageDomainAccessError):
        world.repository.pools.create(world.pool_id, "p", world.domain_id, 1, [world.domain_id, other])
    assert [read(world, world.domain_id), read(world, other)] == before
    store.domain.acquire_lock(1)


def test_create_refusals(world: World) -> None:
    world.create_domain()
    create, pool_id = world.repository.pools.create, world.pool_id
    only = [world.domain_id]
    with pytest.raises(InvalidParameterException):
        create(pool_id, "p", make_id(), 1, only)
    with pytest.raises(StoragePoolDescriptionTooLongError):
        create(pool_id, "x" * 51, world.domain_id, 1, only)
    with pytest.raises(InvalidParameterException):
        create(pool_id, "x\ny", world.domain_id, 1, only)
    with pytest.raises(InvalidParameterException):
        create(pool_id.upper() + "x", "p", world.domain_id, 1, only)
    with pytest.raises(StorageDomainDoesNotExist):
        create(pool_id, "p", world.domain_id, 1, [*only, make_id()])
    with pytest.raises(MixedSdVersionError):
        create(pool_id, "p", world.domain_id, 1, [*only, add_domain(world, version=4)])
    iso = add_domain(world, "/iso", domain_class=DomainClass.ISO)
    with pytest.raises(IsoCannotBeMasterDomain):
        create(pool_id, "p", iso, 1, [iso])
    assert "POOL_DESCRIPTION" not in read(world, world.domain_id)


def test_connect_refusals(world: World) -> None:
    world.create_pool()
    connect, pool_id, domain_id = world.repository.pools.connect, world.pool_id, world.domain_id
    with pytest.raises(StoragePoolMasterNotFound):
        connect(pool_id, 1, make_id(), 1)
    with pytest.raises(StoragePoolWrongMaster):
        connect(make_id(), 1, domain_id, 1)
    with pytest.raises(StoragePoolWrongMaster):
        connect(pool_id, 1, domain_id, 2)
    with pytest.raises(InvalidParameterException):
        connect(pool_id, 0, domain_id, 1)
    with pytest.raises(InvalidParameterException):
        connect(pool_id, 1, domain_id, 1, {make_id(): "Active"})
    with pytest.raises(StorageDomainStatusError):
        connect(pool_id, 1, domain_id, 1, {domain_id: "Sleepy"})
    assert world.repository.pools.list_connected() == []
    connect(pool_id, 1, domain_id, 1)
    connect(pool_id, 1, domain_id, 1)
    with pytest.raises(StoragePoolConnected):
        connect(pool_id, 2, domain_id, 1)
    with pytest.raises(CannotConnectMultiplePools):
        connect(make_id(), 1, domain_id, 1)


def test_refreshing_a_connected_pool_keeps_the_role(spm: World) -> None:
    spm.repository.pools.connect(spm.pool_id, 1, spm.domain_id, 1)
    spm.repository.pools.require_spm(spm.pool_id)
    with pytest.raises(StoragePoolWrongMaster):
        spm.repository.pools.connect(spm.pool_id, 1, add_domain(spm), 1)


def test_spm_refusals(world: World) -> None:
    start = world.repository.spm.start
    with pytest.raises(StoragePoolUnknown):
        start(world.pool_id)
    world.create_pool()
    world.repository.pools.connect(world.pool_id, 1, world.domain_id, 1)
    with pytest.raises(SpmStatusError):
        world.repository.spm.stop(world.pool_id)
    world.repository.domains.get_backend(world.domain_id).domain.acquire_lock(9)
    with pytest.raises(AcquireLockFailure):
        start(world.pool_id)
    assert world.repository.pools.get_spm_status(world.pool_id).role is SpmRole.FREE


@pytest.mark.parametrize("operation", ["write_metadata", "create_master_tree"])
def test_a_failed_start_gives_everything_up(world: World, operation: str) -> None:
    world.start_spm()
    world.create_base()
    world.repository.spm.stop(world.pool_id)
    world.memory.fail_next(operation, StorageDomainAccessError(world.domain_id))
    with pytest.raises(StorageDomainAccessError):
        world.repository.spm.start(world.pool_id)
    assert world.repository.pools.get_spm_status(world.pool_id).role is SpmRole.FREE
    assert world.repository.pools.get_spm_status(world.pool_id).host_id == -1
    world.repository.spm.start(world.pool_id)


def test_what_cannot_be_cleaned_up_does_not_keep_a_host_from_being_spm(world: World) -> None:
    world.start_spm()
    world.create_base()
    world.repository.spm.stop(world.pool_id)
    world.memory.fail_next("read_record", StorageDomainAccessError(world.domain_id))
    world.repository.spm.start(world.pool_id)
    world.create_base()


@pytest.mark.parametrize("domains", [None, "in memory"])
def test_the_role_is_given_up_also_when_the_master_is_out_of_reach(world: World, domains: str | None) -> None:
    world.create_pool()
    given = None if domains is None else {world.domain_id: "Active"}
    world.repository.pools.connect(world.pool_id, 1, world.domain_id, 1, given)
    world.repository.spm.start(world.pool_id)
    world.repository.servers.disconnect(DomainType.LOCALFS, world.server)
    world.repository.spm.stop(world.pool_id)
    world.repository.pools.disconnect(world.pool_id)
    world.resume()


def test_activating_the_master_leaves_it_the_master(world: World) -> None:
    world.create_pool()
    world.repository.pools.connect(world.pool_id, 1, world.domain_id, 1, {world.domain_id: "Attached"})
    world.repository.spm.start(world.pool_id)
    world.repository.members.activate(world.pool_id, world.domain_id)
    assert read(world, world.domain_id)["ROLE"] == DomainRole.MASTER
    assert read(world, world.domain_id)["MASTER_VERSION"] == "1"


def test_a_sick_domain_does_not_hide_the_pool(spm: World) -> None:
    other = add_domain(spm)
    spm.repository.members.attach(spm.pool_id, other)
    spm.repository.members.activate(spm.pool_id, other)
    spm.repository.servers.disconnect(DomainType.LOCALFS, "/second")
    domains = spm.repository.pools.get_info(spm.pool_id).domains
    assert (domains[other].status, domains[other].version, domains[other].space) == (DomainStatus.ACTIVE, None, None)


def test_clean_up_removes_links_of_a_killed_daemon_only(world: World) -> None:
    repository = world.repository.layout.repository
    (repository / "mnt").mkdir(parents=True)
    (repository / "hsm-tasks").mkdir()
    (repository / make_id()).symlink_to("/half-renamed")
    pool = repository / make_id()
    pool.mkdir()
    (pool / "mastersd").symlink_to("/gone")
    world.repository.pools.clean_up()
    assert {path.name for path in repository.iterdir()} == {"mnt", "hsm-tasks"}
    world.start_spm().repository.pools.clean_up()
    assert (repository / world.pool_id / "mastersd").is_symlink()


def add_member(spm: World) -> str:
    domain_id = add_domain(spm)
    spm.repository.members.attach(spm.pool_id, domain_id)
    spm.repository.members.activate(spm.pool_id, domain_id)
    return domain_id


def test_what_is_known_of_a_domain_is_told_without_reading_it(spm: World) -> None:
    other = add_member(spm)
    spm.repository.servers.disconnect(DomainType.LOCALFS, "/second")
    space, alert = DomainSpace(100, 40), StorageDomainDoesNotExist("an alert")
    health = Health(0.0, look=DomainLook(4, space, spm.repository.layout.repository, alerts=(alert,)))
    info = spm.repository.pools.get_info(spm.pool_id, {other: health})
    assert info.domains[other] == PoolDomain(DomainStatus.ACTIVE, 4, space, (alert,))
    [told] = format_pool(info).domains[other].alerts
    assert (told.code, told.message) == (358, str(alert))
    spm.repository.servers.connect(DomainType.LOCALFS, "/second")
    sick = replace(health, domain=Check(1.0, alert))
    assert spm.repository.pools.get_info(spm.pool_id, {other: sick}).domains[other] == PoolDomain(DomainStatus.ACTIVE)


def test_each_change_of_the_pool_is_told(world: World) -> None:
    pools, told = world.repository.pools, []
    world.create_pool()
    pools.on_change = lambda pool: told.append(dict(pool.domains) if pool else None)
    pools.connect(world.pool_id, 1, world.domain_id, 1)
    world.repository.spm.start(world.pool_id)
    other = add_member(world)
    world.repository.spm.stop(world.pool_id)
    pools.disconnect(world.pool_id)
    active, attached = DomainStatus.ACTIVE, DomainStatus.ATTACHED
    first = {world.domain_id: active}
    assert told == [first, {**first, other: attached}, {**first, other: active}, None]
