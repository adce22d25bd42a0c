"""libguestfs' programs, which change the file systems inside images; when that may be done is left to storage.

They boot a small VM for that, by qemu itself: libvirtd has no part in it.
"""

import fcntl
import logging
import re
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from vdsm.adapters.holes import NOT_SUPPORTED
from vdsm.adapters.run import CommandFailed, has_program, run_watched
from vdsm.storage.ports import GuestToolFailed, Layer, Watch

log = logging.getLogger(__name__)

_SYSPREP = ("virt-sysprep", "-v", "-x", "--hostname", "localhost", "--selinux-relabel")
_SPARSIFY = ("virt-sparsify", "-v", "-x", "--machine-readable", "--in-place")
_DIG_HOLES = (sys.executable, "-m", "vdsm.adapters.holes")
_LOCKS_OF_QEMU = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 100, 200, 0)
"""The bytes by whose locks qemu tells others how it uses an image."""
_COMPLAINT = re.compile(r"^(?:virt-\S+|libguestfs): error: .*|^(?:qemu-\S+|supermin): .*(?:error|ailed).*", re.M)


class Guestfs(Struct, frozen=True):
    """The programs. Theirs is any KVM that can be opened, and one that does not work ends or hangs them: they emulate
    unless `uses_kvm` knows better. Each image is opened as that format, whatever a guest wrote into its beginning."""

    uses_kvm: Callable[[], bool] = lambda: False

    def sparsify(self, layer: Layer, watch: Watch) -> bool:
        """`storage.ports.Sparsify`: what no file system inside uses where virt-sparsify is and works, else `dig`."""
        if has_program(_SPARSIFY[0]):
            try:
                self._work([*_SPARSIFY, "--format", layer.format, layer.path], watch)
                return True
            except GuestToolFailed as error:
                if layer.format != "raw" or watch.stopping.is_set():
                    raise
                log.warning("Blocks of zeros alone are given back: %s", error)
        return dig(layer, watch)

    def seal(self, layers: Sequence[Layer], watch: Watch) -> None:
        """`storage.ports.Seal`, by virt-sysprep."""
        if not has_program(_SYSPREP[0]):
            raise GuestToolFailed(f"{_SYSPREP[0]} is missing: install guestfs-tools, which need a kernel in /boot")
        for layer in layers:
            with _lock(layer):
                pass  # who opens it later is kept out by qemu's own locks
        disks = [word for layer in layers for word in ("--format", layer.format, "-a", layer.path)]
        self._work([*_SYSPREP, *disks], watch)

    def _work(self, argv: Sequence[str | Path], watch: Watch) -> None:
        way = "" if self.uses_kvm() else "force_tcg"
        settings = ("env", "LIBGUESTFS_BACKEND=direct", f"LIBGUESTFS_BACKEND_SETTINGS={way}")
        try:
            run_watched([*settings, *argv], stopping=watch.stopping, on_output=lambda _: None)
        except CommandFailed as error:
            complaints = _COMPLAINT.findall(error.stderr)[-3:] or [error.stderr[-500:]]
            raise GuestToolFailed(f"{argv[0]}: status {error.status}: {'; '.join(complaints)}") from error


def dig(layer: Layer, watch: Watch) -> bool:
    """`storage.ports.Sparsify`: blocks of zeros of raw files; False for others, and where storage makes no holes."""
    if layer.format != "raw":
        return False
    with _lock(layer):  # what a VM writes meanwhile would be lost
        try:
            run_watched([*_DIG_HOLES, layer.path], stopping=watch.stopping, on_output=lambda _: None)
        except CommandFailed as error:
            if error.status == NOT_SUPPORTED:
                return False
            raise GuestToolFailed(str(error)) from error
    return True


@contextmanager
def _lock(layer: Layer) -> Iterator[None]:
    try:
        with layer.path.open("r+b") as file:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, _LOCKS_OF_QEMU)
            yield
    except OSError as error:
        raise GuestToolFailed(f"{layer.path} is in use, or cannot be locked: {error}") from error
