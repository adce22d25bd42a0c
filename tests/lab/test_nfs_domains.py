"""Two daemons on one NFS domain, real mounts and real sanlock: options in force, the one writer, a silent server."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import pytest

from lab.commands import wait_for
from lab.hosts import Host, Hosts
from lab.networks import adopted
from lab.nfs import Export, server
from lab.sanlock import Sanlock
from lab.vdsmd import ConnectionFailed, HostVdsmd, make_id
from vdsm.wire.client import Address, connect

pytestmark = pytest.mark.timeout(400)  # each host starts a libvirtd, and a busy machine makes the VM slower still

MIB = 1 << 20
SETTINGS = {"sanlock": {"io_timeout": 2}, "irs": {"process_pool_timeout": 120}}
TIMEOUT_DS = 50
PATIENCE_S = 150.0
CONNECTION = make_id()


@dataclass
class Member:
    """A host with its daemon and sanlock, and its number in the pool."""

    number: int
    daemon: HostVdsmd
    pool_id: str
    domain_id: str = field(default_factory=make_id)

    def connect_server(self, source: str, verb: str = "connect") -> int:
        [answer] = self.daemon.call(f"StoragePool.{verb}StorageServer", **self.describe(source))
        return int(answer["status"])

    def describe(self, source: str) -> dict[str, object]:
        place = {"connection": source, "protocol_version": "4.2", "timeout": TIMEOUT_DS, "retrans": 1}
        connection = {"id": CONNECTION, **place}
        return {"storagepoolID": self.pool_id, "domainType": "NFS", "connectionParams": [connection]}

    def create(self, source: str) -> None:
        self.daemon.call(
            "StorageDomain.create",
            storagedomainID=self.domain_id,
            domainType="NFS",
            typeArgs={"remotePath": source},
            name="shared",
            domainClass="Data",
            version=5,
        )
        self.daemon.call("StoragePool.create", **self._master(), name="pool", domainList=[self.domain_id])

    def connect(self) -> None:
        domains = {self.domain_id: "Active"}
        self.daemon.call("StoragePool.connect", **self._master(), hostID=self.number, scsiKey="", domainDict=domains)

    def start_spm(self) -> int:
        """The code that the task ends with."""
        start = {"prevID": -1, "prevLver": "-1", "enableScsiFencing": "false"}
        task = self.daemon.call("StoragePool.spmStart", storagepoolID=self.pool_id, **start)
        return int(self.daemon.wait_task(str(task))["code"])

    def _master(self) -> dict[str, object]:
        return {"storagepoolID": self.pool_id, "masterSdUUID": self.domain_id, "masterVersion": 1}


@pytest.fixture
def export() -> Iterator[Export]:
    with server() as serving, serving.export("domain", squashes_root=False) as export:
        os.chown(export.folder, 36, 36)
        yield export


def start(stack: ExitStack, hosts: Hosts, host: Host, export: Export) -> HostVdsmd:
    """A daemon on a host that reaches the server over a link of its own."""
    link = stack.enter_context(adopted(host.name, host.namespaces.init_pid))
    stack.enter_context(export.server.client(link, f"nfs{host.name}"))
    Sanlock(host.namespaces).start()
    daemon = HostVdsmd(hosts, host, SETTINGS)
    stack.push(daemon)
    return daemon.start(wait=False)


def disconnect(member: Member, source: str) -> None:
    """Nothing for one whose daemon was killed: its mount goes with its host."""
    with suppress(ConnectionFailed):
        member.connect_server(source, "disconnect")


def test_two_hosts_on_one_nfs_domain(export: Export) -> None:
    pool_id, domain_id = make_id(), make_id()
    with ExitStack() as stack:
        hosts = stack.enter_context(Hosts(2))
        members = []
        for number, host in enumerate(hosts, start=1):
            members.append(Member(number, start(stack, hosts, host, export), pool_id, domain_id))
        first, second = members
        for member in members:
            member.daemon.wait_listening()
            member.daemon.wait_ready()
            assert member.connect_server(export.source) == 0
            stack.callback(disconnect, member, export.source)  # while the server can be reached
        mounts = first.daemon.host.run("cat", "/proc/self/mounts")
        [line] = [line for line in mounts.splitlines() if line.startswith(export.source)]
        expected = {"vers=4.2", "soft", f"timeo={TIMEOUT_DS}", "retrans=1", "nosuid", "nodev", "noexec"}
        assert expected <= set(line.split()[3].split(",")), line
        first.create(export.source)
        sizes = {path.name: path.stat().st_size for path in (export.folder / domain_id / "dom_md").iterdir()}
        assert sizes["ids"] == MIB and sizes["leases"] == 2 * MIB and sizes["xleases"] == 1302528
        for member in members:
            member.connect()
        assert first.start_spm() == 0
        assert second.start_spm() == 651
        first.daemon.kill()
        wait_for(lambda: second.start_spm() == 0, "the other host takes over", pause_s=1.0)
        second.daemon.call("StoragePool.spmStop", storagepoolID=pool_id)
        with export.server.hung(), connect(Address(socket_path=second.daemon.paths.socket), PATIENCE_S) as patient:
            params = second.describe(f"{export.server.address}:/another")
            [answer] = patient.call("StoragePool.connectStorageServer", params)
            assert answer["status"] == 477
            assert second.daemon.call("Host.ping2") is True
