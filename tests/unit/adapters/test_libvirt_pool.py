import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import libvirt
import pytest

from tests.unit.adapters.libvirt_doubles import Connection, Connections, Libvirt
from vdsm.adapters.libvirt.calls import Calls, CallSettings
from vdsm.adapters.libvirt.connection import Link, translate
from vdsm.adapters.libvirt.pool import CallExpired, Pool
from vdsm.core.errors import GeneralFailure, ResourceExhausted
from vdsm.virt.ports import HypervisorDown, HypervisorRefused, HypervisorTimeout, NoSuchDomain

T = TypeVar("T")
VM = "11111111-2222-4333-8444-555555555555"
LIMIT_S = 20.0


class Rig:
    """A pool of two threads that may write off two calls."""

    def __init__(self) -> None:
        self.connections = Connections()
        self.link = Link()
        self.link.set_up()
        self.pool = Pool(self.connections.open, self.link, size=2, written_off_limit=2)
        self.gates: list[threading.Event] = []

    async def call(self, function: Callable[[libvirt.virConnect], T], timeout_s: float = LIMIT_S, extra: int = 0) -> T:
        return await self.pool.call(
            function,
            what="test",
            translate=lambda error: translate(error, VM, "test", timeout_s),
            timeout_s=timeout_s,
            extra=extra,
        )

    def make_gate(self) -> threading.Event:
        """What a call hangs on until the test opens it."""
        self.gates.append(threading.Event())
        return self.gates[-1]

    async def hang(self, timeout_s: float = 0.01, extra: int = 0) -> threading.Event:
        """Let one call be written off."""
        gate = self.make_gate()
        with pytest.raises(CallExpired):
            await self.call(lambda _: gate.wait(LIMIT_S), timeout_s, extra)
        return gate


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    for gate in rig.gates:
        gate.set()
    await rig.pool.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.001)


async def test_calls_run_in_threads_that_keep_their_connection(rig: Rig) -> None:
    threads = [await rig.call(lambda _: threading.current_thread()) for _ in range(3)]
    assert len(set(threads)) == 1 and threads[0] is not threading.current_thread()
    assert len(rig.connections.opened) == 1


async def test_no_connection_is_shared(rig: Rig) -> None:
    both = threading.Barrier(2, timeout=LIMIT_S)

    def meet(connection: libvirt.virConnect) -> int:
        both.wait()
        return id(connection)

    assert len(set(await asyncio.gather(rig.call(meet), rig.call(meet)))) == 2


async def test_third_call_waits_for_a_thread(rig: Rig) -> None:
    gates = [rig.make_gate(), rig.make_gate()]
    async with asyncio.TaskGroup() as tasks:
        for gate in gates:
            tasks.create_task(rig.call(lambda _, gate=gate: gate.wait(LIMIT_S)))
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted):
            await rig.call(lambda _: None, timeout_s=0.01)
        third = tasks.create_task(rig.call(lambda _: "served"))
        assert await rig.call(lambda _: "beyond the limit", extra=1) == "beyond the limit"
        gates[0].set()
        assert await third == "served"
        gates[1].set()


async def test_written_off_call_gives_up_thread_and_connection(rig: Rig) -> None:
    gate = await rig.hang()
    assert rig.pool.written_off == ["test"]
    await rig.call(lambda _: None)
    stuck, fresh = rig.connections.opened
    assert isinstance(stuck, Connection) and not stuck.closed.is_set()
    gate.set()
    await until(lambda: not rig.pool.written_off)
    assert await asyncio.to_thread(stuck.closed.wait, LIMIT_S)
    assert fresh is not stuck


async def test_written_off_calls_are_bounded(rig: Rig) -> None:
    gate = await rig.hang()
    await rig.hang()
    with pytest.raises(ResourceExhausted):
        await rig.call(lambda _: None)
    await rig.hang(extra=1)
    with pytest.raises(ResourceExhausted):
        await rig.call(lambda _: None, extra=1)
    assert len(rig.connections.opened) == 3
    gate.set()
    await until(lambda: len(rig.pool.written_off) == 2)
    assert await rig.call(lambda _: "destroyed", extra=1) == "destroyed"


async def test_waiting_calls_fail_when_the_bound_is_reached(rig: Rig) -> None:
    gates = [rig.make_gate(), rig.make_gate()]
    hanging = [rig.call(lambda _, gate=gate: gate.wait(LIMIT_S), timeout_s=0.05) for gate in gates]
    gate = rig.make_gate()
    waiting = [rig.call(lambda _: gate.wait(LIMIT_S), timeout_s=LIMIT_S) for _ in range(3)]
    results = asyncio.gather(*hanging, *waiting, return_exceptions=True)
    await until(lambda: len(rig.pool.written_off) == 2)
    gate.set()
    kinds = [type(result) for result in await results]
    assert kinds[:2] == [CallExpired, CallExpired]
    assert kinds.count(ResourceExhausted) == 2 and kinds.count(bool) == 1


async def test_cancelled_caller_leaves_the_call_to_its_end(rig: Rig) -> None:
    gate, returned = rig.make_gate(), asyncio.Event()
    task = asyncio.create_task(
        rig.pool.call(
            lambda _: gate.wait(LIMIT_S),
            what="test",
            translate=lambda error: GeneralFailure(str(error)),
            timeout_s=LIMIT_S,
            on_return=returned.set,
        )
    )
    await until(lambda: len(rig.connections.opened) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not returned.is_set()
    gate.set()
    await asyncio.wait_for(returned.wait(), LIMIT_S)


async def test_lost_connection_is_opened_again(rig: Rig) -> None:
    await rig.call(lambda _: None)
    [connection] = rig.connections.opened
    assert isinstance(connection, Connection)

    def lose(_: libvirt.virConnect) -> None:
        connection.alive = False
        raise Libvirt(libvirt.VIR_ERR_SYSTEM_ERROR, "End of file")

    with pytest.raises(HypervisorDown, match="End of file"):
        await rig.call(lose)
    assert connection.closed.is_set()
    await rig.call(lambda _: None)
    assert len(rig.connections.opened) == 2


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (libvirt.VIR_ERR_NO_DOMAIN, NoSuchDomain),
        (libvirt.VIR_ERR_OPERATION_TIMEOUT, HypervisorTimeout),
        (libvirt.VIR_ERR_OPERATION_INVALID, HypervisorRefused),
        (libvirt.VIR_ERR_SYSTEM_ERROR, HypervisorRefused),  # the connection is alive
    ],
)
async def test_errors_of_libvirt_become_the_ports(rig: Rig, code: int, kind: type[Exception]) -> None:
    def fail(_: libvirt.virConnect) -> None:
        raise Libvirt(code, "no")

    with pytest.raises(kind) as failure:
        await rig.call(fail)
    assert isinstance(failure.value.__cause__, libvirt.libvirtError)
    assert failure.value.__cause__.__traceback__ is None  # its frames would keep libvirt's objects alive
    if isinstance(failure.value, HypervisorRefused):
        assert (failure.value.kind, failure.value.reason) == (code, "no")


async def test_a_refusal_keeps_what_was_sent_no_longer_than_its_catcher(rig: Rig) -> None:
    class Heavy:
        """Stands for a VM's XML."""

    def refuse(sent: Heavy) -> None:
        raise Libvirt(libvirt.VIR_ERR_XML_ERROR)

    sent = Heavy()
    kept = weakref.ref(sent)
    gc.disable()  # what only a collection would free does not count
    try:
        with suppress(HypervisorRefused):
            await rig.call(partial(lambda sent, _: refuse(sent), sent))
        del sent
        async with asyncio.timeout(LIMIT_S):
            while kept() is not None:
                await asyncio.sleep(0)
    finally:
        gc.enable()


async def test_mistake_in_a_call_costs_its_thread_only(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    with pytest.raises(GeneralFailure):
        await rig.call(lambda _: 1 // 0)
    assert await rig.call(lambda _: 5) == 5
    await until(lambda: len(told) == 1)
    assert told[0].exc_type is ZeroDivisionError


async def test_down_means_failing_without_a_thread(rig: Rig) -> None:
    rig.link.set_down("libvirtd ended")
    with pytest.raises(HypervisorDown, match="libvirtd ended"):
        await rig.call(lambda _: None)
    rig.link.set_up()
    rig.connections.failure = HypervisorDown("refused")
    with pytest.raises(HypervisorDown, match="refused"):
        await rig.call(lambda _: None)
    assert rig.connections.opened == []


async def test_abandoning_tells_all_who_wait(rig: Rig) -> None:
    gate = rig.make_gate()
    calls = [asyncio.create_task(rig.call(lambda _: gate.wait(LIMIT_S))) for _ in range(3)]
    await until(lambda: len(rig.connections.opened) == 2)
    rig.pool.abandon("gone")
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [HypervisorDown] * 3
    assert len(rig.pool.written_off) == 2


async def test_closing_closes_idle_connections_and_leaves_stuck_ones(rig: Rig) -> None:
    await rig.hang()
    await rig.call(lambda _: None)
    await rig.pool.close()
    stuck, idle = rig.connections.opened
    assert isinstance(stuck, Connection) and isinstance(idle, Connection)
    assert idle.closed.is_set() and not stuck.closed.is_set()
    with pytest.raises(HypervisorDown):
        await rig.call(lambda _: None)


class Domain:
    """A domain whose suspend hangs at a gate."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.destroyed = 0

    def suspend(self) -> bool:
        return self.gate.wait(LIMIT_S)


class WithDomain(Connection):
    domain = Domain()

    def lookupByUUIDString(self, _: str) -> Domain:
        return self.domain


class TestCalls:
    @pytest.fixture
    async def domain(self) -> AsyncIterator[Domain]:
        WithDomain.domain = Domain()
        yield WithDomain.domain
        WithDomain.domain.gate.set()

    @pytest.fixture
    async def calls(self, domain: Domain) -> AsyncIterator[Calls]:
        link = Link()
        link.set_up()
        pool = Pool(Connections(WithDomain).open, link)
        yield Calls(pool, link, CallSettings(vm_command_timeout_s=0.3, destroy_patience_s=0.01))
        await pool.close()

    async def test_only_destroy_reaches_a_stuck_vm(self, calls: Calls, domain: Domain) -> None:
        with pytest.raises(HypervisorTimeout):
            await calls.on_vm(VM, "suspend", lambda domain: domain.suspend())
        with pytest.raises(HypervisorTimeout, match="suspend"):
            await calls.on_vm(VM, "resume", lambda domain: pytest.fail("reached libvirt"))
        with pytest.raises(HypervisorTimeout):
            await calls.on_vm(VM, "start", lambda domain: pytest.fail("reached libvirt"), calls.starts)
        assert await calls.destroy(VM, lambda domain: "destroyed") == "destroyed"
        assert await calls.destroy(VM, lambda domain: "again") == "again"

    async def test_vm_is_served_again_when_its_call_returned(self, calls: Calls, domain: Domain) -> None:
        with pytest.raises(HypervisorTimeout):
            await calls.on_vm(VM, "suspend", lambda domain: domain.suspend())
        domain.gate.set()
        async with asyncio.timeout(LIMIT_S):
            while True:
                try:
                    assert await calls.on_vm(VM, "resume", lambda domain: "resumed") == "resumed"
                    return
                except HypervisorTimeout:
                    await asyncio.sleep(0.001)

    async def test_destroy_goes_beside_a_call_that_takes_its_time(self, calls: Calls, domain: Domain) -> None:
        start = asyncio.create_task(calls.on_vm(VM, "start", lambda domain: domain.suspend(), calls.starts))
        await asyncio.sleep(0)
        assert await calls.destroy(VM, lambda domain: "destroyed") == "destroyed"
        domain.gate.set()
        assert await start is True

    async def test_definitions_that_take_long_leave_room_for_others(self, calls: Calls, domain: Domain) -> None:
        ids = [VM[:-1] + str(number) for number in range(5)]
        begun: list[str] = []

        def define(vm_id: str) -> bool:
            begun.append(vm_id)
            return domain.suspend()

        defining = [
            asyncio.create_task(calls.for_vm(vm_id, "define", lambda _, vm_id=vm_id: define(vm_id), calls.definitions))
            for vm_id in ids
        ]
        async with asyncio.timeout(LIMIT_S):
            while len(begun) < 2:
                await asyncio.sleep(0.001)
        assert await calls.on_vm(VM[:-1] + "9", "resume", lambda domain: "resumed") == "resumed"
        assert set(begun) == set(ids[:2])  # two threads: either may be first
        domain.gate.set()
        assert await asyncio.gather(*defining) == [True] * 5

    async def test_ids_that_libvirt_cannot_know(self, calls: Calls) -> None:
        with pytest.raises(NoSuchDomain):
            await calls.on_vm("not a uuid", "suspend", lambda domain: pytest.fail("reached libvirt"))

    async def test_host_calls_that_hang_mean_that_libvirt_is_stuck(self, calls: Calls, domain: Domain) -> None:
        with pytest.raises(HypervisorDown):
            await calls.on_host("capabilities", lambda _: domain.gate.wait(LIMIT_S))
