"""The lab VM is what it should be, and what tests leave behind is noticed."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

import lab.remains
from lab.commands import PartFailed, run
from lab.networks import namespace
from lab.remains import nothing_left


def test_the_kernel_is_debians_and_the_machines_files_are_safe() -> None:
    assert "Debian" in Path("/proc/version").read_text()
    root = next(line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines() if " / / " in line)
    assert "ro" in root[5].split(",")


def test_what_is_left_behind_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lab.remains, "SETTLE_S", 0.2)
    with ExitStack() as later:
        with pytest.raises(PartFailed) as told, nothing_left():
            run("mount", "-t", "tmpfs", "left", tmp_path)
            later.callback(run, "umount", tmp_path)
            later.enter_context(namespace("left"))
            child = later.enter_context(subprocess.Popen(["sleep", "600"]))
            later.callback(child.kill)
    assert f"mounts: {tmp_path} (tmpfs)" in str(told.value)
    assert "namespaces: left" in str(told.value) and "sleep 600" in str(told.value)


def test_python_comes_from_the_images() -> None:
    for place in (sys.prefix, os.__file__, lab.remains.__file__):
        assert os.statvfs(place).f_flag & os.ST_RDONLY
        assert "ext4" in run("stat", "-f", "-c", "%T", place) or "ext2" in run("stat", "-f", "-c", "%T", place)


def test_a_test_that_hangs_ends_with_the_stacks_of_all_its_threads(tmp_path: Path) -> None:
    (tmp_path / "test_hang.py").write_text(
        "import threading\n"
        "def wait_for_godot():\n    threading.Event().wait()\n"
        "def test_hangs():\n"
        "    threading.Thread(target=wait_for_godot, daemon=True).start()\n"
        "    threading.Event().wait()\n"
    )
    command = [sys.executable, "-m", "pytest", "-c", "tests/lab/pytest.ini", "--timeout", "2", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    (tmp_path / "said").write_text(done.stdout + done.stderr)
    for frame in ("Stack of Thread-1 (wait_for_godot)", "def test_hangs", "Timeout (>2.0s)"):
        assert run("grep", "-cF", frame, tmp_path / "said")
