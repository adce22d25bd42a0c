"""Owners of disk files, by numbers that all hosts of a domain agree on; which files need one is left to storage."""

import os
import stat
from pathlib import Path

from msgspec import Struct

_READ = 0o4
_READ_SEARCH = 0o5
_ALL = 0o7


class NumericOwner(Struct, frozen=True):
    """`storage.ports.Ownership` by numbers (facts: storage §1.9). Changing an owner needs root."""

    uid: int = 36
    gid: int = 36
    qemu_uid: int = 107
    qemu_gid: int = 107

    def give(self, path: Path) -> None:
        status = path.lstat()
        if (status.st_uid, status.st_gid) != (self.uid, self.gid):
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def check_access(self, folder: Path) -> str | None:
        status = folder.stat()
        if _get_rights(status, self.uid, {self.gid}) & _ALL != _ALL:
            return f"user {self.uid} with group {self.gid} needs rwx"
        if _get_rights(status, self.qemu_uid, {self.qemu_gid, self.gid}) & _READ_SEARCH != _READ_SEARCH:
            return f"user {self.qemu_uid} with groups {self.qemu_gid} and {self.gid} needs r-x"
        return None

    def can_read(self, status: os.stat_result) -> bool:
        return bool(_get_rights(status, self.qemu_uid, {self.qemu_gid, self.gid}) & _READ)


class OwnOwner(Struct, frozen=True):
    """Whoever runs the program owns the files."""

    def give(self, path: Path) -> None:
        """Nothing: the files are ours as they are made."""

    def check_access(self, folder: Path) -> str | None:
        return None if os.access(folder, os.R_OK | os.W_OK | os.X_OK) else "rwx is needed"

    def can_read(self, status: os.stat_result) -> bool:
        return bool(_get_rights(status, os.geteuid(), {os.getegid(), *os.getgroups()}) & _READ)


def choose_owner(owner: tuple[int, int] | None, qemu: tuple[int, int] = (107, 107)) -> NumericOwner | OwnOwner:
    """The owner of disks as numbers of user and group, or None to leave files with whoever makes them."""
    return OwnOwner() if owner is None else NumericOwner(*owner, *qemu)


def _get_rights(status: os.stat_result, uid: int, gids: set[int]) -> int:
    mode = stat.S_IMODE(status.st_mode)
    if uid == status.st_uid:
        return mode >> 6
    return mode >> 3 if status.st_gid in gids else mode
