"""A domain of the pool that hangs between the first look and the write: what it holds up, and what it does not."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from lab.commands import wait_for
from tests.unit.storage.pools.test_members import add_member, get_map
from tests.unit.storage.pools.test_pool import add_domain, read
from tests.unit.storage.test_locks import waiting
from vdsm.storage import domain as domain_module
from vdsm.storage import locks
from vdsm.storage.backends.memory import Faults
from vdsm.storage.errors import (
    AccessTimeout,
    AcquireLockFailure,
    ResourceTimeout,
    StorageDomainNotMemberOfPool,
    StoragePoolUnknown,
)
from vdsm.storage.model import DomainClass, DomainStatus, SpmRole, VolumeFormat
from vdsm.storage.pools import spm as spm_module
from vdsm.testing.storage import World


class Hanging(Faults):
    """Lets the next operation of one name hang, after some that do not, and no other."""

    def __init__(self) -> None:
        super().__init__()
        self.operation, self.borne = "", 0
        self.hangs = threading.Event()
        self.answers = threading.Event()

    def check(self, operation: str) -> None:
        super().check(operation)
        if operation == self.operation:
            self.borne -= 1
        if operation == self.operation and self.borne < 0:
            self.operation = ""
            self.hangs.set()
            assert self.answers.wait(30)


class Sickness:
    """A world whose storage can be made to hang, and a caller who does."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.faults = world.memory.faults = Hanging()
        self._threads = ThreadPoolExecutor()

    def hang_in(self, operation: str, call: Callable[..., None], *args: object) -> "Future[None]":
        """Make the call, which hangs in that operation of its storage."""
        self.faults.operation = operation
        made = self._threads.submit(call, *args)
        assert self.faults.hangs.wait(20)
        return made

    def get_well(self) -> None:
        self.faults.answers.set()

    def end(self) -> None:
        self.get_well()
        self._threads.shutdown()


@pytest.fixture
def sick(spm: World) -> Iterator[Sickness]:
    made = Sickness(spm)
    yield made
    made.end()


def test_a_member_that_hangs_while_it_is_activated_can_be_put_out_and_the_pool_goes_on(sick: Sickness) -> None:
    world = sick.world
    members, pools, pool_id = world.repository.members, world.repository.pools, world.pool_id
    well, ill = add_member(world, "/well", DomainStatus.ATTACHED), add_member(world, "/ill", DomainStatus.ATTACHED)
    activated = sick.hang_in("check_layout", members.activate, pool_id, ill)
    with waiting(0.05):  # nothing waits
        members.activate(pool_id, well)
        members.deactivate(pool_id, ill)
        pools.connect(pool_id, 1, world.domain_id, 1)
        members.attach(pool_id, add_domain(world, "/third"))
        members.detach(pool_id, ill, force=True)
        world.create_base()
        with pytest.raises(ResourceTimeout):
            world.repository.spm.stop(pool_id)  # the hung one may still write
    assert pools.get_connected(pool_id).role is SpmRole.SPM
    sick.get_well()
    with pytest.raises(StorageDomainNotMemberOfPool):
        activated.result(20)
    assert ill not in get_map(world)
    world.repository.spm.stop(pool_id)


@pytest.mark.parametrize("verb", ["attach", "detach", "rename"])
def test_what_hangs_on_a_domain_holds_up_no_change_of_the_map(sick: Sickness, verb: str) -> None:
    world = sick.world
    members, pool_id = world.repository.members, world.pool_id
    well = add_member(world, "/well")
    ill = add_domain(world, "/ill") if verb == "attach" else add_member(world, "/ill", DomainStatus.ATTACHED)
    args = (ill, "new name") if verb == "rename" else (pool_id, ill)
    hung = sick.hang_in("acquire_lock", getattr(members, verb), *args)
    with waiting(0.05):
        members.deactivate(pool_id, well)
    sick.get_well()
    hung.result(20)
    assert get_map(world)[well] is DomainStatus.ATTACHED
    assert (pool_id in read(world, ill)["POOL_UUID"], ill in get_map(world)) == (verb != "detach", verb != "detach")


def test_a_domain_that_hangs_while_it_is_upgraded_holds_up_no_change_of_the_map(sick: Sickness) -> None:
    world = sick.world
    members, pool_id = world.repository.members, world.pool_id
    well, ill = add_member(world, "/well"), add_member(world, "/ill")
    world.repository.domains.update(ill, {"VERSION": "4"})
    hung = sick.hang_in("acquire_lock", world.repository.upgrades.convert_member, pool_id, ill)
    with waiting(0.05):
        members.deactivate(pool_id, well)
    sick.get_well()
    hung.result(20)
    assert read(world, ill)["VERSION"] == "5"


def test_a_copy_on_the_master_holds_up_no_member(spm: World) -> None:
    """What holds the domain and an image of it for hours, as a copy does, changes nothing of the pool."""
    members, made = spm.repository.members, spm.create_base()
    copying = (locks.domain(spm.domain_id, shared=True), locks.image(spm.domain_id, made.image_id))
    with members._locks.hold(*copying), waiting(0.05):
        domain_id = add_member(spm)
        members.deactivate(spm.pool_id, domain_id)
        members.detach(spm.pool_id, domain_id)


def test_a_template_that_is_being_copied_can_be_used(spm: World) -> None:
    template = spm.create_base(format=VolumeFormat.RAW)
    reading = (locks.domain(spm.domain_id, shared=True), locks.image(spm.domain_id, template.image_id, shared=True))
    with spm.repository.images._locks.hold(*reading), waiting(0.05):
        made = spm.create_layer(template, spm.request().image_id)
    assert spm.get_record(made).parent_id == template.volume_id


def test_a_start_does_not_wait_for_ever_for_a_member_that_it_looks_through(
    sick: Sickness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it has been looked through nothing begins on it, and the role is not given up."""
    world, members = sick.world, sick.world.repository.members
    ill = add_domain(world, "/ill", domain_class=DomainClass.BACKUP)
    members.attach(world.pool_id, ill)
    members.activate(world.pool_id, ill)
    world.repository.spm.stop(world.pool_id)
    monkeypatch.setattr(spm_module, "SWEEP_PATIENCE_S", 0.5)
    sick.faults.operation, sick.faults.borne = "create_master_tree", 1  # the master's own
    world.repository.spm.start(world.pool_id)
    assert sick.faults.hangs.is_set()
    with waiting(0.05):
        world.create_base()
        for call in (
            lambda: world.repository.spm.stop(world.pool_id),
            lambda: members.rename(ill, "new name"),
        ):
            with pytest.raises(ResourceTimeout):
                call()
    sick.get_well()
    world.repository.spm.stop(world.pool_id)


def has_come_back(world: World, domain_id: str) -> bool:
    """Whether nothing hangs on the domain any more."""
    return not any(one._patience.is_stuck(domain_id) for one in (world.repository.spm, world.repository.domains))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a domain of the pool does not wait long."""
    monkeypatch.setattr(spm_module, "SWEEP_PATIENCE_S", 0.5)
    monkeypatch.setattr(spm_module, "PREPARE_PATIENCE_S", 0.5)
    monkeypatch.setattr(domain_module, "LOOK_TIMEOUT_S", 0.5)


@pytest.mark.usefixtures("impatient")
def test_a_master_that_hangs_while_the_pool_is_connected_keeps_no_lock_of_it(sick: Sickness) -> None:
    world, pools = sick.world, sick.world.repository.pools
    world.repository.spm.stop(world.pool_id)
    connected = sick.hang_in("check_layout", pools.connect, world.pool_id, 1, world.domain_id, 1)
    with pytest.raises(AccessTimeout):
        connected.result(20)
    with waiting(0.05):
        pools.disconnect(world.pool_id)


@pytest.mark.usefixtures("impatient")
def test_a_member_that_hangs_while_the_pool_is_destroyed_keeps_no_lock_of_it(sick: Sickness) -> None:
    world, pools, members = sick.world, sick.world.repository.pools, sick.world.repository.members
    ill, well = add_member(world, "/ill"), add_member(world, "/well")
    world.repository.spm.stop(world.pool_id)
    sick.faults.borne = 1  # the master's own
    destroyed = sick.hang_in("acquire_lock", members.destroy, world.pool_id, 1)
    with waiting(0.05):
        pools.connect(world.pool_id, 1, world.domain_id, 1)
        with pytest.raises(AcquireLockFailure):
            world.repository.spm.start(world.pool_id)
        with pytest.raises(ResourceTimeout):
            members.destroy(world.pool_id, 1)
    sick.get_well()
    destroyed.result(20)
    assert pools.list_connected() == []
    assert [read(world, domain_id)["POOL_UUID"] for domain_id in (ill, well, world.domain_id)] == [""] * 3


@pytest.mark.usefixtures("impatient")
def test_a_pool_that_is_left_while_a_member_hangs_is_destroyed_no_further(sick: Sickness) -> None:
    world, pools, members = sick.world, sick.world.repository.pools, sick.world.repository.members
    add_member(world, "/ill")
    world.repository.spm.stop(world.pool_id)
    sick.faults.borne = 1
    destroyed = sick.hang_in("acquire_lock", members.destroy, world.pool_id, 1)
    with waiting(0.05):
        pools.disconnect(world.pool_id)
    sick.get_well()
    with pytest.raises(StoragePoolUnknown):
        destroyed.result(20)
    pools.connect(world.pool_id, 1, world.domain_id, 1)
    members.destroy(world.pool_id, 1)
    assert read(world, world.domain_id)["POOL_UUID"] == ""


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("operation", ["check_layout", "acquire_lock", "create_master_tree"])
def test_a_domain_that_hangs_before_it_is_the_master_keeps_no_lock_of_the_pool(sick: Sickness, operation: str) -> None:
    world, members = sick.world, sick.world.repository.members
    ill, well, pool_id = add_member(world, "/ill"), add_member(world, "/well"), world.pool_id
    migrate = world.repository.spm.migrate
    migrated = sick.hang_in(operation, migrate, pool_id, world.domain_id, ill, 2)
    with pytest.raises(AccessTimeout):
        migrated.result(20)
    with waiting(0.05):
        members.deactivate(pool_id, well)
        with pytest.raises(AccessTimeout):
            migrate(pool_id, world.domain_id, ill, 2)
    assert (read(world, ill)["ROLE"], "NEXT_MASTER" in read(world, world.domain_id)) == ("Regular", False)
    assert world.repository.pools.get_connected(pool_id).master_id == world.domain_id
    sick.get_well()
    wait_for(lambda: has_come_back(world, ill), "the call has ended")
    store = world.repository.domains.get_backend(ill).domain
    store.acquire_lock(1)  # it was given back
    store.release_lock()


@pytest.mark.usefixtures("impatient")
def test_a_former_master_that_hangs_keeps_no_spm_from_starting(sick: Sickness) -> None:
    world, members = sick.world, sick.world.repository.members
    ill, well = add_member(world, "/ill"), add_member(world, "/well")
    world.repository.domains.update(ill, {"ROLE": "Master", "MASTER_VERSION": "0"})
    world.repository.spm.stop(world.pool_id)
    sick.faults.operation, sick.faults.borne = "acquire_lock", 1  # the master's own
    world.repository.spm.start(world.pool_id)
    assert sick.faults.hangs.is_set() and read(world, ill)["ROLE"] == "Master"
    with waiting(0.05):
        members.deactivate(world.pool_id, well)
    sick.get_well()
    wait_for(lambda: has_come_back(world, ill), "the call has ended")
    assert read(world, ill)["ROLE"] == "Regular"
