"""VMDK, VDI and OVA: what comes in, what goes out, and what is refused because it leads elsewhere or is damaged."""

import io
import os
import random
import struct
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring

import pytest

from tests.contract.blocks import BLOCK, COW, RAW, make, read, write
from tests.contract.test_repository_example import Example
from vdsm.adapters.qemuimg import QemuImgCommand
from vdsm.adapters.run import run
from vdsm.core.errors import NodeError
from vdsm.storage.errors import CopyImageError, ImageVerificationError, IncorrectFormat
from vdsm.storage.images import inspection
from vdsm.storage.model import Allocation, VolumeFormat, VolumeRequest
from vdsm.storage.ports import Layer, QemuImgFailed, Unwatched

VMDK, VDI = "vmdk", "vdi"
INSPECT = QemuImgCommand().inspect


@pytest.fixture
def example(tmp_path: Path) -> Example:
    return Example(tmp_path)


def convert(disk: Layer, path: Path, format: str, *options: str) -> Layer:
    words = [word for option in options for word in ("-o", option)]
    run(["qemu-img", "convert", "-f", disk.format, "-O", format, *words, disk.path, path], timeout_s=60)
    return Layer(path, format)


def pack(path: Path, *files: Path, format: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as archive:
        for file in files:
            archive.add(file, file.name)
    return path


@pytest.mark.parametrize(
    ("format", "options"),
    [(VMDK, ()), (VMDK, ("subformat=streamOptimized",)), (VDI, ()), (VDI, ("static=on",)), (COW, ())],
)
def test_a_foreign_image_comes_in_alone_and_in_an_archive(
    example: Example, tmp_path: Path, format: str, options: tuple[str, ...]
) -> None:
    disk = convert(make(tmp_path / "made", RAW, "ab.d" * 4), tmp_path / "disk", format, *options)
    before = disk.path.read_bytes()
    assert example.repository.inspection.find_images(disk.path) == {"disk": disk}
    assert read(example.get_layer(example.bring(disk.path))) == "ab.d" * 4
    note = tmp_path / "vm.ovf"
    note.write_text("<Envelope/>")
    for kind in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT):
        archive = pack(tmp_path / "vm.ova", note, disk.path, format=kind)
        [(name, found)] = example.repository.inspection.find_images(archive).items()
        assert (name, found.format, found.path) == ("disk", format, archive)
        assert read(example.get_layer(example.bring(archive))) == "ab.d" * 4
    assert disk.path.read_bytes() == before


@pytest.mark.parametrize("format", [RAW, COW, VMDK, VDI])
def test_what_goes_out_comes_in_again(example: Example, tmp_path: Path, format: str) -> None:
    volume = example.snapshot(example.bring(make(tmp_path / "disk", COW, "ab.d").path))
    write(example.get_layer(volume), ".X..")
    exported = example.export(volume, tmp_path / "out", format)
    assert exported.path.stat().st_mode & 0o777 == 0o600
    assert read(exported) == "aX.d"
    assert INSPECT(exported.path).format == format
    assert read(example.get_layer(example.bring(exported.path))) == "aX.d"


def test_an_archive_goes_out_and_comes_in_again(example: Example, tmp_path: Path) -> None:
    volume = example.bring(make(tmp_path / "disk", COW, "ab.d").path)
    before = {*os.listdir(tmp_path), 'my <vm> & "co".ova'}
    example.export(volume, tmp_path / 'my <vm> & "co".ova', "ova")
    assert set(os.listdir(tmp_path)) == before
    archive = tmp_path / 'my <vm> & "co".ova'
    assert archive.stat().st_mode & 0o777 == 0o600
    with tarfile.open(archive) as read_by_others:
        assert read_by_others.getnames() == ["machine.ovf", "disk1.vmdk"]
        described = read_by_others.extractfile("machine.ovf")
        assert described is not None
        document = fromstring(described.read())
        size_bytes = read_by_others.getmember("disk1.vmdk").size
    ovf = "{http://schemas.dmtf.org/ovf/envelope/1}"
    [machine], [file], [disk] = (document.findall(f".//{ovf}{name}") for name in ("VirtualSystem", "File", "Disk"))
    assert machine.get(f"{ovf}id") == 'my <vm> & "co"'
    assert (file.get(f"{ovf}href"), file.get(f"{ovf}size")) == ("disk1.vmdk", str(size_bytes))
    assert disk.get(f"{ovf}capacity") == str(4 * BLOCK)
    assert list(example.repository.inspection.find_images(archive)) == ["disk1.vmdk"]
    assert read(example.get_layer(example.bring(archive))) == "ab.d"


@pytest.mark.parametrize("moment", ["at once", "while packing"])
def test_an_archive_that_is_stopped_leaves_nothing(
    example: Example, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, stopping = example.bring(make(tmp_path / "disk", COW, "ab.d").path), threading.Event()
    if moment == "at once":
        stopping.set()
    real = inspection.write_appliance

    def pack_later(*words: Any) -> None:
        stopping.set()
        real(*words)

    monkeypatch.setattr(inspection, "write_appliance", pack_later)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(CopyImageError):
        example.repository.inspection.export_file(
            example.refer(volume), Layer(tmp_path / "out.ova", "ova"), watch=Unwatched(stopping=stopping)
        )
    assert sorted(os.listdir(tmp_path)) == before


def test_an_ovf_store_is_a_disk_of_bytes(example: Example, tmp_path: Path) -> None:
    """What managers keep there, an archive of VM definitions, is theirs: it comes back byte for byte."""
    note = tmp_path / "vm.ovf"
    note.write_text("<Envelope/>")
    store = pack(tmp_path / "store", note)
    description = (
        '{"Updated":true,"Size":20480,"Last Updated":"now","Storage Domains":[],"Disk Description":"OVF_STORE"}'
    )
    ids = (example.pool_id, example.domain_id, example.functions["make_id"](), example.functions["make_id"]())
    size_bytes = store.stat().st_size
    volume = VolumeRequest(
        *ids, size_bytes, VolumeFormat.RAW, Allocation.PREALLOCATED, disk_type="OVFS", description=description
    )
    example.repository.volumes.create(volume)
    example.repository.jobs.import_file(Layer(store, RAW), example.refer(volume))
    info = example.repository.volumes.get_info(example.domain_id, volume.image_id, volume.volume_id)
    assert (info.metadata.disk_type, info.metadata.description) == ("OVFS", description)
    example.export(volume, tmp_path / "out", RAW)
    assert (tmp_path / "out").read_bytes()[:size_bytes] == store.read_bytes()


def lead_elsewhere(tmp_path: Path, what: str) -> Path:
    """An image whose data, or a part of it, is in a file outside that nobody may open."""
    disk, outside = make(tmp_path / "made", RAW, "abcd"), tmp_path / "outside"
    path = tmp_path / "disk"
    if what in ("monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"):
        return convert(disk, path, VMDK, f"subformat={what}").path
    convert(disk, path, VMDK)
    data = bytearray(path.read_bytes())
    if what == "a parent":
        place = data.index(b"createType")
        data[place : place + 40] = b'parentFileNameHint="../outside"\n'.ljust(40)
    elif what == "a parent in the second sector":
        struct.pack_into("<Q", data, 28, 4096)  # the header tells of another place; qemu does not look there
        data[512:552] = b'ParentFileNameHint="../outside"\n'.ljust(40)
    elif what == "no size":
        struct.pack_into("<Q", data, 12, 0)
    else:
        data = bytearray(f'# Disk DescriptorFile\nRW 512 FLAT "{outside}" 0\n'.encode())
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "what",
    [
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
        "a parent",
        "a parent in the second sector",
        "no size",
        "a list",
    ],
)
def test_what_leads_elsewhere_is_refused_and_not_followed(example: Example, tmp_path: Path, what: str) -> None:
    path = lead_elsewhere(tmp_path, what)
    os.mkfifo(tmp_path / "outside")  # whoever opened it would wait for ever
    volume = example.create()
    for disk in (path, pack(tmp_path / "vm.ova", path)):
        [source] = example.repository.inspection.find_images(disk).values()
        assert source.format == VMDK
        with pytest.raises(ImageVerificationError):
            example.bring(disk)
        with pytest.raises(ImageVerificationError):
            example.repository.jobs.import_file(source, example.refer(volume))
    assert example.repository.domains.list_volumes(example.domain_id) == [volume.volume_id]


def test_a_qcow2_in_an_archive_is_refused_like_any_other(example: Example, tmp_path: Path) -> None:
    path, outside = tmp_path / "disk", tmp_path / "outside"
    for option in (f"backing_file={outside},backing_fmt=raw", f"data_file={outside},data_file_raw=on"):
        path.unlink(missing_ok=True)
        run(["qemu-img", "create", "-q", "-f", COW, "-u", "-o", option, path, "1M"], timeout_s=60)
        outside.unlink(missing_ok=True)
        with pytest.raises(ImageVerificationError):
            example.bring(pack(tmp_path / "vm.ova", path))


def test_a_raw_part_is_no_image(example: Example, tmp_path: Path) -> None:
    disk = make(tmp_path / "disk", RAW, "ab")
    archive = pack(tmp_path / "vm.ova", disk.path)
    assert example.repository.inspection.find_images(archive) == {}
    with pytest.raises(IncorrectFormat):
        example.repository.inspection.get_file_size(Layer(archive, RAW, (512, BLOCK)))
    with pytest.raises(ImageVerificationError):
        example.repository.inspection.get_file_size(Layer(archive, VMDK, (512, BLOCK)))


def damage_size(data: bytearray) -> None:
    data[124:136] = b"77777777777\0"


def damage_number(data: bytearray) -> None:
    data[124:136] = b"\x80" + b"\xff" * 11


def damage_text(data: bytearray) -> None:
    data[124:136] = b"no number\0\0\0"


def repeat(data: bytearray) -> None:
    end = 512 + -(-int(data[124:135], 8) // 512) * 512
    data[:] = data[:end] * 2 + bytes(1024)


def add_notes(data: bytearray) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"path": "/etc/passwd"}) as made:
        made.addfile(tarfile.TarInfo("x"))
    data[:] = buffer.getvalue()


def fill(data: bytearray) -> None:
    data[156:157] = b"5"  # folders
    data[124:136] = b"00000000000\0"
    data[:] = data[:512] * 5000


@pytest.mark.parametrize("damage", [damage_size, damage_number, damage_text, repeat, add_notes, fill])
def test_archives_that_contradict_themselves(
    example: Example, tmp_path: Path, damage: Callable[[bytearray], None]
) -> None:
    archive = pack(tmp_path / "vm.ova", make(tmp_path / "disk", COW, "a").path)
    data = bytearray(archive.read_bytes())
    damage(data)
    archive.write_bytes(data)
    with pytest.raises(ImageVerificationError):
        example.repository.inspection.find_images(archive)


def test_damaged_headers_have_errors_with_names(
    example: Example, tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    made = make(tmp_path / "made", RAW, "ab")
    archive = pack(tmp_path / "a.ova", made.path, convert(made, tmp_path / "b", COW).path)
    whole = [
        convert(made, tmp_path / "v1", VMDK).path.read_bytes(),
        convert(made, tmp_path / "v2", VMDK, "subformat=streamOptimized").path.read_bytes(),
        convert(made, tmp_path / "v3", VDI).path.read_bytes(),
        archive.read_bytes(),
    ]
    path = tmp_path / "fuzzed"
    for seed in range(rounds(200, 20_000)):
        chance = random.Random(seed)
        data = bytearray(chance.choice(whole))
        for _ in range(chance.randint(1, 20)):
            data[chance.randrange(chance.choice((64, 512, min(len(data), 4096))))] = chance.choice((0, 255, seed & 255))
        path.write_bytes(data[: chance.choice((len(data), chance.randrange(len(data))))])
        try:
            for source in example.repository.inspection.find_images(path).values():
                if source.format in (RAW, COW, VMDK, VDI):
                    assert example.repository.inspection.get_file_size(source) >= 0
        except NodeError:
            continue


def test_an_image_that_is_cut_off_is_named(tmp_path: Path) -> None:
    made = make(tmp_path / "made", RAW, "ab")
    stream = convert(made, tmp_path / "s", VMDK, "subformat=streamOptimized").path
    for data, size in (
        (b"KDMV", 4),
        (stream.read_bytes(), 63),
        (convert(made, tmp_path / "v", VDI).path.read_bytes(), 200),
    ):
        (tmp_path / "cut").write_bytes(data[:size])
        with pytest.raises(QemuImgFailed):
            INSPECT(tmp_path / "cut")


def test_an_image_that_was_written_as_a_stream_tells_its_size_at_its_end(example: Example, tmp_path: Path) -> None:
    stream = convert(make(tmp_path / "made", RAW, "ab.d"), tmp_path / "s", VMDK, "subformat=streamOptimized").path
    data = bytearray(stream.read_bytes())
    data += bytes(-len(data) % 512)
    footer = bytes(data[:512])
    struct.pack_into("<Q", data, 56, (1 << 64) - 1)  # where the tables are is told at the end
    struct.pack_into("<Q", data, 12, 1)  # and so is the size
    stream.write_bytes(bytes(data) + struct.pack("<QII", 1, 0, 3).ljust(512, b"\0") + footer + bytes(512))
    assert INSPECT(stream).virtual_size_bytes == 4 * BLOCK
    assert read(example.get_layer(example.bring(stream))) == "ab.d"
    stream.write_bytes(stream.read_bytes()[:-512])
    with pytest.raises(QemuImgFailed):
        INSPECT(stream)
