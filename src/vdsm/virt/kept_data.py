"""What a TPM or a firmware keeps, as the text in which clients save it and bring it back (facts §2.21), pure."""

import base64
import binascii
import bz2
import hashlib
from collections.abc import Mapping

from msgspec import Struct

from vdsm.api.errors import ExternalDataFailed
from vdsm.virt.domain import DomainView

LARGEST = 16 << 20
"""Bytes that a TPM or a firmware may keep; usual ones have less than a tenth of that."""
KINDS = ("tpm", "nvram")
_COMPRESSED = "=0="


class KeptData(Struct, frozen=True):
    """What a TPM or a firmware keeps, as text: as it was seen last, and as it was seen twice in a row."""

    seen: str = ""
    stable: str = ""


def get_path(view: DomainView | None) -> str:
    """Where the VM's NVRAM is; empty when it has none."""
    return "" if view is None else view.nvram


def has_device(view: DomainView | None, kind: str) -> bool:
    """Whether the VM has a TPM that is emulated, or an NVRAM."""
    return view is not None and (view.has_tpm if kind == "tpm" else kind == "nvram" and bool(view.nvram))


def get_hash(text: str) -> str:
    """The hash of data; empty for none."""
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def encode(kind: str, payload: bytes) -> str:
    """The text for clients."""
    if kind == "nvram":
        return _COMPRESSED + base64.b64encode(bz2.compress(payload)).decode()
    return base64.b64encode(payload).decode()  # compressed as it is


def decode(kind: str, text: str) -> bytes:
    """What a client brings back, in either form. Raises ExternalDataFailed."""
    body = text.replace("\n", "").replace("\r", "")
    is_compressed = body.startswith(_COMPRESSED)
    if len(body) > 2 * LARGEST:
        raise ExternalDataFailed(kind, f"more than {LARGEST} bytes")
    try:
        data = base64.b64decode(body.removeprefix(_COMPRESSED), validate=True)
        if is_compressed:
            unpacker = bz2.BZ2Decompressor()
            data = unpacker.decompress(data, LARGEST + 1)
            if not unpacker.eof and len(data) <= LARGEST:
                raise ExternalDataFailed(kind, "the data ends too early")
    except (binascii.Error, ValueError, OSError) as error:
        raise ExternalDataFailed(kind, f"it is not as such data is: {error}") from error
    if len(data) > LARGEST:
        raise ExternalDataFailed(kind, f"more than {LARGEST} bytes")
    return data


def read_data(texts: Mapping[str, str], view: DomainView) -> dict[str, bytes]:
    """What clients bring back for a VM, by kind; nothing of a device that it has not. Raises what `decode` does."""
    return {kind: decode(kind, text) for kind, text in texts.items() if text and has_device(view, kind)}
