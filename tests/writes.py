"""Whether anybody wrote to a domain, seen on the server, past all mounts; what sanlock writes of itself is left out."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

_LEASES = ("ids", "leases", "xleases")
_INBOX = "inbox"  # every host's own part of it is its own to write

Stamp = tuple[int, int]


class Watch:
    """What a domain looks like, to be compared later."""

    def __init__(self, domain: Path) -> None:
        self._domain = domain
        self._before = dict(_scan(domain))

    def list_changes(self) -> list[str]:
        """What was written, made or removed since, by names in the domain."""
        now = dict(_scan(self._domain))
        changed = {path for path in now.keys() | self._before.keys() if now.get(path) != self._before.get(path)}
        return sorted(changed)


def wait_quiet(domain: Path, quiet_s: float, limit_s: float) -> float:
    """Return when nothing was written for so long; when that time began. What is on its way to the server comes in."""
    deadline = time.monotonic() + limit_s
    while True:
        watch, begin_s = Watch(domain), time.monotonic()
        while time.monotonic() < begin_s + quiet_s and not watch.list_changes():
            time.sleep(0.02)
        changes = watch.list_changes()
        if not changes:
            return begin_s
        assert time.monotonic() < deadline, f"still written to after {limit_s:.0f} s: {changes}"


def _scan(folder: Path) -> Iterator[tuple[str, Stamp]]:
    """All that is there, by the time of its last change as the server's own file system knows it."""
    for place, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            if name in (*_LEASES, _INBOX) or name.endswith(".lease"):
                continue
            path = Path(place, name)
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue  # just removed: its folder tells
            yield str(path.relative_to(folder)), (status.st_ctime_ns, status.st_size)
