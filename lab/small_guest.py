"""A guest of Debian's kernel and busybox that runs a script: for what a boot sector cannot do, such as networks."""

from collections.abc import Mapping
from pathlib import Path

from lab.commands import PartFailed

MEMORY_MIB = 128
KERNEL_ARGUMENTS = "console=ttyS0 panic=-1 quiet"
_MODULES = (Path("/run/stock-modules"), Path("/lib/modules"))
"""In the lab the second is of the kernel that runs there."""
_CARD = "kernel/drivers/net/ethernet/intel/e1000/e1000.ko"
_BUSYBOX = Path("/bin/busybox")
_FILE, _FOLDER, _DEVICE = 0o100755, 0o40755, 0o20600
_SCRIPT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs none /dev
/bin/busybox --install -s /bin
export PATH=/bin
insmod /e1000.ko
"""


def find_kernel() -> Path:
    """The newest of Debian's stock kernels that are installed."""
    found = sorted(Path("/boot").glob("vmlinuz-*-amd64"))
    if not found:
        raise PartFailed("no kernel of Debian is installed: apt-get install linux-image-amd64")
    return found[-1]


def build_initrd(script: str) -> bytes:
    """Its file system: busybox, the driver of an e1000 card, and a script that is run when it has booted."""
    release = find_kernel().name.removeprefix("vmlinuz-")
    card = next(card for modules in _MODULES if (card := modules / release / _CARD).exists())
    return _pack(
        {
            "bin": (_FOLDER, b""),
            "dev": (_FOLDER, b""),
            "dev/console": (_DEVICE, b""),
            "bin/busybox": (_FILE, _BUSYBOX.read_bytes()),
            "e1000.ko": (_FILE, card.read_bytes()),
            "init": (_FILE, (_SCRIPT + script + "\nsleep 100000\n").encode()),
        }
    )


def _pack(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """An archive in cpio's format `newc`, of files with these modes."""
    packed = b""
    for number, (name, (mode, data)) in enumerate({**files, "TRAILER!!!": (0, b"")}.items(), 1):
        text = name.encode() + b"\0"
        numbers = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 5 if mode == _DEVICE else 0, 1, len(text), 0)
        head = b"070701" + b"".join(b"%08x" % value for value in numbers) + text
        packed += head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
    return packed
