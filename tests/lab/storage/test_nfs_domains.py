"""Two hosts on one file server: a domain in a folder that each mounted; then one of NFS with real sanlock: options in
force, the one writer, whose daemon or whole host ends amid its work, and a silent server.

The kills are those on Gluster in `tests/system/hosts/test_killed_spm`, in fewer rounds of longer lives: the VM is slow.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab.hosts import Hosts
from lab.networks import adopted
from lab.nfs import Export, server
from lab.sanlock import TAKE_OVER_AFTER_S, Sanlock
from lab.shared_pool import Served, SharedPool
from lab.vdsmd import HostVdsmd, make_id
from tests.killed_spm import Killing
from tests.system.vdsmd import OWNER
from vdsm.wire.client import Address, connect

pytestmark = pytest.mark.timeout(900)  # each host starts a libvirtd, and a busy machine makes the VM slower still

MIB = 1 << 20
SETTINGS = {"sanlock": {"io_timeout": 2}, "irs": {"process_pool_timeout": 120}}
TIMEOUT_DS = 50
OPTIONS = {"protocol_version": "4.2", "timeout": TIMEOUT_DS, "retrans": 1}
LONGEST_LIFE_S = 40.0
SLACK_S = 120.0
CHILDREN_END_S = 60.0
PATIENCE_S = 150.0


@dataclass
class Member(SharedPool):
    """A host that reaches the server over a link of its own, anew each time that it is turned on."""

    link: ExitStack = field(default_factory=ExitStack)
    export: Export = field(init=False)

    def plug(self, export: Export) -> None:
        self.export = export
        namespace = self.link.enter_context(adopted(self.host.name, self.host.namespaces.init_pid))
        self.link.enter_context(export.server.client(namespace, f"nfs{self.host.name}"))

    def come_back(self) -> None:
        if not self.host.is_running:
            self.link.close()
            self.host.start()
            self.plug(self.export)
            self.sanlock.start()
        super().come_back()

    def let_go(self) -> None:
        """Take the host's power while the server answers: who uses what it has mounted would not end without."""
        self.export.server.heal()
        self.vdsmd.kill()
        self.host.kill()
        self.link.close()


@pytest.fixture
def members() -> Iterator[tuple[Member, Member]]:
    """Two hosts whose daemons answer, and a pool that is not made yet."""
    with ExitStack() as stack:
        export = stack.enter_context(stack.enter_context(server()).export("domain", squashes_root=False))
        os.chown(export.folder, *OWNER)
        hosts = stack.enter_context(Hosts(2))
        daemons = [HostVdsmd(hosts, host, SETTINGS) for host in hosts]
        sanlocks = [Sanlock(host.namespaces) for host in hosts]
        mounted = hosts.base / "root/rhev/data-center/mnt" / export.source.replace("/", "_")
        served = Served("NFS", export.source, mounted, export.folder, OPTIONS)
        first, second = Member.describe(served, daemons, sanlocks)
        assert isinstance(first, Member) and isinstance(second, Member)
        for member in (first, second):
            stack.push(member.daemon)
            stack.callback(member.let_go)
            member.plug(export)
            member.sanlock.start()
            member.vdsmd.start(wait=False)
        for member in (first, second):
            member.vdsmd.wait_listening()
            member.vdsmd.wait_ready()
        yield first, second


def connect_all(members: tuple[Member, Member]) -> None:
    """A pool on a new domain; both hosts have connected it, none is the SPM."""
    for member in members:
        member.connect_server()
    members[0].make()
    for member in members:
        member.connect()


def share_folder(members: tuple[Member, Member]) -> None:
    """Each mounts an export by itself; what the first makes a domain of, the other finds."""
    first, second = members
    domain_id, place = make_id(), str(first.served.mounted.parents[3] / "folder")
    connections = [{"id": make_id(), "connection": place}]
    which = {"storagepoolID": make_id(), "domainType": "LOCALFS", "connectionParams": connections}
    with first.export.server.export("folder", squashes_root=False) as export:
        os.chown(export.folder, *OWNER)
        for member in members:
            member.host.mount("-t", "nfs", "-o", "vers=4.2", export.source, place)
            [answer] = member.vdsmd.call("StoragePool.connectStorageServer", **which)
            assert answer["status"] == 0, answer
        kind = {"domainType": "LOCALFS", "typeArgs": {"remotePath": place}, "domainClass": "Data", "version": 5}
        first.vdsmd.call("StorageDomain.create", storagedomainID=domain_id, name="by hand", **kind)
        assert (export.folder / domain_id / "dom_md/metadata").exists()
        assert second.vdsmd.call("StorageDomain.getInfo", storagedomainID=domain_id)["name"] == "by hand"
        for member in members:
            member.vdsmd.call("StoragePool.disconnectStorageServer", **which)
            member.host.run("umount", place)  # both mounts would share one connection and its timeouts


def check_mount(member: Member) -> None:
    """The options that were asked for are in force, and those that every domain has."""
    mounts = member.host.run("cat", "/proc/self/mounts")
    [line] = [line for line in mounts.splitlines() if line.startswith(member.served.source)]
    expected = {"vers=4.2", "soft", f"timeo={TIMEOUT_DS}", "retrans=1", "nosuid", "nodev", "noexec"}
    assert expected <= set(line.split()[3].split(",")), line


def check_silence(member: Member) -> None:
    """A server that does not answer is told of; the daemon goes on."""
    place = {**OPTIONS, "id": make_id(), "connection": f"{member.export.server.address}:/another"}
    place["mnt_options"] = "retry=0"  # else mount tries for two minutes
    which = {"storagepoolID": member.pool_id, "domainType": "NFS", "connectionParams": [place]}
    with (
        member.export.server.hung(),
        connect(Address(socket_path=member.daemon.paths.socket), PATIENCE_S) as patient,
    ):
        [answer] = patient.call("StoragePool.connectStorageServer", which)
        assert answer["status"] == 477
        assert member.vdsmd.call("Host.ping2") is True


def kill_in_rounds(
    members: tuple[Member, Member], scratch: Path, count: int, kill: Callable[[Member], object], take_over_s: float
) -> Member:
    killing = Killing(kill, LONGEST_LIFE_S, take_over_s, CHILDREN_END_S, pause_s=0.5)
    return killing.in_rounds(members, scratch, count)


def test_two_hosts_on_one_nfs_domain(
    members: tuple[Member, Member], tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    first, second = members
    share_folder(members)
    connect_all(members)
    check_mount(first)
    sizes = {path.name: path.stat().st_size for path in (first.path / "dom_md").iterdir()}
    assert sizes["ids"] == MIB and sizes["leases"] == 2 * MIB and sizes["xleases"] == 1302528
    assert first.try_spm() == 0
    assert second.try_spm() == 651
    spm = kill_in_rounds(members, tmp_path, rounds(1, 20), lambda spm: spm.vdsmd.spawned.end(), SLACK_S)
    spm.stop_spm()  # or it ends with its lease
    check_silence(spm)


def test_the_host_of_the_spm_is_killed(
    members: tuple[Member, Member], tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    connect_all(members)
    members[0].start_spm()
    kill_in_rounds(members, tmp_path, rounds(1, 20), lambda spm: spm.host.kill(), TAKE_OVER_AFTER_S + SLACK_S)
