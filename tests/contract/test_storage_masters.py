"""The move of a master through the services: a task that moves with its folder, beside others, over a restart."""

import asyncio
from pathlib import Path

import pytest

from tests.contract.test_storage_service import House, Houses
from vdsm.core.ids import BLANK_UUID
from vdsm.storage.errors import StoragePoolWrongMaster
from vdsm.storage.model import DomainType, ServerConnection
from vdsm.tasks.model import TaskState
from vdsm.testing.storage import make_id

pytestmark = pytest.mark.parametrize("on_disk", [True, False])


async def be_spm(house: House, second: str, *, on_disk: bool) -> None:
    """The SPM of a pool with two active domains."""
    server = Path(house.world.server).with_name("server_2")
    server.mkdir()
    world = house.world
    world.create_pool()
    await house.servers.connect_place(DomainType.LOCALFS, ServerConnection(world.server), connect=True)
    await house.servers.connect_place(DomainType.LOCALFS, ServerConnection(str(server)), connect=True)
    world.repository.domains.create(DomainType.LOCALFS, second, "second", str(server))
    domains = None if on_disk else {world.domain_id: "Active"}
    await house.pools.connect(world.pool_id, 1, "", world.domain_id, 1, domains)
    await house.be_spm()
    await house.domains.attach(second, world.pool_id)
    await house.domains.activate(second, world.pool_id)


async def test_tasks_move_with_the_master(tmp_path: Path, on_disk: bool) -> None:
    houses, second = Houses(tmp_path), make_id()
    volume = make_id()
    async with houses.open() as house:
        world = house.world
        await be_spm(house, second, on_disk=on_disk)
        done = await house.create(make_id(), make_id())
        await house.wait(done)
        house.gate.close("promote master")
        moving = await house.pool_life.switch_master(world.pool_id, world.domain_id, second, 2)
        await house.gate.wait()
        starting = asyncio.create_task(house.create(volume, make_id()))  # not acknowledged before the folder has moved
        clearing = asyncio.create_task(house.runner.clear(done))
        done_too_early, _ = await asyncio.wait({starting, clearing}, timeout=0.3)
        assert not done_too_early
        house.gate.opened.set()
        assert (await house.wait(moving)).state is TaskState.FINISHED
        late = await starting
        await clearing
        assert (await house.wait(late)).state is TaskState.FINISHED
        assert house.tasks.parent.is_dir() and not house.tasks.exists()
        tasks = tmp_path / "server_2" / second / "master" / "tasks"
        assert sorted(path.name for path in tasks.iterdir()) == sorted([moving, late])

    async with houses.open() as house:
        await house.pools.begin(restore=True)
        pool = house.world.repository.pools.get_connected(house.world.pool_id)
        assert (pool.master_id, pool.master_version) == (second, 2)
        await house.be_spm()
        assert house.runner.get(late).state is house.runner.get(moving).state is TaskState.FINISHED
        assert volume in house.world.repository.domains.list_volumes(house.world.domain_id)


async def test_a_refused_move_is_a_failed_task(tmp_path: Path, on_disk: bool) -> None:
    houses, second = Houses(tmp_path), make_id()
    async with houses.open() as house:
        await be_spm(house, second, on_disk=on_disk)
        moving = await house.pool_life.switch_master(house.world.pool_id, house.world.domain_id, second, 1)
        done = await house.wait(moving)
        assert (done.state, done.code) == (TaskState.RECOVERED, 324)
        assert house.world.repository.pools.get_connected(house.world.pool_id).master_id == house.world.domain_id
        await house.wait(await house.create(make_id(), make_id()))


async def test_a_master_that_is_put_out_of_use_names_the_next(tmp_path: Path, on_disk: bool) -> None:
    houses, second = Houses(tmp_path), make_id()
    async with houses.open() as house:
        world = house.world
        await be_spm(house, second, on_disk=on_disk)
        deactivate = house.domain_life.deactivate
        await deactivate(world.domain_id, world.pool_id, BLANK_UUID, 0)
        with pytest.raises(StoragePoolWrongMaster):
            await deactivate(world.domain_id, world.pool_id, second, 1)
        await deactivate(world.domain_id, world.pool_id, second, 2)
        pool = world.repository.pools.get_connected(world.pool_id)
        assert (pool.master_id, pool.domains) == (second, {world.domain_id: "Attached", second: "Active"})
        await house.domain_life.detach(world.domain_id, world.pool_id)
        await house.domain_life.format(world.domain_id)
        await house.pool_life.destroy(world.pool_id, 1, "")
        assert house.memory.content.pool is None
        await house.domain_life.format(second)
        assert world.repository.domains.list_domains() == []
