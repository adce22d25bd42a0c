"""Lab VMs side by side, and what they say. Each sees this machine's own file system, read-only with overlays.

A VM lives in a process namespace that ends with the thread that boots it: nothing of it outlives a killed `make lab`.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lab.images import PROJECT, STANDARD_LIBRARY, VENV, build_project_image, build_python_image
from lab.machines import SHARED, Boot, Machine
from lab.processes import DIES_WITH_PARENT, close_pipes
from lab.scratch import Scratch
from lab.voices import Voice, pass_on

SILENCE_S = 420.0
"""A VM that says nothing for so long hangs: single tests have limits far below."""
BOOT_S = 1200.0
"""It boots silently, which takes seconds, but emulated on a machine with much other work a quarter of an hour."""
LIMIT_S = 3000.0
INTERRUPTED_S = 20.0
HUNG = 124  # the status of `timeout` from coreutils
NO_STATUS = 1
KERNEL_LOG_LINES = 120


@dataclass(frozen=True)
class Run:
    """What to run in the VM and what it may take."""

    command: Sequence[str]
    environment: Mapping[str, str]
    silence_s: float = SILENCE_S
    limit_s: float = LIMIT_S


@dataclass(frozen=True)
class Outcome:
    """What a command ended with, or HUNG, and what its pytest told of tests that failed."""

    status: int
    failures: Sequence[str]


def run_tests(
    machine: Machine, runs: Mapping[str, Run], beside: Mapping[str, Sequence[str]], shared: Path, logs: Path
) -> dict[str, Outcome]:
    """Boot a VM for each run, and start the commands beside them; pass on what they say under these names.

    All VMs see the shared folder as SHARED. One that falls silent, or takes too long, is asked
    for the stacks of all its tasks, which are in its kernel's log then, and ended.
    """
    disks = _build_disks()
    with ExitStack() as stack:
        vms = [stack.enter_context(_booted(machine, name, run, disks, shared, logs)) for name, run in runs.items()]
        voices = [*vms, *(stack.enter_context(_started(name, command)) for name, command in beside.items())]
        hung = []
        for voice in pass_on(voices):
            hung.append(voice)
            print(f"\nlab: {voice.name or 'it'} hangs", file=sys.stderr, flush=True)
            if voice.name in runs:
                machine.ask_for_stacks(voice.folder)
                where = find_kernel_log(logs, voice.name)
                print(f"lab: what its tasks wait for is in {where}", file=sys.stderr, flush=True)
            _end(voice.process)
        statuses = {voice.name: voice.process.wait() for voice in voices}
    statuses |= {vm.name: _read_status(shared, vm.name) for vm in vms}
    statuses |= dict.fromkeys((voice.name for voice in hung), HUNG)
    return {voice.name: Outcome(statuses[voice.name], voice.failures) for voice in voices}


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
    folder: Path = Path()
    """Of a VM: its own."""


@contextmanager
def _booted(
    machine: Machine, name: str, run: Run, disks: Mapping[str, Path], shared: Path, logs: Path
) -> Iterator[_Child]:
    with Scratch() as scratch, find_kernel_log(logs, name).open("wb") as log:
        folder = scratch.path
        boot = Boot(folder, disks, shared, _write_script(folder, machine, run, name))
        process = subprocess.Popen(
            [*_make_outer(), *machine.make_command(boot)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_make_environment(folder),
            start_new_session=True,
        )
        try:
            yield _Child(process, name, run.silence_s, run.limit_s, BOOT_S, folder=folder)
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    close_pipes(process)


def run_interactively(machine: Machine, run: Run, shared: Path) -> int:
    """Boot with this terminal as the VM's console and run the command there; its status.

    The VM sees the shared folder as SHARED.
    """
    with Scratch() as scratch:
        folder = scratch.path
        boot = Boot(folder, _build_disks(), shared, _write_script(folder, machine, run, ""), is_interactive=True)
        command = [*_make_outer(), *machine.make_command(boot)]
        subprocess.run(command, env=_make_environment(folder))
    return _read_status(shared, "")


def tell_kernel_log(kernel_log: Path) -> None:
    """Print the end of the kernel's log."""
    lines = kernel_log.read_text(errors="replace").splitlines()
    print(f"lab: what the kernel said at last (all of it: {kernel_log}):", file=sys.stderr)
    print("\n".join(lines[-KERNEL_LOG_LINES:]), file=sys.stderr)


def _make_outer() -> list[str]:
    namespace = ["unshare", "--pid", "--mount", "--net", "--fork", "--kill-child", "--mount-proc"]
    return [*DIES_WITH_PARENT, *namespace, "--"]


def _make_environment(folder: Path) -> dict[str, str]:
    """Machines find their siblings on the path and write at home. Without TMPDIR user mode's memory is in /dev/shm."""
    path = f"{VENV / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "HOME": str(folder), "TERM": os.environ.get("TERM", "dumb")}


def _build_disks() -> dict[str, Path]:
    return {"python": build_python_image(), "project": build_project_image()}


def _write_script(folder: Path, machine: Machine, run: Run, name: str) -> Path:
    """What root's shell in the VM runs: the command in its places, which leaves its status in the shared folder."""
    places = [str(PROJECT), str(STANDARD_LIBRARY), machine.devices["python"], machine.devices["project"]]
    words = ["bash", str(PROJECT / "lab/inside.sh"), *places, f"{SHARED}/{_status_file(name)}", *run.command]
    variables = [f"{name}={value}" for name, value in run.environment.items()]
    script = folder / "script"
    script.write_text(f"#!/bin/bash\nexec {shlex.join(['env', *variables, *words])}\n")
    script.chmod(0o755)
    return script


def _status_file(name: str) -> str:
    return f"status-{name}"


def _read_status(shared: Path, name: str) -> int:
    """What the command ended with; NO_STATUS when the VM ended before it."""
    told = shared / _status_file(name)
    return int(told.read_text() or NO_STATUS) if told.exists() else NO_STATUS
