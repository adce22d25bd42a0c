"""The real ovirt-imageio in the foreground, without systemd, on unix sockets in a folder of its own."""

import http.client
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lab.commands import wait_for
from lab.processes import Spawned, spawn

PROGRAM = Path(sys.executable).with_name("ovirt-imageio")
BUFFER_BYTES = 1 << 16
REMOVAL_S = 2
"""It waits so long for requests on a ticket that is removed."""
CONFIGURATION = """
[daemon]
poll_interval = 0.1
run_dir = {folder}
drop_privileges = false
systemd_enable = false
[tls]
enable = false
[backend_file]
buffer_size = {buffer_bytes}
[remote]
host = 127.0.0.1
port = 0
[local]
socket = {folder}/data
[control]
socket = {folder}/sock
remove_timeout = {removal_s}
[handlers]
keys = stderr
[logger_root]
handlers = stderr
"""


class Unix(http.client.HTTPConnection):
    """A connection to a unix socket that speaks HTTP."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass
class ImageDaemon:
    """The real ovirt-imageio in a folder: `sock` takes tickets, `data` takes transfers."""

    folder: Path
    spawned: Spawned | None = None

    @property
    def process(self) -> Spawned:
        assert self.spawned is not None
        return self.spawned

    def start(self) -> None:
        """Start it, after an end too, and return when it answers."""
        configuration = self.folder / "conf.d" / "50-test.conf"
        configuration.parent.mkdir(parents=True, exist_ok=True)
        configuration.write_text(
            CONFIGURATION.format(folder=self.folder, buffer_bytes=BUFFER_BYTES, removal_s=REMOVAL_S)
        )
        with (self.folder / "log").open("wb") as log:
            self.spawned = spawn(PROGRAM, "--conf-dir", self.folder, stdout=log, stderr=log)
        wait_for(self._is_ready, "ovirt-imageio is ready")

    def _is_ready(self) -> bool:
        log = (self.folder / "log").read_text()
        assert self.process.process.poll() is None, log
        return "Ready for requests" in log

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """One request for data: status, headers and body."""
        with self.connect() as connection:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            with suppress(BrokenPipeError):  # it answers, and reads no more
                connection.request(method, f"/images/{path}", body, named)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    @contextmanager
    def connect(self) -> Iterator[Unix]:
        """A connection for data."""
        connection = Unix(self.folder / "data")
        try:
            yield connection
        finally:
            connection.close()


@contextmanager
def running(folder: Path) -> Iterator[ImageDaemon]:
    """The real one, with its sockets in that folder, whose path has to be short."""
    daemon = ImageDaemon(folder)
    try:
        daemon.start()
        yield daemon
    finally:
        if daemon.spawned is not None:
            daemon.spawned.end()
            print(f"--- the log of ovirt-imageio ---\n{(folder / 'log').read_text()[-20_000:]}")
