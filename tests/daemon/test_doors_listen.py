"""Addresses, the unix socket, detection, HTTP, and bounds on connections (facts: rpc §1.1)."""

import asyncio
import os
import socket
import stat
import time

import pytest

from tests.daemon.doors import Visitor, listening, opened, wait_for
from vdsm.wire.listener import CannotListen
from vdsm.wire.ports import Limits

GET = b"GET /origin HTTP/1.1\r\nHost: x\r\n\r\n"


async def speak_http(host: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET /origin HTTP/1.0\r\n\r\n")
    try:
        return await Visitor(reader, writer).read_to_end()
    finally:
        writer.transport.abort()


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("wildcard", ["::", "0.0.0.0", "", "localhost"])
async def test_a_plain_wildcard_means_loopback_only(wildcard):
    async with opened() as house:
        port = await house.doors.open_tcp(wildcard, 0, tls=False)
        names = {server.sockets[0].getsockname()[:2] for server in house.doors._servers}
        assert names == {("127.0.0.1", port), ("::1", port)} if has_ipv6() else {("127.0.0.1", port)}
        assert b'"127.0.0.1"' in await speak_http("127.0.0.1", port)


@pytest.mark.parametrize("address", ["192.0.2.1", "10.0.0.1", "fe80::1", "example.org"])
async def test_plain_tcp_beyond_loopback_is_refused(address):
    async with opened() as house:
        with pytest.raises(CannotListen, match="only loopback"):
            await house.doors.open_tcp(address, 0, tls=False)


async def test_a_taken_port_is_a_clear_error():
    async with listening() as house, opened() as second:
        with pytest.raises(CannotListen, match=f"port {house.port}: Address already in use"):
            await second.doors.open_tcp("127.0.0.1", house.port, tls=False)


async def test_a_dual_stack_wildcard_names_ipv4_peers_plainly(tmp_path):
    from vdsm import pki

    pki.ensure(tmp_path, names=("localhost",))
    async with opened(pki=tmp_path) as house:
        port = await house.doors.open_tcp("::", 0)
        listening_on = house.doors._servers[0].sockets[0]
        assert listening_on.getsockname()[0] in ("::", "0.0.0.0")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await wait_for(lambda: house.doors._unproven)
        assert next(iter(house.doors._unproven))._from.startswith("127.0.0.1,")
        writer.transport.abort()


async def test_the_unix_socket_is_for_owner_and_group(tmp_path):
    path = tmp_path / "run" / "vdsmd.sock"
    async with opened() as house:
        await house.doors.open_unix(path, os.getgid())
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        reader, writer = await asyncio.open_unix_connection(str(path))
        visitor = Visitor(reader, writer)
        await visitor.subscribe("mine")
        visitor.call("Test.whoami", {}, "mine")
        assert (await visitor.get_answer())["result"] == ["unix", "", "", "ADMINISTER"]
        writer.transport.abort()
    assert not path.exists()


async def test_http_over_the_unix_socket(tmp_path):
    path = tmp_path / "vdsmd.sock"
    async with opened() as house:
        await house.doors.open_unix(path)
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"GET /origin HTTP/1.0\r\n\r\n")
        assert b'["http",null,"unix","ADMINISTER",0]' in await Visitor(reader, writer).read_to_end()
        writer.transport.abort()


async def test_a_dead_daemons_socket_is_replaced_a_living_ones_is_not(tmp_path):
    path = tmp_path / "vdsmd.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with opened() as first, opened() as second:
        await first.doors.open_unix(path)
        with pytest.raises(CannotListen, match="another daemon"):
            await second.doors.open_unix(path)
        assert path.is_socket()


async def test_what_is_no_socket_is_not_replaced(tmp_path):
    path = tmp_path / "vdsmd.sock"
    path.write_text("precious")
    async with opened() as house:
        with pytest.raises(CannotListen):
            await house.doors.open_unix(path)
    assert path.read_text() == "precious"


async def test_http_requests_on_one_connection_and_in_pieces():
    async with listening() as house, house.visit() as visitor:
        for byte in GET:
            visitor.say(bytes([byte]))
            await visitor.writer.drain()
        visitor.say(
            b"POST /origin HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\nConnection: close\r\n\r\n" + b"x" * 100_000
        )
        answer = await visitor.read_to_end()
        assert answer.count(b"HTTP/1.1 200") == 2
        assert answer.endswith(b'"127.0.0.1","ADMINISTER",100000]')


@pytest.mark.parametrize("data", [b"\x00\x01\x02", b"hello there", b"get / HTTP/1.1\r\n", b"\n\n\n", b"A" * 100])
async def test_neither_protocol_is_told_so(data):
    async with listening() as house, house.visit() as visitor:
        visitor.say(data)
        answer = await visitor.read_to_end()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400")
        assert f"content-length: {len(body)}".encode() in head


async def test_tls_on_a_plain_door_is_ended():
    async with listening() as house, house.visit() as visitor:
        visitor.say(b"\x16\x03\x01\x02\x00")
        assert await visitor.read_to_end() == b""


@pytest.mark.parametrize("first", [b"", b"CONN"])
async def test_silence_before_the_protocol_shows_is_ended(first):
    async with listening(Limits(detection_s=0.05)) as house, house.visit() as visitor:
        visitor.say(first)
        assert await visitor.read_to_end() == b""


async def test_of_many_silent_connections_the_oldest_makes_room():
    async with listening(Limits(unproven_connections=3)) as house:
        visits = [house.visit() for _ in range(4)]
        silent = [await visit.__aenter__() for visit in visits]
        assert await silent[0].read_to_end() == b""
        await house.check_alive()
        for visit in visits:
            await visit.__aexit__(None, None, None)


async def test_connections_are_bounded_and_room_is_made_by_leaving():
    async with listening(Limits(connections=2)) as house:
        async with house.visit() as one, house.visit() as two, house.visit() as early:
            await one.subscribe("a")
            two.say(GET)
            assert (await two.reader.readline()).startswith(b"HTTP/1.1 200")
            early.say(GET)
            assert await early.read_to_end() == b""
            async with house.visit() as late:
                assert await late.read_to_end() == b""
        await wait_for(lambda: house.doors.stomp.connections == 0)
        await house.check_alive()


async def test_incomplete_requests_are_ended(monkeypatch):
    monkeypatch.setattr("vdsm.wire.http.LOOK_S", 0.01)
    async with listening(Limits(request_head_s=0.02, request_body_s=0.02)) as house:
        for data in (b"GET /ori", b"POST /origin HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nab"):
            async with house.visit() as visitor:
                visitor.say(data)
                assert await visitor.read_to_end() == b""


@pytest.mark.parametrize(
    "limits",
    [
        Limits(closing_s=0.01, request_body_s=1000, unsent_bytes=1000),
        Limits(closing_s=1000, request_body_s=0.02, unsent_bytes=1 << 30),
    ],
)
async def test_who_leaves_answers_unread_is_cut_off(monkeypatch, limits):
    monkeypatch.setattr("vdsm.wire.http.LOOK_S", 0.01)
    async with listening(limits) as house, house.visit() as visitor:
        visitor.say(b"GET /large/20000000 HTTP/1.1\r\nHost: x\r\n\r\n" * 2)  # more than all buffers in between
        await wait_for(lambda: house.doors.http.state.total_requests)
        await wait_for(lambda: not house.doors.http.state.connections)
        await house.check_alive()


async def test_an_idle_http_connection_ends_after_the_silence_that_is_borne_in_a_body():
    assert Limits().request_body_s >= 60  # Python's xmlrpc.client does not call again when TLS was hung up on
    async with listening(Limits(request_body_s=0.5)) as house, house.visit() as visitor:
        began_s = time.monotonic()
        visitor.say(GET)
        assert (await visitor.read_to_end()).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - began_s >= 0.9  # it was not closed at once


async def test_idle_http_connections_end_with_the_doors():
    async with listening() as house, house.visit() as visitor:
        visitor.say(GET)
        assert (await visitor.reader.readline()).startswith(b"HTTP/1.1 200")
        await house.doors.close(5)
        await visitor.read_to_end()
        assert not house.doors.http.state.connections
