"""What an image file says of itself in its first bytes, read without qemu; whether to believe it is left to storage.

qemu opens what a header names, wherever that leads; so what nobody vouches for is looked at here first.
"""

import os
import struct
from pathlib import Path

from vdsm.adapters.foreign import VMDK_MAGIC, inspect_vdi, inspect_vmdk
from vdsm.storage.ports import ImageFile, Part, QemuImgFailed

_HEADER = struct.Struct(">4sIQIIQ")  # magic, version, backing file's offset and length, cluster bits, virtual size
_FEATURES = struct.Struct(">QQQII")  # at 72, from version 3: incompatible, compatible, autoclear, refcounts, length
_EXTENSION = struct.Struct(">II")  # kind, length
_MAGIC = b"QFI\xfb"
_OLD_LENGTH = 72
_DATA_FILE = 1 << 2
_BACKING_FORMAT, _DATA_FILE_NAME = 0xE2792ACA, 0x44415441
_CLUSTER_BITS = range(9, 22)
_NAME_BYTES = 1023
_FOREIGN = {
    # At an offset, these bytes: a format of others, some of which name further files.
    (0, b"COWD"): "vmdk",
    (0, b"# Disk DescriptorFile"): "vmdk",
    (64, b"\x7f\x10\xda\xbe"): "vdi",
    (0, b"conectix"): "vpc",
    (0, b"vhdxfile"): "vhdx",
    (0, b"QED\0"): "qed",
    (0, b"WithoutFreeSpace"): "parallels",
    (0, b"WithouFreSpacExt"): "parallels",
}


def inspect(path: Path, part: Part | None = None) -> ImageFile:
    """Raises OSError, and QemuImgFailed for a header that contradicts itself."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        begin, size_bytes = part or (0, os.lseek(descriptor, 0, os.SEEK_END))
        head = os.pread(descriptor, _OLD_LENGTH + _FEATURES.size, begin)
        if head.startswith(_MAGIC):
            return _Qcow2(path, head).read(descriptor, begin)
        if head.startswith(VMDK_MAGIC):
            return inspect_vmdk(descriptor, begin, begin + size_bytes)
        found = (word for (offset, magic), word in _FOREIGN.items() if head[offset:].startswith(magic))
        format = next(found, "raw")
        if format == "vdi":
            return inspect_vdi(descriptor, begin)
        return ImageFile(format, size_bytes, has_data_file=format == "vmdk")
    finally:
        os.close(descriptor)


class _Qcow2:
    """One header, with all that is said in the first cluster."""

    def __init__(self, path: Path, head: bytes) -> None:
        self._path = path
        self._check(len(head) >= _OLD_LENGTH, "its header is cut off")
        _, self._version, self._name_at, self._name_bytes, bits, self._size_bytes = _HEADER.unpack_from(head)
        self._check(self._version in (2, 3), f"version {self._version} is unknown")
        self._check(bits in _CLUSTER_BITS, f"clusters of {bits} bits")
        self._cluster_bytes = 1 << bits
        self._features, self._length = 0, _OLD_LENGTH
        if self._version > 2:
            self._check(len(head) == _OLD_LENGTH + _FEATURES.size, "its header is cut off")
            self._features, _, _, _, self._length = _FEATURES.unpack_from(head, _OLD_LENGTH)
            self._check(len(head) <= self._length <= self._cluster_bytes, f"a header of {self._length} bytes")

    def read(self, descriptor: int, begin: int) -> ImageFile:
        cluster = os.pread(descriptor, self._cluster_bytes, begin)
        extensions = self._read_extensions(cluster)
        return ImageFile(
            format="qcow2",
            virtual_size_bytes=self._size_bytes,
            backing_file=self._read_name(cluster),
            backing_format=_decode(extensions.get(_BACKING_FORMAT)),
            compat="1.1" if self._version > 2 else "0.10",
            cluster_size_bytes=self._cluster_bytes,
            has_data_file=bool(self._features & _DATA_FILE) or _DATA_FILE_NAME in extensions,
        )

    def _read_name(self, cluster: bytes) -> str | None:
        if not self._name_at:
            return None
        end = self._name_at + self._name_bytes
        self._check(self._name_bytes <= _NAME_BYTES and end <= len(cluster), "the backing file's name is not in it")
        return _decode(cluster[self._name_at : end])

    def _read_extensions(self, cluster: bytes) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        place, end = self._length, min(self._name_at or len(cluster), len(cluster))
        while place + _EXTENSION.size <= end:
            kind, length = _EXTENSION.unpack_from(cluster, place)
            place += _EXTENSION.size
            if not kind:
                break
            self._check(place + length <= end, "an extension goes beyond the header")
            found[kind] = cluster[place : place + length]
            place += -(-length // 8) * 8
        return found

    def _check(self, holds: bool, what: str) -> None:
        if not holds:
            raise QemuImgFailed(f"{self._path} is no valid qcow2 image: {what}")


def _decode(text: bytes | None) -> str | None:
    return None if text is None else text.decode("utf-8", "backslashreplace")
