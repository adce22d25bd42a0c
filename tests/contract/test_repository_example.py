"""examples/repository.py as users run it, and the files that it brings in and out, block for block."""

import errno
import itertools
import json
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.blocks import BLOCK, COW, RAW, make, read, write
from vdsm.adapters import run as door
from vdsm.core.errors import NodeError
from vdsm.storage import durable, open_repository
from vdsm.storage.errors import (
    CopyImageError,
    ImageVerificationError,
    IncorrectFormat,
    NoSpaceLeftOnDomain,
    PrepareIllegalVolumeError,
    SharedVolumeNonWritable,
    UnsupportedOperation,
)
from vdsm.storage.errors_jobs import GenerationMismatch
from vdsm.storage.model import (
    Allocation,
    Legality,
    VolumeChange,
    VolumeFormat,
    VolumeRef,
    VolumeRequest,
    VolumeRole,
)
from vdsm.storage.ports import Layer, Unwatched
from vdsm.storage.repository import Repository

PROJECT = Path(__file__).parents[2]
SCRIPT = PROJECT / "examples/repository.py"
FORMATS = {RAW: VolumeFormat.RAW, COW: VolumeFormat.COW}
TELL_MODULES = """
import json, runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
json.dump(sorted(sys.modules), sys.stderr)
"""


class Example:
    """The functions of the example, and a domain that they made."""

    def __init__(self, folder: Path) -> None:
        self.functions: dict[str, Callable[..., Any]] = runpy.run_path(str(SCRIPT))
        self.repository: Repository = open_repository(folder / "root")
        (folder / "domain").mkdir()
        self.pool_id, self.domain_id = self.functions["make_domain"](self.repository, folder / "domain")

    def bring(self, disk: Path) -> VolumeRequest:
        volume: VolumeRequest = self.functions["import_disk"](self.repository, self.pool_id, self.domain_id, disk)
        return volume

    def create(self, format: str = COW) -> VolumeRequest:
        make_id, size_bytes = self.functions["make_id"], 4 * BLOCK
        ids = (self.pool_id, self.domain_id, make_id(), make_id())
        volume = VolumeRequest(*ids, size_bytes, FORMATS[format], Allocation.SPARSE)
        self.repository.volumes.create(volume)
        return volume

    def snapshot(self, volume: VolumeRequest) -> VolumeRequest:
        layer: VolumeRequest = self.functions["take_snapshot"](self.repository, volume)
        return layer

    def export(self, volume: VolumeRequest, path: Path, format: str = COW) -> Layer:
        self.functions["export_disk"](self.repository, volume, path, format)
        return Layer(path, format)

    def refer(self, volume: VolumeRequest, generation: int | None = None) -> VolumeRef:
        return VolumeRef(self.domain_id, volume.image_id, volume.volume_id, generation)

    def get_layer(self, volume: VolumeRequest) -> Layer:
        backend = self.repository.domains.get_backend(self.domain_id)
        return Layer(backend.data.get_path(volume.image_id, volume.volume_id), volume.format.qemu)

    def get_state(self, volume: VolumeRequest) -> tuple[int, Legality]:
        record = self.repository.volumes.get_metadata(self.domain_id, volume.image_id, volume.volume_id)
        return record.generation, record.legality


@pytest.fixture
def example(tmp_path: Path) -> Example:
    return Example(tmp_path)


def test_the_script_without_daemon_libvirt_and_wire(tmp_path: Path) -> None:
    disk = make(tmp_path / "disk.qcow2", COW, "ab..c")
    (tmp_path / "out").mkdir()
    words = ["work", "disk.qcow2", "out/exported.qcow2"]  # names in the current folder
    done = subprocess.run(
        [sys.executable, "-c", TELL_MODULES, SCRIPT, *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    modules = json.loads(done.stderr)
    assert {name.split(".")[1] for name in modules if name.startswith("vdsm.")} == {
        "adapters",
        "core",
        "repository",
        "storage",
    }
    assert not [name for name in modules if "libvirt" in name or name.startswith("vdsm.storage.services")]
    assert read(Layer(tmp_path / "out/exported.qcow2", COW)) == read(disk) == "ab..c"
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["LEAF", "INTERNAL"]
    assert not list(tmp_path.glob("work/root/run/vdsm/storage/*/*"))


@pytest.mark.parametrize("format", [RAW, COW])
def test_each_snapshot_is_exported_as_it_was_taken(example: Example, tmp_path: Path, format: str) -> None:
    base = example.bring(make(tmp_path / "disk", COW, "abcd.").path)
    middle = example.snapshot(base)
    write(example.get_layer(middle), ".BC..")
    top = example.snapshot(middle)
    write(example.get_layer(top), "..X.Y")
    chain = (base, middle, top)
    before = [example.get_layer(volume).path.read_bytes() for volume in chain]
    exported = [example.export(volume, tmp_path / f"out{number}", format) for number, volume in enumerate(chain)]
    assert [read(layer) for layer in exported] == ["abcd.", "aBCd.", "aBXdY"]
    assert [example.get_layer(volume).path.read_bytes() for volume in chain] == before
    for layer in exported:
        told = json.loads(door.run(["qemu-img", "info", "--output", "json", layer.path], timeout_s=60).stdout)
        assert (told["format"], told["virtual-size"], "backing-filename" in told) == (format, 5 * BLOCK, False)
        assert layer.path.stat().st_mode & 0o777 == 0o600
    again = example.bring(example.export(top, tmp_path / "again").path)
    assert read(example.get_layer(again)) == "aBXdY"
    assert example.get_state(again) == (1, Legality.LEGAL)


@pytest.mark.parametrize(("given", "kept"), list(itertools.product([RAW, COW], repeat=2)))
def test_a_file_becomes_a_volume_of_either_format(example: Example, tmp_path: Path, given: str, kept: str) -> None:
    disk = make(tmp_path / "disk", given, "ab.d")
    before = disk.path.read_bytes()
    assert example.repository.inspection.get_file_size(Layer(disk.path, FORMATS[given].qemu)) == 4 * BLOCK
    volume = example.create(kept)
    write(example.get_layer(volume), "xxxx")
    example.repository.jobs.import_file(Layer(disk.path, FORMATS[given].qemu), example.refer(volume, 0))
    assert read(example.get_layer(volume)) == "ab.d"
    assert example.get_state(volume) == (1, Legality.LEGAL)
    assert disk.path.read_bytes() == before


def test_a_file_given_as_raw_is_raw_whatever_it_begins_with(example: Example, tmp_path: Path) -> None:
    disk = make(tmp_path / "disk", COW, "secretxx")
    volume = example.create(RAW)
    example.repository.jobs.import_file(Layer(disk.path, VolumeFormat.RAW.qemu), example.refer(volume))
    assert example.get_layer(volume).path.read_bytes().startswith(disk.path.read_bytes())


@pytest.mark.parametrize("what", ["backing", "data", "raw", "folder", "pipe", "nothing", "vmdk"])
def test_a_file_that_is_no_image_by_itself_is_refused_and_not_followed(
    example: Example, tmp_path: Path, what: str
) -> None:
    path, outside = tmp_path / "disk", tmp_path / "outside"
    options = {
        "backing": ["-f", COW, "-u", "-o", f"backing_file={outside},backing_fmt=raw"],
        "data": ["-f", COW, "-o", f"data_file={outside},data_file_raw=on"],
        "raw": ["-f", RAW],
        "vmdk": ["-f", "vmdk"],
    }
    if what in options:
        door.run(["qemu-img", "create", "-q", *options[what], path, "1M"], timeout_s=60)
    elif what != "nothing":
        {"folder": os.mkdir, "pipe": os.mkfifo}[what](path)
    outside.unlink(missing_ok=True)
    os.mkfifo(outside)  # whoever opened it would wait for ever
    if what not in ("raw", "vmdk"):  # images of another format than the one that is named below
        with pytest.raises(ImageVerificationError):
            example.bring(path)
        assert example.repository.domains.list_volumes(example.domain_id) == []
    volume = example.create()
    with pytest.raises(ImageVerificationError):
        example.repository.jobs.import_file(Layer(path, VolumeFormat.COW.qemu), example.refer(volume))
    assert example.get_state(volume) == (0, Legality.LEGAL)


def test_a_layer_takes_no_file(example: Example, tmp_path: Path) -> None:
    disk = make(tmp_path / "disk", COW, "abcd")
    layer = example.snapshot(example.create())
    with pytest.raises(UnsupportedOperation):
        example.repository.jobs.import_file(Layer(disk.path, VolumeFormat.COW.qemu), example.refer(layer))
    assert example.get_state(layer) == (0, Legality.LEGAL)


def test_a_template_takes_no_file(example: Example, tmp_path: Path) -> None:
    disk, volume = make(tmp_path / "disk", COW, "abcd"), example.create()
    example.repository.jobs.update_volume(example.refer(volume, 0), VolumeChange(role=VolumeRole.SHARED))
    with pytest.raises(SharedVolumeNonWritable):
        example.repository.jobs.import_file(Layer(disk.path, VolumeFormat.COW.qemu), example.refer(volume))


def test_a_format_that_is_none_is_refused(example: Example, tmp_path: Path) -> None:
    disk, volume = make(tmp_path / "disk", COW, "abcd"), example.create()
    with pytest.raises(IncorrectFormat):
        example.repository.jobs.import_file(Layer(disk.path, "vhdx"), example.refer(volume))
    with pytest.raises(IncorrectFormat):
        example.repository.inspection.export_file(example.refer(volume), Layer(tmp_path / "out", "vhdx"))
    assert not list(tmp_path.glob("out*"))


def test_an_import_that_is_stopped_is_illegal_until_it_is_repeated(example: Example, tmp_path: Path) -> None:
    disk, volume, stopping = make(tmp_path / "disk", RAW, "abcd"), example.create(), threading.Event()
    stopping.set()
    with pytest.raises(CopyImageError):
        example.repository.jobs.import_file(
            Layer(disk.path, VolumeFormat.RAW.qemu), example.refer(volume), watch=Unwatched(stopping=stopping)
        )
    assert example.get_state(volume) == (0, Legality.ILLEGAL)
    with pytest.raises(PrepareIllegalVolumeError):
        example.export(volume, tmp_path / "out")
    example.repository.jobs.import_file(Layer(disk.path, VolumeFormat.RAW.qemu), example.refer(volume, 0))
    assert read(example.export(volume, tmp_path / "out")) == "abcd"


def stop(example: Example, volume: VolumeRequest, path: Path) -> None:
    stopping = threading.Event()
    stopping.set()
    example.repository.inspection.export_file(
        example.refer(volume), Layer(path, RAW), watch=Unwatched(stopping=stopping)
    )


def export_other_generation(example: Example, volume: VolumeRequest, path: Path) -> None:
    example.repository.inspection.export_file(example.refer(volume, 7), Layer(path, RAW))


def export_nowhere(example: Example, volume: VolumeRequest, path: Path) -> None:
    example.export(volume, path.parent / "missing" / "out")


@pytest.mark.parametrize(
    ("act", "error"),
    [(stop, CopyImageError), (export_other_generation, GenerationMismatch), (export_nowhere, CopyImageError)],
)
def test_an_export_that_fails_leaves_nothing(
    example: Example,
    tmp_path: Path,
    act: Callable[[Example, VolumeRequest, Path], None],
    error: type[NodeError],
) -> None:
    volume = example.bring(make(tmp_path / "disk", COW, "abcd").path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(error):
        act(example, volume, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == before


def test_an_export_to_a_full_disk_leaves_nothing(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = example.bring(make(tmp_path / "disk", COW, "abcd").path)
    sync = durable.sync

    def fail(path: Path) -> None:
        if path.name == "out.part":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        sync(path)

    monkeypatch.setattr(durable, "sync", fail)
    with pytest.raises(NoSpaceLeftOnDomain):
        example.export(volume, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("name", ["out", "out.part"])
def test_an_export_replaces_nothing(example: Example, tmp_path: Path, name: str) -> None:
    volume = example.bring(make(tmp_path / "disk", COW, "abcd").path)
    (tmp_path / name).write_text("mine")
    with pytest.raises(CopyImageError, match=name):
        example.export(volume, tmp_path / "out")
    assert (tmp_path / name).read_text() == "mine"
    assert {path.name for path in tmp_path.glob("out*")} == {name}
