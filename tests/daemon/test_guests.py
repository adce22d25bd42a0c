"""The inside of a VM: a whole daemon, a real socket, and the small agent of guest/ at its other end."""

import asyncio
import json
import os
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest.vdsm_guest_agent import Agent
from tests.daemon.running import PREFIX, Running, make_id
from vdsm.wire.client import CallFailed

DOMAIN = """<domain type="qemu"><name>inside</name><uuid>{vm_id}</uuid><memory unit="MiB">64</memory><vcpu>1</vcpu>
<os><type arch="x86_64" machine="pc">hvm</type></os><metadata><vm xmlns="http://ovirt.org/vm/1.0"/></metadata>
<devices><channel type="unix"><source mode="bind" path="{path}"/><target type="virtio" name="ovirt-guest-agent.0"/>
</channel></devices></domain>"""


class Inside:
    """A VM's end of the channel, where qemu would be: takes the daemon's connection and lets the agent talk there."""

    def __init__(self, path: Path) -> None:
        self.ran: list[tuple[str, ...]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                descriptor = self._listener.accept()[0].detach()
            except OSError:
                return
            Agent(descriptor, run=self._run).serve()
            os.close(descriptor)

    def _run(self, *command: str) -> str:
        self.ran.append(command)
        return ""

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(30)


@pytest.fixture
def inside(root: Path) -> Iterator[Inside]:
    inside = Inside(root / "agent")
    yield inside
    inside.close()


async def start(daemon: Running, root: Path) -> str:
    vm_id = make_id()
    xml = DOMAIN.format(vm_id=vm_id, path=root / "agent")
    await daemon.rpc("VM.create", {"vmID": vm_id, "vmParams": {"xml": xml}})
    await daemon.wait_until(lambda: "Up" in daemon.list_statuses(vm_id))
    return vm_id


async def test_an_agent_and_all_who_want_to_know(inside: Inside, daemon: Running, root: Path) -> None:
    vm_id = await start(daemon, root)
    await daemon.rpc("VM.desktopLock", {"vmID": vm_id})
    await daemon.wait_until(lambda: daemon.node.vms._shared.vms[vm_id].guest_news[3] == "Locked")
    [stats] = await daemon.rpc("VM.getStats", {"vmID": vm_id})
    assert (stats["session"], stats["guestName"]) == ("Locked", socket.gethostname())
    assert int(stats["memUsage"]) == 0, "this machine has more memory free than the VM has"
    assert stats["guestCPUCount"] == os.cpu_count()
    assert stats["guestOsInfo"]["kernel"] == stats["guestOs"] == os.uname().release
    assert set(stats["netIfaces"][0]) == {"name", "hw", "inet", "inet6"}
    assert {type(stats["disksUsage"][0][key]) for key in ("total", "used", "path", "fs")} == {str}
    assert stats["memoryStats"]["mem_free"] == stats["memoryStats"]["mem_unused"]
    body = (await daemon.rest("GET", f"{PREFIX}/vms/{vm_id}/stats")).json
    assert body["guest_host_name"] == socket.gethostname()
    answer = await daemon.rest("POST", f"{PREFIX}/vms/{vm_id}/desktop/lock")
    assert answer.status in (200, 204)
    await daemon.rpc("VM.desktopLogin", {"vmID": vm_id, "domain": "d", "username": "u", "password": "p"})
    await daemon.rpc("VM.desktopSendHcCommand", {"vmID": vm_id, "message": "dance"})
    assert ("loginctl", "lock-sessions") in inside.ran


class Babbler:
    """A guest that never stops to say something."""

    def __init__(self, path: Path, words: bytes) -> None:
        self.written = 0
        self._words = words
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._peer: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        try:
            self._peer, _ = self._listener.accept()
            while True:
                self.written += self._peer.send(self._words)
        except OSError:
            return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._peer is not None:
            self._peer.shutdown(socket.SHUT_RDWR)
            self._peer.close()
        self._thread.join(30)


@pytest.mark.parametrize(
    "words",
    [
        b'{"__name__": "active-user", "name": "a"}\n{"__name__": "active-user", "name": "b"}\n' * 500,
        b'{"__name__": "applications", "applications": ["' + b"x" * 500_000 + b'"]}\n',
        b"[" * 65536,
        b"\xff\n" * 30_000,
    ],
    ids=["users", "applications", "brackets", "no text"],
)
async def test_guests_that_babble_hurt_nobody(daemon: Running, root: Path, words: bytes) -> None:
    babbler = Babbler(root / "agent", words)
    try:
        begin_s = time.monotonic()
        vm_id = make_id()
        xml = DOMAIN.format(vm_id=vm_id, path=root / "agent")
        await daemon.rpc("VM.create", {"vmID": vm_id, "vmParams": {"xml": xml}})
        await daemon.wait_until(lambda: daemon.list_statuses(vm_id))
        async with asyncio.timeout(30):
            while babbler.written == 0:
                await daemon.rpc("Host.ping2")
        took_s = []
        for _ in range(100):
            called_s = time.monotonic()
            await daemon.rpc("VM.getStats", {"vmID": vm_id})
            took_s.append(time.monotonic() - called_s)
        seconds = time.monotonic() - begin_s
        assert statistics.median(took_s) < 0.25, "a call takes a few ms, more on a busy machine"
        assert babbler.written < (400 + 100 * seconds) * 4096 + (2 << 20), "what was read, and what sockets hold"
        assert len(daemon.list_statuses(vm_id)) <= 3 + seconds / 5
        [stats] = await daemon.rpc("VM.getStats", {"vmID": vm_id})
        assert len(json.dumps(stats)) < 5000
    finally:
        babbler.close()


async def test_without_an_agent(daemon: Running, root: Path) -> None:
    vm_id = make_id()
    xml = DOMAIN.format(vm_id=vm_id, path=root / "nobody")
    await daemon.rpc("VM.create", {"vmID": vm_id, "vmParams": {"xml": xml}})
    await daemon.wait_until(lambda: daemon.list_statuses(vm_id))
    for verb, given in (("desktopLock", {}), ("desktopLogoff", {"force": True})):
        with pytest.raises(CallFailed) as caught:
            await daemon.rpc(f"VM.{verb}", {"vmID": vm_id, **given})
        assert caught.value.code == 19
    [stats] = await daemon.rpc("VM.getStats", {"vmID": vm_id})
    unknown = {"username": "Unknown", "session": "Unknown", "memUsage": "0", "guestCPUCount": -1, "appsList": []}
    assert {key: stats[key] for key in unknown} == unknown
    assert (stats["guestIPs"], stats["guestFQDN"]) == ("", "")
    assert "memoryStats" not in stats and "netIfaces" not in stats
