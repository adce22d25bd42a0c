"""The small agent of guest/: what it tells is what the host understands, and it does what the host says."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from guest.vdsm_guest_agent import Agent
from vdsm.virt.guest import messages
from vdsm.virt.guest.figures import GuestFigures, apply
from vdsm.virt.guest.messages import Lines, decode, encode

LIMIT_S = 30.0


class Host:
    """The host's end of the channel."""

    def __init__(self) -> None:
        self.socket, guests = socket.socketpair()
        self.socket.settimeout(LIMIT_S)
        self.lines = Lines()
        self.ran: list[tuple[str, ...]] = []
        self.agent = Agent(guests.detach(), run=self._run)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        self.agent.serve()
        os.close(self.agent._descriptor)

    def _run(self, *command: str) -> str:
        self.ran.append(command)
        return ""

    def tell(self, name: str, /, **arguments: object) -> None:
        self.socket.sendall(encode(name, arguments))

    def hear(self, until: str) -> list[messages.Message]:
        """Everything up to a message of that name."""
        heard = []
        while True:
            for line in self.lines.feed(self.socket.recv(65536)):
                heard.append((json.loads(line)["__name__"], decode(line)))
            if until in [name for name, _ in heard]:
                return [message for _, message in heard]

    def close(self) -> None:
        self.socket.close()
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


def test_it_tells_what_this_machine_is(host: Host) -> None:
    heard = host.hear("number-of-cpus")
    host.tell("refresh", apiVersion=3)
    heard += host.hear("number-of-cpus")
    known = GuestFigures()
    for message in heard:
        known = apply(known, message, time.time())
    assert known.host_name == socket.gethostname()
    assert known.os_version == os.uname().release
    assert known.cpus == os.cpu_count()
    assert known.mounts and known.interfaces is not None
    assert isinstance(known.free_mib, int) and known.free_mib > 0
    assert {message.version for message in heard if isinstance(message, messages.Heartbeat)} == {3}


def test_it_does_what_it_is_told(host: Host) -> None:
    host.hear("number-of-cpus")
    host.tell("lock-screen")
    assert messages.SessionChanged("Locked") in host.hear("session-lock")
    host.tell("api-version", apiVersion=3)
    host.tell("lifecycle-event", type="before_migration", reply_id=7)
    host.hear("completion")
    host.tell("shutdown", timeout=61, message="bye", reboot="False")
    host.hear("session-shutdown")
    host.tell("shutdown", timeout=0, message="", reboot="True")
    host.hear("session-shutdown")
    host.tell("log-off")
    host.hear("session-logoff")
    assert host.ran[:3] == [
        ("loginctl", "lock-sessions"),
        ("shutdown", "-P", "+2", "bye"),
        ("shutdown", "-r", "+0", ""),
    ]


def test_nonsense_does_not_end_it(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    host.hear("number-of-cpus")
    host.socket.sendall(b"\xff\n[]\n{}\n\n" + b'{"__name__": "shutdown", "timeout": "x"}\n')
    host.tell("dance")
    host.tell("lock-screen")
    host.hear("session-lock")
    assert "dance" in capfd.readouterr().err
    assert host.ran == [("loginctl", "lock-sessions")]
