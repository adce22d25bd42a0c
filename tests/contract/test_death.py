"""The kernel ends a process that does not put that off: also one that stands still."""

import signal
import subprocess
import sys

import pytest

LIFE_S = 0.5
LIMIT_S = 60.0
PROGRAM = """
import os, signal, time
from vdsm.adapters.death import DeathTimer

timer = DeathTimer({life_s})
{act}
print("lives", flush=True)
"""
STANDS_STILL = "timer.set()\nos.kill(os.getpid(), signal.SIGSTOP)"
PUT_OFF = "timer = DeathTimer(2)\ntimer.set()\nfor _ in range(6):\n    time.sleep(0.5)\n    timer.put_off()"
CALLED_OFF = "timer.set()\ntimer.call_off()\ntimer.put_off()\ntime.sleep(2 * {life_s})"
CLOSED = "timer.set()\ntimer.close()\ntime.sleep(2 * {life_s})"
HAS_A_CHILD = "timer.set()\nif os.fork():\n    timer.call_off()\n    os.wait()\nelse:\n    time.sleep(2 * {life_s})"


def run(act: str) -> tuple[int, str]:
    program = PROGRAM.replace("{act}", act).replace("{life_s}", str(LIFE_S))
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, timeout=LIMIT_S, text=True)
    return done.returncode, done.stdout


def test_a_process_that_stands_still_ends() -> None:
    assert run(STANDS_STILL) == (-signal.SIGKILL, "")


@pytest.mark.parametrize("act", [PUT_OFF, CALLED_OFF, CLOSED])
def test_one_that_puts_it_off_or_calls_it_off_lives(act: str) -> None:
    assert run(act) == (0, "lives\n")


def test_a_child_has_no_such_timer() -> None:
    assert run(HAS_A_CHILD) == (0, "lives\nlives\n")
