"""Small file operations that are on disk when they return: what was acknowledged survives a power loss.

Turning an OSError into a storage failure is left to the caller.
"""

import errno
import mmap
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW
_LOOKS = 10
_LOOK_PAUSE_S = 0.02


def sync(path: Path) -> None:
    """Put a file's contents, or a folder's entries, on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def opened(path: Path, flags: int = 0) -> Iterator[int]:
    """A file to read from; OSError for a link or anything else that is no file, at once."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | flags | _FLAGS)
    try:
        if not stat.S_ISREG(look(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Not a file", str(path))
        yield descriptor
    finally:
        os.close(descriptor)


def look(file: Path | int) -> os.stat_result:
    """The status of a file or link, by its path or by a descriptor.

    Gluster's FUSE asks by any descriptor that somebody has of the file, not by ours: one that is just being closed
    answers EBADFD, which tells nothing of the file. So that is asked again, within a fifth of a second.
    """
    for _ in range(_LOOKS):
        try:
            return _look(file)
        except OSError as error:
            if error.errno != errno.EBADFD:
                raise
            time.sleep(_LOOK_PAUSE_S)
    return _look(file)


def read_file(path: Path, limit_bytes: int) -> bytes:
    """The beginning of a file, as it is `opened`."""
    with opened(path) as descriptor:
        return os.read(descriptor, limit_bytes)


def read_file_directly(path: Path, limit_bytes: int) -> bytes:
    """The beginning of a file as it is on storage, past the caches of this host; as `read_file` otherwise."""
    with opened(path, os.O_DIRECT) as descriptor, mmap.mmap(-1, limit_bytes) as aligned:
        return aligned[: os.preadv(descriptor, [aligned], 0)]


def create_file(path: Path, mode: int, *, size_bytes: int = 0, owner: Callable[[Path], None]) -> None:
    """Make a file of that mode, whatever the umask; FileExistsError when it is there. Its folder is on disk, too."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, mode)
    try:
        os.fchmod(descriptor, mode)
        if size_bytes:
            os.ftruncate(descriptor, size_bytes)
        owner(path)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync(path.parent)


def create_folder(path: Path, mode: int, *, owner: Callable[[Path], None]) -> None:
    """Make a folder of that mode, whatever the umask; FileExistsError when it is there."""
    path.mkdir(mode)
    path.chmod(mode)
    owner(path)
    sync(path)
    sync(path.parent)


def write_file(path: Path, temporary: Path, data: bytes, mode: int, *, owner: Callable[[Path], None]) -> None:
    """Replace a file as one: readers and a power loss see the old or the new contents, never a mixture.

    `temporary` is in the same folder. A stale handle is tried once more, as NFS needs it, and so is a temporary file
    that is gone: another host that became SPM takes it for what a kill left.
    """
    try:
        _replace(path, temporary, data, mode, owner)
    except OSError as error:
        if error.errno not in (errno.ESTALE, errno.ENOENT):
            raise
        _replace(path, temporary, data, mode, owner)


def remove_file(path: Path) -> bool:
    """Remove a file when it is there; tells whether it was. The folder's sync is left to the caller."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def replace_link(link: Path, target: Path, temporary: Path) -> None:
    """Let link lead to target, atomically."""
    temporary.symlink_to(target)
    try:
        temporary.replace(link)
    except OSError:
        temporary.unlink()
        raise


def _look(file: Path | int) -> os.stat_result:
    return os.fstat(file) if isinstance(file, int) else file.lstat()


def _replace(path: Path, temporary: Path, data: bytes, mode: int, owner: Callable[[Path], None]) -> None:
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, mode)
    try:
        os.fchmod(descriptor, mode)
        owner(temporary)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    temporary.replace(path)
    sync(path.parent)
