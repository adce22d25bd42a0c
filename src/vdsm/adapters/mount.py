"""Mounts of this host through mount, umount and what the kernel tells; what is mounted where is left to storage."""

import ctypes
import errno
import mmap
import os
import re
from collections.abc import Sequence
from pathlib import Path

from vdsm.adapters.run import CommandFailed, run
from vdsm.storage.ports import Mounted, MountFailed

MOUNT_TIMEOUT_S = 40.0
UNMOUNT_TIMEOUT_S = 20.0
_TABLE = Path("/proc/self/mounts")
_SYSTEMD = Path("/run/systemd/system")
_BLOCK_DEVICES = Path("/sys/block")
_ESCAPE = re.compile(rb"\\([0-7]{3})")
_DELETED = " (deleted)"
_SAFE = "nosuid,nodev,noexec"
_SCOPE = ("systemd-run", "--scope", "--quiet", "--slice=vdsm-glusterfs")
_ZERO_RANGE = 0x10  # a mode of fallocate, as linux/falloc.h has it
_NOT_KNOWN = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_PROBE_BYTES = 4096
_libc = ctypes.CDLL(None, use_errno=True)


class KernelMounts:
    """`storage.ports.Mounts` of the machine; needs root."""

    def list_mounted(self) -> Sequence[Mounted]:
        return parse_mounts(_TABLE.read_bytes())

    def mount(self, source: str, target: Path, *, filesystem: str, options: str) -> None:
        words: list[str | Path] = ["mount"]
        if filesystem:
            words += ["-t", filesystem]
        if options:
            words += ["-o", options]
        # A FUSE process must outlive the daemon, and systemd would end it with the daemon's other processes.
        scope = _SCOPE if filesystem == "glusterfs" and _SYSTEMD.is_dir() else ()
        _run([*scope, *words, "-o", _SAFE, "--", source, target], MOUNT_TIMEOUT_S)

    def unmount(self, target: Path) -> None:
        _run(["umount", "-f", "-l", "--", target], UNMOUNT_TIMEOUT_S)

    def has_false_zeroes(self, target: Path) -> bool:
        probe = target / f".zeroes-{os.uname().nodename}"
        probe.unlink(missing_ok=True)  # left by a process that was killed
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_DIRECT | os.O_DSYNC | os.O_CLOEXEC
        descriptor = os.open(probe, flags, 0o600)
        try:
            with mmap.mmap(-1, _PROBE_BYTES) as block:
                block.write(b"\xff" * _PROBE_BYTES)
                os.pwritev(descriptor, [block], 0)
                if _libc.fallocate(descriptor, _ZERO_RANGE, ctypes.c_long(0), ctypes.c_long(_PROBE_BYTES)):
                    number = ctypes.get_errno()
                    if number in _NOT_KNOWN:
                        return False  # who is told so writes zeros
                    raise OSError(number, os.strerror(number))
                os.preadv(descriptor, [block], 0)
                return block[:] != bytes(_PROBE_BYTES)
        finally:
            os.close(descriptor)
            probe.unlink(missing_ok=True)


def parse_mounts(table: bytes) -> list[Mounted]:
    """What a table such as /proc/self/mounts tells; lines that tell nothing are left out."""
    mounts = []
    for line in table.splitlines():
        fields = [_ESCAPE.sub(_unescape, field).decode("utf-8", "surrogateescape") for field in line.split(b" ")]
        if len(fields) >= 3:
            source, target, filesystem = fields[:3]
            backing, place = _find_backing(source), Path(target.removesuffix(_DELETED))
            mounts.append(Mounted(backing, place, filesystem, "" if backing == source else source))
    return mounts


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1], 8) & 0xFF])


def _find_backing(source: str) -> str:
    device = source.removeprefix("/dev/")
    if not device.startswith("loop") or "/" in device:
        return source
    try:
        return (_BLOCK_DEVICES / device / "loop" / "backing_file").read_text().rstrip("\n")
    except OSError:
        return source


def _run(words: Sequence[str | Path], timeout_s: float) -> None:
    try:
        run(words, timeout_s=timeout_s)
    except CommandFailed as error:
        raise MountFailed(str(error)) from error
