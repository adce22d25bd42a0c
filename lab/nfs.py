"""An NFS server: the kernel's own, in a network namespace of its own, so that it can hang, go, come back and be slow.

Everything of it that could be seen from outside (its folders, /run, /var/lib/nfs, its processes) is in mount and PID
namespaces of its own, whose process 1 is a shell that ends with us, and with it all else.
"""

import errno
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab import kernel
from lab.commands import PartFailed, load, run, wait_for
from lab.impairments import impaired
from lab.networks import Link, Namespace, Switch, switch
from lab.processes import DIES_WITH_PARENT

VERSIONS = ("3", "4.1", "4.2")
PORT = 2049
_ANSWER_TIMEOUT_S = 60.0
_BUSY_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 10.0
_THREADS = 4
# The shortest that the kernel takes. A server that comes back lets clients reclaim for so long before it serves others.
_GRACE_S = 10

# A root of its own, on tmpfs: mountd presents it to NFS 4 as the root of all exports, which it cannot do with the 9p or
# overlay that the lab's root is. nfsdcld remembers clients: in a namespace the kernel has no other way to, and without,
# no client may reclaim its files after the server was gone. The kernel finds rpcbind on the namespace's loopback.
# What the daemons say at any time goes to our own standard error: amid the shell's answers it would garble them.
_INIT = r"""
set -e
exec 3>&2 2>&1
root=/mnt
mount -t tmpfs -o mode=755 server $root
for name in bin sbin lib lib32 lib64 libx32; do
  if [[ -L /$name ]]; then ln -s "$(readlink /$name)" $root/$name; elif [[ -d /$name ]]; then set -- "$@" $name; fi
done
for name in usr etc dev "$@"; do mkdir $root/$name; mount --rbind /$name $root/$name; done
mkdir -p $root/{proc,tmp,run/rpc_pipefs} $root/var/lib/nfs/{sm,sm.bak,v4recovery,rpc_pipefs,nfsdcld}
touch $root/var/lib/nfs/{etab,rmtab,state}
umount -l -R /run/netns # or we keep others' network namespaces
mount -t proc proc $root/proc
mount -t nfsd nfsd $root/proc/fs/nfsd
mount -t rpc_pipefs pipes $root/run/rpc_pipefs
exec chroot $root bash -c '
rpcbind -f -w >&3 2>&3 &
nfsdcld -F >&3 2>&3 &
until { : </dev/tcp/127.0.0.1/111; } 2>/dev/null; do sleep 0.02; done
rpc.mountd -F -u -N 2 >&3 2>&3 &
until rpcinfo -T tcp 127.0.0.1 100005 3 >/dev/null 2>&1; do sleep 0.05; done
echo =0
while read -r line; do eval "$line"; echo "=$?"; done
'
"""


@dataclass(frozen=True)
class Export:
    """A folder that a server exports."""

    server: "Server"
    name: str

    @property
    def source(self) -> str:
        """What a client mounts, with any version."""
        return f"{self.server.address}:/{self.name}"

    @property
    def folder(self) -> Path:
        """The folder as the server sees it; nothing that is done here passes through NFS."""
        return self.server.root / self.name

    @contextmanager
    def mounted(
        self, folder: Path, version: str = "4.2", options: str = "", *, namespace: Namespace | None = None
    ) -> Iterator[Path]:
        """The export is mounted there meanwhile, by the client in that namespace (which must be attached).

        Two mounts of one namespace share their connection and its timeouts, those of one export all else as well,
        unless the option `nosharecache` is given. A soft mount fails after its timeo and retrans with NFS 3 only; with
        NFS 4 the kernel takes 20 s or so, until it has given up on the connection. NFS 3 goes without locks, which
        would start a statd here. At the end the server is healed, so that unmounting cannot hang.
        """
        words = [f"vers={version}", "retry=0", *(["nolock"] if version == "3" else []), *([options] if options else [])]
        command = ["mount", "-t", "nfs", "-o", ",".join(words), self.source, str(folder)]
        namespace.run(*command) if namespace else run(*command)
        try:
            yield folder
        finally:
            self.server.heal()
            unmount(folder)


class Server:
    """A running NFS server; `server()` makes one."""

    def __init__(self, network: Switch, subnet: str, init_pid: int, shell: subprocess.Popen[bytes]) -> None:
        self.network = network
        self.address = f"{subnet}.1"
        self.root = Path(f"/proc/{init_pid}/root")
        self._subnet = subnet
        self._shell = shell
        self._clients = 0
        self._exports: dict[str, str] = {}
        self._is_hung = False

    @contextmanager
    def client(self, namespace: Namespace | None = None, name: str = "") -> Iterator[Link]:
        """Give a namespace (the caller's, by default) a link and an address through which it reaches the server."""
        self._clients += 1
        number = self._clients + 1
        name = name or f"{self.network.namespace.name}c{number}"
        with self.network.port(name, namespace, addresses=[f"{self._subnet}.{number}/24"]) as link:
            yield link

    @contextmanager
    def export(self, name: str, size_bytes: int = 2**28, *, squashes_root: bool = True) -> Iterator[Export]:
        """Export an empty folder that anybody may write to and that holds so many bytes (a tmpfs)."""
        self._do(f"mkdir /{name} && mount -t tmpfs -o mode=1777,size={size_bytes} export /{name}")
        squash = "root_squash" if squashes_root else "no_root_squash"
        # A tmpfs has no identity of its own to make file handles from, so it needs an fsid. Never one that was used
        # before: a client might still have handles of that.
        number = time.monotonic_ns() // 1000 % 2**31
        flags = f"rw,sync,{squash},insecure,no_subtree_check,sec=sys,fsid={number}"
        self._exports[name] = f"/{name}\t{self._subnet}.0/24({flags})\n"
        try:
            self._publish()
            yield Export(self, name)
        finally:
            del self._exports[name]
            self._publish()
            self._do(f"{{ umount /{name} || umount -l /{name}; }} && rmdir /{name}")

    def hang(self) -> None:
        """From now on nothing passes between the server and any client. No client is told."""
        self._is_hung = True
        self.network.bridge.set_down()

    def stop(self) -> None:
        """End nfsd: connections are closed, new ones refused. rpcbind and mountd go on."""
        (self.root / "proc/fs/nfsd/threads").write_text("0\n")

    def start(self) -> None:
        """Start nfsd. Clients that had files open when it ended may take them up again."""
        # A port that is written to portlist by number is not told to rpcbind, where NFS 3 looks for it.
        self._do(f"rpc.nfsd --grace-time {_GRACE_S} --lease-time {_GRACE_S} {_THREADS}")

    def heal(self) -> None:
        """Make good what hang() and stop() did; no-op while all is well."""
        if self._is_hung:
            self.network.bridge.set_up()
            self._is_hung = False
        if not self.is_running():
            self.start()

    def is_running(self) -> bool:
        return (self.root / "proc/fs/nfsd/threads").read_text().strip() != "0"

    @contextmanager
    def hung(self) -> Iterator[None]:
        """The server is silent meanwhile: who waits for it blocks in the kernel."""
        self.hang()
        try:
            yield
        finally:
            self.heal()

    @contextmanager
    def gone(self) -> Iterator[None]:
        """The server refuses connections meanwhile, as after its machine came up without it."""
        self.stop()
        try:
            yield
        finally:
            self.heal()

    @contextmanager
    def slow(self, delay_ms: float, rate_kbit: int = 0) -> Iterator[None]:
        """Every answer comes so much later meanwhile, and at such a rate."""
        with impaired(self.network.bridge, delay_ms=delay_ms, rate_kbit=rate_kbit):
            yield

    def _publish(self) -> None:
        """Tell mountd what is exported, and let the kernel forget what it was told before."""
        # mountd reads this again only when it has become another file.
        etab = self.root / "var/lib/nfs/etab"
        fresh = etab.with_name("etab.fresh")
        fresh.write_text("".join(self._exports.values()))
        fresh.rename(etab)
        self._do("for cache in auth.unix.ip nfsd.fh nfsd.export; do echo 1 >/proc/net/rpc/$cache/flush; done")

    def _do(self, line: str) -> None:
        """Have the server's shell do something."""
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{line}\n".encode())
        self._shell.stdin.flush()
        wait_for_answer(self._shell)


def wait_for_answer(shell: subprocess.Popen[bytes]) -> None:
    """Wait for the status of the shell's last line. Raises PartFailed with what it said, unless that is 0."""
    assert shell.stdout is not None
    said = b""
    deadline = time.monotonic() + _ANSWER_TIMEOUT_S
    while not said.endswith(b"\n") or not said.splitlines()[-1].startswith(b"="):
        if not select.select([shell.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise PartFailed(f"the NFS server does not answer; it said: {said.decode(errors='replace')}")
        piece = os.read(shell.stdout.fileno(), 65536)
        if not piece:
            raise PartFailed(f"the NFS server ended; it said: {said.decode(errors='replace')}")
        said += piece
    if said.splitlines()[-1] != b"=0":
        raise PartFailed(f"the NFS server: {said.decode(errors='replace')}")


@contextmanager
def server(number: int = 1) -> Iterator[Server]:
    """An NFS server at 198.18.NUMBER.1; the caller's namespace is its first client."""
    load("nfs", "nfsd")
    name = f"nfs{number}"
    with switch(name) as network, _shell(network.namespace) as (shell, init_pid):
        network.bridge.add_addresses(f"198.18.{number}.1/24")
        made = Server(network, f"198.18.{number}", init_pid, shell)
        with ExitStack() as undo:
            undo.callback(made.stop)  # nfsd's threads would hold the network namespace
            made.start()
            undo.enter_context(made.client())
            yield made


@contextmanager
def _shell(namespace: Namespace) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The server's process 1, ready for commands, and its PID here."""
    line = [*DIES_WITH_PARENT, "nsenter", f"--net={namespace.path}", "--"]
    line += ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", _INIT]
    shell = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    try:
        wait_for_answer(shell)
        yield shell, int(Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text().split()[0])
    finally:
        try:
            shell.communicate(timeout=_STOP_TIMEOUT_S)  # at the end of its input the shell ends, and with it all else
        except subprocess.TimeoutExpired:
            shell.kill()
            shell.communicate()


def unmount(folder: Path) -> None:
    """Unmount, by force when something holds on to it for long; no-op when nothing is mounted there."""
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            return kernel.unmount(folder)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return
            if error.errno != errno.EBUSY:
                raise
        if time.monotonic() > deadline:
            kernel.unmount(folder, force=True)
            raise PartFailed(f"{folder}: somebody still used it, it was unmounted by force")
        time.sleep(0.05)


def read_mount_options(folder: Path) -> dict[str, str]:
    """The options in force of what is mounted there, as the kernel tells them; empty when nothing is."""
    found: dict[str, str] = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, _, options, *_ = line.split()
        if target == str(folder):
            found = {name: value for name, _, value in (word.partition("=") for word in options.split(","))}
    return found


def is_blocked(pid: int) -> bool:
    """Whether a process waits in the kernel where no ordinary signal reaches it (state D)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "D"
    except FileNotFoundError:
        return False


def wait_until_blocked(pid: int) -> None:
    wait_for(lambda: is_blocked(pid), f"process {pid} blocks in the kernel")
