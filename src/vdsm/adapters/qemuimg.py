"""Image files through qemu-img; what an image is for is left to storage."""

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from vdsm.adapters import qcow2
from vdsm.adapters.run import CommandFailed, Completed, run, run_watched
from vdsm.storage.ports import Bitmap, Conversion, ImageFile, Layer, Measure, Part, QemuImgFailed, Watch

_TIMEOUT_S = 120.0
_LIMITS = ("prlimit", "--cpu=30", f"--as={1 << 30}")
"""What looking at an image may cost: it may have been made to cost more (facts: storage §9.6)."""
_PERCENT = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")

Shape = TypeVar("Shape")


class _Bitmap(msgspec.Struct):
    name: str
    granularity: int
    flags: list[str] = []


class _Qcow2(msgspec.Struct, rename="kebab"):
    compat: str | None = None
    bitmaps: list[_Bitmap] = []
    data_file: str | None = None


class _FormatSpecific(msgspec.Struct):
    data: _Qcow2 = msgspec.field(default_factory=_Qcow2)


class _Info(msgspec.Struct, rename="kebab"):
    format: str
    virtual_size: int
    backing_filename: str | None = None
    backing_filename_format: str | None = None
    cluster_size: int | None = None
    format_specific: _FormatSpecific | None = None


class _Measure(msgspec.Struct, rename="kebab"):
    required: int
    fully_allocated: int
    bitmaps: int | None = None


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

    def info(self, path: Path, format: str) -> ImageFile:
        done = _run(["info", "-U", "--output", "json", "-f", format, path], limits=_LIMITS)
        info = _decode(done, _Info)
        specific = info.format_specific.data if info.format_specific else _Qcow2()
        return ImageFile(
            format=info.format,
            virtual_size_bytes=info.virtual_size,
            backing_file=info.backing_filename,
            backing_format=info.backing_filename_format,
            compat=specific.compat,
            cluster_size_bytes=info.cluster_size,
            bitmaps=tuple(Bitmap(one.name, one.granularity, tuple(one.flags)) for one in specific.bitmaps),
            has_data_file=specific.data_file is not None,
        )

    def inspect(self, path: Path, part: Part | None = None) -> ImageFile:
        try:
            return qcow2.inspect(path, part)
        except OSError as error:
            raise QemuImgFailed(str(error)) from error

    def get_virtual_size(self, path: Path, format: str, part: Part | None = None) -> int:
        if format != "raw":
            image = self.inspect(path, part)
            if image.format != format:
                raise QemuImgFailed(f"{path} is no {format} image")
            return image.virtual_size_bytes
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.lseek(descriptor, 0, os.SEEK_END)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise QemuImgFailed(str(error)) from error

    def read(self, layer: Layer, begin_bytes: int, length_bytes: int) -> bytes:
        if begin_bytes + length_bytes > self.get_virtual_size(layer.path, layer.format):
            return b""
        # Not dd's own skip and count: of these, qemu-img counts from the beginning of the disk.
        disk = {"driver": layer.format, "file": {"driver": "file", "filename": str(layer.path)}}
        place = {"driver": "raw", "offset": begin_bytes, "size": length_bytes, "file": disk}
        with tempfile.TemporaryDirectory() as folder:
            piece = Path(folder, "piece")
            _run(["dd", "-U", "-O", "raw", f"if=json:{msgspec.json.encode(place).decode()}", f"of={piece}"])
            return piece.read_bytes()

    def add_bitmap(self, path: Path, name: str, granularity_bytes: int | None = None) -> None:
        granularity = [] if granularity_bytes is None else ["-g", str(granularity_bytes)]
        _run(["bitmap", "--add", "--enable", *granularity, "-f", "qcow2", "--", path, name])

    def remove_bitmap(self, path: Path, name: str) -> None:
        _run(["bitmap", "--remove", "-f", "qcow2", "--", path, name])  # a name may look like an option

    def merge_bitmap(self, source: Layer, path: Path, name: str, watch: Watch) -> None:
        argv: list[str | Path] = ["bitmap", "--merge", name, "-F", source.format, "-b", source.path]
        _work([*argv, "-f", "qcow2", "--", path, name], watch, path.parent)

    def convert(self, conversion: Conversion, watch: Watch) -> None:
        source, target = conversion.source, conversion.target
        # Created by storage beforehand, always (-n): with the size and the space that its record tells.
        argv: list[str | Path] = ["convert", "-p", "-n", "-t", "none", "-T", "none"]
        argv += ["-O", target.format] if source.part else ["-f", source.format, "-O", target.format]
        if conversion.backing is not None:
            argv += ["-B", conversion.backing]
        if conversion.is_zero:
            argv += ["--target-is-zero"]
        if conversion.copy_bitmaps:
            argv += ["--bitmaps", "--skip-broken-bitmaps"]
        _work([*argv, _format_part(source) if source.part else source.path, target.path], watch, target.path.parent)

    def transfer(
        self, source: str, format: str, target: str, target_format: str, options: Sequence[str], watch: Watch
    ) -> None:
        compat = ["-o", "compat=1.1"] if target_format == "qcow2" and "-n" not in options else []
        ends = ["-f", format, "-O", target_format, source, target]
        _work(["convert", "-p", "-t", "none", "-T", "none", *options, *compat, *ends], watch, Path("/"))

    def commit(self, top: Layer, base: str | None, watch: Watch) -> None:
        argv: list[str | Path] = ["commit", "-p", "-t", "none", "-f", top.format]
        argv += ["-d"] if base is None else ["-b", base]
        _work([*argv, top.path], watch, top.path.parent)

    def rebase(self, child: Path, backing: str, backing_format: str) -> None:
        unsafe = ["-u", "-f", "qcow2", "-F", backing_format, "-b", backing]
        _run(["rebase", "-t", "none", "-T", "none", *unsafe, child], cwd=child.parent)

    def amend(self, path: Path, compat: str, watch: Watch) -> None:
        _work(["amend", "-p", "-f", "qcow2", "-o", f"compat={compat}", path], watch, path.parent)

    def measure(self, layers: Sequence[Layer], format: str) -> Measure:
        found = _decode(_run(["measure", "--output", "json", "-U", "-O", format, format_chain(layers)]), _Measure)
        return Measure(found.required, found.fully_allocated, found.bitmaps)


def format_chain(layers: Sequence[Layer]) -> str:
    """The layers, each named, so that qemu follows no name that it finds in one of them."""
    node: dict[str, object] | None = None
    for layer in reversed(layers):
        kind = "host_device" if layer.path.is_block_device() else "file"
        below = {} if layer.format == "raw" else {"backing": node}
        node = {"driver": layer.format, "file": {"driver": kind, "filename": str(layer.path)}, **below}
    return f"json:{msgspec.json.encode(node).decode()}"


def _format_part(layer: Layer) -> str:
    """An image that is a part of a file; the part is taken for whole sectors, as it has them in an archive."""
    begin, size = layer.part or (0, 0)
    file = {"driver": "file", "filename": str(layer.path)}
    part = {"driver": "raw", "offset": begin, "size": -(-size // 512) * 512, "file": file}
    return f"json:{msgspec.json.encode({'driver': layer.format, 'file': part}).decode()}"


def _run(argv: Sequence[str | Path], *, cwd: Path | None = None, limits: Sequence[str] = ()) -> Completed:
    with _failing():
        # Whoever holds the volume keeps it until the process is really gone, and those that are stuck stay few.
        return run([*limits, "qemu-img", *argv], timeout_s=_TIMEOUT_S, cwd=cwd, wait_out=True)


def _work(argv: Sequence[str | Path], watch: Watch, cwd: Path) -> None:
    hear = _Percents(watch.report_progress)
    with _failing():
        run_watched(["qemu-img", *argv], stopping=watch.stopping, on_output=hear, cwd=cwd)


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except CommandFailed as error:
        raise QemuImgFailed(str(error), full="No space left on device" in error.stderr) from error


class _Percents:
    """Reads `(12.34/100%)` out of what qemu-img writes, in whatever pieces it comes."""

    def __init__(self, report: Callable[[float], None]) -> None:
        self._report = report
        self._text = b""

    def __call__(self, piece: bytes) -> None:
        self._text += piece
        found = list(_PERCENT.finditer(self._text))
        if found:
            self._report(float(found[-1][1]))
            self._text = self._text[found[-1].end() :]
        self._text = self._text[-32:]


def _decode(done: Completed, shape: type[Shape]) -> Shape:
    try:
        return msgspec.json.decode(done.stdout, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise QemuImgFailed(f"{done.command}: {error}") from error
