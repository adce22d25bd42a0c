"""Boots the lab VM and runs its tests, or a shell: `python -m lab [test [PYTEST-ARGUMENT ...] | shell]`."""

import os
import signal
import sys
import time
from types import FrameType

from lab.commands import PartFailed
from lab.images import CACHE, PROJECT, VENV
from lab.vm import LabError, Run, run_interactively, run_tests, tell_kernel_log

PASSED_ON = ("VDSM_SOAK", "CI")


def make_pytest(arguments: list[str]) -> list[str]:
    """pytest as it runs in the VM; by default on all of the lab's tests."""
    command = [str(VENV / "bin/python"), "-m", "pytest", "-c", "tests/lab/pytest.ini", "--rootdir", str(PROJECT)]
    return [*command, *(arguments or ["tests/lab"])]


def test(arguments: list[str]) -> int:
    """Run the lab's tests; their logs and the kernel's are shown when one fails."""
    environment = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
    run = Run(make_pytest(arguments), environment)
    if os.environ.get("KEEP"):
        return run_interactively(Run(["bash", "lab/keep.sh", *run.command], environment))
    kernel_log = CACHE / "kernel.log"
    begin_s = time.monotonic()
    status = run_tests(run, kernel_log)
    if status != 0:
        tell_kernel_log(kernel_log)
    print(f"lab: {'OK' if status == 0 else f'FAILED ({status})'}, {time.monotonic() - begin_s:.0f} s", flush=True)
    return status


def main(arguments: list[str]) -> int:
    """The exit status is pytest's own, or that of a VM that hung."""
    CACHE.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    try:
        if arguments == ["shell"]:
            return run_interactively(Run(["bash", "-i"], {}))
        return test(arguments[1:] if arguments[:1] == ["test"] else arguments)
    except (LabError, PartFailed) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
