"""The SPM loses its lease while it works: nothing writes to the domain once it is dead, and it dies in time."""

import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from lab import processes
from lab.commands import wait_for
from lab.sanlock import ALIGNMENT_BYTES, IO_TIMEOUT_S, KILL_AFTER_S, TAKE_OVER_AFTER_S
from lab.shared_pool import LOOK_EVERY_S, SharedPool
from tests.ledger import SIZE_BYTES, Work, check
from tests.system import strace
from tests.system.vdsmd import ConnectionFailed, Volume
from tests.writes import wait_quiet
from vdsm.wire.client import CallTimedOut

pytestmark = pytest.mark.timeout(400)

SLACK_S = 60.0
AT_ONCE_S = 5.0
NOTICE_S = LOOK_EVERY_S + 4 * IO_TIMEOUT_S
"""After so long whoever takes a lease that was made anew relies on it that nobody holds the one before."""
LOAD_S = 3.0
ARRIVAL_S = 10.0
"""So long the server may take for what was on its way to it."""
QUIET_S = 2.0
REFUSED = 651
UNDISTURBED = 2

Pools = tuple[SharedPool, SharedPool]


@contextmanager
def traced(pool: SharedPool, log: Path) -> Iterator[None]:
    """What the daemon and its children do to files is in the log afterwards; where it has ended, so have they."""
    pid = pool.vdsmd.spawned.pid
    tracer = processes.spawn(*strace.make_attach_command(log, pid))
    tasks = Path(f"/proc/{pid}/task")

    def is_traced() -> bool:
        try:
            return all(f"TracerPid:\t{tracer.pid}\n" in (task / "status").read_text() for task in tasks.iterdir())
        except (FileNotFoundError, ProcessLookupError):
            return False  # a thread has just ended

    try:
        wait_for(is_traced, "the daemon is traced")
        yield
        if pool.vdsmd.process.poll() is not None:
            tracer.process.wait(SLACK_S)
    finally:
        tracer.end()


def list_writes(pool: SharedPool, log: Path, after: int, before: float = math.inf) -> list[strace.Act]:
    """What was begun on the domain between two lines of the log, by the daemon or a child."""
    acts = [act for act in strace.read_acts(log) if pool.domain_id in str(act.path)]
    assert acts, "nothing was traced"
    return [act for act in acts if after < act.begins < before and act.kind not in (strace.Kind.SYNC, strace.Kind.SEND)]


def count_lines(log: Path) -> int:
    return len(log.read_bytes().splitlines())


def overwrite_lease(pool: SharedPool) -> None:
    """Leave nothing of the lease of the domain's one writer, as the server has it."""
    descriptor = os.open(pool.path / "dom_md/leases", os.O_WRONLY)
    try:
        os.pwrite(descriptor, bytes(ALIGNMENT_BYTES), ALIGNMENT_BYTES)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def work_until(work: Work, fault: Callable[[], object]) -> float:
    """Work; some time later the fault comes, and the daemon answers no more. When that was done."""
    done: list[float] = []
    for _ in range(UNDISTURBED):
        work.step()
    timer = threading.Timer(work.chance.uniform(0, LOAD_S), lambda: (fault(), done.append(time.monotonic())))
    timer.start()
    try:
        with suppress(ConnectionFailed, CallTimedOut):
            work.run()
    finally:
        timer.cancel()
        timer.join()
    return done[0]


@contextmanager
def restored(spm: SharedPool) -> Iterator[Callable[[], object]]:
    """Gives what wipes the lease by which the SPM's host is among the living; it is as before afterwards."""
    place = 512 * (spm.host_id - 1)
    descriptor = os.open(spm.path / "dom_md/ids", os.O_RDWR)
    try:
        saved = os.pread(descriptor, 512, place)
        yield lambda: (os.pwrite(descriptor, bytes(512), place), os.fsync(descriptor))
        os.pwrite(descriptor, saved, place)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def test_nothing_is_written_after_the_death_of_who_lost_its_lease(
    pools: Pools, tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    other, spm = pools  # without the first of its ids nobody could join the lockspace
    work = Work(spm, random.Random())
    spm.start_spm()
    other.wait_joined()
    for number in range(rounds(1, 10)):
        log = tmp_path / f"calls{number}"
        with restored(spm) as wipe:
            with traced(spm, log):
                work_until(work, wipe)
                status = spm.vdsmd.process.wait(KILL_AFTER_S + SLACK_S)
            assert status == -signal.SIGKILL, "its supervisor is to start it again"
            spm.wait_childless()
            assert list_writes(spm, log, strace.find_end(log, spm.vdsmd.spawned.pid)) == []
            wait_quiet(spm.path, QUIET_S, ARRIVAL_S)
            assert other.try_spm() == REFUSED, "whether the first is dead cannot be known"
        spm.come_back()
        spm.wait_joined()
        spm.start_spm()
        check(spm, work.ledger, tmp_path)


def test_whose_lease_is_overwritten_ends_and_no_other_is_spm_until_it_is_made_anew(
    pools: Pools, tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    spm, other = pools
    work = Work(spm, random.Random(), keeps_role=True)
    spm.start_spm()
    other.wait_joined()
    for number in range(rounds(1, 10)):
        work.pool, log = spm, tmp_path / f"calls{number}"
        with traced(spm, log):
            begin_s = work_until(work, partial(overwrite_lease, spm))
            status, ended_s = spm.vdsmd.process.wait(SLACK_S), time.monotonic()
        assert status == -signal.SIGKILL and ended_s < begin_s + NOTICE_S
        spm.wait_childless()
        assert list_writes(spm, log, strace.find_end(log, spm.vdsmd.spawned.pid)) == []
        wait_quiet(spm.path, QUIET_S, ARRIVAL_S)
        assert other.try_spm() == REFUSED
        other.make_lease_anew()
        assert other.try_spm() == 0
        check(other, work.ledger, tmp_path)
        spm.come_back()
        spm.wait_joined()
        spm, other = other, spm


@pytest.mark.parametrize("look_every_s", [3.0])
def test_who_takes_a_lease_that_was_made_anew_under_its_holder_waits_for_the_holders_end(
    pools: Pools, tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    spm, other = pools
    work = Work(spm, random.Random(), keeps_role=True)
    spm.start_spm()
    other.wait_joined()
    for number in range(rounds(1, 10)):
        work.pool, log, other_log = spm, tmp_path / f"calls{number}", tmp_path / f"others{number}"
        taking: list[str] = []

        def take(other: SharedPool = other, taking: list[str] = taking) -> None:
            other.make_lease_anew()
            taking.append(other.begin_spm())

        with traced(other, other_log):
            with traced(spm, log):
                work_until(work, take)
                status = spm.vdsmd.process.wait(SLACK_S)
            ended = count_lines(other_log)
            assert status == -signal.SIGKILL
            assert other.vdsmd.wait_task(taking[0])["code"] == 0
            volume = Volume()
            for begin in (partial(other.begin_create, volume, SIZE_BYTES), partial(other.begin_delete, volume)):
                assert other.vdsmd.wait_task(begin())["code"] == 0
        assert list_writes(spm, log, strace.find_end(log, spm.vdsmd.spawned.pid)) == []
        assert list_writes(other, other_log, 0, ended) == []
        assert list_writes(other, other_log, ended) != []
        work.pool = other
        check(other, work.ledger, tmp_path)
        spm.come_back()
        spm.wait_joined()
        spm, other = other, spm


@pytest.mark.timeout(400)
def test_a_host_that_stood_still_writes_nothing_when_it_goes_on(
    pools: Pools, tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    spm, other = pools
    work = Work(spm, random.Random())
    spm.start_spm()
    other.wait_joined()
    for number in range(rounds(1, 5)):
        work.pool, log = spm, tmp_path / f"calls{number}"
        with traced(spm, log):
            work_until(work, spm.host.freeze)
            limit_s = TAKE_OVER_AFTER_S + SLACK_S
            wait_for(lambda other=other: other.try_spm() == 0, "the other takes over", limit_s, pause_s=0.5)
            work.pool = other
            check(other, work.ledger, tmp_path)
            stood_still = count_lines(log)
            sanlock = spm.sanlock.daemon.pid
            spm.host.thaw(but=[sanlock])  # nobody is there yet to end who lost its lease
            spm.vdsmd.process.wait(KILL_AFTER_S + SLACK_S)
        spm.host.thaw()
        assert list_writes(spm, log, stood_still) == []
        wait_quiet(spm.path, QUIET_S, ARRIVAL_S)
        other.stop_spm()  # what was on its way to the server when the host stood still has arrived since
        other.start_spm()
        check(other, work.ledger, tmp_path)
        spm.come_back()
        spm.wait_joined()
        spm, other = other, spm


def test_a_daemon_that_stood_still_for_longer_than_its_lease_lives_ends(pools: Pools) -> None:
    spm, other = pools
    spm.start_spm()
    spm.vdsmd.spawned.freeze()
    wait_for(spm.vdsmd.spawned.has_ended, "it ends while it stands still", KILL_AFTER_S + AT_ONCE_S)
    spm.vdsmd.spawned.thaw()
    assert spm.vdsmd.process.wait(AT_ONCE_S) == -signal.SIGKILL
    wait_for(lambda: other.try_spm() == 0, "the other takes over")


def test_a_sanlock_that_stands_still_ends_the_spm_before_another_may_begin(pools: Pools) -> None:
    spm, _ = pools
    spm.start_spm()
    spm.sanlock.daemon.freeze()
    try:
        spm.vdsmd.process.wait(TAKE_OVER_AFTER_S - 20)
    finally:
        spm.sanlock.daemon.thaw()
