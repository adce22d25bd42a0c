"""Unit tests that touch the machine fail, also when the code under test hides the refusal; others may."""

import shutil
import subprocess
import sys

import pytest

from tests.rules.source import REPOSITORY

OFFENDERS = {
    "process": "import subprocess\ndef test(): subprocess.run(['true'])",
    "hidden": "import subprocess\ndef test():\n    try: subprocess.run(['true'])\n    except Exception: pass",
    "asyncio": "import asyncio\nasync def test(): await (await asyncio.create_subprocess_exec('true')).wait()",
    "fork": "import os\ndef test():\n    if os.fork() == 0: os._exit(0)\n    os.wait()",
    "network": "import socket\ndef test(): socket.create_server(('127.0.0.1', 0)).close()",
}
DECENT = "import asyncio, os, socket\nasync def test(tmp_path):\n    await asyncio.sleep(0)\n    os.listdir(tmp_path)\n"
UNIX_SOCKET = (
    DECENT + "    server = socket.socket(socket.AF_UNIX)\n    server.bind(str(tmp_path / 's'))\n    server.close()\n"
)


def run_pytest(folder):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"]
    command += ["-o", f"pythonpath={REPOSITORY}", "--rootdir"]
    done = subprocess.run([*command, folder, folder], cwd=folder, capture_output=True, text=True, timeout=60)
    return done.stdout


@pytest.fixture
def folder(tmp_path):
    shutil.copy(REPOSITORY / "tests/conftest.py", tmp_path)
    (tmp_path / "unit").mkdir()
    (tmp_path / "contract").mkdir()
    return tmp_path


def test_a_unit_test_may_not_touch_the_machine(folder):
    for name, text in OFFENDERS.items():
        (folder / f"unit/test_{name}.py").write_text(text)
    out = run_pytest(folder)
    assert "4 failed, 1 passed, 5 errors" in out  # the one that passed hid its offence, and is an error all the same
    assert "a unit test starts a process" in out and "a unit test uses the network" in out


def test_others_may_and_decent_unit_tests_pass(folder):
    for name, text in OFFENDERS.items():
        (folder / f"contract/test_{name}.py").write_text(text)
    (folder / "unit/test_decent.py").write_text(UNIX_SOCKET)
    assert f"{len(OFFENDERS) + 1} passed" in run_pytest(folder)
