"""A place of its own on this machine: mounts, network, processes and a host name that nobody else sees.

Nothing of it outlives the thread that made it, however that ends: the kernel kills process 1 then, and with it all
that is inside. What runs inside is left to others.
"""

import ctypes
import os
import select
import signal
import subprocess
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from lab import processes
from lab.commands import PartFailed, run, wait_for
from lab.processes import DIES_WITH_PARENT, Spawned, spawn

START_TIMEOUT_S = 60.0
RUN_TIMEOUT_S = 60.0
NEEDS = ("unshare", "nsenter", "setpriv", "ip", "bash")
_CLONE_NEWNET = 0x40000000
_KINDS = ("--mount", "--net", "--pid", "--uts")

# Process 1 must reap, or libvirt waits for qemus that are long dead: bash does, also while it reads. It reads from a
# pipe that only we can write to, so it ends with us also when we were killed before the kernel was asked for that.
# A fresh /sys shows this network's links and no control groups, so nobody makes any.
_INIT = r"""
set -e
name=$1 home=$2
exec 3>&1 4<&0 0</dev/null 1>&2
place() {  # PATH NAME: what is written there is on disk when there is a home, else in memory
  mkdir -p "$1"
  if [[ $home ]]; then mkdir -p "$home/$2"; mount --bind "$home/$2" "$1"; else mount -t tmpfs "$2" "$1"; fi
}
hostname "$name"
umount -l -R /sys/fs/cgroup 2>/dev/null || true
mount -t sysfs sys /sys
[[ ! $home ]] || rm -rf "$home/run"
place /run run
place /var/log log
mkdir -p /run/lock
ip link set lo up
eval "$3"
echo ready >&3
exec 3>&-
while read -r _ <&4; do :; done
"""


class Namespaces:
    """Own namespaces under a process 1 that only waits and reaps. A context manager.

    `home` keeps what is written to /run (until the next start), /var/log and other places; without it that is in
    memory. `setup` is a script for bash that runs first; it may call `place PATH NAME` and use `$name` and `$home`.
    """

    def __init__(self, name: str, home: Path | None = None, setup: str = "") -> None:
        self.name = name
        self.home = home
        self.init_pid = 0
        self._setup = setup
        self._outer: subprocess.Popen[bytes] | None = None
        self._spawned: list[Spawned] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def root(self) -> Path:
        """Its view of the file system, for looking into its folders."""
        return Path(f"/proc/{self.init_pid}/root")

    def start(self) -> None:
        """Begin and wait until the set-up is done. Raises PartFailed."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Begin; several may be launched before any is waited for."""
        assert self._outer is None, f"{self.name} is there already"
        self._outer = subprocess.Popen(
            [*DIES_WITH_PARENT, "unshare", *_KINDS, "--fork", "--kill-child", "--mount-proc"]
            + ["bash", "-c", _INIT, "init", self.name, str(self.home or ""), self._setup],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def wait_ready(self) -> None:
        """Return when the set-up is done. Raises PartFailed."""
        assert self._outer is not None and self._outer.stdout is not None
        ready, _, _ = select.select([self._outer.stdout], [], [], START_TIMEOUT_S)
        if not ready or self._outer.stdout.readline() != b"ready\n":
            self.close()
            raise PartFailed(f"the namespaces of {self.name} were not set up")
        [self.init_pid] = processes.list_children(self._outer.pid)

    def make_command(self, *command: str | Path) -> list[str]:
        """The command so that it runs inside, by a process in between that ends as it does."""
        return ["nsenter", "--target", str(self.init_pid), *_KINDS, "--", *map(str, command)]

    def run(self, *command: str | Path, timeout_s: float = RUN_TIMEOUT_S) -> str:
        """Run a command inside and return what it prints. Raises PartFailed."""
        return run(*self.make_command(*DIES_WITH_PARENT, *command), timeout_s=timeout_s)

    def spawn(
        self,
        *command: str | Path,
        environment: Mapping[str, str] | None = None,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
    ) -> Spawned:
        """Start a process inside; it ends with this thread at the latest."""
        inside = self.make_command(*DIES_WITH_PARENT, *command)
        process = spawn(*inside, environment=environment, stdin=stdin, stdout=stdout, stderr=stderr).process

        def look() -> list[int] | None:
            return processes.list_children(process.pid) or ([process.pid] if process.poll() is not None else None)

        spawned = Spawned(process, wait_for(look, f"{command[0]} starts", pause_s=0.005)[0])
        self._spawned.append(spawned)
        return spawned

    @contextmanager
    def network(self) -> Iterator[None]:
        """Sockets that this thread makes within the block are in this network; they stay there."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/proc/thread-self/ns/net").open() as ours, Path(f"/proc/{self.init_pid}/ns/net").open() as theirs:
            _enter(libc, theirs.fileno())
            try:
                yield
            finally:
                _enter(libc, ours.fileno())

    def list_pids(self) -> list[int]:
        """All processes inside, as seen from out here."""
        return processes.list_neighbours(self.init_pid)

    def freeze(self) -> None:
        """Every process inside stands still, as if the machine hung."""
        told: set[int] = set()
        while running := [pid for pid in self.list_pids() if pid not in told or not processes.is_stopped(pid)]:
            for pid in running:
                _signal(pid, signal.SIGSTOP)
            told.update(running)

    def thaw(self, but: Collection[int] = ()) -> None:
        """Every process inside goes on, but for these."""
        for pid in self.list_pids():
            if pid not in but:
                _signal(pid, signal.SIGCONT)
        self._thaw_between()

    def close(self) -> None:
        """End every process inside at once, as by a power loss; none is left, and no mount, when this returns."""
        if self._outer is None:
            return
        inits = processes.list_children(self._outer.pid)
        self._outer.kill()
        self._thaw_between()
        for pid in inits:
            processes.end(pid)  # process 1 has ended when all others have
        for process in (self._outer, *(spawned.process for spawned in self._spawned)):
            process.wait(processes.END_TIMEOUT_S)
            processes.close_pipes(process)
        self._spawned.clear()
        self._outer = None
        self.init_pid = 0

    def _thaw_between(self) -> None:
        """Processes between us and those inside stand still as these do; process 1 waits until they reap."""
        for spawned in self._spawned:
            spawned.process.send_signal(signal.SIGCONT)


def _enter(libc: ctypes.CDLL, namespace: int) -> None:
    if libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
