"""Ending a whole test run, in a place of its own, at any moment and in any way, and seeing what of it stays.

Nobody else lives in the place: whatever is new there is the run's.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from lab.images import PROJECT
from lab.namespaces import Namespaces
from lab.processes import Spawned
from lab.scratch import Scratch

END_S = 40.0
OUTPUT = "run/output"
# The project may be below /tmp, which is another folder inside.
SETUP = """
mkdir -p /run/project {scratch}/tmp {scratch}/logs {project}/.cache/lab/logs
mount --bind {project} /run/project
mount --bind {scratch}/logs /run/project/.cache/lab/logs # a run out here may be writing there
mount --bind {scratch}/tmp /tmp
mkdir -p {project}
mount --rbind /run/project {project}
"""
LOOK = """
import dataclasses, json, os
from lab.remains import look
seen = dataclasses.asdict(look())
seen["processes"] = [line for line in seen["processes"] if int(line.split()[0]) != os.getpid()]
print(json.dumps({name: sorted(found) for name, found in seen.items()}))
"""
SWEEP = "from lab.scratch import sweep; sweep()"

Seen = dict[str, list[str]]
"""What is in a place, by kind."""


class Place(Namespaces):
    """Runs a program and ends it. A context manager, as `place` gives it."""

    def __init__(self, scratch: Scratch) -> None:
        super().__init__("place", setup=SETUP.format(scratch=scratch.path, project=PROJECT))

    def begin(self, *command: str) -> Spawned:
        """The program in the project's folder and a process group of its own, as a terminal's shell starts it.

        Who was started in the background ignores SIGINT, and its children would, too.
        """
        with (self.root / OUTPUT).open("wb") as output:
            words = ["env", "--default-signal=INT", "--chdir", str(PROJECT), *command]
            return self.spawn(*words, stdout=output, stderr=output)

    def read_output(self) -> str:
        """The end of what the last program said."""
        return (self.root / OUTPUT).read_text(errors="replace")[-3000:]

    def look(self) -> Seen:
        """What is there now."""
        seen: Seen = json.loads(self._run_python(LOOK))
        return seen

    def sweep(self) -> None:
        """What the next start does with folders that have no owner."""
        self._run_python(SWEEP)

    def _run_python(self, program: str) -> str:
        return self.run("env", f"PYTHONPATH={PROJECT}", sys.executable, "-c", program)


End = Callable[[Place, Spawned], None]


def press_ctrl_c(place: Place, run: Spawned) -> None:
    """As a terminal does: all of its process group hear of it."""
    _signal_group(place, run, signal.SIGINT)


def terminate(place: Place, run: Spawned) -> None:
    """Only the program itself is told."""
    with suppress(ProcessLookupError):  # it was done
        os.kill(run.pid, signal.SIGTERM)


def kill(place: Place, run: Spawned) -> None:
    """The worst: nobody gets to clean up anything."""
    _signal_group(place, run, signal.SIGKILL)


ENDS = (press_ctrl_c, terminate, kill)


@pytest.fixture
def place() -> Iterator[Place]:
    """An empty place."""
    with Scratch() as scratch, Place(scratch) as place:
        yield place


def end_at_random(place: Place, run: Spawned, end: End, before: Seen, within_s: float) -> None:
    """End the program within so many seconds; fails when anything is there afterwards that was not before."""
    moment_s = random.uniform(0, within_s)
    time.sleep(moment_s)
    status = run.process.poll()
    assert status in (None, 0), f"it ended by itself within {moment_s:.1f} s:\n{place.read_output()}"
    end(place, run)
    deadline = time.monotonic() + END_S
    while (left := _list_new(place.look(), before)) and time.monotonic() < deadline:
        if end is not press_ctrl_c:
            place.sweep()
    assert left == [], "\n".join([f"ended after {moment_s:.1f} s:", place.read_output(), "left behind:", *left])


def _list_new(seen: Seen, before: Seen) -> list[str]:
    return [f"{kind}: {name}" for kind, names in seen.items() for name in names if name not in before[kind]]


def _signal_group(place: Place, run: Spawned, number: signal.Signals) -> None:
    """Who stands between us and them, in the same group, is not signalled."""
    for pid in place.list_pids():
        try:
            if os.getpgid(pid) == run.process.pid:
                os.kill(pid, number)
        except ProcessLookupError:
            pass
