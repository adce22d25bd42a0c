"""Volume records, byte for byte as the facts' examples have them, and what hostile text does to them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from vdsm.storage.errors import (
    InvalidMetadata,
    InvalidParameterException,
    MetadataOverflowError,
    MetaDataValidationError,
)
from vdsm.storage.images.volume_metadata import (
    RECORD_BYTES,
    check_capacity,
    format_volume_metadata,
    parse_volume_metadata,
)
from vdsm.storage.model import Allocation, Legality, VolumeFormat, VolumeMetadata, VolumeRole

GOLDEN = Path(__file__).parents[3] / "golden" / "storage"
EXAMPLES = {5: (GOLDEN / "volume-v5.txt").read_bytes(), 4: (GOLDEN / "volume-v4.txt").read_bytes()}
RECORD = parse_volume_metadata(EXAMPLES[5])


@pytest.mark.parametrize("version", [3, 4, 5])
def test_reading_and_writing_changes_no_byte(version: int) -> None:
    example = EXAMPLES[max(version, 4)]
    assert format_volume_metadata(parse_volume_metadata(example), version) == example


def test_what_the_examples_say() -> None:
    assert RECORD == VolumeMetadata(
        domain_id="6b0a4f5e-3a1c-4c57-9e2d-0f1b2c3d4e5f",
        image_id="91b1a3d2-5c1e-4f0a-8a3b-2c4d5e6f7081",
        parent_id="00000000-0000-0000-0000-000000000000",
        capacity_bytes=10737418240,
        format=VolumeFormat.RAW,
        allocation=Allocation.SPARSE,
        role=VolumeRole.LEAF,
        disk_type="DATA",
        description='{"DiskAlias":"vm1_Disk1","DiskDescription":""}',
        legality=Legality.LEGAL,
        created_s=1700000000,
        sequence=1,
    )
    assert parse_volume_metadata(EXAMPLES[4]).capacity_bytes == 20971520 * 512


records = st.builds(
    VolumeMetadata,
    domain_id=st.uuids().map(str),
    image_id=st.uuids().map(str),
    parent_id=st.uuids().map(str),
    capacity_bytes=st.integers(0, 1 << 50).map(lambda sectors: sectors * 512),
    format=st.sampled_from([VolumeFormat.COW, VolumeFormat.RAW]),
    allocation=st.sampled_from([Allocation.PREALLOCATED, Allocation.SPARSE]),
    role=st.sampled_from(VolumeRole),
    disk_type=st.sampled_from(["DATA", "ISOF", "2"]),
    description=st.text(max_size=250),
    legality=st.sampled_from(Legality),
    created_s=st.integers(0, 1 << 40),
    generation=st.integers(0, 999),
    sequence=st.integers(0, 4294967295),
)


@given(records, st.sampled_from([3, 4, 5]))
def test_a_record_comes_back_or_is_refused(record: VolumeMetadata, version: int) -> None:
    try:
        data = format_volume_metadata(record, version)
    except (InvalidParameterException, MetadataOverflowError):
        return
    assert len(data) <= RECORD_BYTES
    kept = replace(record, description=record.description[:210].strip())
    assert parse_volume_metadata(data) == (kept if version >= 5 else replace(kept, sequence=0))


@given(st.binary(max_size=600))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        parse_volume_metadata(data)
    except InvalidMetadata:
        pass


@given(st.integers(0, len(EXAMPLES[5]) - 1), st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(position: int, value: int) -> None:
    broken = bytearray(EXAMPLES[5])
    broken[position] = value
    try:
        parse_volume_metadata(bytes(broken))
    except InvalidMetadata:
        pass


@pytest.mark.parametrize("text", ["a\nLEGALITY=ILLEGAL", "a\nEOF", "a\rb", "a\0", "\udcff"])
def test_descriptions_that_would_forge_lines_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameterException):
        format_volume_metadata(replace(RECORD, description=text), 5)


def test_long_descriptions_are_cut_and_long_records_refused() -> None:
    data = format_volume_metadata(replace(RECORD, description="d" * 500), 5)
    assert parse_volume_metadata(data).description == "d" * 210
    with pytest.raises(MetadataOverflowError):
        format_volume_metadata(replace(RECORD, description="\N{SNOWMAN}" * 210), 5)


@pytest.mark.parametrize(
    "key", "CTIME DESCRIPTION DISKTYPE DOMAIN FORMAT IMAGE LEGALITY PUUID TYPE VOLTYPE CAP".split()
)
def test_every_required_key_is_missed(key: str) -> None:
    lines = [line for line in EXAMPLES[5].splitlines(keepends=True) if not line.startswith(f"{key}=".encode())]
    with pytest.raises(InvalidMetadata) as raised:
        parse_volume_metadata(b"".join(lines))
    assert raised.value.key == key


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"CTIME=1700000000", b"CTIME=yesterday"),
        (b"CAP=10737418240", b"CAP=1e9"),
        (b"FORMAT=RAW", b"FORMAT=VMDK"),
        (b"PUUID=00000000-0000-0000-0000-000000000000", b"PUUID=../../etc/passwd"),
        (b"DISKTYPE=DATA", b"DISKTYPE=\xff"),
        (b"CTIME", b"NONE=\nCTIME"),
    ],
)
def test_bad_values_are_invalid_metadata(old: bytes, new: bytes) -> None:
    with pytest.raises(InvalidMetadata):
        parse_volume_metadata(EXAMPLES[5].replace(old, new))


def test_reading_is_lenient_where_the_facts_are() -> None:
    lenient = EXAMPLES[5].replace(b"GEN=0\n", b"").replace(b"SEQ=1\n", b"").replace(b"FORMAT=RAW", b" FORMAT = raw ")
    lenient = lenient.replace(b"EOF\n", b"POOL_UUID=\njunk\nEOF and more\nCAP=1\n\xff") + b"\0" * 200
    assert parse_volume_metadata(lenient) == replace(RECORD, sequence=0)


def test_a_capacity_below_one_is_refused_when_asked_for() -> None:
    assert check_capacity(RECORD) == 10737418240
    with pytest.raises(MetaDataValidationError):
        check_capacity(parse_volume_metadata(EXAMPLES[5].replace(b"CAP=10737418240", b"CAP=0")))
