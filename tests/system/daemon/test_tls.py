"""Who gets in over TCP: with a valid certificate of the node's authority all, without it nothing; certificates change
under the running daemon."""

import shutil
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from cryptography import x509

from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.vdsmd import Vdsmd
from vdsm import pki
from vdsm.wire.client import Address, connect
from vdsm.wire.tls import TlsFiles, make_client_context

STOMP = b"CONNECT\naccept-version:1.2\n\n\0"
HTTP = b"GET /api/v1/host/capabilities HTTP/1.1\r\nHost: localhost\r\n\r\n"
XML_RPC = (
    b"POST /RPC2 HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/xml\r\nContent-Length: 66\r\n\r\n"
    b"<methodCall><methodName>ping</methodName><params></params></methodCall>"
)
ALERT = 0x15
CAPABLE_S = 30.0


@pytest.fixture(scope="module")
def daemon(_libvirtd_of_session: PrivateLibvirtd) -> Iterator[Vdsmd]:
    """A daemon with an authority that is old enough for an expired client certificate, kept in `expired`."""
    _libvirtd_of_session.start()
    daemon = Vdsmd(_libvirtd_of_session.uri)
    folder = daemon.paths.pki
    pki.ensure(folder, now=lambda: datetime.now(UTC) - pki.LEAF_LIFE - timedelta(days=1))
    shutil.copytree(folder, daemon.root / "expired")
    with daemon:  # which renews what has expired
        yield daemon


def make_context(daemon: Vdsmd, client: str, version: ssl.TLSVersion) -> ssl.SSLContext:
    """The context of a client that trusts the daemon, with or without something to show."""
    context = ssl.create_default_context(cafile=daemon.paths.pki / "certs/cacert.pem")
    context.maximum_version = version
    if client == "nothing":
        return context
    folders = {"valid": daemon.paths.pki, "expired": daemon.root / "expired", "foreign": daemon.root / "foreign"}
    if client == "foreign":
        pki.ensure(folders[client])
    files = TlsFiles.of_client(folders[client])
    context.load_cert_chain(files.certificate, files.key)
    return context


def get_answer(port: int, context: ssl.SSLContext | None, words: bytes) -> bytes:
    """All that the daemon says to a client that says these words, until it falls silent or closes."""
    with socket.create_connection(("localhost", port), CAPABLE_S) as connection:
        try:
            if context is None:
                connection.sendall(words)
                return connection.recv(65536)
            with context.wrap_socket(connection, server_hostname="localhost") as secure:
                secure.sendall(words)
                return secure.recv(65536)
        except (ssl.SSLError, ConnectionError):
            return b""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("words", [STOMP, HTTP, XML_RPC], ids=["stomp", "http", "xmlrpc"])
def test_only_valid_certificates_of_the_authority_get_an_answer(
    daemon: Vdsmd, version: ssl.TLSVersion, words: bytes
) -> None:
    assert get_answer(daemon.port, make_context(daemon, "valid", version), words)
    for client in ("nothing", "foreign", "expired"):
        assert get_answer(daemon.port, make_context(daemon, client, version), words) == b"", client


@pytest.mark.parametrize("words", [STOMP, HTTP, XML_RPC], ids=["stomp", "http", "xmlrpc"])
def test_plain_words_get_no_answer_on_the_tls_door(daemon: Vdsmd, words: bytes) -> None:
    answer = get_answer(daemon.port, None, words)
    assert not answer or (answer[0] == ALERT and len(answer) < 16), "more than a TLS alert"


def test_an_expiring_certificate_is_replaced_under_the_running_daemon(daemon: Vdsmd) -> None:
    folder = daemon.paths.pki
    soon = datetime.now(UTC) - pki.LEAF_LIFE + pki.RENEW_BEFORE / 2
    with daemon.connect_tls() as early:
        process = daemon.process.pid
        (folder / "certs/vdsmcert.pem").unlink()
        pki.ensure(folder, now=lambda: soon)
        expiring = get_serial(daemon)
        assert ("vdsmcert.pem", "renewed") in [(finding.path.name, finding.done) for finding in pki.ensure(folder)]
        fresh = get_serial(daemon)
        assert expiring != fresh == read_serial(folder / "certs/vdsmcert.pem")
        assert early.call("Host.ping2") is True  # who was connected stays so
    assert daemon.process.pid == process


def get_serial(daemon: Vdsmd) -> int:
    """The serial number that the daemon shows to a new connection."""
    context = make_client_context(TlsFiles.of_client(daemon.paths.pki))
    with (
        socket.create_connection(("localhost", daemon.port), CAPABLE_S) as connection,
        context.wrap_socket(connection) as secure,
    ):
        shown = secure.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown).serial_number


def read_serial(path: Path) -> int:
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


@pytest.mark.parametrize("address", ["::", "0.0.0.0", "localhost"])
def test_without_tls_only_loopback_is_served(libvirtd: PrivateLibvirtd, address: str) -> None:
    settings = {"vars": {"ssl": "false"}, "addresses": {"management_ip": address}}
    with Vdsmd(libvirtd.uri, settings) as daemon:
        listening = psutil.Process(daemon.process.pid).net_connections("inet")
        assert {entry.laddr.ip for entry in listening} <= {"127.0.0.1", "::1"} != set()
        assert not daemon.paths.pki.exists()
        with connect(Address("localhost", daemon.port), CAPABLE_S) as client:
            assert client.call("Host.ping2") is True


def test_without_tls_it_does_not_start_on_another_address(libvirtd: PrivateLibvirtd) -> None:
    daemon = Vdsmd(libvirtd.uri, {"vars": {"ssl": "false"}, "addresses": {"management_ip": "192.0.2.1"}})
    try:
        daemon.start(wait=False)
        assert daemon.process.wait(CAPABLE_S) == 1
        assert "without TLS only loopback addresses are listened on" in daemon.read_log()
    finally:
        daemon.discard()


def test_the_unix_socket_is_for_owner_and_group(daemon: Vdsmd) -> None:
    assert daemon.paths.socket.stat().st_mode & 0o777 == 0o660
