"""A hypervisor that is only memory: VMs with live XML, events, figures, failing on demand; it runs no guest."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from urllib.parse import urlsplit
from xml.etree.ElementTree import Element, ParseError, SubElement, tostring

from defusedxml.ElementTree import fromstring
from msgspec import Struct, field

from vdsm.core.clock import Clock, SystemClock
from vdsm.core.errors import NodeError
from vdsm.testing import hypervisor_xml
from vdsm.testing.hypervisor_backups import FakeBackups
from vdsm.testing.hypervisor_blocks import FakeBlockJob, FakeBlocks
from vdsm.virt import ports

_INVALID_ARGUMENT, _OPERATION_FAILED, _XML_ERROR, _INVALID = 8, 9, 27, 55  # libvirt's error numbers
_SYSTEM_ERROR, _ABORTED = 38, 78
_NO_AGENT, _NO_DEVICE = 86, 99
_NO_SPACE = 2  # virDomainDiskErrorCode


class FakeDomain(Struct):
    """One domain of the fake. `live` and `pid` are there while it is active."""

    definition: Element
    state: ports.DomainState = ports.DomainState.SHUT_OFF
    reason: int = 0
    is_persistent: bool = True
    live: Element | None = None
    pid: int = 0
    started_s: float = 0.0
    backup: str | None = None
    checkpoints: dict[str, str] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict)

    @property
    def vm_id(self) -> str:
        return self.definition.findtext("uuid", "").strip()

    @property
    def name(self) -> str:
        return self.definition.findtext("name", "").strip()

    @property
    def xml(self) -> Element:
        return self.definition if self.live is None else self.live

    def get_devices(self) -> Element:
        found = self.xml.find("devices")
        return SubElement(self.xml, "devices") if found is None else found


class HypervisorWorld:
    """What a test does to the fake from behind: the guest, the machine and libvirtd itself."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.domains: dict[str, FakeDomain] = {}
        self.agents: set[str] = set()  # VMs whose qemu guest agent answers
        self.held: set[str] = set()  # VMs whose file systems are frozen
        self.agent_answers: dict[str, object] = {}  # to the agents' commands; others are refused
        self.block_jobs: dict[tuple[str, str], FakeBlockJob] = {}  # by VM and disk
        self.blocks_move = True  # jobs have done their work at once
        self.calls: list[tuple[str, str]] = []  # (method, VM id), in order
        self.secrets: dict[str, tuple[str, bytes]] = {}
        self.networks: dict[str, str] = {}  # XML by name
        self.guests_obey = True  # a shutdown or reboot that was asked for happens
        self._listeners: list[Callable[[ports.HypervisorEvent], None]] = []
        self._failures: dict[str, list[Exception]] = {}
        self._frozen: set[str] = set()
        self._down_reason: str | None = None
        self._started = 0

    def fail_next(self, method: str, error: Exception) -> None:
        """Let the next call of that method raise error, after those already set."""
        self._failures.setdefault(method, []).append(error)

    def freeze(self, vm_id: str) -> None:
        """Stop the VM's qemu: calls on it time out at once, samples name it as missing, destroy works."""
        self._frozen.add(vm_id)

    def thaw(self, vm_id: str) -> None:
        self._frozen.discard(vm_id)

    def go_down(self, reason: str = "libvirtd ended") -> None:
        """libvirtd ends; VMs run on."""
        self._down_reason = reason
        self.emit(ports.HypervisorEvent("", ports.EventKind.DISCONNECTED, text=reason))

    def come_up(self) -> None:
        self._down_reason = None
        self.emit(ports.HypervisorEvent("", ports.EventKind.CONNECTED))

    def emit(self, event: ports.HypervisorEvent) -> None:
        """Deliver an event on the loop, in order, as libvirt's come: after the call that caused it went on."""
        asyncio.get_running_loop().call_soon(self._deliver, event)

    def end_guest(self, vm_id: str, reason: int = 1, detail: int = 0) -> None:
        """The VM stops by itself: (1, 0) shut down from inside, (3, 2) qemu crashed, (1, 3) migrated away."""
        domain = self.domains[vm_id]
        if (reason, detail) == (1, 0):
            self.emit(ports.HypervisorEvent(vm_id, ports.EventKind.LIFECYCLE, (6, 1)))
        self._stop(domain, reason, detail)

    def pause_on_error(self, vm_id: str, target: str, reason: str = "enospc", error: int = _NO_SPACE) -> None:
        """A disk reports an I/O error and the VM pauses, as with the error policy `stop`."""
        domain = self.domains[vm_id]
        domain.state, domain.reason = ports.DomainState.PAUSED, 5
        domain.errors[target] = error
        path = next((disk.path for disk in hypervisor_xml.list_disks(domain.xml) if disk.target == target), "")
        self.emit(ports.HypervisorEvent(vm_id, ports.EventKind.IO_ERROR, (1,), reason, (path, target)))
        self.emit(ports.HypervisorEvent(vm_id, ports.EventKind.LIFECYCLE, (3, 2)))

    def remove_device(self, vm_id: str, device: Element) -> None:
        """The guest lets go of a device."""
        self.domains[vm_id].get_devices().remove(device)
        alias = device.find("alias")
        names = () if alias is None else (alias.get("name", ""),)
        self.emit(ports.HypervisorEvent(vm_id, ports.EventKind.DEVICE_REMOVED, names=names))

    def _deliver(self, event: ports.HypervisorEvent) -> None:
        for listener in list(self._listeners):
            listener(event)

    def _stop(self, domain: FakeDomain, reason: int, detail: int) -> None:
        domain.state, domain.reason = ports.DomainState.SHUT_OFF, reason
        domain.live, domain.pid = None, 0
        domain.errors.clear()
        domain.backup = None
        self._frozen.discard(domain.vm_id)
        self.agents.discard(domain.vm_id)
        self.held.discard(domain.vm_id)
        for job in [job for job in self.block_jobs if job[0] == domain.vm_id]:
            del self.block_jobs[job]
        self.emit(ports.HypervisorEvent(domain.vm_id, ports.EventKind.LIFECYCLE, (5, detail)))
        if not domain.is_persistent:
            del self.domains[domain.vm_id]

    async def _enter(self, method: str, vm_id: str = "") -> None:
        await asyncio.sleep(0)  # a real call lets others run too
        self.calls.append((method, vm_id))
        if self._failures.get(method):
            raise self._failures[method].pop(0)
        if self._down_reason is not None:
            raise ports.HypervisorDown(self._down_reason)
        if vm_id in self._frozen and method != "destroy":
            raise ports.HypervisorTimeout(vm_id, method, 60.0)

    async def _find(self, method: str, vm_id: str) -> FakeDomain:
        await self._enter(method, vm_id)
        if vm_id not in self.domains:
            raise ports.NoSuchDomain(vm_id)
        return self.domains[vm_id]

    async def _find_active(self, method: str, vm_id: str) -> FakeDomain:
        domain = await self._find(method, vm_id)
        if domain.live is None:
            raise _invalid("domain is not running")
        return domain


class FakeTuning(HypervisorWorld):
    """Fits `virt.ports.Tunable`: what is set stands in the live XML."""

    async def set_memory(self, vm_id: str, size_kib: int) -> None:
        domain = await self._find_active("set_memory", vm_id)
        if not 0 < size_kib <= hypervisor_xml.parse_kib(domain.xml.find("memory")):
            reason = "memory must not be zero" if size_kib == 0 else "cannot set memory higher than max memory"
            raise ports.HypervisorRefused(f"invalid argument: {reason}", _INVALID_ARGUMENT)
        if self.guests_obey:
            hypervisor_xml.set_texts(domain.xml, {"currentMemory": size_kib})

    async def set_cpu_tune(self, vm_id: str, limits: Mapping[str, int]) -> None:
        domain = await self._find_active("set_cpu_tune", vm_id)
        for name, value in limits.items():
            if not 1000 <= value <= (1_000_000 if name == "vcpu_period" else 2**44 - 1) and value != -1:
                raise ports.HypervisorRefused(f"value of '{name}' is out of range", _INVALID_ARGUMENT)
        hypervisor_xml.set_texts(domain.xml, {f"cputune/{name[5:]}": value for name, value in limits.items()})
        self.emit(ports.HypervisorEvent(vm_id, ports.EventKind.TUNED))

    async def set_cpu_count(self, vm_id: str, count: int) -> None:
        domain = await self._find_active("set_cpu_count", vm_id)
        found = domain.xml.find("vcpu")
        most = int((found.text or "1") if found is not None else "1")
        if not 0 < count <= most:
            reason = f"requested vcpus is greater than max allowable vcpus for the live domain: {count} > {most}"
            raise ports.HypervisorRefused(f"invalid argument: {reason}", _INVALID_ARGUMENT)
        if found is not None:
            found.set("current", str(count))

    async def pin_cpu(self, vm_id: str, cpu: int, host_cpus: Collection[int]) -> None:
        domain = await self._find_active("pin_cpu", vm_id)
        tune = domain.xml.find("cputune")
        tune = SubElement(domain.xml, "cputune") if tune is None else tune
        for old in [pin for pin in tune.findall("vcpupin") if pin.get("vcpu") == str(cpu)]:
            tune.remove(old)
        SubElement(tune, "vcpupin", vcpu=str(cpu), cpuset=",".join(map(str, sorted(host_cpus))))

    async def set_io_tune(self, vm_id: str, target: str, limits: Mapping[str, int]) -> None:
        domain = await self._find_active("set_io_tune", vm_id)
        disk = next((disk for disk in domain.xml.iterfind("devices/disk") if hypervisor_xml.is_at(disk, target)), None)
        if disk is None:
            raise ports.HypervisorRefused(f"disk '{target}' was not found in the domain config", _INVALID_ARGUMENT)
        for kind in ("bytes", "iops"):
            total, *parts = (limits.get(f"{way}_{kind}_sec", 0) for way in ("total", "read", "write"))
            if total and any(parts):
                reason = f"total and read/write of {kind}_sec cannot be set at the same time"
                raise ports.HypervisorRefused(reason, _INVALID_ARGUMENT)
        if max(limits.values(), default=0) > 10**15:
            raise ports.HypervisorRefused("throttle limits are 10^15 at most", _INVALID_ARGUMENT)
        hypervisor_xml.set_texts(disk, {f"iotune/{name}": value for name, value in limits.items()})
        self.emit(ports.HypervisorEvent(vm_id, ports.EventKind.TUNED))


class FakeAgents(HypervisorWorld):
    """Fits `virt.ports.GuestAgents`."""

    async def ask_agent(self, vm_id: str, command: str) -> str:
        await self._find_active("ask_agent", vm_id)
        if vm_id not in self.agents:
            raise ports.HypervisorRefused("Guest agent is not responding: QEMU guest agent is not connected", _NO_AGENT)
        if command not in self.agent_answers:
            raise ports.HypervisorRefused(f"unable to execute QEMU agent command '{command}'", ports.AGENT_REFUSED)
        return json.dumps({"return": self.agent_answers[command]})

    def connect_agent(self, vm_id: str, *, answers: bool = True) -> None:
        """The guest opens the agent's channel; who then answers is another question."""
        self._set_agent(vm_id, "connected", 1)
        if answers:
            self.agents.add(vm_id)

    def disconnect_agent(self, vm_id: str) -> None:
        """The guest closes the agent's channel."""
        self._set_agent(vm_id, "disconnected", 2)
        self.agents.discard(vm_id)

    def _set_agent(self, vm_id: str, state: str, number: int) -> None:
        for target in self.domains[vm_id].xml.iterfind("devices/channel/target[@name='org.qemu.guest_agent.0']"):
            target.set("state", state)
        self.emit(ports.HypervisorEvent(vm_id, ports.EventKind.AGENT, (number, 2)))


class FakeMove(Struct, eq=False):
    """A VM on its way: a test says how far it is, when it may arrive, and hears what was asked of it."""

    move: ports.Move
    job: ports.MoveJob = field(default_factory=lambda: ports.MoveJob(1, 1000, 1000))
    downtimes_ms: list[int] = field(default_factory=list)
    bandwidths: list[int] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    failure: ports.HypervisorRefused | None = None
    there: FakeDomain | None = None

    leaves_it: bool = False

    def fail(self, failure: ports.HypervisorRefused, *, leaves_it: bool = False) -> None:
        """End it; the VM stays, and what is on the other host goes, unless nobody sees to that."""
        self.failure, self.leaves_it = failure, leaves_it
        self.ended.set()


class FakeMoving(FakeTuning):
    """Fits `virt.ports.Movable`. `neighbours` are the other hosts by name; VMs arrive at once if `moves_end`."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.neighbours: dict[str, FakeMoving] = {}
        self.moves: dict[str, FakeMove] = {}
        self.moves_end = True
        self.saved: dict[str, str] = {}  # the domain in each file
        self._carriers: set[asyncio.Task[None]] = set()

    async def get_migratable_xml(self, vm_id: str) -> str:
        return hypervisor_xml.format_xml((await self._find_active("get_migratable_xml", vm_id)).xml)

    async def migrate(self, vm_id: str, move: ports.Move) -> None:
        domain = await self._find_active("migrate", vm_id)
        if vm_id in self.moves:
            raise _invalid("another migration job is already running for the domain")
        neighbour = self.neighbours.get(urlsplit(move.uri).hostname or "")
        if neighbour is None:
            raise ports.HypervisorRefused(f"unable to connect to server at {move.uri!r}", _SYSTEM_ERROR)
        moving = self.moves[vm_id] = FakeMove(move)
        if self.moves_end:
            moving.ended.set()
        carrying = asyncio.create_task(_carry(domain, moving, self, neighbour))
        self._carriers.add(carrying)
        carrying.add_done_callback(self._carriers.discard)
        await asyncio.shield(carrying)

    async def get_move(self, vm_id: str) -> ports.MoveJob | None:
        await self._find("get_move", vm_id)
        moving = self.moves.get(vm_id)
        return None if moving is None else moving.job

    async def abort_move(self, vm_id: str) -> None:
        moving = await _find_move(self, "abort_move", vm_id)
        moving.fail(ports.HypervisorRefused("operation aborted: job 'migration out' canceled by client", _ABORTED))

    async def set_move_downtime(self, vm_id: str, downtime_ms: int) -> None:
        (await _find_move(self, "set_move_downtime", vm_id)).downtimes_ms.append(downtime_ms)

    async def set_move_bandwidth(self, vm_id: str, mib_per_s: int) -> None:
        (await _find_move(self, "set_move_bandwidth", vm_id)).bandwidths.append(mib_per_s)

    async def save(self, vm_id: str, path: str) -> None:
        domain = await self._find_active("save", vm_id)
        if vm_id in self.moves:
            raise _invalid("another migration job is already running for the domain")
        moving = self.moves[vm_id] = FakeMove(ports.Move(uri=path, xml=""))
        if self.moves_end:
            moving.ended.set()
        carrying = asyncio.create_task(_write(domain, moving, self))
        self._carriers.add(carrying)
        carrying.add_done_callback(self._carriers.discard)
        await asyncio.shield(carrying)

    async def read_saved(self, path: str) -> str:
        await self._enter("read_saved")
        if path not in self.saved:
            raise ports.HypervisorRefused(f"failed to open {path}", _OPERATION_FAILED)
        return self.saved[path]

    async def restore(self, vm_id: str, path: str, xml: str) -> None:
        domain = await self._find("restore", vm_id)
        if path not in self.saved:
            raise ports.HypervisorRefused(f"failed to open {path}", _OPERATION_FAILED)
        if domain.live is not None:
            raise _invalid("domain is already running")
        domain.live = fromstring(xml)
        domain.pid, domain.started_s = 3_000_000, self.clock.monotonic()
        domain.state, domain.reason = ports.DomainState.RUNNING, 3
        for detail in ((2, 2), (4, 2)):
            self.emit(ports.HypervisorEvent(vm_id, ports.EventKind.LIFECYCLE, detail))

    async def start_post_copy(self, vm_id: str) -> None:
        await _find_move(self, "start_post_copy", vm_id)
        domain, there = self.domains[vm_id], self.moves[vm_id].there
        domain.state, domain.reason = ports.DomainState.PAUSED, 12
        self.emit(ports.HypervisorEvent(vm_id, ports.EventKind.LIFECYCLE, (3, 7)))
        if there is not None:
            there.state, there.reason = ports.DomainState.RUNNING, 10


class FakeSecrets(HypervisorWorld):
    """Fits `virt.ports.SecretStore`; `secrets` holds what each is used for and its value."""

    async def list_secrets(self) -> Mapping[str, str]:
        await self._enter("list_secrets")
        return {uuid: usage for uuid, (usage, _) in self.secrets.items()}

    async def set_secret(self, uuid: str, xml: str, value: bytes) -> None:
        await self._enter("set_secret")
        usage = _parse_xml(xml).findtext("usage/*", "")
        owner = next((other for other, (used, _) in self.secrets.items() if used == usage), uuid)
        if owner != uuid or self.secrets.get(uuid, (usage, b""))[0] != usage:
            reason = f"a secret with UUID {owner} already defined for use with {usage}"
            raise ports.HypervisorRefused(f"internal error: {reason}", 1)
        self.secrets[uuid] = (usage, value)

    async def start_network(self, name: str, xml: str) -> None:
        await self._enter("start_network")
        self.networks.setdefault(name, xml)

    async def remove_network(self, name: str) -> None:
        await self._enter("remove_network")
        self.networks.pop(name, None)

    async def remove_secret(self, uuid: str) -> None:
        await self._enter("remove_secret")
        self.secrets.pop(uuid, None)


class FakeHypervisor(FakeBlocks, FakeBackups, FakeMoving, FakeAgents, FakeSecrets):
    """Fits `virt.ports.Hypervisor`; the same contract tests run on it and on libvirt."""

    def subscribe(self, listener: Callable[[ports.HypervisorEvent], None]) -> None:
        self._listeners.append(listener)

    async def capabilities_xml(self) -> str:
        await self._enter("capabilities_xml")
        return hypervisor_xml.HOST_CAPABILITIES

    async def domain_capabilities_xml(self, kind: str) -> str:
        await self._enter("domain_capabilities_xml")
        return hypervisor_xml.make_domain_capabilities(kind)

    async def versions(self) -> tuple[int, int]:
        await self._enter("versions")
        return 9_000_000, 7_002_022

    async def list_domains(self) -> list[ports.DomainRecord]:
        await self._enter("list_domains")
        return [_make_record(domain) for domain in self.domains.values()]

    async def get_domain(self, vm_id: str) -> ports.DomainRecord:
        return _make_record(await self._find("get_domain", vm_id))

    async def define(self, xml: str) -> None:
        definition = _parse(xml)
        domain = FakeDomain(definition)
        await self._enter("define", domain.vm_id)
        for other in self.domains.values():
            if other.name == domain.name and other.vm_id != domain.vm_id:
                reason = f"operation failed: domain '{other.name}' already exists with uuid {other.vm_id}"
                raise ports.HypervisorRefused(reason, _OPERATION_FAILED)
        known = self.domains.setdefault(domain.vm_id, domain)
        known.definition, known.is_persistent = definition, True
        self.emit(ports.HypervisorEvent(domain.vm_id, ports.EventKind.LIFECYCLE, (0, 0 if known is domain else 1)))

    async def start(self, vm_id: str, *, paused: bool) -> None:
        domain = await self._find("start", vm_id)
        if domain.live is not None:
            raise _invalid("domain is already running")
        self._started += 1
        domain.live = hypervisor_xml.make_live(domain.definition, self._started)
        domain.pid = 1_000_000 + self._started
        domain.started_s = self.clock.monotonic()
        domain.passwords = _read_passwords(domain.definition)
        domain.state, domain.reason = (ports.DomainState.PAUSED, 1) if paused else (ports.DomainState.RUNNING, 1)
        for detail in ((2, 0), (3, 0)) if paused else ((4, 0), (2, 0)):
            self.emit(ports.HypervisorEvent(vm_id, ports.EventKind.LIFECYCLE, detail))

    async def undefine(self, vm_id: str) -> None:
        await self._enter("undefine", vm_id)
        domain = self.domains.get(vm_id)
        if domain is None:
            return
        domain.is_persistent = False
        if domain.live is None:
            del self.domains[vm_id]
        self.emit(ports.HypervisorEvent(vm_id, ports.EventKind.LIFECYCLE, (1, 0)))

    async def destroy(self, vm_id: str, *, graceful: bool) -> None:
        domain = await self._find_active("destroy", vm_id)
        if graceful:
            if vm_id in self._frozen:
                raise ports.HypervisorRefused("Failed to terminate process with SIGTERM", _OPERATION_FAILED)
            self.emit(ports.HypervisorEvent(vm_id, ports.EventKind.LIFECYCLE, (6, 2)))
        self._stop(domain, 2, 1)

    async def shutdown(self, vm_id: str, mode: ports.ShutdownMode) -> None:
        await self._find_running("shutdown", vm_id, mode)
        if self.guests_obey:
            self.end_guest(vm_id)

    async def reboot(self, vm_id: str, mode: ports.ShutdownMode) -> None:
        await self._find_running("reboot", vm_id, mode)
        if self.guests_obey:
            self.emit(ports.HypervisorEvent(vm_id, ports.EventKind.REBOOT))

    async def reset(self, vm_id: str) -> None:
        await self._find_active("reset", vm_id)
        self.emit(ports.HypervisorEvent(vm_id, ports.EventKind.REBOOT))

    async def suspend(self, vm_id: str) -> None:
        domain = await self._find_active("suspend", vm_id)
        if domain.state is not ports.DomainState.PAUSED:
            domain.state, domain.reason = ports.DomainState.PAUSED, 1
            self.emit(ports.HypervisorEvent(vm_id, ports.EventKind.LIFECYCLE, (3, 0)))

    async def resume(self, vm_id: str) -> None:
        domain = await self._find_active("resume", vm_id)
        if domain.state is not ports.DomainState.PAUSED:
            raise _invalid("domain is already running")
        domain.state, domain.reason = ports.DomainState.RUNNING, 5
        domain.errors.clear()
        self.emit(ports.HypervisorEvent(vm_id, ports.EventKind.LIFECYCLE, (4, 0)))

    async def set_metadata(self, vm_id: str, element: str, prefix: str, uri: str) -> None:
        domain = await self._find("set_metadata", vm_id)
        for xml in (domain.definition, domain.live):
            if xml is not None:
                _replace_metadata(xml, _parse_xml(element), uri)

    async def update_device(self, vm_id: str, xml: str, *, force: bool = False) -> None:
        domain = await self._find_active("update_device", vm_id)
        update = _parse_xml(xml)
        devices = domain.xml.find("devices")
        device = None if devices is None else hypervisor_xml.find_same_device(devices, update)
        if devices is None or device is None:
            raise ports.HypervisorRefused(f"device not found: no {update.tag} like that", _OPERATION_FAILED)
        if update.tag == "graphics" and "passwd" in update.attrib:
            domain.passwords[update.get("type", "")] = update.attrib.pop("passwd")
            update.attrib = device.attrib | update.attrib
        update.extend(child for child in device if child.tag in ("alias", "address") and update.find(child.tag) is None)
        hypervisor_xml.complete_device(update, int(domain.xml.get("id", "0")), Counter())
        devices[list(devices).index(device)] = update

    async def attach_device(self, vm_id: str, xml: str) -> None:
        domain = await self._find_active("attach_device", vm_id)
        device = _parse_xml(xml)
        devices = domain.get_devices()
        if device.tag in ("disk", "interface") and hypervisor_xml.find_same_device(devices, device) is not None:
            raise ports.HypervisorRefused(f"there is such a {device.tag} already", _OPERATION_FAILED)
        used = Counter({"interface": len(devices.findall("interface"))})
        hypervisor_xml.complete_device(
            device, int(domain.xml.get("id", "0")), used, hypervisor_xml.list_aliases(devices)
        )
        devices.append(device)

    async def detach_device(self, vm_id: str, xml: str) -> None:
        domain = await self._find_active("detach_device", vm_id)
        devices = domain.get_devices()
        device = hypervisor_xml.find_same_device(devices, _parse_xml(xml))
        if device is None:
            raise ports.HypervisorRefused("device not found", _NO_DEVICE)
        if self.guests_obey:
            self.remove_device(vm_id, device)

    async def take_screenshot(self, vm_id: str) -> ports.Picture:
        domain = await self._find_active("take_screenshot", vm_id)
        if domain.xml.find("devices/video/model") is None:
            raise ports.HypervisorRefused("no screens to take screenshot from", _INVALID_ARGUMENT)
        return ports.Picture("image/x-portable-pixmap", b"P6\n1 1\n255\n\0\0\0")

    async def block_errors(self, vm_id: str) -> Mapping[str, int]:
        return dict((await self._find_active("block_errors", vm_id)).errors)

    async def sample(self) -> ports.BulkSample:
        await self._enter("sample")
        now_s = self.clock.monotonic()
        active = [domain for domain in self.domains.values() if domain.live is not None]
        return ports.BulkSample(
            now_s,
            {
                domain.vm_id: hypervisor_xml.make_statistics(
                    domain.xml, domain.state.value, domain.reason, now_s - domain.started_s
                )
                for domain in active
                if domain.vm_id not in self._frozen
            },
            frozenset(domain.vm_id for domain in active if domain.vm_id in self._frozen),
        )

    async def _find_running(self, method: str, vm_id: str, mode: ports.ShutdownMode) -> FakeDomain:
        domain = await self._find_active(method, vm_id)
        if domain.state is ports.DomainState.PAUSED:
            raise _invalid("domain is not running")
        if mode is ports.ShutdownMode.AGENT and vm_id not in self.agents:
            reason = "Guest agent is not responding: QEMU guest agent is not connected"
            raise ports.HypervisorRefused(reason, _NO_AGENT)
        return domain


async def _carry(domain: FakeDomain, moving: FakeMove, here: "FakeMoving", there: "FakeMoving") -> None:
    vm_id = domain.vm_id
    was_running = domain.state is ports.DomainState.RUNNING
    try:
        moving.there = _receive(vm_id, moving, there)
        await moving.ended.wait()
        if moving.failure is not None:
            if not moving.leaves_it:
                _drop(vm_id, there)
            raise moving.failure
        if domain.live is None:
            _drop(vm_id, there)
            raise ports.HypervisorRefused("domain is not running", _OPERATION_FAILED)
        if was_running:
            here.emit(ports.HypervisorEvent(vm_id, ports.EventKind.LIFECYCLE, (3, 1)))
        _accept(moving, there, is_running=was_running)
        here._stop(domain, 4, 3)
        here.emit(ports.HypervisorEvent(vm_id, ports.EventKind.MOVED, (42,)))
    finally:
        del here.moves[vm_id]


async def _write(domain: FakeDomain, moving: FakeMove, here: FakeMoving) -> None:
    try:
        await moving.ended.wait()
        if moving.failure is not None:
            raise moving.failure
        here.saved[moving.move.uri] = hypervisor_xml.format_xml(domain.xml)
        here._stop(domain, 5, 4)
    finally:
        del here.moves[domain.vm_id]


def _receive(vm_id: str, moving: FakeMove, there: "FakeMoving") -> FakeDomain:
    arriving: Element = fromstring(moving.move.xml)
    domain = there.domains.setdefault(vm_id, FakeDomain(arriving, is_persistent=False))
    if domain.live is not None:
        raise _invalid("domain is already active")
    domain.live = arriving
    domain.pid, domain.started_s = 2_000_000, there.clock.monotonic()
    domain.state, domain.reason = ports.DomainState.PAUSED, 2
    there.emit(ports.HypervisorEvent(domain.vm_id, ports.EventKind.LIFECYCLE, (2, 1)))
    return domain


def _accept(moving: FakeMove, there: "FakeMoving", *, is_running: bool) -> None:
    domain = moving.there
    assert domain is not None
    if ports.MoveFlag.PERSIST in moving.move.flags:
        domain.definition, domain.is_persistent = fromstring(moving.move.xml), True
        there.emit(ports.HypervisorEvent(domain.vm_id, ports.EventKind.LIFECYCLE, (0, 1)))
    state = (ports.DomainState.RUNNING, 2) if is_running else (ports.DomainState.PAUSED, 1)
    domain.state, domain.reason = state
    there.emit(ports.HypervisorEvent(domain.vm_id, ports.EventKind.LIFECYCLE, (4, 1) if is_running else (3, 0)))


def _drop(vm_id: str, there: "FakeMoving") -> None:
    domain = there.domains.get(vm_id)
    if domain is not None and domain.live is not None:
        there._stop(domain, 6, 5)


async def _find_move(here: "FakeMoving", method: str, vm_id: str) -> FakeMove:
    await here._find_active(method, vm_id)
    if vm_id not in here.moves:
        raise _invalid("no job is active on the domain")
    return here.moves[vm_id]


def _make_record(domain: FakeDomain) -> ports.DomainRecord:
    xml = hypervisor_xml.format_xml(domain.xml)
    return ports.DomainRecord(domain.vm_id, domain.name, domain.state, domain.reason, xml)


def _invalid(reason: str) -> NodeError:
    return ports.HypervisorRefused(f"Requested operation is not valid: {reason}", _INVALID)


def _parse_xml(xml: str) -> Element:
    try:
        element: Element = fromstring(xml)
    except ParseError as error:
        raise ports.HypervisorRefused(f"not XML: {error}", _XML_ERROR) from error
    return element


def _parse(xml: str) -> Element:
    definition = _parse_xml(xml)
    for name in ("name", "uuid"):
        if not definition.findtext(name, "").strip():
            raise ports.HypervisorRefused(f"missing {name} information", _XML_ERROR)
    return definition


def _read_passwords(definition: Element) -> dict[str, str]:
    graphics = definition.findall("devices/graphics")
    return {item.get("type", ""): item.get("passwd", "") for item in graphics if "passwd" in item.attrib}


def _replace_metadata(xml: Element, element: Element, uri: str) -> None:
    metadata = xml.find("metadata")
    if metadata is None:
        metadata = Element("metadata")
        xml.insert(2, metadata)
    for old in [child for child in metadata if child.tag.startswith(f"{{{uri}}}")]:
        metadata.remove(old)
    new: Element = fromstring(tostring(element, encoding="unicode"))
    for node in new.iter():
        if not node.tag.startswith("{"):
            node.tag = f"{{{uri}}}{node.tag}"
    metadata.append(new)
