"""The SPM loses its lease while bytes of an image come in: none is written once it is dead, and it dies in time."""

import contextlib
import http.client
import os
import signal
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lab.commands import wait_for
from lab.sanlock import KILL_AFTER_S
from lab.shared_pool import SharedPool
from tests.system import strace
from tests.system.hosts.test_lost_lease import (
    ARRIVAL_S,
    AT_ONCE_S,
    QUIET_S,
    SLACK_S,
    Pools,
    list_writes,
    restored,
    traced,
)
from tests.system.vdsmd import Volume
from tests.writes import Watch, wait_quiet
from vdsm.wire.tls import TlsFiles, make_client_context

pytestmark = pytest.mark.timeout(400)

MIB = 1 << 20
SIZE = 8 << 30
"""More than comes before the lease is lost."""
PIECE = b"x" * (1 << 18)
ENOUGH = 4 * MIB
"""So much has come when the fault begins."""
AGAIN = os.urandom(3 * MIB)
PAUSE_S = 0.05


class Sender(threading.Thread):
    """Puts an image to the daemon's image endpoint until that breaks."""

    def __init__(self, pool: SharedPool, volume: Volume, pause_s: float = PAUSE_S) -> None:
        super().__init__(daemon=True)
        self._pool, self._volume, self._pause_s = pool, volume, pause_s
        self._gone = threading.Event()

    def run(self) -> None:
        def give() -> Iterator[bytes]:
            while not self._gone.wait(self._pause_s):
                yield PIECE

        with contextlib.suppress(OSError, http.client.HTTPException):
            put(self._pool, self._volume, SIZE, give())

    def stop(self) -> None:
        self._gone.set()
        self.join()


def put(pool: SharedPool, volume: Volume, size: int, data: bytes | Iterator[bytes]) -> int:
    """Put an image to the daemon's image endpoint, from its host; the answer's status."""
    address, tls = pool.host.address, make_client_context(TlsFiles.of_client(pool.vdsmd.paths.pki))
    connection = http.client.HTTPSConnection(address, pool.vdsmd.port, context=tls)
    with contextlib.closing(connection):
        with pool.host.network():
            connection.connect()
        ids = {"Storage-Pool-Id": pool.pool_id, "Storage-Domain-Id": pool.domain_id, "Image-Id": volume.image_id}
        connection.request("PUT", "/", data, {**ids, "Content-Length": str(size)})
        return connection.getresponse().status


class Source(BaseHTTPRequestHandler):
    """An image that comes slowly and never ends, and another one, for who comes again."""

    def do_HEAD(self) -> None:
        size = SIZE if self.path == "/endless" else len(AGAIN)
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        with contextlib.suppress(OSError):
            if self.path != "/endless":
                self.wfile.write(AGAIN)
            pause = threading.Event()
            while self.path == "/endless" and not pause.wait(PAUSE_S):
                self.wfile.write(PIECE)

    def log_message(self, format: str, *args: object) -> None:
        """Quietly."""


@contextlib.contextmanager
def serving(pool: SharedPool) -> Iterator[str]:
    """A web server on the host; its address."""
    with pool.host.network():
        server = ThreadingHTTPServer((pool.host.address, 0), Source)
    server.daemon_threads = True
    with server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://{pool.host.address}:{server.server_address[1]}"
        server.shutdown()


def begin_download(pool: SharedPool, volume: Volume, url: str) -> str:
    """Let an image have what a web server has; the task's id."""
    ids = {"storagepoolID": pool.pool_id, "storagedomainID": pool.domain_id, "imageID": volume.image_id}
    return str(pool.vdsmd.call("Image.download", **ids, methodArgs={"method": "http", "url": url}))


def wait_coming(pool: SharedPool, volume: Volume) -> Path:
    """The volume's data on the server, once enough has come."""
    path = pool.get_data_path(volume)
    wait_for(lambda: path.stat().st_blocks * 512 >= ENOUGH, "bytes come")
    return path


def find_last_write(log: Path, volume: Volume) -> int:
    """The line of the log where the last write to the volume's data began."""
    return max(act.begins for act in strace.read_acts(log) if act.path.name == volume.volume_id)


def check_illegal(pool: SharedPool, volume: Volume) -> None:
    info = pool.get_info(volume)
    assert (info["legality"], info["generation"]) == ("ILLEGAL", 0)


def check_legal(pool: SharedPool, volume: Volume, path: Path) -> None:
    info = pool.get_info(volume)
    assert (info["legality"], info["generation"]) == ("LEGAL", 1)
    with path.open("rb") as file:
        assert file.read(len(AGAIN)) == AGAIN


@pytest.mark.parametrize("way", ["put", "download"])
def test_nothing_comes_in_after_the_death_of_who_lost_its_lease(pools: Pools, tmp_path: Path, way: str) -> None:
    other, spm = pools
    spm.start_spm()
    other.wait_joined()
    volume, log = spm.create_volume(Volume(format="RAW")), tmp_path / "calls"
    with serving(spm) as url:
        with restored(spm) as wipe:
            with traced(spm, log):
                sender = Sender(spm, volume)
                if way == "put":
                    sender.start()
                else:
                    begin_download(spm, volume, f"{url}/endless")
                path = wait_coming(spm, volume)
                wipe()
                status = spm.vdsmd.process.wait(KILL_AFTER_S + SLACK_S)
                if way == "put":
                    sender.stop()
            assert status == -signal.SIGKILL
            spm.wait_childless()
            end = strace.find_end(log, spm.vdsmd.spawned.pid)
            assert find_last_write(log, volume) < end
            assert list_writes(spm, log, end) == []
            wait_quiet(spm.path, QUIET_S, ARRIVAL_S)
        spm.come_back()
        spm.wait_joined()
        spm.start_spm()
        check_illegal(spm, volume)
        if way == "put":
            assert put(spm, volume, len(AGAIN), AGAIN) == 200
        else:
            assert spm.vdsmd.wait_task(begin_download(spm, volume, f"{url}/again"))["code"] == 0
        check_legal(spm, volume, path)


def test_a_daemon_that_stood_still_writes_nothing_of_what_came_meanwhile(
    pools: Pools, rounds: Callable[[int, int], int]
) -> None:
    other, spm = pools
    spm.start_spm()
    other.wait_joined()
    for _ in range(rounds(2, 50)):
        volume = spm.create_volume(Volume(format="RAW"))
        sender = Sender(spm, volume, pause_s=0)  # more is on its way than all that lies between can hold
        sender.start()
        path = wait_coming(spm, volume)
        spm.vdsmd.spawned.freeze()
        wait_quiet(spm.path, QUIET_S, ARRIVAL_S)
        watch = Watch(spm.path)
        wait_for(spm.vdsmd.spawned.has_ended, "it ends while it stands still", KILL_AFTER_S + AT_ONCE_S)
        spm.vdsmd.spawned.thaw()
        assert spm.vdsmd.process.wait(AT_ONCE_S) == -signal.SIGKILL
        sender.stop()
        wait_quiet(spm.path, QUIET_S, ARRIVAL_S)
        assert watch.list_changes() == []
        spm.come_back()
        spm.wait_joined()
        wait_for(lambda: spm.try_spm() == 0, "it is the SPM again")
        check_illegal(spm, volume)
        assert put(spm, volume, len(AGAIN), AGAIN) == 200
        check_legal(spm, volume, path)
