"""Multipath over two portals: a path fails, a writer goes on, the path comes back."""

import errno
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lab import devicemapper
from lab.commands import wait_for
from lab.direct import read_direct
from lab.initiator import initiator
from lab.iscsi import iscsi_target
from lab.multipath import multipath

BLOCK = 4096
BLOCKS = 64
PAUSE_S = 0.02  # between writes, or else the writer takes all of a slow machine


class Writer(threading.Thread):
    """Writes numbered blocks round and round until told to stop."""

    def __init__(self, device: Path) -> None:
        super().__init__()
        self.device, self.written, self.stopped = device, 0, threading.Event()
        self.failure: OSError | None = None

    def run(self) -> None:
        # One descriptor for all: each close of a written device makes udev look at it again, which is slow here.
        descriptor = os.open(self.device, os.O_WRONLY | os.O_DIRECT)
        try:
            with mmap.mmap(-1, BLOCK) as pages:
                while not self.stopped.wait(PAUSE_S):
                    pages[:] = self.written.to_bytes(8, "big") * (BLOCK // 8)
                    os.pwritev(descriptor, [pages], self.written % BLOCKS * BLOCK)
                    self.written += 1
        except OSError as error:
            self.failure = error
        finally:
            os.close(descriptor)

    def check(self) -> None:
        """Everything is where it was written."""
        assert self.failure is None
        wait_for(self.device.exists, "udev has looked at what was closed")  # its link may be gone meanwhile
        for number in range(max(0, self.written - BLOCKS), self.written):
            data = read_direct(self.device, number % BLOCKS * BLOCK, BLOCK)
            assert data == number.to_bytes(8, "big") * (BLOCK // 8)

    def goes_on(self) -> None:
        now = self.written
        wait_for(lambda: self.failure or self.written > now + 10, "the writer goes on")
        assert self.failure is None


@contextmanager
def writer(device: Path) -> Iterator[Writer]:
    thread = Writer(device)
    thread.start()
    try:
        thread.goes_on()
        yield thread
    finally:
        thread.stopped.set()
        thread.join()


def test_a_failed_path_does_not_stop_a_writer_and_comes_back() -> None:
    with (
        iscsi_target([16 << 20], ["127.0.0.2", "127.0.0.3"]) as target,
        initiator(noop_s=1) as host,
        ExitStack() as undo,
    ):
        wwid = target.luns[0].wwid
        paths = undo.enter_context(multipath(fast_io_fail_s=1))
        first, second = [undo.enter_context(host.session(target, portal)) for portal in target.portals]
        device = paths.device(wwid, paths=2)
        assert paths.read_paths(wwid) == {first.device().name: True, second.device().name: True}
        with writer(device) as thread:
            for session, fault in ((first, target.portals[0].closed), (second, target.portals[1].silenced)):
                with fault():
                    paths.wait_for_paths(wwid, 1)
                    assert not paths.read_paths(wwid)[session.device().name]
                    thread.goes_on()
                paths.wait_for_paths(wwid, 2)
                thread.goes_on()
        thread.check()
        with target.portals[0].closed(), target.portals[1].closed(), pytest.raises(OSError) as caught:
            read_direct(device, 0, BLOCK)
        assert caught.value.errno == errno.EIO
    assert wwid not in devicemapper.list_devices()
    assert not os.path.exists("/etc/multipath.conf")


def test_a_writer_without_any_path_waits_when_told_to() -> None:
    with iscsi_target([16 << 20]) as target, initiator(noop_s=1) as host:
        wwid = target.luns[0].wwid
        with multipath("queue", fast_io_fail_s=1) as paths, host.session(target):
            with writer(paths.device(wwid)) as thread:
                with target.portals[0].closed():
                    paths.wait_for_paths(wwid, 0)
                    assert thread.failure is None
                paths.wait_for_paths(wwid, 1)
                thread.goes_on()
            thread.check()
