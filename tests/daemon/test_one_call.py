"""One call to another node, which answers, fails, stays silent, goes away, or is none."""

import asyncio
from pathlib import Path

import pytest

from tests.daemon.doors import listening, opened
from vdsm import pki
from vdsm.wire.client_session import Address, CallFailed, CallTimedOut, ConnectionFailed
from vdsm.wire.one_call import call_once
from vdsm.wire.tls import TlsFiles


async def test_results_and_failures() -> None:
    async with listening() as house:
        address = Address("127.0.0.1", house.port)
        assert await call_once(address, "Test.echo", {"a": ["x" * 200_000]}, 30.0) == {"a": ["x" * 200_000]}
        with pytest.raises(CallFailed, match="no luck"):
            await call_once(address, "Test.fail", {}, 30.0)
    with pytest.raises(ConnectionFailed):
        await call_once(address, "Test.echo", {}, 30.0)


async def test_over_tls(tmp_path: Path) -> None:
    pki.ensure(tmp_path / "pki", names=("localhost",))
    pki.ensure(tmp_path / "other", names=("localhost",))
    async with opened(pki=tmp_path / "pki") as house:
        port = await house.doors.open_tcp("127.0.0.1", 0)
        ours = Address("127.0.0.1", port, TlsFiles.of_client(tmp_path / "pki"))
        assert await call_once(ours, "Test.echo", {"a": 1}, 30.0) == {"a": 1}
        for stranger in (TlsFiles.of_client(tmp_path / "other"), TlsFiles.of_client(tmp_path / "none")):
            with pytest.raises(ConnectionFailed):
                await call_once(Address("127.0.0.1", port, stranger), "Test.echo", {}, 30.0)


@pytest.mark.parametrize(
    ("words", "failure"), [(None, CallTimedOut), (b"", ConnectionFailed), (b"HTTP/1.1 400\r\n", ConnectionFailed)]
)
async def test_who_is_no_node(words: bytes | None, failure: type[Exception]) -> None:
    over = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if words is None:
            await over.wait()
        else:
            writer.write(words)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(failure):
            await call_once(Address("127.0.0.1", port), "Test.echo", {}, 0.5)
        over.set()
