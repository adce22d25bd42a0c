"""Values of the dictionary form: what was given, and bounds; what they mean is left to the files beside this one."""

from typing import TypeVar

from msgspec import UNSET, UnsetType

from vdsm.core.errors import InvalidArgument

T = TypeVar("T")


def given(value: T | UnsetType, default: T) -> T:
    """The value, or the default when the caller gave none."""
    return default if value is UNSET else value


def at_least(name: str, value: int, least: int) -> int:
    """The value; raises InvalidArgument when it is less than that."""
    if value < least:
        raise InvalidArgument(name, f"must be at least {least}, not {value}")
    return value
