"""Image files through qemu-img; what an image is for is left to storage."""

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from vdsm.adapters.run import CommandFailed, Completed, run
from vdsm.storage.ports import ImageFile, QemuImgFailed

_TIMEOUT_S = 120.0
_HEADER = struct.Struct(">4sIQIIQ")  # magic, version, backing file's offset and length, cluster bits, virtual size
_MAGIC = b"QFI\xfb"

Shape = TypeVar("Shape")


class _Bitmap(msgspec.Struct):
    name: str
    granularity: int
    flags: list[str] = []


class _Qcow2(msgspec.Struct):
    compat: str | None = None
    bitmaps: list[_Bitmap] = []


class _FormatSpecific(msgspec.Struct):
    data: _Qcow2 = msgspec.field(default_factory=_Qcow2)


class _Info(msgspec.Struct, rename="kebab"):
    format: str
    virtual_size: int
    backing_filename: str | None = None
    backing_filename_format: str | None = None
    cluster_size: int | None = None
    format_specific: _FormatSpecific | None = None


class QemuImgCommand:
    """`storage.ports.QemuImg` over the qemu-img program."""

    def create(
        self,
        path: Path,
        format: str,
        capacity_bytes: int,
        *,
        compat: str | None = None,
        backing: str | None = None,
        backing_format: str | None = None,
    ) -> None:
        """One process. The backing file is neither opened nor checked."""
        argv: list[str | Path] = ["create", "-q", "-f", format]
        if compat is not None:
            argv += ["-o", f"compat={compat}"]
        if backing is not None and backing_format is not None:
            argv += ["-b", backing, "-F", backing_format, "-u"]
        _run([*argv, path, str(capacity_bytes)], cwd=path.parent)

    def info(self, path: Path) -> ImageFile:
        done = _run(["info", "-U", "--output", "json", path])
        info = _decode(done, _Info)
        specific = info.format_specific.data if info.format_specific else _Qcow2()
        return ImageFile(
            format=info.format,
            virtual_size_bytes=info.virtual_size,
            backing_file=info.backing_filename,
            backing_format=info.backing_filename_format,
            compat=specific.compat,
            cluster_size_bytes=info.cluster_size,
            bitmaps=tuple((one.name, one.granularity) for one in specific.bitmaps if "in-use" not in one.flags),
        )

    def get_virtual_size(self, path: Path, format: str) -> int:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if format == "raw":
                    return os.lseek(descriptor, 0, os.SEEK_END)
                header = os.pread(descriptor, _HEADER.size, 0)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise QemuImgFailed(str(error)) from error
        if len(header) < _HEADER.size or header[:4] != _MAGIC:
            raise QemuImgFailed(f"{path} is no qcow2 image")
        size_bytes: int = _HEADER.unpack(header)[5]
        return size_bytes

    def add_bitmap(self, path: Path, name: str, granularity_bytes: int | None = None) -> None:
        granularity = [] if granularity_bytes is None else ["-g", str(granularity_bytes)]
        _run(["bitmap", "--add", "--enable", *granularity, "-f", "qcow2", path, name])


def _run(argv: Sequence[str | Path], *, cwd: Path | None = None) -> Completed:
    try:
        return run(["qemu-img", *argv], timeout_s=_TIMEOUT_S, cwd=cwd)
    except CommandFailed as error:
        raise QemuImgFailed(str(error), full="No space left on device" in error.stderr) from error


def _decode(done: Completed, shape: type[Shape]) -> Shape:
    try:
        return msgspec.json.decode(done.stdout, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise QemuImgFailed(f"{done.command}: {error}") from error
