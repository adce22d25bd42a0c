"""Domain and pool metadata: the checksummed `KEY=VALUE` text (facts: storage §3.4).

Reading and writing files is left to the backends.
"""

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from msgspec import Struct

from vdsm.core.ids import BLANK_UUID, is_uuid
from vdsm.storage import errors, model

log = logging.getLogger(__name__)

SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character, which UTF-8 cannot carry."""

CHECKSUM = "_SHA_CKSUM"
POOL_KEYS = ("POOL_DESCRIPTION", "POOL_DOMAINS", "MASTER_VERSION", "POOL_SPM_ID", "POOL_SPM_LVER")
NEXT_MASTER = "NEXT_MASTER"
"""Ours, on a master while another domain becomes the master: as soon as that one is, this one counts no more."""
UPGRADING = "UPGRADING"
"""Ours, on a domain of version 5 some of whose records still have the lines of version 4, too."""


class DomainMetadata(Struct, frozen=True):
    """A domain's keys, unknown ones included. Typed reading raises InvalidMetadata for a missing key or a bad value."""

    keys: Mapping[str, str]

    def replace(self, changes: Mapping[str, str | None]) -> "DomainMetadata":
        """These keys changed, those with None removed, all others kept."""
        merged: dict[str, str | None] = {**self.keys, **changes}
        return DomainMetadata({key: value for key, value in merged.items() if value is not None})

    @property
    def domain_id(self) -> str:
        value = self._get("SDUUID")
        if not is_uuid(value):
            raise errors.InvalidMetadata("SDUUID", f"{value!r} is no UUID")
        return value

    @property
    def version(self) -> int:
        return self._get_number("VERSION")

    @property
    def type(self) -> model.DomainType:
        return model.DomainType(self._get_word("TYPE", model.DomainType))

    @property
    def domain_class(self) -> model.DomainClass:
        return model.DomainClass(self._get_word("CLASS", model.DomainClass))

    @property
    def role(self) -> model.DomainRole:
        value = self._get("ROLE").capitalize()
        if value not in set(model.DomainRole):
            raise errors.InvalidMetadata("ROLE", f"{value!r} is unknown")
        return model.DomainRole(value)

    @property
    def name(self) -> str:
        return self.keys.get("DESCRIPTION", "")

    @property
    def pool_ids(self) -> tuple[str, ...]:
        """The pools that the domain belongs to; only an ISO domain has more than one."""
        return tuple(pool for pool in self.keys.get("POOL_UUID", "").split(",") if pool and pool != BLANK_UUID)

    @property
    def remote_path(self) -> str | None:
        return self.keys.get("REMOTE_PATH")

    @property
    def block_size_bytes(self) -> int:
        return self._get_number("BLOCK_SIZE", model.DEFAULT_BLOCK_SIZE_BYTES)

    @property
    def alignment_bytes(self) -> int:
        return self._get_number("ALIGNMENT", model.DEFAULT_ALIGNMENT_BYTES)

    @property
    def pool_name(self) -> str:
        return self.keys.get("POOL_DESCRIPTION", "")

    @property
    def pool_domains(self) -> dict[str, model.DomainStatus]:
        return parse_pool_domains(self.keys.get("POOL_DOMAINS", ""))

    @property
    def master_version(self) -> int:
        return self._get_number("MASTER_VERSION", 0)

    @property
    def spm_id(self) -> int:
        return self._get_number("POOL_SPM_ID", -1)

    @property
    def spm_lease_version(self) -> int:
        return self._get_number("POOL_SPM_LVER", -1)

    def check(self) -> None:
        """Raises when a key that every domain has is missing or bad, or contradicts the version (753)."""
        _ = (self.domain_id, self.type, self.domain_class, self.role)
        old_geometry = (self.block_size_bytes, self.alignment_bytes) == (
            model.DEFAULT_BLOCK_SIZE_BYTES,
            model.DEFAULT_ALIGNMENT_BYTES,
        )
        if self.version < 5 and not old_geometry:
            raise errors.MetaDataValidationError(f"version {self.version} with block size {self.block_size_bytes}")
        if self.block_size_bytes not in model.BLOCK_SIZES_BYTES or self.alignment_bytes not in model.ALIGNMENTS_BYTES:
            raise errors.MetaDataValidationError(
                f"block size {self.block_size_bytes}, alignment {self.alignment_bytes}"
            )

    def _get(self, key: str) -> str:
        try:
            return self.keys[key]
        except KeyError:
            raise errors.InvalidMetadata(key, "missing") from None

    def _get_word(self, key: str, words: Iterable[str]) -> str:
        value = self._get(key)
        if value not in set(words):
            raise errors.InvalidMetadata(key, f"{value!r} is unknown")
        return value

    def _get_number(self, key: str, default: int | None = None) -> int:
        value = self.keys.get(key) if default is not None else self._get(key)
        if value is None or not value.strip():
            if default is None:
                raise errors.InvalidMetadata(key, "empty")
            return default
        return parse_number(key, value)


def parse_number(key: str, text: str) -> int:
    """A decimal number of the on-disk formats; InvalidMetadata for anything else."""
    digits = text.strip()
    if not (digits.isascii() and digits.removeprefix("-").isdigit() and len(digits) <= 20):
        raise errors.InvalidMetadata(key, f"{text[:40]!r} is no number")
    return check_number(key, int(digits))


def check_number(key: str, number: int) -> int:
    """The number; InvalidMetadata for one beyond 64 bits, which no answer could carry."""
    if abs(number) >= 1 << 63:
        raise errors.InvalidMetadata(key, f"{number} is too large")
    return number


def parse_domain_metadata(data: bytes) -> DomainMetadata:
    """Read the file's bytes. Raises MetaDataSealIsBroken (752) when the checksum differs or the text is not UTF-8."""
    try:
        text = data.rstrip(b"\0").decode("utf-8")
    except UnicodeDecodeError as error:
        raise errors.MetaDataSealIsBroken("?", f"not UTF-8 at byte {error.start}") from error
    keys: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition("=")
        if separator:
            keys[key.strip()] = value
    found = keys.pop(CHECKSUM, None)
    computed = checksum(keys)
    if found is None and keys:
        log.warning("Domain metadata without a checksum is taken as it is (SDUUID=%s)", keys.get("SDUUID"))
    elif found is not None and found != computed:
        raise errors.MetaDataSealIsBroken(found, computed)
    return DomainMetadata(MappingProxyType(keys))


def format_domain_metadata(metadata: DomainMetadata) -> bytes:
    """The file's bytes: keys sorted, checksum last. Raises InvalidParameterException for what would not read back."""
    for key, value in metadata.keys.items():
        check_line(key, value)
        if not key or key != key.strip() or "=" in key or key == CHECKSUM:
            raise errors.InvalidParameterException("key", repr(key))
        check_line("key", key)
    lines = [f"{key}={metadata.keys[key]}" for key in sorted(metadata.keys)]
    lines.append(f"{CHECKSUM}={checksum(metadata.keys)}")
    return "".join(f"{line}\n" for line in lines).encode("utf-8")


def checksum(keys: Mapping[str, str]) -> str:
    """SHA-1 over the sorted lines without separators, characters beyond ASCII as XML references."""
    digest = hashlib.sha1(usedforsecurity=False)
    for key in sorted(keys):
        digest.update(f"{key}={keys[key]}".encode("ascii", "xmlcharrefreplace"))
    return digest.hexdigest()


def check_line(name: str, value: str) -> None:
    """Raises InvalidParameterException for text that is not one line of UTF-8 (line boundaries, NUL, surrogates)."""
    if "\0" in value or len(f"x{value}x".splitlines()) > 1:
        raise errors.InvalidParameterException(name, f"{value[:80]!r} has a line break or NUL")
    if SURROGATE.search(value):
        raise errors.InvalidParameterException(name, "not encodable as UTF-8")


def parse_pool_domains(text: str) -> dict[str, model.DomainStatus]:
    """The map of a pool, `<domain>:<status>` joined by commas; what is no such pair is an error (751)."""
    domains: dict[str, model.DomainStatus] = {}
    for part in filter(None, text.split(",")):
        domain_id, separator, word = part.partition(":")
        try:
            status = model.DomainStatus.parse(word.strip().strip("'"))
        except ValueError:
            raise errors.InvalidMetadata("POOL_DOMAINS", f"{part!r} is unknown") from None
        domain_id = domain_id.strip().strip("'")
        if not separator or not is_uuid(domain_id):
            raise errors.InvalidMetadata("POOL_DOMAINS", f"{part!r} is no domain and status")
        domains[domain_id] = status
    return domains


def format_pool_domains(domains: Mapping[str, model.DomainStatus]) -> str:
    """What `parse_pool_domains` reads, in the map's order."""
    return ",".join(f"{domain_id}:{status}" for domain_id, status in domains.items())


def new_domain_keys(
    domain_id: str,
    name: str,
    type: model.DomainType,
    domain_class: model.DomainClass,
    version: int,
    remote_path: str,
    block_size_bytes: int,
    alignment_bytes: int,
) -> DomainMetadata:
    """The keys of a new, unattached file domain."""
    keys = {
        "VERSION": str(version),
        "SDUUID": domain_id,
        "TYPE": type.value,
        "CLASS": domain_class.value,
        "ROLE": model.DomainRole.REGULAR.value,
        "DESCRIPTION": name,
        "POOL_UUID": "",
        "LOCKPOLICY": "",
        "REMOTE_PATH": remote_path,
        **lease_keys(model.LeaseSettings()),
    }
    if version >= 5:
        keys["BLOCK_SIZE"] = str(block_size_bytes)
        keys["ALIGNMENT"] = str(alignment_bytes)
    return DomainMetadata(keys)


def new_pool_keys(
    pool_id: str, name: str, master_id: str, master_version: int, lease: model.LeaseSettings | None
) -> dict[str, str | None]:
    """What pool creation changes on the future master; without lease settings: the defaults and the lock policy."""
    return {
        "POOL_UUID": pool_id,
        "ROLE": model.DomainRole.MASTER.value,
        "POOL_DESCRIPTION": name,
        "POOL_DOMAINS": format_pool_domains({master_id: model.DomainStatus.ACTIVE}),
        "MASTER_VERSION": str(master_version),
        "POOL_SPM_ID": "-1",
        "POOL_SPM_LVER": "-1",
        NEXT_MASTER: None,
        **({"LOCKPOLICY": "ON", **lease_keys(model.LeaseSettings())} if lease is None else lease_keys(lease)),
    }


def promoted_keys(old: DomainMetadata, version: int, *, on_disk: bool) -> dict[str, str | None]:
    """What makes a domain the master in the place of another; with the pool's map on disk its keys come along."""
    names = ("LOCKPOLICY", *lease_keys(model.LeaseSettings()), *(POOL_KEYS if on_disk else ()))
    keys: dict[str, str | None] = {name: old.keys.get(name) for name in names}
    if on_disk:
        keys["MASTER_VERSION"] = str(version)
    return {**keys, "ROLE": model.DomainRole.MASTER.value, NEXT_MASTER: None}


def demoted_keys(*, on_disk: bool) -> dict[str, str | None]:
    """What makes a domain a regular one; with the pool's map on disk its master version goes, too."""
    return {"ROLE": model.DomainRole.REGULAR.value, NEXT_MASTER: None, **({"MASTER_VERSION": "0"} if on_disk else {})}


def detached_keys(metadata: DomainMetadata, pool_id: str | None) -> dict[str, str | None]:
    """What makes a domain leave a pool, or with None all of its pools."""
    pools = [] if pool_id is None else [pool for pool in metadata.pool_ids if pool != pool_id]
    keys: dict[str, str | None] = dict.fromkeys((*POOL_KEYS, NEXT_MASTER))
    return {**keys, "ROLE": model.DomainRole.REGULAR.value, "POOL_UUID": ",".join(pools)}


def lease_keys(lease: model.LeaseSettings) -> dict[str, str]:
    """The four keys that only old lease code reads."""
    return {
        "LOCKRENEWALINTERVALSEC": str(lease.renewal_s),
        "LEASETIMESEC": str(lease.lease_s),
        "IOOPTIMEOUTSEC": str(lease.io_timeout_s),
        "LEASERETRIES": str(lease.retries),
    }
