"""Network namespaces and links: dummy NICs, veth pairs, bonds, VLANs, bridges, and switches for them.

Links are made in the caller's network namespace unless told otherwise, and go with their `with`. Addresses for tests
come from 198.18.0.0/15 and fd00:198:18::/48, which are nobody's. What goes wrong with links is in `lab.impairments`.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from lab import kernel, netlink
from lab.commands import PartFailed, run, wait_for
from lab.processes import DIES_WITH_PARENT

_NAMESPACES = Path("/run/netns")
_STOP_TIMEOUT_S = 10.0
# Loaded without these, the modules make a bond0 and a dummy0 of their own.
_MODULE_OPTIONS = {"bond": ("bonding", "max_bonds=0"), "dummy": ("dummy", "numdummies=0")}


@dataclass(frozen=True)
class Namespace:
    """A named network namespace: a peer, a switch, a server."""

    name: str

    @property
    def path(self) -> Path:
        """The file that is the namespace, for setns() and nsenter."""
        return _NAMESPACES / self.name

    def run(self, *command: str | Path, timeout_s: float = 60.0) -> str:
        """Run a program in it, with this machine's mounts, and return what it prints."""
        return run("nsenter", f"--net={self.path}", "--", *command, timeout_s=timeout_s)

    @contextmanager
    def running(self, *command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
        """A program runs in it meanwhile; it ends with this process, however that ends."""
        line = [*DIES_WITH_PARENT, "nsenter", f"--net={self.path}", "--", *map(str, command)]
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def entered(self) -> AbstractContextManager[None]:
        """This thread is in it meanwhile: sockets made here stay in it."""
        return kernel.network_namespace(self.path)


@contextmanager
def namespace(name: str) -> Iterator[Namespace]:
    """A new network namespace with its loopback up."""
    was_mounted = kernel.is_mount_point(_NAMESPACES)
    made = Namespace(name)
    kernel.add_network_namespace(made.path)
    try:
        Link("lo", made).set_up()
        yield made
    finally:
        kernel.delete_network_namespace(made.path)
        if not was_mounted and not any(_NAMESPACES.iterdir()):
            with suppress(OSError):
                kernel.unmount(_NAMESPACES)


@contextmanager
def adopted(name: str, pid: int) -> Iterator[Namespace]:
    """The network namespace of a process under a name meanwhile; the end of that does nothing to it."""
    run("ip", "netns", "attach", name, str(pid))
    try:
        yield Namespace(name)
    finally:
        run("ip", "netns", "del", name)


def ip(*lines: str, namespace: Namespace | None = None, program: str = "ip") -> None:
    """Let one `ip` (or `tc`, `bridge`) do all these lines. Raises PartFailed at the first that fails."""
    where = ("-n", namespace.name) if namespace else ()
    run(program, *where, "-batch", "-", input="".join(f"{line}\n" for line in lines))


@dataclass(frozen=True)
class Link:
    """A network interface, in the caller's namespace unless one is given."""

    name: str
    namespace: Namespace | None = None
    peer: "Link | None" = None
    """The other end of a veth pair."""

    def ip(self, *lines: str) -> None:
        """Let `ip` do these lines where the link is."""
        ip(*lines, namespace=self.namespace)

    def set_up(self) -> None:
        with self._entered():
            kernel.set_link(self.name, up=True)

    def set_down(self) -> None:
        """As an administrator does. For a cable that is pulled see `unplug`."""
        with self._entered():
            kernel.set_link(self.name, up=False)

    def add_addresses(self, *addresses: str) -> None:
        """Add addresses with their prefix lengths; those of IPv6 can be used at once."""
        with self._entered():
            for address in addresses:
                netlink.add_address(self.name, address)

    def delete(self) -> None:
        """Delete the link; no-op when it went already, with its peer, its parent or its namespace."""
        try:
            with self._entered():
                netlink.delete_link(self.name)
        except OSError:
            if self.namespace and not self.namespace.path.exists():
                return
            if self.exists():
                raise

    def unplug(self) -> None:
        """Pull the cable: the link stays up and loses its carrier. For veth pairs and dummies."""
        if self.peer:
            self.peer.set_down()
        else:
            self.ip(f"link set dev {self.name} carrier off")
        self.wait_for_carrier(False)

    def plug(self) -> None:
        """Put the cable back."""
        if self.peer:
            self.peer.set_up()
        else:
            self.ip(f"link set dev {self.name} carrier on")
        self.wait_for_carrier()

    @contextmanager
    def unplugged(self) -> Iterator[None]:
        """The cable is out meanwhile."""
        self.unplug()
        try:
            yield
        finally:
            self.plug()

    def exists(self) -> bool:
        with self._entered():
            return kernel.is_link_running(self.name) is not None

    def has_carrier(self) -> bool:
        """Whether the link is up and something is at its other end; up to a second late."""
        with self._entered():
            return bool(kernel.is_link_running(self.name))

    def wait_for_carrier(self, expected: bool = True) -> None:
        """Wait until the link has a carrier, or has none."""
        wait_for(lambda: self.has_carrier() is expected, f"{self.name} {'with' if expected else 'without'} carrier")

    def _entered(self) -> AbstractContextManager[None]:
        return self.namespace.entered() if self.namespace else nullcontext()


def dummy(name: str, namespace: Namespace | None = None) -> AbstractContextManager[Link]:
    """A NIC that is up and swallows what is sent; its cable can be pulled."""
    return _made(Link(name, namespace), f"link add name {name} up type dummy")


@contextmanager
def veth(name: str, peer: Link, namespace: Namespace | None = None, *lines: str) -> Iterator[Link]:
    """A cable: what is sent at one end comes in at the other, which may be in another namespace. Both ends are up.

    Further lines for `ip` are done where the near end is.
    """
    place = peer.namespace.name if peer.namespace else os.getpid()
    add = f"link add name {name} up type veth peer name {peer.name} netns {place}"
    with _made(Link(name, namespace, peer), add, *lines) as made:
        peer.set_up()  # it cannot be made so
        yield made


def bond(
    name: str, slaves: Sequence[Link], mode: str = "active-backup", options: str = "miimon 50"
) -> AbstractContextManager[Link]:
    """A bond over these links, up. It looks every 50 ms whether its slaves have a carrier; options are `ip`'s."""
    place = slaves[0].namespace
    joining = [
        line for slave in slaves for line in (f"link set {slave.name} down", f"link set {slave.name} master {name}")
    ]
    return _made(
        Link(name, place), f"link add name {name} type bond mode {mode} {options}", *joining, f"link set {name} up"
    )


def get_active_slave(bond: Link) -> str:
    """The slave that an active-backup bond of the caller's namespace sends through; empty while there is none."""
    return Path("/sys/class/net", bond.name, "bonding/active_slave").read_text().strip()


def vlan(parent: Link, tag: int, name: str = "") -> AbstractContextManager[Link]:
    """The link, up, whose frames carry that tag on the parent; named as `eth0.10` unless told otherwise."""
    made = Link(name or f"{parent.name}.{tag}", parent.namespace)
    return _made(made, f"link add link {parent.name} name {made.name} up type vlan id {tag}")


def bridge(
    name: str, ports: Sequence[Link] = (), namespace: Namespace | None = None, options: str = ""
) -> AbstractContextManager[Link]:
    """A bridge over these links, up; it forwards at once."""
    lines = [f"link set dev {port.name} master {name}" for port in ports]
    return _made(Link(name, namespace), f"link add name {name} up type bridge stp_state 0 {options}", *lines)


@contextmanager
def _made(link: Link, *lines: str) -> Iterator[Link]:
    """Run these lines, of which the first makes the link; the link goes at the end, also when a later line fails."""
    load_driver(lines[0].partition(" type ")[2].split()[0])
    try:
        link.ip(*lines)
    except PartFailed as error:
        if not str(error).endswith("failed -:1"):  # not ours otherwise: the name was taken
            link.delete()
        raise
    try:
        yield link
    finally:
        link.delete()


def load_driver(kind: str) -> None:
    """Load the driver of a kind of link without the links that it makes unasked; it may also be built in."""
    if kind in _MODULE_OPTIONS and not Path("/sys/module", _MODULE_OPTIONS[kind][0]).exists():
        with suppress(PartFailed, FileNotFoundError):
            run("modprobe", *_MODULE_OPTIONS[kind])


class Switch:
    """A bridge in a namespace of its own, with one veth pair to each of its hosts. A context manager.

    With `filters_vlans` each port says which VLANs it carries; without, frames pass with the tags that they have.
    """

    def __init__(self, namespace: Namespace, bridge: Link, filters_vlans: bool) -> None:
        self.namespace = namespace
        self.bridge = bridge
        self._filters_vlans = filters_vlans
        self._count = 0

    @contextmanager
    def port(
        self,
        name: str,
        namespace: Namespace | None = None,
        *,
        addresses: Sequence[str] = (),
        tagged: Sequence[int] = (),
        untagged: int | None = None,
    ) -> Iterator[Link]:
        """A link of that name for a host, up, with these addresses, in a new port that carries these VLANs."""
        self._count += 1
        far, near = Link(f"port{self._count}", self.namespace), Link(name, namespace)
        with veth(far.name, near, self.namespace, f"link set dev {far.name} master {self.bridge.name}"):
            if self._filters_vlans:
                lines = [f"vlan add dev {far.name} vid {tag}" for tag in tagged]
                if untagged:
                    lines.append(f"vlan add dev {far.name} vid {untagged} pvid untagged")
                ip(*lines, namespace=self.namespace, program="bridge")
            if addresses:
                near.add_addresses(*addresses)
            yield Link(name, namespace, far)


@contextmanager
def switch(name: str, *, filters_vlans: bool = False) -> Iterator[Switch]:
    """A switch in a namespace of that name."""
    options = "vlan_filtering 1 vlan_default_pvid 0" if filters_vlans else ""
    with namespace(name) as place, bridge("switch", (), place, options) as made:
        yield Switch(place, made, filters_vlans)
