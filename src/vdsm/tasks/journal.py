"""Tasks on disk: each in a folder that changes all at once (facts §8.4); their text is `format`'s."""

import logging
import os
import re
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vdsm.tasks.errors import TaskDirectoryError, TaskLoadFailed, TaskSaveFailed
from vdsm.tasks.format import format_record, parse_record
from vdsm.tasks.model import TaskRecord

log = logging.getLogger("storage.TaskManager")

_TEMPORARY, _BACKUP = ".temp", ".backup"
_LOAD_ORDER = ("", _TEMPORARY, _BACKUP)
_TASK_ID = re.compile(r"[0-9A-Za-z_-]{1,64}\Z")
_MAX_FILE_BYTES, _MAX_FILES = 1 << 20, 1000
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Journal:
    """The folder of tasks on a master domain, used by one SPM at a time; its calls block.

    Nothing below the folder is followed when it is a link. `owner` (uid, gid) is given to what is written, so that the
    next SPM, on whatever host, can change it; None keeps the process's own.
    """

    path: Path
    owner: tuple[int, int] | None = None
    gate: AbstractContextManager[object] = field(default_factory=threading.RLock, compare=False, repr=False)
    """Who holds it may move the folder: nothing is saved or removed meanwhile, but by the same thread."""

    @property
    def location(self) -> str:
        return str(self.path)

    def save(self, record: TaskRecord) -> None:
        """Make the record durable in the place of the earlier one: a crash at any instant leaves the old or the new."""
        task_id = record.task_id
        if not _TASK_ID.match(task_id):
            raise TaskSaveFailed(task_id=task_id, reason="not an id of a task")
        files = format_record(record)
        try:
            with self.gate, self._folder() as folder:
                if not _exists(folder, task_id):
                    self._finish_save(folder, task_id)
                self._write_folder(folder, task_id + _TEMPORARY, files)
                _remove_tree(folder, task_id + _BACKUP)
                if _exists(folder, task_id):
                    os.rename(task_id, task_id + _BACKUP, src_dir_fd=folder, dst_dir_fd=folder)
                os.rename(task_id + _TEMPORARY, task_id, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
                _remove_tree(folder, task_id + _BACKUP)
        except OSError as error:
            raise TaskSaveFailed(task_id=task_id, reason=str(error)) from error

    def load(self, task_id: str) -> TaskRecord:
        """The task's record; when none of its forms can be read, TaskLoadFailed tells why for the first."""
        first: TaskLoadFailed | None = None
        try:
            with self._folder() as folder:
                for suffix in _LOAD_ORDER:
                    try:
                        return parse_record(task_id, self.location, _read_folder(folder, task_id + suffix, task_id))
                    except FileNotFoundError:
                        continue
                    except TaskLoadFailed as error:
                        first = first or error
        except OSError as error:
            raise TaskLoadFailed(task_id=task_id, reason=str(error)) from error
        raise first or TaskLoadFailed(task_id=task_id, reason="no such task")

    def load_all(self) -> list[TaskRecord]:
        """Every record that can be read, by id; others are left where they are and named in the log.

        What an interrupted first save or removal left is cleared away: parts without any main file, or a main file that
        was being written. Nobody was told of such a task.
        """
        records = []
        for task_id in self._list_ids():
            try:
                records.append(self.load(task_id))
            except TaskLoadFailed as error:
                if not self._remove_leftover(task_id):
                    log.warning("%s; skipped", error)
        return records

    def remove(self, task_id: str) -> None:
        """Forget the task for good; one that is not there is success."""
        if not _TASK_ID.match(task_id):
            return
        try:
            with self.gate, self._folder() as folder:
                # The older forms go first: they must not come to life when a crash leaves the newest half removed.
                for suffix in (_BACKUP, _TEMPORARY):
                    _remove_tree(folder, task_id + suffix)
                _unlink_inside(folder, task_id, f"{task_id}.task")
                _remove_tree(folder, task_id)
                os.fsync(folder)
        except OSError as error:
            raise TaskSaveFailed(task_id=task_id, reason=str(error)) from error

    def _finish_save(self, folder: int, task_id: str) -> None:
        # A kill between the renames left the newest record under the name that the next save begins by clearing.
        try:
            parse_record(task_id, self.location, _read_folder(folder, task_id + _TEMPORARY, task_id))
        except (FileNotFoundError, TaskLoadFailed):
            return
        os.rename(task_id + _TEMPORARY, task_id, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)

    def _remove_leftover(self, task_id: str) -> bool:
        part = re.compile(re.escape(task_id) + r"\.(job\.\d+|recover\.\d+|result)\Z")
        first_save = re.compile(re.escape(task_id) + r"\.(job\.\d+|recover\.\d+|result|task)\Z")
        try:
            with self._folder() as folder:
                is_first = not _exists(folder, task_id) and not _exists(folder, task_id + _BACKUP)
                for suffix in _LOAD_ORDER:
                    names = _list_inside(folder, task_id + suffix)
                    expected = first_save if is_first else part
                    if names is None or not all(map(expected.match, names)):
                        return False
            self.remove(task_id)
        except (OSError, TaskSaveFailed):
            return False
        return True

    def _list_ids(self) -> list[str]:
        try:
            with self._folder() as folder:
                names = os.listdir(folder)
        except OSError as error:
            raise TaskDirectoryError(path=self.location, reason=str(error)) from error
        return sorted({stem for stem in map(_task_id_of, names) if stem is not None})

    @contextmanager
    def _folder(self) -> Iterator[int]:
        # The way to the folder leads over the pool's link to its master domain, so this one may be followed.
        descriptor = os.open(self.path, _OPEN_FOLDER & ~os.O_NOFOLLOW)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _write_folder(self, parent: int, name: str, files: dict[str, bytes]) -> None:
        _remove_tree(parent, name)
        os.mkdir(name, dir_fd=parent)
        folder = os.open(name, _OPEN_FOLDER, dir_fd=parent)
        try:
            self._own(folder, 0o755)
            for file_name, data in files.items():
                descriptor = os.open(file_name, _CREATE_FILE, 0o644, dir_fd=folder)
                with open(descriptor, "wb") as file:
                    self._own(descriptor, 0o644)
                    file.write(data)
                    file.flush()
                    os.fsync(descriptor)
            os.fsync(folder)
        finally:
            os.close(folder)

    def _own(self, descriptor: int, mode: int) -> None:
        os.fchmod(descriptor, mode)
        if self.owner is not None:
            os.fchown(descriptor, *self.owner)


def _task_id_of(name: str) -> str | None:
    for suffix in (_TEMPORARY, _BACKUP):
        name = name.removesuffix(suffix)
    return name if _TASK_ID.match(name) else None


def _read_folder(parent: int, name: str, task_id: str) -> dict[str, bytes]:
    try:
        folder = os.open(name, _OPEN_FOLDER, dir_fd=parent)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TaskLoadFailed(task_id=task_id, reason=f"{name} is not a folder") from error
    try:
        names = [entry for entry in os.listdir(folder) if entry.startswith(f"{task_id}.")]
        if len(names) > _MAX_FILES:
            raise TaskLoadFailed(task_id=task_id, reason=f"{name} has more than {_MAX_FILES} files")
        return {entry: _read_file(folder, entry, task_id) for entry in names}
    except OSError as error:
        raise TaskLoadFailed(task_id=task_id, reason=f"{name}: {error}") from error
    finally:
        os.close(folder)


def _read_file(folder: int, name: str, task_id: str) -> bytes:
    descriptor = os.open(name, _OPEN_FILE, dir_fd=folder)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise TaskLoadFailed(task_id=task_id, reason=f"{name} is not a file")
        data = file.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise TaskLoadFailed(task_id=task_id, reason=f"{name} is too large")
    return data


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _remove_tree(folder: int, name: str) -> None:
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            shutil.rmtree(name, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return


def _unlink_inside(parent: int, name: str, file_name: str) -> None:
    try:
        folder = os.open(name, _OPEN_FOLDER, dir_fd=parent)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        os.unlink(file_name, dir_fd=folder)
    except FileNotFoundError:
        return
    finally:
        os.close(folder)


def _list_inside(parent: int, name: str) -> list[str] | None:
    try:
        folder = os.open(name, _OPEN_FOLDER, dir_fd=parent)
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        return None
    try:
        return os.listdir(folder)
    finally:
        os.close(folder)
