"""sanlock on a host, without rights and without a watchdog, and processes there that hold its leases.

It beats with a short time limit, so that tests see leases expire: a host is taken for dead after 8 of these and 60 s.
"""

import json
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from types import TracebackType
from typing import Self

from lab import processes
from lab.commands import PartFailed, wait_for
from lab.images import PROJECT
from lab.namespaces import Namespaces
from lab.processes import Spawned

IO_TIMEOUT_S = 1
KILL_AFTER_S = 8 * IO_TIMEOUT_S
"""So long after its last renewal a host kills whoever holds a lease."""
TAKE_OVER_AFTER_S = KILL_AFTER_S + 60
RUN_FOLDER = "/run/sanlock"  # the binding's own default
ALIGNMENT_BYTES = 1 << 20


def why_not() -> str | None:
    """Why there can be no sanlock here, or None."""
    return None if shutil.which("sanlock", path="/usr/sbin:/usr/bin:/sbin:/bin") else "not installed: sanlock"


class LeaseRefused(PartFailed):
    """sanlock said no; `number` is its reason."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number


@dataclass(frozen=True)
class Lease:
    """A lockspace with one resource, in two files of a folder that all its hosts see."""

    folder: Path
    lockspace: str = "lockspace"
    resource: str = "resource"

    @property
    def ids(self) -> Path:
        return self.folder / "ids"

    @property
    def leases(self) -> Path:
        return self.folder / "leases"

    def make_files(self) -> None:
        """Make its files, empty: a holder formats them."""
        for file in (self.ids, self.leases):
            file.write_bytes(bytes(ALIGNMENT_BYTES))


class Sanlock:
    """The daemon of one host. A context manager; it ends with the host."""

    def __init__(self, place: Namespaces) -> None:
        self.place = place
        self._daemon: Spawned | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def daemon(self) -> Spawned:
        assert self._daemon is not None
        return self._daemon

    def start(self) -> None:
        """Start the daemon; it answers when this returns."""
        environment = {"SANLOCK_PRIVILEGED": "0", "SANLOCK_RUN_DIR": RUN_FOLDER}
        # By its name a host that comes back is known: it may take its own place at once.
        command = ["sanlock", "daemon", "-D", "-w", "0", "-U", "root", "-G", "root", "-l", "0", "-e", self.place.name]
        with (self.place.root / "var/log/sanlock.out").open("ab") as log:
            daemon = self.place.spawn(*command, environment=environment, stdout=log, stderr=log)
        self._daemon = daemon
        wait_for(lambda: daemon.process.poll() is not None or self._answers(), "sanlock answers")

    def kill(self) -> None:
        """End the daemon at once."""
        self.daemon.end()

    def register(self) -> "Holder":
        """A new process of this host that may hold leases."""
        return Holder(self.place)

    def _answers(self) -> bool:
        try:
            self.place.run("sanlock", "client", "status")
        except PartFailed:
            return False
        return True


class Holder:
    """A process on a host that sanlock kills when its lease is lost. A context manager."""

    def __init__(self, place: Namespaces) -> None:
        command = [sys.executable, "-m", "lab.leaseholder"]
        self.spawned = place.spawn(*command, environment={"PYTHONPATH": str(PROJECT)}, stdin=PIPE, stdout=PIPE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def format(self, lease: Lease) -> None:
        """Write an empty lockspace with its resource."""
        places = (lease.lockspace, str(lease.ids), lease.resource, str(lease.leases))
        self._tell("format", *places, IO_TIMEOUT_S)

    def join(self, lease: Lease, host_id: int) -> None:
        """Make the host a member of the lockspace. Raises LeaseRefused."""
        self._tell("join", lease.lockspace, host_id, str(lease.ids), IO_TIMEOUT_S)

    def leave(self, lease: Lease, host_id: int) -> None:
        """End the host's membership. Raises LeaseRefused."""
        self._tell("leave", lease.lockspace, host_id, str(lease.ids))

    def acquire(self, lease: Lease) -> None:
        """Take the lease. Raises LeaseRefused."""
        self._tell("acquire", lease.lockspace, lease.resource, str(lease.leases))

    def release(self, lease: Lease) -> None:
        """Give the lease back. Raises LeaseRefused."""
        self._tell("release", lease.lockspace, lease.resource, str(lease.leases))

    def inquire(self) -> list[str]:
        """The resources that it holds."""
        held = self._tell("inquire")
        assert isinstance(held, list)
        return held

    def wait_killed(self, limit_s: float) -> signal.Signals:
        """The signal that ended it. Raises PartFailed when none does in time."""
        process = self.spawned.process
        wait_for(lambda: process.poll() is not None, "sanlock kills the holder", limit_s)
        return signal.Signals(-process.returncode)

    def kill(self) -> None:
        """End it at once; sanlock gives back what it held."""
        self.spawned.end()
        processes.close_pipes(self.spawned.process)

    def _tell(self, task: str, *arguments: object) -> object:
        process = self.spawned.process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps([task, arguments]).encode() + b"\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise PartFailed(f"the holder ended with status {process.wait()} when told to {task}")
        result = json.loads(answer)
        if "refused" in result:
            raise LeaseRefused(*result["refused"])
        return result["value"]
