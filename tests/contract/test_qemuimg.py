"""Image files: what the fake promises, the real qemu-img keeps."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vdsm.adapters.qemuimg import QemuImgCommand
from vdsm.adapters.run import run
from vdsm.storage.ports import QemuImg, QemuImgFailed
from vdsm.testing.qemuimg import FakeQemuImg

MIB = 1 << 20


class Files:
    """Empty files for either."""

    def __init__(self, folder: Path, qemu_img: QemuImg, make: Callable[[Path], object]) -> None:
        self.folder = folder
        self.qemu_img = qemu_img
        self._make = make

    def create(self, name: str) -> Path:
        path = self.folder / name
        self._make(path)
        return path


@pytest.fixture(params=["fake", "real"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    if request.param == "real":
        return Files(tmp_path, QemuImgCommand(), Path.touch)
    sizes: dict[Path, int] = {}
    return Files(tmp_path, FakeQemuImg(sizes), lambda path: sizes.update({path: 0}))


def test_raw(files: Files) -> None:
    path = files.create("raw")
    files.qemu_img.create(path, "raw", 8 * MIB)
    info = files.qemu_img.info(path)
    assert (info.format, info.virtual_size_bytes, info.backing_file) == ("raw", 8 * MIB, None)
    assert files.qemu_img.get_virtual_size(path, "raw") == 8 * MIB


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_a_layer_names_its_backing_file_and_does_not_open_it(files: Files, compat: str) -> None:
    path = files.create("layer")
    files.qemu_img.create(path, "qcow2", 8 * MIB, compat=compat, backing="base", backing_format="raw")
    info = files.qemu_img.info(path)
    assert (info.format, info.compat, info.backing_file, info.backing_format) == ("qcow2", compat, "base", "raw")
    assert info.virtual_size_bytes == files.qemu_img.get_virtual_size(path, "qcow2") == 8 * MIB
    assert info.cluster_size_bytes == 65536


def test_a_new_image_is_clean_and_ends_at_a_cluster(files: Files) -> None:
    for number, capacity_bytes in enumerate((4096, MIB, 100 << 30, 10 << 40)):
        path = files.create(f"image{number}")
        files.qemu_img.create(path, "qcow2", capacity_bytes, compat="1.1")
        if isinstance(files.qemu_img, QemuImgCommand):
            found = json.loads(run(["qemu-img", "check", "--output", "json", "-f", "qcow2", path], timeout_s=60).stdout)
            assert found["image-end-offset"] == -(-path.stat().st_size // 65536) * 65536


def test_bitmaps(files: Files) -> None:
    path = files.create("image")
    files.qemu_img.create(path, "qcow2", MIB, compat="1.1")
    files.qemu_img.add_bitmap(path, "one")
    files.qemu_img.add_bitmap(path, "two", 131072)
    assert files.qemu_img.info(path).bitmaps == (("one", 65536), ("two", 131072))


def test_failures(files: Files) -> None:
    missing = files.folder / "missing"
    with pytest.raises(QemuImgFailed):
        files.qemu_img.info(missing)
    for format in ("raw", "qcow2"):
        with pytest.raises(QemuImgFailed):
            files.qemu_img.get_virtual_size(missing, format)


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "junk"
    path.write_bytes(b"junk" * 100)
    with pytest.raises(QemuImgFailed):
        QemuImgCommand().get_virtual_size(path, "qcow2")
