"""The SPM of two hosts on one NFS domain, or its whole host, ends amid its work; the other takes over, nothing is lost.

The same as on Gluster in `tests/system/hosts/test_killed_spm`, in fewer rounds of longer lives: the VM is slow.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from lab.commands import wait_for
from lab.hosts import Hosts
from lab.networks import adopted
from lab.nfs import Export, server
from lab.sanlock import TAKE_OVER_AFTER_S, Sanlock
from lab.vdsmd import HostVdsmd
from tests.ledger import Work, check
from tests.rounds import SOAK_FACTOR
from tests.shared_pool import Served, SharedPool
from tests.system.vdsmd import OWNER, kill_during
from tests.writes import Watch

pytestmark = pytest.mark.timeout(900)  # each host starts a libvirtd, and a busy machine makes the VM slower still

SETTINGS = {"sanlock": {"io_timeout": 2}, "irs": {"process_pool_timeout": 120}}
OPTIONS = {"protocol_version": "4.2", "timeout": 50, "retrans": 1}
LONGEST_LIFE_S = 40.0
SLACK_S = 120.0
ENOUGH = 20


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
        """Leave the server while it can be reached."""
        if self.host.is_running:
            self.vdsmd.kill()
            self.sanlock.kill()
            self.host.run("umount", "-a", "-t", "nfs4")
        self.link.close()


@pytest.fixture
def members() -> Iterator[tuple[Member, Member]]:
    """A pool on a new domain; both hosts have connected it, none is the SPM."""
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
            member.connect_server()
        first.make()
        for member in (first, second):
            member.connect()
        yield first, second


def kill_in_rounds(
    members: tuple[Member, Member], scratch: Path, count: int, kill: Callable[[Member], object], take_over_s: float
) -> None:
    """The SPM of the two works and is killed, so many times; the other takes over and finds what it should."""
    spm, other = members
    work = Work(spm, random.Random())
    spm.start_spm()
    for _ in range(count):
        kill_during(spm.vdsmd, work.chance.uniform(0, LONGEST_LIFE_S), work.run, partial(kill, spm))
        wait_for(lambda: not spm.list_children(), "no child of the daemon lives on")  # noqa: B023
        wait_for(lambda: other.try_spm() == 0, "the other host takes over", take_over_s, pause_s=0.5)  # noqa: B023
        work.pool = other
        check(other, work.ledger, scratch)
        watch = Watch(spm.path)
        spm.come_back()
        assert watch.list_changes() == [], "who came back and is not the SPM has written"
        spm, other = other, spm
    assert count < ENOUGH or work.done.keys() >= {"create", "copy", "refill", "merge", "delete"}, work.done


def test_the_daemon_of_the_spm_is_killed(
    members: tuple[Member, Member], tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    kill_in_rounds(members, tmp_path, rounds(1, 20), lambda spm: spm.vdsmd.spawned.end(), SLACK_S)


@pytest.mark.skipif(not SOAK_FACTOR, reason="a minute and a half until a lease expires: in soak")
def test_the_host_of_the_spm_is_killed(
    members: tuple[Member, Member], tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    limit_s = TAKE_OVER_AFTER_S + SLACK_S
    kill_in_rounds(members, tmp_path, rounds(1, 20), lambda spm: spm.host.kill(), limit_s)
