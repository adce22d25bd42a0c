"""A volume's record of at most 512 bytes, as every kind of storage keeps it (facts: storage §4); pure."""

from typing import TypeVar

from vdsm.core.ids import is_uuid
from vdsm.storage import errors
from vdsm.storage.metadata import SURROGATE, check_number, parse_number
from vdsm.storage.model import Allocation, Legality, VolumeFormat, VolumeMetadata, VolumeRole

RECORD_BYTES = 512
DESCRIPTION_CHARACTERS = 210
MAXIMUM_GENERATION = 999
MAXIMUM_SEQUENCE = 4294967295
_SECTOR_BYTES = 512

Word = TypeVar("Word", VolumeFormat, Allocation, Legality, VolumeRole)


def parse_volume_metadata(data: bytes) -> VolumeMetadata:
    """Read a record; InvalidMetadata (751) for a missing key, a bad value, bytes other than UTF-8, a cleared record."""
    keys = _parse_lines(data)
    if "NONE" in keys:
        raise errors.InvalidMetadata("NONE", "the record was cleared")
    return VolumeMetadata(
        domain_id=_get(keys, "DOMAIN"),
        image_id=_get(keys, "IMAGE"),
        parent_id=_get_parent(keys),
        capacity_bytes=_parse_capacity(keys),
        format=_parse_word(keys, "FORMAT", VolumeFormat),
        allocation=_parse_word(keys, "TYPE", Allocation),
        role=_parse_word(keys, "VOLTYPE", VolumeRole),
        disk_type=_get(keys, "DISKTYPE"),
        description=_get(keys, "DESCRIPTION"),
        legality=_parse_word(keys, "LEGALITY", Legality),
        created_s=parse_number("CTIME", _get(keys, "CTIME")),
        generation=parse_number("GEN", keys.get("GEN", "0")),
        sequence=parse_number("SEQ", keys.get("SEQ", "0")),
    )


def format_volume_metadata(metadata: VolumeMetadata, version: int, *, transitional: bool = False) -> bytes:
    """The record for a domain of that version; the description is cut at 210 characters.

    With `transitional` an old version's record has the new one's capacity, too (facts: storage §1.4).

    Raises MetadataOverflowError (756) beyond 512 bytes, InvalidParameterException for a description of several lines.
    """
    check_description(metadata.description)
    keys = {
        "CTIME": str(metadata.created_s),
        "DESCRIPTION": metadata.description[:DESCRIPTION_CHARACTERS],
        "DISKTYPE": metadata.disk_type,
        "DOMAIN": metadata.domain_id,
        "FORMAT": metadata.format.value,
        "GEN": str(metadata.generation),
        "IMAGE": metadata.image_id,
        "LEGALITY": metadata.legality.value,
        "PUUID": metadata.parent_id,
        "TYPE": metadata.allocation.value,
        "VOLTYPE": metadata.role.value,
    }
    if version >= 5:
        keys |= {"CAP": str(metadata.capacity_bytes), "SEQ": str(metadata.sequence)}
    else:
        keys |= {"SIZE": str(metadata.capacity_bytes // _SECTOR_BYTES), "MTIME": "0"}
    if transitional:
        keys["CAP"] = str(metadata.capacity_bytes)
    record = ("".join(f"{key}={keys[key]}\n" for key in sorted(keys)) + "EOF\n").encode("utf-8")
    if len(record) > RECORD_BYTES:
        raise errors.MetadataOverflowError(len(record))
    return record


def check_description(description: str) -> None:
    """Raises InvalidParameterException for text that would forge other lines of the record or cannot be encoded."""
    if any(character in description for character in "\n\r\0"):
        raise errors.InvalidParameterException("description", f"{description[:80]!r} has a line break or NUL")
    if SURROGATE.search(description):
        raise errors.InvalidParameterException("description", "not encodable as UTF-8")


def check_capacity(metadata: VolumeMetadata) -> int:
    """The capacity in bytes, asked for: MetaDataValidationError (753) when below 1."""
    if metadata.capacity_bytes < 1:
        raise errors.MetaDataValidationError(f"capacity {metadata.capacity_bytes}")
    return metadata.capacity_bytes


def _parse_lines(data: bytes) -> dict[str, str]:
    keys: dict[str, str] = {}
    for line in data.split(b"\n"):
        if line.startswith(b"EOF"):
            break
        try:
            key, separator, value = line.decode("utf-8").partition("=")
        except UnicodeDecodeError as error:
            raise errors.InvalidMetadata("?", f"not UTF-8: {line[:40]!r}") from error
        if separator:
            keys[key.strip()] = value.strip()
    return keys


def _parse_capacity(keys: dict[str, str]) -> int:
    if "CAP" in keys:
        return parse_number("CAP", keys["CAP"])
    if "SIZE" in keys:
        return check_number("SIZE", parse_number("SIZE", keys["SIZE"]) * _SECTOR_BYTES)
    raise errors.InvalidMetadata("CAP", "missing")


def _parse_word(keys: dict[str, str], key: str, words: type[Word]) -> Word:
    value = _get(keys, key)
    try:
        return words.parse(value)
    except ValueError:
        raise errors.InvalidMetadata(key, f"{value[:40]!r} is unknown") from None


def _get_parent(keys: dict[str, str]) -> str:
    # It names a file to look at next, so it must not be a path.
    value = _get(keys, "PUUID")
    if not is_uuid(value):
        raise errors.InvalidMetadata("PUUID", f"{value[:40]!r} is no UUID")
    return value


def _get(keys: dict[str, str], key: str) -> str:
    try:
        return keys[key]
    except KeyError:
        raise errors.InvalidMetadata(key, "missing") from None
