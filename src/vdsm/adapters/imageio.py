"""Tickets of ovirt-imageio, which moves the bytes of images, over its local socket (facts: storage §15.4)."""

import http.client
import socket
from pathlib import Path

from vdsm.storage.ports import ImageDaemonFailed, ImageDaemonRefused, ImageDaemonUnsupported

_TIMEOUT_S = 10.0
_ANSWER_BYTES = 1 << 20


class _Local(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(str(self._path))


class ImageDaemon:
    """`storage.ports.Tickets`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ask(self, method: str, ticket_id: str, body: bytes | None = None) -> bytes:
        if not self._path.exists():
            raise ImageDaemonUnsupported(str(self._path))
        connection = _Local(self._path)
        try:
            connection.request(method, f"/tickets/{ticket_id}", body)
            answer = connection.getresponse()
            data = answer.read(_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise ImageDaemonFailed(str(error) or type(error).__name__) from error
        finally:
            connection.close()
        if answer.status >= 300:
            raise ImageDaemonRefused(f"{answer.status} {data[:500].decode('utf-8', 'replace').strip()}")
        return data
