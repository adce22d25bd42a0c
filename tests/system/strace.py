"""The log of system calls of a process, read as what it did to files; deciding what should have been is left to tests.

A call counts as made when it ends, and as begun when it begins: with several threads both are in the log.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

SYNCS = ("fsync", "fdatasync")
WRITES = ("write", "pwrite64", "pwritev", "ftruncate", "fallocate")
REMOVALS = ("unlink", "unlinkat", "rmdir")
ENTRIES = ("openat", "rename", "renameat", "renameat2", "link", "linkat", "mkdir", "mkdirat")
TRACED = ",".join((*SYNCS, *WRITES, *REMOVALS, *ENTRIES, "sendto"))


def make_command(log: Path) -> tuple[str, ...]:
    """What to put before a command; the tracer is no parent of it and goes when it goes."""
    return ("strace", "-D", "-f", "-qq", "-y", "-s", "20000", "-o", str(log), "-e", f"trace={TRACED}", "--")


def make_attach_command(log: Path, pid: int) -> tuple[str, ...]:
    """Follow a process that runs, with all that it has and will start; their ends are in the log, too."""
    return ("strace", "-f", "-q", "-y", "-s", "200", "-o", str(log), "-e", f"trace={TRACED}", "-p", str(pid))


def find_end(log: Path, pid: int) -> int:
    """The line of the log where a process ended."""
    ended = re.compile(rf"{pid} +\+\+\+ ")
    lines = log.read_text(errors="replace").splitlines()
    return next(number for number, line in enumerate(lines) if ended.match(line))


class Kind(Enum):
    """What a call did."""

    WRITE = "write"
    """To the contents of a file."""
    ENTRY = "entry"
    """To the entries of a folder: one came or got another name."""
    REMOVAL = "removal"
    """To the entries of a folder: one went."""
    SYNC = "sync"
    SEND = "send"


@dataclass(frozen=True)
class Act:
    """One call: what it did to which path (or what it sent), and the lines of the log where it begins and ends."""

    kind: Kind
    path: Path
    begins: int
    ends: int
    text: str = ""


_LINE = re.compile(r"(\d+) +(.*)")
_UNFINISHED = " <unfinished ...>"
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)")
_CALL = re.compile(r"(\w+)\((.*)\) += +(-?\d+)")
_FD = re.compile(r"-?\w+<([^>]*)>")
_NAME = re.compile(r'"((?:[^"\\]|\\.)*)"')


def read_acts(log: Path) -> list[Act]:
    """All successful calls, by their ends. Links in paths are followed as they lead now."""
    acts: list[Act] = []
    open_calls: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(log.read_text(errors="replace").splitlines()):
        found = _LINE.match(line)
        if found is None:
            continue
        thread, text = found[1], found[2]
        begins = number
        if text.endswith(_UNFINISHED):
            open_calls[thread] = (number, text.removesuffix(_UNFINISHED))
            continue
        resumed = _RESUMED.match(text)
        if resumed:
            if thread not in open_calls:
                continue  # it was in that call when the tracer came
            begins, head = open_calls.pop(thread)
            text = head + resumed[2]
        call = _CALL.match(text)
        if call and int(call[3]) >= 0:
            acts += _interpret(call[1], call[2], begins, number)
    return acts


def _interpret(name: str, arguments: str, begins: int, ends: int) -> Iterator[Act]:
    if name == "sendto":
        yield Act(Kind.SEND, Path(), begins, ends, arguments)
    elif name in SYNCS:
        yield Act(Kind.SYNC, _get_open_path(arguments), begins, ends)
    elif name in WRITES:
        yield Act(Kind.WRITE, _get_open_path(arguments), begins, ends)
    elif name != "openat" or "O_CREAT" in arguments:
        kind = Kind.REMOVAL if name in REMOVALS else Kind.ENTRY
        for path in _list_named_paths(arguments):
            yield Act(kind, path.parent.resolve(), begins, ends, path.name)


def _get_open_path(arguments: str) -> Path:
    found = _FD.match(arguments)
    return Path(found[1]) if found else Path()


def _list_named_paths(arguments: str) -> list[Path]:
    """The paths that a call names, each below the folder before it when it is relative."""
    paths = []
    folder = Path()
    for found in re.finditer(rf"{_FD.pattern}|{_NAME.pattern}", arguments):
        if found[2] is None:
            folder = Path(found[1])
        else:
            paths.append(folder / found[2])
    return paths
