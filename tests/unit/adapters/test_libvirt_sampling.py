import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest

from tests.unit.adapters.libvirt_doubles import Connection, Connections
from vdsm.adapters.libvirt.connection import Link
from vdsm.adapters.libvirt.pool import Pool
from vdsm.adapters.libvirt.sampling import Sampler
from vdsm.core.clock import SystemClock

LIMIT_S = 20.0
Row = dict[str, int | str | bool]


class Domain:
    """Answers; or hangs in its monitor, after which others find the monitor in use."""

    def __init__(self, vm_id: str) -> None:
        self.vm_id = vm_id
        self.stuck: threading.Event | None = None
        self.busy = 0  # how often its monitor is in use by another short call
        self.has_hanging_call = False
        self.takes_s = 0.0

    def UUIDString(self) -> str:
        return self.vm_id

    def ask(self) -> Row:
        time.sleep(self.takes_s)
        row: Row = {"state.state": 1, "cpu.time": 7}
        if self.has_hanging_call:
            return row
        if self.busy:
            self.busy -= 1
            return row
        if self.stuck is not None:
            self.has_hanging_call = True
            self.stuck.wait(LIMIT_S)
            self.has_hanging_call = False
        return row | {"balloon.rss": 1}


class World:
    def __init__(self, count: int) -> None:
        self.domains = {f"vm-{number}": Domain(f"vm-{number}") for number in range(count)}
        self.bulk_calls = 0

    def stick(self, *vm_ids: str) -> None:
        for vm_id in vm_ids:
            self.domains[vm_id].stuck = threading.Event()

    def release(self) -> None:
        for domain in self.domains.values():
            if domain.stuck is not None:
                domain.stuck.set()
                domain.stuck = None


class Bulk(Connection):
    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def getAllDomainStats(self, _stats: int, _flags: int) -> list[tuple[Domain, Row]]:
        self._world.bulk_calls += 1
        return self.domainListGetStats(list(self._world.domains.values()), 0, 0)

    def domainListGetStats(self, domains: list[Domain], _stats: int, _flags: int) -> list[tuple[Domain, Row]]:
        return [(domain, domain.ask()) for domain in domains]

    def listAllDomains(self, _flags: int) -> list[Domain]:
        return list(self._world.domains.values())

    def lookupByUUIDString(self, vm_id: str) -> Domain:
        return self._world.domains[vm_id]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World(12)
    yield world
    world.release()


@pytest.fixture
async def pool(world: World) -> AsyncIterator[Pool]:
    link = Link()
    link.set_up()
    pool = Pool(Connections(lambda: Bulk(world)).open, link)
    yield pool
    world.release()
    await pool.close()


@pytest.fixture
def sampler(pool: Pool) -> Sampler:
    return Sampler(pool, SystemClock(), timeout_s=0.2)


async def test_one_call_for_all(sampler: Sampler, world: World) -> None:
    sample = await sampler.sample()
    assert set(sample.stats) == set(world.domains)
    assert sample.missing == set()
    assert world.bulk_calls == 1


async def test_stuck_vm_is_named_and_passed_over(sampler: Sampler, world: World, pool: Pool) -> None:
    world.stick("vm-5")
    for _ in range(3):
        sample = await sampler.sample()
        assert sample.missing == {"vm-5"}
        assert set(sample.stats) == set(world.domains) - {"vm-5"}
    assert len(pool.written_off) == 1
    world.release()
    while pool.written_off:
        await sampler.sample()
    assert (await sampler.sample()).missing == set()


async def test_several_stuck_vms_are_found_at_once(sampler: Sampler, world: World) -> None:
    stuck = {"vm-0", "vm-3", "vm-10"}
    world.stick(*stuck)
    sample = await sampler.sample()
    assert sample.missing == stuck
    assert set(sample.stats) == set(world.domains) - stuck


async def test_too_many_stuck_vms_are_found_in_turns(sampler: Sampler, world: World, pool: Pool) -> None:
    stuck = {f"vm-{number}" for number in range(8)}
    world.stick(*stuck)
    for _ in range(8):
        sample = await sampler.sample()
        assert stuck <= sample.missing
        if sample.missing == stuck:
            break
    assert set(sample.stats) == set(world.domains) - stuck
    assert len(pool.written_off) == 8


async def test_monitor_in_use_for_a_moment_is_asked_once_more(sampler: Sampler, world: World) -> None:
    world.domains["vm-2"].busy = 1
    assert (await sampler.sample()).missing == set()
    world.domains["vm-2"].busy = 2
    assert (await sampler.sample()).missing == {"vm-2"}
    world.domains["vm-2"].busy = 1
    assert (await sampler.sample()).missing == {"vm-2"}  # a known one costs no second call
    assert (await sampler.sample()).missing == set()


async def test_a_host_whose_samples_take_longer_than_they_may_gets_more_time(
    sampler: Sampler, world: World, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    for domain in world.domains.values():
        domain.takes_s = 0.05
    assert set((await sampler.sample()).stats) <= set(world.domains)
    async with asyncio.timeout(LIMIT_S):
        while pool.written_off:
            await asyncio.sleep(0.01)
    caplog.clear()
    sample = await sampler.sample()
    assert set(sample.stats) == set(world.domains) and not sample.missing
    assert "written off" not in caplog.text
