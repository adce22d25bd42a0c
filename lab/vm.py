"""The lab VM: Debian's stock kernel on this machine's own file system, read-only with overlays, without a network.

It lives in a process namespace that ends with the thread that boots it, so nothing of it outlives a killed `make lab`.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lab.images import PROJECT, STANDARD_LIBRARY, VENV, build_project_image, build_python_image
from lab.processes import DIES_WITH_PARENT, close_pipes
from lab.scratch import Scratch
from lab.voices import Voice, pass_on

MEMORY_MIB = 5120
PROCESSORS = 2
# What an emulated processor does slowly it does not offer: to copy byte by byte (erms, fsrm), to lift a guard around
# each copy from and to programs (smap), page tables of five levels (la57), keys of pages (pku).
PROCESSOR = "max,erms=off,fsrm=off,smap=off,la57=off,pku=off"
# The emulated time stamp counter is the same for all, which the kernel does not believe: it would ask a timer of the
# board's each time. On a busy machine that timer ticks too late for the kernel's test of it.
KERNEL_ARGUMENTS = ("tsc=reliable", "no_timer_check")
SILENCE_S = 420.0
"""A VM that says nothing for so long hangs: single tests have limits far below."""
BOOT_S = 1200.0
"""It boots silently, which takes half a minute, but on a machine with much other work a quarter of an hour."""
LIMIT_S = 3000.0
STACKS_S = 15.0
INTERRUPTED_S = 20.0
HUNG = 124  # the status of `timeout` from coreutils
SHARED = "/run/turns"
OVERLAYS = ("/etc", "/var")
KERNEL_LOG_LINES = 120
BOOTED = "virtme-ng-init: starting script"


class LabError(Exception):
    """The lab cannot be booted here; the text says why."""


@dataclass(frozen=True)
class Run:
    """What to run in the VM and what it may take."""

    command: Sequence[str]
    environment: Mapping[str, str]
    silence_s: float = SILENCE_S
    limit_s: float = LIMIT_S


def find_kernel() -> Path:
    """The newest of Debian's kernels whose modules are installed too. Raises LabError."""
    found = [
        kernel
        for kernel in Path("/boot").glob("vmlinuz-*-amd64")
        if Path("/lib/modules", kernel.name.removeprefix("vmlinuz-"), "modules.dep").exists()
    ]
    if not found:
        raise LabError("no Debian kernel with modules is installed: apt-get install linux-image-amd64")
    return max(found, key=lambda kernel: [int(number) for number in re.findall(r"\d+", kernel.name)])


def run_tests(runs: Mapping[str, Run], beside: Mapping[str, Sequence[str]], shared: Path, logs: Path) -> dict[str, int]:
    """Boot a VM for each run, and start the commands beside them; pass on what they say under these names.

    Their statuses, or HUNG. All VMs see the shared folder as SHARED. One that falls silent, or takes too long, is asked
    for the stacks of all its tasks, which are in its kernel's log then, and ended.
    """
    disks = _build_disks()
    with ExitStack() as stack:
        voices = [stack.enter_context(_booted(name, run, disks, shared, logs)) for name, run in runs.items()]
        voices += [stack.enter_context(_started(name, command)) for name, command in beside.items()]
        hung = []
        for voice in pass_on(voices):
            hung.append(voice)
            print(f"\nlab: {voice.name or 'it'} hangs", file=sys.stderr, flush=True)
            if voice.name in runs:
                _ask_for_stacks(voice.monitor)
                where = find_kernel_log(logs, voice.name)
                print(f"lab: what its tasks wait for is in {where}", file=sys.stderr, flush=True)
            _end(voice.process)
        return {voice.name: HUNG if voice in hung else voice.process.wait() for voice in voices}


@contextmanager
def _started(name: str, command: Sequence[str]) -> Iterator["_Child"]:
    """A program of this machine; it is interrupted at the end, so that it may remove what it made."""
    process = subprocess.Popen(
        [*DIES_WITH_PARENT, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield _Child(process, name, LIMIT_S, LIMIT_S, LIMIT_S)
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(INTERRUPTED_S)
        _end(process)


def find_kernel_log(logs: Path, name: str) -> Path:
    """Where the kernel's log of the VM of that name is."""
    return logs / f"kernel{name and f'-{name}'}.log"


@dataclass(eq=False)
class _Child(Voice):
    monitor: Path = Path()
    """Of a VM: the socket to type at."""


@contextmanager
def _booted(name: str, run: Run, disks: Mapping[str, Path], shared: Path, logs: Path) -> Iterator[_Child]:
    with Scratch() as scratch, find_kernel_log(logs, name).open("wb") as log:
        folder = scratch.path
        process = subprocess.Popen(
            [*_make_outer(), *_make_vng(folder, disks, "--verbose", f"--rwdir={SHARED}={shared}")]
            + ["--", _format_script(run)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_make_environment(folder),
            start_new_session=True,
        )
        try:
            yield _Child(process, name, run.silence_s, run.limit_s, BOOT_S, monitor=folder / "monitor")
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    close_pipes(process)


def run_interactively(run: Run, shared: Path) -> int:
    """Boot with this terminal as the VM's console and run the command there; the status is the VM's.

    The VM sees the shared folder as SHARED.
    """
    with Scratch() as scratch:
        folder = scratch.path
        inside = folder / "shell"
        inside.write_text(f"#!/bin/bash\n{_format_script(run)}\n")
        inside.chmod(0o755)
        more = [f"--rwdir={SHARED}={shared}", "--shell", str(inside)]
        command = [*_make_outer(), *_make_vng(folder, _build_disks(), *more)]
        return subprocess.run(command, env=_make_environment(folder)).returncode


def tell_kernel_log(kernel_log: Path) -> None:
    """Print the end of the kernel's log."""
    boot, booted, said = kernel_log.read_text(errors="replace").rpartition(BOOTED)
    lines = (said if booted else boot).splitlines()
    print(f"lab: what the kernel said at last (all of it: {kernel_log}):", file=sys.stderr)
    print("\n".join(lines[-KERNEL_LOG_LINES:]), file=sys.stderr)


def _make_outer() -> list[str]:
    namespace = ["unshare", "--pid", "--mount", "--net", "--fork", "--kill-child", "--mount-proc"]
    return [*DIES_WITH_PARENT, *namespace, "--"]


def _make_environment(folder: Path) -> dict[str, str]:
    """vng finds its siblings on the path, and writes at home."""
    path = f"{VENV / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "HOME": str(folder), "TMPDIR": str(folder), "TERM": os.environ.get("TERM", "dumb")}


def _build_disks() -> dict[str, Path]:
    return {"python": build_python_image(), "project": build_project_image()}


def _make_vng(folder: Path, disks: Mapping[str, Path], *more: str) -> list[str]:
    if shutil.which("vng", path=str(VENV / "bin")) is None:
        raise LabError("virtme-ng is not in .venv: run make lab")
    devices = [f"-cpu {PROCESSOR}"]
    devices += [
        f"-chardev socket,id=hmp,path={folder / 'monitor'},server=on,wait=off",
        "-mon chardev=hmp,mode=readline",
    ]
    for name, image in disks.items():
        devices.append(f"-drive if=none,id={name},file={image},format=raw,readonly=on")
        devices.append(f"-device virtio-blk-pci,drive={name},serial={name}")
    command = ["vng", "--disable-kvm", "--run", str(find_kernel()), "--user", "root", "--name", "lab", "--cwd", "/"]
    command += ["--cpus", str(PROCESSORS), "--memory", f"{MEMORY_MIB}M", *more]
    command += [word for overlay in OVERLAYS for word in ("--overlay-rwdir", overlay)]
    command += [word for argument in KERNEL_ARGUMENTS for word in ("--append", argument)]
    return [*command, f"--qemu-opts={' '.join(devices)}"]


def _format_script(run: Run) -> str:
    """What root's shell in the VM is given."""
    words = ["bash", str(PROJECT / "lab/inside.sh"), str(PROJECT), str(STANDARD_LIBRARY), *run.command]
    variables = [f"{name}={value}" for name, value in run.environment.items()]
    return f"exec {shlex.join(['env', *variables, *words])} 2>&1"


def _ask_for_stacks(monitor: Path) -> None:
    """Have the kernel log the stacks of everything, of all processors, and last of the tasks that are blocked."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(monitor))
        for key in "tlw":
            connection.sendall(f"sendkey alt-sysrq-{key}\n".encode())
            time.sleep(STACKS_S / 3)  # it goes over a serial line, and nobody says when it has gone
