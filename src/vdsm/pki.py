"""The node's own certificates (facts: rpc §1.2), renewed before they expire: an authority, a server's, a client's;
who reads them is left to `wire.tls`, libvirt and qemu.

A host that a management platform set up has the platform's authority and no key of it: nothing there is ever replaced,
only reported. Renewal keeps the private keys, so that one renamed file switches over and no reader ever sees a pair
that does not match. Whatever a crash leaves half made is completed by the next call.
"""

import fcntl
import ipaddress
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

from vdsm.core.errors import NodeError

AUTHORITY_LIFE = timedelta(days=3650)
LEAF_LIFE = timedelta(days=397)
RENEW_BEFORE = timedelta(days=60)
BACKDATED = timedelta(hours=1)
"""Peers' clocks may be a little behind ours."""

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class PkiUnusable(NodeError, number=101, text="{path}: {reason}"):
    """A key or a certificate that must not be replaced cannot be used."""

    path: str
    reason: str


class Owner(Struct, frozen=True):
    """Who may read private keys: their owner alone, with `group_readable` their group as well. None: the creator's."""

    user_id: int | None = None
    group_id: int | None = None
    group_readable: bool = False

    @property
    def numbers(self) -> tuple[int, int]:
        """User and group as chown takes them: -1 for what stays as it is."""
        return -1 if self.user_id is None else self.user_id, -1 if self.group_id is None else self.group_id


CREATOR = Owner()
"""Whoever makes a file."""


class Pair(Struct, frozen=True):
    """A key and its certificate on disk; `authority` is where readers want a copy of the authority's certificate."""

    name: str
    key: Path
    certificate: Path
    authority: Path | None = None
    owner: Owner = CREATOR
    is_server: bool = False
    """Whether it is shown under the host's names; else the certificate is a person's or a program's."""


class Finding(Struct, frozen=True):
    """What `ensure` did to a file, or would have done: `made`, `renewed`, or `expiring` where it may not."""

    path: Path
    done: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.done} ({self.reason})"


def list_own_names() -> tuple[str, ...]:
    """The names and addresses under which clients on this machine, and in its network, find the daemon."""
    names = dict.fromkeys((socket.gethostname(), socket.getfqdn(), "localhost", "127.0.0.1", "::1"))
    return tuple(name for name in names if name)


def _list_pairs(pki: Path, owner: Owner, qemu: Owner) -> Iterator[Pair]:
    """The certificates of a node: the daemon's, a client's, and those that qemu shows for migration and SPICE."""
    yield Pair("vdsm", pki / "keys/vdsmkey.pem", pki / "certs/vdsmcert.pem", None, owner, is_server=True)
    yield Pair("vdsm-client", pki / "keys/clientkey.pem", pki / "certs/clientcert.pem", None, owner)
    for purpose in ("libvirt-migrate", "libvirt-spice"):
        place = pki / purpose
        files = place / "server-key.pem", place / "server-cert.pem", place / "ca-cert.pem"
        yield Pair(purpose, *files, qemu, is_server=True)


def ensure(
    pki: Path,
    *,
    owner: Owner = CREATOR,
    qemu: Owner | None = None,
    names: tuple[str, ...] = (),
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> list[Finding]:
    """Make what is missing and renew what expires below pki, and tell what was done; nothing when all is well.

    Safe to call at any time, also by two processes at once and under a running daemon. What `names` leaves open is
    asked of the resolver, and only when a server's certificate is made. Raises PkiUnusable when files of a foreign
    authority are broken, OSError when the folder cannot be written.
    """
    pairs = tuple(_list_pairs(pki, owner, qemu or owner))
    for folder in {pki / "keys", pki / "certs", *(pair.key.parent for pair in pairs)}:
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(pki):
        authority = _Authority(pki, owner, now(), names)
        findings = list(authority.ensure())
        for pair in pairs:
            findings += _ensure_pair(authority, pair)
    return findings


class _Authority:
    """The one authority whose certificates the node accepts; its key is here only when the node made it."""

    def __init__(self, pki: Path, owner: Owner, now: datetime, names: tuple[str, ...]) -> None:
        self.now = now
        self._given_names = names
        self.certificate_file = pki / "certs/cacert.pem"
        self.key_file = pki / "keys/cakey.pem"
        self._owner = owner
        self.certificate: x509.Certificate | None = _load_certificate(self.certificate_file)
        self.key: Key | None = _load_key(self.key_file)

    @property
    def is_ours(self) -> bool:
        """Whether certificates can be signed here."""
        return self.key is not None

    def ensure(self) -> Iterator[Finding]:
        """Make or renew the authority itself."""
        if self.key is None:
            if self.certificate_file.exists():
                if self.certificate is None:
                    raise PkiUnusable(str(self.certificate_file), "no certificate, and not ours to replace")
                if _expires(self.certificate, self.now):
                    yield Finding(self.certificate_file, "expiring", _describe_end(self.certificate))
                return
            self.key = ec.generate_private_key(ec.SECP256R1())
            # The key is the authority's own: no service but the one that signs reads it.
            _write_key(self.key_file, self.key, self._owner)
        if self.certificate is not None and not _same_key(self.certificate, self.key):
            raise PkiUnusable(str(self.key_file), "not the key of the authority's certificate")
        if self.certificate is None or _expires(self.certificate, self.now):
            done = "made" if self.certificate is None else "renewed"
            # The same name and key: what the authority signed before stays valid.
            name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"vdsm {socket.gethostname()}"[:64])])
            self.certificate = self._sign_own(self.certificate.subject if self.certificate else name)
            _write_certificate(self.certificate_file, self.certificate, self._owner)
            yield Finding(self.certificate_file, done, _describe_end(self.certificate))

    def sign(self, pair: Pair, key: Key) -> x509.Certificate:
        """A certificate for a pair's key. A server's is a client's too: a daemon calls others with it (facts §1.2)."""
        assert self.key is not None and self.certificate is not None
        common_name = self._names[0] if pair.is_server else pair.name
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "vdsm"),
                x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64]),
            ]
        )
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if pair.is_server else [])]
        end = min(self.now + LEAF_LIFE, self.certificate.not_valid_after_utc)
        builder = self._begin(subject, key, end)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(digital_signature=True, key_encipherment=True), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        if pair.is_server:
            alternatives = x509.SubjectAlternativeName(_list_alternatives(self._names))
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return self._given_names or list_own_names()

    def _sign_own(self, name: x509.Name) -> x509.Certificate:
        assert self.key is not None
        builder = self._begin(name, self.key, self.now + AUTHORITY_LIFE, issuer=name)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        return builder.sign(self.key, hashes.SHA256())

    def _begin(
        self, subject: x509.Name, key: Key, end: datetime, issuer: x509.Name | None = None
    ) -> x509.CertificateBuilder:
        assert self.key is not None
        signer = self.key.public_key()
        if issuer is None:
            assert self.certificate is not None
            issuer = self.certificate.subject
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - BACKDATED)
            .not_valid_after(end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
        )


def _ensure_pair(authority: _Authority, pair: Pair) -> Iterator[Finding]:
    key, certificate = _load_key(pair.key), _load_certificate(pair.certificate)
    reason = _find_fault(authority, key, certificate)
    if not authority.is_ours:
        if reason is not None and pair.certificate.exists():
            yield Finding(pair.certificate, "expiring", f"{reason}; the authority's key is not on this host")
        return
    if reason is not None:
        if key is None:
            key = ec.generate_private_key(ec.SECP256R1())
            _write_key(pair.key, key, pair.owner)
        done = "made" if certificate is None else "renewed"
        _write_certificate(pair.certificate, authority.sign(pair, key), pair.owner)
        yield Finding(pair.certificate, done, reason)
    if pair.authority is not None:
        content = authority.certificate_file.read_bytes()
        if not pair.authority.exists() or pair.authority.read_bytes() != content:
            write_file(pair.authority, content, 0o644, pair.owner)


def _find_fault(authority: _Authority, key: Key | None, certificate: x509.Certificate | None) -> str | None:
    if certificate is None:
        return "missing"
    if key is None or not _same_key(certificate, key):
        return "without its key"
    if authority.certificate is None:
        return "without its authority"
    try:
        certificate.verify_directly_issued_by(authority.certificate)
    except (InvalidSignature, ValueError, TypeError):
        return "of another authority"
    return _describe_end(certificate) if _expires(certificate, authority.now) else None


def _expires(certificate: x509.Certificate, now: datetime) -> bool:
    return not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - RENEW_BEFORE


def _describe_end(certificate: x509.Certificate) -> str:
    return f"valid until {certificate.not_valid_after_utc:%Y-%m-%d}"


def _same_key(certificate: x509.Certificate, key: Key) -> bool:
    return certificate.public_key() == key.public_key()


def _usage(**given: bool) -> x509.KeyUsage:
    every = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign"
    )
    names = (*every.split(), "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: given.get(name, False) for name in names})


def _list_alternatives(names: Iterable[str]) -> Iterator[x509.GeneralName]:
    for name in names:
        try:
            yield x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            yield x509.DNSName(name)


def _load_certificate(path: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _load_key(path: Path) -> Key | None:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return key if isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)) else None


def _write_certificate(path: Path, certificate: x509.Certificate, owner: Owner) -> None:
    write_file(path, certificate.public_bytes(serialization.Encoding.PEM), 0o644, owner)


def _write_key(path: Path, key: Key, owner: Owner) -> None:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    content = key.private_bytes(encoding, form, serialization.NoEncryption())
    write_file(path, content, 0o640 if owner.group_readable else 0o600, owner)


def write_file(path: Path, content: bytes, mode: int, owner: Owner = CREATOR) -> None:
    """Replace a file as a whole: on disk, with its mode and owner, before it gets its name."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fchown(descriptor, *owner.numbers)
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    fresh.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _locked(pki: Path) -> Iterator[None]:
    with (pki / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
