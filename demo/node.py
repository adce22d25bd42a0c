"""A daemon under a root of its own: made, started, called over TLS, stopped; what it is asked is left to the steps."""

import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from vdsm import client

PROGRAMS = Path(sys.executable).parent
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 10.0


class NodeFailure(Exception):
    """The daemon did not do what it should; the text says what."""


class Node:
    """One daemon and the folder that everything of it hangs from."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "var/log/vdsm/vdsmd.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def configure(self) -> None:
        """Make folders, configuration and certificates with vdsm-tool."""
        self.port = _find_free_port()
        config = self.root / "etc/vdsm/vdsm.conf"
        config.parent.mkdir(parents=True)
        config.write_text(
            f"[addresses]\nmanagement_ip = 127.0.0.1\nmanagement_port = {self.port}\n"
            "[storage]\nrelabel = true\n"  # no user or group of this machine is changed for a demo
        )
        self.run_program("vdsm-tool", "configure", quiet=True)

    def start(self) -> None:
        """Start vdsmd and wait until it answers. Raises NodeFailure."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = (PROGRAMS / "vdsmd", "--root", self.root, "--foreground")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_DEADLINE_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise NodeFailure(f"vdsmd does not answer; the end of its log:\n{self.read_log_end()}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        with suppress(client.Error, OSError):
            self.call("Host.getVMList")  # refused until it knows its VMs
            return True
        return False

    def call(self, verb: str, parameters: Mapping[str, object] | None = None) -> object:
        """Call a verb over TLS. Raises client.Error."""
        with client.connect("localhost", self.port, root=self.root) as connection, connection.flow("demo"):
            return connection.call(verb, parameters or {})

    def call_task(self, verb: str, parameters: Mapping[str, object]) -> None:
        """Call a verb that starts a task, wait for it and forget it. Raises client.Error, NodeFailure."""
        task = {"taskID": self.call(verb, parameters)}
        while True:
            status = self.call("Task.getStatus", task)
            if not isinstance(status, dict):
                raise NodeFailure(f"{verb}: no status of its task")
            if status["taskState"] == "finished":
                break
            time.sleep(0.1)
        self.call("Task.clear", task)
        if status["code"]:
            raise NodeFailure(f"{verb} failed: {status['message']}")

    def run_program(self, program: str, *arguments: str, quiet: bool = False) -> None:
        """Run one of our programs on this root. Raises NodeFailure."""
        command = [str(PROGRAMS / program), "--root", str(self.root), *arguments]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=quiet, text=True, timeout=120)
        if done.returncode != 0:
            raise NodeFailure(f"{program} {' '.join(arguments)} failed: {done.stderr or ''}")

    def stop(self) -> None:
        """End the daemon; VMs keep running."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise NodeFailure("vdsmd did not end on SIGTERM") from None

    def read_log_end(self) -> str:
        """The last lines that the daemon logged."""
        with suppress(FileNotFoundError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])
        return ""


def _find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port
