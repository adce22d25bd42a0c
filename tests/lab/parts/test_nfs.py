"""NFS servers: every version and squash is what it says, and every fault is one."""

import errno
import mmap
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import nfs
from lab.commands import PartFailed, wait_for
from lab.networks import namespace
from lab.nfs import Export, Server, read_mount_options

NOBODY = 65534
HASTY = "soft,timeo=10,retrans=1"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with nfs.server() as server:
        yield server


@pytest.fixture
def export(server: Server) -> Iterator[Export]:
    with server.export("export", squashes_root=False) as export:
        yield export


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mounted"
    folder.mkdir()
    return folder


def read_direct(file: Path) -> bytes:
    """One page, past the page cache."""
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        handle = os.open(file, os.O_RDONLY | os.O_DIRECT)
        try:
            return page[: os.readv(handle, [page])]
        finally:
            os.close(handle)


def start_reader(file: Path) -> subprocess.Popen[bytes]:
    command = ["dd", f"if={file}", "bs=4096", "count=1", "iflag=direct", "status=none"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)


@pytest.mark.parametrize("version", nfs.VERSIONS)
def test_versions_are_negotiated_and_files_are_shared(export: Export, folder: Path, version: str) -> None:
    with export.mounted(folder, version):
        options = read_mount_options(folder)
        (folder / "file").write_bytes(b"from the client")
        (export.folder / "other").write_bytes(b"from the server")
        assert read_direct(folder / "other") == b"from the server"
    assert (options["vers"], options["proto"], "hard" in options) == (version, "tcp", True)
    assert (export.folder / "file").read_bytes() == b"from the client"
    assert read_mount_options(folder) == {}


@pytest.mark.parametrize("squashes_root", [True, False])
def test_root_is_squashed_where_asked(server: Server, folder: Path, squashes_root: bool) -> None:
    with server.export("squash", squashes_root=squashes_root) as export, export.mounted(folder):
        (folder / "file").touch()
        assert (export.folder / "file").stat().st_uid == (NOBODY if squashes_root else 0)
        (export.folder / "private").mkdir(mode=0o700)
        if squashes_root:
            with pytest.raises(PermissionError):
                (folder / "private/file").touch()
        else:
            (folder / "private/file").touch()


def test_hung_export_blocks_a_reader_in_the_kernel(server: Server, export: Export, folder: Path) -> None:
    (export.folder / "file").write_bytes(b"late")
    with export.mounted(folder, options="hard"):
        with server.hung():
            reader = start_reader(folder / "file")
            nfs.wait_until_blocked(reader.pid)
            with pytest.raises(subprocess.TimeoutExpired):
                reader.wait(2)
            assert nfs.is_blocked(reader.pid)
        assert reader.communicate(timeout=60)[0] == b"late"
        assert reader.returncode == 0


def test_gone_server_refuses(server: Server, export: Export, folder: Path) -> None:
    with server.gone():
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((server.address, nfs.PORT), timeout=30)
        with pytest.raises(PartFailed, match="refused"), export.mounted(folder):
            pass
    with export.mounted(folder):
        assert list(folder.iterdir()) == []


def test_open_files_outlive_a_server_that_was_gone(server: Server, export: Export, folder: Path) -> None:
    with export.mounted(folder), (folder / "file").open("wb", buffering=0) as file:
        file.write(b"before, ")
        os.fsync(file.fileno())
        with server.gone():
            pass
        file.write(b"after")
        os.fsync(file.fileno())
        assert (export.folder / "file").read_bytes() == b"before, after"


def test_daemons_do_not_speak_amid_the_answers_of_the_servers_shell(server: Server) -> None:
    assert server._shell.stdout is not None
    answers = os.readlink(f"/proc/self/fd/{server._shell.stdout.fileno()}")
    daemons = {
        (server.root / f"proc/{pid}/comm").read_text().strip(): os.readlink(server.root / f"proc/{pid}/fd/{number}")
        for pid in filter(str.isdigit, os.listdir(server.root / "proc"))
        for number in (1, 2)
        if pid != "1"
    }
    assert {"rpcbind", "nfsdcld", "rpc.mountd"} <= set(daemons)
    assert answers not in daemons.values()


def test_soft_mount_returns_an_error_after_its_time_out(server: Server, export: Export, folder: Path) -> None:
    (export.folder / "file").write_bytes(b"soft")
    with export.mounted(folder, "3", HASTY):
        assert read_direct(folder / "file") == b"soft"
        handle = os.open(folder / "file", os.O_RDONLY | os.O_DIRECT)
        with server.hung():
            began = time.monotonic()
            with mmap.mmap(-1, mmap.PAGESIZE) as page, pytest.raises(OSError) as caught:
                os.readv(handle, [page])
            took_s = time.monotonic() - began
        os.close(handle)
        assert caught.value.errno == errno.EIO
        assert 1.8 <= took_s < 30  # timeo is in tenths, and doubled by one retransmission
        # TCP tries again at ever greater distances, so the client is not back at once.
        wait_for(lambda: can_read(folder / "file"), "the mount works again")


def can_read(file: Path) -> bool:
    try:
        return read_direct(file) == b"soft"
    except OSError:
        return False


def test_full_export_says_no_space(server: Server, folder: Path) -> None:
    with server.export("small", size_bytes=2**20) as export, export.mounted(folder):
        with pytest.raises(OSError) as caught, (folder / "file").open("wb", buffering=0) as file:
            file.write(bytes(2**21))
            os.fsync(file.fileno())
        assert caught.value.errno == errno.ENOSPC
        (folder / "file").unlink()

        def has_room() -> bool:
            try:
                (folder / "file").write_bytes(bytes(2**19))
            except OSError as error:
                assert error.errno == errno.ENOSPC
                return False
            return True

        wait_for(has_room, "the server lets go of the file")  # it keeps files open for a while


def test_slow_export_is_slow(server: Server, export: Export, folder: Path) -> None:
    (export.folder / "file").write_bytes(b"slow")
    with export.mounted(folder):
        quick_s = min(measure(folder / "file") for _ in range(3))
        with server.slow(delay_ms=700):
            slow_s = min(measure(folder / "file") for _ in range(2))
        healed_s = min(measure(folder / "file") for _ in range(3))
    assert slow_s >= 0.7
    assert quick_s < 0.7
    assert healed_s < 0.7


def measure(file: Path) -> float:
    began = time.monotonic()
    read_direct(file)
    return time.monotonic() - began


def test_several_clients_share_an_export(server: Server, export: Export, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with (
        namespace("client") as client,
        server.client(client),
        export.mounted(folder),
        export.mounted(other, namespace=client),
    ):
        (folder / "file").write_bytes(b"shared")
        assert read_direct(other / "file") == b"shared"
        mine, others = read_mount_options(folder), read_mount_options(other)
    assert mine["clientaddr"] != others["clientaddr"]


def test_server_that_hangs_goes_all_the_same(folder: Path) -> None:
    class Interrupted(Exception):
        pass

    with (
        pytest.raises(Interrupted),
        nfs.server(2) as second,
        second.export("export") as export,
        export.mounted(folder, options=HASTY),
    ):
        (folder / "file").write_bytes(b"x")
        second.hang()
        raise Interrupted
    assert read_mount_options(folder) == {}
    assert not second.root.exists()
    assert not Path("/run/netns/nfs2").exists()
