"""Giving unused space of an image back, in place; when that may be done is left to storage."""

from pathlib import Path

from vdsm.adapters.run import CommandFailed, has_program, run_watched
from vdsm.storage.ports import Layer, QemuImgFailed, Watch

_VIRT_SPARSIFY = ("virt-sparsify", "-v", "-x", "--machine-readable", "--in-place")


def sparsify(layer: Layer, watch: Watch) -> bool:
    """`storage.ports.Sparsify`: what no file system inside uses where virt-sparsify is, else blocks of zeros of raw
    files; False for others."""
    argv: list[str | Path]
    if has_program(_VIRT_SPARSIFY[0]):
        argv = [*_VIRT_SPARSIFY, layer.path]
    elif layer.format == "raw":
        argv = ["fallocate", "--dig-holes", layer.path]
    else:
        return False
    try:
        run_watched(argv, stopping=watch.stopping, on_output=lambda _: None)
    except CommandFailed as error:
        raise QemuImgFailed(str(error)) from error
    return True
