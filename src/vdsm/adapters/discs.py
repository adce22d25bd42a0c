"""Discs of files for VMs, made with mkisofs and mtools in a folder that is empty after a boot; drives are virt's.

A disc is called after its VM and drive, and is moved to that name when it is whole.
"""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

from vdsm.adapters.files import NumericOwner, OwnOwner
from vdsm.adapters.run import run
from vdsm.core.errors import Failure
from vdsm.virt.ports import DISC_NAME, Payload

_TIMEOUT_S = 60.0
_MODE = 0o660
"""For qemu's user, who is in the group that owns disks, and for nobody else: passwords are among the files."""
_FLOPPY_KIB = 1440
_LABEL_LENGTH = 11
_ID_LENGTH = 36
_SUFFIX = Path(DISC_NAME).suffix


class DiscFailed(Failure, number=100, text="{reason}"):
    """The disc cannot be written."""


class DiscMaker:
    """The discs of all VMs of one daemon."""

    def __init__(self, folder: Path, owner: NumericOwner | OwnOwner) -> None:
        self._folder = folder
        self._owner = owner

    async def make(self, vm_id: str, target: str, payload: Payload) -> str:
        """Make the disc, in place of one that is there; its path. Raises DiscFailed, CommandFailed."""
        path = self._folder / DISC_NAME.format(vm_id=vm_id, target=target)
        await asyncio.to_thread(self._make, path, payload)
        return str(path)

    async def remove(self, vm_id: str) -> None:
        """Remove the discs that were made for the VM."""
        await asyncio.to_thread(self._remove, lambda name: name.startswith(vm_id))

    async def keep(self, vm_ids: Collection[str]) -> None:
        """Remove the discs of all other VMs, and what an interrupted daemon left of one."""
        await asyncio.to_thread(
            self._remove, lambda name: name[:_ID_LENGTH] not in vm_ids or not name.endswith(_SUFFIX)
        )

    def _make(self, path: Path, payload: Payload) -> None:
        try:
            self._folder.mkdir(0o755, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._folder, prefix=f"{path.name}-") as folder:
                files, disc = Path(folder, "files"), Path(folder, "disc")
                _write(files, payload)
                disc.touch(_MODE)
                disc.chmod(_MODE)  # whatever the umask took away
                build = _build_floppy if payload.is_floppy else _build_cd
                build(disc, files, payload.volume_id)
                self._owner.give(disc)
                disc.rename(path)
        except OSError as error:
            raise DiscFailed(f"{path.name}: {error.strerror}") from error

    def _remove(self, is_gone: Callable[[str], bool]) -> None:
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._folder):
                if is_gone(entry.name) and entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                elif is_gone(entry.name):
                    Path(entry.path).unlink(missing_ok=True)


def _write(folder: Path, payload: Payload) -> None:
    folder.mkdir()
    for name, content in payload.files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def _build_cd(disc: Path, files: Path, volume_id: str) -> None:
    """With the names of POSIX (Rock Ridge) and of Windows (Joliet)."""
    names = ("-r", "-J", "-joliet-long", "-input-charset", "utf-8")
    run(["mkisofs", "-quiet", *names, "-V", volume_id, "-o", disc, files], timeout_s=_TIMEOUT_S)


def _build_floppy(disc: Path, files: Path, volume_id: str) -> None:
    label = ("-v", volume_id[:_LABEL_LENGTH]) if volume_id else ()
    run(["mformat", "-C", "-f", str(_FLOPPY_KIB), *label, "-i", disc, "::"], timeout_s=_TIMEOUT_S)
    entries = sorted(files.iterdir())
    if entries:
        run(["mcopy", "-s", "-Q", "-i", disc, *entries, "::"], timeout_s=_TIMEOUT_S)
