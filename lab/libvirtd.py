"""libvirtd and virtlogd in namespaces of their own: no test ever meets the system's."""

import os
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

from lab import processes
from lab.images import PROJECT
from lab.namespaces import NEEDS, Namespaces

SOCKET = "run/libvirt/libvirt-sock"
KNOWN = PROJECT / ".cache/capabilities"
"""What a libvirtd found out about every emulator, for the next ones: libvirt itself sees whether it still holds."""

_SCRIPT = r"""
mkdir -p /run/libvirt
if [[ ! $home || ! -d $home/etc ]]; then cp -a /etc/libvirt /run/etc; fi
place /etc/libvirt etc
place /var/lib/libvirt lib
place /var/cache/libvirt cache
mkdir -p /var/log/libvirt /var/lib/libvirt/qemu /var/cache/libvirt/qemu
if [[ -d $known && ! -d /var/cache/libvirt/qemu/capabilities ]]; then
  cp -r "$known" /var/cache/libvirt/qemu/capabilities
fi
if [[ -d /run/etc ]]; then
  rm -rf /run/etc/qemu  # what others defined
  cp -a /run/etc/. /etc/libvirt/
  rm -rf /run/etc
  printf '%s\n' "host_uuid = \"$(cat /proc/sys/kernel/random/uuid)\"" 'auth_unix_rw = "none"' 'auth_unix_ro = "none"' \
    'listen_tls = 0' 'listen_tcp = 1' 'auth_tcp = "none"' >>/etc/libvirt/libvirtd.conf
  printf '%s\n' 'user = "root"' 'group = "root"' 'security_driver = "none"' 'namespaces = []' \
    'cgroup_controllers = []' >>/etc/libvirt/qemu.conf
fi
virtlogd -d
libvirtd -d $libvirtd_options
"""
SETUP = f"known={KNOWN}\n{_SCRIPT}"
"""For `Namespaces`; `$libvirtd_options` is set before. With a home, all but /run stays as it is from start to start."""


def why_not() -> str | None:
    """Why there can be no libvirtd in namespaces here, or None."""
    missing = [name for name in ("libvirtd", "virtlogd", "qemu-system-x86_64", *NEEDS) if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return None if os.geteuid() == 0 else "needs root for namespaces"


class Libvirtd:
    """libvirtd and its qemus in a place that was set up with SETUP."""

    def __init__(self, place: Namespaces, options: tuple[str, ...] = ()) -> None:
        self._place = place
        self._options = options

    @property
    def uri(self) -> str:
        """For clients out here."""
        return f"qemu+unix:///system?socket={self._place.root / SOCKET}"

    @property
    def pid(self) -> int | None:
        """libvirtd's, as seen from outside."""
        pids = self._place.list_pids()
        return next((pid for pid in pids if processes.read(pid, "cmdline").startswith(b"libvirtd\0")), None)

    def qemu_pid(self, name: str) -> int | None:
        """The qemu of the domain of that name, as seen from outside."""
        return processes.find(self._place.list_pids(), f"guest={name},".encode())

    def start(self) -> None:
        """Start libvirtd again; it accepts connections when this returns. No-op while it runs."""
        if self.pid is None:
            self._place.run("libvirtd", "-d", *self._options)

    def stop(self) -> None:
        """End libvirtd as an administrator would; its qemus run on."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End libvirtd at once; its qemus run on."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """libvirtd keeps its sockets and does nothing more."""
        assert self.pid is not None
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """libvirtd goes on."""
        assert self.pid is not None
        os.kill(self.pid, signal.SIGCONT)

    def learn_capabilities(self) -> None:
        """Look at every emulator, which takes seconds of a processor, and keep the findings for the next libvirtd."""
        self._place.run("virsh", "-q", "capabilities")
        with suppress(OSError):  # it is a favour: the folder may be read-only, or somebody else faster
            _keep(self._place.root / "var/cache/libvirt/qemu/capabilities")

    def kill_guests(self) -> None:
        """End all qemus, frozen ones too, and forget all definitions; libvirtd notices by itself."""
        for pid in self._place.list_pids():
            if b"guest=" in processes.read(pid, "cmdline"):
                processes.end(pid)
        for file in (self._place.root / "etc/libvirt/qemu").glob("*.xml"):
            self._place.run("virsh", "-q", "undefine", file.stem, "--nvram", "--checkpoints-metadata")

    def _end(self, number: signal.Signals) -> None:
        pid = self.pid
        if pid is not None:
            processes.end(pid, number)


def _keep(found: Path) -> None:
    with tempfile.TemporaryDirectory(dir=KNOWN.parent, prefix="capabilities-") as folder:
        fresh = shutil.copytree(found, Path(folder, "fresh"))
        with suppress(FileNotFoundError):
            KNOWN.rename(Path(folder, "old"))
        fresh.rename(KNOWN)
