"""The checker as a real process: what it tells of paths that work, fail or hang, and what becomes of one that dies."""

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from vdsm.adapters.checker import COMMAND, CheckerProcess
from vdsm.core.clock import SystemClock
from vdsm.storage.ports import PathCheck

HERE = Path(__file__).parent
ON_PIPES = (sys.executable, str(HERE / "checker_on_pipes.py"))
INTERVAL_S = 0.1
PATIENCE_S = 60.0


class Listener:
    """What is told of each path, in order."""

    def __init__(self, checker: CheckerProcess) -> None:
        self.checker = checker
        self.told: dict[Path, list[PathCheck]] = {}
        self._news = asyncio.Event()

    def watch(self, path: Path) -> None:
        self.checker.watch(path, lambda check: self._hear(path, check))

    def _hear(self, path: Path, check: PathCheck) -> None:
        self.told.setdefault(path, []).append(check)
        self._news.set()

    async def wait_until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                self._news.clear()
                await self._news.wait()

    async def wait_for(self, path: Path, count: int = 1, *, late: bool = False) -> list[PathCheck]:
        """Forget what was told of the path and wait for so many words, all of one sort."""
        self.told.pop(path, None)
        await self.wait_until(lambda: sum(check.is_late == late for check in self.told.get(path, [])) >= count)
        return self.told[path]

    @property
    def process_id(self) -> int:
        assert self.checker.process_id is not None
        return self.checker.process_id

    @property
    def thread_count(self) -> int:
        return len(os.listdir(f"/proc/{self.process_id}/task"))


@contextlib.asynccontextmanager
async def checking(command: tuple[str, ...] = COMMAND, silence_s: float = PATIENCE_S) -> AsyncIterator[Listener]:
    checker = CheckerProcess(INTERVAL_S, SystemClock(), command, silence_s)
    running = asyncio.create_task(checker.run())
    try:
        yield Listener(checker)
    finally:
        process_id = checker.process_id
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled()
        assert process_id is None or not Path(f"/proc/{process_id}").exists()


def make_file(path: Path) -> Path:
    path.write_bytes(b"CLASS=Data\n")
    return path


async def test_a_path_is_read_again_and_again(tmp_path):
    async with checking() as listener:
        path = make_file(tmp_path / "metadata")
        listener.watch(path)
        checks = await listener.wait_for(path, 3)
        assert {(check.failure, check.is_late) for check in checks} == {("", False)}
        assert all(0 < check.delay_s < PATIENCE_S for check in checks)


async def test_a_path_that_fails_says_why_and_recovers(tmp_path):
    async with checking() as listener:
        path = tmp_path / "metadata"
        listener.watch(path)
        assert (await listener.wait_for(path))[-1] == PathCheck(0.0, "No such file or directory")
        make_file(path)
        await listener.wait_until(lambda: not listener.told[path][-1].failure)


async def test_a_path_is_no_more_read_once_it_is_forgotten(tmp_path):
    async with checking() as listener:
        paths = [make_file(tmp_path / name) for name in "ab"]
        for path in paths:
            listener.watch(path)
        await listener.wait_for(paths[0])
        before = listener.thread_count
        listener.checker.forget(paths[0])
        listener.checker.forget(tmp_path / "never watched")
        listener.told.clear()
        await listener.wait_for(paths[1], 5)
        assert paths[0] not in listener.told
        assert listener.thread_count == before - 1


async def test_names_that_are_no_text(tmp_path):
    async with checking() as listener:
        path = make_file(tmp_path / os.fsdecode(b"line\nbreak \xff"))
        listener.watch(path)
        assert (await listener.wait_for(path))[-1].failure == ""


async def test_a_read_that_hangs_is_told_at_every_tick_costs_one_thread_and_recovers(tmp_path):
    async with checking(ON_PIPES) as listener:
        sick, well = tmp_path / "sick", make_file(tmp_path / "well")
        os.mkfifo(sick)
        listener.watch(sick)
        listener.watch(well)
        assert all(check.is_late for check in await listener.wait_for(sick, 3, late=True))
        await listener.wait_for(well, 3)
        threads = listener.thread_count
        for _ in range(3):  # forgotten and watched again while it hangs: it is the same thread
            listener.checker.forget(sick)
            listener.watch(sick)
        await listener.wait_for(sick, 2, late=True)
        assert listener.thread_count == threads == 3
        with open(sick, "wb") as pipe:
            pipe.write(b"!")
            sick.unlink()
            make_file(sick)
        await listener.wait_until(lambda: any(check.delay_s > INTERVAL_S for check in listener.told[sick]))
        assert all(not check.is_late for check in (await listener.wait_for(sick, 3))[-3:])


async def test_a_killed_checker_is_replaced(tmp_path):
    async with checking() as listener:
        path = make_file(tmp_path / "metadata")
        listener.watch(path)
        await listener.wait_for(path)
        first = listener.process_id
        os.kill(first, signal.SIGKILL)
        await listener.wait_until(lambda: listener.checker.process_id not in (None, first))
        assert (await listener.wait_for(path, 2))[-1].failure == ""


async def test_a_checker_that_falls_silent_is_replaced(tmp_path):
    async with checking(silence_s=2.0) as listener:
        path = make_file(tmp_path / "metadata")
        listener.watch(path)
        await listener.wait_for(path)
        first = listener.process_id
        os.kill(first, signal.SIGSTOP)
        await listener.wait_until(lambda: listener.checker.process_id not in (None, first))
        assert (await listener.wait_for(path, 2))[-1].failure == ""


async def test_one_that_cannot_be_started_is_tried_again(tmp_path, caplog):
    async with checking((str(tmp_path / "no-such-program"),)) as listener:
        listener.watch(make_file(tmp_path / "metadata"))
        async with asyncio.timeout(PATIENCE_S):
            while "cannot be used" not in caplog.text:
                await asyncio.sleep(0.01)


async def test_one_that_talks_nonsense_is_replaced(tmp_path, caplog):
    nonsense = "import socket, time; s = socket.socket(fileno=0); s.recv(9); s.send(b'\\xc1'); time.sleep(600)"
    async with checking((sys.executable, "-c", nonsense)) as listener:
        listener.watch(make_file(tmp_path / "metadata"))
        async with asyncio.timeout(PATIENCE_S):
            while caplog.text.count("cannot be used") < 2:
                await asyncio.sleep(0.01)


async def test_forty_five_paths(tmp_path):
    async with checking() as listener:
        paths = [make_file(tmp_path / str(number)) for number in range(45)]
        for path in paths:
            listener.watch(path)
        await listener.wait_until(lambda: all(len(listener.told.get(path, [])) >= 2 for path in paths))
        assert listener.thread_count == 46


def test_a_killed_owner_leaves_no_checker(tmp_path):
    path = make_file(tmp_path / "metadata")
    owner = subprocess.Popen([sys.executable, HERE / "checker_owner.py", path], stdout=subprocess.PIPE)
    with owner:
        assert owner.stdout is not None
        checker = os.pidfd_open(int(owner.stdout.readline()))
        try:
            owner.kill()
            ended, _, _ = select.select([checker], [], [], PATIENCE_S)
            assert ended, "the checker outlives its owner"
        finally:
            os.close(checker)


@pytest.mark.parametrize("garbage", [b"", b"\xff", b"\x93\xa5Watch\x01\x02"])
def test_orders_that_are_none_end_it(garbage):
    import socket

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, subprocess.Popen(COMMAND, stdin=theirs, stderr=subprocess.DEVNULL) as checker:
        ours.send(garbage)
        assert checker.wait(PATIENCE_S) == (0 if not garbage else 1)
