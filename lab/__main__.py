"""Boots lab VMs and runs their tests, or a shell: `python -m lab [all | test [PYTEST-ARGUMENT ...] | shell]`.

All are the tests of the lab, by several VMs side by side (`VMS=N`), and beside them those of ended runs.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping
from types import FrameType

from lab import turns
from lab.commands import PartFailed
from lab.images import CACHE, PROJECT, VENV
from lab.scratch import Scratch
from lab.vm import SHARED, LabError, Run, find_kernel_log, run_interactively, run_tests, tell_kernel_log

PASSED_ON = ("VDSM_SOAK", "CI")
LOGS = CACHE / "logs"
USUAL_VMS = 2
"""Python in a VM keeps one processor busy."""
AROUND = {"around": [sys.executable, "-m", "pytest", "-v", "tests/around"]}
LOST_LINES = 20


def make_pytest(arguments: list[str]) -> list[str]:
    """pytest as it runs in the VM; by default on all of the lab's tests."""
    command = [str(VENV / "bin/python"), "-m", "pytest", "-c", "tests/lab/pytest.ini", "--rootdir", str(PROJECT)]
    return [*command, *(arguments or ["tests/lab"])]


def test(command: list[str], vms: int, beside: Mapping[str, list[str]]) -> int:
    """Run pytest in so many VMs, and these commands here; the kernel's log is shown when one fails."""
    names = [""] if vms == 1 and not beside else [str(number) for number in range(1, vms + 1)]
    LOGS.mkdir(parents=True, exist_ok=True)
    begin_s = time.monotonic()
    with Scratch() as scratch:
        runs = {name: Run(command, {turns.VARIABLE: f"{SHARED}/{name or 1}", **_read_environment()}) for name in names}
        statuses = run_tests(runs, beside, scratch.path, LOGS)
        lost, count = turns.list_lost(scratch.path), turns.count(scratch.path)
    for name in names:
        if statuses[name] != 0:
            tell_kernel_log(find_kernel_log(LOGS, name))
    for line in lost[:LOST_LINES]:
        print(f"lab: {line}", file=sys.stderr)
    status = max(statuses.values()) or (1 if lost else 0)
    failed = [name or "VM" for name, found in statuses.items() if found != 0]
    verdict = "OK" if status == 0 else f"FAILED ({status}; {', '.join(failed) or 'lost tests'})"
    print(f"lab: {verdict}, {count} tests ran, {len(lost)} lost, {time.monotonic() - begin_s:.0f} s", flush=True)
    return status


def keep(command: list[str]) -> int:
    """Run pytest in a VM with this terminal, which has a shell there when a test fails; the status is pytest's."""
    with Scratch() as scratch:
        run = Run(["bash", "lab/keep.sh", f"{SHARED}/status", *command], _read_environment())
        status = run_interactively(run, scratch.path)
        told = scratch.path / "status"
        return int(told.read_text()) if told.exists() else status or 1


def main(arguments: list[str]) -> int:
    """The exit status is the worst of pytest's, or that of a VM that hung."""
    CACHE.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    try:
        return _obey(*arguments)
    except (LabError, PartFailed) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _obey(task: str = "test", *arguments: str) -> int:
    if task == "shell":
        with Scratch() as scratch:
            return run_interactively(Run(["bash", "-i"], {}), scratch.path)
    command = make_pytest(list(arguments))
    if os.environ.get("KEEP"):
        return keep(command)
    vms = int(os.environ.get("VMS") or (1 if arguments else USUAL_VMS))
    return test(command, vms, AROUND if task == "all" else {})


def _read_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
