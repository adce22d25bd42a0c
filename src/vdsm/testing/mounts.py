"""Mounts in memory: a mounted folder is a link to a folder that stands for the server. And a Gluster that is not there.

`fail_next` lets one later call fail.
"""

from collections.abc import Sequence
from pathlib import Path

from vdsm.storage.ports import GlusterInfo, Mounted, MountFailed

_KERNEL_NAMES = {"nfs": "nfs4", "glusterfs": "fuse.glusterfs"}


class MountsInMemory:
    """`storage.ports.Mounts`; `servers` are what can be mounted and where it lies."""

    def __init__(self, servers: dict[str, Path] | None = None) -> None:
        self.servers = {} if servers is None else servers
        self.mounted: list[Mounted] = []
        self.options: dict[Path, str] = {}
        self.false_zeroes: set[str] = set()
        """Sources whose mounts say that they zeroed a range, and did not."""
        self.probes = 0
        self._failures: dict[str, MountFailed | OSError] = {}

    def fail_next(self, call: str, error: MountFailed | OSError) -> None:
        """Let the next call of that name (a method of the port) raise this."""
        self._failures[call] = error

    def list_mounted(self) -> Sequence[Mounted]:
        return tuple(self.mounted)

    def mount(self, source: str, target: Path, *, filesystem: str, options: str) -> None:
        self._check("mount")
        if source not in self.servers or not target.is_dir() or any(one.target == target for one in self.mounted):
            raise MountFailed(f"{source} cannot be mounted on {target}")
        target.rmdir()
        target.symlink_to(self.servers[source])
        self.mounted.append(Mounted(source, target, _KERNEL_NAMES.get(filesystem, filesystem)))
        self.options[target] = options

    def unmount(self, target: Path) -> None:
        self._check("unmount")
        mounted = next((one for one in reversed(self.mounted) if one.target == target), None)
        if mounted is None:
            raise MountFailed(f"{target}: nothing is mounted there")
        self.mounted.remove(mounted)
        target.unlink()
        target.mkdir()

    def has_false_zeroes(self, target: Path) -> bool:
        self._check("has_false_zeroes")
        self.probes += 1
        return any(one.target == target and one.source in self.false_zeroes for one in self.mounted)

    def _check(self, call: str) -> None:
        error = self._failures.pop(call, None)
        if error is not None:
            raise error


class FakeGluster:
    """`storage.ports.Gluster`; `info` is what it tells of every volume."""

    def __init__(self, info: GlusterInfo | None = None) -> None:
        self.info = info

    def get_info(self, server: str, volume: str) -> GlusterInfo | None:
        return self.info
