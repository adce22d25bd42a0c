"""`vdscli` as scripts of 2011 import it: a proxy whose methods are the daemon's XML-RPC verbs (facts §1.16).

Which verbs there are and what they answer is the daemon's; this module only finds it and proves who calls.
"""

import errno
import http.client
import os
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from xmlrpc.client import ExpatParser, ServerProxy, Transport, Unmarshaller

from defusedxml.xmlrpc import DefusedExpatParser

from vdsm.local import choose_certificate, find_local_daemon, find_paths
from vdsm.wire.tls import TlsFiles, make_client_context

if TYPE_CHECKING:
    from _typeshed import SizedBuffer

# What a caller hands to xmlrpc.client: a host with a port, with or without what the base class made of it before.
_Host = str | tuple[str, dict[str, str]]


class TransportFactory(Protocol):
    """What `connect` makes an HTTPS transport with."""

    def __call__(self, *, key_file: str, cert_file: str, ca_certs: str, timeout: float | None) -> Transport:
        """A transport that shows this certificate and trusts this authority."""


class PlainTransport(Transport):
    """HTTP without TLS, with a limit on the time to wait; answers with XML entities are refused."""

    def __init__(self, timeout: float | None = None) -> None:
        super().__init__()
        self._timeout_s = timeout

    def make_connection(self, host: _Host) -> http.client.HTTPConnection:
        known, connection = self._connection
        if known != host or connection is None:
            name, self._extra_headers, _ = self.get_host_info(host)
            connection = self._open(name)
            self._connection = host, connection
        return connection

    def getparser(self) -> tuple[ExpatParser, Unmarshaller]:
        target = Unmarshaller()
        return DefusedExpatParser(target), target

    def _open(self, name: str) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(name, timeout=self._timeout_s)


class VerifyingSafeTransport(PlainTransport):
    """HTTPS that shows the node's certificate and accepts servers of the node's authority only.

    As everywhere between nodes, the host's name is not compared with the certificate (facts §1.2).
    """

    def __init__(self, *, key_file: str, cert_file: str, ca_certs: str, timeout: float | None = None) -> None:
        super().__init__(timeout)
        self._tls = make_client_context(TlsFiles(Path(key_file), Path(cert_file), Path(ca_certs)))

    def _open(self, name: str) -> http.client.HTTPConnection:
        return http.client.HTTPSConnection(name, timeout=self._timeout_s, context=self._tls)

    def send_content(self, connection: http.client.HTTPConnection, request_body: "SizedBuffer") -> None:
        """As without TLS, a server that had hung up is told in the words after which the base class tries again.

        It does not have the whole request then, so it has done nothing.
        """
        try:
            super().send_content(connection, request_body)
        except ssl.SSLEOFError as error:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from error


def cannonizeHostPort(hostPort: str | None = None, port: int | None = None) -> str:
    """`host:port` of what a caller wrote: a name or an address, with or without a port.

    Nothing, or `0`, means this machine's daemon. A port in `hostPort` wins over `port`, which wins over the
    configuration. IPv6 addresses come out in brackets. ValueError for what is no address.
    """
    local = find_local_daemon(find_paths())
    if hostPort is None or hostPort == "0":
        host, given = local.host, ""
    else:
        host, given = _split(hostPort)
    if given and not (given.isascii() and given.isdecimal() and 0 < int(given) < 65536):
        raise ValueError(f"not a port: {given!r} in {hostPort!r}")
    return f"{_bracket(host)}:{given or port or local.port}"


def connect(
    hostPort: str | None = None,
    useSSL: bool | None = None,
    tsPath: str | None = None,
    TransportClass: TransportFactory = VerifyingSafeTransport,
    timeout: float | None = None,
) -> ServerProxy:
    """A proxy for the daemon at `hostPort`; nothing is sent before the first call.

    What is not given comes from the node's configuration under VDSM_ROOT: address, port, whether TLS is used, and the
    folder (`tsPath`) of the certificate, key and authority. `timeout` is in seconds, by default the one of `socket`.
    Connecting over TLS without readable certificates raises OSError.
    """
    paths = find_paths()
    if timeout is None:
        timeout = socket.getdefaulttimeout()
    address = cannonizeHostPort(hostPort)
    if not (find_local_daemon(paths).use_tls if useSSL is None else useSSL):
        return ServerProxy(f"http://{address}", transport=PlainTransport(timeout), allow_none=True)
    files = choose_certificate(Path(tsPath) if tsPath else paths.pki)
    transport = TransportClass(
        key_file=str(files.key), cert_file=str(files.certificate), ca_certs=str(files.authority), timeout=timeout
    )
    return ServerProxy(f"https://{address}", transport=transport, allow_none=True)


def _split(text: str) -> tuple[str, str]:
    """Host and port (empty when there is none) of `host`, `host:port`, `[v6]`, `[v6]:port` or a bare v6 address."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or not host or (rest and not rest.startswith(":")):
            raise ValueError(f"not an address: {text!r}")
        return host, rest[1:]
    if text.count(":") > 1:
        return text, ""
    host, _, port = text.partition(":")
    if not host:
        raise ValueError(f"not an address: {text!r}")
    return host, port


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host
