"""Leases in memory: `LeasesInMemory` is one host's sanlock, `Judge` what all hosts of a test see on shared storage.

`fail_next` lets one later call fail as sanlock would.
"""

import errno
from pathlib import Path

from msgspec import Struct, field

from vdsm.storage.leases.on_disk import HOST_MAGIC, LEASE_MAGIC, RECORD
from vdsm.storage.ports import Lease, LeaseFailed, LeaseState, Lockspace

Place = tuple[object, int]
"""A file, however it is named now, and an offset in it."""


class Judge(Struct):
    """What is on storage: lockspaces and leases by place, members by lockspace, holders by lease."""

    lockspaces: dict[Place, str] = field(default_factory=dict)
    leases: dict[Place, tuple[str, str]] = field(default_factory=dict)
    versions: dict[Place, int] = field(default_factory=dict)
    members: dict[str, dict[int, "LeasesInMemory"]] = field(default_factory=dict)
    holders: dict[Place, int] = field(default_factory=dict)
    values: dict[Place, bytes] = field(default_factory=dict)


class LeasesInMemory:
    """`storage.ports.Leases` of one host. With `writes_files`, files get sizes and names as sanlock would give them."""

    def __init__(self, judge: Judge | None = None, *, writes_files: bool = False) -> None:
        self.judge = judge or Judge()
        self.held: dict[Place, Lease] = {}
        self._writes_files = writes_files
        self._failures: dict[str, LeaseFailed] = {}

    def fail_next(self, call: str, error: LeaseFailed) -> None:
        """Let the next call of that name (a method of the port) raise this."""
        self._failures[call] = error

    def die(self) -> None:
        """The host is gone: all that it held is free."""
        for place in self.held:
            self.judge.holders.pop(place, None)
        self.held.clear()
        for members in self.judge.members.values():
            for host_id in [id for id, host in members.items() if host is self]:
                del members[host_id]

    def write_lockspace(self, lockspace: Lockspace) -> None:
        self._check("write_lockspace")
        self._fill(lockspace.path, 0, lockspace, HOST_MAGIC, lockspace.name)
        self.judge.lockspaces[_locate(lockspace.path)] = lockspace.name

    def write_lease(self, lease: Lease) -> None:
        self._check("write_lease")
        self._fill(lease.path, lease.offset_bytes, lease.lockspace, LEASE_MAGIC, lease.lockspace.name, lease.name)
        self.judge.leases[_place(lease)] = (lease.lockspace.name, lease.name)
        self.judge.versions[_place(lease)] = 0
        self.judge.holders.pop(_place(lease), None)
        self.judge.values.pop(_place(lease), None)

    def clear_lease(self, lease: Lease) -> None:
        self._check("clear_lease")
        self._fill(lease.path, lease.offset_bytes, lease.lockspace, LEASE_MAGIC)
        self.judge.leases.pop(_place(lease), None)

    def read_lease_name(self, lease: Lease) -> tuple[str, str] | None:
        self._check("read_lease_name")
        return self.judge.leases.get(_place(lease))

    def join(self, lockspace: Lockspace, host_id: int, *, wait: bool = True) -> None:
        self._check("join")
        if self.judge.lockspaces.get(_locate(lockspace.path)) != lockspace.name:
            raise LeaseFailed("no lockspace", -223)
        members = self.judge.members.setdefault(lockspace.name, {})
        mine = [id for id, host in members.items() if host is self]
        if mine not in ([], [host_id]):
            raise LeaseFailed(f"this host is number {mine[0]}", errno.EINVAL)
        if members.setdefault(host_id, self) is not self:
            raise LeaseFailed("another host has that number", -262)

    def leave(self, lockspace: Lockspace, host_id: int) -> None:
        self._check("leave")
        if any(lease.lockspace.name == lockspace.name for lease in self.held.values()):
            raise LeaseFailed("leases are held", errno.EBUSY)
        members = self.judge.members.get(lockspace.name, {})
        if members.get(host_id) is self:
            del members[host_id]

    def is_member(self, lockspace: Lockspace, host_id: int) -> bool:
        self._check("is_member")
        return self.judge.members.get(lockspace.name, {}).get(host_id) is self

    def read_value(self, lease: Lease) -> bytes:
        self._check("read_value")
        if _place(lease) not in self.held:
            raise LeaseFailed("not held", errno.ENOENT)
        return self.judge.values.get(_place(lease), b"").ljust(512, b"\0")

    def write_value(self, lease: Lease, data: bytes) -> None:
        self._check("write_value")
        if _place(lease) not in self.held or len(data) > 512:
            raise LeaseFailed("not held, or too long", errno.ENOENT)
        self.judge.values[_place(lease)] = data

    def acquire(self, lease: Lease, *, with_value: bool = False) -> None:
        self._check("acquire")
        mine = [id for id, host in self.judge.members.get(lease.lockspace.name, {}).items() if host is self]
        if not mine:
            raise LeaseFailed("this host is not in the lockspace", errno.ENOSPC)
        self._check_there(lease)
        if _place(lease) in self.judge.holders:
            raise LeaseFailed(f"held by host {self.judge.holders[_place(lease)]}", -243)
        self.judge.holders[_place(lease)] = mine[0]
        self.judge.versions[_place(lease)] += 1
        self.held[_place(lease)] = lease

    def release(self, lease: Lease) -> None:
        self._check("release")
        if self.held.pop(_place(lease), None) is None:
            raise LeaseFailed("not held", errno.EPERM)
        self._check_there(lease)
        holder = self.judge.holders.get(_place(lease), 0)
        if self.judge.members.get(lease.lockspace.name, {}).get(holder) is self:  # else another's, of one made anew
            del self.judge.holders[_place(lease)]

    def is_held(self, lease: Lease) -> bool:
        self._check("is_held")
        return self.held.get(_place(lease)) == lease

    def inspect(self, lease: Lease) -> LeaseState:
        self._check("inspect")
        self._check_there(lease)
        holder = self.judge.holders.get(_place(lease))
        if holder is not None and self not in self.judge.members.get(lease.lockspace.name, {}).values():
            raise LeaseFailed("this host is not in the lockspace", errno.ENOENT)
        return LeaseState(self.judge.versions[_place(lease)], holder)

    def _check(self, call: str) -> None:
        error = self._failures.pop(call, None)
        if error is not None:
            raise error

    def _check_there(self, lease: Lease) -> None:
        if self.judge.leases.get(_place(lease)) != (lease.lockspace.name, lease.name):
            raise LeaseFailed("no such lease", -227)

    def _fill(self, path: Path, offset_bytes: int, space: Lockspace, magic: int, *names: str) -> None:
        if self._writes_files:
            record = RECORD.pack(magic, 0, 0, 0, 0, 0, 0, 0, 0, *(name.encode() for name in (*names, "", "")[:2]), 0)
            with path.open("r+b") as file:
                file.truncate(max(path.stat().st_size, offset_bytes + space.alignment_bytes))
                file.seek(offset_bytes)
                file.write(record)


def _place(lease: Lease) -> Place:
    return _locate(lease.path, lease.offset_bytes)


def _locate(path: Path, offset_bytes: int = 0) -> Place:
    try:
        status = path.stat()
    except OSError:
        return path, offset_bytes
    return (status.st_dev, status.st_ino), offset_bytes
