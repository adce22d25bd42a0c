"""TLS contexts follow their files; a certificate's name is compared with its bearer's address."""

import socket
import ssl

import pytest

from vdsm import pki
from vdsm.wire.tls import ServerContexts, TlsFiles, is_named_by_certificate


@pytest.fixture
def folder(tmp_path):
    pki.ensure(tmp_path, names=("localhost",))
    return tmp_path


def test_the_context_is_kept_until_a_file_changes(folder):
    contexts = ServerContexts(TlsFiles.below(folder))
    first = contexts.get()
    assert contexts.get() is first
    (folder / "certs/vdsmcert.pem").unlink()
    pki.ensure(folder, names=("localhost",))
    assert contexts.get() is not first


def test_a_broken_replacement_leaves_the_old_context_until_it_is_mended(folder):
    contexts = ServerContexts(TlsFiles.below(folder))
    first = contexts.get()
    certificate = folder / "certs/vdsmcert.pem"
    good = certificate.read_bytes()
    certificate.write_bytes((folder / "certs/clientcert.pem").read_bytes())
    assert contexts.get() is first
    certificate.unlink()
    assert contexts.get() is first
    certificate.write_bytes(good)
    assert contexts.get() is not first


def test_without_any_usable_file_there_is_no_context(tmp_path):
    with pytest.raises(OSError):
        ServerContexts(TlsFiles.below(tmp_path)).get()


def test_certificates_are_demanded(folder):
    context = ServerContexts(TlsFiles.below(folder)).get()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def refuse(_host):
    raise socket.herror(1, "unknown host")


@pytest.mark.parametrize(
    ("host", "name", "answer"),
    [
        ("127.0.0.1", "anything", True),
        ("::1", "anything", True),
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "Node.Example", True),
        ("192.0.2.1", "ALIAS", True),
        ("192.0.2.1", "192.0.2.9", True),
        ("192.0.2.1", "other.example", False),
        ("192.0.2.1", "", False),
    ],
)
async def test_a_name_fits_the_address_or_what_it_resolves_to(host, name, answer):
    resolve = lambda _host: ("node.example", ["alias"], ["192.0.2.9"])  # noqa: E731
    assert await is_named_by_certificate(host, name, resolve) is answer


async def test_an_address_that_does_not_resolve_fits_no_name():
    assert not await is_named_by_certificate("192.0.2.1", "node.example", refuse)
