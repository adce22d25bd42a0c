"""The node's certificates: made once, renewed in time, never at a foreign authority's expense."""

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from vdsm import pki

NAMES = ("node.example", "192.0.2.1")
FILES = ("certs/cacert.pem", "certs/vdsmcert.pem", "keys/vdsmkey.pem", "certs/clientcert.pem", "keys/clientkey.pem")
QEMU = ("ca-cert.pem", "server-cert.pem", "server-key.pem")


def ensure(folder: Path, later: timedelta = timedelta(0)) -> list[pki.Finding]:
    return pki.ensure(folder, names=NAMES, now=lambda: datetime.now(UTC) + later)


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


@pytest.fixture
def folder(tmp_path):
    ensure(tmp_path)
    return tmp_path


def read_all(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_makes_the_files_of_the_facts_with_private_keys(folder):
    for name in (*FILES, *(f"{use}/{file}" for use in ("libvirt-migrate", "libvirt-spice") for file in QEMU)):
        mode = stat.S_IMODE((folder / name).stat().st_mode)
        assert mode == (0o600 if "key" in Path(name).name else 0o644), name


def test_a_second_run_changes_nothing(folder):
    before = read_all(folder)
    assert ensure(folder) == []
    assert read_all(folder) == before


def test_a_slow_resolver_delays_nobody_whose_certificates_are_well(folder, monkeypatch):
    monkeypatch.setattr(pki, "list_own_names", lambda: pytest.fail("the resolver was asked"))
    assert pki.ensure(folder) == []


def test_certificates_are_signed_and_fit_for_their_use(folder):
    authority = load(folder / "certs/cacert.pem")
    server, client = load(folder / "certs/vdsmcert.pem"), load(folder / "certs/clientcert.pem")
    server.verify_directly_issued_by(authority)
    client.verify_directly_issued_by(authority)
    uses = [set(c.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) for c in (server, client)]
    both = {x509.oid.ExtendedKeyUsageOID.SERVER_AUTH, x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH}
    assert uses == [both, {x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH}]
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["node.example"]


def test_what_expires_is_renewed_with_its_key(folder):
    key = (folder / "keys/vdsmkey.pem").read_bytes()
    later = pki.LEAF_LIFE - pki.RENEW_BEFORE + timedelta(hours=1)
    renewed = {finding.path.name for finding in ensure(folder, later)}
    assert renewed == {"vdsmcert.pem", "clientcert.pem", "server-cert.pem"}
    assert (folder / "keys/vdsmkey.pem").read_bytes() == key
    assert load(folder / "certs/vdsmcert.pem").not_valid_after_utc > datetime.now(UTC) + later + pki.RENEW_BEFORE
    assert ensure(folder, later) == []


def test_a_renewed_authority_keeps_its_name_and_key_so_that_old_certificates_stay_valid(folder):
    old = load(folder / "certs/clientcert.pem")
    later = pki.AUTHORITY_LIFE - pki.RENEW_BEFORE + timedelta(hours=1)
    assert folder / "certs/cacert.pem" in {finding.path for finding in ensure(folder, later)}
    old.verify_directly_issued_by(load(folder / "certs/cacert.pem"))
    assert (folder / "libvirt-spice/ca-cert.pem").read_bytes() == (folder / "certs/cacert.pem").read_bytes()


@pytest.mark.parametrize("lost", [name for name in FILES if name != "certs/cacert.pem"])
@pytest.mark.parametrize("broken", [None, b"", b"-----BEGIN"])
def test_lost_and_broken_files_are_made_anew(folder, lost, broken):
    path = folder / lost
    path.unlink() if broken is None else path.write_bytes(broken)
    assert ensure(folder)
    assert ensure(folder) == []
    key = pki._load_key(folder / "keys/vdsmkey.pem")
    assert key is not None and load(folder / "certs/vdsmcert.pem").public_key() == key.public_key()


def test_an_interrupted_run_is_completed(tmp_path, monkeypatch):
    """The process dies at each rename in turn."""
    for step in range(12):
        left = [step]

        def die(self, target, left=left, rename=Path.rename):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return rename(self, target)

        folder = tmp_path / str(step)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Path, "rename", die)
            ensure(folder)
        ensure(folder)
        assert ensure(folder) == []
        assert not list(folder.rglob("*.new"))


def foreign(folder: Path) -> Path:
    """A host that a platform set up: its authority's key is elsewhere."""
    (folder / "keys/cakey.pem").unlink()
    return folder


def test_a_foreign_authority_is_left_alone_and_its_end_reported(folder):
    foreign(folder)
    before = read_all(folder)
    assert ensure(folder) == []
    found = {finding.path.name: finding.done for finding in ensure(folder, pki.LEAF_LIFE)}
    assert found == {"vdsmcert.pem": "expiring", "clientcert.pem": "expiring", "server-cert.pem": "expiring"}
    assert read_all(folder) == before


def test_a_broken_foreign_authority_is_an_error(folder):
    (foreign(folder) / "certs/cacert.pem").write_bytes(b"?")
    with pytest.raises(pki.PkiUnusable):
        ensure(folder)


def test_a_key_that_is_not_the_authoritys_is_an_error(folder):
    (folder / "keys/cakey.pem").write_bytes((folder / "keys/vdsmkey.pem").read_bytes())
    with pytest.raises(pki.PkiUnusable):
        ensure(folder)


def test_keys_belong_to_their_readers(tmp_path):
    owner = pki.Owner(os.getuid(), os.getgid())
    pki.ensure(tmp_path, owner=owner, qemu=pki.Owner(os.getuid(), os.getgid(), group_readable=True), names=NAMES)
    assert stat.S_IMODE((tmp_path / "libvirt-spice/server-key.pem").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "keys/vdsmkey.pem").stat().st_mode) == 0o600
