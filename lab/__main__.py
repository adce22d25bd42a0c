"""Boots lab VMs and runs their tests, or a shell: `python -m lab [all | test [PYTEST-ARGUMENT ...] | shell]`.

All are the tests of the lab, by several VMs side by side (`VMS=N`), and beside them those of ended runs. The kernel is
Debian's for user mode, or with `KERNEL=stock` the usual one, emulated.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from types import FrameType

from lab import turns
from lab.commands import PartFailed
from lab.images import CACHE, PROJECT, VENV
from lab.machines import MACHINES, SHARED, LabError, Machine
from lab.scratch import Scratch
from lab.vm import Run, find_kernel_log, run_interactively, run_tests, tell_kernel_log

SOAK = "VDSM_SOAK"
SOAK_S = 6 * 3600.0
"""Full counts may take so long, and a test that makes them says nothing meanwhile."""
PASSED_ON = (SOAK, "CI")
LOGS = CACHE / "logs"
USUAL_VMS = 2
"""Python in a VM keeps one processor busy."""
AROUND = {"around": [sys.executable, "-m", "pytest", "-v", "tests/around"]}
LAST_LINES, LAST_CHARACTERS = 20, 300
"""Who sees the end of the output only should learn there what failed."""


def make_pytest(arguments: list[str]) -> list[str]:
    """pytest as it runs in the VM; by default on all of the lab's tests."""
    command = [str(VENV / "bin/python"), "-m", "pytest", "-c", "tests/lab/pytest.ini", "--rootdir", str(PROJECT)]
    return [*command, *(arguments or ["tests/lab"])]


def test(machine: Machine, command: list[str], vms: int, beside: Mapping[str, list[str]]) -> int:
    """Run pytest in so many VMs, and these commands here; the kernel's log is shown when one fails."""
    names = [""] if vms == 1 and not beside else [str(number) for number in range(1, vms + 1)]
    LOGS.mkdir(parents=True, exist_ok=True)
    begin_s = time.monotonic()
    with Scratch() as scratch:
        runs = {name: _make_run(command, {turns.VARIABLE: f"{SHARED}/{name or 1}"}) for name in names}
        outcomes = run_tests(machine, runs, beside, scratch.path, LOGS)
        lost, count = turns.list_lost(scratch.path), turns.count(scratch.path)
    for name in names:
        if outcomes[name].status != 0:
            tell_kernel_log(find_kernel_log(LOGS, name))
    told = [f"{name} {line}".strip() for name, outcome in outcomes.items() for line in outcome.failures]
    for line in [*lost, *told][:LAST_LINES]:
        print(f"lab: {line[:LAST_CHARACTERS]}", file=sys.stderr)
    status = max(outcome.status for outcome in outcomes.values()) or (1 if lost else 0)
    failed = [name or "VM" for name, outcome in outcomes.items() if outcome.status != 0]
    verdict = "OK" if status == 0 else f"FAILED ({status}; {', '.join(failed) or 'lost tests'})"
    print(f"lab: {verdict}, {count} tests ran, {len(lost)} lost, {time.monotonic() - begin_s:.0f} s", flush=True)
    return status


def keep(machine: Machine, command: list[str]) -> int:
    """Run pytest in a VM with this terminal, which has a shell there when a test fails; the status is pytest's."""
    with Scratch() as scratch:
        return run_interactively(machine, _make_run(["bash", "lab/keep.sh", *command], {}), scratch.path)


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
    machine = _choose_machine()
    if task == "shell":
        with Scratch() as scratch:
            return run_interactively(machine, Run(["bash", "-i"], {}), scratch.path)
    command = make_pytest(list(arguments))
    if os.environ.get("KEEP"):
        return keep(machine, command)
    vms = int(os.environ.get("VMS") or (1 if arguments else USUAL_VMS))
    return test(machine, command, vms, AROUND if task == "all" else {})


def _choose_machine() -> Machine:
    name = os.environ.get("KERNEL") or "user"
    if name not in MACHINES:
        raise LabError(f"no kernel is called {name}; there are: {', '.join(MACHINES)}")
    return MACHINES[name]


def _make_run(command: list[str], environment: Mapping[str, str]) -> Run:
    run = Run(command, {**environment, **{name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}})
    return replace(run, silence_s=SOAK_S, limit_s=SOAK_S) if SOAK in run.environment else run


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
