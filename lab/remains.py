"""What is on the machine that a test may leave behind, so that before and after can be compared."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path

from lab.commands import PartFailed

TARGETS = Path("/sys/kernel/config/target")
PYTESTS = "pytest-of-"  # pytest keeps the last folders of tests for people to look into
UDEV_WORKER = "(udev-worker)"
SETTLE_S = 20.0
"""What was told to end may take a moment: the kernel frees devices, and reaps namespaces, when nobody uses them."""


@dataclass(frozen=True)
class Remains:
    """One look: each field holds names a person can search for."""

    mounts: frozenset[str]
    loops: frozenset[str]
    mapped: frozenset[str]
    disks: frozenset[str]
    targets: frozenset[str]
    links: frozenset[str]
    namespaces: frozenset[str]
    processes: frozenset[str]
    groups: frozenset[str]
    folders: frozenset[str]

    def list_new(self, before: "Remains") -> list[str]:
        """What is there and was not before, a line each."""
        return [
            f"{field.name}: {name}"
            for field in fields(self)
            for name in sorted(getattr(self, field.name) - getattr(before, field.name))
        ]


def look() -> Remains:
    """Everything there is now; parts that this kernel lacks are empty."""
    return Remains(
        mounts=frozenset(_list_mounts()),
        loops=frozenset(_list_names("/sys/block", "loop*", lambda path: (path / "loop/backing_file").exists())),
        mapped=frozenset(_list_names("/sys/block", "dm-*")),
        disks=frozenset(_list_names("/sys/block", "sd*")),
        targets=frozenset(_list_targets()),
        links=frozenset(_list_names("/sys/class/net", "*", Path.is_dir)),  # bonding has a file there
        namespaces=frozenset(_list_names("/run/netns", "*")),
        processes=frozenset(_list_processes()),
        groups=frozenset(str(path) for path in Path("/sys/fs/cgroup").glob("**/") if path.is_dir()),
        folders=frozenset(_list_names("/tmp", "*", lambda path: not path.name.startswith(PYTESTS))),
    )


@contextmanager
def nothing_left() -> Iterator[None]:
    """Raises PartFailed when the block leaves anything behind; a block that fails is not looked at."""
    before = look()
    yield
    deadline_s = time.monotonic() + SETTLE_S
    while new := look().list_new(before):
        if time.monotonic() > deadline_s:
            raise PartFailed("left behind:\n" + "\n".join(new))
        time.sleep(0.1)


def _list_names(folder: str, pattern: str, wanted: Callable[[Path], bool] = lambda path: True) -> Iterator[str]:
    return (path.name for path in Path(folder).glob(pattern) if wanted(path))


def _list_targets() -> Iterator[str]:
    """Those of people: what comes with the module stays."""
    names = (str(path.relative_to(TARGETS)) for path in TARGETS.glob("*/*/*") if path.is_dir())
    return (name for name in names if not name.startswith("core/alua/"))


def _list_mounts() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        yield f"{words[4]} ({words[words.index('-') + 1]})"


def _list_processes() -> Iterator[str]:
    """Those of people: threads of the kernel, and the workers that udev keeps for a while, come and go as they like."""
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            command = Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            if command and command != UDEV_WORKER:
                yield f"{entry} {command[:200]}"
