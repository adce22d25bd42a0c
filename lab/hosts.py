"""Several hosts on one machine, joined by a network that can be cut: each with its own libvirtd, identity and disk.

What else runs on them, daemons, leases, storage servers, is in modules of its own and left to who needs it.
"""

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from lab import libvirtd
from lab.commands import run, wait_for
from lab.libvirtd import Libvirtd
from lab.namespaces import Namespaces
from lab.processes import Spawned
from lab.scratch import PARENT, Scratch

NETWORK = "192.0.2"  # of TEST-NET-1: routed nowhere
PREFIX = 24
_LINK = "eth0"


def why_not() -> str | None:
    """Why there can be no hosts here, or None."""
    if shutil.which("bridge") is None:
        return "not installed: bridge (iproute2)"
    return libvirtd.why_not()


class Switch(Namespaces):
    """A bridge in a place of its own; servers that are no hosts run here too, at its `address`."""

    def __init__(self) -> None:
        self.address = f"{NETWORK}.254"
        # Left to itself, a bridge has the lowest address of its ports: with the host behind that one its own would go,
        # and the other hosts would know it by the old one for seconds.
        bridge = f"ip link add bridge address {make_hardware(self.address)} type bridge forward_delay 0"
        setup = f"{bridge}; ip link set bridge up\nip address add {self.address}/{PREFIX} dev bridge"
        super().__init__("switch", setup=setup)

    def plug(self, host: Namespaces, port: str, address: str) -> None:
        """Join a place that has no network yet; whoever comes with an address again is known by it."""
        # The kernel takes a moment to clear up after a host that lost its power.
        wait_for(lambda: f" {port}@" not in self.run("ip", "-o", "link", "show"), f"the port of {port} is free")
        peer = ["peer", "name", _LINK, "address", make_hardware(address), "netns", str(host.init_pid)]
        link = ["link", "add", port, "type", "veth", *peer]
        run("nsenter", "--target", str(self.init_pid), "--net", "ip", *link)  # not --pid: the number counts out here
        self.run("ip", "link", "set", port, "master", "bridge", "up")
        host.run("ip", "address", "add", f"{address}/{PREFIX}", "dev", _LINK)
        host.run("ip", "link", "set", _LINK, "up")

    def set_port(self, port: str, *, is_open: bool) -> None:
        """A closed port drops whatever comes and goes; whoever is behind it still sees a carrier."""
        self.run("bridge", "link", "set", "dev", port, "state", "forwarding" if is_open else "disabled")


def make_hardware(address: str) -> str:
    """The hardware address of who has this IPv4 address here."""
    return "02:00:" + ":".join(f"{int(part):02x}" for part in address.split("."))


class Host:
    """One machine of several: it starts, is cut off, hangs, loses its power, and starts again with what its disk has.

    `folder` is its disk, seen from outside; `root` is a part of that, which is under one path in every host, so that
    what one host writes down another finds.
    """

    def __init__(self, number: int, base: Path, switch: Switch) -> None:
        self.name = f"host{number}"
        self.address = f"{NETWORK}.{number}"
        self.folder = base / self.name
        self.root = base / "root"
        self.root_outside = self.folder / "root"
        self._switch = switch
        self._options = ("--listen",)
        setup = f"""
mount --bind {base}/hosts /etc/hosts
rm -rf {self.root_outside}/run
mount --bind {self.root_outside} {self.root}
libvirtd_options="{" ".join(self._options)}"
"""
        self.root_outside.mkdir(parents=True)
        self.namespaces = Namespaces(self.name, self.folder, setup + libvirtd.SETUP)
        self.libvirtd = Libvirtd(self.namespaces, self._options)

    @property
    def socket(self) -> Path:
        """libvirtd's, at a path that out here and all hosts can use."""
        return self.folder / libvirtd.SOCKET

    @property
    def uri(self) -> str:
        """Its libvirtd, for clients out here and on other hosts, whatever the network does."""
        return f"qemu+unix:///system?socket={self.socket}"

    @property
    def network_uri(self) -> str:
        """Its libvirtd, for clients on other hosts, over the network."""
        return f"qemu+tcp://{self.address}/system"

    @property
    def is_running(self) -> bool:
        """Whether it is turned on."""
        return self.namespaces.init_pid != 0

    def start(self) -> None:
        """Turn it on; libvirtd answers when this returns."""
        self.namespaces.launch()
        self.join()

    def join(self) -> None:
        """Wait until it has started, and plug it in."""
        self.namespaces.wait_ready()
        self._switch.plug(self.namespaces, self.name, self.address)

    def kill(self) -> None:
        """Power loss: every process ends, its mounts and /run are gone, its disk stays. `start` turns it on again."""
        self.namespaces.close()

    def freeze(self) -> None:
        """Every process stands still."""
        self.namespaces.freeze()

    def thaw(self, but: Collection[int] = ()) -> None:
        """Every process goes on, but for these."""
        self.namespaces.thaw(but)

    def cut(self) -> None:
        """Drop every packet to and from it, until it is healed."""
        self._switch.set_port(self.name, is_open=False)

    def heal(self) -> None:
        """Let packets through again."""
        self._switch.set_port(self.name, is_open=True)

    def run(self, *command: str | Path, timeout_s: float = 60.0) -> str:
        """Run a command on it and return what it prints. Raises PartFailed."""
        return self.namespaces.run(*command, timeout_s=timeout_s)

    def spawn(self, *command: str | Path) -> Spawned:
        """Start a process on it."""
        return self.namespaces.spawn(*command)

    def mount(self, *command: str | Path) -> None:
        """Run a mount command whose last word is a folder, which is made first; the mount ends with the host."""
        self.run("mkdir", "-p", command[-1])
        self.run("mount", *command)

    @contextmanager
    def network(self) -> Iterator[None]:
        """Sockets that this thread makes within the block are on this host; they stay there."""
        with self.namespaces.network():
            yield


class Hosts:
    """Hosts and the switch between them. A context manager; `shared` is a folder that all see under its one path."""

    def __init__(self, count: int, parent: Path = PARENT) -> None:
        self._scratch = Scratch(parent)
        self.base = self._scratch.path
        self.shared = self.base / "shared"
        self.switch = Switch()
        try:
            for folder in (self.shared, self.base / "root"):
                folder.mkdir()
            self.all = [Host(number, self.base, self.switch) for number in range(1, count + 1)]
            self._write_names()
            self._start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Host]:
        return iter(self.all)

    def close(self) -> None:
        """End all hosts and remove what they wrote."""
        for host in getattr(self, "all", ()):
            host.kill()
        self.switch.close()
        self._scratch.remove()

    def mount(self, *command: str | Path) -> None:
        """Run a mount command on each host: the export of a server becomes their shared storage."""
        for host in self.all:
            host.mount(*command)

    def _start(self) -> None:
        self.switch.launch()
        for host in self.all:
            host.namespaces.launch()
        self.switch.wait_ready()
        for host in self.all:
            host.join()

    def _write_names(self) -> None:
        lines = ["127.0.0.1 localhost", f"{self.switch.address} {self.switch.name}"]
        lines += [f"{host.address} {host.name}" for host in self.all]
        (self.base / "hosts").write_text("".join(f"{line}\n" for line in lines))
