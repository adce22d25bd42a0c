"""Mounts of this host through mount, umount and what the kernel tells; what is mounted where is left to storage."""

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
