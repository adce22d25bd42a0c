"""`storage.sd` and `storage.volume`: what scripts send is what the daemon understands (facts §1.18)."""

import importlib
from pathlib import Path

import pytest

from storage import sd, volume
from vdsm.api.storage_types import (
    ALLOCATION_WORDS,
    DOMAIN_CLASS_WORDS,
    DOMAIN_STATUS_WORDS,
    DOMAIN_TYPE_WORDS,
    VOLUME_FORMAT_WORDS,
)
from vdsm.core.ids import BLANK_UUID


def test_the_daemon_understands_every_number() -> None:
    assert {str(n): t for n, t in sd.DOMAIN_TYPES.items()} == {
        n: t for n, t in DOMAIN_TYPE_WORDS.items() if n.isdigit()
    }
    assert {str(n): t for n, t in sd.DOMAIN_CLASSES.items()} == {
        n: t for n, t in DOMAIN_CLASS_WORDS.items() if n.isdigit()
    }
    assert {str(n): volume.VOLUME_TYPES[n] for n in volume.VOL_FORMAT} == VOLUME_FORMAT_WORDS
    assert {str(n): volume.VOLUME_TYPES[n] for n in volume.VOL_TYPE} == ALLOCATION_WORDS
    assert {status.upper() for status in (*sd.DOMAIN_STATUSES, *sd.DEPRECATED_STATUSES)} == set(DOMAIN_STATUS_WORDS)
    assert sd.BLANK_UUID == volume.BLANK_UUID == BLANK_UUID


def test_shared_file_systems_have_their_old_name() -> None:
    assert sd.SHAREDFS_DOMAIN == 6
    assert DOMAIN_TYPE_WORDS["SHAREDFS"] == sd.type2name(sd.SHAREDFS_DOMAIN)


@pytest.mark.parametrize("given", [4, "4", "LOCALFS", "localfs"])
def test_types_have_a_text_however_they_are_written(given: int | str) -> None:
    assert sd.storageType(given) == "LOCALFS"


def test_names_and_numbers_translate_both_ways() -> None:
    assert all(sd.name2type(sd.type2name(number)) == number for number in sd.DOMAIN_TYPES)
    assert all(sd.name2class(sd.class2name(number)) == number for number in sd.DOMAIN_CLASSES)
    for unknown in (lambda: sd.type2name(9), lambda: sd.storageType("TAPE"), lambda: sd.name2class("data")):
        with pytest.raises(KeyError):
            unknown()


def test_statuses_and_versions_are_checked() -> None:
    sd.validateSDStatus("active")
    sd.validateDomainVersion(5)
    with pytest.raises(ValueError, match="Broken"):
        sd.validateSDStatus("Broken")
    with pytest.raises(ValueError, match="1"):
        sd.validateDomainVersion(1)


def test_lease_parameters_are_all_given_or_all_default() -> None:
    assert sd.packLeaseParams(5, None, 10, 3) == sd.DEFAULT_LEASE_PARAMS
    assert sd.packLeaseParams(1, 2, 3, 4) == {
        "LOCKRENEWALINTERVALSEC": 1,
        "LEASETIMESEC": 2,
        "IOOPTIMEOUTSEC": 3,
        "LEASERETRIES": 4,
    }


def test_the_repository_hangs_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDSM_ROOT", str(tmp_path))
    try:
        importlib.reload(sd)
        assert sd.mountBasePath == f"{tmp_path}/rhev/data-center/mnt"
    finally:
        monkeypatch.undo()
        importlib.reload(sd)
    assert sd.storage_repository == "/rhev/data-center"
