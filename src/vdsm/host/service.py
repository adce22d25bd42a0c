"""The host's verbs: reads the machine in threads, samples it in a loop, and answers from what was read."""

import asyncio
import logging
from datetime import UTC, datetime
from pathlib import Path

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import asdict

from vdsm.api.errors import HardwareInfoFailed
from vdsm.api.host import LogLevel
from vdsm.api.host_types import HardwareInfo, HostCapabilities, HostStats, NetworkStatistics, PackageVersion
from vdsm.core.clock import Clock
from vdsm.core.context import current_request
from vdsm.core.errors import InvalidArgument, NodeError
from vdsm.core.paths import Paths
from vdsm.core.periodic import repeat
from vdsm.host.capabilities import CapabilitySettings, Release, make_capabilities, pretend_kvm, read_machine
from vdsm.host.hypervisor import HypervisorFacts, parse_domain_xml, parse_host_xml
from vdsm.host.packages import PACKAGES, list_packages
from vdsm.host.ports import Accelerator, Files, Hypervisor, Networks, Packages, StorageHealth, Vms
from vdsm.host.samples import HostSample, find_ksmd, take_sample
from vdsm.host.stats import Moment, make_stats
from vdsm.host.system import read_hardware

log = logging.getLogger(__name__)


class HostSettings(Struct, frozen=True):
    """The host's settings."""

    capabilities: CapabilitySettings = CapabilitySettings()
    sample_interval_s: float = 15.0


class HostPorts(Struct, frozen=True):
    """All that the host service needs from outside."""

    files: Files
    hypervisor: Hypervisor
    accelerator: Accelerator
    packages: Packages
    networks: Networks
    vms: Vms
    storage: StorageHealth


class HostService:
    """Implements `api.host.HostApi`. `run` keeps samples fresh; without it the first question takes the only one."""

    def __init__(self, ports: HostPorts, paths: Paths, clock: Clock, settings: HostSettings, release: Release) -> None:
        self._ports = ports
        self._paths = paths
        self._clock = clock
        self._settings = settings
        self._release = release
        self._started_s = clock.monotonic()
        self._sampling = asyncio.Lock()
        self._look: tuple[HostSample | None, HostSample, NetworkStatistics] | None = None
        self._ksmd_pid: int | None = None
        self._installed: dict[str, str] = {}
        self._hypervisor: HypervisorFacts | None = None
        self._hardware: HardwareInfo | None = None

    async def run(self) -> None:
        """Sample the machine until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._list_installed(), name="host packages")
            group.create_task(self._keep_sampling(), name="host samples")

    async def ping(self) -> None:
        """Answer."""

    async def ping2(self) -> None:
        """Answer."""

    async def echo(self, message: str) -> str:
        """Return the message."""
        return message

    async def set_log_level(self, level: LogLevel, name: str = "") -> None:
        """Log from this level on, for one logger and those below it, until the next restart."""
        if name and name not in logging.root.manager.loggerDict:
            # One that nobody logs to would be made by being named, and stay for good.
            raise InvalidArgument("name", f"there is no logger {name[:64]!r}")
        words = {"WARN": "WARNING", "CRIT": "CRITICAL"}
        logging.getLogger(name or None).setLevel(words.get(level, level))
        log.info("%s now logs from %s on", name or "everything", level)

    async def get_capabilities(self) -> HostCapabilities:
        """Read the machine anew; waits for the accelerator's measurement when there has been none."""
        settings = self._settings.capabilities
        kvm = await self._ports.accelerator.uses_kvm()
        hypervisor = await self._ask_hypervisor("kvm" if kvm else "qemu")
        machine = await asyncio.to_thread(read_machine, self._ports.files)
        capabilities = make_capabilities(
            machine,
            hypervisor,
            await self._ports.networks.get_capabilities(),
            settings,
            self._release,
            list_packages(
                await self._list_installed(),
                kernel=machine.kernel,
                vdsm=PackageVersion(version=self._release.version, release=self._release.revision),
                libvirt=hypervisor.libvirt if hypervisor else None,
                qemu=hypervisor.qemu if hypervisor else None,
            ),
            kvm=kvm,
            client_interface=await self._find_client_interface(),
            host_id=await asyncio.to_thread(self._read_host_id),
        )
        return pretend_kvm(capabilities, machine.cpus, hypervisor, settings) if settings.fake_kvm else capabilities

    async def get_hardware_info(self) -> HardwareInfo:
        """The firmware's tables; they do not change while the machine runs. Raises HardwareInfoFailed."""
        if self._hardware is None:
            hardware = await asyncio.to_thread(read_hardware, self._ports.files)
            known = any(value is not UNSET for value in asdict(hardware).values())
            if not known and self._ports.files.list_names("/sys/class/dmi/id"):
                raise HardwareInfoFailed("none of the tables below /sys/class/dmi/id can be read")
            self._hardware = hardware
        return self._hardware

    async def get_stats(self) -> HostStats:
        """The last sample's figures with their age, and what is counted now."""
        if self._look is None:
            await self._take_first_look()
        assert self._look is not None
        before, after, networks = self._look
        return make_stats(before, after, networks, self._get_moment(after))

    async def sample(self) -> None:
        """Look at the machine once more; figures are those between this look and the one before."""
        async with self._sampling:
            await self._take_look()

    async def _keep_sampling(self) -> None:
        await repeat(self.sample, every_s=self._settings.sample_interval_s, clock=self._clock, name="host sample")

    async def _take_first_look(self) -> None:
        async with self._sampling:
            if self._look is None:
                await self._take_look()

    async def _take_look(self) -> None:
        before = self._look[1] if self._look else None
        after = await asyncio.to_thread(self._take_sample, self._clock.monotonic())
        try:
            networks = await self._ports.networks.get_statistics()
        except NodeError as error:
            log.warning("network statistics are missing from this sample: %s", error)
            networks = NetworkStatistics()
        self._look = before, after, networks

    def _take_sample(self, now_s: float) -> HostSample:
        if self._look is None:
            self._ksmd_pid = find_ksmd(self._ports.files)
        # The names are the facts'; the folders are ours, which may hang from a root of their own.
        disks = {"/tmp": Path("/tmp"), "/var/log": self._paths.log.parent, "/run/vdsm": self._paths.run}
        return take_sample(self._ports.files, now_s=now_s, ksmd_pid=self._ksmd_pid, disks=disks)

    def _get_moment(self, sample: HostSample) -> Moment:
        now_s = self._clock.monotonic()
        return Moment(
            elapsed_s=now_s - self._started_s,
            sample_age_s=now_s - sample.taken_at_s,
            date_time=datetime.fromtimestamp(self._clock.time(), UTC).strftime("%Y-%m-%dT%H:%M:%S GMT"),
            vms=self._ports.vms.count(),
            storage_domains=dict(self._ports.storage.list_vitals()),
        )

    async def _ask_hypervisor(self, kind: str) -> HypervisorFacts | None:
        """libvirt's word, or its last one while it is down."""
        ask = self._ports.hypervisor
        try:
            libvirt, qemu = await ask.versions()
            host, domain = await ask.capabilities_xml(), await ask.domain_capabilities_xml(kind)
        except NodeError as error:
            log.warning("capabilities without libvirt's present word: %s", error)
        else:
            self._hypervisor = HypervisorFacts(parse_host_xml(host), parse_domain_xml(domain), libvirt, qemu)
        return self._hypervisor

    async def _list_installed(self) -> dict[str, str]:
        if not self._installed:
            self._installed = dict(await self._ports.packages.list_versions(PACKAGES))
        return self._installed

    async def _find_client_interface(self) -> str:
        address = current_request().local_address
        return await self._ports.networks.find_interface(address) if address else ""

    def _read_host_id(self) -> str | UnsetType:
        try:
            lines = (self._paths.config / "vdsm.id").read_text().split()
        except OSError:
            lines = []
        firmware = read_hardware(self._ports.files).uuid
        return lines[0] if lines else firmware.lower() if isinstance(firmware, str) else UNSET
