"""However a run of these tests ends, nothing of it stays: a run in a place of its own is interrupted or killed, at any
moment, and the place is compared with what it was before."""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator

import pytest

import lab.hosts
from lab.commands import wait_for
from lab.images import PROJECT
from lab.namespaces import Namespaces
from lab.processes import Spawned
from lab.scratch import Scratch

TESTS = ("tests/system/hosts/test_faults.py", "tests/system/daemon/test_restart.py")
LAST_S = 8.0
END_S = 40.0
# The project may be below /tmp, which is another folder inside.
SETUP = """
mkdir -p /run/project {scratch}/tmp
mount --bind {project} /run/project
mount --bind {scratch}/tmp /tmp
mkdir -p {project}
mount --bind /run/project {project}
"""
LOOK = """
import dataclasses, json, os
from lab.remains import look
seen = dataclasses.asdict(look())
seen["processes"] = [line for line in seen["processes"] if int(line.split()[0]) != os.getpid()]
print(json.dumps({name: sorted(found) for name, found in seen.items()}))
"""
SWEEP = "from lab.scratch import sweep; sweep()"


@pytest.fixture
def place() -> Iterator[Namespaces]:
    """Where whatever is left can only be ours."""
    reason = lab.hosts.why_not()
    if reason is not None:
        pytest.skip(reason)
    with Scratch() as scratch, Namespaces("place", setup=SETUP.format(scratch=scratch.path, project=PROJECT)) as place:
        yield place


def run_python(place: Namespaces, program: str) -> str:
    return place.run("env", f"PYTHONPATH={PROJECT}", sys.executable, "-c", program)


def look(place: Namespaces) -> dict[str, list[str]]:
    """What is there, by kind."""
    seen: dict[str, list[str]] = json.loads(run_python(place, LOOK))
    return seen


def list_new(seen: dict[str, list[str]], before: dict[str, list[str]]) -> list[str]:
    return [f"{kind}: {name}" for kind, names in seen.items() for name in names if name not in before[kind]]


def start_tests(place: Namespaces) -> Spawned:
    """These tests on two workers, as `make system` runs them; the terminal's process group is theirs."""
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile"]
    with (place.root / "run/output").open("wb") as output:
        words = ["env", "--chdir", str(PROJECT), *pytest_command, *TESTS]
        return place.spawn(*words, stdout=output, stderr=output)


def signal_all(place: Namespaces, run: Spawned, number: signal.Signals) -> None:
    """Signal who runs the tests and its workers, but not who stands between us and them."""
    for pid in place.list_pids():
        try:
            if os.getpgid(pid) == run.process.pid:
                os.kill(pid, number)
        except ProcessLookupError:
            pass


def press_ctrl_c(place: Namespaces, run: Spawned) -> None:
    """As a terminal does."""
    signal_all(place, run, signal.SIGINT)


def terminate(place: Namespaces, run: Spawned) -> None:
    """Who runs the tests ends at once, and its workers are not told."""
    os.kill(run.pid, signal.SIGTERM)


def kill(place: Namespaces, run: Spawned) -> None:
    """The worst: nobody gets to clean up anything."""
    signal_all(place, run, signal.SIGKILL)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("end", [press_ctrl_c, terminate, kill])
def test_an_ended_run_leaves_nothing_behind(
    place: Namespaces, rounds: Callable[[int, int], int], end: Callable[[Namespaces, Spawned], None]
) -> None:
    before = look(place)
    for _ in range(rounds(1, 30)):
        run = start_tests(place)
        wait_for(lambda: any((place.root / "tmp").glob("vdsm-scratch-*")), "the first host or daemon is made")
        moment_s = random.uniform(0, LAST_S)
        time.sleep(moment_s)
        end(place, run)
        deadline = time.monotonic() + END_S
        while (left := list_new(look(place), before)) and time.monotonic() < deadline:
            if end is not press_ctrl_c:
                run_python(place, SWEEP)  # what the next start does
        output = (place.root / "run/output").read_text()[-3000:]
        assert left == [], f"left behind when ended after {moment_s:.1f} s:\n{output}"
