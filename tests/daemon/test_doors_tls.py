"""Who gets in over TLS, and who gets nothing (facts: rpc §1.2)."""

import asyncio
import shutil
import ssl
from datetime import UTC, datetime, timedelta

import pytest

from tests.daemon.doors import House, Visitor, listening, wait_for
from vdsm import pki
from vdsm.wire.listener import CannotListen, Doors
from vdsm.wire.ports import Limits
from vdsm.wire.tls import ServerContexts, TlsFiles, make_client_context


@pytest.fixture
def folder(tmp_path):
    pki.ensure(tmp_path / "pki", names=("localhost",))
    return tmp_path / "pki"


def bare_context(folder) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=folder / "certs/cacert.pem")
    context.check_hostname = False
    return context


async def get_reaction(house: House, context: ssl.SSLContext | None) -> bytes:
    """All that a client with this context gets to read."""
    try:
        async with house.visit(context) as visitor:
            visitor.send("CONNECT", accept_version="1.2")
            return await visitor.read_to_end()
    except (ssl.SSLError, ConnectionError):
        return b""


async def connect(house: House, context: ssl.SSLContext) -> str:
    """Speak STOMP over TLS; gives the serial number of the certificate that the server showed."""
    async with house.visit(context) as visitor:
        await greet(visitor)
        certificate = visitor.writer.get_extra_info("ssl_object").getpeercert()
        return str(certificate["serialNumber"])


async def greet(visitor: Visitor) -> None:
    visitor.send("CONNECT", accept_version="1.2")
    assert (await visitor.get()).command == "CONNECTED"


@pytest.mark.parametrize("files", [TlsFiles.below, TlsFiles.of_client])
async def test_certificates_of_the_authority_are_let_in(folder, files):
    async with listening(pki=folder) as house:
        await connect(house, make_client_context(files(folder)))


async def test_http_over_tls_knows_that_it_is(folder):
    async with listening(pki=folder) as house, house.visit(make_client_context(TlsFiles.of_client(folder))) as visitor:
        visitor.say(b"GET /origin HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await visitor.read_to_end()
        assert answer.startswith(b"HTTP/1.1 200") and b'["https",["127.0.0.1",' in answer


async def test_without_a_certificate_nothing_is_answered(folder, caplog):
    async with listening(pki=folder) as house:
        assert await get_reaction(house, bare_context(folder)) == b""
        await wait_for(lambda: "TLS handshake failed" in caplog.text)
    assert "Traceback" not in caplog.text


async def test_of_another_authority_nothing_is_answered(folder, tmp_path):
    pki.ensure(tmp_path / "other", names=("localhost",))
    context = bare_context(folder)
    files = TlsFiles.of_client(tmp_path / "other")
    context.load_cert_chain(files.certificate, files.key)
    async with listening(pki=folder) as house:
        assert await get_reaction(house, context) == b""


async def test_an_expired_certificate_gets_nothing(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "past")
    long_ago = datetime.now(UTC) - pki.LEAF_LIFE - timedelta(days=1)
    pki.ensure(tmp_path / "past", names=("localhost",), now=lambda: long_ago)
    expired = TlsFiles.of_client(tmp_path / "past")
    context = bare_context(folder)
    context.load_cert_chain(expired.certificate, expired.key)
    async with listening(pki=folder) as house:
        assert await get_reaction(house, context) == b""
        await connect(house, make_client_context(TlsFiles.of_client(folder)))


async def test_plain_bytes_on_the_tls_door_get_nothing(folder):
    async with listening(pki=folder) as house:
        assert b"CONNECTED" not in await get_reaction(house, None)


async def test_a_certificate_replaced_under_the_running_daemon_is_shown_to_new_clients(folder):
    context = make_client_context(TlsFiles.of_client(folder))
    async with listening(pki=folder) as house, house.visit(context) as before:
        await greet(before)
        first = await connect(house, context)
        assert await connect(house, context) == first
        (folder / "certs/vdsmcert.pem").unlink()
        pki.ensure(folder, names=("localhost",))
        assert await connect(house, context) != first
        await before.subscribe("the old connection goes on")


async def test_a_client_of_a_replaced_authority_is_no_longer_let_in(folder):
    old = make_client_context(TlsFiles.of_client(folder))
    async with listening(pki=folder) as house:
        await connect(house, old)
        shutil.rmtree(folder)
        pki.ensure(folder, names=("localhost",))
        old.load_verify_locations(folder / "certs/cacert.pem")
        assert await get_reaction(house, old) == b""
        await connect(house, make_client_context(TlsFiles.of_client(folder)))


async def test_a_handshake_that_never_comes_is_ended(folder):
    async with listening(Limits(handshake_s=0.05), folder) as house, house.visit() as silent:
        assert await silent.read_to_end() == b""


async def test_silence_after_the_handshake_is_ended(folder):
    context = make_client_context(TlsFiles.of_client(folder))
    async with listening(Limits(detection_s=0.05), folder) as house, house.visit(context) as silent:
        assert await silent.read_to_end() == b""


async def test_tls_without_certificates_does_not_start(tmp_path):
    doors = Doors(None, None, Limits(), ServerContexts(TlsFiles.below(tmp_path)))  # type: ignore[arg-type]
    with pytest.raises(CannotListen, match="TLS is not possible"):
        await doors.open_tcp("127.0.0.1", 0)


async def test_the_first_bytes_may_come_with_the_handshake(folder):
    """A client that sends at once: its bytes can arrive before the server's side of the handshake has returned."""
    context = make_client_context(TlsFiles.of_client(folder))
    async with listening(pki=folder) as house:
        for _ in range(20):
            await asyncio.gather(*(connect(house, context) for _ in range(5)))
