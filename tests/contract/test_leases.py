"""What storage relies on between hosts, tried on leases in memory and on sanlock itself."""

import errno
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

import lab.sanlock
from lab.commands import wait_for
from lab.processes import Spawned, spawn
from lab.scratch import Scratch
from vdsm.adapters.sanlock import LOST_SIGNAL, SanlockLeases, _Registration
from vdsm.storage.ports import Lease, LeaseFailed, Leases, LeaseState, Lockspace
from vdsm.testing.leases import LeasesInMemory

MIB = 1 << 20
_numbers = count(1)


@dataclass
class Place:
    """A lockspace that this process and another one, of this host or of a second, have joined."""

    leases: Leases
    other: Leases
    folder: Path
    lockspace: Lockspace
    other_host_id: int

    def make_lease(self, offset_bytes: int = MIB) -> Lease:
        path = self.folder / f"leases:{next(_numbers)}"
        path.touch()
        lease = Lease(self.lockspace, "SDM", path, offset_bytes)
        self.leases.write_lease(lease)
        return lease


def make_lockspace(folder: Path, name: str = "domain", block_size_bytes: int = 512) -> Lockspace:
    ids = folder / f"ids:{next(_numbers)}"
    ids.touch()
    return Lockspace(name, ids, block_size_bytes, MIB)


def make_place(folder: Path, leases: Leases, other: Leases, other_host_id: int) -> Place:
    lockspace = make_lockspace(folder)
    leases.write_lockspace(lockspace)
    leases.join(lockspace, 1)
    other.join(lockspace, other_host_id)
    return Place(leases, other, folder, lockspace, other_host_id)


@pytest.fixture(scope="module")
def in_memory(tmp_path_factory: pytest.TempPathFactory) -> Place:
    first = LeasesInMemory(writes_files=True)
    return make_place(tmp_path_factory.mktemp("leases"), first, LeasesInMemory(first.judge, writes_files=True), 2)


def start_sanlock(folder: Path) -> Spawned:
    """sanlock in a folder of its own; whoever asks it needs the same environment."""
    environment = {"SANLOCK_PRIVILEGED": "0", "SANLOCK_RUN_DIR": str(folder)}
    command = ["sanlock", "daemon", "-D", "-w", "0", "-U", "root", "-G", "root", "-l", "0"]
    with (folder / "log").open("ab") as log:
        spawned = spawn(*command, environment=environment, stdout=log, stderr=log)
    socket = folder / "sanlock.sock"
    wait_for(lambda: spawned.process.poll() is not None or socket.exists(), "sanlock answers")
    return spawned


@pytest.fixture(scope="module")
def daemon() -> Iterator[tuple[Spawned, Path]]:
    """A sanlock that this process asks; its binding reads the environment once."""
    reason = lab.sanlock.why_not()
    if reason is not None:
        pytest.skip(reason)
    with Scratch() as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SANLOCK_PRIVILEGED", "0")
        patch.setenv("SANLOCK_RUN_DIR", str(scratch.path))
        spawned = start_sanlock(scratch.path)
        try:
            yield spawned, scratch.path
        finally:
            spawned.end()


@pytest.fixture(scope="module")
def of_sanlock(daemon: tuple[Spawned, Path]) -> Place:
    return make_place(daemon[1], SanlockLeases(1, print), SanlockLeases(1, print), 1)


@pytest.fixture(params=["in_memory", "of_sanlock"])
def place(request: pytest.FixtureRequest) -> Place:
    made: Place = request.getfixturevalue(request.param)
    return made


def test_a_lease_has_one_holder_and_counts_its_holders(place: Place) -> None:
    lease = place.make_lease()
    assert place.leases.inspect(lease) == LeaseState(0)
    place.leases.acquire(lease)
    assert place.leases.inspect(lease) == place.other.inspect(lease) == LeaseState(1, 1)
    assert place.leases.is_held(lease) and not place.other.is_held(lease)
    for second in (place.leases, place.other):
        with pytest.raises(LeaseFailed):
            second.acquire(lease)
    place.leases.release(lease)
    assert not place.leases.is_held(lease)
    assert place.leases.inspect(lease) == LeaseState(1)
    place.other.acquire(lease)
    assert place.leases.inspect(lease) == LeaseState(2, place.other_host_id)
    place.other.release(lease)


def test_what_is_not_held_is_not_released(place: Place) -> None:
    with pytest.raises(LeaseFailed):
        place.leases.release(place.make_lease())


def test_a_held_lease_is_the_one_at_that_place(place: Place) -> None:
    lease = place.make_lease()
    place.leases.acquire(lease)
    assert not place.leases.is_held(Lease(lease.lockspace, lease.name, lease.path, 0))
    assert not place.leases.is_held(Lease(lease.lockspace, "other", lease.path, lease.offset_bytes))
    place.leases.release(lease)


def test_names_tell_what_lies_where(place: Place) -> None:
    lease = place.make_lease()
    assert lease.path.stat().st_size == 2 * MIB
    assert place.leases.read_lease_name(lease) == ("domain", "SDM")
    assert place.leases.read_lease_name(Lease(lease.lockspace, "SDM", lease.path, 0)) is None
    place.leases.clear_lease(lease)
    assert place.leases.read_lease_name(lease) is None
    for refused in (place.leases.acquire, place.leases.inspect):
        with pytest.raises(LeaseFailed):
            refused(lease)


def test_who_holds_a_lease_is_not_told_when_it_is_overwritten_and_no_other_gets_it_until_it_is_made_anew(
    place: Place,
) -> None:
    lease = place.make_lease()
    place.leases.acquire(lease)
    place.leases.clear_lease(lease)
    assert place.leases.is_held(lease) and place.leases.read_lease_name(lease) is None
    for refused in (place.leases.inspect, place.other.acquire, place.leases.release):
        with pytest.raises(LeaseFailed):
            refused(lease)
    assert not place.leases.is_held(lease), "sanlock forgets it all the same"
    place.leases.write_lease(lease)
    place.leases.acquire(lease)
    place.leases.write_lease(lease)
    assert place.leases.is_held(lease) and place.leases.inspect(lease) == LeaseState(0)
    place.leases.release(lease)
    place.other.acquire(lease)
    assert place.other.inspect(lease) == LeaseState(1, place.other_host_id)
    place.other.release(lease)


def test_members_join_again_at_no_cost_and_under_one_number(place: Place) -> None:
    place.leases.join(place.lockspace, 1)
    assert place.leases.is_member(place.lockspace, 1)
    assert not place.leases.is_member(place.lockspace, 77)
    with pytest.raises(LeaseFailed):
        place.leases.join(place.lockspace, 77)


def test_who_is_no_member_gets_no_lease(place: Place) -> None:
    stranger = make_lockspace(place.folder, "stranger")
    place.leases.write_lockspace(stranger)
    lease = Lease(stranger, "SDM", place.make_lease().path)
    place.leases.write_lease(lease)
    with pytest.raises(LeaseFailed):
        place.leases.acquire(lease)
    place.leases.leave(stranger, 1)


def test_joining_what_is_no_lockspace_fails(place: Place) -> None:
    with pytest.raises(LeaseFailed):
        place.leases.join(make_lockspace(place.folder, "nothing"), 1)
    with pytest.raises(LeaseFailed):
        place.leases.join(Lockspace("nowhere", place.folder / "nowhere", 512, MIB), 1)


def test_one_leaves_when_nothing_is_held(place: Place) -> None:
    passing = make_lockspace(place.folder, "passing")
    place.leases.write_lockspace(passing)
    place.leases.join(passing, 5)
    lease = Lease(passing, "SDM", place.make_lease().path)
    place.leases.write_lease(lease)
    place.leases.acquire(lease)
    with pytest.raises(LeaseFailed) as refused:
        place.leases.leave(passing, 5)
    assert refused.value.error == errno.EBUSY
    place.leases.release(lease)
    for _ in range(2):
        place.leases.leave(passing, 5)
        assert not place.leases.is_member(passing, 5)


def test_a_lease_carries_a_value(place: Place) -> None:
    lease = place.make_lease()
    with pytest.raises(LeaseFailed):
        place.leases.read_value(lease)
    place.leases.acquire(lease, with_value=True)
    assert place.leases.read_value(lease) == bytes(512)
    place.leases.write_value(lease, b"value")
    place.leases.release(lease)
    place.other.acquire(lease, with_value=True)
    assert place.other.read_value(lease) == b"value".ljust(512, b"\0")
    place.other.write_value(lease, b"x" * 512)
    place.other.release(lease)
    place.leases.acquire(lease, with_value=True)
    assert place.leases.read_value(lease) == b"x" * 512
    place.leases.release(lease)


# Of sanlock alone.


def test_larger_blocks(of_sanlock: Place) -> None:
    space = Lockspace("large", make_lockspace(of_sanlock.folder).path, 4096, 2 * MIB)
    of_sanlock.leases.write_lockspace(space)
    assert space.path.stat().st_size == 2 * MIB
    lease = Lease(space, "SDM", of_sanlock.make_lease(0).path, 2 * MIB)
    of_sanlock.leases.write_lease(lease)
    assert lease.path.stat().st_size == 4 * MIB
    assert of_sanlock.leases.read_lease_name(lease) == ("large", "SDM")


def test_a_daemon_that_hangs_costs_one_thread_and_its_callers_a_failure(
    daemon: tuple[Spawned, Path], of_sanlock: Place
) -> None:
    lease = of_sanlock.make_lease()
    impatient = SanlockLeases(0, print)
    daemon[0].freeze()
    try:
        before = threading.active_count()
        for _ in range(3):
            with pytest.raises(LeaseFailed, match="no answer"):
                impatient.read_lease_name(lease)
        assert threading.active_count() <= before + 1
    finally:
        daemon[0].thaw()
    wait_for(lambda: not impatient._patience.is_stuck("domain"), "the call comes back")
    assert of_sanlock.leases.read_lease_name(lease) == ("domain", "SDM")


def test_a_lease_that_comes_too_late_is_given_back(daemon: tuple[Spawned, Path], of_sanlock: Place) -> None:
    lease = of_sanlock.make_lease()
    impatient = SanlockLeases(1, print)
    impatient.acquire(lease)
    impatient.release(lease)
    impatient._io_timeout_s = 0
    daemon[0].freeze()
    try:
        with pytest.raises(LeaseFailed, match="no answer"):
            impatient.acquire(lease)
    finally:
        daemon[0].thaw()
    wait_for(lambda: not impatient._patience.is_stuck("domain"), "the call comes back")
    assert of_sanlock.leases.inspect(lease) == LeaseState(2)


HOLDER = """
import sys, threading
from pathlib import Path
from vdsm.adapters.run import run
from vdsm.adapters.sanlock import SanlockLeases, _Registration
from vdsm.storage.ports import Lease, Lockspace

folder = Path(sys.argv[1])
space = Lockspace("domain", folder / "ids", 512, 1 << 20)
lease = Lease(space, "SDM", folder / "leases")
leases = SanlockLeases(1)
for file in (space.path, lease.path):
    file.touch()
leases.write_lockspace(space)
leases.write_lease(lease)
leases.join(space, 1)
leases.acquire(lease)
threading.Timer(0, lambda: (folder / "ready").touch()).start()
run(["sh", "-c", "echo $$ >child; exec sleep 1000"], timeout_s=1000, cwd=folder)
"""


def test_a_lease_that_is_got_while_sanlock_goes_is_lost_and_none_is_got_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = Lease(Lockspace("domain", tmp_path / "ids", 512, MIB), "SDM", tmp_path / "leases", MIB)
    begun, gate, lost = threading.Event(), threading.Event(), list[str]()

    def acquire(*_: object, slkfd: int, lvb: bool) -> None:
        begun.set()
        assert gate.wait(30)

    ours, theirs = socket.socketpair()
    monkeypatch.setattr("sanlock.acquire", acquire)
    registration = _Registration(ours.detach(), 1000.0)
    watching = threading.Thread(target=registration.watch, args=(lost.append,), daemon=True)
    acquiring = threading.Thread(target=registration.acquire, args=(lease, False), daemon=True)
    for thread, is_ready in ((acquiring, begun.is_set), (watching, lambda: True)):
        thread.start()
        wait_for(is_ready, "the thread is at work")
    theirs.close()
    wait_for(lambda: registration.is_closed, "the end is noticed")
    assert not lost
    gate.set()
    watching.join(30)
    assert len(lost) == 1
    with pytest.raises(OSError, match="sanlock is gone"):
        registration.acquire(lease, False)


def wipe_host(folder: Path) -> None:
    """The host is none of the lockspace any more, as its sanlock finds at once."""
    with (folder / "ids").open("r+b") as ids:
        ids.write(bytes(512))


@pytest.mark.parametrize("fault", ["sanlock ends", "host is lost"])
def test_who_held_a_lease_dies_with_it_unlike_by_its_owner_and_so_do_its_children(fault: str) -> None:
    reason = lab.sanlock.why_not()
    if reason is not None:
        pytest.skip(reason)
    with Scratch() as scratch:
        own = {"SANLOCK_PRIVILEGED": "0", "SANLOCK_RUN_DIR": str(scratch.path)}
        daemon = start_sanlock(scratch.path)
        holder = spawn(sys.executable, "-c", HOLDER, scratch.path, environment=own)
        try:
            child = scratch.path / "child"
            wait_for(lambda: (scratch.path / "ready").exists() and child.exists() and child.read_text(), "it holds")
            pid = int(child.read_text())
            if fault == "sanlock ends":
                daemon.end()
            else:
                wipe_host(scratch.path)
            expected = signal.SIGKILL if fault == "sanlock ends" else LOST_SIGNAL
            assert holder.process.wait(20) == -expected
            wait_for(lambda: not Path(f"/proc/{pid}").exists(), "its child is dead")
        finally:
            holder.end()
            daemon.end()
