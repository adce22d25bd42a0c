"""OVA archives that we write: a description (OVF) of a bare machine with one disk, and the disk, as VMDK."""

import errno
import io
import tarfile
from pathlib import Path
from typing import IO
from xml.sax.saxutils import quoteattr

from vdsm.storage.ports import Watch

_LONGEST_PLAIN = 8 << 30
"""A larger file needs a number where the older format has text."""
_OVF = "http://schemas.dmtf.org/ovf/envelope/1"
_RASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
_SPARSE = "http://www.vmware.com/interfaces/specifications/vmdk.html#monolithicSparse"
# An IDE controller, and a disk on it; the standard wants their members sorted.
_DEVICES = (
    {"ElementName": "IDE", "InstanceID": "1", "ResourceType": "5"},
    {
        "AddressOnParent": "0",
        "ElementName": "disk",
        "HostResource": "ovf:/disk/disk1",
        "InstanceID": "2",
        "Parent": "1",
        "ResourceType": "17",
    },
)


class _Stoppable:
    """A file that is read until the work is not wanted any more."""

    def __init__(self, file: IO[bytes], watch: Watch) -> None:
        self._file = file
        self._watch = watch

    def read(self, size_bytes: int = -1, /) -> bytes:
        if self._watch.stopping.is_set():
            raise OSError(errno.ECANCELED, "Stopped")
        return self._file.read(size_bytes)


def write_appliance(path: Path, disk: Path, name: str, capacity_bytes: int, watch: Watch) -> None:
    """Fill an empty file with an archive of a disk that a machine of that name has. Raises OSError."""
    size_bytes = disk.stat().st_size
    format = tarfile.USTAR_FORMAT if size_bytes < _LONGEST_PLAIN else tarfile.GNU_FORMAT
    described = describe_machine(name, size_bytes, capacity_bytes).encode()
    with tarfile.open(path, "w", format=format) as archive, disk.open("rb") as data:
        _add(archive, "machine.ovf", len(described), io.BytesIO(described))
        _add(archive, "disk1.vmdk", size_bytes, _Stoppable(data, watch))


def describe_machine(name: str, size_bytes: int, capacity_bytes: int) -> str:
    """The OVF document; the name may be any text."""
    items = "".join(f"<Item>{_format_device(device)}</Item>" for device in _DEVICES)
    return (
        f'<?xml version="1.0"?>\n<Envelope xmlns="{_OVF}" xmlns:ovf="{_OVF}" xmlns:rasd="{_RASD}">'
        f'<References><File ovf:id="file1" ovf:href="disk1.vmdk" ovf:size="{size_bytes}"/></References>'
        f'<DiskSection><Info>Disks</Info><Disk ovf:diskId="disk1" ovf:fileRef="file1" ovf:capacity="{capacity_bytes}"'
        f' ovf:format="{_SPARSE}"/></DiskSection>'
        f"<VirtualSystem ovf:id={quoteattr(name)}><Info>A machine</Info>"
        f"<VirtualHardwareSection><Info>Devices</Info>{items}</VirtualHardwareSection></VirtualSystem></Envelope>\n"
    )


def _format_device(members: dict[str, str]) -> str:
    return "".join(f"<rasd:{name}>{value}</rasd:{name}>" for name, value in members.items())


def _add(archive: tarfile.TarFile, name: str, size_bytes: int, data: IO[bytes] | _Stoppable) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size_bytes, 0o644
    archive.addfile(info, data)
