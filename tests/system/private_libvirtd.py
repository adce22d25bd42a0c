"""A libvirtd of our own for a session of tests: a host without a network, a disk or a name that anybody asks for."""

import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.libvirtd import SETUP, Libvirtd
from lab.namespaces import Namespaces

GROUPS = Path("/sys/fs/cgroup/cpu")
_GROUP = """
set -e
mount -t tmpfs groups /sys/fs/cgroup
mkdir /sys/fs/cgroup/cpu
mount -t cgroup -o cpu cgroup /sys/fs/cgroup/cpu
echo $$ >"/sys/fs/cgroup/cpu/$1/cgroup.procs"
sed -i 's/^cgroup_controllers = .*/cgroup_controllers = ["cpu"]/' /etc/libvirt/qemu.conf
umount /sys/fs/cgroup/cpu
exec unshare --cgroup bash -c 'mount -t cgroup -o cpu cgroup /sys/fs/cgroup/cpu; libvirtd -d'
"""
_KEEPER = """
mkdir "$1"
echo
read -r _
for _ in {1..100}; do
  find "$1" -depth -type d -exec rmdir {} + && break
  sleep 0.2
done
"""


class PrivateLibvirtd(Libvirtd):
    """libvirtd and its qemus, all in memory. A context manager; nothing of it outlives the thread that made it."""

    def __init__(self) -> None:
        self._namespaces = Namespaces("private", setup=f"libvirtd_options=\n{SETUP}")
        super().__init__(self._namespaces)
        self._namespaces.start()
        self.learn_capabilities()  # no test shall wait for that

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._namespaces.close()

    @property
    def root(self) -> Path:
        """Its view of the file system, for looking into its folders."""
        return self._namespaces.root

    def run(self, *command: str) -> str:
        """Run a command inside and return what it prints. Raises PartFailed."""
        return self._namespaces.run(*command)


class LimitingLibvirtd(PrivateLibvirtd):
    """One that can limit processors: it is in a control group, which goes when this ends, however that happens."""

    def __init__(self) -> None:
        super().__init__()
        group = GROUPS / f"vdsm-{os.getpid()}"
        self._keeper = subprocess.Popen(
            ["bash", "-c", _KEEPER, "keeper", group],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._keeper.stdout is not None
        self._keeper.stdout.readline()
        self.stop()
        self.run("bash", "-c", _GROUP, "group", group.name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._keeper.communicate()
        assert not (GROUPS / f"vdsm-{os.getpid()}").exists()
