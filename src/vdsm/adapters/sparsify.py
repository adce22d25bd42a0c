"""Giving unused space of an image back, in place; when that may be done is left to storage."""

import fcntl
import struct
import sys
from pathlib import Path

from vdsm.adapters.holes import NOT_SUPPORTED
from vdsm.adapters.run import CommandFailed, has_program, run_watched
from vdsm.storage.ports import Layer, QemuImgFailed, Watch

_VIRT_SPARSIFY = ("virt-sparsify", "-v", "-x", "--machine-readable", "--in-place")
_DIG_HOLES = (sys.executable, "-m", "vdsm.adapters.holes")
_LOCKS_OF_QEMU = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 100, 200, 0)
"""The bytes by whose locks qemu tells others how it uses an image."""


def sparsify(layer: Layer, watch: Watch) -> bool:
    """`storage.ports.Sparsify`: what no file system inside uses where virt-sparsify is, else blocks of zeros of raw
    files; False for others, and where the storage makes no holes."""
    if has_program(_VIRT_SPARSIFY[0]):
        return _work([*_VIRT_SPARSIFY, layer.path], watch)
    if layer.format != "raw":
        return False
    try:
        with layer.path.open("r+b") as file:  # what a VM writes meanwhile would be lost
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, _LOCKS_OF_QEMU)
            return _work([*_DIG_HOLES, layer.path], watch)
    except OSError as error:
        raise QemuImgFailed(f"{layer.path} is in use, or cannot be locked: {error}") from error


def _work(argv: list[str | Path], watch: Watch) -> bool:
    try:
        run_watched(argv, stopping=watch.stopping, on_output=lambda _: None)
    except CommandFailed as error:
        if error.status == NOT_SUPPORTED:
            return False
        raise QemuImgFailed(str(error)) from error
    return True
