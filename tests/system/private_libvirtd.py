"""A libvirtd of our own in namespaces of its own: no test ever meets the system's, and nothing of it is left behind."""

import os
import select
import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

SOCKET = "run/libvirt/libvirt-sock"
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0

# What libvirt writes is on tmpfs in the mount namespace, so it goes with the last process. Without control groups in
# sight libvirt makes none. Process 1 must reap, or libvirt waits for qemus that are long dead.
_INIT = r"""
set -e
umount -l -R /sys/fs/cgroup 2>/dev/null || true
exec 3>&1
mount -t tmpfs run /run
mkdir -p /run/libvirt /run/lock /run/etc
cp -a /etc/libvirt/. /run/etc/
for folder in /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt; do
  mkdir -p "$folder"; mount -t tmpfs libvirt "$folder"
done
cp -a /run/etc/. /etc/libvirt/
rm -rf /run/etc /etc/libvirt/qemu  # what others defined
mkdir -p /var/lib/libvirt/qemu
echo "host_uuid = \"$(cat /proc/sys/kernel/random/uuid)\"" >>/etc/libvirt/libvirtd.conf
printf '%s\n' 'auth_unix_rw = "none"' 'auth_unix_ro = "none"' >>/etc/libvirt/libvirtd.conf
printf '%s\n' 'user = "root"' 'group = "root"' 'security_driver = "none"' 'namespaces = []' 'cgroup_controllers = []' \
  >>/etc/libvirt/qemu.conf
ip link set lo up
virtlogd -d
libvirtd -d
echo ready >&3
exec 3>&-
trap : CHLD TERM
while :; do sleep 1000 & wait $!; done
"""
_NEEDS = ("libvirtd", "virtlogd", "qemu-system-x86_64", "unshare", "nsenter", "setpriv", "ip", "bash")


def why_not() -> str | None:
    """Why there can be no private libvirtd here, or None."""
    missing = [program for program in _NEEDS if shutil.which(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return None if os.geteuid() == 0 else "needs root for namespaces"


class PrivateLibvirtd:
    """libvirtd and its qemus under one process that dies with the thread that made it. A context manager.

    The kernel kills the namespace's process 1 when this process ends, however it ends, and with it everything inside.
    """

    def __init__(self) -> None:
        self._outer = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid", "--uts", "--fork"]
            + ["--kill-child", "--mount-proc", "bash", "-c", _INIT],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._outer.stdout is not None
        ready, _, _ = select.select([self._outer.stdout], [], [], START_TIMEOUT_S)
        if not ready or self._outer.stdout.readline() != b"ready\n":
            self.close()
            raise RuntimeError("the private libvirtd did not start")
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text()
        self.init_pid = int(children.split()[0])
        self.run("virsh", "-q", "capabilities")  # looks at every emulator once: no test shall wait for that

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def root(self) -> Path:
        """Its view of the file system, for looking into its folders."""
        return Path(f"/proc/{self.init_pid}/root")

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self.root / SOCKET}"

    @property
    def pid(self) -> int | None:
        """libvirtd's, as seen from outside."""
        for pid in self._list_pids():
            if _read(pid, "cmdline").startswith(b"libvirtd\0"):  # empty for one that waits to be reaped
                return pid
        return None

    def qemu_pid(self, name: str) -> int | None:
        """The qemu of the domain of that name, as seen from outside."""
        for pid in self._list_pids():
            if f"guest={name},".encode() in _read(pid, "cmdline"):
                return pid
        return None

    def start(self) -> None:
        """Start libvirtd again; it accepts connections when this returns. No-op while it runs."""
        if self.pid is None:
            self.run("libvirtd", "-d")

    def stop(self) -> None:
        """End libvirtd as an administrator would; its qemus run on."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End libvirtd at once; its qemus run on."""
        self._signal(signal.SIGKILL)

    def freeze(self) -> None:
        """libvirtd keeps its sockets and does nothing more."""
        assert self.pid is not None
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.pid is not None
        os.kill(self.pid, signal.SIGCONT)

    def run(self, *command: str) -> str:
        """Run a command inside and return what it prints."""
        inside = ["nsenter", "--target", str(self.init_pid), "--mount", "--net", "--pid", "--uts", "--"]
        done = subprocess.run(
            [*inside, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=START_TIMEOUT_S, check=True
        )
        return done.stdout.decode()

    def kill_guests(self) -> None:
        """End all qemus, frozen ones too, and forget all definitions; libvirtd notices by itself."""
        for pid in self._list_pids():
            if b"guest=" in _read(pid, "cmdline"):
                _end(pid, signal.SIGKILL)
        for file in (self.root / "etc/libvirt/qemu").glob("*.xml"):
            self.run("virsh", "-q", "undefine", file.stem, "--nvram")

    def close(self) -> None:
        self._outer.kill()
        self._outer.wait()
        assert self._outer.stdout is not None
        self._outer.stdout.close()

    def _signal(self, number: signal.Signals) -> None:
        pid = self.pid
        if pid is not None:
            _end(pid, number)

    def _list_pids(self) -> list[int]:
        namespace = _namespace(self.init_pid)
        return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _namespace(int(entry)) == namespace]


def _namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


def _read(pid: int, file: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes()
    except OSError:
        return b""


def _end(pid: int, number: signal.Signals) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(handle, number)
        if not select.select([handle], [], [], STOP_TIMEOUT_S)[0]:
            raise RuntimeError(f"process {pid} does not end")
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)
