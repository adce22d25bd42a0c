"""The real daemon as a process under a root of its own, and the requests that tests repeat; libvirtd is left to others.

Nothing of it outlives the test: the kernel kills the daemon when the thread that started it ends.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from lab.commands import wait_for
from lab.hosts import Host, Hosts
from lab.processes import Spawned, spawn
from lab.scratch import Scratch
from vdsm import pki
from vdsm.core.paths import Paths
from vdsm.wire.client import Address, CallFailed, Client, ConnectionFailed, connect
from vdsm.wire.tls import TlsFiles

SOURCES = Path(__file__).parents[1] / "src"
START_LIMIT_S = 120.0  # in the lab VM, on a busy machine; elsewhere a second does
LIMIT_S = 30.0
NOT_READY = 99
PORT = 54321
_LISTENING = re.compile(r"listening on .* port (\d+) \(")
_FAULT = re.compile(r"^Traceback |was never (awaited|retrieved)| CRIT ", re.MULTILINE)

Settings = Mapping[str, Mapping[str, object]]


def make_id() -> str:
    """A new UUID, as text."""
    return str(uuid.uuid4())


def make_environment() -> dict[str, str]:
    """For programs of this clone, from whatever folder they are started."""
    return {**os.environ, "PYTHONPATH": str(SOURCES)}


class DaemonEnded(ConnectionFailed):
    """The daemon ended where it was waited for."""


class Vdsmd:
    """One root and the daemon on it: started, stopped, killed and started again. A context manager.

    Its root is in /tmp under a short name, as paths of unix sockets must be short. Leaving the block fails when the log
    has a traceback.
    """

    def __init__(
        self,
        libvirt_uri: str,
        settings: Settings | None = None,
        wrapper: tuple[str, ...] = (),
        root: Path | None = None,
    ) -> None:
        self._scratch = Scratch() if root is None else None
        self.root = self._scratch.path if self._scratch else root or Path()
        self.paths = Paths(self.root)
        self.log = self.root / "log"
        self.port = 0
        self._wrapper = wrapper
        self._spawned: Spawned | None = None
        self._client: Client | None = None
        self._log_begin = 0
        self.configure(
            {"libvirt": {"uri": libvirt_uri}, "virt": {"accelerator": "tcg"}, "storage": {"relabel": "true"}},
            settings or {},
        )

    def configure(self, *layers: Settings) -> None:
        """Write the configuration; it counts from the next start on."""
        sections: dict[str, dict[str, object]] = {"addresses": {"management_ip": "localhost"}}
        for layer in layers:
            for section, values in layer.items():
                sections.setdefault(section, {}).update(values)
        lines = [
            line
            for section, values in sections.items()
            for line in (f"[{section}]", *(f"{key} = {value}" for key, value in values.items()))
        ]
        self.paths.config.mkdir(parents=True, exist_ok=True)
        self.paths.config_file.write_text("\n".join(lines) + "\n")

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.discard()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        log = self.discard()
        print(f"--- the log of the daemon on {self.root} ---\n{log[-20_000:]}")
        if kind is None:
            fault = _FAULT.search(log)
            assert fault is None, f"the daemon's log has a fault:\n{log[max(0, fault.start() - 2000) :][:6000]}"

    def discard(self) -> str:
        """End the daemon, remove its root and return what it logged."""
        self.kill()
        log = self.read_log() if self.log.exists() else ""
        if self._scratch is not None:
            self._scratch.remove()
        return log

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self.spawned.process

    @property
    def spawned(self) -> Spawned:
        """The daemon that was started last."""
        assert self._spawned is not None
        return self._spawned

    @property
    def client(self) -> Client:
        """A connection over the unix socket, made anew when the daemon was started anew."""
        if self._client is None:
            self._client = connect(Address(socket_path=self.paths.socket), LIMIT_S)
        return self._client

    def start(self, *, wait: bool = True) -> Self:
        """Start the daemon; unless told otherwise it knows its VMs when this returns."""
        assert self._spawned is None or self.process.poll() is not None, "it runs already"
        self._forget_client()
        self._log_begin = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._spawned = self._spawn(log)
        if wait:
            self.wait_listening()
            self.wait_ready()
        return self

    def _spawn(self, log: IO[bytes]) -> Spawned:
        command = self._make_command(self.root, 0)
        return spawn(*self._wrapper, *command, environment=make_environment(), stdout=log, stderr=log)

    @staticmethod
    def _make_command(root: Path, port: int) -> list[str]:
        options = ["--root", str(root), "--port", str(port), "--foreground"]
        return [sys.executable, "-m", "vdsm.daemon", *options]

    def wait_listening(self) -> None:
        """Return when the doors are open; the port is known from then on."""

        def look() -> re.Match[str] | None:
            if self.process.poll() is not None:
                raise DaemonEnded(f"with status {self.process.returncode}:\n{self.read_log(self._log_begin)}")
            return _LISTENING.search(self.read_log(self._log_begin))

        self.port = int(wait_for(look, "the daemon listens", START_LIMIT_S)[1])

    def wait_ready(self) -> None:
        """Return when the daemon knows its VMs."""
        wait_for(self._is_ready, "the daemon is ready", START_LIMIT_S)

    def _is_ready(self) -> bool:
        try:
            self.call("Host.getVMList")
        except CallFailed as error:
            if error.code != NOT_READY:
                raise
            return False
        return True

    def stop(self) -> float:
        """End the daemon as an administrator would; the seconds that it took, its status being 0."""
        begin = time.monotonic()
        os.kill(self.spawned.pid, signal.SIGTERM)
        status = self.process.wait(LIMIT_S)
        took_s = time.monotonic() - begin
        self._forget_client()
        assert status == 0, f"the daemon ended with status {status}"
        return took_s

    def kill(self) -> None:
        """End the daemon at once, if it runs; nothing of it is told to."""
        if self._spawned is not None:
            self._spawned.end()
        self._forget_client()

    def restart(self) -> Self:
        """Kill and start."""
        self.kill()
        return self.start()

    def read_log(self, begin: int = 0) -> str:
        with self.log.open("rb") as log:
            log.seek(begin)
            return log.read().decode(errors="replace")

    def connect_tls(self) -> Client:
        """A new connection over TLS with the root's own client certificate."""
        return connect(Address("localhost", self.port, TlsFiles.of_client(self.paths.pki)), LIMIT_S)

    def call(self, method: str, **params: object) -> Any:
        """One call over the unix socket. Raises what the client raises."""
        return self.client.call(method, params)

    def _forget_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    # Tasks.

    def wait_task(self, task_id: str, *, clear: bool = True) -> dict[str, Any]:
        """The status of a task once it is done; it is forgotten then unless told otherwise."""

        def look() -> dict[str, Any] | None:
            status: dict[str, Any] = self.call("Task.getStatus", taskID=task_id)
            return status if status["taskState"] in ("finished", "unknown") else None

        status = wait_for(look, f"task {task_id} is done")
        if clear:
            self.call("Task.clear", taskID=task_id)
        return dict(status)

    # VMs.

    def create_vm(self, *, vm_id: str | None = None, wait: bool = True, **parameters: object) -> str:
        """Create a VM of the dictionary form, by default with 16 MiB and without disks, and wait until it is up."""
        vm_id = vm_id or make_id()
        base = {"vmId": vm_id, "vmName": f"vm-{vm_id[:8]}", "memSize": 16, "smp": "1", "devices": []}
        self.call("VM.create", vmID=vm_id, vmParams=base | parameters)
        if wait:
            self.wait_status(vm_id, "Up", "Powering up")
        return vm_id

    def get_stats(self, vm_id: str) -> dict[str, Any]:
        [stats] = self.call("VM.getStats", vmID=vm_id)
        return dict(stats)

    def wait_status(self, vm_id: str, *statuses: str) -> dict[str, Any]:
        """The VM's figures once it has one of these statuses; Down ends the wait."""

        def look() -> dict[str, Any] | None:
            stats = self.get_stats(vm_id)
            is_over = stats["status"] == "Down" and "Down" not in statuses
            assert not is_over, f"VM {vm_id} is down: {stats.get('exitMessage')}"
            return stats if stats["status"] in statuses else None

        return dict(wait_for(look, f"VM {vm_id} is {' or '.join(statuses)}"))


class HostVdsmd(Vdsmd):
    """The daemon of one of several hosts: on its root, at its address; the authority of certificates is one for all.

    It ends with its host; start it again once the host was started again.
    """

    def __init__(self, hosts: Hosts, host: Host, settings: Settings | None = None) -> None:
        self.host = host
        addresses = {"addresses": {"management_ip": host.address}}
        super().__init__("qemu:///system", {**addresses, **(settings or {})}, root=host.root_outside)
        authority = Paths(hosts.base / "authority").pki
        pki.ensure(authority)
        for name in ("keys/cakey.pem", "certs/cacert.pem"):
            file = self.paths.pki / name
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(authority / name, file)
        pki.ensure(self.paths.pki, names=(host.name, host.address))

    def _spawn(self, log: IO[bytes]) -> Spawned:
        command = self._make_command(self.host.root, PORT)
        return self.host.namespaces.spawn(*command, environment=make_environment(), stdout=log, stderr=log)

    def connect_tls(self) -> Client:
        """A new connection over TLS from the host itself."""
        return self.connect_to(self)

    def connect_to(self, other: "HostVdsmd", timeout_s: float = LIMIT_S) -> Client:
        """A new connection over TLS from this host, with its client certificate, to another's daemon."""
        with self.host.network():
            address = Address(other.host.address, other.port, TlsFiles.of_client(self.paths.pki))
            return connect(address, timeout_s)
