"""The port `virt.ports.FirmwareStore` on the folders of libvirt: an NVRAM is a file, a TPM a folder, kept as a tar.

Paths of NVRAMs come from callers, and files are read and written as root: one outside of libvirt's folder is refused,
and no symbolic link is followed below it.
"""

import asyncio
import io
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path, PurePosixPath

from vdsm.core.ids import is_uuid
from vdsm.core.undo import Undo
from vdsm.virt.ports import FirmwareUnusable

LARGEST = 16 << 20
MOST_FILES = 100
_UNFINISHED = ".vdsm-"


class FirmwareFiles:
    """Below a root: `var/lib/libvirt/qemu/nvram`, and a folder for each VM below `var/lib/libvirt/swtpm`."""

    def __init__(self, root: Path) -> None:
        self._nvrams = root / "var/lib/libvirt/qemu/nvram"
        self._tpms = root / "var/lib/libvirt/swtpm"

    async def read(self, kind: str, vm_id: str, path: str) -> bytes | None:
        return await asyncio.to_thread(self._read, kind, vm_id, path)

    async def write(self, kind: str, vm_id: str, path: str, data: bytes) -> None:
        await asyncio.to_thread(self._write, kind, vm_id, path, data)

    async def clear(self) -> None:
        await asyncio.to_thread(self._clear)

    def _clear(self) -> None:
        for folder in self._tpms.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(folder, ignore_errors=True)
        for file in self._nvrams.glob(f"{_UNFINISHED}*"):
            with suppress(OSError):
                file.unlink()

    def _read(self, kind: str, vm_id: str, path: str) -> bytes | None:
        place = self._find(kind, vm_id, path)
        try:
            return _pack(place) if kind == "tpm" else _read_file(place)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FirmwareUnusable(kind, str(error)) from error

    def _write(self, kind: str, vm_id: str, path: str, data: bytes) -> None:
        place = self._find(kind, vm_id, path)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if kind == "tpm":
                _replace_folder(place, data)
            else:
                _replace_file(place, data)
        except (OSError, lzma.LZMAError, tarfile.TarError, EOFError) as error:
            raise FirmwareUnusable(kind, str(error)) from error

    def _find(self, kind: str, vm_id: str, path: str) -> Path:
        if not is_uuid(vm_id):
            raise FirmwareUnusable(kind, "the VM has no proper id")
        if kind == "tpm":
            return self._tpms / vm_id
        given = PurePosixPath(path)
        if given.parent != PurePosixPath(self._nvrams) or given.name in ("", ".."):
            raise FirmwareUnusable(kind, f"only files in {self._nvrams} are kept: {path[:200]}")
        return Path(given)


def _read_file(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is no file")
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise OSError(f"{path} is larger than {LARGEST} bytes")
    return data


def _replace_file(path: Path, data: bytes) -> None:
    """A crash leaves the old one or the new one; libvirt gives it to qemu's user."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=_UNFINISHED)
    with Undo() as undo:
        undo.push(os.unlink, name)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(name, path)
        undo.forget()


def _pack(folder: Path) -> bytes:
    """The folder as a tar, the same for the same contents; what is neither folder nor file is left out."""
    packed = io.BytesIO()
    names = sorted(str(found.relative_to(folder)) for found in folder.rglob("*"))
    if folder.is_symlink() or not folder.is_dir() or not names:
        raise FileNotFoundError(folder)
    with tarfile.open(fileobj=packed, mode="w:xz") as tar:
        for name in names[:MOST_FILES]:
            path = folder / name
            entry = tar.gettarinfo(path, f"./{name}")
            if entry.isdir():
                tar.addfile(entry)
            elif entry.isreg():
                data = _read_file(path)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def _replace_folder(folder: Path, data: bytes) -> None:
    if folder.is_symlink():
        raise OSError(f"{folder} is a symbolic link")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_UNFINISHED) as scratch:
        fresh = Path(scratch, "fresh")
        fresh.mkdir()
        fresh.chmod(0o711)  # as libvirt makes it: swtpm's user has to get through; what is below libvirt gives away
        _unpack(data, fresh)
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)


def _unpack(data: bytes, folder: Path) -> None:
    unpacker = lzma.LZMADecompressor(memlimit=256 << 20)
    plain = unpacker.decompress(data, LARGEST + 1)
    if len(plain) > LARGEST:
        raise OSError(f"it holds more than {LARGEST} bytes")
    with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as tar:
        for number, entry in enumerate(tar):
            name = PurePosixPath(entry.name)
            if number >= MOST_FILES or name.is_absolute() or ".." in name.parts:
                raise OSError(f"it holds what no TPM keeps: {entry.name[:100]}")
            target = folder / name
            if entry.isdir():
                target.mkdir(mode=0o700, parents=True, exist_ok=True)
            elif entry.isreg() and (content := tar.extractfile(entry)) is not None:
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(content.read())
            else:
                raise OSError(f"it holds what no TPM keeps: {entry.name[:100]}")
