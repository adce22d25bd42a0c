"""What VMDK and VDI images say of themselves, read without qemu; whether to believe it is left to storage.

Of VMDK only one that is a single file is of use: all other kinds are lists of files, wherever these are.
"""

import os
import struct

from vdsm.storage.ports import ImageFile, QemuImgFailed

VMDK_MAGIC = b"KDMV"
_SECTOR_BYTES = 512
_VMDK = struct.Struct("<4sIIQQQQIQQ")
_AT_END = (1 << 64) - 1
_FOOTER_BYTES = 2 * _SECTOR_BYTES  # it, and a mark of the end
_DESCRIPTION_SECTORS = 20
"""So much qemu reads of the description, which for it is always in the second sector."""
_PARENT = b"parentfilenamehint"
_VDI_SIZE = struct.Struct("<Q")
_VDI_SIZE_AT, _VDI_KIND_AT, _VDI_KINDS = 368, 76, (1, 2)


def inspect_vmdk(descriptor: int, begin: int, end: int) -> ImageFile:
    """One that begins with the magic number. Raises QemuImgFailed for a header that is cut off."""
    _, sectors, place, length, tables_at = _unpack(descriptor, begin)
    if tables_at == _AT_END and sectors:
        magic, sectors, *_ = _unpack(descriptor, end - _FOOTER_BYTES)
        if magic != VMDK_MAGIC:
            raise QemuImgFailed("the VMDK image has no end")
    spans = {(1, _DESCRIPTION_SECTORS), (place, min(length, _DESCRIPTION_SECTORS))}
    texts = [
        os.pread(descriptor, count * _SECTOR_BYTES, begin + at * _SECTOR_BYTES) for at, count in spans if at < 1 << 40
    ]
    has_parent = any(_PARENT in text.lower() for text in texts)
    # Without a size of its own it is a list of files.
    return ImageFile("vmdk", sectors * _SECTOR_BYTES, "its parent" if has_parent else None, has_data_file=not sectors)


def inspect_vdi(descriptor: int, begin: int) -> ImageFile:
    """One with the magic number; a VDI image cannot name files. Raises QemuImgFailed for a header that is cut off."""
    header = os.pread(descriptor, _SECTOR_BYTES, begin)
    if (
        len(header) < _SECTOR_BYTES
        or int.from_bytes(header[_VDI_KIND_AT : _VDI_KIND_AT + 4], "little") not in _VDI_KINDS
    ):
        raise QemuImgFailed("the VDI image is cut off, or a layer of another")
    return ImageFile("vdi", _VDI_SIZE.unpack_from(header, _VDI_SIZE_AT)[0])


def _unpack(descriptor: int, begin: int) -> tuple[bytes, int, int, int, int]:
    """Magic number, sectors, where the description is and how long, where the tables are."""
    data = os.pread(descriptor, _VMDK.size, max(begin, 0))
    if len(data) < _VMDK.size:
        raise QemuImgFailed("the VMDK image is cut off")
    magic, _, _, sectors, _, place, length, _, _, tables_at = _VMDK.unpack(data)
    return magic, sectors, place, length, tables_at
