"""Virtual machines for tests of several hosts, told to libvirt directly, and a word with the guest in one."""

import select
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from demo.guest import GuestFiles
from lab.hosts import Host

CONSOLE = "/run/console.sock"  # on the host where the machine runs
ANSWER_S = 60.0


def make_idle_xml(name: str) -> str:
    """A machine that finds nothing to boot."""
    return f"""<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"""


def make_linux_xml(name: str, guest: GuestFiles, disk: Path) -> str:
    """A machine with a shell on its serial port and one disk."""
    return f"""<domain type='qemu'><name>{name}</name><memory unit='MiB'>128</memory>
<os><type arch='x86_64' machine='q35'>hvm</type><kernel>{guest.kernel}</kernel><initrd>{guest.initrd}</initrd>
<cmdline>{guest.arguments} guest={name}</cmdline></os>
<devices><disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/><source file='{disk}'/>
<target dev='vda' bus='virtio'/></disk>
<serial type='unix'><source mode='bind' path='{CONSOLE}'/></serial></devices></domain>"""


class Console:
    """The serial port of the one machine on a host. A context manager."""

    def __init__(self, host: Host) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(host.folder / CONSOLE.removeprefix("/")))
        self.said = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def type(self, line: str) -> None:
        """Type a line."""
        self._socket.sendall(line.encode() + b"\n")

    def wait(self, words: str) -> None:
        """Return when the guest has said these words."""
        deadline = time.monotonic() + ANSWER_S
        while words not in self.said:
            ready = select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))[0]
            assert ready, f"the guest did not say {words!r} but {self.said!r}"
            self.said += self._socket.recv(4096).decode(errors="replace")
