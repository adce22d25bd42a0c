"""What a lab VM is: Debian's kernel in user mode, a process of this machine, or its stock kernel on an emulated PC.

In user mode programs run at this processor's own speed and only calls to the kernel cost more: Python is ten to twenty
times as fast as emulated. Both kernels are built from the same source of Debian's, with the modules that storage and
networks need. Both see this machine's file system, read-only, and get their disks and their script alike.
"""

import hashlib
import re
import shlex
import shutil
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lab.commands import run
from lab.images import CACHE, PROJECT, VENV
from lab.scratch import Scratch

MEMORY_MIB = 5120
SHARED = "/run/turns"
"""Where a VM sees the folder that all share."""
STACKS_S = 15.0


class LabError(Exception):
    """The lab cannot be booted here; the text says why."""


@dataclass(frozen=True)
class Boot:
    """What a VM is booted with. `folder` is its own, for sockets and the like."""

    folder: Path
    disks: Mapping[str, Path]
    shared: Path
    script: Path
    """What root's shell runs; all that it and its children say is the VM's output."""
    is_interactive: bool = False
    """Whether the script talks with the terminal of who boots."""


class Machine(Protocol):
    """One way to boot. The script finds its disks by the names of the boot's disks in `devices`."""

    devices: Mapping[str, str]

    def make_command(self, boot: Boot) -> list[str]:
        """The program that is the VM, with the kernel's log as its standard error. Raises LabError."""
        ...

    def ask_for_stacks(self, folder: Path) -> None:
        """Have the kernel of that boot's folder log the stacks of everything, last of the tasks that are blocked."""
        ...


class UserMode:
    """Debian's kernel as a program (`user-mode-linux`): one processor; the calls of its programs are traced."""

    devices: Mapping[str, str] = {"python": "/dev/ubda", "project": "/dev/ubdb"}
    _PROGRAM = Path("/usr/bin/linux.uml")
    _REQUEST = struct.Struct("=III512s")
    _MAGIC, _VERSION = 0xCAFEBABE, 2

    def make_command(self, boot: Boot) -> list[str]:
        if not self._PROGRAM.exists():
            raise LabError("no Debian kernel for user mode is installed: apt-get install user-mode-linux")
        disks = [f"ubd{number}r={boot.disks[name]}" for number, name in enumerate(self.devices)]
        terminal = "fd:0,fd:1" if boot.is_interactive else "null,fd:1"
        # Words that the kernel does not know become the environment of its first program.
        words = [f"LAB_SCRIPT={boot.script}", f"LAB_SHARED={boot.shared}", f"LAB_TALKS={boot.is_interactive:d}"]
        return [
            *("env", f"LD_PRELOAD={_build_xstate()}"),
            *(str(self._PROGRAM), f"mem={MEMORY_MIB}M", f"uml_dir={boot.folder}/", "umid=lab", *disks),
            *("rootfstype=hostfs", "rootflags=/", "ro", f"init={PROJECT / 'lab/user-init.sh'}"),
            *(["quiet"] if boot.is_interactive else []),
            *("selinux=0", "apparmor=0", "console=tty0", "con=null", "con0=null,fd:2", f"con1={terminal}", *words),
        ]

    def ask_for_stacks(self, folder: Path) -> None:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as console:
            console.connect(str(folder / "lab/mconsole"))
            for key in "tw":
                command = f"sysrq {key}".encode()
                console.send(self._REQUEST.pack(self._MAGIC, self._VERSION, len(command), command))
                time.sleep(STACKS_S / 3)  # nobody says when all has gone over the terminal


def _build_xstate() -> Path:
    """What lets that kernel run on processors that have more state than it knows; compiled once."""
    source = Path(__file__).with_name("xstate.c")
    library = CACHE / f"xstate-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}.so"
    if not library.exists():
        with Scratch(CACHE) as scratch:
            new = scratch.path / library.name
            run("gcc", "-O2", "-shared", "-fPIC", "-o", new, source)
            new.rename(library)
    return library


class Emulated:
    """Debian's stock kernel on a PC with two processors that qemu emulates, booted with virtme-ng."""

    devices: Mapping[str, str] = {name: f"/dev/disk/by-id/virtio-{name}" for name in UserMode.devices}
    _PROCESSORS = 2
    # What an emulated processor does slowly it does not offer: to copy byte by byte (erms, fsrm), to lift a guard
    # around each copy from and to programs (smap), page tables of five levels (la57), keys of pages (pku).
    _PROCESSOR = "max,erms=off,fsrm=off,smap=off,la57=off,pku=off"
    # The emulated time stamp counter is the same for all, which the kernel does not believe: it would ask a timer of
    # the board's each time. On a busy machine that timer ticks too late for the kernel's test of it.
    _ARGUMENTS = ("tsc=reliable", "no_timer_check")
    _OVERLAYS = ("/etc", "/var")

    def make_command(self, boot: Boot) -> list[str]:
        if shutil.which("vng", path=str(VENV / "bin")) is None:
            raise LabError("virtme-ng is not in .venv: run make lab")
        monitor = boot.folder / "monitor"
        devices = [f"-cpu {self._PROCESSOR}", f"-chardev socket,id=hmp,path={monitor},server=on,wait=off"]
        devices.append("-mon chardev=hmp,mode=readline")
        for name, image in boot.disks.items():
            devices.append(f"-drive if=none,id={name},file={image},format=raw,readonly=on")
            devices.append(f"-device virtio-blk-pci,drive={name},serial={name}")
        command = [
            "vng",
            "--disable-kvm",
            "--run",
            str(_find_kernel()),
            "--user",
            "root",
            "--name",
            "lab",
            "--cwd",
            "/",
        ]
        command += ["--cpus", str(self._PROCESSORS), "--memory", f"{MEMORY_MIB}M", f"--rwdir={SHARED}={boot.shared}"]
        command += [word for overlay in self._OVERLAYS for word in ("--overlay-rwdir", overlay)]
        command += [word for argument in self._ARGUMENTS for word in ("--append", argument)]
        command.append(f"--qemu-opts={' '.join(devices)}")
        if boot.is_interactive:
            return [*command, "--shell", str(boot.script)]
        return [*command, "--verbose", "--", f"exec {shlex.quote(str(boot.script))} 2>&1"]

    def ask_for_stacks(self, folder: Path) -> None:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(folder / "monitor"))
            for key in "tlw":
                connection.sendall(f"sendkey alt-sysrq-{key}\n".encode())
                time.sleep(STACKS_S / 3)  # it goes over a serial line, and nobody says when it has gone


MACHINES: Mapping[str, Machine] = {"user": UserMode(), "stock": Emulated()}
"""By the name of their kernel."""


def _find_kernel() -> Path:
    """The newest of Debian's kernels whose modules are installed too. Raises LabError."""
    found = [
        kernel
        for kernel in Path("/boot").glob("vmlinuz-*-amd64")
        if Path("/lib/modules", kernel.name.removeprefix("vmlinuz-"), "modules.dep").exists()
    ]
    if not found:
        raise LabError("no Debian kernel with modules is installed: apt-get install linux-image-amd64")
    return max(found, key=lambda kernel: [int(number) for number in re.findall(r"\d+", kernel.name)])
