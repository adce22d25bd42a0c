"""Several hosts inside the lab VM, as on any machine: joined, cut off, without power; a lease among them."""

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lab.commands import PartFailed, wait_for
from lab.hosts import Host, Hosts
from lab.loop import scratch
from lab.networks import adopted
from lab.nfs import Export, server
from lab.sanlock import Lease, LeaseRefused, Sanlock
from lab.vdsmd import HostVdsmd, make_id

pytestmark = pytest.mark.timeout(400)  # each host starts a libvirtd, and a busy machine makes the VM slower still


def is_reachable(caller: Host, callee: Host) -> bool:
    """Whether libvirtd of one host can be connected to from another."""
    try:
        caller.run("timeout", "3", "bash", "-c", f"</dev/tcp/{callee.address}/16509")
    except PartFailed:
        return False
    return True


def test_hosts_are_joined_cut_and_lose_their_power() -> None:
    with Hosts(2) as (first, second):
        assert is_reachable(first, second) and is_reachable(second, first)
        first.cut()
        assert not is_reachable(second, first)
        first.heal()
        wait_for(lambda: is_reachable(second, first), "the network has healed")
        (first.root_outside / "written").write_text("kept")
        first.kill()
        first.start()
        assert first.run("cat", first.root / "written") == "kept" and is_reachable(second, first)


def test_a_lease_is_held_by_one_host() -> None:
    with scratch() as disk, Hosts(2, disk) as hosts:  # /tmp is in memory, and knows no direct I/O
        lease = Lease(hosts.shared)
        lease.make_files()
        holders = []
        for host in hosts:
            sanlock = Sanlock(host.namespaces)
            sanlock.start()
            holders.append(sanlock.register())
        first, second = holders
        first.format(lease)
        first.join(lease, 1)
        second.join(lease, 2)
        first.acquire(lease)
        with pytest.raises(LeaseRefused):
            second.acquire(lease)
        first.kill()
        second.acquire(lease)


@pytest.fixture
def export() -> Iterator[Export]:
    with server() as serving, serving.export("domain", squashes_root=False) as export:
        os.chown(export.folder, 36, 36)
        yield export


def start_daemon(stack: ExitStack, hosts: Hosts, host: Host, export: Export) -> HostVdsmd:
    """A daemon on a host that reaches the server over a link of its own and has mounted the export."""
    link = stack.enter_context(adopted(host.name, host.namespaces.init_pid))
    stack.enter_context(export.server.client(link, f"nfs{host.name}"))
    host.mount("-t", "nfs", "-o", "vers=4.2", export.source, hosts.base / "domain")
    stack.callback(host.run, "umount", hosts.base / "domain")  # while the server can be reached
    daemon = HostVdsmd(hosts, host)
    stack.push(daemon)
    return daemon.start(wait=False)


def test_two_daemons_share_a_domain_on_a_file_server(export: Export) -> None:
    domain_id, pool_id = make_id(), make_id()
    with ExitStack() as stack:
        hosts = stack.enter_context(Hosts(2))
        first, second = [start_daemon(stack, hosts, host, export) for host in hosts]
        for daemon in (first, second):
            daemon.wait_listening()
            daemon.wait_ready()
            place = [{"id": make_id(), "connection": str(hosts.base / "domain")}]
            [answer] = daemon.call(
                "StoragePool.connectStorageServer", storagepoolID=pool_id, domainType="LOCALFS", connectionParams=place
            )
            assert answer["status"] == 0, answer
        first.call(
            "StorageDomain.create",
            storagedomainID=domain_id,
            domainType="LOCALFS",
            typeArgs={"remotePath": str(hosts.base / "domain")},
            name="shared",
            domainClass="Data",
            version=5,
        )
        assert (export.folder / domain_id / "dom_md/metadata").exists()
        assert second.call("StorageDomain.getInfo", storagedomainID=domain_id)["name"] == "shared"
