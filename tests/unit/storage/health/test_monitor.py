"""Monitors: how health is judged, when it is told, and that a domain that hangs costs one look and nobody else."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.core.errors import NodeError, ResourceExhausted
from vdsm.storage.errors import (
    AccessTimeout,
    InvalidParameterException,
    MiscFileReadException,
    StorageDomainDoesNotExist,
    StorageDomainIsMemberOfPool,
)
from vdsm.storage.health.monitor import Check, DomainLook, Health
from vdsm.storage.health.monitors import MAXIMUM_NAMED, Monitors, Watching
from vdsm.storage.model import DomainSpace
from vdsm.storage.ports import PathCheck
from vdsm.testing.checker import FakeChecker
from vdsm.testing.clock import VirtualClock
from vdsm.testing.storage import make_id

INTERVAL_S = 10.0
WELL = PathCheck(0.25)
SPACE = DomainSpace(100, 40)
SICK = MiscFileReadException("/rhev/metadata", "read timeout")
GONE = StorageDomainDoesNotExist("id")

errors = st.sampled_from([None, SICK, GONE, AccessTimeout("id")])
parts = st.none() | st.builds(Check, st.floats(0, 100), errors)


@given(parts, parts, st.sampled_from([None, True, False]))
def test_the_rules_of_health(path, domain, told):
    health = Health(50.0, path=path, domain=domain, told_valid=told)
    failures = [check.error for check in (path, domain) if check and check.error]
    assert health.error is (failures[0] if failures else None)
    assert health.is_valid == (not failures)
    assert health.is_actual == (bool(failures) or None not in (path, domain))
    assert health.code == (0 if not failures else 200 if isinstance(failures[0], AccessTimeout) else failures[0].number)
    assert health.checked_s == min([check.at_s for check in (path, domain) if check] or [50.0])
    assert health.has_news == (health.is_actual and told is not health.is_valid)


class HostIdsOfTests:
    """Joins when asked, leaves when asked."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        self.lost: set[str] = set()

    def is_held(self, domain_id: str) -> bool:
        return domain_id in self.held

    def acquire(self, domain_id: str, host_id: int) -> None:
        self.held[domain_id] = host_id

    def check(self, domain_id: str) -> None:
        if domain_id in self.lost:
            self.held.pop(domain_id, None)

    def release(self, domain_id: str) -> None:
        self.held.pop(domain_id, None)


class Ward:
    """Monitors of domains that are as a test says: `failures` by domain, `gates` hold looks that hang."""

    def __init__(self, first: PathCheck | None = WELL) -> None:
        self.clock = VirtualClock()
        self.checker = FakeChecker(first)
        self.host_ids = HostIdsOfTests()
        self.failures: dict[str, Exception] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.isos: set[str] = set()
        self.places: dict[str, Path] = {}
        self.looks: list[str] = []
        self.settled: list[str] = []
        self.told: list[tuple[str, int]] = []
        self.monitors = Monitors(
            Watching(self.look, self.settle, self.checker, self.host_ids, self.clock, INTERVAL_S, self.hear)
        )

    async def look(self, domain_id: str) -> DomainLook:
        self.looks.append(domain_id)
        if domain_id in self.gates:
            await self.gates[domain_id].wait()
        if domain_id in self.failures:
            raise self.failures[domain_id]
        return DomainLook(5, SPACE, self.path(domain_id), domain_id in self.isos)

    def path(self, domain_id: str) -> Path:
        return self.places.get(domain_id, Path("/rhev") / domain_id / "metadata")

    async def settle(self, domain_id: str) -> None:
        self.settled.append(domain_id)
        if f"settle {domain_id}" in self.failures:
            raise self.failures.pop(f"settle {domain_id}")

    def hear(self, domain_id: str, health: Health) -> None:
        self.told.append((domain_id, health.code))

    def __getitem__(self, domain_id: str) -> Health:
        return self.monitors.list_health()[domain_id]

    async def __aenter__(self) -> "Ward":
        self.running = asyncio.create_task(self.monitors.run())
        await self.clock.advance(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.running.cancel()
        await asyncio.wait({self.running})
        assert self.running.cancelled()
        assert not self.checker.watched


@pytest.fixture
async def ward():
    async with Ward() as ward:
        yield ward


FIRST, SECOND = make_id(), make_id()


async def test_a_healthy_domain(ward):
    ward.monitors.watch_pool({FIRST: 7})
    await ward.clock.advance(25)
    health = ward[FIRST]
    assert (health.code, health.is_actual, health.version, health.delay_s) == (0, True, 5, 0.25)
    assert health.look is not None and health.look.space == SPACE
    assert ward.looks == [FIRST] * 3
    assert ward.told == [(FIRST, 0)]
    assert ward.settled == [FIRST]
    assert ward.host_ids.held == {FIRST: 7}


@pytest.mark.parametrize("is_stuck", [False, True], ids=["fails", "hangs"])
async def test_a_host_id_that_is_lost_with_the_storage_is_told(ward: Ward, is_stuck: bool) -> None:
    ward.monitors.watch_pool({FIRST: 7})
    await ward.clock.advance(5)
    if is_stuck:
        ward.gates[FIRST] = asyncio.Event()
    else:
        ward.failures[FIRST] = GONE
    await ward.clock.advance(30)
    assert not ward[FIRST].is_valid and ward.monitors.is_held(FIRST)
    ward.host_ids.lost.add(FIRST)
    await ward.clock.advance(INTERVAL_S)
    assert not ward.monitors.is_held(FIRST)


async def test_nothing_is_told_before_both_checks_are_done():
    async with Ward(first=None) as ward:
        ward.monitors.watch_pool({FIRST: 7})
        await ward.clock.advance(15)
        assert (ward[FIRST].is_valid, ward[FIRST].is_actual, ward[FIRST].version) == (True, False, 5)
        assert ward.told == [] and ward.host_ids.held == {}
        ward.checker.tell(PathCheck(0.5))
        assert ward.told == [(FIRST, 0)]
        await ward.clock.advance(5)
        assert ward.host_ids.held == {FIRST: 7} and ward.settled == [FIRST]


async def test_what_was_asked_for_earlier_begins_with_run():
    ward = Ward()
    ward.monitors.watch_pool({FIRST: 1})
    ward.monitors.start(SECOND, 1)
    assert (ward[FIRST].is_valid, ward[FIRST].is_actual, ward[FIRST].version) == (True, False, -1)
    async with ward:
        assert set(ward.looks) == {FIRST, SECOND}


async def test_each_change_is_told_once(ward):
    ward.monitors.watch_pool({FIRST: 1})
    await ward.clock.advance(1)
    for check in (PathCheck(failure="I/O error"), PathCheck(failure="I/O error"), PathCheck(0.1), PathCheck(0.2)):
        ward.checker.tell(check)
    assert ward.told == [(FIRST, 0), (FIRST, 2001), (FIRST, 0)]
    assert ward[FIRST].delay_s == 0.2
    ward.failures[FIRST] = GONE
    await ward.clock.advance(20)
    assert ward.told[3:] == [(FIRST, GONE.number)]
    assert ward[FIRST].version == 5  # the last one that was seen
    del ward.failures[FIRST]
    await ward.clock.advance(10)
    assert ward.told[4:] == [(FIRST, 0)]
    assert ward.settled == [FIRST] * 2


async def test_a_domain_that_is_not_there_is_looked_for_until_it_is(ward):
    ward.failures[FIRST] = GONE
    ward.monitors.start(FIRST, 3)
    await ward.clock.advance(25)
    assert ward.told == [(FIRST, GONE.number)] and len(ward.looks) == 3
    del ward.failures[FIRST]
    await ward.clock.advance(10)
    assert ward[FIRST].is_valid and ward.told[1:] == [(FIRST, 0)]
    await ward.clock.advance(10)
    assert ward.host_ids.held == {FIRST: 3}


async def test_a_read_that_hangs_is_told_once_and_no_look_begins(ward):
    ward.monitors.watch_pool({FIRST: 1, SECOND: 1})
    await ward.clock.advance(1)
    sick = ward.path(FIRST)
    ward.checker.tell(PathCheck(is_late=True), sick)
    late_s = ward.clock.monotonic()
    ward.looks.clear()
    for _ in range(5):
        await ward.clock.advance(INTERVAL_S)
        ward.checker.tell(PathCheck(is_late=True), sick)
    assert ward.looks == [SECOND] * 5
    assert ward.told[2:] == [(FIRST, 2001)] and "read timeout" in str(ward[FIRST].error)
    assert ward[FIRST].checked_s <= late_s  # what is known of it grows old
    ward.checker.tell(PathCheck(61.5), sick)
    assert ward.told[3:] == [(FIRST, 0)]
    await ward.clock.advance(INTERVAL_S)
    assert FIRST in ward.looks and ward[FIRST].checked_s > late_s


async def test_a_look_that_hangs_is_late_after_an_interval_and_costs_nobody_else(ward):
    ward.gates[FIRST] = asyncio.Event()
    ward.monitors.watch_pool({FIRST: 1, SECOND: 1})
    await ward.clock.advance(9)
    assert not ward[FIRST].is_actual and ward[SECOND].is_actual
    await ward.clock.advance(50)
    assert ward.told == [(SECOND, 0), (FIRST, 200)]
    assert ward.looks.count(FIRST) == 1 and ward.looks.count(SECOND) == 6
    ward.gates.pop(FIRST).set()
    await ward.clock.advance(0)
    assert ward.told[2:] == [(FIRST, 0)]
    await ward.clock.advance(INTERVAL_S)
    assert ward.looks.count(FIRST) >= 2


async def test_a_look_whose_thread_is_lost_is_followed_by_none_until_the_checker_reads(ward):
    ward.monitors.watch_pool({FIRST: 1})
    await ward.clock.advance(1)
    ward.failures[FIRST] = AccessTimeout(FIRST)
    await ward.clock.advance(INTERVAL_S)
    ward.looks.clear()
    await ward.clock.advance(5 * INTERVAL_S)
    assert ward.looks == [] and ward[FIRST].code == 200
    ward.checker.tell(PathCheck(is_late=True))
    assert ward[FIRST].code == 2001
    del ward.failures[FIRST]
    ward.checker.tell(PathCheck(0.1))
    await ward.clock.advance(INTERVAL_S)
    assert ward.looks == [FIRST] and ward[FIRST].is_valid


async def test_a_bug_in_a_look_is_a_failure_of_its_domain_alone(ward, caplog):
    ward.failures[FIRST] = ZeroDivisionError()
    ward.monitors.watch_pool({FIRST: 1, SECOND: 1})
    await ward.clock.advance(25)
    assert ward[FIRST].code == 200 and ward[SECOND].code == 0
    assert ward.looks.count(FIRST) == 3
    assert "ZeroDivisionError" in caplog.text


async def test_what_follows_from_being_valid_is_tried_again(ward):
    ward.failures[f"settle {FIRST}"] = GONE
    ward.monitors.watch_pool({FIRST: 1})
    await ward.clock.advance(25)
    assert ward.settled == [FIRST] * 2 and ward[FIRST].is_valid


async def test_a_domain_that_moved_is_read_where_it_is(ward):
    ward.monitors.watch_pool({FIRST: 1})
    await ward.clock.advance(1)
    before = ward.path(FIRST)
    ward.places[FIRST] = Path("/elsewhere/metadata")
    await ward.clock.advance(INTERVAL_S)
    assert list(ward.checker.watched) == [Path("/elsewhere/metadata")] != [before]


async def test_an_iso_domain_has_no_lockspace(ward):
    ward.isos.add(FIRST)
    ward.monitors.watch_pool({FIRST: 1})
    await ward.clock.advance(1)
    assert ward[FIRST].is_valid and ward.host_ids.held == {}


async def test_a_domain_that_leaves_the_pool_is_left(ward):
    ward.monitors.watch_pool({FIRST: 1, SECOND: 1})
    await ward.clock.advance(1)
    ward.monitors.watch_pool({SECOND: 1})
    await ward.clock.advance(0)
    assert set(ward.monitors.list_health()) == {SECOND} == set(ward.host_ids.held)
    assert list(ward.checker.watched) == [ward.path(SECOND)]


async def test_the_end_of_the_daemon_keeps_host_ids():
    async with Ward() as ward:
        ward.monitors.watch_pool({FIRST: 1})
        await ward.clock.advance(1)
    assert ward.host_ids.held == {FIRST: 1}


async def test_named_domains_and_the_pool(ward):
    ward.monitors.start(FIRST, 5)
    ward.monitors.start(FIRST, 6)  # stays as it is
    await ward.clock.advance(1)
    assert ward.host_ids.held == {FIRST: 5}
    ward.monitors.watch_pool({FIRST: 1})  # adopted: the same monitor goes on
    await ward.clock.advance(1)
    assert ward.looks == [FIRST]
    with pytest.raises(StorageDomainIsMemberOfPool) as refused:
        ward.monitors.stop(FIRST)
    assert refused.value.number == 900
    ward.monitors.watch_pool({})
    assert ward.monitors.list_health() == {}
    ward.monitors.start(FIRST, 2)
    ward.monitors.stop(FIRST)
    ward.monitors.stop(FIRST)
    assert ward.monitors.list_health() == {} == ward.host_ids.held


@pytest.mark.parametrize(
    ("domain_id", "host_id"),
    [("", 1), ("../x", 1), ("00000000-0000-0000-0000-000000000000", 1), (FIRST, 0), (FIRST, -1), (FIRST, 2001)],
)
async def test_bad_arguments_start_nothing(ward, domain_id, host_id):
    with pytest.raises(InvalidParameterException):
        ward.monitors.start(domain_id, host_id)
    assert ward.monitors.list_health() == {}


async def test_callers_can_name_only_so_many(ward):
    for _ in range(MAXIMUM_NAMED):
        ward.monitors.start(make_id(), 1)
    with pytest.raises(ResourceExhausted):
        ward.monitors.start(FIRST, 1)
    ward.monitors.watch_pool({SECOND: 1})
    assert len(ward.monitors.list_health()) == MAXIMUM_NAMED + 1


async def test_forty_five_domains_and_one_that_hangs():
    async with Ward() as ward:
        domains = {make_id(): 1 for _ in range(45)}
        sick, *well = domains
        ward.gates[sick] = asyncio.Event()
        ward.monitors.watch_pool(domains)
        await ward.clock.advance(100)
        assert {ward.looks.count(domain_id) for domain_id in well} == {11}
        assert dict(ward.told) == {sick: 200, **dict.fromkeys(well, 0)}


def test_every_failure_has_a_code():
    assert Health(0.0, path=Check(0.0, NodeError())).code == 200
