"""A pool's changes in processes that are killed, and what is found afterwards: run by `test_pools_killed`.

`pools_killed.py FOLDER SCENARIO MODE` kills at each named step, one after another, in a world of its own; MODE tells
where the pool's map is, on `disk` or in `memory`. Prints how many were killed.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from tests.contract.storage_killed import Killer, run_child
from vdsm.core.errors import NodeError
from vdsm.storage.model import DomainClass, DomainRole, DomainType
from vdsm.storage.ports import Steps
from vdsm.testing.qemuimg import FakeQemuImg
from vdsm.testing.storage import NoOwner, World, ignore_step, make_id, make_world_on_disk

OLD, NEW, POOL, VM, OTHER_VM = (make_id() for _ in range(5))
TASK = make_id()
MASTERS = {OLD: 3, NEW: 4}


def make_world(folder: Path, steps: Steps = ignore_step) -> World:
    """Connected servers; nothing else."""
    world = make_world_on_disk(folder, FakeQemuImg({}), NoOwner(), steps)
    world.domain_id, world.pool_id = OLD, POOL
    for server in (world.server, get_other(folder)):
        Path(server).mkdir(exist_ok=True)
        world.repository.servers.connect(DomainType.LOCALFS, server)
    return world


def get_other(folder: Path) -> str:
    return str(folder / "server_2")


def connect(world: World, master_id: str, mode: str) -> None:
    domains = None if mode == "disk" else {OLD: "Active", NEW: "Active"}
    world.repository.pools.connect(POOL, 1, master_id, MASTERS[master_id], domains)


def prepare(folder: Path, mode: str) -> None:
    """A pool with two active domains, an older second one, VM definitions and a task."""
    world = make_world(folder)
    create = world.repository.domains.create
    create(DomainType.LOCALFS, OLD, "old", world.server, DomainClass.DATA)
    create(DomainType.LOCALFS, NEW, "new", get_other(folder), DomainClass.DATA)
    world.repository.pools.create(POOL, "pool", OLD, MASTERS[OLD], [OLD, NEW])
    connect(world, OLD, mode)
    world.repository.spm.start(POOL)
    world.repository.members.activate(POOL, NEW)
    world.repository.definitions.update(POOL, {VM: "<old/>", OTHER_VM: "<other/>"})
    (get_master(folder, OLD) / "tasks" / TASK).mkdir()
    (get_master(folder, OLD) / "tasks" / TASK / f"{TASK}.task").write_text("task")
    stale = get_master(folder, NEW) / "vms" / make_id()
    stale.mkdir(parents=True)


def get_master(folder: Path, domain_id: str) -> Path:
    return folder / ("server_1" if domain_id == OLD else "server_2") / domain_id / "master"


def migrate(world: World, mode: str) -> None:
    connect(world, OLD, mode)
    world.repository.spm.start(POOL)
    world.repository.spm.migrate(POOL, OLD, NEW, MASTERS[NEW])


def update(world: World, mode: str) -> None:
    connect(world, OLD, mode)
    world.repository.spm.start(POOL)
    world.repository.definitions.update(POOL, {VM: "<new/>", make_id(): "<third/>"})
    world.repository.definitions.remove(POOL, OTHER_VM)


def find_masters(folder: Path, mode: str) -> list[str]:
    """The domains with which the pool can be connected."""
    found = []
    for domain_id in MASTERS:
        try:
            connect(make_world(folder), domain_id, mode)
        except NodeError as error:
            assert error.number == 324, error
        else:
            found.append(domain_id)
    return found


def act(folder: Path, operation: Callable[[World, str], None], mode: str, number: int, hook: str) -> None:
    killer = Killer(number)
    killer.armed = True
    world = make_world(folder, killer.step if hook == "steps" else ignore_step)
    if hook == "calls":
        killer.watch_calls()
    operation(world, mode)
    os._exit(0)


def check_migrated(folder: Path, mode: str, died: bool) -> None:
    [master_id] = find_masters(folder, mode)
    assert died or master_id == NEW
    assert run_child(lambda: settle(folder, mode, master_id)) is False
    assert find_masters(folder, mode) == [NEW]
    assert not any((get_master(folder, OLD) / name).exists() for name in ("vms", "tasks"))


def settle(folder: Path, mode: str, master_id: str) -> None:
    """What the next SPM does; then the migration goes on, if it had not come to its end."""
    world = make_world(folder)
    connect(world, master_id, mode)
    world.repository.spm.start(POOL)
    roles = {domain_id: world.repository.domains.get(domain_id).metadata.role for domain_id in MASTERS}
    other = NEW if master_id == OLD else OLD
    assert roles == {master_id: DomainRole.MASTER, other: DomainRole.REGULAR}, roles
    assert "NEXT_MASTER" not in world.repository.domains.get(master_id).metadata.keys
    assert world.repository.definitions.read(POOL, []) == {VM: "<old/>", OTHER_VM: "<other/>"}
    assert (world.repository.layout.get_tasks(POOL) / TASK / f"{TASK}.task").read_text() == "task"
    if master_id == OLD:
        world.repository.spm.migrate(POOL, OLD, NEW, MASTERS[NEW])
        settle_again(world)


def settle_again(world: World) -> None:
    assert world.repository.definitions.list_vms(POOL) == sorted([VM, OTHER_VM])
    assert (world.repository.layout.get_tasks(POOL) / TASK / f"{TASK}.task").read_text() == "task"


def check_updated(folder: Path, mode: str, died: bool) -> None:
    world = make_world(folder)
    connect(world, OLD, mode)
    found = world.repository.definitions.read(POOL, [])
    assert found[VM] in (("<old/>", "<new/>") if died else ("<new/>",)), found
    assert set(found.values()) <= {"<old/>", "<new/>", "<other/>", "<third/>"}, found
    if not died:
        assert sorted(found.values()) == ["<new/>", "<third/>"]


SCENARIOS = {"migrate": (migrate, check_migrated), "update": (update, check_updated)}


def kill_everywhere(folder: Path, scenario: str, mode: str, hook: str, stride: int) -> int:
    operation, check = SCENARIOS[scenario]
    for number in range(0, 10_000, stride):
        place = folder / str(number)
        place.mkdir()
        run_child(lambda place=place: prepare(place, mode))
        died = run_child(lambda place=place, number=number: act(place, operation, mode, number, hook))
        check(place, mode, died)
        shutil.rmtree(place)
        if not died:
            return number // stride
    raise AssertionError("it never ends")


if __name__ == "__main__":
    where, name, map_place, how, every = Path(sys.argv[1]), *sys.argv[2:]
    sys.stdout.write(f"{kill_everywhere(where, name, map_place, how, int(every))}\n")
