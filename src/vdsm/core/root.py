"""The root that a daemon serves: the folders it makes there, and that no second one serves it."""

import fcntl
import os
from typing import IO

from vdsm.core.errors import NodeError
from vdsm.core.paths import Paths


def make_folders(paths: Paths) -> None:
    """The daemon's own folders; 0755, as clients and qemu look into them."""
    for folder in (paths.run, paths.state, paths.log, paths.config, paths.repository):
        folder.mkdir(parents=True, exist_ok=True)


class AlreadyRunning(NodeError, number=101, text="another vdsmd serves {root}: {file} is locked"):
    """Another daemon serves the same root."""

    root: str
    file: str


def lock_root(paths: Paths) -> IO[str]:
    """Hold the root for this process, and write its id; ends with the process. Raises AlreadyRunning."""
    file = paths.run / "vdsmd.pid"
    held = open(file, "a+", encoding="ascii")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.close()
        raise AlreadyRunning(str(paths.root), str(file)) from None
    held.truncate(0)
    held.write(f"{os.getpid()}\n")
    held.flush()
    return held
