"""The clients of the wire against live doors: answers, failures, deadlines, events, many threads, lost connections."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.async_client import connect_async
from tests.daemon.doors import House, listening, opened, wait_for
from vdsm import pki
from vdsm.wire.client import (
    Address,
    CallFailed,
    CallTimedOut,
    Client,
    ConnectionFailed,
    connect,
)
from vdsm.wire.client_session import Session
from vdsm.wire.ports import EVENTS
from vdsm.wire.tls import TlsFiles


def plain(house: House) -> Address:
    return Address("127.0.0.1", house.port)


async def test_calls_give_results_and_failures():
    def use(address: Address) -> None:
        with connect(address) as client:
            assert client.call("Test.echo", {"a": [1, None, "x"]}) == {"a": [1, None, "x"]}
            assert client.call("Test.echo") == {}
            assert client.call("Test.whoami", flow_id="f 1:2")[2] == "f 1:2"
            with pytest.raises(CallFailed, match="no luck") as failure:
                client.call("Test.fail")
            assert failure.value.code == 100
            with pytest.raises(CallFailed) as failure:
                client.call("No.such")
            assert failure.value.code == -32601

    async with listening() as house:
        await asyncio.to_thread(use, plain(house))


async def test_over_tls_and_over_the_unix_socket(tmp_path):
    def use(address: Address) -> object:
        with connect(address) as client:
            return len(client.call("Test.large", {"size": 2_000_000})), client.call("Test.echo", ["y" * 2_000_000])[0][
                :1
            ]

    pki.ensure(tmp_path / "pki", names=("localhost",))
    tls = TlsFiles.of_client(tmp_path / "pki")
    async with opened(pki=tmp_path / "pki") as house:
        port = await house.doors.open_tcp("127.0.0.1", 0)
        await house.doors.open_unix(tmp_path / "sock")
        for address in (Address("127.0.0.1", port, tls), Address(socket_path=tmp_path / "sock")):
            assert await asyncio.to_thread(use, address) == (2_000_000, "y")
            async with await connect_async(address) as client:
                assert await client.call("Test.echo", {"z": 1}) == {"z": 1}


async def test_a_deadline_ends_the_wait_and_the_late_answer_is_ignored():
    def use(address: Address, house: House, loop: asyncio.AbstractEventLoop) -> None:
        with connect(address) as client:
            with pytest.raises(CallTimedOut):
                client.call("Test.hold", timeout_s=0.02)
            loop.call_soon_threadsafe(house.calls.release.set)
            assert client.call("Test.echo", [1]) == [1]
            assert not client._session.waiting and not client._session.answers

    async with listening() as house:
        await asyncio.to_thread(use, plain(house), house, asyncio.get_running_loop())


@pytest.mark.parametrize("secure", [False, True])
async def test_many_threads_share_one_connection(secure, tmp_path):
    def use(client: Client) -> None:
        with ThreadPoolExecutor(8) as pool:
            results = list(
                pool.map(lambda n: client.call("Test.echo", {"n": n, "x": "x" * (n * 37 % 5000)})["n"], range(400))
            )
        assert results == list(range(400))
        assert not client._session.waiting and not client._session.answers

    folder = tmp_path if secure else None
    if secure:
        pki.ensure(tmp_path, names=("localhost",))
    async with listening(pki=folder) as house:
        address = Address("127.0.0.1", house.port, TlsFiles.of_client(tmp_path) if secure else None)
        client = await asyncio.to_thread(connect, address)
        await asyncio.to_thread(use, client)
        await asyncio.to_thread(client.close)


async def test_a_thread_that_waits_long_reads_for_one_that_does_not():
    def use(address: Address, house: House, loop: asyncio.AbstractEventLoop) -> None:
        with connect(address) as client, ThreadPoolExecutor(1) as pool:
            long = pool.submit(client.call, "Test.hold")
            assert client.call("Test.echo", [1]) == [1]
            with pytest.raises(CallTimedOut):
                client.call("Test.hold", timeout_s=0.02)
            loop.call_soon_threadsafe(house.calls.release.set)
            assert long.result() is True

    async with listening() as house:
        await asyncio.to_thread(use, plain(house), house, asyncio.get_running_loop())


async def test_events_are_delivered_in_order_until_unsubscribed():
    def use(address: Address, house: House, loop: asyncio.AbstractEventLoop) -> None:
        def publish(n: int) -> int:
            body = json.dumps({"jsonrpc": "2.0", "method": f"|virt|VM_status|{n}", "params": {"n": n}}).encode()
            done: list[int] = []
            ready = threading.Event()
            loop.call_soon_threadsafe(lambda: (done.append(house.doors.stomp.publish(EVENTS, body)), ready.set()))
            assert ready.wait(10)
            return done[0]

        with connect(address) as client:
            id = client.subscribe(EVENTS)
            client.call("Test.echo")  # by now the subscription is there
            assert [publish(n) for n in range(3)] == [1, 1, 1]
            events = [client.get_event(10) for _ in range(3)]
            assert [event and event.params for event in events] == [{"n": 0}, {"n": 1}, {"n": 2}]
            assert events[0] is not None and events[0].method == "|virt|VM_status|0"
            assert client.get_event(0.01) is None
            client.unsubscribe(id)
            client.call("Test.echo")
            assert publish(3) == 0

    async with listening() as house:
        await asyncio.to_thread(use, plain(house), house, asyncio.get_running_loop())


async def test_clients_can_publish_to_each_other():
    async with listening() as house, await connect_async(plain(house)) as one, await connect_async(plain(house)) as two:
        two.subscribe("topic")
        await two.call("Test.echo")
        one.publish("topic.below", b'{"method":"hello","params":[1]}')
        event = await two.get_event()
        assert (event.method, event.params, event.destination) == ("hello", [1], "topic.below")


async def test_unreachable_nodes_are_told_apart_from_calls(tmp_path):
    pki.ensure(tmp_path, names=("localhost",))
    async with listening() as house:
        address = plain(house)
        with pytest.raises(ConnectionFailed):
            await asyncio.to_thread(connect, Address("127.0.0.1", house.port, TlsFiles.of_client(tmp_path)), 5)
    for wrong in (address, Address(socket_path=tmp_path / "none")):
        with pytest.raises(ConnectionFailed, match="cannot connect"):
            await asyncio.to_thread(connect, wrong)
        with pytest.raises(ConnectionFailed, match="cannot connect"):
            await connect_async(wrong)


async def test_a_connection_that_ends_fails_the_calls_that_wait():
    async with listening() as house:
        client = await asyncio.to_thread(connect, plain(house))
        other = await connect_async(plain(house))
        waiting = [
            asyncio.create_task(asyncio.to_thread(client.call, "Test.hold")),
            asyncio.create_task(other.call("Test.hold")),
        ]
        await wait_for(lambda: house.calls.held == 2)
        await house.doors.close(0)
        for call in waiting:
            with pytest.raises(ConnectionFailed):
                await call
        with pytest.raises(ConnectionFailed):
            await asyncio.to_thread(client.call, "Test.echo")
        with pytest.raises(ConnectionFailed):
            await other.get_event()
        await asyncio.to_thread(client.close)
        await other.close()


async def test_closing_a_client_ends_its_other_threads():
    async with listening() as house:
        client = await asyncio.to_thread(connect, plain(house))
        waiting = asyncio.create_task(asyncio.to_thread(client.call, "Test.hold"))
        await wait_for(lambda: house.calls.held)
        await asyncio.to_thread(client.close)
        with pytest.raises(ConnectionFailed):
            await waiting


async def test_the_async_client_keeps_many_calls_apart_and_gives_deadlines():
    async with listening() as house, await connect_async(plain(house)) as client:
        assert await asyncio.gather(*(client.call("Test.echo", [n]) for n in range(200))) == [[n] for n in range(200)]
        with pytest.raises(CallTimedOut):
            await client.call("Test.hold", timeout_s=0.01)
        with pytest.raises(CallFailed):
            await client.call("Test.fail")
        assert not client._calls and not client._session.waiting


async def test_what_a_refused_frame_said_is_told_when_the_connection_ends():
    async with listening() as house, await connect_async(plain(house)) as client:
        client._write(b"SEND\nbroken\n\n\0")
        with pytest.raises(ConnectionFailed, match="Malformed frame"):
            await client.call("Test.hold")


def test_bytes_that_are_no_frames_are_a_connection_failure():
    with pytest.raises(ConnectionFailed):
        Session().feed(b"\xff\n\n\0")


@pytest.mark.parametrize("body", [b"not json", b"[1]", b"[" * 9000, b'{"id":{}}', b'"\xff"'])
def test_messages_that_cannot_be_understood_are_skipped(body):
    session = Session()
    session.feed(b"MESSAGE\n\n" + body + b'\0MESSAGE\n\n{"method":"next"}\0')
    assert [notice.method for notice in session.notices] == ["next"]


def test_answers_nobody_waits_for_are_dropped():
    session = Session()
    assert session.feed(b'MESSAGE\n\n{"jsonrpc":"2.0","id":"other","result":1}\0') == []
    assert not session.answers
