"""TLS as the doors use it (facts: rpc §1.2): contexts that follow their files, a certificate's claim to be its peer;
making certificates is left to `vdsm.pki`."""

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct

log = logging.getLogger("tls")

RESOLVE_S = 5.0


class TlsFiles(Struct, frozen=True):
    """Where the node's own key and certificate are, and the one authority whose certificates it accepts."""

    key: Path
    certificate: Path
    authority: Path

    @classmethod
    def below(cls, pki: Path) -> "TlsFiles":
        """The daemon's own files in the folder that facts §1.2 fix."""
        return cls(pki / "keys/vdsmkey.pem", pki / "certs/vdsmcert.pem", pki / "certs/cacert.pem")

    @classmethod
    def of_client(cls, pki: Path) -> "TlsFiles":
        """The files for clients that are not the daemon."""
        return cls(pki / "keys/clientkey.pem", pki / "certs/clientcert.pem", pki / "certs/cacert.pem")

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Changes whenever one of the files does. Raises OSError when one is missing."""
        found = (path.stat() for path in (self.key, self.certificate, self.authority))
        return tuple((status.st_ino, status.st_mtime_ns, status.st_size) for status in found)


def make_server_context(files: TlsFiles) -> ssl.SSLContext:
    """A context that lets in clients with a valid certificate of the authority, nobody else. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(files.certificate, files.key)
    context.load_verify_locations(files.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    # A resumed session would spare a client the proof that its certificate is still valid.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context


def make_client_context(files: TlsFiles) -> ssl.SSLContext:
    """A context for calling a node: its certificate must be of the authority, whatever its name. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(files.authority)
    context.load_cert_chain(files.certificate, files.key)
    return context


class ServerContexts:
    """The context for each new connection: made anew when a file was replaced, so that no restart is needed.

    When new files cannot be used (half replaced, say), the context made last goes on, until the next change.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamp: tuple[tuple[int, int, int], ...] = ()
        self._context: ssl.SSLContext | None = None

    def get(self) -> ssl.SSLContext:
        """The context for the next connection. Raises OSError while there never was a usable one."""
        try:
            stamp = self._files.stamp()
            if self._context is None or stamp != self._stamp:
                self._stamp = stamp
                self._context = make_server_context(self._files)
        except OSError as error:
            if self._context is None:
                raise
            log.warning("the new TLS files cannot be used, the ones before go on: %s", error)
        return self._context


Resolve = Callable[[str], tuple[str, list[str], list[str]]]
_lookups = ThreadPoolExecutor(4, "resolver")  # threads of their own: those that all share must not wait for DNS


async def is_named_by_certificate(host: str, common_name: str, resolve: Resolve = socket.gethostbyaddr) -> bool:
    """Whether a certificate's common name fits the peer's address as `verify_client_cert` asks (facts: rpc §1.2)."""
    if ipaddress.ip_address(host).is_loopback or common_name == host:
        return True
    try:
        async with asyncio.timeout(RESOLVE_S):
            name, aliases, addresses = await asyncio.get_running_loop().run_in_executor(_lookups, resolve, host)
    except (OSError, TimeoutError):
        return False
    return common_name.lower() in (known.lower() for known in (name, *aliases, *addresses))
