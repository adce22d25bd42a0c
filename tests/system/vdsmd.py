"""What tests of the real daemon repeat beyond calling it; among that, kills at any moment."""

import os
import signal
import threading
from collections.abc import Callable
from functools import partial

from lab.commands import wait_for as poll
from lab.pools import FORMATS, OWNER, Pool, Volume
from lab.vdsmd import (
    LIMIT_S,
    NOT_READY,
    CallFailed,
    ConnectionFailed,
    DaemonEnded,
    Vdsmd,
    make_environment,
    make_id,
)

__all__ = [
    "FORMATS",
    "LIMIT_S",
    "NOT_READY",
    "OWNER",
    "CallFailed",
    "ConnectionFailed",
    "DaemonEnded",
    "Pool",
    "Vdsmd",
    "Volume",
    "kill_during",
    "make_environment",
    "make_id",
    "poll",
]


def kill_during(
    daemon: Vdsmd, life_s: float, work: Callable[[], None], kill: Callable[[], object] | None = None
) -> None:
    """Do the work in a daemon that is killed after so many seconds, perhaps with more; its end may come first."""
    timer = threading.Timer(life_s, kill or partial(os.kill, daemon.spawned.pid, signal.SIGKILL))
    timer.start()
    try:
        work()
    except ConnectionFailed:
        pass
    finally:
        timer.cancel()
        timer.join()
        daemon.kill()
