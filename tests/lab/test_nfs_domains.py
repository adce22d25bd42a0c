"""Two daemons on one file server: a domain in a folder that the hosts mounted; then one of NFS with real sanlock:
options in force, the one writer, a silent server.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import pytest

from lab.commands import wait_for
from lab.hosts import Host, Hosts
from lab.networks import adopted
from lab.nfs import Export, Server, server
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

    def describe(self, source: str, options: str = "") -> dict[str, object]:
        place = {"connection": source, "protocol_version": "4.2", "timeout": TIMEOUT_DS, "retrans": 1}
        connection = {"id": CONNECTION, **place, "mnt_options": options}
        return {"storagepoolID": self.pool_id, "domainType": "NFS", "connectionParams": [connection]}

    def create(self, source: str) -> None:
        create(self.daemon, self.domain_id, "NFS", source)
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
    stack.callback(end, host, export)
    Sanlock(host.namespaces).start()
    daemon = HostVdsmd(hosts, host, SETTINGS)
    stack.push(daemon)
    return daemon.start(wait=False)


def end(host: Host, export: Export) -> None:
    """Take the host's power while the server answers: what it has mounted, and who uses that, would not end without."""
    export.server.heal()
    host.kill()


def share_folder(hosts: Hosts, daemons: list[HostVdsmd], server: Server) -> None:
    """Each mounts an export by itself; what the first makes a domain of, the other finds."""
    domain_id, place = make_id(), str(hosts.base / "domain")
    connections = [{"id": make_id(), "connection": place}]
    which = {"storagepoolID": make_id(), "domainType": "LOCALFS", "connectionParams": connections}
    with server.export("folder", squashes_root=False) as export:
        os.chown(export.folder, 36, 36)
        hosts.mount("-t", "nfs", "-o", "vers=4.2", export.source, place)
        for daemon in daemons:
            [answer] = daemon.call("StoragePool.connectStorageServer", **which)
            assert answer["status"] == 0, answer
        first, second = daemons
        create(first, domain_id, "LOCALFS", place)
        assert (export.folder / domain_id / "dom_md/metadata").exists()
        assert second.call("StorageDomain.getInfo", storagedomainID=domain_id)["name"] == "shared"
        for daemon in daemons:
            daemon.call("StoragePool.disconnectStorageServer", **which)
            daemon.host.run("umount", place)  # both mounts would share one connection and its timeouts


def create(daemon: HostVdsmd, domain_id: str, kind: str, place: str) -> None:
    """A new Data domain."""
    daemon.call(
        "StorageDomain.create",
        storagedomainID=domain_id,
        domainType=kind,
        typeArgs={"remotePath": place},
        name="shared",
        domainClass="Data",
        version=5,
    )


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
        share_folder(hosts, [member.daemon for member in members], export.server)
        for member in members:
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
            params = second.describe(f"{export.server.address}:/another", "retry=0")  # else mount tries for two minutes
            [answer] = patient.call("StoragePool.connectStorageServer", params)
            assert answer["status"] == 477
            assert second.daemon.call("Host.ping2") is True
