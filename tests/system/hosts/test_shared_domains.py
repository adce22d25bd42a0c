"""Two hosts and their daemons on one Gluster domain, real mounts and real sanlock: layout, leases, one writer."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import lab.gluster
import lab.sanlock
from lab.commands import wait_for
from lab.gluster import GlusterVolume
from lab.hosts import Hosts
from lab.sanlock import TAKE_OVER_AFTER_S, Sanlock
from lab.vdsmd import HostVdsmd, make_id
from tests.system.vdsmd import Pool, Volume

_missing = lab.sanlock.why_not() or lab.gluster.why_not()
pytestmark = pytest.mark.skipif(_missing is not None, reason=str(_missing))

MIB = 1 << 20
TAKE_OVER_S = 10.0
SETTINGS = {"sanlock": {"io_timeout": lab.sanlock.IO_TIMEOUT_S}, "spm": {"watchdog_interval": 0.2}}


@dataclass
class SharedPool(Pool):
    """A pool of one Gluster domain, as one of its hosts works with it."""

    host_id: int = 1
    source: str = ""
    sanlock: Sanlock = field(kw_only=True)

    def connect_server(self) -> None:
        place = {"id": make_id(), "connection": self.source, "vfs_type": "glusterfs"}
        [answer] = self.vdsmd.call(
            "StoragePool.connectStorageServer",
            storagepoolID=self.pool_id,
            domainType="GLUSTERFS",
            connectionParams=[place],
        )
        assert answer["status"] == 0, answer

    def make(self) -> None:
        self.vdsmd.call(
            "StorageDomain.create",
            storagedomainID=self.domain_id,
            domainType="GLUSTERFS",
            typeArgs={"remotePath": self.source},
            name="shared",
            domainClass="Data",
            version=5,
            maxHosts=250,
        )
        master = {"storagepoolID": self.pool_id, "masterSdUUID": self.domain_id, "masterVersion": 1}
        self.vdsmd.call("StoragePool.create", **master, name="pool", domainList=[self.domain_id])

    def connect(self) -> None:
        self.vdsmd.call(
            "StoragePool.connect",
            storagepoolID=self.pool_id,
            hostID=self.host_id,
            scsiKey="",
            masterSdUUID=self.domain_id,
            masterVersion=1,
            domainDict={self.domain_id: "Active"},
        )

    def get_spm_status(self) -> dict[str, object]:
        return dict(self.vdsmd.call("StoragePool.getSpmStatus", storagepoolID=self.pool_id))

    def wait_spm_told(self, host_id: int) -> None:
        """Until this host tells who is the SPM; sanlock needs a moment to know the others."""
        wait_for(lambda: self._tell_spm() == host_id, f"host {self.host_id} knows that host {host_id} is the SPM")

    def _tell_spm(self) -> object:
        info = self.vdsmd.call("StoragePool.getInfo", storagepoolID=self.pool_id)
        return info["info"]["spm_id"]

    def dump(self, file: str, offset: str = "") -> list[str]:
        """The lines of sanlock's own view of a file of the domain."""
        path = str(self.folder / self.domain_id / file).replace(":", "\\:")
        said = str(self.host.run("sanlock", "direct", "dump", f"{path}{offset}"))
        return [line for line in said.splitlines() if self.domain_id in line]

    @property
    def host(self) -> "lab.hosts.Host":
        assert isinstance(self.vdsmd, HostVdsmd)
        return self.vdsmd.host

    def stat(self, *words: str) -> str:
        """What stat prints of the domain's files, by their names there."""
        root = self.folder / self.domain_id
        return str(self.host.run("bash", "-c", f"cd {str(root)!r} && stat {' '.join(words)}"))


@pytest.fixture
def pools(hosts: Callable[[int], Hosts]) -> Iterator[tuple[SharedPool, SharedPool]]:
    """A pool on a new domain; both hosts have connected it, none is the SPM."""
    pair = hosts(2)
    with contextlib.ExitStack() as stack:
        volume = stack.enter_context(GlusterVolume(pair.switch, pair.switch.address, pair.base / "gluster"))
        (pair.base / "gluster/brick").chmod(0o755)
        pair.switch.run("chown", "36:36", pair.base / "gluster/brick")
        source = f"{pair.switch.address}:/{volume.name}"
        folder = pair.base / "root/rhev/data-center/mnt/glusterSD" / source.replace("/", "_")
        daemons = [HostVdsmd(pair, host, SETTINGS) for host in pair]
        sanlocks = [Sanlock(host.namespaces) for host in pair]
        for daemon, sanlock in zip(daemons, sanlocks, strict=True):
            sanlock.start()
            stack.push(daemon)
            daemon.start(wait=False)
        first = SharedPool(daemons[0], folder, host_id=1, source=source, sanlock=sanlocks[0])
        second = SharedPool(daemons[1], folder, first.pool_id, first.domain_id, 2, source, sanlock=sanlocks[1])
        for pool in (first, second):
            assert isinstance(pool.vdsmd, HostVdsmd)
            pool.vdsmd.wait_listening()
            pool.vdsmd.wait_ready()
            pool.connect_server()
        first.make()
        for pool in (first, second):
            pool.connect()
        yield first, second


def test_a_shared_domain_is_as_the_facts_tell(pools: tuple[SharedPool, SharedPool]) -> None:
    first, second = pools
    first.start_spm()
    [mounted] = [line for line in first.host.run("cat", "/proc/self/mounts").splitlines() if "fuse.glusterfs" in line]
    assert {"nosuid", "nodev", "noexec"} <= set(mounted.split()[3].split(",")), mounted
    files = first.stat("-c", "'%n %u:%g %a %s'", "dom_md/*").splitlines()
    assert [line for line in files if "metadata" not in line] == [
        f"dom_md/ids 36:36 660 {MIB}",
        f"dom_md/inbox 36:36 660 {16 * MIB}",
        f"dom_md/leases 36:36 660 {2 * MIB}",
        f"dom_md/outbox 36:36 660 {16 * MIB}",
        "dom_md/xleases 36:36 660 1302528",
    ]
    assert re.search(r"metadata 36:36 644 \d{3}$", "\n".join(files), re.MULTILINE)
    [own, *_] = first.dump("dom_md/ids")
    assert own.split()[:2] == ["00000000", first.domain_id]
    [leader] = first.dump("dom_md/leases", f":0:{2 * MIB}")
    assert leader.split()[:3] == [f"{MIB:08d}", first.domain_id, "SDM"]
    xleases = first.folder / first.domain_id / "dom_md/xleases"
    index = first.host.run("dd", f"if={xleases}", "bs=512", "skip=2048", "count=1", "iflag=direct", "status=none")
    assert index.encode()[:10].hex() == "12152016003030303100" and index[70] == "-" and index[511] == "\n"
    template = first.create_volume(Volume(format="RAW"))
    [lease] = first.dump(f"images/{template.image_id}/{template.volume_id}.lease")
    assert lease.split()[:3] == ["00000000", first.domain_id, template.volume_id]
    modes = first.stat("-c", "'%a %s %n'", f"images/{template.image_id}/*").splitlines()
    assert [line.split()[0] for line in modes] == ["660", "660", "644"]
    user = Volume(parent_id=template.volume_id)
    begun = first.vdsmd.call(
        "Volume.create",
        **first.place(user),
        srcImgUUID=template.image_id,
        srcVolUUID=template.volume_id,
        size=str(MIB),
        volFormat="COW",
        preallocate="SPARSE",
        diskType="DATA",
        desc="",
    )
    assert first.vdsmd.wait_task(begun)["code"] == 0
    links = [
        first.stat("-c", "%i", f"images/{image}/{template.volume_id}*").split()
        for image in (user.image_id, template.image_id)
    ]
    assert links[0] == links[1] and len(links[0]) == 3
    assert second.list_volumes() == {template.volume_id, user.volume_id}
    check_external_leases(first, second)
    first.stop_spm()


def check_external_leases(spm: SharedPool, other: SharedPool) -> None:
    """Made by one host, found and fenced by the other."""
    name = {"sd_id": spm.domain_id, "lease_id": make_id()}
    job = {"type": "JOB", "job_id": make_id(), "job_status": "PENDING", "generation": 0}
    task = spm.vdsmd.call("Lease.create", lease=name, metadata=job)
    assert spm.vdsmd.wait_task(task)["code"] == 0
    found = other.vdsmd.call("Lease.info", lease=name)
    xleases = spm.folder / spm.domain_id / "dom_md/xleases"
    assert (found["path"], found["offset"]) == (str(xleases), 3 * MIB)
    [line] = spm.dump("dom_md/xleases", f":{3 * MIB}:{MIB}")
    assert line.split()[1:3] == [spm.domain_id, name["lease_id"]]
    status = wait_for(lambda: other.vdsmd.call("Lease.status", lease=name), "the other host knows")
    assert status["owners"] == [] and status["metadata"].items() >= job.items()
    other.vdsmd.call("Lease.fence", lease=name, metadata=job)
    fenced = spm.vdsmd.call("Lease.status", lease=name)["metadata"]
    assert (fenced["job_status"], fenced["generation"]) == ("FENCED", 1)
    task = spm.vdsmd.call("Lease.delete", lease=name)
    assert spm.vdsmd.wait_task(task)["code"] == 0


def test_of_two_hosts_one_becomes_spm_and_its_death_lets_the_other(pools: tuple[SharedPool, SharedPool]) -> None:
    begun = [(pool, pool.begin_spm()) for pool in pools]
    codes = {pool.host_id: pool.vdsmd.wait_task(task)["code"] for pool, task in begun}
    assert sorted(codes.values()) == [0, 651], codes
    winner, loser = sorted(pools, key=lambda pool: int(codes[pool.host_id]))
    assert winner.get_spm_status()["spmStatus"] == "SPM" and loser.get_spm_status()["spmStatus"] == "Free"
    for pool in pools:
        pool.wait_spm_told(winner.host_id)
    before = int(str(winner.get_spm_status()["spmLver"]))
    kept = winner.create_volume()
    winner.vdsmd.kill()
    killed_s = time.monotonic()
    loser.start_spm()
    assert time.monotonic() - killed_s < TAKE_OVER_S
    status = loser.get_spm_status()
    assert (status["spmStatus"], status["spmId"], status["spmLver"]) == ("SPM", loser.host_id, before + 1)
    assert loser.list_volumes() == {kept.volume_id}
    loser.create_volume()
    winner.vdsmd.start()
    winner.vdsmd.wait_ready()
    wait_for(lambda: winner.vdsmd.call("Host.getConnectedStoragePools"), "the pool is connected again")
    winner.wait_spm_told(loser.host_id)
    assert winner.vdsmd.wait_task(winner.begin_spm())["code"] == 651


def test_a_daemon_whose_lease_is_taken_away_ends_at_once(pools: tuple[SharedPool, SharedPool]) -> None:
    first, second = pools
    first.start_spm()
    leases = first.folder / first.domain_id / "dom_md/leases"
    place = f"{first.domain_id}:SDM:{str(leases).replace(':', chr(92) + ':')}:{MIB}"
    numbers = Path(f"/proc/{first.vdsmd.spawned.pid}/status").read_text().split("NSpid:")[1].splitlines()[0]
    pid = numbers.split()[-1]  # as sanlock sees it
    first.host.run("sanlock", "client", "release", "-r", place, "-p", pid)
    begin_s = time.monotonic()
    assert first.vdsmd.process.wait(TAKE_OVER_S) != 0
    assert time.monotonic() - begin_s < TAKE_OVER_S
    second.start_spm()


def test_sanlock_that_dies_takes_the_spm_with_it(pools: tuple[SharedPool, SharedPool]) -> None:
    first, _ = pools
    first.start_spm()
    first.sanlock.kill()
    assert first.vdsmd.process.wait(TAKE_OVER_S) != 0


def test_an_spm_that_is_cut_off_from_its_storage_ends_before_another_may_begin(
    pools: tuple[SharedPool, SharedPool],
) -> None:
    first, second = pools
    first.start_spm()
    begin_s = time.monotonic()
    first.host.cut()
    first.vdsmd.process.wait(TAKE_OVER_AFTER_S - 20)
    assert time.monotonic() - begin_s < TAKE_OVER_AFTER_S - 20
    assert second.vdsmd.wait_task(second.begin_spm())["code"] == 651, "the other host may still be writing"
