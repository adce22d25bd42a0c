"""Recorded machines as trees of files, and ports that tests can steer."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

from vdsm.adapters.procfs import MachineFiles
from vdsm.api.host_types import NetworkCapabilities, NetworkStatistics, StorageDomainVitals
from vdsm.core.errors import NodeError
from vdsm.core.paths import Paths
from vdsm.host.capabilities import Release
from vdsm.host.ports import VmCounts
from vdsm.host.service import HostPorts, HostService, HostSettings
from vdsm.testing.clock import VirtualClock

GOLDEN = Path(__file__).parents[2] / "golden/host"


def unpack(recording: Path, root: Path) -> None:
    """Write the files of a recording (see `record.py` beside it) below root."""
    target: Path | None = None
    lines: list[str] = []

    def finish() -> None:
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("\n".join(lines) + "\n")

    for line in recording.read_text().splitlines():
        if line.startswith(("== /", "-> /")):
            finish()
            target, lines = None, []
        if line.startswith("== /"):
            target = root / line[4:].strip()
        elif line.startswith("-> /"):
            link, points_to = line[4:].split()
            (root / link).parent.mkdir(parents=True, exist_ok=True)
            (root / link).symlink_to(points_to)
        else:
            lines.append(line)
    finish()


@pytest.fixture
def record(tmp_path: Path) -> Callable[[str], Path]:
    """`record("two-sockets")` is the root of that machine's files, for this test to change."""

    def make(name: str) -> Path:
        root = tmp_path / name
        unpack(GOLDEN / f"{name}.txt", root)
        return root

    return make


@pytest.fixture
def machine(record: Callable[[str], Path]) -> Callable[[str], MachineFiles]:
    """`machine("two-sockets")` reads that machine's files."""
    return lambda name: MachineFiles(record(name))


class Unreachable(NodeError):
    code, text = "unreachable-in-tests", "nobody answers"


class StubHypervisor:
    """libvirt as recorded; `down` makes every call fail."""

    def __init__(self) -> None:
        self.down = False
        self.asked: list[str] = []

    async def _answer(self, name: str) -> str:
        if self.down:
            raise Unreachable()
        self.asked.append(name)
        return (GOLDEN / f"{name}.xml").read_text()

    async def capabilities_xml(self) -> str:
        return await self._answer("capabilities")

    async def domain_capabilities_xml(self, kind: str) -> str:
        return await self._answer(f"domain-{kind}")

    async def versions(self) -> tuple[int, int]:
        await self._answer("capabilities")
        return 9_000_000, 7_002_022


class StubPorts:
    """Everything else; the attributes are the answers."""

    def __init__(self) -> None:
        self.kvm = False
        self.installed: dict[str, str] = {"qemu-utils": "1:7.2+dfsg-7+deb12u18"}
        self.times_asked_for_packages = 0
        self.counts = VmCounts()
        self.vitals: dict[str, StorageDomainVitals] = {}
        self.network_down = False
        self.samples = 0

    async def uses_kvm(self) -> bool:
        return self.kvm

    async def list_versions(self, names: Iterable[str]) -> Mapping[str, str]:
        self.times_asked_for_packages += 1
        return {name: self.installed[name] for name in names if name in self.installed}

    def count(self) -> VmCounts:
        return self.counts

    def list_vitals(self) -> Mapping[str, StorageDomainVitals]:
        return self.vitals

    async def get_capabilities(self) -> NetworkCapabilities:
        return NetworkCapabilities(
            networks={},
            bridges={},
            bondings={},
            nics={},
            vlans={},
            nameservers=["192.0.2.53"],
            ipv6_supported=True,
            uncommitted_changes=False,
        )

    async def get_statistics(self) -> NetworkStatistics:
        self.samples += 1
        if self.network_down:
            raise Unreachable()
        return NetworkStatistics(network={}, receive_dropped=3, send_dropped=5)

    async def find_interface(self, address: str) -> str:
        return {"192.0.2.2": "eth0"}.get(address, "")


class Host:
    """A host service on a recorded machine."""

    def __init__(self, root: Path, settings: HostSettings) -> None:
        self.root = root
        self.paths = Paths(root / "vdsm")
        self.clock = VirtualClock()
        self.hypervisor = StubHypervisor()
        self.ports = StubPorts()
        stub = self.ports
        ports = HostPorts(MachineFiles(root), self.hypervisor, stub, stub, stub, stub, stub)
        self.service = HostService(ports, self.paths, self.clock, settings, Release("5.0.0", "1", "Test"))

    def write(self, path: str, text: str) -> None:
        (self.root / path.lstrip("/")).write_text(text)


@pytest.fixture
def make_host(record: Callable[[str], Path]) -> Callable[..., Host]:
    return lambda name="two-sockets", settings=None: Host(record(name), settings or HostSettings())
