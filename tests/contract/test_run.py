"""The door to processes, tried with programs that every machine has; the sync and the async form keep one contract."""

import asyncio
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vdsm.adapters import run as door

Runner = Callable[..., door.Completed]


def _asynchronously(*args: object, **kwargs: object) -> door.Completed:
    return asyncio.run(door.run_async(*args, **kwargs))  # type: ignore[arg-type]


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Runner:
    return door.run if request.param == "sync" else _asynchronously


def test_output_and_folder_and_no_input(run: Runner, tmp_path: Path) -> None:
    done = run(["sh", "-c", "cat; pwd; echo bad >&2"], timeout_s=20, cwd=tmp_path)
    assert done.text == f"{tmp_path}\n"
    assert done.stderr == b"bad\n"


def test_the_environment_is_fixed(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    names = {line.split("=")[0] for line in run(["env"], timeout_s=20).text.splitlines()}
    assert names == {"LC_ALL", "PATH"}


def test_failure_carries_a_line_for_a_shell(run: Runner, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(door.CommandFailed) as raised:
        run(["sh", "-c", "echo 'oh no' >&2; exit 3"], timeout_s=20, cwd=tmp_path)
    assert (raised.value.status, raised.value.stderr) == (3, "oh no")
    assert raised.value.command == f"cd {tmp_path} && sh -c 'echo '\"'\"'oh no'\"'\"' >&2; exit 3'"
    assert raised.value.command in caplog.text


def test_expected_statuses(run: Runner) -> None:
    assert run(["sh", "-c", "exit 3"], timeout_s=20, ok=(0, 3)).status == 3


def test_missing_program_and_hostile_argument(run: Runner) -> None:
    with pytest.raises(door.CommandFailed, match="no such program"):
        run(["no-such-program-here"], timeout_s=20)
    with pytest.raises(door.CommandFailed, match="NUL"):
        run(["true", "a\0b"], timeout_s=20)


def test_the_whole_group_dies_at_the_deadline(run: Runner, tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    with pytest.raises(door.CommandTimedOut):
        run(["sh", "-c", f"sleep 1000 & echo $! > {noted}; wait"], timeout_s=0.5)
    assert _gone(int(noted.read_text()))


class Watched:
    """Long work, and what it said."""

    def __init__(self) -> None:
        self.said = b""
        self.stopping = threading.Event()

    def hear(self, piece: bytes) -> None:
        self.said += piece

    def run(self, script: str) -> door.Completed:
        return door.run_watched(["sh", "-c", script], stopping=self.stopping, on_output=self.hear)


def test_long_work_is_heard_while_it_runs_and_gives_way_to_others() -> None:
    watched = Watched()
    watched.run("echo one; head -c 300000 /dev/zero >&2; nice; ionice")
    assert watched.said == b"one\n19\nidle\n"
    with pytest.raises(door.CommandFailed) as raised:
        watched.run("head -c 300000 /dev/zero >&2; echo at last >&2; exit 3")
    assert (raised.value.status, raised.value.stderr[-7:]) == (3, "at last")


def test_long_work_that_nobody_wants_is_gone_at_once(tmp_path: Path) -> None:
    noted, watched = tmp_path / "fifo", Watched()
    os.mkfifo(noted)
    quiet = f"sleep 1000 & exec >&- 2>&-; echo $! > {noted}; wait"
    with ThreadPoolExecutor() as threads:
        work = threads.submit(watched.run, quiet)
        child = int(noted.read_text())
        start_s = time.monotonic()
        watched.stopping.set()
        assert isinstance(work.exception(20), door.CommandStopped)
    assert time.monotonic() - start_s < 2
    assert _gone(child)
    with pytest.raises(door.CommandStopped):
        watched.run("sleep 1000")


def test_long_work_dies_with_a_killed_parent(tmp_path: Path) -> None:
    noted = tmp_path / "fifo"
    os.mkfifo(noted)
    code = (
        "import threading; from vdsm.adapters.run import run_watched; run_watched(['sh', '-c', "
        f"'echo $$ > {noted}; exec sleep 1000'], stopping=threading.Event(), on_output=print)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        child = int(noted.read_text())
        parent.kill()
    assert _gone(child)


def test_a_child_whose_parent_died_before_it_could_ask_for_a_signal_does_nothing(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door.os, "getpid", lambda: 1 << 30)  # as if another process were our child's parent by now
    with pytest.raises(door.CommandFailed):
        run(["touch", tmp_path / "made"], timeout_s=20)
    assert not (tmp_path / "made").exists()


def test_what_says_too_much_is_killed() -> None:
    assert len(door.run(["head", "-c", str(1 << 20), "/dev/zero"], timeout_s=60).stdout) == 1 << 20
    with pytest.raises(door.CommandFailed, match="more than 16777216 bytes of output"):
        door.run(["cat", "/dev/zero"], timeout_s=60)


@pytest.mark.parametrize("how", ["stopped", "late"])
def test_what_is_stuck_in_the_kernel_is_waited_for_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Whoever called holds what the process may still write to, until it is really gone."""
    monkeypatch.setattr(door, "_REAP_TIMEOUT_S", 0.1)
    monkeypatch.setattr(door, "_kill", lambda _: None)  # as little as it does to what waits for storage
    answers, watched = tmp_path / "fifo", Watched()
    os.mkfifo(answers)
    script = f"read line < {answers}; echo $line > {tmp_path}/written"
    with ThreadPoolExecutor() as threads:
        if how == "late":
            work = threads.submit(door.run, ["sh", "-c", script], timeout_s=0.1, wait_out=True)
        else:
            work = threads.submit(watched.run, script)
            watched.stopping.set()
        while "STUCK in the kernel" not in caplog.text:
            time.sleep(0.01)
        assert not work.done()
        answers.write_text("late\n")
        assert isinstance(work.exception(20), door.CommandTimedOut if how == "late" else door.CommandStopped)
    assert (tmp_path / "written").read_text() == "late\n"
    assert "GONE at last" in caplog.text


@pytest.mark.filterwarnings("ignore:Exception ignored in. <function Popen")
def test_what_is_stuck_is_left_alone_where_nothing_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_REAP_TIMEOUT_S", 0.1)
    monkeypatch.setattr(door, "_kill", lambda _: None)
    answers = tmp_path / "fifo"
    os.mkfifo(answers)
    with pytest.raises(door.CommandTimedOut):
        door.run(["sh", "-c", f"read line < {answers}"], timeout_s=0.1)
    answers.write_text("late\n")


def test_children_die_with_a_killed_parent(tmp_path: Path) -> None:
    noted = tmp_path / "fifo"
    os.mkfifo(noted)
    code = f"from vdsm.adapters.run import run; run(['sh', '-c', 'echo $$ > {noted}; exec sleep 1000'], timeout_s=900)"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        child = int(noted.read_text())
        parent.kill()
    assert _gone(child)


def _gone(pid: int) -> bool:
    """Whether the process ends (or is a zombie that an init will reap) before a generous deadline."""
    deadline = 20.0
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], deadline)[0])
    finally:
        os.close(descriptor)
