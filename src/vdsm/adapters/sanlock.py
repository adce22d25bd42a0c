"""Leases through the sanlock daemon and its binding; what they protect is left to storage.

No call waits for ever: a daemon or a storage that hangs costs one thread for each lockspace, and its callers a failure.
Each lockspace has a registration of its own, so that a domain that hangs holds up no other.
"""

import errno
import logging
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import sanlock

from vdsm.adapters.death import DeathTimer
from vdsm.core.patience import Patience
from vdsm.storage.ports import Lease, LeaseFailed, LeaseState, Lockspace

log = logging.getLogger(__name__)

R = TypeVar("R")

HOST_ID_TIMEOUT_S = 180.0
"""So long a host id is waited for (facts: storage §6.1)."""
VALUE_BYTES = 512
_POLL_S = 0.1
_PULSE_MS = 1000
LIFE_IO_TIMEOUTS = 8
"""A lease lives so long after it was renewed last; sanlock renews it four times as often."""
LOST_SIGNAL = signal.SIGUSR2
"""By which sanlock ends who loses a lease: SIGTERM, its own way, is what an owner sends who wants an orderly end."""
_GONE = "sanlock is gone, and with it the leases of this process"
_IO_TIMEOUTS = 4  # an operation on storage that answers takes few
_NO_LEASE = (-223, errno.EMSGSIZE)  # sanlock's "no lease there", and a file that is too short for one
_STATUS_MASK = 0xF  # other bits of a host's flags are events


def end_process(reason: str) -> None:
    """End this process at once, and with it its children: without its leases it must not write any more."""
    os.write(2, f"{reason}: this process ends\n".encode())  # the log has a queue, which ends with us
    os.kill(os.getpid(), signal.SIGKILL)


class SanlockLeases:
    """`storage.ports.Leases` over sanlock. `on_lost` is called when leases are held that may be others' by now: sanlock
    is gone. A process that stands still for longer than they live is killed by the kernel."""

    def __init__(self, io_timeout_s: int = 10, on_lost: Callable[[str], None] = end_process) -> None:
        self._io_timeout_s = io_timeout_s
        self._on_lost = on_lost
        self._patience = Patience(sanlock.SanlockException, OSError)
        self._registrations: dict[str, _Registration] = {}
        self._lock = threading.Lock()

    def write_lockspace(self, lockspace: Lockspace) -> None:
        place, (align, sector) = (lockspace.name.encode(), str(lockspace.path)), _geometry(lockspace)
        timeout_s = self._io_timeout_s
        write = partial(sanlock.write_lockspace, *place, iotimeout=timeout_s, align=align, sector=sector)
        self._call(lockspace, write)

    def write_lease(self, lease: Lease) -> None:
        self._write(lease, lease.lockspace.name, lease.name)

    def clear_lease(self, lease: Lease) -> None:
        self._write(lease, "", "")

    def read_lease_name(self, lease: Lease) -> tuple[str, str] | None:
        try:
            found = self._read(lease)
        except LeaseFailed as error:
            if error.error in _NO_LEASE:
                return None
            raise
        names = (found["lockspace"].decode("ascii", "replace"), found["resource"].decode("ascii", "replace"))
        return names if any(names) else None

    def join(self, lockspace: Lockspace, host_id: int, *, wait: bool = True) -> None:
        place = (lockspace.name.encode(), host_id, str(lockspace.path))

        def join() -> None:
            begin_s = time.monotonic()
            while True:
                try:
                    return sanlock.add_lockspace(*place, iotimeout=self._io_timeout_s, wait=wait)
                except sanlock.SanlockException as error:
                    if error.errno == errno.EEXIST:
                        return
                    is_leaving = _is_leaving(lockspace)
                    if error.errno == errno.EINPROGRESS and not is_leaving:
                        if not wait or sanlock.inq_lockspace(*place, wait=True):
                            return
                    if not is_leaving or time.monotonic() > begin_s + HOST_ID_TIMEOUT_S:
                        raise
                time.sleep(_POLL_S)

        self._call(lockspace, join, HOST_ID_TIMEOUT_S)

    def leave(self, lockspace: Lockspace, host_id: int) -> None:
        def leave() -> None:
            try:
                # Without waiting, sanlock would tell for a second that nothing happened, and refuse to join again.
                sanlock.rem_lockspace(lockspace.name.encode(), host_id, str(lockspace.path), unused=True)
            except sanlock.SanlockException as error:
                if error.errno not in (errno.ENOENT, errno.EINPROGRESS):
                    raise

        self._call(lockspace, leave)

    def is_member(self, lockspace: Lockspace, host_id: int) -> bool:
        place = (lockspace.name.encode(), host_id, str(lockspace.path))
        return self._call(lockspace, lambda: sanlock.inq_lockspace(*place)) is True

    def acquire(self, lease: Lease, *, with_value: bool = False) -> None:
        registration = self._register(lease.lockspace)

        def give_back(_: None) -> None:
            log.warning("lease %s of %s came too late and is given back", lease.name, lease.lockspace.name)
            registration.release(lease)

        self._call(lease.lockspace, lambda: registration.acquire(lease, with_value), late=give_back)

    def read_value(self, lease: Lease) -> bytes:
        names = (lease.lockspace.name.encode(), lease.name.encode())
        return self._call(lease.lockspace, lambda: sanlock.get_lvb(*names, [_place(lease)], size=VALUE_BYTES))

    def write_value(self, lease: Lease, data: bytes) -> None:
        names = (lease.lockspace.name.encode(), lease.name.encode())
        value = data.ljust(VALUE_BYTES, b"\0")
        self._call(lease.lockspace, lambda: sanlock.set_lvb(*names, [_place(lease)], value))

    def release(self, lease: Lease) -> None:
        registration = self._register(lease.lockspace)
        self._call(lease.lockspace, lambda: registration.release(lease))

    def is_held(self, lease: Lease) -> bool:
        registration = self._registrations.get(lease.lockspace.name)
        if registration is None:
            return False
        wanted = (lease.lockspace.name, lease.name, [(str(lease.path), lease.offset_bytes)])
        held = self._call(lease.lockspace, registration.inquire)
        return any((one["lockspace"].decode(), one["resource"].decode(), one["disks"]) == wanted for one in held)

    def inspect(self, lease: Lease) -> LeaseState:
        found = self._read(lease)
        names = (lease.lockspace.name.encode(), lease.name.encode())
        if (found["lockspace"], found["resource"]) != names:
            raise LeaseFailed(f"{lease.path}: no lease {lease.name}")

        disks, (align, sector) = [_place(lease)], _geometry(lease.lockspace)
        read_owners = partial(sanlock.read_resource_owners, *names, disks, align, sector)
        for owner in self._call(lease.lockspace, read_owners):
            if self._is_alive(lease.lockspace, owner):
                return LeaseState(found["version"], owner["host_id"])
        return LeaseState(found["version"])

    def _is_alive(self, lockspace: Lockspace, owner: "sanlock._Host") -> bool:
        # A host that is gone leaves its name on what it held. What cannot be told counts as alive.
        host = self._get_host(lockspace, owner["host_id"])
        if host is None:
            return True
        dead = host["flags"] & _STATUS_MASK in (sanlock.HOST_DEAD, sanlock.HOST_FREE)
        return not dead and host["generation"] == owner["generation"]

    def _get_host(self, lockspace: Lockspace, host_id: int) -> "sanlock._Host | None":
        try:
            [host] = self._call(lockspace, lambda: sanlock.get_hosts(lockspace.name.encode(), host_id))
        except LeaseFailed as error:
            if error.error == errno.EAGAIN:
                return None  # just joined: sanlock has not seen the others yet
            raise
        return host

    def _read(self, lease: Lease) -> "sanlock._Resource":
        space = lease.lockspace
        return self._call(space, partial(sanlock.read_resource, *_place(lease), *_geometry(space)))

    def _write(self, lease: Lease, lockspace_name: str, name: str) -> None:
        space = lease.lockspace
        names, (align, sector) = (lockspace_name.encode(), name.encode()), _geometry(space)
        self._call(space, partial(sanlock.write_resource, *names, [_place(lease)], align=align, sector=sector))

    def _call(
        self,
        lockspace: Lockspace,
        function: Callable[[], R],
        timeout_s: float | None = None,
        late: Callable[[R], None] | None = None,
    ) -> R:
        limit_s = self._io_timeout_s * _IO_TIMEOUTS if timeout_s is None else timeout_s
        try:
            return self._patience.call(lockspace.name, function, limit_s, late)
        except TimeoutError as error:
            raise LeaseFailed(f"no answer: {error}", errno.ETIMEDOUT) from error
        except sanlock.SanlockException as error:
            raise LeaseFailed(": ".join(map(str, error.args[1:])), error.errno) from error
        except OSError as error:
            raise LeaseFailed(str(error), error.errno or 0) from error

    def _register(self, lockspace: Lockspace) -> "_Registration":
        with self._lock:
            registration = self._registrations.get(lockspace.name)
            if registration is None or registration.is_closed:
                life_s = self._io_timeout_s * LIFE_IO_TIMEOUTS
                registration = _Registration(self._call(lockspace, _connect), life_s)
                self._registrations[lockspace.name] = registration
                threading.Thread(target=registration.watch, args=(self._on_lost,), daemon=True).start()
            return registration


class _Registration:
    """A connection by which sanlock knows this process; one call at a time may use it."""

    def __init__(self, descriptor: int, life_s: float) -> None:
        self._descriptor = descriptor
        self._death = DeathTimer(life_s)  # set while leases are, or may be, held
        self._lock = threading.Lock()
        self._held_count = 0
        self.is_closed = False

    def acquire(self, lease: Lease, with_value: bool) -> None:
        with self._using():
            names = (lease.lockspace.name.encode(), lease.name.encode())
            self._death.set()
            try:
                sanlock.acquire(*names, [_place(lease)], slkfd=self._descriptor, lvb=with_value)
                self._held_count += 1
            finally:
                self._rest()

    def release(self, lease: Lease) -> None:
        with self._using():
            names = (lease.lockspace.name.encode(), lease.name.encode())
            sanlock.release(*names, [_place(lease)], slkfd=self._descriptor)
            self._held_count -= 1
            self._rest()

    def _rest(self) -> None:
        if not self._held_count:
            self._death.call_off()

    def inquire(self) -> "list[sanlock._HeldResource]":
        with self._using():
            return sanlock.inquire(slkfd=self._descriptor)

    def watch(self, on_lost: Callable[[str], None]) -> None:
        """Put the process's death off until sanlock hangs up; runs in a thread of its own."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLRDHUP)
        while not poll.poll(_PULSE_MS):
            self._death.put_off()
        self.is_closed = True
        if self._held_count:
            on_lost(_GONE)
        with self._lock:
            os.close(self._descriptor)
            self._death.close()
            if self._held_count:  # one that was acquired just then
                on_lost(_GONE)

    @contextmanager
    def _using(self) -> Iterator[None]:
        with self._lock:
            if self.is_closed:  # the descriptor may be another file's by now
                raise OSError(errno.ENOTCONN, "sanlock is gone")
            yield


def _connect() -> int:
    """Let sanlock know this process. Where it cannot know us by our number, in a container, it is left its own way."""
    descriptor = sanlock.register()
    with socket.socket(fileno=os.dup(descriptor)) as peer:
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    if struct.unpack("3i", credentials)[0]:
        sanlock.killpath("/bin/sh", ["-c", f"kill -{LOST_SIGNAL:d} {os.getpid()}"], slkfd=descriptor)
    return descriptor


def _is_leaving(lockspace: Lockspace) -> bool:
    name = lockspace.name.encode()
    return any(one["lockspace"] == name and one["flags"] & sanlock.LSFLAG_REM for one in sanlock.get_lockspaces())


def _place(lease: Lease) -> tuple[str, int]:
    return str(lease.path), lease.offset_bytes


def _geometry(lockspace: Lockspace) -> tuple[int, int]:
    """Alignment and sector, as the binding orders them."""
    return lockspace.alignment_bytes, lockspace.block_size_bytes
