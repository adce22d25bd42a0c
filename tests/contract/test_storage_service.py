"""The storage services of one daemon on a folder of this host: the SPM role, tasks on disk, what a restart finds."""

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from vdsm.adapters.files import OwnOwner
from vdsm.adapters.qemuimg import QemuImgCommand
from vdsm.api.storage_types import Connection
from vdsm.core.clock import SystemClock
from vdsm.core.errors import NodeError
from vdsm.core.ids import BLANK_UUID
from vdsm.storage.errors import SpmStatusError, StoragePoolUnknown
from vdsm.storage.errors_pools import PoolUpgradeInProgress
from vdsm.storage.lanes import THREADS, Lanes
from vdsm.storage.mail.delivery import Pace
from vdsm.storage.mail.service import MailService
from vdsm.storage.model import DomainStatus, DomainType, ServerConnection, SpmRole
from vdsm.storage.remembered import StorageMemory
from vdsm.storage.services.domains import DomainService, ServerService
from vdsm.storage.services.life import DomainLifeService, PoolLifeService
from vdsm.storage.services.pools import PoolService
from vdsm.storage.services.volumes import VolumeService
from vdsm.tasks.entry import TaskSnapshot
from vdsm.tasks.model import TaskState
from vdsm.tasks.pool import PoolTasks
from vdsm.tasks.runner import TaskRunner
from vdsm.testing.storage import World, make_id, make_world_on_disk

GOLDEN = Path(__file__).parents[1] / "golden" / "storage"
PATIENCE_S = 60.0


class Gate:
    """Holds work at one step, once, until it is opened."""

    def __init__(self) -> None:
        self.step = ""
        self.skip = 0
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, step: str) -> None:
        if step == self.step and self.skip:
            self.skip -= 1
        elif step == self.step:
            self.step = ""
            self.reached.set()
            assert self.opened.wait(PATIENCE_S)

    def close(self, step: str, skip: int = 0) -> None:
        self.step, self.skip = step, skip
        self.reached.clear()
        self.opened.clear()

    async def wait(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, PATIENCE_S)


class House:
    """The services as the daemon joins them, over a folder that outlives them."""

    def __init__(self, folder: Path, domain_id: str, pool_id: str) -> None:
        self.gate = Gate()
        self.world: World = make_world_on_disk(folder, QemuImgCommand(), OwnOwner(), self.gate)
        self.world.domain_id, self.world.pool_id = domain_id, pool_id
        self.recover = self._recover
        self.runner = TaskRunner(lambda *entry: self.recover(*entry), SystemClock(), stop_grace_s=PATIENCE_S)
        self.lanes = Lanes(PATIENCE_S)
        self.memory = StorageMemory(folder / "storage.json")
        work = PoolTasks(self.runner, None)
        self.servers = ServerService(self.world.repository, self.lanes, self.memory)
        self.mail = MailService(
            self.world.repository,
            SystemClock(),
            Pace(event_interval_s=0.05),
            run_to_end=work.run_in_thread,
            is_valid=lambda _: True,
        )
        self.pools = PoolService(self.world.repository, self.lanes, self.memory, self.servers, work, dict, self.mail)
        self.domains = DomainService(self.world.repository, self.lanes, self.memory)
        self.domain_life = DomainLifeService(self.world.repository, self.lanes, self.memory, self.pools)
        self.pool_life = PoolLifeService(self.world.repository, self.lanes, self.pools)
        self.volumes = VolumeService(self.world.repository, self.lanes, work)

    async def _recover(self, module: str, object: str, function: str, params: tuple[str, ...]) -> None:
        await self.runner.run_in_thread(self.world.repository.recovery.recover, module, object, function, params)

    async def connect_server(self, *, connect: bool = True) -> int:
        call = self.servers.connect_server if connect else self.servers.disconnect_server
        [status] = await call(self.world.pool_id, "LOCALFS", [Connection(id="1", connection=self.world.server)])
        return status.status

    async def connect(self, host_id: int = 1) -> "House":
        assert await self.connect_server() == 0
        world = self.world
        await self.pools.connect(world.pool_id, host_id, "", world.domain_id, 1, {world.domain_id: "Active"})
        return self

    async def start(self) -> str:
        """Ask for the SPM role; the task's id."""
        return await self.pools.spm_start(self.world.pool_id, -1, -1, "false")

    async def be_spm(self) -> "House":
        done = await self.wait(await self.start())
        assert done.state is TaskState.FINISHED, done
        return self

    async def create(self, volume_id: str, image_id: str, **more: str) -> str:
        world = self.world
        return await self.volumes.create(
            volume_id, world.pool_id, world.domain_id, image_id, 1 << 20, "COW", "SPARSE", "DATA", "", **more
        )

    async def wait(self, task_id: str) -> TaskSnapshot:
        return await asyncio.wait_for(self.runner.wait(task_id), PATIENCE_S)

    async def wait_for_upgrade(self) -> None:
        for task in self.runner.list_tasks():
            if task.name == "upgradeStoragePool":
                assert (await self.wait(task.task_id)).state is TaskState.FINISHED

    def get_versions(self, *others: str) -> list[int]:
        domains = self.world.repository.domains
        return [domains.get(domain_id).metadata.version for domain_id in (self.world.domain_id, *others)]

    @property
    def role(self) -> SpmRole:
        return self.world.repository.pools.get_connected(self.world.pool_id).role

    @property
    def domain(self) -> Path:
        return Path(self.world.server) / self.world.domain_id

    @property
    def tasks(self) -> Path:
        return self.domain / "master" / "tasks"

    def list_files(self) -> list[str]:
        return sorted(str(path.relative_to(self.domain / "images")) for path in (self.domain / "images").rglob("*"))


class Houses:
    """One daemon after another on the same folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ids = (make_id(), make_id())

    @asynccontextmanager
    async def open(self) -> AsyncIterator[House]:
        house = House(self.folder, *self.ids)
        async with house.runner:
            try:
                yield house
            finally:
                house.gate.opened.set()
        house.lanes.close()
        for domain in house.world.repository.domains.list_domains():
            house.world.repository.domains.get_backend(domain).domain.release_lock()  # as the end of a process does


@pytest.fixture
async def houses(tmp_path: Path) -> Houses:
    made = Houses(tmp_path)
    House(tmp_path, *made.ids).world.create_pool()
    return made


def read_tasks(house: House) -> str:
    """All files of all tasks, with names instead of what differs from run to run."""
    texts = []
    for file in sorted(house.tasks.rglob("*.*")):
        task_id = file.parent.name
        named = f"--- {file.relative_to(house.tasks)}\n{file.read_text()}"
        texts.append(named.replace(task_id, "TASK"))
    text = "".join(texts)
    repository = house.world.repository.layout.repository
    mount = house.world.repository.layout.get_mount(house.world.server)
    for value, name in (
        (mount, "MOUNT"),
        (repository, "REPO"),
        (house.world.pool_id, "POOL"),
        (house.world.domain_id, "DOMAIN"),
    ):
        text = text.replace(str(value), name)
    return text


async def test_the_folder_of_a_creating_task_is_as_other_hosts_read_it(houses: Houses) -> None:
    async with houses.open() as house:
        await (await house.connect()).be_spm()
        image, base, layer = make_id(), make_id(), make_id()
        names = {image: "IMAGE", base: "BASE", layer: "LAYER"}
        found = []
        for volume, parent in ((base, {}), (layer, {"parent_id": base})):
            for step in ("write record", ""):
                if step:
                    house.gate.close(step)
                    task_id = await house.create(volume, image, **parent)
                    await house.gate.wait()
                else:
                    house.gate.opened.set()
                    await house.wait(task_id)
                found.append(f"=== {step or 'finished'}\n{read_tasks(house)}")
            await house.runner.clear(task_id)
        text = "".join(found)
        for value, name in names.items():
            text = text.replace(value, name)
        assert text == (GOLDEN / "tasks-create-volume.txt").read_text()
        assert list(house.tasks.iterdir()) == []


async def test_stopping_the_spm_ends_its_tasks_where_they_are_and_the_next_undoes_them(houses: Houses) -> None:
    async with houses.open() as house:
        await (await house.connect()).be_spm()
        house.gate.close("write record")
        task_id = await house.create(make_id(), make_id())
        await house.gate.wait()
        stop = asyncio.create_task(house.pools.spm_stop(house.world.pool_id))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not stop.done() and house.role is SpmRole.SPM
        with pytest.raises(SpmStatusError):
            await house.pools.spm_stop(house.world.pool_id)
        with pytest.raises(NodeError):
            await house.create(make_id(), make_id())
        house.gate.opened.set()
        await stop
        assert house.role is SpmRole.FREE
        assert house.runner.list_tasks("spm") == []
        assert [path.name for path in house.tasks.iterdir()] == [task_id]
        await house.be_spm()
        assert (await house.wait(task_id)).state is TaskState.RECOVERED
        assert house.list_files() == []


@pytest.mark.parametrize("asked", ["stopped", "too early"])
async def test_a_start_that_does_not_come_to_its_end_gives_the_role_back(houses: Houses, asked: str) -> None:
    async with houses.open() as house:
        await (await house.connect()).be_spm()
        house.gate.close("write record")
        left = await house.create(make_id(), make_id())
        await house.gate.wait()
        stop = asyncio.create_task(house.pools.spm_stop(house.world.pool_id))
        for _ in range(10):
            await asyncio.sleep(0)
        house.gate.opened.set()
        await stop
        house.gate.close("undo data")
        start = await house.start()
        await house.gate.wait()
        with pytest.raises(SpmStatusError):
            await house.pools.spm_stop(house.world.pool_id)
        if asked == "stopped":
            assert await house.runner.stop(start)
        house.gate.opened.set()
        done = await house.wait(start)
        if asked == "stopped":
            assert done.state is TaskState.RECOVERED and house.role is SpmRole.FREE
            await house.be_spm()
        assert house.role is SpmRole.SPM
        assert house.runner.get(left).state is TaskState.RECOVERED
        assert house.list_files() == []


async def test_a_start_without_a_folder_of_tasks_gives_the_role_back(houses: Houses) -> None:
    async with houses.open() as house:
        await house.connect()
        folder = house.world.repository.layout.get_pool(house.world.pool_id)
        (folder / "mastersd").unlink()
        done = await house.wait(await house.start())
        assert (done.state, done.code) == (TaskState.RECOVERED, 409)
        assert house.role is SpmRole.FREE
        await (await house.connect()).be_spm()


async def test_clients_may_clear_what_is_recovered_while_the_start_goes_on(houses: Houses) -> None:
    async with houses.open() as house:
        await (await house.connect()).be_spm()
        tasks = [await house.create(make_id(), make_id()) for _ in range(2)]
        for task_id in tasks:
            await house.wait(task_id)
        await house.pools.spm_stop(house.world.pool_id)
        for task_id in tasks:
            main = house.tasks / task_id / f"{task_id}.task"
            main.write_text(main.read_text().replace("state = finished", "state = running"))
        first, last = sorted(tasks)
        held = (house.tasks / first / f"{first}.recover.1").read_text().split("params = ")[1].split(",")[3]

        recover = house.recover

        async def recover_slowly(module: str, object: str, function: str, params: tuple[str, ...]) -> None:
            if held in params:
                await asyncio.to_thread(house.gate, "held")
            await recover(module, object, function, params)

        house.gate.close("held")
        house.recover = recover_slowly
        start = await house.start()
        await house.gate.wait()
        assert (await house.wait(last)).state is TaskState.RECOVERED
        await house.runner.clear(last)
        house.gate.opened.set()
        assert (await house.wait(start)).state is TaskState.FINISHED


async def test_a_server_that_is_disconnected_while_it_is_used(houses: Houses) -> None:
    async with houses.open() as house:
        await (await house.connect()).be_spm()
        house.gate.close("format data")
        task_id = await house.create(make_id(), make_id())
        await house.gate.wait()
        assert await house.connect_server(connect=False) == 0
        house.gate.opened.set()
        assert (await house.wait(task_id)).state is TaskState.FAILED
        await house.pools.spm_stop(house.world.pool_id)
        done = await house.wait(await house.start())
        assert (done.code, house.role) == (358, SpmRole.FREE)
        await (await house.connect()).be_spm()
        assert house.list_files() == []
        assert house.runner.get(task_id).state is TaskState.RECOVERED  # as its record on the storage was left


async def test_what_was_connected_is_connected_again(houses: Houses) -> None:
    async with houses.open() as house:
        await (await house.connect()).be_spm()
    async with houses.open() as house:
        await house.pools.begin(restore=False)
        assert house.world.repository.pools.list_connected() == []
    async with houses.open() as house:
        await house.pools.begin(restore=True)
        assert house.role is SpmRole.FREE
        await house.be_spm()
        await house.pools.spm_stop(house.world.pool_id)
        await house.pools.disconnect(house.world.pool_id, 1, "")
        await house.connect_server(connect=False)
    async with houses.open() as house:
        await house.pools.begin(restore=True)
        assert house.world.repository.domains.list_domains() == []


async def test_lanes_that_are_lost_to_sick_domains_hold_up_no_other_work(houses: Houses) -> None:
    async with houses.open() as house:
        await (await house.connect()).be_spm()
        for domain_id in ("", sick := make_id()):
            house.lanes.get(domain_id)._lost = THREADS
        pool = house.world.repository.pools.get_connected(house.world.pool_id)
        assert (await house.pools.get_spm_status(pool.pool_id)).status == "SPM"
        assert (await house.pools.get_info(pool.pool_id)).info.master_domain_id == house.world.domain_id
        assert await house.pool_life.find_image(pool.pool_id, make_id()) == []
        for detach in (house.domain_life.deactivate, partial(house.domain_life.detach, force=True)):
            pool.domains[sick] = DomainStatus.ACTIVE
            await detach(sick, pool.pool_id, BLANK_UUID, 0)
            assert pool.domains.get(sick) is not DomainStatus.ACTIVE


async def test_a_domain_that_was_activated_is_active_after_a_restart(houses: Houses, tmp_path: Path) -> None:
    second, server = make_id(), tmp_path / "second"
    server.mkdir()
    async with houses.open() as house:
        await (await house.connect()).be_spm()
        await house.servers.connect_place(DomainType.LOCALFS, ServerConnection(str(server)), connect=True)
        house.world.repository.domains.create(DomainType.LOCALFS, second, "second", str(server))
        await house.domains.attach(second, house.world.pool_id)
        await house.domains.activate(second, house.world.pool_id)
    async with houses.open() as house:
        await house.pools.begin(restore=True)
        assert (house.world.repository.layout.get_pool(house.world.pool_id) / second).is_symlink()


@pytest.mark.parametrize(("version", "code"), [(5, 0), (4, 395), (6, 394)])
async def test_the_version_that_a_start_asks_for(houses: Houses, version: int, code: int) -> None:
    async with houses.open() as house:
        await house.connect()
        start = await house.pools.spm_start(house.world.pool_id, -1, -1, "false", None, version)
        assert (await house.wait(start)).code == code
        assert house.role is (SpmRole.FREE if code else SpmRole.SPM)


async def test_a_start_upgrades_the_master_at_once_and_the_others_in_the_background(tmp_path: Path) -> None:
    houses = Houses(tmp_path)
    server = houses.folder / "server_2"
    server.mkdir()
    second = make_id()
    async with houses.open() as house:
        world = house.world
        world.create_pool(version=3)
        await house.connect()
        await house.servers.connect_place(DomainType.LOCALFS, ServerConnection(str(server)), connect=True)
        world.repository.domains.create(DomainType.LOCALFS, second, "second", str(server), version=3)
        await house.be_spm()
        await house.domains.attach(second, world.pool_id)
        await house.domains.activate(second, world.pool_id)
        assert await house.pool_life.upgrade(world.pool_id, 4) == "started"
        await house.wait_for_upgrade()
        assert house.get_versions(second) == [4, 4]
        await house.pools.spm_stop(world.pool_id)
        house.gate.close("upgrade version", skip=1)
        start = await house.pools.spm_start(world.pool_id, -1, -1, "false", None, 5)
        assert (await house.wait(start)).state is TaskState.FINISHED
        await house.gate.wait()  # the other's turn
        assert house.get_versions(second) == [5, 4]
        with pytest.raises(PoolUpgradeInProgress):
            await house.pool_life.upgrade(world.pool_id, 5)
        house.gate.opened.set()
        await house.wait_for_upgrade()
        assert house.get_versions(second) == [5, 5]


async def test_what_cannot_be_connected_again_is_kept_for_later(houses: Houses, tmp_path: Path) -> None:
    async with houses.open() as house:
        await house.connect()
    away = tmp_path / "away"
    shutil.move(house.world.server, away)
    async with houses.open() as house:
        Path(house.world.server).rmdir()
        await house.pools.begin(restore=True)
        with pytest.raises(StoragePoolUnknown):
            house.role  # noqa: B018
    shutil.move(away, house.world.server)
    async with houses.open() as house:
        await house.pools.begin(restore=True)
        assert house.role is SpmRole.FREE


async def test_servers_are_connected_side_by_side(houses: Houses, tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("a", "b")]
    connections = [Connection(id=place.name, connection=str(place)) for place in places]
    together = threading.Barrier(len(places))
    async with houses.open() as house:
        servers = house.world.repository.servers
        servers.connect = lambda *_: bool(together.wait(5))  # ends when both have begun
        told = await house.servers.connect_server(house.world.pool_id, "LOCALFS", connections)
        assert [(one.id, one.status) for one in told] == [("a", 0), ("b", 0)]
        await house.pools.begin(restore=True)


async def test_a_client_is_quicker_than_the_memory(houses: Houses) -> None:
    async with houses.open() as house:
        await house.connect()
    async with houses.open() as house:
        await house.connect_server()
        await house.pools.connect(house.world.pool_id, 7, "", house.world.domain_id, 1)
        await house.pools.begin(restore=True)
        pool = house.world.repository.pools.get_connected(house.world.pool_id)
        assert (pool.host_id, pool.on_disk) == (7, True)
        assert (house.world.repository.layout.get_pool(pool.pool_id) / "mastersd").is_symlink()
        assert house.memory.content.pool is not None and house.memory.content.pool.host_id == 7


@pytest.mark.parametrize(
    "damage", [b"", b"\xff", b"[]", b"{", b'{"connections": [["FLOPPY", "/a"]]}', b'{"connections": [["LOCALFS", 3]]}']
)
async def test_a_damaged_memory_is_no_memory(houses: Houses, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    file = houses.folder / "storage.json"
    file.write_bytes(damage)
    async with houses.open() as house:
        assert str(file) in caplog.text
        await house.pools.begin(restore=True)
        await house.connect()
    async with houses.open() as house:
        await house.pools.begin(restore=True)
        assert house.role is SpmRole.FREE


async def test_storage_is_connected_also_when_that_cannot_be_remembered(houses: Houses) -> None:
    (houses.folder / "storage.json").mkdir()
    async with houses.open() as house:
        await (await house.connect()).be_spm()


async def test_storage_that_is_away_at_the_start_is_tried_again(houses: Houses) -> None:
    async with houses.open() as house:
        await house.connect()
    server = Path(house.world.server)
    away = server.rename(server.with_name("away"))
    async with houses.open() as house:
        server.rmdir()
        assert not await house.pools.begin(restore=True)
        assert not await house.pools.restore()
        away.rename(server)
        assert await house.pools.restore()
        assert house.world.repository.pools.list_connected() == [house.world.pool_id]
        await house.pools.disconnect(house.world.pool_id, 1, "")
        await house.connect_server(connect=False)
        assert await house.pools.restore()
        assert house.world.repository.domains.list_domains() == []
