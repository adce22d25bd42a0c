"""A qemu-img that remembers what it was asked to make; for tests of storage without processes and files."""

from dataclasses import replace
from pathlib import Path

from vdsm.storage.ports import ImageFile, QemuImgFailed

_QCOW2_BYTES = 198208
_CLUSTER_BYTES = 65536


class FakeQemuImg:
    """`storage.ports.QemuImg` over a dictionary of sizes, shared with `storage.backends.memory`."""

    def __init__(self, files: dict[Path, int]) -> None:
        self.files = files
        self.images: dict[Path, ImageFile] = {}
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

    def info(self, path: Path) -> ImageFile:
        self._check("info", path)
        return self.images[path]

    def get_virtual_size(self, path: Path, format: str) -> int:
        if path not in self.files:
            raise QemuImgFailed(f"no such file: {path}")
        image = self.images.get(path)
        return image.virtual_size_bytes if image else self.files[path]

    def add_bitmap(self, path: Path, name: str, granularity_bytes: int | None = None) -> None:
        self._check("add_bitmap", path)
        image = self.images[path]
        bitmap = (name, granularity_bytes or _CLUSTER_BYTES)
        self.images[path] = replace(image, bitmaps=(*image.bitmaps, bitmap))

    def _check(self, call: str, path: Path) -> None:
        self.calls += 1
        if call in self._next:
            raise self._next.pop(call)
        if path not in self.files:
            raise QemuImgFailed(f"no such file: {path}")
