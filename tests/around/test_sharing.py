"""Pytests that share test files run each test once, and it is noticed when they do not; who hangs is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab import turns
from lab.images import PROJECT
from lab.voices import Voice, pass_on

CONFTEST = (PROJECT / "tests/lab/conftest.py").read_text().partition("\n\n\n")[0]
FILES = 6


def make_tests(folder: Path, body: str = "pass") -> Path:
    """Some files of two tests each, in two folders; the body is that of the last one's."""
    place = folder / "tests"
    place.mkdir()
    (place / "conftest.py").write_text(CONFTEST)
    for part in range(2):
        (place / f"part{part}").mkdir()
    for number in range(FILES):
        last = body if number == FILES - 1 else "pass"
        text = f"import os, time\ndef test_one(): time.sleep(0.05)\ndef test_two(): {last}\n"
        (place / f"part{number % 2}" / f"test_{number}.py").write_text(text)
    return place


def start(tests: Path, meeting: Path, name: str) -> "subprocess.Popen[bytes]":
    words = ["-m", "pytest", "-c", PROJECT / "tests/lab/pytest.ini", "--rootdir", tests, "--confcutdir", tests, tests]
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", turns.VARIABLE: str(meeting / name)}  # as in the VM
    return subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, env={**os.environ, **alone}, cwd=PROJECT)


def run_both(folder: Path, tests: Path) -> tuple[list[str], list[int]]:
    """What two of them said, and their statuses."""
    meeting = folder / "meeting"
    meeting.mkdir()
    both = [start(tests, meeting, name) for name in "12"]
    said = [process.communicate()[0].decode() for process in both]
    return said, [process.returncode for process in both]


def test_each_test_is_run_by_one(tmp_path: Path) -> None:
    said, statuses = run_both(tmp_path, make_tests(tmp_path))
    assert statuses == [0, 0], said
    assert sum(text.count(" PASSED") for text in said) == 2 * FILES == turns.count(tmp_path / "meeting")
    assert turns.list_lost(tmp_path / "meeting") == []


def test_those_of_one_that_dies_are_told_as_lost(tmp_path: Path) -> None:
    _, statuses = run_both(tmp_path, make_tests(tmp_path, "os._exit(0)"))
    assert statuses == [0, 0]  # nobody noticed
    assert f"test_{FILES - 1}.py::test_two: ran 0 times" in " ".join(turns.list_lost(tmp_path / "meeting"))


def test_one_that_two_ran_is_told(tmp_path: Path) -> None:
    for name in "12":
        (tmp_path / f"collected-{name}").write_text("a::b\n")
        (tmp_path / f"ran-{name}").write_text("a::b\n")
    assert turns.list_lost(tmp_path) == ["a::b: ran 2 times"]


def test_files_with_the_highest_limits_come_first(tmp_path: Path) -> None:
    tests = make_tests(tmp_path)
    long = "import pytest\npytestmark = pytest.mark.timeout(1000)\ndef test_long(): pass\n"
    (tests / f"test_{FILES}.py").write_text(long)
    said, _ = run_both(tmp_path, tests)
    first = next(line for text in said for line in text.splitlines() if "test_long" in line and "PASSED" in line)
    shown = [line for text in said if first in text for line in text.splitlines() if line.endswith("PASSED")]
    assert shown[0] == first


def speak(name: str, script: str, silence_s: float, limit_s: float = 60.0, begin_s: float = 60.0) -> Voice:
    process = subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE)
    return Voice(process, name, silence_s, limit_s, begin_s)


def test_lines_carry_names_and_the_silent_and_the_slow_are_told(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    well = speak("well", "echo a; echo -n b; sleep 0.2; echo c; echo -n d", 60)
    silent = speak("silent", "echo -n begun; exec sleep 60", 1)
    slow = speak("slow", "while echo on; do sleep 0.1; done", 60, limit_s=1)
    mute = speak("mute", "exec sleep 60", 60, begin_s=1)
    patient = speak("patient", "sleep 6; echo", 5)
    voices = [well, silent, slow, mute, patient]
    hung = {voice.name for voice in pass_on(voices)}
    for voice in voices:
        voice.process.kill()
        voice.process.communicate()
    lines = capfdbinary.readouterr().out.splitlines()
    assert hung == {"silent", "slow", "mute"}
    assert [line for line in lines if line.startswith(b"well")] == [b"well | a", b"well | bc", b"well | d"]
    assert b"silent | begun" in lines and b"slow | on" in lines


@pytest.mark.parametrize("name", ["", "1"])
def test_what_failed_is_kept_for_the_end(name: str) -> None:
    script = "echo 'a.py FAILED'; echo -n FA; sleep 0.2; printf 'ILED a.py::test - why\\r\\n'; echo ERROR b.py"
    voice = speak(name, script, 60)
    assert list(pass_on([voice])) == []
    voice.process.communicate()
    assert voice.failures == ["FAILED a.py::test - why", "ERROR b.py"]
