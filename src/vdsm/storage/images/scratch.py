"""Disks of use while a backup goes on, where old contents of what is served are kept (facts: storage §15.5)."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from vdsm.core.ids import is_uuid
from vdsm.core.undo import Undo
from vdsm.storage import durable
from vdsm.storage.errors import UnsupportedOperation, io_failing_as, qemu_failing_as
from vdsm.storage.images.formatting import NEW_COMPAT
from vdsm.storage.layout import Layout
from vdsm.storage.model import VolumeFormat
from vdsm.storage.ports import Ownership, QemuImg, QemuImgFailed

_FOLDER_MODE, _FILE_MODE, _SOCKETS_MODE = 0o750, 0o660, 0o770


class ScratchDisks(Struct, eq=False):
    """Scratch disks of VMs, and the sockets where qemu serves what is backed up. One call of a VM at a time."""

    _qemu_img: QemuImg
    _layout: Layout
    _ownership: Ownership

    def prepare(self, vm_id: str, backup_id: str, sizes: Mapping[str, int]) -> tuple[Path, dict[str, Path]]:
        """The socket's path, and a qcow2 image of that size for each target; all of them or none.

        Raises UnsupportedOperation (2009) when there is a disk of that backup already.
        """
        socket, folder = self._layout.get_backup_socket(backup_id), self._layout.get_transient_folder(vm_id)
        made: dict[str, Path] = {}
        with Undo() as undo, qemu_failing_as(QemuImgFailed), io_failing_as(QemuImgFailed):
            self._make_folder(socket.parent, _SOCKETS_MODE)
            socket.unlink(missing_ok=True)  # of a qemu that was killed
            for target, size_bytes in sizes.items():
                self._make_folder(folder, _FOLDER_MODE)
                path = folder / f"{backup_id}.{target}"
                if path.exists():
                    raise UnsupportedOperation(f"scratch disk {path.name} exists already")
                durable.create_file(path, _FILE_MODE, owner=self._ownership.give)
                undo.push(durable.remove_file, path)
                self._qemu_img.create(path, VolumeFormat.COW.qemu, size_bytes, compat=NEW_COMPAT)
                made[target] = path
            undo.forget()
        return socket, made

    def clear(self, vm_id: str, backup_id: str = "") -> None:
        """Remove what is left of that backup, or of all backups of the VM, when none goes on."""
        folder = self._layout.get_transient_folder(vm_id)
        with io_failing_as(UnsupportedOperation):
            for path in folder.glob(f"{backup_id}*") if folder.is_dir() else ():
                self._layout.get_backup_socket(path.name.partition(".")[0]).unlink(missing_ok=True)
                durable.remove_file(path)
            if backup_id:
                self._layout.get_backup_socket(backup_id).unlink(missing_ok=True)
            if is_uuid(folder.name) and folder.is_dir() and not any(folder.iterdir()):
                shutil.rmtree(folder)

    def _make_folder(self, folder: Path, mode: int) -> None:
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            durable.create_folder(folder, mode, owner=self._ownership.give)
