"""What a network card may send and receive is what its limits say, measured at the other end of real connections."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress

import pytest

from lab import small_guest
from lab.commands import run, wait_for
from lab.hosts import Hosts
from lab.loop import scratch
from lab.vdsmd import HostVdsmd

pytestmark = pytest.mark.timeout(600)
ADDRESS, GUEST_ADDRESS = "10.7.0.1", "10.7.0.2"
SENDS, RECEIVES = 7001, 7002
BOOT_S = 240.0
LIMIT_KIB = 128
WINDOW_S = 12.0
KIB = 1024
SCRIPT = f"""
ip addr add {GUEST_ADDRESS}/24 dev eth0
ip link set eth0 up
while :; do nc {ADDRESS} {SENDS} </dev/zero; sleep 1; done &
while :; do nc {ADDRESS} {RECEIVES} >/dev/null; sleep 1; done
"""
DRIVERS = ("tun", "bridge", "sch_htb", "sch_sfq", "sch_ingress", "cls_u32", "cls_fw", "act_police")


class Peer:
    """Whom the guest talks with: it takes all that comes and sends as much as is taken, and counts both."""

    def __init__(self) -> None:
        self.received = self.sent = 0
        self._doors = [socket.create_server((ADDRESS, port)) for port in (SENDS, RECEIVES)]
        for door, work in zip(self._doors, (self._receive, self._send), strict=True):
            threading.Thread(target=self._serve, args=(door, work), daemon=True).start()

    def close(self) -> None:
        for door in self._doors:
            door.shutdown(socket.SHUT_RDWR)
            door.close()

    def measure(self, window_s: float) -> tuple[float, float]:
        """KiB a second that the guest received and sent."""
        start = (time.monotonic(), self.sent, self.received)
        time.sleep(window_s)  # over which it is measured
        took_s = (time.monotonic() - start[0]) * KIB
        return (self.sent - start[1]) / took_s, (self.received - start[2]) / took_s

    def _serve(self, door: socket.socket, work: Callable[[socket.socket], None]) -> None:
        with suppress(OSError):
            while True:
                connection, _ = door.accept()
                with connection, suppress(OSError):
                    work(connection)

    def _receive(self, connection: socket.socket) -> None:
        while data := connection.recv(1 << 16):
            self.received += len(data)

    def _send(self, connection: socket.socket) -> None:
        # What waits in the host's own buffers has not been sent.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
        while True:
            self.sent += connection.send(bytes(1 << 13))


@pytest.fixture
def daemon() -> Iterator[HostVdsmd]:
    with ExitStack() as stack:
        run("modprobe", "-a", *DRIVERS)
        hosts = stack.enter_context(Hosts(1, stack.enter_context(scratch(512 << 20))))
        [host] = hosts
        host.run("ip", "link", "add", "guests", "type", "bridge")
        host.run("ip", "addr", "add", f"{ADDRESS}/24", "dev", "guests")
        host.run("ip", "link", "set", "guests", "up")
        yield stack.enter_context(HostVdsmd(hosts, host))


def test_a_card_is_as_slow_as_it_was_told_to_be(daemon: HostVdsmd) -> None:
    (daemon.host.root_outside / "initrd").write_bytes(small_guest.build_initrd(SCRIPT))
    with daemon.host.network():
        peer = Peer()
    with closing(peer):
        vm_id = daemon.create_vm(
            memSize=small_guest.MEMORY_MIB,
            kernel=str(small_guest.find_kernel()),
            initrd=str(daemon.host.root / "initrd"),
            kernelArgs=small_guest.KERNEL_ARGUMENTS,
            devices=[{"type": "interface", "device": "bridge", "nicModel": "e1000", "network": "guests"}],
        )
        wait_for(lambda: peer.sent and peer.received, "the guest talks", BOOT_S, pause_s=1.0)
        limit = {"average": LIMIT_KIB, "peak": LIMIT_KIB, "burst": LIMIT_KIB}
        update = {"deviceType": "interface", "alias": "net0", "specParams": {"inbound": limit, "outbound": limit}}
        free = peer.measure(WINDOW_S / 2)
        daemon.call("VM.updateDevice", vmID=vm_id, params=update)
        peer.measure(WINDOW_S / 2)  # what was let in before is still on its way
        slow = peer.measure(WINDOW_S)
        assert min(free) > 2 * LIMIT_KIB, f"{free} KiB/s without limits: nothing can be said here"
        assert max(slow) < 1.25 * LIMIT_KIB, f"{slow} KiB/s with a limit of {LIMIT_KIB}"
        assert min(slow) > 0.1 * LIMIT_KIB, f"{slow} KiB/s: the guest is cut off"
        update["specParams"] = {"inbound": {"average": 0}, "outbound": {"average": 0}}
        daemon.call("VM.updateDevice", vmID=vm_id, params=update)
        assert "<bandwidth>" not in daemon.host.run("virsh", "-q", "dumpxml", vm_id)
