"""Channels into VMs, on unix sockets as qemu has them: nobody is read faster than asked, nor written to without end."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from vdsm.adapters.channels import CHUNK, UnixChannels


class Qemu:
    """The other end; `written` tells how much of an endless stream it got rid of."""

    def __init__(self, path: Path, pumps: bool) -> None:
        self.written = 0
        self.peer: socket.socket | None = None
        self.accepted = threading.Event()
        self._pumps = pumps
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            self.peer, _ = self._listener.accept()
            with self.peer:
                self.accepted.set()
                while self._pumps:
                    self.written += self.peer.send(b"x" * 65536)
                self._over.wait()

    def close(self) -> None:
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self.peer is not None:
            with suppress(OSError):  # closed by now
                self.peer.shutdown(socket.SHUT_RDWR)
        self._thread.join(30)


@pytest.fixture
def qemu(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Qemu]:
    qemu = Qemu(tmp_path / "channel", bool(request.param))
    yield qemu
    qemu.close()


@pytest.mark.parametrize("qemu", [True], indirect=True)
async def test_who_pumps_without_end_waits_until_it_is_read(qemu: Qemu, tmp_path: Path) -> None:
    channel = await UnixChannels().connect(str(tmp_path / "channel"))
    for rounds in (0, 20):
        read = 0
        for _ in range(rounds):
            data = await channel.read()
            assert 0 < len(data) <= CHUNK
            read += len(data)
        before, steady = -1, 0
        while steady < 20:  # it stands still when twenty turns of a busy loop changed nothing
            await asyncio.sleep(0.01)
            steady = steady + 1 if qemu.written == before else 0
            before = qemu.written
        assert qemu.written <= read + 4 * CHUNK + 512 * 1024, "what nobody asked for is not taken in"
    channel.close()


@pytest.mark.parametrize("qemu", [False], indirect=True)
async def test_who_does_not_listen_is_not_written_to_for_ever(qemu: Qemu, tmp_path: Path) -> None:
    channel = await UnixChannels().connect(str(tmp_path / "channel"))
    taken = 0
    while channel.send(b"y" * 1024):
        taken += 1024
        assert taken < 16 << 20
        if taken % (1 << 16) == 0:
            await asyncio.sleep(0)
    assert not channel.send(b"y" * (CHUNK + 1)), "more than is ever kept"
    channel.close()
    assert not channel.send(b"y"), "it is closed"


@pytest.mark.parametrize("qemu", [False], indirect=True)
async def test_the_end_of_the_other_side_is_told(qemu: Qemu, tmp_path: Path) -> None:
    channel = await UnixChannels().connect(str(tmp_path / "channel"))
    await asyncio.to_thread(qemu.accepted.wait, 30)
    assert qemu.peer is not None
    qemu.peer.sendall(b"last words")
    qemu.peer.shutdown(socket.SHUT_RDWR)
    assert await channel.read() == b"last words"
    assert await channel.read() == b""
    channel.close()


@pytest.mark.parametrize("path", ["{}/none", "{}", "{}/" + "x" * 200, "{}/\0", ""])
async def test_where_nobody_listens(path: str, tmp_path: Path) -> None:
    with pytest.raises(OSError):
        await UnixChannels().connect(path.format(tmp_path))
