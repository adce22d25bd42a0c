"""Multipath over two portals: a path fails, a writer goes on, the path comes back."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import devicemapper
from lab.commands import wait_for
from lab.direct import read_direct, write_direct
from lab.initiator import initiator
from lab.iscsi import iscsi_target
from lab.multipath import multipath

BLOCK = 4096
BLOCKS = 256


class Writer(threading.Thread):
    """Writes numbered blocks round and round until told to stop."""

    def __init__(self, device: Path) -> None:
        super().__init__()
        self.device, self.written, self.stopped = device, 0, False
        self.failure: OSError | None = None

    def run(self) -> None:
        try:
            while not self.stopped:
                data = self.written.to_bytes(8, "big") * (BLOCK // 8)
                write_direct(self.device, self.written % BLOCKS * BLOCK, data)
                self.written += 1
        except OSError as error:
            self.failure = error

    def check(self) -> None:
        """Everything is where it was written."""
        assert self.failure is None
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
        thread.stopped = True
        thread.join()


def test_a_failed_path_does_not_stop_a_writer_and_comes_back() -> None:
    with iscsi_target([16 << 20], ["127.0.0.2", "127.0.0.3"]) as target, initiator(noop_s=1) as host:
        wwid = target.luns[0].wwid
        with multipath(fast_io_fail_s=1) as paths, host.session(target, target.portals[0]) as first:
            with host.session(target, target.portals[1]) as second:
                device = paths.device(wwid, paths=2)
                names = {first.device().name, second.device().name}
                assert paths.read_paths(wwid) == dict.fromkeys(names, True)
                with writer(device) as thread:
                    for portal, session in zip(target.portals, (first, second), strict=True):
                        with portal.closed():
                            paths.wait_for_paths(wwid, 1)
                            assert not paths.read_paths(wwid)[session.device().name]
                            thread.goes_on()
                        paths.wait_for_paths(wwid, 2)
                        thread.goes_on()
                    with target.portals[0].silenced():
                        paths.wait_for_paths(wwid, 1)
                        thread.goes_on()
                    paths.wait_for_paths(wwid, 2)
                thread.check()
    assert wwid not in devicemapper.list_devices()
    assert not os.path.exists("/etc/multipath.conf")


@pytest.mark.parametrize("no_path_retry", ["fail", "queue"])
def test_without_any_path_io_fails_or_waits_as_configured(no_path_retry: str) -> None:
    with iscsi_target([16 << 20]) as target, initiator(noop_s=1) as host:
        wwid = target.luns[0].wwid
        with multipath(no_path_retry, fast_io_fail_s=1) as paths, host.session(target):
            with writer(paths.device(wwid)) as thread:
                with target.portals[0].closed():
                    paths.wait_for_paths(wwid, 0)
                    if no_path_retry == "fail":
                        wait_for(lambda: thread.failure, "the writer fails")
                if no_path_retry == "queue":
                    paths.wait_for_paths(wwid, 1)
                    thread.goes_on()
