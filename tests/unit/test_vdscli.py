"""`vdscli`: what it makes of addresses and of the configuration; contract tests make calls."""

import http.client
import socket
import ssl
from pathlib import Path
from xmlrpc.client import ServerProxy, Transport

import pytest
from defusedxml.common import DefusedXmlException
from hypothesis import given
from hypothesis import strategies as st

import vdscli


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VDSM_ROOT", str(tmp_path))
    return tmp_path


def configure(root: Path, text: str) -> None:
    (root / "etc/vdsm").mkdir(parents=True)
    (root / "etc/vdsm/vdsm.conf").write_text(text)


@pytest.mark.parametrize(
    ("given", "address"),
    [
        (None, "localhost:54321"),
        ("0", "localhost:54321"),
        ("host", "host:54321"),
        ("host:1", "host:1"),
        ("192.0.2.1:65535", "192.0.2.1:65535"),
        ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ("[2001:db8::1]", "[2001:db8::1]:54321"),
        ("2001:db8::1", "[2001:db8::1]:54321"),
        ("::1", "[::1]:54321"),
        ("host:", "host:54321"),
    ],
)
def test_addresses_come_out_with_their_port(given: str | None, address: str) -> None:
    assert vdscli.cannonizeHostPort(given) == address


@pytest.mark.parametrize("given", ["", ":1", "host:port", "host:0", "host:65536", "host:-1", "[::1", "[]:1", "[::1]1"])
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        vdscli.cannonizeHostPort(given)


def test_a_call_is_made_again_when_the_server_had_hung_up_on_an_idle_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vdscli, "make_client_context", lambda _: None)
    opened = list[int]()

    class Connection:
        def __getattr__(self, name: str) -> object:
            if name == "endheaders":
                raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred in violation of protocol")
            return lambda *_, **__: None

    class Idle(vdscli.VerifyingSafeTransport):
        def _open(self, name: str) -> http.client.HTTPConnection:
            opened.append(1)
            return Connection()  # type: ignore[return-value]

    with pytest.raises(ConnectionResetError):
        Idle(key_file="", cert_file="", ca_certs="").request("host:1", "/RPC2", b"<call/>")
    assert len(opened) == 2


def test_a_port_in_the_address_wins() -> None:
    assert vdscli.cannonizeHostPort("host", 7) == "host:7"
    assert vdscli.cannonizeHostPort("host:8", 7) == "host:8"
    assert vdscli.cannonizeHostPort(None, 7) == "localhost:7"


@pytest.mark.parametrize(
    ("configured", "host"),
    [("::", "localhost"), ("0.0.0.0", "localhost"), ("192.0.2.1", "192.0.2.1"), ("::1", "[::1]")],
)
def test_nothing_means_what_the_configuration_says(root: Path, configured: str, host: str) -> None:
    configure(root, f"[addresses]\nmanagement_ip = {configured}\nmanagement_port = 6001\n")
    assert vdscli.cannonizeHostPort(None) == f"{host}:6001"
    assert vdscli.cannonizeHostPort("other") == "other:6001"


class Recorder(Transport):
    """A transport that sends nothing and remembers how it was made."""

    made: list[dict[str, object]] = []

    def __init__(self, **how: object) -> None:
        super().__init__()
        self.made.append(how)

    def request(self, host: object, handler: str, request_body: object, verbose: bool = False) -> tuple[object]:
        return ({"host": host, "handler": handler, "body": request_body},)


def connect(**options: object) -> tuple[ServerProxy, dict[str, object]]:
    Recorder.made.clear()
    proxy = vdscli.connect(TransportClass=Recorder, **options)  # type: ignore[arg-type]
    return proxy, (Recorder.made or [{}])[-1]


def test_calls_go_to_rpc2_of_the_host_in_xml() -> None:
    proxy, _ = connect(hostPort="[::1]:1")
    sent = proxy.getVmStats("x")
    assert isinstance(sent, dict)
    assert (sent["host"], sent["handler"]) == ("[::1]:1", "/RPC2")
    assert b"<methodName>getVmStats</methodName>" in sent["body"]


def test_the_certificates_are_those_of_the_root_or_of_the_trust_store(root: Path, tmp_path: Path) -> None:
    _, how = connect()
    assert how["key_file"] == str(root / "etc/pki/vdsm/keys/vdsmkey.pem")
    assert how["cert_file"] == str(root / "etc/pki/vdsm/certs/vdsmcert.pem")
    assert how["ca_certs"] == str(root / "etc/pki/vdsm/certs/cacert.pem")
    _, how = connect(tsPath=str(tmp_path / "ts"))
    assert how["key_file"] == str(tmp_path / "ts/keys/vdsmkey.pem")


def test_a_certificate_made_for_clients_is_preferred(root: Path) -> None:
    (root / "etc/pki/vdsm/keys").mkdir(parents=True)
    (root / "etc/pki/vdsm/keys/clientkey.pem").write_text("")
    _, how = connect()
    assert how["cert_file"] == str(root / "etc/pki/vdsm/certs/clientcert.pem")


def test_tls_is_used_unless_the_caller_or_the_configuration_says_no(root: Path) -> None:
    assert connect()[1]
    assert not connect(useSSL=False)[1]
    configure(root, "[vars]\nssl = false\n")
    assert not connect()[1]
    assert connect(useSSL=True)[1]


def test_the_timeout_is_that_of_sockets_unless_given() -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(4)
    try:
        assert connect()[1]["timeout"] == 4
    finally:
        socket.setdefaulttimeout(before)
    assert connect(timeout=2.5)[1]["timeout"] == 2.5


def test_tls_without_certificates_fails_at_once() -> None:
    with pytest.raises(OSError, match="No such file"):
        vdscli.connect()


def test_answers_with_entities_are_refused() -> None:
    parser, _ = vdscli.PlainTransport().getparser()
    with pytest.raises(DefusedXmlException):
        parser.feed(b'<!DOCTYPE x [<!ENTITY a "b">]><methodResponse>&a;</methodResponse>')


@given(st.text(alphabet="[]:.0123abc", max_size=12))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        address = vdscli.cannonizeHostPort(text, 1)
    except ValueError:
        return
    host, _, port = address.rpartition(":")
    assert host
    assert 0 < int(port) < 65536
