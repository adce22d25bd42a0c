"""`vdscli` against a real XML-RPC server on loopback: TLS with certificates, both ways, and time limits."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

import pytest

import vdscli
from vdsm import pki
from vdsm.wire.tls import TlsFiles, make_server_context


class Handler(SimpleXMLRPCRequestHandler):
    """Keeps connections open, as the daemon does."""

    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        self.server.connections += 1  # type: ignore[attr-defined]
        super().setup()


class Server(SimpleXMLRPCServer):
    """A daemon with one verb; counts its connections."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self.connections = 0
        super().__init__(("127.0.0.1", 0), Handler, logRequests=False, allow_none=True)
        if context is not None:
            # The handshake is left to the first read, so that a bad client does not hold up the one that accepts.
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.register_function(lambda *args: {"status": {"code": 0, "message": "Done"}, "got": list(args)}, "echo")

    def handle_error(self, request: object, client_address: object) -> None:
        """A refused client is no news."""


@contextmanager
def serving(context: ssl.SSLContext | None) -> Iterator[Server]:
    with Server(context) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    pki.ensure(folder, names=("localhost",))
    return folder


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VDSM_ROOT", str(tmp_path))
    return tmp_path


def test_plain_calls_share_one_connection() -> None:
    with serving(None) as server, vdscli.connect(f"127.0.0.1:{server.server_address[1]}", useSSL=False) as proxy:
        assert proxy.echo(1, "é", [dict(id=1)], None) == {  # noqa: C408
            "status": {"code": 0, "message": "Done"},
            "got": [1, "é", [{"id": 1}], None],
        }
        assert proxy.echo() == {"status": {"code": 0, "message": "Done"}, "got": []}
        assert server.connections == 1


def test_tls_shows_the_certificate_that_the_server_asks_for(trust: Path) -> None:
    with serving(make_server_context(TlsFiles.below(trust))) as server:
        address = f"localhost:{server.server_address[1]}"
        with vdscli.connect(address, tsPath=str(trust), timeout=20) as proxy:
            assert proxy.echo("x")["got"] == ["x"]  # type: ignore[index,call-overload]


def test_a_server_of_another_authority_is_refused(trust: Path, tmp_path: Path) -> None:
    pki.ensure(tmp_path / "other", names=("localhost",))
    with serving(make_server_context(TlsFiles.below(tmp_path / "other"))) as server:
        address = f"localhost:{server.server_address[1]}"
        proxy = vdscli.connect(address, useSSL=True, tsPath=str(trust), timeout=20)
        with proxy, pytest.raises(ssl.SSLError):
            proxy.echo()


def test_the_node_of_the_root_is_found_by_its_configuration(trust: Path, root: Path) -> None:
    (root / "etc/pki").mkdir(parents=True)
    (root / "etc/pki/vdsm").symlink_to(trust)
    (root / "etc/vdsm").mkdir()
    with serving(make_server_context(TlsFiles.below(trust))) as server:
        text = f"[addresses]\nmanagement_ip = 127.0.0.1\nmanagement_port = {server.server_address[1]}\n"
        (root / "etc/vdsm/vdsm.conf").write_text(text)
        with vdscli.connect() as proxy:
            assert proxy.echo() == {"status": {"code": 0, "message": "Done"}, "got": []}


def test_a_server_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with vdscli.connect(address, useSSL=False, timeout=0.1) as proxy, pytest.raises(TimeoutError):
            proxy.echo()
