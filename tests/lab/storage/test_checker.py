"""The checker of domains on a real NFS server that hangs: one thread hangs with it, others go on, and it comes back."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from lab import loop, nfs
from lab.nfs import Server
from tests.contract.test_checker import COMMAND, Listener, checking, make_file

pytestmark = pytest.mark.timeout(400)  # a client that comes back needs as long again as its server was silent


def test_a_hung_server_costs_one_thread_and_comes_back_by_itself(tmp_path: Path) -> None:
    folder = tmp_path / "mounted"
    folder.mkdir()
    with nfs.server() as server, server.export("export", squashes_root=False) as export, export.mounted(folder):
        with loop.scratch() as local:
            asyncio.run(watch(server, make_file(folder / "metadata"), make_file(local / "metadata")))


async def watch(server: Server, sick: Path, well: Path) -> None:
    async with checking(COMMAND, silence_s=90) as listener:
        for path in (sick, well):
            listener.watch(path)
            await listener.wait_until(lambda path=path: any(not check.is_late for check in listener.told.get(path, [])))
        with server.hung():
            await listener.wait_for(sick, 3, late=True)
            await listener.wait_for(well, 3)
            for _ in range(3):
                listener.checker.forget(sick)
                listener.watch(sick)
            await listener.wait_for(sick, 3, late=True)
            assert listener.thread_count == 3
            await check_a_killed_one(listener, sick, well)
        # The read that hung ends well or, when the mount gave it up before the server was back, with a failure.
        await listener.wait_until(lambda: not listener.told[sick][-1].is_late and not listener.told[sick][-1].failure)
        assert (await listener.wait_for(sick, 3))[-1].failure == ""


async def check_a_killed_one(listener: Listener, sick: Path, well: Path) -> None:
    """One that is killed while a read hangs is replaced, and finds the same."""
    first = listener.process_id
    os.kill(first, signal.SIGKILL)
    await listener.wait_until(lambda: listener.checker.process_id not in (None, first))
    await listener.wait_for(well, 3)
    await listener.wait_for(sick, 3, late=True)
    assert listener.thread_count == 3
