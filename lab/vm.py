"""The lab VM: Debian's stock kernel on this machine's own file system, read-only with overlays, without a network.

It lives in a process namespace that ends with the thread that boots it, so nothing of it outlives a killed `make lab`.
"""

import os
import re
import select
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab.images import PROJECT, STANDARD_LIBRARY, VENV, build_project_image, build_python_image
from lab.processes import DIES_WITH_PARENT
from lab.scratch import Scratch

MEMORY_MIB = 5120
PROCESSORS = 2
SILENCE_S = 420.0
"""A VM that says nothing for so long hangs: single tests have limits far below."""
LIMIT_S = 3000.0
STACKS_S = 15.0
HUNG = 124  # the status of `timeout` from coreutils
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


def run_tests(run: Run, kernel_log: Path) -> int:
    """Boot, run the command, pass on what it prints; its status, or HUNG. The kernel's log goes to a file.

    A VM that falls silent, or takes too long, is asked for the stacks of all its tasks (they are in the log) and ended.
    """
    with Scratch() as scratch, kernel_log.open("wb") as log:
        folder = scratch.path
        process = subprocess.Popen(
            [*_make_outer(), *_make_vng(folder, run, "--verbose")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_make_environment(folder),
            start_new_session=True,
        )
        try:
            if _pass_on(process, run):
                return process.wait()
            _ask_for_stacks(folder / "monitor")
            print(f"\nlab: it hangs; what its tasks wait for is in {kernel_log}", file=sys.stderr, flush=True)
            return HUNG
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def run_interactively(run: Run) -> int:
    """Boot with this terminal as the VM's console and run the command there; the status is the VM's."""
    with Scratch() as scratch:
        folder = scratch.path
        inside = folder / "shell"
        inside.write_text(f"#!/bin/bash\n{_format_script(run)}\n")
        inside.chmod(0o755)
        command = [*_make_outer(), *_make_vng(folder, None, "--shell", str(inside))]
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


def _make_vng(folder: Path, run: Run | None, *more: str) -> list[str]:
    if shutil.which("vng", path=str(VENV / "bin")) is None:
        raise LabError("virtme-ng is not in .venv: run make lab")
    disks = {"python": build_python_image(), "project": build_project_image()}
    devices = [f"-chardev socket,id=hmp,path={folder / 'monitor'},server=on,wait=off", "-mon chardev=hmp,mode=readline"]
    for name, image in disks.items():
        devices.append(f"-drive if=none,id={name},file={image},format=raw,readonly=on")
        devices.append(f"-device virtio-blk-pci,drive={name},serial={name}")
    command = ["vng", "--disable-kvm", "--run", str(find_kernel()), "--user", "root", "--name", "lab", "--cwd", "/"]
    command += ["--cpus", str(PROCESSORS), "--memory", f"{MEMORY_MIB}M", *more]
    command += [word for overlay in OVERLAYS for word in ("--overlay-rwdir", overlay)]
    command += [f"--qemu-opts={' '.join(devices)}"]
    return command if run is None else [*command, "--", _format_script(run)]


def _format_script(run: Run) -> str:
    """What root's shell in the VM is given."""
    words = ["bash", str(PROJECT / "lab/inside.sh"), str(PROJECT), str(STANDARD_LIBRARY), *run.command]
    variables = [f"{name}={value}" for name, value in run.environment.items()]
    return f"exec {shlex.join(['env', *variables, *words])} 2>&1"


def _pass_on(process: "subprocess.Popen[bytes]", run: Run) -> bool:
    """Copy what the VM says to our output until its end; False when it hangs."""
    assert process.stdout is not None
    end_s = time.monotonic() + run.limit_s
    while True:
        patience_s = min(run.silence_s, end_s - time.monotonic())
        if not select.select([process.stdout], [], [], max(0.0, patience_s))[0]:
            return False
        said = os.read(process.stdout.fileno(), 65536)
        if not said:
            return True
        sys.stdout.buffer.write(said)
        sys.stdout.buffer.flush()


def _ask_for_stacks(monitor: Path) -> None:
    """Have the kernel log the stacks of everything, of all processors, and last of the tasks that are blocked."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(monitor))
        for key in "tlw":
            connection.sendall(f"sendkey alt-sysrq-{key}\n".encode())
            time.sleep(STACKS_S / 3)  # it goes over a serial line, and nobody says when it has gone
