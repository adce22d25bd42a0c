"""Image files: what the fake promises, the real qemu-img keeps."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.blocks import BLOCK, COW, RAW, make, read
from vdsm.adapters.qemuimg import QemuImgCommand
from vdsm.adapters.run import run
from vdsm.storage.ports import Bitmap, Conversion, Layer, QemuImg, QemuImgFailed, Unwatched
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
    for info in (files.qemu_img.info(path, "raw"), files.qemu_img.inspect(path)):
        assert (info.format, info.virtual_size_bytes, info.backing_file) == ("raw", 8 * MIB, None)
    assert files.qemu_img.get_virtual_size(path, "raw") == 8 * MIB


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_what_a_guest_reads(files: Files, format: str) -> None:
    path = files.create("disk")
    files.qemu_img.create(path, format, MIB)
    if isinstance(files.qemu_img, QemuImgCommand):
        run(["qemu-io", "-f", format, "-c", "write -P 7 512 1024", path], timeout_s=30)
        assert files.qemu_img.read(Layer(path, format), 0, 1024) == bytes(512) + b"\7" * 512
    assert len(files.qemu_img.read(Layer(path, format), 512, 2048)) == 2048
    assert files.qemu_img.read(Layer(path, format), MIB, 512) == b""


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_a_layer_names_its_backing_file_and_does_not_open_it(files: Files, compat: str) -> None:
    path = files.create("layer")
    files.qemu_img.create(path, "qcow2", 8 * MIB, compat=compat, backing="base", backing_format="raw")
    info = files.qemu_img.info(path, "qcow2")
    assert info == files.qemu_img.inspect(path)
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
    assert files.qemu_img.info(path, "qcow2").bitmaps == (Bitmap("one", 65536), Bitmap("two", 131072))
    with pytest.raises(QemuImgFailed):
        files.qemu_img.add_bitmap(path, "one")
    files.qemu_img.remove_bitmap(path, "one")
    with pytest.raises(QemuImgFailed):
        files.qemu_img.remove_bitmap(path, "one")
    assert files.qemu_img.info(path, "qcow2").bitmaps == (Bitmap("two", 131072),)


def test_a_bitmaps_name_that_looks_like_an_option(files: Files) -> None:
    paths = [files.create(name) for name in ("image", "other")]
    for path in paths:
        files.qemu_img.create(path, "qcow2", MIB, compat="1.1")
        files.qemu_img.add_bitmap(path, "--help")
    files.qemu_img.merge_bitmap(Layer(paths[0], "qcow2"), paths[1], "--help", Unwatched())
    files.qemu_img.remove_bitmap(paths[1], "--help")
    assert [len(files.qemu_img.info(path, "qcow2").bitmaps) for path in paths] == [1, 0]


def test_failures(files: Files) -> None:
    missing = files.folder / "missing"
    with pytest.raises(QemuImgFailed):
        files.qemu_img.info(missing, "raw")
    with pytest.raises(QemuImgFailed):
        files.qemu_img.inspect(missing)
    for format in ("raw", "qcow2"):
        with pytest.raises(QemuImgFailed):
            files.qemu_img.get_virtual_size(missing, format)


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "junk"
    path.write_bytes(b"junk" * 100)
    with pytest.raises(QemuImgFailed):
        QemuImgCommand().get_virtual_size(path, "qcow2")


# What moves data: the real one, block for block.

REAL = QemuImgCommand()


class Heard:
    """A watch that notes what it hears, and may stop the work at the first word."""

    def __init__(self, *, stops: bool = False) -> None:
        self.percents: list[float] = []
        self.stopping = threading.Event()
        self._stops = stops

    def report_progress(self, percent: float) -> None:
        self.percents.append(percent)
        if self._stops:
            self.stopping.set()


@pytest.mark.parametrize("source_format", [RAW, COW])
@pytest.mark.parametrize("target_format", [RAW, COW])
def test_a_copy_of_a_chain(tmp_path: Path, source_format: str, target_format: str) -> None:
    base = make(tmp_path / "base", source_format, "abc.....")
    top = make(tmp_path / "top", COW, ".BC..F..", base)
    target, heard = make(tmp_path / "target", target_format, "........"), Heard()
    before = [path.read_bytes() for path in (base.path, top.path)]
    REAL.convert(Conversion(top, target, is_zero=True), heard)
    assert read(target) == "aBC..F.."
    assert heard.percents[-1] == 100
    assert [path.read_bytes() for path in (base.path, top.path)] == before
    assert REAL.inspect(target.path).backing_file is None
    REAL.convert(Conversion(base, target), Heard())
    assert read(target) == "abc....."


def test_a_copy_of_one_layer_leaves_the_rest_to_the_layers_below(tmp_path: Path) -> None:
    for folder in ("source", "target"):
        (tmp_path / folder).mkdir()
    base = make(tmp_path / "source" / "base", RAW, "abcd")
    top = make(tmp_path / "source" / "top", COW, ".B..", base)
    other = make(tmp_path / "target" / "other", RAW, "wxyz")
    target = make(tmp_path / "target" / "top", COW, "....", other)
    REAL.convert(Conversion(top, target, backing="other"), Heard())
    assert read(target) == "wByz"
    assert REAL.inspect(target.path).backing_file == "other"


def test_a_target_that_is_known_for_zero_keeps_its_blocks(tmp_path: Path) -> None:
    source, target = make(tmp_path / "source", RAW, "a......."), make(tmp_path / "target", RAW, "........")
    with target.path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 8 * BLOCK)
    REAL.convert(Conversion(source, target, is_zero=True), Heard())
    assert read(target) == "a......."
    assert target.path.stat().st_blocks * 512 >= 8 * BLOCK


def test_bitmaps_are_copied_and_merged(tmp_path: Path) -> None:
    source = make(tmp_path / "source", COW, "a")
    REAL.add_bitmap(source.path, "day", 131072)
    target = make(tmp_path / "target", COW, ".")
    REAL.convert(Conversion(source, target, copy_bitmaps=True), Heard())
    assert REAL.info(target.path, COW).bitmaps == (Bitmap("day", 131072),)
    REAL.merge_bitmap(source, target.path, "day", Heard())
    with pytest.raises(QemuImgFailed):
        REAL.merge_bitmap(source, target.path, "night", Heard())


@pytest.mark.parametrize("base_format", [RAW, COW])
@pytest.mark.parametrize("named", [True, False])
def test_a_layer_is_committed_into_the_one_below(tmp_path: Path, base_format: str, named: bool) -> None:
    base = make(tmp_path / "base", base_format, "abcd")
    top = make(tmp_path / "top", COW, ".B....", base)
    leaf = make(tmp_path / "leaf", COW, "..C...", top)
    REAL.commit(top, "base" if named else None, Heard())
    assert (read(base), read(top), read(leaf)) == ("aBcd..", "aBcd..", "aBCd..")
    REAL.rebase(leaf.path, "base", base_format)
    top.path.unlink()
    assert read(leaf) == "aBCd.."
    assert REAL.inspect(leaf.path).backing_format == base_format


def test_a_format_is_amended(tmp_path: Path) -> None:
    layer = make(tmp_path / "image", COW, "a.")
    for compat in ("0.10", "1.1"):
        REAL.amend(layer.path, compat, Heard())
        assert REAL.inspect(layer.path).compat == compat
        assert read(layer) == "a."


def test_layers_are_measured_alone_and_together(tmp_path: Path) -> None:
    base = make(tmp_path / "base", RAW, "ab..")
    top = make(tmp_path / "top", COW, "..c.", base)
    alone, together = (REAL.measure(layers, COW).required_bytes for layers in ([top], [top, base]))
    assert together - alone == 2 * BLOCK
    assert REAL.measure([top, base], RAW).full_bytes == 4 * BLOCK
    REAL.add_bitmap(top.path, "day")
    assert REAL.measure([top], COW).bitmaps_bytes is not None


def test_a_copy_that_nobody_wants_ends_at_once_and_leaves_its_source(tmp_path: Path) -> None:
    source, target = make(tmp_path / "source", RAW, "a" * 512), make(tmp_path / "target", RAW, "." * 512)
    before, heard = source.path.read_bytes(), Heard(stops=True)
    with pytest.raises(QemuImgFailed):
        REAL.convert(Conversion(source, target, is_zero=True), heard)
    assert heard.percents[-1] < 100
    assert source.path.read_bytes() == before


def change(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def test_headers_tell_what_they_name_and_nothing_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "image"
    run(
        ["qemu-img", "create", "-q", "-f", COW, "-o", "data_file=outside,data_file_raw=on", path, "1M"],
        timeout_s=60,
        cwd=tmp_path,
    )
    (tmp_path / "outside").unlink()
    assert REAL.inspect(path).has_data_file
    layer = make(tmp_path / "layer", COW, "a")
    REAL.rebase(layer.path, "nbd:evil.example:10809", "raw")
    assert REAL.inspect(layer.path).backing_file == "nbd:evil.example:10809"
    assert not REAL.inspect(layer.path).has_data_file


@pytest.mark.parametrize(
    ("at", "data"),
    [
        (4, b"\0\0\0\x09"),
        (8, b"\0\0\0\0\0\x7f\0\0"),
        (16, b"\0\0\x10\0"),
        (20, b"\0\0\0\x40"),
        (100, b"\xff\xff\xff\xff"),
        (116, b"\x7f" * 4),
    ],
)
def test_headers_that_contradict_themselves(tmp_path: Path, at: int, data: bytes) -> None:
    base = make(tmp_path / "base", RAW, "a")
    path = make(tmp_path / "image", COW, "a", base).path
    change(path, at, data)
    with pytest.raises(QemuImgFailed):
        REAL.inspect(path)


def test_extensions_that_reach_for_a_name_that_is_far_away(tmp_path: Path) -> None:
    path = make(tmp_path / "image", COW, "a", make(tmp_path / "base", RAW, "a")).path
    change(path, 8, b"\0\0\0\0\0\x7f\0\0")
    change(path, 112, (1).to_bytes(4, "big") + (65536 - 120).to_bytes(4, "big"))  # up to the end of the cluster
    with pytest.raises(QemuImgFailed):
        REAL.inspect(path)


def test_headers_that_are_cut_off(tmp_path: Path) -> None:
    whole = make(tmp_path / "image", COW, "a").path.read_bytes()
    path = tmp_path / "cut"
    for length in (4, 20, 71, 103):
        path.write_bytes(whole[:length])
        with pytest.raises(QemuImgFailed):
            REAL.inspect(path)
    path.write_bytes(b"")
    assert REAL.inspect(path).format == RAW


@pytest.mark.parametrize("format", ["vmdk", "vdi", "vpc", "vhdx", "qed", "parallels"])
def test_formats_of_others_are_known(tmp_path: Path, format: str) -> None:
    path = tmp_path / "image"
    run(["qemu-img", "create", "-q", "-f", format, path, "8M"], timeout_s=60)
    assert REAL.inspect(path).format == format
