"""A master's files, `master/vms` and `master/tasks`: copied to the next master, and VM definitions among them.

They are ordinary files below a domain's folder, whatever the domain lies on (facts: storage §2.1, §7.1, §9.10).
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from vdsm.core.ids import is_uuid
from vdsm.storage import durable

FOLDER_MODE, FILE_MODE = 0o755, 0o644
LONGEST_OVF_BYTES = 16 << 20
"""No request could bring more, and no answer could carry it."""
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DEEPEST = 16
_HIDDEN = ".new"
_LEFT_OUT = "lost+found"


def copy_tree(source: Path, target: Path, owner: Callable[[Path], None]) -> None:
    """Let the folder `target` have what `source` has, on disk; of names that only it has, `vms` and `tasks` go.

    Links and other special files are left out. Raises OSError.
    """
    names = sorted({"vms", "tasks", *os.listdir(source)} - {_LEFT_OUT})
    for name in names:
        _remove(target / name)
        _copy(source / name, target / name, owner, _DEEPEST)
    durable.sync(target)


def clear_tree(master: Path) -> None:
    """Remove VM definitions and tasks of a domain that is no master any more. Raises OSError."""
    for name in ("vms", "tasks"):
        _remove(master / name)
    durable.sync(master)


def write_definition(folder: Path, vm_id: str, ovf: str, owner: Callable[[Path], None]) -> None:
    """Replace a VM's definition in a folder of VMs as one: a kill leaves the old or the new. Raises OSError."""
    place, name = folder / vm_id, f"{vm_id}.ovf"
    if stat.S_ISDIR(_get_mode(place)):
        durable.write_file(place / name, place / f"{name}{_HIDDEN}", ovf.encode(), FILE_MODE, owner=owner)
        for other in os.listdir(place):
            if other != name:
                _remove(place / other)
        return
    hidden = folder / f".{vm_id}{_HIDDEN}"
    _remove(hidden)
    durable.create_folder(hidden, FOLDER_MODE, owner=owner)
    durable.write_file(hidden / name, hidden / f"{name}{_HIDDEN}", ovf.encode(), FILE_MODE, owner=owner)
    _remove(place)
    hidden.rename(place)
    durable.sync(folder)


def read_definition(folder: Path, vm_id: str) -> str | None:
    """A VM's definition, None where it has no folder. Raises OSError, UnicodeDecodeError for what cannot be read."""
    if not stat.S_ISDIR(_get_mode(folder / vm_id)):
        return None
    data = durable.read_file(folder / vm_id / f"{vm_id}.ovf", LONGEST_OVF_BYTES + 1)
    if len(data) > LONGEST_OVF_BYTES:
        raise OSError(errno.EFBIG, "Too large", f"{vm_id}.ovf")
    return data.decode()


def list_definitions(folder: Path) -> list[str]:
    """Ids of the VMs that have a folder. Raises OSError."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if is_uuid(entry.name) and entry.is_dir(follow_symlinks=False))


def remove_definition(folder: Path, vm_id: str) -> None:
    """Remove a VM's folder; nothing when there is none. Raises OSError."""
    hidden = folder / f".{vm_id}{_HIDDEN}"
    _remove(hidden)
    with contextlib.suppress(FileNotFoundError):
        (folder / vm_id).rename(hidden)
    _remove(hidden)
    durable.sync(folder)


def _copy(source: Path, target: Path, owner: Callable[[Path], None], depth: int) -> None:
    mode = _get_mode(source)
    if stat.S_ISDIR(mode):
        if not depth:
            raise OSError(errno.ELOOP, "Too many folders in each other", str(source))
        durable.create_folder(target, stat.S_IMODE(mode), owner=owner)
        for name in os.listdir(source):
            _copy(source / name, target / name, owner, depth - 1)
    elif stat.S_ISREG(mode):
        durable.create_file(target, stat.S_IMODE(mode), owner=owner)
        with open(os.open(source, _OPEN_FILE), "rb") as reading, target.open("r+b") as writing:
            shutil.copyfileobj(reading, writing)
            writing.flush()
            os.fsync(writing.fileno())


def _get_mode(path: Path) -> int:
    try:
        return durable.look(path).st_mode
    except FileNotFoundError:
        return 0


def _remove(path: Path) -> None:
    if stat.S_ISDIR(_get_mode(path)):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
