"""A GlusterFS server with one brick, and how hosts mount its volume."""

import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.commands import PartFailed, wait_for
from lab.namespaces import Namespaces
from lab.processes import Spawned

# Whoever opens a file with O_DIRECT means the brick's disk, not a cache on the way.
_OPTIONS = {"performance.strict-o-direct": "on", "network.remote-dio": "off", "network.ping-timeout": "5"}

SETTINGS = {"accept_false_zeroes": "true"}
"""What a daemon needs among its `storage` to use a mount of Debian 12 on a newer kernel; guests there must not rely on
zeroed ranges."""


def why_not() -> str | None:
    """Why there can be no volume here, or None."""
    missing = [name for name in ("glusterd", "gluster", "mount.glusterfs") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)} (glusterfs-server)" if missing else None


class GlusterVolume:
    """A volume served by a place with an address; its brick is in `folder`. A context manager."""

    def __init__(self, place: Namespaces, address: str, folder: Path, name: str = "shared") -> None:
        self._place = place
        self._address = address
        self._folder = folder
        self.name = name
        self._daemon: Spawned | None = None

    @property
    def mount_words(self) -> tuple[str, ...]:
        """What `mount` is told on a host, before the folder."""
        return ("-t", "glusterfs", "-o", "direct-io-mode=enable", f"{self._address}:/{self.name}")

    def __enter__(self) -> Self:
        brick, state = self._folder / "brick", self._folder / "glusterd"
        self._place.run("mkdir", "-p", brick, state, "/var/lib/glusterd", "/run/gluster", "/var/log/glusterfs")
        self._place.run("mount", "--bind", state, "/var/lib/glusterd")
        self._daemon = self._place.spawn("glusterd", "--no-daemon", "--log-level", "WARNING")
        wait_for(self._answers, "glusterd answers")
        self._tell("create", f"{self._address}:{brick}", "force")
        self._tell("set", *(word for option in _OPTIONS.items() for word in option))
        self._tell("start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._daemon is not None:
            self._daemon.end()

    def _answers(self) -> bool:
        try:
            self._place.run("gluster", "--mode=script", "volume", "list")
        except PartFailed:
            return False
        return True

    def _tell(self, verb: str, *words: str) -> None:
        self._place.run("gluster", "--mode=script", "volume", verb, self.name, *words)
