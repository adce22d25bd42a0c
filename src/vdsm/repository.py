"""The composition root of the image repository as a library: joins it with qemu-img and the machine's files.

The daemon joins it itself, with its settings.
"""

import os
from pathlib import Path

from vdsm.adapters.curl import CurlCommand
from vdsm.adapters.files import choose_owner
from vdsm.adapters.gluster import GlusterCommand
from vdsm.adapters.guestfs import Guestfs
from vdsm.adapters.mount import KernelMounts
from vdsm.adapters.qemuimg import QemuImgCommand
from vdsm.adapters.qemunbd import QemuNbd
from vdsm.adapters.sanlock import SanlockLeases, end_process
from vdsm.core.clock import SystemClock
from vdsm.core.paths import Paths
from vdsm.storage.backends.mounted import Outside
from vdsm.storage.repository import Repository


def open_repository(
    root: str | os.PathLike[str] = "/", owner: tuple[int, int] | None = None, *, accepts_false_zeroes: bool = False
) -> Repository:
    """The repository under a root; files are given to the owner (user and group, 36:36 on oVirt), or kept.

    Nothing is connected yet, and only one process at a time can be a pool's SPM. Storage that hosts share needs
    root, to mount it, and a running sanlock; FUSE with false zeroes is refused unless it is accepted (decision 19).
    """
    return Repository(
        Paths(Path(root)),
        qemu_img=QemuImgCommand(),
        ownership=choose_owner(owner),
        clock=SystemClock(),
        shared=Outside(
            KernelMounts(),
            SanlockLeases(),
            GlusterCommand(),
            SystemClock(),
            end_process,
            accepts_false_zeroes=accepts_false_zeroes,
        ),
        sparsify=Guestfs().sparsify,
        seal=Guestfs().seal,
        remote=CurlCommand(),
        nbd_servers=QemuNbd(),
    )
