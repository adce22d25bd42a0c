"""What is believed of an image file's header."""

import pytest
from msgspec.structs import replace

from vdsm.core.ids import BLANK_UUID
from vdsm.storage.images.trust import find_foreign_name, find_mismatch
from vdsm.storage.model import Allocation, Legality, VolumeFormat, VolumeMetadata, VolumeRole
from vdsm.storage.ports import ImageFile
from vdsm.testing.storage import make_id

IMAGE, PARENT = make_id(), make_id()
MIB = 1 << 20
RECORD = VolumeMetadata(
    make_id(),
    IMAGE,
    PARENT,
    MIB,
    VolumeFormat.COW,
    Allocation.SPARSE,
    VolumeRole.LEAF,
    "DATA",
    "",
    Legality.LEGAL,
    0,
)
RAW_PARENT = replace(RECORD, parent_id=BLANK_UUID, format=VolumeFormat.RAW)
COW_PARENT = replace(RAW_PARENT, format=VolumeFormat.COW)
FILE = ImageFile("qcow2", MIB, PARENT, "raw", "1.1", 65536)
COMPATS = ("0.10", "1.1")


@pytest.mark.parametrize("name", [PARENT, f"../{IMAGE}/{PARENT}"])
@pytest.mark.parametrize(("format", "parent"), [("raw", RAW_PARENT), ("qcow2", COW_PARENT), (None, COW_PARENT)])
def test_a_layer_that_names_its_own_parent(name: str, format: str | None, parent: VolumeMetadata) -> None:
    image = replace(FILE, backing_file=name, backing_format=format)
    assert find_foreign_name(image, RECORD, parent) is None
    assert find_mismatch(image, RECORD, parent, COMPATS) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"backing_file": None},
        {"backing_file": ""},
        {"backing_file": make_id()},
        {"backing_file": f"../{make_id()}/{PARENT}"},
        {"backing_file": f"./{PARENT}"},
        {"backing_file": "/etc/shadow"},
        {"backing_file": "nbd://evil.example"},
        {"backing_file": 'json:{"driver": "nbd"}'},
        {"backing_format": "vmdk"},
        {"backing_format": "qcow2"},
        {"backing_format": None},
        {"has_data_file": True},
        {"format": "raw"},
        {"format": "vmdk"},
    ],
)
def test_a_layer_that_leads_elsewhere(changes: dict[str, object]) -> None:
    image = replace(FILE, **changes)  # type: ignore[arg-type]
    assert find_foreign_name(image, RECORD, RAW_PARENT)
    assert find_mismatch(image, RECORD, RAW_PARENT, COMPATS)


def test_a_base_names_nothing() -> None:
    base = replace(RECORD, parent_id=BLANK_UUID)
    alone = replace(FILE, backing_file=None, backing_format=None)
    assert find_foreign_name(alone, base, None) is None
    assert find_foreign_name(FILE, base, None)
    # A file of that name would be looked for.
    assert find_foreign_name(replace(FILE, backing_file=BLANK_UUID), base, None)


def test_size_and_version_are_the_records_and_the_domains() -> None:
    assert find_mismatch(replace(FILE, virtual_size_bytes=MIB + 1), RECORD, RAW_PARENT, COMPATS)
    assert find_mismatch(replace(FILE, virtual_size_bytes=MIB - 1), RECORD, RAW_PARENT, COMPATS) is None
    assert find_mismatch(FILE, RECORD, RAW_PARENT, ("0.10",))
    assert find_mismatch(replace(FILE, compat="0.10"), RECORD, RAW_PARENT, ("0.10",)) is None


@pytest.mark.parametrize("format", ["qcow2", "vmdk", "vdi"])
def test_a_raw_volume_holds_no_image_of_another_format(format: str) -> None:
    assert find_mismatch(ImageFile("raw", MIB), RAW_PARENT, None, COMPATS) is None
    assert find_mismatch(ImageFile(format, MIB), RAW_PARENT, None, COMPATS)
