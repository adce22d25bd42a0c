"""A qemu-img that remembers what it was asked to make; for tests of storage without processes and files."""

from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from vdsm.storage.ports import Bitmap, Conversion, ImageFile, Layer, Measure, Part, QemuImgFailed, Watch

_QCOW2_BYTES = 198208
_CLUSTER_BYTES = 65536


class FakeQemuImg:
    """`storage.ports.QemuImg` over a dictionary of sizes, shared with `storage.backends.memory`."""

    def __init__(self, files: dict[Path, int]) -> None:
        self.files = files
        self.images: dict[Path, ImageFile] = {}
        self.done: list[object] = []
        """Data that was moved, by whom and where."""
        self.calls = 0
        self._next: dict[str, QemuImgFailed] = {}

    def fail_next(self, call: str, error: QemuImgFailed) -> None:
        """Let the next call of that name raise this."""
        self._next[call] = error

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
        self._check("create", path)
        is_cow = format == "qcow2"
        self.files[path] = _QCOW2_BYTES if is_cow else capacity_bytes
        self.images[path] = ImageFile(
            format=format,
            virtual_size_bytes=capacity_bytes,
            backing_file=backing,
            backing_format=backing_format,
            compat=compat,
            cluster_size_bytes=_CLUSTER_BYTES if is_cow else None,
        )

    def info(self, path: Path, format: str) -> ImageFile:
        self._check("info", path)
        return self._get(path)

    def inspect(self, path: Path, part: Part | None = None) -> ImageFile:
        self._check("inspect", path)
        return replace(self._get(path), bitmaps=())

    def get_virtual_size(self, path: Path, format: str, part: Part | None = None) -> int:
        if path not in self.files:
            raise QemuImgFailed(f"no such file: {path}")
        image = self.images.get(path)
        return image.virtual_size_bytes if image else self.files[path]

    def read(self, layer: Layer, begin_bytes: int, length_bytes: int) -> bytes:
        self._check("read", layer.path)
        is_there = begin_bytes + length_bytes <= self._get(layer.path).virtual_size_bytes
        return bytes(length_bytes) if is_there else b""

    def add_bitmap(self, path: Path, name: str, granularity_bytes: int | None = None) -> None:
        self._check("add_bitmap", path)
        image = self.images[path]
        if any(bitmap.name == name for bitmap in image.bitmaps):
            raise QemuImgFailed(f"bitmap {name} is there")
        bitmap = Bitmap(name, granularity_bytes or _CLUSTER_BYTES)
        self.images[path] = replace(image, bitmaps=(*image.bitmaps, bitmap))

    def remove_bitmap(self, path: Path, name: str) -> None:
        self._check("remove_bitmap", path)
        image = self.images[path]
        left = tuple(bitmap for bitmap in image.bitmaps if bitmap.name != name)
        if left == image.bitmaps:
            raise QemuImgFailed(f"no bitmap {name}")
        self.images[path] = replace(image, bitmaps=left)

    def merge_bitmap(self, source: Layer, path: Path, name: str, watch: Watch) -> None:
        self._check("merge_bitmap", path)
        self.done.append(("merge_bitmap", source, path, name))

    def convert(self, conversion: Conversion, watch: Watch) -> None:
        source, target = conversion.source, conversion.target
        self._check("convert", source.path)
        self.done.append(conversion)
        watch.report_progress(50.0)
        if watch.stopping.is_set():
            raise QemuImgFailed("stopped")
        if conversion.copy_bitmaps:
            bitmaps = self._get(source.path).bitmaps
            self.images[target.path] = replace(self.images[target.path], bitmaps=bitmaps)

    def transfer(
        self, source: str, format: str, target: str, target_format: str, options: Sequence[str], watch: Watch
    ) -> None:
        self.done.append(("transfer", source, format, target, target_format, tuple(options)))

    def commit(self, top: Layer, base: str | None, watch: Watch) -> None:
        self._check("commit", top.path)
        self.done.append(("commit", top, base))
        if base is not None:
            size_bytes = max(self.images[path].virtual_size_bytes for path in (top.path, top.path.with_name(base)))
            below = top.path.with_name(base)
            self.images[below] = replace(self.images[below], virtual_size_bytes=size_bytes)

    def rebase(self, child: Path, backing: str, backing_format: str) -> None:
        self._check("rebase", child)
        self.images[child] = replace(self.images[child], backing_file=backing, backing_format=backing_format)

    def amend(self, path: Path, compat: str, watch: Watch) -> None:
        self._check("amend", path)
        self.images[path] = replace(self.images[path], compat=compat)

    def measure(self, layers: Sequence[Layer], format: str) -> Measure:
        for layer in layers:
            self._check("measure", layer.path)
        full_bytes = self._get(layers[0].path).virtual_size_bytes
        return Measure(sum(self.files[layer.path] for layer in layers), full_bytes)

    def _get(self, path: Path) -> ImageFile:
        # A template's file is in several folders, under one name.
        return self.images.get(path) or next(image for known, image in self.images.items() if known.name == path.name)

    def _check(self, call: str, path: Path) -> None:
        self.calls += 1
        if call in self._next:
            raise self._next.pop(call)
        if path not in self.files:
            raise QemuImgFailed(f"no such file: {path}")
