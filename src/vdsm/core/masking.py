"""Secrets are told by the name that they go by; whatever prints values masks them first."""

import re
from collections.abc import Mapping

import msgspec

MASK = "********"
_SECRET_NAMES = frozenset({"password", "passwd", "tpm_data", "nvram_data", "external_data"})
_SECRET_NAMES |= {"sysprep", "sysprepinf", "payload", "vmpayload"}
_SECRET_PREFIX = "_X_"
_MAX_DEPTH = 64
_in_xml = re.compile(r"""(?<=\bpasswd=)(["'])[^"']*\1""")
_files_in_xml = re.compile(r"""(<(?:[\w.-]+:)?file path=(?:"[^"]*"|'[^']*')>)[^<]+""")


def is_secret(name: object) -> bool:
    """Whether the value of that name must not be printed (facts: rpc §1.5)."""
    return isinstance(name, str) and (name.lower() in _SECRET_NAMES or name.startswith(_SECRET_PREFIX))


def mask(value: object) -> object:
    """The value with every secret in it replaced, at any depth of mappings, sequences and structs; nothing is changed.

    For printing only: structs become dictionaries, and what nests too deep is left out.
    """
    return _mask(value, 0)


def _mask(value: object, depth: int) -> object:
    if isinstance(value, str):
        value = _files_in_xml.sub(rf"\1{MASK}", value) if "file path=" in value else value
        return _in_xml.sub(f'"{MASK}"', value) if "passwd=" in value else value
    if isinstance(value, (bytes, int, float)) or value is None:
        return value
    if depth > _MAX_DEPTH:
        return "..."
    if isinstance(value, msgspec.Struct):
        named = {name: item for name, item in msgspec.structs.asdict(value).items() if item is not msgspec.UNSET}
        return _mask(named, depth)
    if isinstance(value, Mapping):
        return {name: MASK if is_secret(name) else _mask(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list):
        return [_mask(item, depth + 1) for item in value]
    if isinstance(value, tuple):
        return tuple(_mask(item, depth + 1) for item in value)
    return value
