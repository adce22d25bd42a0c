"""The real daemon as a process under a root of its own, and the requests that tests repeat; libvirtd is left to others.

Nothing of it outlives the test: the kernel kills the daemon when the thread that started it ends.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vdsm.core.ids import BLANK_UUID
from vdsm.core.paths import Paths
from vdsm.wire.client import Address, CallFailed, Client, ConnectionFailed, connect
from vdsm.wire.tls import TlsFiles

SOURCES = Path(__file__).parents[2] / "src"
START_LIMIT_S = 30.0
LIMIT_S = 30.0
NOT_READY = 99
POLL_S = 0.02
OWNER = (36, 36)
_LISTENING = re.compile(r"listening on .* port (\d+) \(")
_FAULT = re.compile(r"^Traceback |was never (awaited|retrieved)| CRIT ", re.MULTILINE)

Settings = Mapping[str, Mapping[str, object]]


def make_id() -> str:
    return str(uuid.uuid4())


def make_environment() -> dict[str, str]:
    """For programs of this clone, from whatever folder they are started."""
    return {**os.environ, "PYTHONPATH": str(SOURCES)}


def poll(look: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> Any:
    """Look until there is something true to see, and return it."""
    deadline = time.monotonic() + limit_s
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not within {limit_s:.0f} s: {what}"
        time.sleep(POLL_S)
    return seen


class DaemonEnded(ConnectionFailed):
    """The daemon ended where it was waited for."""


class Vdsmd:
    """One root and the daemon on it: started, stopped, killed and started again. A context manager.

    Its root is in /tmp under a short name, as paths of unix sockets must be short. Leaving the block fails when the log
    has a traceback.
    """

    def __init__(self, libvirt_uri: str, settings: Settings | None = None, wrapper: tuple[str, ...] = ()) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="vdsmd-", dir="/tmp"))
        self.root.chmod(0o755)
        self.paths = Paths(self.root)
        self.log = self.root / "log"
        self.port = 0
        self._wrapper = wrapper
        self._process: subprocess.Popen[bytes] | None = None
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
        print(f"--- the log of the daemon on {self.root} ---\n{log[-20_000:]}")  # noqa: T201 (shown when a test fails)
        if kind is None:
            fault = _FAULT.search(log)
            assert fault is None, f"the daemon's log has a fault:\n{log[max(0, fault.start() - 2000) :][:6000]}"

    def discard(self) -> str:
        """End the daemon, remove its root and return what it logged."""
        self.kill()
        log = self.read_log() if self.log.exists() else ""
        shutil.rmtree(self.root, ignore_errors=True)
        return log

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def client(self) -> Client:
        """A connection over the unix socket, made anew when the daemon was started anew."""
        if self._client is None:
            self._client = connect(Address(socket_path=self.paths.socket), LIMIT_S)
        return self._client

    def start(self, *, wait: bool = True) -> Self:
        """Start the daemon; unless told otherwise it knows its VMs when this returns."""
        assert self._process is None or self._process.poll() is not None, "it runs already"
        self._forget_client()
        command = [*self._wrapper, sys.executable, "-m", "vdsm.daemon"]
        command += ["--root", str(self.root), "--port", "0", "--foreground"]
        self._log_begin = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=make_environment(),
                start_new_session=True,
            )
        if wait:
            self.wait_listening()
            self.wait_ready()
        return self

    def wait_listening(self) -> None:
        """Return when the doors are open; the port is known from then on."""

        def look() -> re.Match[str] | None:
            if self.process.poll() is not None:
                raise DaemonEnded(f"with status {self.process.returncode}:\n{self.read_log(self._log_begin)}")
            return _LISTENING.search(self.read_log(self._log_begin))

        self.port = int(poll(look, "the daemon listens", START_LIMIT_S)[1])

    def wait_ready(self) -> None:
        """Return when the daemon knows its VMs."""
        poll(self._is_ready, "the daemon is ready", START_LIMIT_S)

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
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(LIMIT_S)
        took_s = time.monotonic() - begin
        self._forget_client()
        assert status == 0, f"the daemon ended with status {status}"
        return took_s

    def kill(self) -> None:
        """End the daemon at once, if it runs; nothing of it is told to."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
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

        status = poll(look, f"task {task_id} is done")
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

        return dict(poll(look, f"VM {vm_id} is {' or '.join(statuses)}"))


def kill_during(daemon: Vdsmd, life_s: float, work: Callable[[], None]) -> None:
    """Do the work in a daemon that is killed after so many seconds; its end may come first."""
    timer = threading.Timer(life_s, daemon.process.kill)
    timer.start()
    try:
        work()
    except ConnectionFailed:
        pass
    finally:
        timer.cancel()
        timer.join()
        daemon.kill()


@dataclass
class Pool:
    """A pool of one local domain of version 5, on a daemon that is its SPM."""

    vdsmd: Vdsmd
    folder: Path
    pool_id: str = field(default_factory=make_id)
    domain_id: str = field(default_factory=make_id)

    @classmethod
    def create(cls, vdsmd: Vdsmd) -> Self:
        folder = vdsmd.root / "storage"
        folder.mkdir()
        os.chown(folder, *OWNER)
        pool = cls(vdsmd, folder)
        pool.connect_server()
        vdsmd.call(
            "StorageDomain.create",
            storagedomainID=pool.domain_id,
            domainType="LOCALFS",
            typeArgs={"remotePath": str(folder)},
            name="local",
            domainClass="Data",
            version=5,
        )
        master = {"storagepoolID": pool.pool_id, "masterSdUUID": pool.domain_id, "masterVersion": 1}
        vdsmd.call("StoragePool.create", **master, name="pool", domainList=[pool.domain_id])
        pool.connect()
        pool.start_spm()
        return pool

    @property
    def path(self) -> Path:
        """The domain's folder."""
        return self.folder / self.domain_id

    def connect_server(self) -> None:
        connections = [{"id": make_id(), "connection": str(self.folder)}]
        [answer] = self.vdsmd.call(
            "StoragePool.connectStorageServer",
            storagepoolID=self.pool_id,
            domainType="LOCALFS",
            connectionParams=connections,
        )
        assert answer["status"] == 0, answer

    def connect(self) -> None:
        self.vdsmd.call(
            "StoragePool.connect",
            storagepoolID=self.pool_id,
            hostID=1,
            scsiKey="",
            masterSdUUID=self.domain_id,
            masterVersion=1,
        )

    def begin_spm(self) -> str:
        """Ask for the SPM role; the task's id."""
        return str(
            self.vdsmd.call(
                "StoragePool.spmStart",
                storagepoolID=self.pool_id,
                prevID=-1,
                prevLver="-1",
                enableScsiFencing="false",
            )
        )

    def start_spm(self) -> None:
        status = self.vdsmd.wait_task(self.begin_spm())
        assert status["code"] == 0, f"spmStart failed: {status['message']} ({status['code']})"

    def stop_spm(self) -> None:
        self.vdsmd.call("StoragePool.spmStop", storagepoolID=self.pool_id)

    def place(self, volume: "Volume") -> dict[str, str]:
        """The volume as the storage verbs name it."""
        ids = {"storagepoolID": self.pool_id, "storagedomainID": self.domain_id}
        return {**ids, "imageID": volume.image_id, "volumeID": volume.volume_id}

    def begin_create(self, volume: "Volume", size_bytes: int = 1 << 20) -> str:
        """Ask for a new volume; the task's id."""
        origin = {"srcImgUUID": volume.image_id if volume.parent_id != BLANK_UUID else BLANK_UUID}
        return str(
            self.vdsmd.call(
                "Volume.create",
                **self.place(volume),
                **origin,
                srcVolUUID=volume.parent_id,
                size=str(size_bytes),
                volFormat=volume.format,
                preallocate=volume.allocation,
                diskType="DATA",
                desc="of a test",
            )
        )

    def begin_delete(self, volume: "Volume") -> str:
        """Ask for a volume's removal; the task's id."""
        return str(self.vdsmd.call("Volume.delete", **self.place(volume), postZero=False, force=False))

    def create_volume(self, volume: "Volume | None" = None, size_bytes: int = 1 << 20) -> "Volume":
        volume = volume or Volume()
        status = self.vdsmd.wait_task(self.begin_create(volume, size_bytes))
        assert status["code"] == 0, f"Volume.create failed: {status['message']} ({status['code']})"
        return volume

    def get_info(self, volume: "Volume") -> dict[str, Any]:
        return dict(self.vdsmd.call("Volume.getInfo", **self.place(volume)))

    def list_volumes(self) -> set[str]:
        return set(
            self.vdsmd.call("StorageDomain.getVolumes", storagedomainID=self.domain_id, storagepoolID=self.pool_id)
        )

    def get_data_path(self, volume: "Volume") -> Path:
        return self.path / "images" / volume.image_id / volume.volume_id

    def drive(self, volume: "Volume", **wishes: object) -> dict[str, object]:
        """The volume as a disk of a VM."""
        ids = {"poolID": self.pool_id, "domainID": self.domain_id}
        ids |= {"imageID": volume.image_id, "volumeID": volume.volume_id}
        form = {"COW": "cow", "RAW": "raw"}[volume.format]
        return {"type": "disk", "device": "disk", "iface": "virtio", "index": 0, "format": form, **ids, **wishes}


@dataclass(frozen=True)
class Volume:
    """What a volume should be; ids are made up when not given."""

    image_id: str = field(default_factory=make_id)
    volume_id: str = field(default_factory=make_id)
    format: str = "COW"
    allocation: str = "SPARSE"
    parent_id: str = BLANK_UUID
