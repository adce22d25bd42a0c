"""Figures of monitoring: what it costs to watch many storage domains."""

import shutil
import time
import uuid
from pathlib import Path

import psutil

from bench.report import Figure, at_most
from demo.node import Node, NodeFailure

COUNT = 45
PATIENCE_S = 60.0


def measure_monitors(node: Node, folder: Path, owner: tuple[int, int], idle_s: float) -> list[Figure]:
    """CPU of vdsmd and its checker while 45 domains are watched, and the checker's memory."""
    domain_ids = [_add_domain(node, folder / str(number), owner) for number in range(COUNT)]
    _wait_until_valid(node)
    assert node.process is not None
    vdsmd = psutil.Process(node.process.pid)
    [checker] = [child for child in vdsmd.children() if "vdsm.storage.health.checker" in child.cmdline()]
    before_s, start = _cpu_s(vdsmd, checker), time.perf_counter()
    time.sleep(idle_s)
    value = (_cpu_s(vdsmd, checker) - before_s) / (time.perf_counter() - start) * 100
    resident_mib = checker.memory_info().rss / (1 << 20)
    for domain_id in domain_ids:
        node.call("Host.stopMonitoringDomain", {"sdUUID": domain_id})
    cost = Figure(f"CPU while {COUNT} domains are watched", value, "%", "", None, *at_most(3, value, "%"))
    return [cost, Figure("resident memory of their checker", resident_mib, "MiB", "", None, "", None)]


def _add_domain(node: Node, place: Path, owner: tuple[int, int]) -> str:
    place.mkdir(parents=True)
    place.chmod(0o777)
    shutil.chown(place, *owner)
    domain_id = str(uuid.uuid4())
    server = [{"id": str(uuid.uuid4()), "connection": str(place)}]
    node.call(
        "StoragePool.connectStorageServer",
        {"storagepoolID": str(uuid.uuid4()), "domainType": "LOCALFS", "connectionParams": server},
    )
    shape = {"domainType": "LOCALFS", "name": "watched", "domainClass": "Data", "version": 5}
    arguments = {"remotePath": str(place)}
    node.call("StorageDomain.create", {"storagedomainID": domain_id, "typeArgs": arguments, **shape})
    node.call("Host.startMonitoringDomain", {"sdUUID": domain_id, "hostID": 1})
    return domain_id


def _wait_until_valid(node: Node) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        vitals = node.call("Host.getStorageRepoStats")
        assert isinstance(vitals, dict)
        if len(vitals) >= COUNT and all(one["actual"] and one["valid"] for one in vitals.values()):
            return
        if time.monotonic() > deadline:
            raise NodeFailure(f"domains do not become valid: {vitals}")
        time.sleep(0.2)


def _cpu_s(*processes: psutil.Process) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))
