"""A whole daemon in this process: real doors, storage and files under a folder of its own, a hypervisor of memory."""

import asyncio
import http.client
import json
import os
import shutil
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from xmlrpc.client import ServerProxy

import pytest

import vdscli
from bench.async_client import AsyncClient, connect_async
from vdsm.api.events import Event, TaskChanged, VmStatusChanged
from vdsm.core.clock import Clock, SystemClock
from vdsm.core.context import INTERNAL, Request
from vdsm.core.paths import Paths
from vdsm.core.root import make_folders
from vdsm.daemon import Node
from vdsm.settings import Settings
from vdsm.storage.backends.mounted import Outside
from vdsm.storage.model import ISO_IMAGE
from vdsm.tasks.model import SDM
from vdsm.testing.checker import FakeChecker
from vdsm.testing.hypervisor import FakeHypervisor
from vdsm.testing.leases import LeasesInMemory
from vdsm.testing.mounts import FakeGluster, MountsInMemory
from vdsm.virt.accelerator import ProbeResult
from vdsm.wire.bus import Numbered
from vdsm.wire.client import Address
from vdsm.wire.tls import TlsFiles

PATIENCE_S = 30.0
GIB = 1024**3
BLANK = "00000000-0000-0000-0000-000000000000"
PREFIX = "/api/v1"


class Probe:
    """Measures nothing: there is no KVM."""

    async def measure(self) -> ProbeResult:
        return ProbeResult.ABSENT


class FakeMachine:
    """libvirt of memory. It opens, and so VMs are recovered, when `may_open` is set."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.fake = FakeHypervisor(clock)
        self.hypervisor = self.fake
        self.probe = Probe()
        self.checker = FakeChecker()
        self.lost: list[str] = []
        self.mounts = MountsInMemory()
        self.leases = LeasesInMemory(writes_files=True)
        self.shared = Outside(self.mounts, self.leases, FakeGluster(), SystemClock(), self.lost.append)
        self.may_open = asyncio.Event()
        self.may_open.set()

    async def open(self) -> None:
        await self.may_open.wait()

    async def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Answer:
    """What HTTP said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Running:
    """A daemon that serves, and a client for each of its dialects."""

    node: Node
    machine: FakeMachine
    told: list[Event] = field(default_factory=list)
    _rpc: AsyncClient | None = None
    _proxy: ServerProxy | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def paths(self) -> Paths:
        return self.node.paths

    @property
    def address(self) -> Address:
        """The TLS door, or the plain one."""
        tls = TlsFiles.of_client(self.paths.pki) if self.node.settings.vars.ssl else None
        return Address("127.0.0.1", self.node.port, tls)

    async def rpc(self, method: str, params: dict[str, Any] | list[Any] | None = None, flow_id: str = "") -> Any:
        """One JSON-RPC call over STOMP over TCP. Raises CallFailed."""
        if self._rpc is None:
            # No heart-beats: a loop that several tests share stands still between them.
            self._rpc = await connect_async(self.address)
        return await self._rpc.call(method, params, flow_id=flow_id)

    async def xmlrpc(self, method: str, *parameters: Any, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """One call of 2011 over TCP, status struct and all."""

        def work() -> Any:
            if self._proxy is None:
                pki, ssl = str(self.paths.pki), self.node.settings.vars.ssl
                self._proxy = vdscli.connect(f"127.0.0.1:{self.node.port}", ssl, pki, timeout=PATIENCE_S)
            self._proxy("transport")._headers = list((headers or {}).items())
            return getattr(self._proxy, method)(*parameters)

        return await asyncio.to_thread(work)  # type: ignore[no-any-return]

    async def rest(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One REST request over the unix socket; a body that is no bytes is sent as JSON."""

        def work() -> Answer:
            connection = UnixConnection(self.paths.socket)
            target = path + (f"?{urlencode(query, doseq=True)}" if query else "")
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            try:
                connection.request(method, target, data, dict(headers or {}))
                response = connection.getresponse()
                return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
            finally:
                connection.close()

        return await asyncio.to_thread(work)

    async def call(self, name: str, /, request: Request = INTERNAL, **arguments: Any) -> Any:
        """One call in this process, by our names; what is not given has its declared default."""
        dispatcher = self.node.dispatcher
        binding = dispatcher.bindings[name]
        defaults = {p.name: p.default for p in binding.verb.parameters if not p.required}
        return await dispatcher.call(binding, {**defaults, **arguments}, request)

    async def wait_until(self, holds: Callable[[], object]) -> None:
        """Until that holds, looking again after each event that the daemon tells."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                self._news.clear()
                await self._news.wait()

    async def finish(self, task_id: str) -> None:
        """Wait for a task's success."""
        await self.wait_until(lambda: any(self._ends(event, task_id) for event in self.told))
        status = await self.call("task.get_status", task_id=task_id)
        assert (status.state, status.code) == ("finished", 0), status

    def list_statuses(self, vm_id: str) -> list[str]:
        """What was told of a VM, in order."""
        return [event.status for event in self.told if isinstance(event, VmStatusChanged) and event.vm_id == vm_id]

    @staticmethod
    def _ends(event: Event, task_id: str) -> bool:
        return isinstance(event, TaskChanged) and event.task_id == task_id and event.state == "finished"

    def hear(self, event: Numbered[Event]) -> None:
        self.told.append(event.event)
        self._news.set()

    async def close(self) -> None:
        if self._rpc is not None:
            await self._rpc.close()
        if self._proxy is not None:
            self._proxy("close")()


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def choose_settings(*, ssl: bool = True) -> Settings:
    """The defaults, on a free port of the loopback address, with disks of whoever runs the tests."""
    settings = Settings()
    return replace(
        settings,
        addresses=replace(settings.addresses, management_ip="127.0.0.1", management_port=0),
        vars=replace(settings.vars, ssl=ssl),
        storage=replace(settings.storage, owner_uid=os.getuid(), owner_gid=os.getgid()),
    )


@asynccontextmanager
async def running(
    root: Path,
    pki: Path,
    *,
    clock: Clock | None = None,
    machine: FakeMachine | None = None,
    settings: Settings | None = None,
) -> AsyncIterator[Running]:
    """A daemon under root that listens, and has recovered VMs if libvirt opens; it uses the certificates in pki."""
    paths = Paths(root)
    make_folders(paths)
    shutil.copytree(pki, paths.pki, dirs_exist_ok=True)
    machine = machine or FakeMachine(clock)
    node = Node(paths, settings or choose_settings(), machine, clock)
    daemon = Running(node, machine)
    node.bus.listen(daemon.hear)
    serving = asyncio.create_task(node.serve())
    listening = asyncio.create_task(node.is_listening.wait())
    try:
        await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving
        async with asyncio.timeout(PATIENCE_S):
            while machine.may_open.is_set() and not node.vms.is_ready and not serving.done():
                await asyncio.sleep(0.001)
        yield daemon
    finally:
        listening.cancel()
        await daemon.close()
        serving.cancel()
        await asyncio.wait({serving})
        if not serving.cancelled() and (error := serving.exception()) is not None:
            raise error


on_the_shared_loop = pytest.mark.asyncio(loop_scope="session")
"""For tests that only look at the furnished daemon, `house`."""


@dataclass(frozen=True, slots=True)
class Furniture:
    """Ids of what `furnish` made."""

    folder: str
    pool_id: str
    domain_id: str
    image_id: str
    volume_id: str
    vm_id: str
    task_id: str
    iso_id: str = ""
    backup_id: str = field(default_factory=lambda: make_id())
    checkpoint_id: str = field(default_factory=lambda: make_id())

    @property
    def vm_ids(self) -> list[str]:
        return [self.vm_id]


House = tuple[Running, Furniture]


def make_id() -> str:
    return str(uuid.uuid4())


async def furnish_storage(daemon: Running, folder: Path) -> Furniture:
    """A connected server, a domain, a pool with this host as its SPM, and a volume; the task that made it stays."""
    made = Furniture(str(folder), *(make_id() for _ in range(5)), task_id="")
    folder.mkdir(parents=True, exist_ok=True)
    place = {"connectionParams": [{"id": make_id(), "connection": str(folder)}]}
    pool = {"storagepoolID": made.pool_id}
    await daemon.rpc("StoragePool.connectStorageServer", {**pool, "domainType": "LOCALFS", **place})
    domain = {
        "storagedomainID": made.domain_id,
        "domainType": "LOCALFS",
        "typeArgs": {"remotePath": str(folder)},
        "name": "local",
        "domainClass": "Data",
        "version": 5,
    }
    await daemon.rpc("StorageDomain.create", domain)
    master = {"masterSdUUID": made.domain_id, "masterVersion": 1}
    await daemon.rpc("StoragePool.create", {**pool, **master, "name": "pool", "domainList": [made.domain_id]})
    await daemon.rpc("StoragePool.connect", {**pool, **master, "hostID": 1, "scsiKey": ""})
    start = {"prevID": -1, "prevLver": "-1", "enableScsiFencing": "false"}
    await daemon.finish(await daemon.rpc("StoragePool.spmStart", {**pool, **start}))
    task_id = await daemon.rpc("Volume.create", describe_volume(made))
    await daemon.finish(task_id)
    return replace(made, task_id=task_id)


async def furnish_iso(daemon: Running, made: Furniture, folder: Path) -> Furniture:
    """An ISO domain with one file, beside the pool."""
    folder.mkdir()
    iso_id = make_id()
    server = {"storagepoolID": "", "domainType": "LOCALFS"}
    place = {"connectionParams": [{"id": make_id(), "connection": str(folder)}]}
    await daemon.rpc("StoragePool.connectStorageServer", {**server, **place})
    domain = {"storagedomainID": iso_id, "domainType": "LOCALFS", "typeArgs": {"remotePath": str(folder)}}
    await daemon.rpc("StorageDomain.create", {**domain, "name": "iso", "domainClass": "Iso", "version": 5})
    (folder / iso_id / "images" / ISO_IMAGE / "debian.iso").write_bytes(b"\0" * 2048)
    return replace(made, iso_id=iso_id)


def describe_volume(made: Furniture, **changes: Any) -> dict[str, Any]:
    """Parameters of Volume.create for the volume of that furniture, or one that differs from it."""
    return {
        "volumeID": made.volume_id,
        "storagepoolID": made.pool_id,
        "storagedomainID": made.domain_id,
        "imageID": made.image_id,
        "size": str(GIB),
        "volFormat": "COW",
        "preallocate": "SPARSE",
        "diskType": "DATA",
        "desc": "disk",
        **changes,
    }


async def start_vm(daemon: Running, vm_id: str, **parameters: Any) -> dict[str, Any]:
    """Create a VM over JSON-RPC and wait until it runs; gives what `create` answered."""
    given = {"vmId": vm_id, "vmName": f"vm-{vm_id[:4]}", "memSize": 64, "display": "vnc", **parameters}
    answer: dict[str, Any] = await daemon.rpc("VM.create", {"vmID": vm_id, "vmParams": given})
    await daemon.wait_until(lambda: daemon.list_statuses(vm_id)[-1:] in (["Up"], ["Powering up"], ["Down"]))
    assert daemon.list_statuses(vm_id)[-1] != "Down", await daemon.rpc("VM.getStats", {"vmID": vm_id})
    return answer


async def furnish(daemon: Running, folder: Path) -> Furniture:
    """Storage, a VM that runs on its volume with a policy for it and is backed up, and a job that is done."""
    made = await furnish_storage(daemon, folder)
    await daemon.node.storage.runner.start("copy_data", [], kind=SDM, task_id=make_id())
    drive = {
        "poolID": made.pool_id,
        "domainID": made.domain_id,
        "imageID": made.image_id,
        "volumeID": made.volume_id,
    }
    await start_vm(daemon, made.vm_id, drives=[drive], nicModel="rtl8139,pv", macAddr="00:16:3e:00:00:01")
    policy = {"ioTune": [{**drive, "maximum": {"read_bytes_sec": 5}}]}
    await daemon.rpc("VM.updateVmPolicy", {"vmID": made.vm_id, "params": policy})
    disk = {**drive, "checkpoint": True}
    backup = {"backup_id": made.backup_id, "disks": [disk], "to_checkpoint_id": made.checkpoint_id}
    await daemon.rpc("VM.start_backup", {"vmID": made.vm_id, "config": backup})
    await daemon.node.vms.sample()
    return made
