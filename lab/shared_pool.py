"""A pool of one domain on a server, as each of several hosts with a daemon and sanlock works with it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import lab.gluster
import lab.sanlock
from lab import processes
from lab.commands import wait_for
from lab.gluster import GlusterVolume
from lab.hosts import Host, Hosts
from lab.libvirt_tls import serve_tls
from lab.pools import Pool
from lab.sanlock import ALIGNMENT_BYTES, Sanlock
from lab.vdsmd import HostVdsmd, Settings, make_id

_CHILDREN = (b"qemu-img", b"curl", b"vdsm.")  # tools, and parts of the daemon
CHILDREN_END_S = 10.0
HOST_ID_LIMIT_S = 180.0
LOOK_EVERY_S = 0.2
SETTINGS: Settings = {
    "sanlock": {"io_timeout": lab.sanlock.IO_TIMEOUT_S},
    "spm": {"watchdog_interval": LOOK_EVERY_S},
    "storage": lab.gluster.SETTINGS,
}


@dataclass(frozen=True)
class Served:
    """What a server serves, and how hosts name it."""

    kind: str
    """GLUSTERFS or NFS."""
    source: str
    mounted: Path
    """Where hosts have it mounted."""
    folder: Path
    """What the server itself has there."""
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass
class SharedPool(Pool):
    """`folder` is where the host has the domain mounted; `path` is what the server has, past all mounts."""

    host_id: int = 1
    served: Served = field(kw_only=True)
    sanlock: Sanlock = field(kw_only=True)

    @classmethod
    def describe(cls, served: Served, daemons: list[HostVdsmd], sanlocks: list[Sanlock]) -> list["SharedPool"]:
        """One pool, as each of these daemons knows it; nothing is done yet."""
        ids = (make_id(), make_id())
        return [
            cls(daemon, served.mounted, *ids, number, served=served, sanlock=sanlock)
            for number, (daemon, sanlock) in enumerate(zip(daemons, sanlocks, strict=True), start=1)
        ]

    @property
    def path(self) -> Path:
        return self.served.folder / self.domain_id

    @property
    def daemon(self) -> HostVdsmd:
        assert isinstance(self.vdsmd, HostVdsmd)
        return self.vdsmd

    @property
    def host(self) -> Host:
        return self.daemon.host

    def run_on_host(self, *command: str | Path) -> str:
        return self.host.run(*command)

    def connect_server(self) -> None:
        place = {"id": make_id(), "connection": self.served.source, **self.served.options}
        [answer] = self.vdsmd.call(
            "StoragePool.connectStorageServer",
            storagepoolID=self.pool_id,
            domainType=self.served.kind,
            connectionParams=[place],
        )
        assert answer["status"] == 0, answer

    def make(self, **options: object) -> None:
        """Make the domain, with these options of `StorageDomain.create`, and the pool on it."""
        self.vdsmd.call(
            "StorageDomain.create",
            storagedomainID=self.domain_id,
            domainType=self.served.kind,
            typeArgs={"remotePath": self.served.source},
            name="shared",
            domainClass="Data",
            version=5,
            **{"maxHosts": 250, **options},
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

    def wait_joined(self) -> None:
        """Until sanlock counts this host among those of the domain."""
        joined = f"s {self.domain_id}:{self.host_id}:"

        def look() -> bool:
            lines = self.host.run("sanlock", "client", "status").splitlines()
            return any(line.startswith(joined) and line.endswith(":0") for line in lines)

        wait_for(look, f"host {self.host_id} has joined", HOST_ID_LIMIT_S)

    def list_children(self) -> list[int]:
        """The processes on the host that a daemon may have started for storage."""
        pids = self.host.namespaces.list_pids()
        return [pid for pid in pids if any(word in processes.read(pid, "cmdline") for word in _CHILDREN)]

    def wait_childless(self) -> None:
        """Until none of these lives. One that was killed ends only when the storage that it waits for answers."""
        wait_for(lambda: not self.list_children(), "no child of the daemon lives on", CHILDREN_END_S)

    def come_back(self) -> None:
        """Start what was killed, the daemon or all of the host, and wait until the pool is connected, by itself."""
        if not self.host.is_running:
            self.host.start()
            self.sanlock.start()
        self.vdsmd.start()
        wait_for(lambda: self.vdsmd.call("Host.getConnectedStoragePools"), "the pool is connected again")

    def get_spm_status(self) -> dict[str, object]:
        return dict(self.vdsmd.call("StoragePool.getSpmStatus", storagepoolID=self.pool_id))

    def try_spm(self) -> int:
        """Ask for the SPM role; the code that this ends with."""
        return int(self.vdsmd.wait_task(self.begin_spm())["code"])

    def wait_spm_told(self, host_id: int) -> None:
        """Until this host tells who is the SPM; sanlock needs a moment to know the others."""
        wait_for(lambda: self._tell_spm() == host_id, f"host {self.host_id} knows that host {host_id} is the SPM")

    def _tell_spm(self) -> object:
        info = self.vdsmd.call("StoragePool.getInfo", storagepoolID=self.pool_id)
        return info["info"]["spm_id"]

    def make_lease_anew(self) -> None:
        """Make the lease of the domain's one writer anew, as an administrator does."""
        path = str(self.folder / self.domain_id / "dom_md/leases").replace(":", "\\:")
        self.host.run("sanlock", "direct", "init", "-r", f"{self.domain_id}:SDM:{path}:{ALIGNMENT_BYTES}")

    def dump(self, file: str, offset: str = "") -> list[str]:
        """The lines of sanlock's own view of a file of the domain."""
        path = str(self.folder / self.domain_id / file).replace(":", "\\:")
        said = self.host.run("sanlock", "direct", "dump", f"{path}{offset}")
        return [line for line in said.splitlines() if self.domain_id in line]

    def stat(self, *words: str) -> str:
        """What stat prints of the domain's files, by their names there."""
        root = self.folder / self.domain_id
        return self.host.run("bash", "-c", f"cd {str(root)!r} && stat {' '.join(words)}")


@contextmanager
def on_gluster(hosts: Hosts, settings: Settings) -> Iterator[list[SharedPool]]:
    """A pool on a new domain of a Gluster volume; each host's daemon has connected it, none is the SPM."""
    brick = hosts.base / "gluster/brick"
    with ExitStack() as stack:
        volume = stack.enter_context(GlusterVolume(hosts.switch, hosts.switch.address, brick.parent))
        brick.chmod(0o755)
        hosts.switch.run("chown", "36:36", brick)
        source = f"{hosts.switch.address}:/{volume.name}"
        mounted = hosts.base / "root/rhev/data-center/mnt/glusterSD" / source.replace("/", "_")
        served = Served("GLUSTERFS", source, mounted, brick, {"vfs_type": "glusterfs"})
        daemons = [HostVdsmd(hosts, host, {**SETTINGS, **settings}) for host in hosts]
        sanlocks = [Sanlock(host.namespaces) for host in hosts]
        for daemon, sanlock in zip(daemons, sanlocks, strict=True):
            sanlock.start()
            stack.push(daemon)
            daemon.start(wait=False)
        pools = SharedPool.describe(served, daemons, sanlocks)
        for pool in pools:
            pool.vdsmd.wait_listening()
            pool.vdsmd.wait_ready()
            pool.connect_server()
        pools[0].make()
        for pool in pools:
            pool.connect()
        yield pools


def trust(pools: Iterable[SharedPool]) -> None:
    """Let the libvirtds of their hosts speak with each other."""
    for pool in pools:
        serve_tls(pool.host, pool.host.root / "etc/pki/vdsm", pool.host.folder.parent / "hosts")
