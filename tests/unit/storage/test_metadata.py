"""Domain metadata, byte for byte as the facts' examples have it, and what hostile text does to it."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vdsm.storage.errors import (
    InvalidMetadata,
    InvalidParameterException,
    MetaDataSealIsBroken,
    MetaDataValidationError,
)
from vdsm.storage.metadata import (
    CHECKSUM,
    DomainMetadata,
    checksum,
    format_domain_metadata,
    format_pool_domains,
    new_domain_keys,
    new_pool_keys,
    parse_domain_metadata,
    parse_pool_domains,
)
from vdsm.storage.model import DomainClass, DomainRole, DomainStatus, DomainType, LeaseSettings

GOLDEN = Path(__file__).parents[2] / "golden" / "storage"
DOMAIN = "6b0a4f5e-3a1c-4c57-9e2d-0f1b2c3d4e5f"
POOL = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
UNATTACHED = (GOLDEN / "domain-unattached-v5.txt").read_bytes()
MASTER = (GOLDEN / "domain-master-v5.txt").read_bytes()


def new(version: int = 5) -> DomainMetadata:
    path = "stor1.example.com:/exports/vms"
    return new_domain_keys(DOMAIN, "nfs-data-1", DomainType.NFS, DomainClass.DATA, version, path, 512, 1 << 20)


def test_a_new_domain_is_the_worked_example() -> None:
    assert format_domain_metadata(new()) == UNATTACHED


def test_a_new_pool_is_the_worked_example() -> None:
    metadata = parse_domain_metadata(UNATTACHED).replace(new_pool_keys(POOL, "Default", DOMAIN, 1, None))
    assert format_domain_metadata(metadata) == MASTER


def test_lease_numbers_that_are_given_leave_the_lock_policy_alone() -> None:
    changes = new_pool_keys(POOL, "Default", DOMAIN, 1, LeaseSettings(1, 2, 3, 4))
    assert "LOCKPOLICY" not in changes
    assert [
        changes[key] for key in ("LOCKRENEWALINTERVALSEC", "LEASETIMESEC", "IOOPTIMEOUTSEC", "LEASERETRIES")
    ] == list("1234")


@pytest.mark.parametrize("example", [UNATTACHED, MASTER])
def test_reading_and_writing_changes_no_byte(example: bytes) -> None:
    assert format_domain_metadata(parse_domain_metadata(example)) == example


def test_what_the_master_says() -> None:
    metadata = parse_domain_metadata(MASTER)
    metadata.check()
    assert (metadata.version, metadata.type, metadata.domain_class) == (5, DomainType.NFS, DomainClass.DATA)
    assert (metadata.role, metadata.pool_ids, metadata.pool_name) == (DomainRole.MASTER, (POOL,), "Default")
    assert metadata.pool_domains == {DOMAIN: DomainStatus.ACTIVE}
    assert (metadata.master_version, metadata.spm_id, metadata.spm_lease_version) == (1, -1, -1)
    assert (metadata.block_size_bytes, metadata.alignment_bytes) == (512, 1 << 20)


def test_older_versions_have_no_geometry() -> None:
    keys = new(4).keys
    assert not {"BLOCK_SIZE", "ALIGNMENT"} & set(keys)
    assert new(4).block_size_bytes == 512
    with pytest.raises(MetaDataValidationError):
        new(4).replace({"BLOCK_SIZE": "4096"}).check()


def test_checksums_of_the_facts() -> None:
    assert checksum({"DESCRIPTION": "é"}) == "3b7f98bdcb17518bc0b9010085de55068941764f"
    assert checksum(parse_domain_metadata(UNATTACHED).keys) == "714273b5277c8b4156408bfb405fca73fbc7364b"


def test_keys_sort_by_themselves_not_by_their_lines() -> None:
    lines = format_domain_metadata(DomainMetadata({"PV10": "b", "PV1": "a"})).splitlines()
    assert lines[:2] == [b"PV1=a", b"PV10=b"]


def test_unknown_keys_survive_and_are_covered() -> None:
    metadata = parse_domain_metadata(UNATTACHED).replace({"FUTURE": " kept = as it is "})
    data = format_domain_metadata(metadata)
    assert parse_domain_metadata(data).keys["FUTURE"] == " kept = as it is "
    with pytest.raises(MetaDataSealIsBroken):
        parse_domain_metadata(data.replace(b"FUTURE= kept", b"FUTURE=kept"))


def test_reading_is_lenient_where_the_facts_are() -> None:
    assert parse_domain_metadata(b"").keys == {}
    assert parse_domain_metadata(UNATTACHED + b"\0" * 100) == parse_domain_metadata(UNATTACHED)
    assert parse_domain_metadata(b"  A =b\nno pair\n\nC=d=e\n").keys == {"A": "b", "C": "d=e"}


SEAL = range(MASTER.index(f"\n{CHECKSUM}=".encode()), MASTER.index(f"\n{CHECKSUM}=".encode()) + len(CHECKSUM) + 2)
"""The bytes that make the last line a checksum: with one of them changed there is none, which the facts accept."""


@given(st.integers(0, len(MASTER) - 1), st.integers(1, 255))
@example(SEAL.start, 1)
@example(SEAL.stop - 1, 1)
@example(SEAL.stop, 1)
def test_any_changed_byte_is_found_while_there_is_a_checksum(position: int, difference: int) -> None:
    broken = bytearray(MASTER)
    broken[position] ^= difference
    try:
        after = parse_domain_metadata(bytes(broken))
    except MetaDataSealIsBroken:
        return
    # What passes has another kind of line end, which reads the same, or no checksum.
    assert after == parse_domain_metadata(MASTER) or position in SEAL


def test_metadata_without_a_checksum_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    lines = UNATTACHED.splitlines(keepends=True)
    assert parse_domain_metadata(b"".join(lines[:-1])) == parse_domain_metadata(UNATTACHED)
    assert DOMAIN in caplog.text


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        metadata = parse_domain_metadata(data)
        metadata.check()
    except (MetaDataSealIsBroken, InvalidMetadata, MetaDataValidationError):
        pass


@given(st.text(max_size=60))
def test_a_name_comes_back_or_is_refused(name: str) -> None:
    metadata = new().replace({"DESCRIPTION": name})
    try:
        data = format_domain_metadata(metadata)
    except InvalidParameterException:
        assert len(f"x{name}x".splitlines()) > 1 or "\0" in name or not name.isprintable()
        return
    assert parse_domain_metadata(data) == metadata


@pytest.mark.parametrize("text", ["a\nROLE=Master", "a\r", "a\x85b", "a\u2028b", "a\x0bb", "\0", "\ud800"])
def test_text_that_would_forge_lines_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameterException):
        format_domain_metadata(new().replace({"DESCRIPTION": text}))


@pytest.mark.parametrize("key", ["", " A", "A=B", CHECKSUM, "A\nB"])
def test_keys_that_would_not_read_back_are_refused(key: str) -> None:
    with pytest.raises(InvalidParameterException):
        format_domain_metadata(DomainMetadata({key: "x"}))


@pytest.mark.parametrize(
    "changes",
    [
        {"VERSION": None},
        {"VERSION": ""},
        {"VERSION": "1_0"},
        {"VERSION": "٣"},
        {"SDUUID": "../x"},
        {"TYPE": "nfs"},
        {"CLASS": "data"},
        {"ROLE": "Slave"},
    ],
)
def test_bad_values_are_invalid_metadata(changes: dict[str, str | None]) -> None:
    with pytest.raises(InvalidMetadata):
        new().replace(changes).check()


def test_role_is_capitalized_and_blank_pools_are_ignored() -> None:
    metadata = new().replace({"ROLE": "mASTER", "POOL_UUID": f"00000000-0000-0000-0000-000000000000,{POOL}"})
    assert (metadata.role, metadata.pool_ids) == (DomainRole.MASTER, (POOL,))


def test_the_map_of_a_pool() -> None:
    text = f"'{DOMAIN}':'active',{POOL}:INACTIVE"
    domains = {DOMAIN: DomainStatus.ACTIVE, POOL: DomainStatus.ATTACHED}
    assert parse_pool_domains(text) == domains
    assert parse_pool_domains(format_pool_domains(domains)) == domains
    for bad in ("x:Active", f"{DOMAIN}", f"{DOMAIN}:Gone"):
        with pytest.raises(InvalidMetadata):
            parse_pool_domains(bad)
