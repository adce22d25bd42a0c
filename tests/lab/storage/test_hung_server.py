"""An NFS server is silent while VMs run on its domain and on another: only its own is hurt, and it heals."""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab.commands import wait_for
from lab.guests import Writer, read_contents
from lab.hosts import Hosts
from lab.loop import scratch
from lab.networks import adopted
from lab.nfs import Export, server
from lab.sanlock import Sanlock
from lab.vdsmd import HostVdsmd, Settings, make_id
from tests.system.vdsmd import OWNER, Pool, Volume
from vdsm.core.ids import BLANK_UUID
from vdsm.wire.client import Address, CallFailed, connect

START_LIMIT_S = 240.0
"""qemu is emulated by an emulated processor."""

pytestmark = pytest.mark.timeout(900)  # two minutes of them are the silence itself

HUNG_S = 120.0
GROWTH, NOISE_S = 1.5, 0.1
"""A median may grow by half; below the noise of this VM, where an answer takes a tenth of a second, nothing is said."""
PATIENCE_S = 5.0
"""So much longer than usual the slowest call may take: less than anything here that waits for a silent server."""
STUCK_S, INTERVAL_S = 20, 2.0
SETTINGS: Settings = {
    "sanlock": {"io_timeout": 2},
    "irs": {"process_pool_timeout": STUCK_S, "sd_health_check_delay": INTERVAL_S},
    "vars": {"vm_sample_interval": "2", "host_sample_stats_interval": "5"},
}
SICK_LIMIT_S = 90.0
HEALED_LIMIT_S = 150.0
WRITER = Writer(sectors_per_write=8, slots=64).at_rate(20_000)


@dataclass
class Times:
    """How long each verb took, in seconds, in calls that take turns."""

    usual: dict[str, list[float]] = field(default_factory=dict)
    hung: dict[str, list[float]] = field(default_factory=dict)

    def list_slow(self) -> dict[str, tuple[float, float]]:
        """The verbs that took longer than usual, by their median or once, and by both: the usual and what it took."""
        slow = {}
        for name, usual in self.usual.items():
            for kind, add_s in ((statistics.median, NOISE_S), (max, PATIENCE_S)):
                was_s, is_s = kind(usual), kind(self.hung[name])
                if is_s > max(was_s * GROWTH, was_s + add_s):
                    slow[f"{name}, {kind.__name__}"] = (was_s, is_s)
        return slow


class Node:
    """A host with a VM on a local domain, which is its pool's master, and an NFS domain in the same pool."""

    def __init__(self, daemon: HostVdsmd, export: Export) -> None:
        self.daemon = daemon
        self.pool = Pool.create(daemon)
        self.sick_id = self._attach(export)
        self.volume = self.pool.create_volume(Volume(format="RAW"), WRITER.end_bytes)
        self.disk = self.pool.get_data_path(self.volume)
        WRITER.install(self.disk)
        self.vm_id = daemon.create_vm(wait=False, devices=[self.pool.drive(self.volume)])
        wait_for(self.is_running, "the VM runs", START_LIMIT_S)
        wait_for(lambda: sum(read_contents(self.disk, WRITER).newest), "its guest has started", START_LIMIT_S)
        self.sick_volume = self.create_on_sick()

    def is_running(self) -> bool:
        return self.daemon.get_stats(self.vm_id)["status"] in ("Up", "Powering up")

    def _attach(self, export: Export) -> str:
        domain_id, call = make_id(), self.daemon.call
        place = {"id": make_id(), "connection": export.source, "protocol_version": "4.2", "timeout": 50, "retrans": 1}
        ids = {"storagedomainID": domain_id, "storagepoolID": self.pool.pool_id}
        [answer] = call(
            "StoragePool.connectStorageServer",
            storagepoolID=self.pool.pool_id,
            domainType="NFS",
            connectionParams=[place],
        )
        assert answer["status"] == 0, answer
        call(
            "StorageDomain.create",
            storagedomainID=domain_id,
            domainType="NFS",
            typeArgs={"remotePath": export.source},
            name="on a server",
            domainClass="Data",
            version=5,
        )
        call("StorageDomain.attach", **ids)
        call("StorageDomain.activate", **ids)
        return domain_id

    def create_on_sick(self, size_bytes: int = 1 << 20) -> Volume:
        volume = Volume(format="RAW")
        task = self.daemon.call(
            "Volume.create",
            **{**self.pool.place(volume), "storagedomainID": self.sick_id},
            srcImgUUID=BLANK_UUID,
            srcVolUUID=BLANK_UUID,
            size=str(size_bytes),
            volFormat="RAW",
            preallocate="SPARSE",
            diskType="DATA",
            desc="",
        )
        status = self.daemon.wait_task(task)
        assert status["code"] == 0, status
        return volume

    @contextmanager
    def running_on_sick(self, export: Export) -> Iterator[tuple[str, Path]]:
        """A VM whose guest writes to the server: its id, and its disk as the server has it."""
        volume = self.create_on_sick(WRITER.end_bytes)
        disk = export.folder / self.sick_id / "images" / volume.image_id / volume.volume_id
        WRITER.install(disk)
        vm_id = self.daemon.create_vm(wait=False, devices=[{**self.pool.drive(volume), "domainID": self.sick_id}])
        try:
            wait_for(lambda: sum(read_contents(disk, WRITER).newest), "the other guest has started", START_LIMIT_S)
            yield vm_id, disk
        finally:
            self.daemon.call("VM.destroy", vmID=vm_id)  # it holds a file of the server

    def is_sick_valid(self) -> bool:
        return bool(self.daemon.call("Host.getStorageRepoStats").get(self.sick_id, {}).get("valid"))

    def list_verbs(self) -> dict[str, Callable[[], object]]:
        """What is asked of the VM and of the domain that is well."""
        call, place, vm = self.daemon.call, self.pool.place(self.volume), {"vmID": self.vm_id}
        domain = {"storagedomainID": self.pool.domain_id}
        pool = {"storagepoolID": self.pool.pool_id}
        return {
            "Host.ping2": lambda: call("Host.ping2"),
            "Host.getStats": lambda: call("Host.getStats"),
            "Host.getAllVmStats": lambda: call("Host.getAllVmStats"),
            "Host.getStorageRepoStats": lambda: call("Host.getStorageRepoStats"),
            "VM.getStats": lambda: call("VM.getStats", **vm),
            "VM.pause, cont": lambda: (call("VM.pause", **vm), call("VM.cont", **vm)),
            "StoragePool.getSpmStatus": lambda: call("StoragePool.getSpmStatus", **pool),
            "StoragePool.getInfo": lambda: call("StoragePool.getInfo", **pool),
            "StorageDomain.getInfo": lambda: call("StorageDomain.getInfo", **domain),
            "StorageDomain.getStats": lambda: call("StorageDomain.getStats", **domain),
            "StorageDomain.getVolumes": lambda: call("StorageDomain.getVolumes", **domain, **pool),
            "Volume.getInfo": lambda: call("Volume.getInfo", **place),
            "Image.prepare": lambda: call("Image.prepare", **place),
            "Volume.create, delete": self._create_and_delete,
        }

    def _create_and_delete(self) -> None:
        made = self.pool.create_volume()
        assert self.daemon.wait_task(self.pool.begin_delete(made))["code"] == 0

    def measure(self, times: dict[str, list[float]]) -> None:
        """Call each verb once."""
        for name, verb in self.list_verbs().items():
            begin_s = time.monotonic()
            verb()
            times.setdefault(name, []).append(time.monotonic() - begin_s)


@contextmanager
def asking(node: Node) -> Iterator[list[CallFailed]]:
    """Others ask for the sick domain meanwhile, all the time; what they were told."""
    domain = {"storagedomainID": node.sick_id}
    place = {**node.pool.place(node.sick_volume), **domain}
    questions = [("StorageDomain.getStats", domain), ("Volume.getInfo", place), ("StorageDomain.getInfo", domain)]
    told: list[CallFailed] = []
    ended = False

    def ask(verb: str, params: dict[str, str]) -> None:
        with connect(Address(socket_path=node.daemon.paths.socket), SICK_LIMIT_S) as client:
            while not ended:
                try:
                    client.call(verb, params)
                except CallFailed as error:
                    told.append(error)
                time.sleep(1.0)

    with ThreadPoolExecutor(len(questions)) as threads:
        asked = [threads.submit(ask, verb, params) for verb, params in questions]
        try:
            yield told
        finally:
            ended = True
    for one in asked:
        one.result()


@pytest.fixture
def node() -> Iterator[tuple[Node, Export]]:
    with ExitStack() as stack:
        export = stack.enter_context(stack.enter_context(server()).export("domain", squashes_root=False))
        os.chown(export.folder, *OWNER)
        hosts = stack.enter_context(Hosts(1, stack.enter_context(scratch(512 << 20))))
        [host] = hosts
        link = stack.enter_context(adopted(host.name, host.namespaces.init_pid))
        stack.enter_context(export.server.client(link, f"nfs{host.name}"))
        sanlock = Sanlock(host.namespaces)
        sanlock.start()
        daemon = stack.enter_context(HostVdsmd(hosts, host, SETTINGS))
        stack.callback(let_go, daemon, sanlock)
        yield Node(daemon, export), export


def let_go(daemon: HostVdsmd, sanlock: Sanlock) -> None:
    """Leave the server while it can be reached."""
    daemon.kill()
    sanlock.kill()
    daemon.host.run("umount", "-a", "-t", "nfs4")


def measure_usual(host: Node, times: Times) -> None:
    """Before and after, since the machine may have become busier meanwhile."""
    for _ in range(4):
        host.measure(times.usual)


def test_only_the_domain_of_a_silent_server_is_hurt(node: tuple[Node, Export]) -> None:
    host, export = node
    wait_for(host.is_sick_valid, "both domains are well", SICK_LIMIT_S, pause_s=0.5)
    times, pid = Times(), host.daemon.spawned.pid
    host.measure({})  # what is done for the first time takes longer
    with asking(host) as told:
        measure_usual(host, times)
        assert not told
        with export.server.hung():
            begin_s = time.monotonic()
            wait_for(lambda: not host.is_sick_valid(), "the sick domain is reported", SICK_LIMIT_S, pause_s=0.5)
            while time.monotonic() < begin_s + HUNG_S:
                host.measure(times.hung)
            assert not host.is_sick_valid()
            written = sum(read_contents(host.disk, WRITER).newest)
        wait_for(host.is_sick_valid, "the domain is well again", HEALED_LIMIT_S, pause_s=0.5)
        assert told, "nobody was told that the domain does not answer"
        measure_usual(host, times)
    assert times.list_slow() == {}
    host.create_on_sick()
    assert sum(read_contents(host.disk, WRITER).newest) > written, "the VM has stopped"
    assert host.is_running()
    assert host.daemon.spawned.pid == pid


def test_a_vm_on_a_silent_server_pauses_and_goes_on_when_it_is_back(node: tuple[Node, Export]) -> None:
    host, export = node
    with host.running_on_sick(export) as (vm_id, disk):

        def get_status() -> str:
            return str(host.daemon.get_stats(vm_id)["status"])

        wait_for(host.is_sick_valid, "both domains are well", SICK_LIMIT_S, pause_s=0.5)
        with export.server.hung():
            wait_for(lambda: get_status() == "Paused", "the guest gets an error, and pauses", SICK_LIMIT_S, pause_s=0.5)
            assert host.daemon.get_stats(vm_id)["pauseCode"] in ("EIO", "EOTHER")
            written = sum(read_contents(disk, WRITER).newest)
        wait_for(lambda: get_status() in ("Up", "Powering up"), "it goes on by itself", HEALED_LIMIT_S, pause_s=0.5)
        wait_for(lambda: sum(read_contents(disk, WRITER).newest) > written, "its guest writes again", START_LIMIT_S)
        assert host.is_running()
