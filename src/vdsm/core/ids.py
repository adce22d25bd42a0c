"""Identifiers: the one form of a UUID that the node accepts, and names for what it identifies."""

import re
from typing import Annotated

from msgspec import Meta

UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\z"
BLANK_UUID = "00000000-0000-0000-0000-000000000000"

Uuid = Annotated[str, Meta(pattern=UUID_PATTERN.replace(r"\z", "$"), max_length=36)]
"""Lower-case hex in five groups (storage facts §1.1); no version bits are checked."""

VmId = Annotated[str, Meta(max_length=64)]
"""A VM's id as a caller gives it: any short text, since an unknown one is answered "no such VM"."""

TaskId = Annotated[str, Meta(max_length=64)]
PoolId = Uuid
DomainId = Uuid
ImageId = Uuid
VolumeId = Uuid

_uuid = re.compile(UUID_PATTERN.replace(r"\z", r"\Z"))


def is_uuid(text: str) -> bool:
    """Whether text is a UUID in the node's one form."""
    return _uuid.match(text) is not None
