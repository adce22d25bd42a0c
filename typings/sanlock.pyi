"""The part of sanlock's Python binding (3.8) that this project may call."""

from typing import TypedDict

HOST_FREE: int
HOST_LIVE: int
HOST_FAIL: int
HOST_DEAD: int
HOST_UNKNOWN: int
LSFLAG_ADD: int
LSFLAG_REM: int
REQ_FORCE: int
REQ_GRACEFUL: int
RES_LVER: int
RES_SHARED: int
ALIGN_SIZE: tuple[int, ...]
SECTOR_SIZE: tuple[int, ...]

_Disks = list[tuple[str, int]]

class SanlockException(Exception):
    @property
    def errno(self) -> int: ...

class _Lockspace(TypedDict):
    lockspace: bytes
    iotimeout: int

class _LockspaceStatus(TypedDict):
    host_id: int
    lockspace: bytes
    path: str
    offset: int
    flags: int

class _Resource(TypedDict):
    lockspace: bytes
    resource: bytes
    version: int

class _HeldResource(TypedDict):
    lockspace: bytes
    resource: bytes
    flags: int
    version: int
    disks: _Disks

class _Host(TypedDict):
    host_id: int
    generation: int
    timestamp: int
    io_timeout: int
    flags: int

class _Event(TypedDict):
    from_host_id: int
    from_generation: int
    host_id: int
    generation: int
    event: int
    data: int

def register() -> int: ...
def write_lockspace(
    lockspace: bytes,
    path: str,
    offset: int = 0,
    max_hosts: int = 0,
    iotimeout: int = 0,
    align: int = 1048576,
    sector: int = 512,
) -> None: ...
def read_lockspace(path: str, offset: int = 0, align: int = 1048576, sector: int = 512) -> _Lockspace: ...
def write_resource(
    lockspace: bytes,
    resource: bytes,
    disks: _Disks,
    max_hosts: int = 0,
    num_hosts: int = 0,
    clear: bool = False,
    align: int = 1048576,
    sector: int = 512,
) -> None: ...
def read_resource(path: str, offset: int = 0, align: int = 1048576, sector: int = 512) -> _Resource: ...
def read_resource_owners(
    lockspace: bytes, resource: bytes, disks: _Disks, align: int = 1048576, sector: int = 512
) -> list[_Host]: ...
def add_lockspace(
    lockspace: bytes, host_id: int, path: str, offset: int = 0, iotimeout: int = 0, wait: bool = True
) -> None: ...
def inq_lockspace(lockspace: bytes, host_id: int, path: str, offset: int = 0, wait: bool = False) -> bool | None: ...
def rem_lockspace(
    lockspace: bytes, host_id: int, path: str, offset: int = 0, wait: bool = True, unused: bool = False
) -> None: ...
def get_lockspaces() -> list[_LockspaceStatus]: ...
def get_hosts(lockspace: bytes, host_id: int = 0) -> list[_Host]: ...
def acquire(
    lockspace: bytes,
    resource: bytes,
    disks: _Disks,
    slkfd: int = -1,
    pid: int = -1,
    shared: bool = False,
    version: int | None = None,
    lvb: bool = False,
) -> None: ...
def release(lockspace: bytes, resource: bytes, disks: _Disks, slkfd: int = -1, pid: int = -1) -> None: ...
def request(
    lockspace: bytes, resource: bytes, disks: _Disks, action: int = ..., version: int | None = None
) -> None: ...
def inquire(slkfd: int = -1, pid: int = -1) -> list[_HeldResource]: ...
def killpath(path: str, args: list[str], slkfd: int = -1) -> None: ...
def set_lvb(lockspace: bytes, resource: bytes, disks: _Disks, data: bytes) -> None: ...
def get_lvb(lockspace: bytes, resource: bytes, disks: _Disks, size: int) -> bytes: ...
def reg_event(lockspace: bytes) -> int: ...
def get_event(fd: int) -> list[_Event]: ...
def end_event(fd: int, lockspace: bytes) -> None: ...
