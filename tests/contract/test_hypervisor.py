"""What every hypervisor keeps, run here on the fake; `tests/system` runs the same suite on libvirt with real qemus."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest
from defusedxml.ElementTree import fromstring

from vdsm.core.ids import is_uuid
from vdsm.testing.hypervisor import FakeHypervisor
from vdsm.virt.ports import (
    BulkSample,
    DomainState,
    EventKind,
    Hypervisor,
    HypervisorDown,
    HypervisorEvent,
    HypervisorRefused,
    Move,
    NoSuchDomain,
    ShutdownMode,
)

EVENT_TIMEOUT_S = 30.0
NOWHERE = Move(uri="qemu+tcp://127.0.0.1:9/system", memory_uri="tcp://127.0.0.1", xml="<domain/>")
METADATA_URI = "http://ovirt.org/vm/1.0"
VNC = "<graphics type='vnc' autoport='yes' listen='127.0.0.1'{}><listen type='address' address='127.0.0.1'/></graphics>"
SCSI_DISK = (
    "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>"
    "<target dev='sda' bus='scsi'/></disk>"
)
_DOMAIN = """<domain type='qemu'>
  <name>{name}</name>
  <uuid>{vm_id}</uuid>
  <metadata><vm xmlns='http://ovirt.org/vm/1.0'><startTime>1</startTime></vm></metadata>
  <memory unit='KiB'>16384</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{disk}'/><target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><target dev='hdc' bus='ide'/><readonly/></disk>
    <controller type='usb' model='none'/>
    <controller type='scsi' index='0' model='virtio-scsi'/>
    <memballoon model='virtio'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    {graphics}
    <video><model type='vga'/></video>
  </devices>
</domain>"""


def make_cdrom(disc: Path) -> str:
    """The drive of a definition, as it is while it runs, with a disc in it."""
    drive = "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>"
    drive += f"<source file='{disc}'/><target dev='hdc' bus='ide'/><readonly/>"
    return drive + "<alias name='ide0-1-0'/></disk>"


def make_definition(name: str, vm_id: str, disk: Path) -> str:
    """A VM without an operating system, of 16 MiB."""
    return _DOMAIN.format(name=name, vm_id=vm_id, disk=disk, graphics=VNC.format(" passwd='first'"))


async def sample_with(hypervisor: Hypervisor, vm_id: str) -> BulkSample:
    """The next sample that has this VM: on a busy machine a healthy one may be late and left out, too."""
    for _ in range(300):
        sample = await hypervisor.sample()
        if vm_id in sample.stats:
            return sample
        await asyncio.sleep(0.1)  # one that is sick costs the others a moment after its end
    raise AssertionError(f"{vm_id} never answered: {sample}")


class Events:
    """Every event so far, and waiting for one to come."""

    def __init__(self) -> None:
        self.seen: list[HypervisorEvent] = []
        self._arrived = asyncio.Event()

    def add(self, event: HypervisorEvent) -> None:
        self.seen.append(event)
        self._arrived.set()

    async def wait_for(self, vm_id: str, kind: EventKind, detail: tuple[int, ...] = (), count: int = 1) -> None:
        """Return when so many of these have come."""
        async with asyncio.timeout(EVENT_TIMEOUT_S):
            while self.count(vm_id, kind, detail) < count:
                self._arrived.clear()
                await self._arrived.wait()

    def count(self, vm_id: str, kind: EventKind, detail: tuple[int, ...]) -> int:
        return sum((event.vm_id, event.kind, event.detail) == (vm_id, kind, detail) for event in self.seen)

    def details(self, vm_id: str) -> list[tuple[int, ...]]:
        """The lifecycle of that VM."""
        return [event.detail for event in self.seen if event.vm_id == vm_id and event.kind is EventKind.LIFECYCLE]


class World(Protocol):
    """A hypervisor, its events, and what a test may do to it from behind."""

    hypervisor: Hypervisor
    events: Events

    def freeze(self, vm_id: str) -> None:
        """Stop the VM's qemu."""
        ...

    def go_down(self) -> None:
        """End libvirtd."""
        ...

    def come_up(self) -> None: ...


class FakeWorld:
    """The fake, behind the same handles."""

    def __init__(self) -> None:
        self.fake = FakeHypervisor()
        self.hypervisor: Hypervisor = self.fake
        self.events = Events()
        self.fake.subscribe(self.events.add)
        self.freeze = self.fake.freeze
        self.come_up = self.fake.come_up

    def go_down(self) -> None:
        self.fake.go_down()


Define = Callable[[], Awaitable[str]]


def make_limits(**some: int) -> dict[str, int]:
    """All six limits of a disk, these and no others."""
    return {f"{way}_{kind}_sec": 0 for kind in ("bytes", "iops") for way in ("total", "read", "write")} | some


class Suite:
    """What suites start from. A subclass overrides `world`."""

    @pytest.fixture
    async def world(self) -> AsyncIterator[World]:
        raise NotImplementedError
        yield

    @pytest.fixture
    def define(self, world: World, tmp_path: Path) -> Define:
        async def define() -> str:
            vm_id = str(uuid4())
            (tmp_path / vm_id).write_bytes(bytes(2**20))
            await world.hypervisor.define(make_definition(f"vm-{vm_id[:8]}", vm_id, tmp_path / vm_id))
            return vm_id

        return define


class CpuTuneContract(Suite):
    """The suite for hypervisors that can limit processors, for which libvirt needs control groups."""

    async def test_processors_are_limited(self, world: World, define: Define) -> None:
        vm_id = await define()
        hypervisor = world.hypervisor
        with pytest.raises(HypervisorRefused, match="not running"):
            await hypervisor.set_cpu_tune(vm_id, {"vcpu_quota": 50_000})
        await hypervisor.start(vm_id, paused=False)
        await hypervisor.set_cpu_tune(vm_id, {"vcpu_quota": 50_000})
        await hypervisor.set_cpu_tune(vm_id, {"vcpu_period": 200_000})
        await world.events.wait_for(vm_id, EventKind.TUNED, count=2)
        for name, value in (("vcpu_quota", 999), ("vcpu_quota", 2**44), ("vcpu_period", 5), ("vcpu_period", 2**20)):
            with pytest.raises(HypervisorRefused, match="out of range"):
                await hypervisor.set_cpu_tune(vm_id, {name: value})
        live = fromstring((await hypervisor.get_domain(vm_id)).xml)
        assert (live.findtext("cputune/quota"), live.findtext("cputune/period")) == ("50000", "200000")
        await hypervisor.set_cpu_tune(vm_id, {"vcpu_quota": -1})
        assert fromstring((await hypervisor.get_domain(vm_id)).xml).findtext("cputune/quota") == "-1"


class HypervisorContract(Suite):
    """The suite of every hypervisor."""

    async def test_defined_domain_is_listed_and_off(self, world: World, define: Define) -> None:
        vm_id = await define()
        [record] = await world.hypervisor.list_domains()
        assert record == await world.hypervisor.get_domain(vm_id)
        assert (record.vm_id, record.name) == (vm_id, f"vm-{vm_id[:8]}")
        assert (record.state, record.reason) == (DomainState.SHUT_OFF, 0)
        assert fromstring(record.xml).get("id") is None
        await world.events.wait_for(vm_id, EventKind.LIFECYCLE, (0, 0))

    async def test_defining_again_replaces(self, world: World, define: Define) -> None:
        vm_id = await define()
        xml = (await world.hypervisor.get_domain(vm_id)).xml
        await world.hypervisor.define(
            xml.replace("<vcpu placement='static'>1", "<vcpu>2").replace("<vcpu>1", "<vcpu>2")
        )
        [record] = await world.hypervisor.list_domains()
        assert fromstring(record.xml).findtext("vcpu") == "2"
        await world.events.wait_for(vm_id, EventKind.LIFECYCLE, (0, 1))

    async def test_bad_definitions_are_refused(self, world: World, define: Define, tmp_path: Path) -> None:
        vm_id = await define()
        taken = make_definition(f"vm-{vm_id[:8]}", str(uuid4()), tmp_path / "x")
        for xml in (taken, "<domain/>", "<domain"):
            with pytest.raises(HypervisorRefused):
                await world.hypervisor.define(xml)
        assert len(await world.hypervisor.list_domains()) == 1

    async def test_started_domain_runs_with_live_xml(self, world: World, define: Define) -> None:
        vm_id = await define()
        await world.hypervisor.start(vm_id, paused=False)
        record = await world.hypervisor.get_domain(vm_id)
        assert (record.state, record.reason) == (DomainState.RUNNING, 1)
        live = fromstring(record.xml)
        assert int(live.attrib["id"]) > 0
        assert live.findtext(f"metadata/{{{METADATA_URI}}}vm/{{{METADATA_URI}}}startTime") == "1"
        graphics = live.find("devices/graphics")
        assert int(graphics.attrib["port"]) >= 5900
        assert "passwd" not in graphics.attrib
        assert live.find("devices/disk/alias").get("name") == "virtio-disk0"
        assert live.find("devices/memballoon/alias").get("name") == "balloon0"
        assert live.find("devices/channel/target").get("state") == "disconnected"
        await world.events.wait_for(vm_id, EventKind.LIFECYCLE, (2, 0))
        with pytest.raises(HypervisorRefused, match="already running"):
            await world.hypervisor.start(vm_id, paused=False)

    async def test_pausing_and_resuming(self, world: World, define: Define) -> None:
        vm_id = await define()
        hypervisor = world.hypervisor
        await hypervisor.start(vm_id, paused=True)
        assert (await hypervisor.get_domain(vm_id)).state is DomainState.PAUSED
        await hypervisor.resume(vm_id)
        assert (await hypervisor.get_domain(vm_id)).state is DomainState.RUNNING
        with pytest.raises(HypervisorRefused, match="already running"):
            await hypervisor.resume(vm_id)
        await hypervisor.suspend(vm_id)
        await hypervisor.suspend(vm_id)
        record = await hypervisor.get_domain(vm_id)
        assert (record.state, record.reason) == (DomainState.PAUSED, 1)
        await world.events.wait_for(vm_id, EventKind.LIFECYCLE, (3, 0), count=2)
        assert world.events.details(vm_id) == [(0, 0), (2, 0), (3, 0), (4, 0), (3, 0)]

    async def test_destroying_and_undefining(self, world: World, define: Define) -> None:
        vm_id = await define()
        hypervisor = world.hypervisor
        await hypervisor.start(vm_id, paused=False)
        await hypervisor.destroy(vm_id, graceful=False)
        record = await hypervisor.get_domain(vm_id)
        assert (record.state, record.reason) == (DomainState.SHUT_OFF, 2)
        await world.events.wait_for(vm_id, EventKind.LIFECYCLE, (5, 1))
        with pytest.raises(HypervisorRefused, match="not running") as refused:
            await hypervisor.destroy(vm_id, graceful=False)
        assert refused.value.kind == 55
        await hypervisor.undefine(vm_id)
        await hypervisor.undefine(vm_id)
        assert await hypervisor.list_domains() == []

    async def test_undefined_while_running_it_goes_when_it_stops(self, world: World, define: Define) -> None:
        vm_id = await define()
        hypervisor = world.hypervisor
        await hypervisor.start(vm_id, paused=False)
        await hypervisor.undefine(vm_id)
        await hypervisor.destroy(vm_id, graceful=True)
        await world.events.wait_for(vm_id, EventKind.LIFECYCLE, (5, 1))
        assert world.events.details(vm_id)[-2:] == [(6, 2), (5, 1)]
        with pytest.raises(NoSuchDomain):
            await hypervisor.get_domain(vm_id)

    @pytest.mark.parametrize("vm_id", ["6a1f0e52-0000-4000-8000-000000000001", "never heard of"])
    async def test_calls_on_an_unknown_domain(self, world: World, vm_id: str) -> None:
        hypervisor = world.hypervisor
        calls = [
            hypervisor.get_domain(vm_id),
            hypervisor.start(vm_id, paused=False),
            hypervisor.destroy(vm_id, graceful=True),
            hypervisor.shutdown(vm_id, ShutdownMode.ACPI),
            hypervisor.reboot(vm_id, ShutdownMode.ACPI),
            hypervisor.reset(vm_id),
            hypervisor.suspend(vm_id),
            hypervisor.resume(vm_id),
            hypervisor.set_metadata(vm_id, "<vm/>", "ovirt-vm", METADATA_URI),
            hypervisor.update_device(vm_id, VNC.format("")),
            hypervisor.attach_device(vm_id, SCSI_DISK.format("/none")),
            hypervisor.detach_device(vm_id, SCSI_DISK.format("/none")),
            hypervisor.block_errors(vm_id),
            hypervisor.set_memory(vm_id, 8192),
            hypervisor.set_cpu_tune(vm_id, {"vcpu_quota": -1}),
            hypervisor.set_io_tune(vm_id, "vda", make_limits()),
            hypervisor.set_cpu_count(vm_id, 1),
            hypervisor.pin_cpu(vm_id, 0, (0,)),
            hypervisor.ask_agent(vm_id, "guest-ping"),
            hypervisor.take_screenshot(vm_id),
            hypervisor.get_migratable_xml(vm_id),
            hypervisor.migrate(vm_id, NOWHERE),
            hypervisor.get_move(vm_id),
            hypervisor.abort_move(vm_id),
            hypervisor.set_move_downtime(vm_id, 100),
            hypervisor.set_move_bandwidth(vm_id, 1),
            hypervisor.start_post_copy(vm_id),
            hypervisor.save(vm_id, "/none/there"),
        ]
        for call in calls:
            with pytest.raises(NoSuchDomain) as failure:
                await call
            assert failure.value.vm_id == vm_id
        await hypervisor.undefine(vm_id)

    async def test_calls_on_a_domain_that_is_off(self, world: World, define: Define) -> None:
        vm_id = await define()
        hypervisor = world.hypervisor
        calls = [
            hypervisor.shutdown(vm_id, ShutdownMode.ACPI),
            hypervisor.reboot(vm_id, ShutdownMode.AGENT),
            hypervisor.reset(vm_id),
            hypervisor.suspend(vm_id),
            hypervisor.resume(vm_id),
            hypervisor.attach_device(vm_id, SCSI_DISK.format("/none")),
            hypervisor.detach_device(vm_id, SCSI_DISK.format("/none")),
            hypervisor.update_device(vm_id, VNC.format("")),
            hypervisor.block_errors(vm_id),
            hypervisor.set_memory(vm_id, 8192),
            hypervisor.set_io_tune(vm_id, "vda", make_limits()),
            hypervisor.set_cpu_count(vm_id, 1),
            hypervisor.pin_cpu(vm_id, 0, (0,)),
            hypervisor.ask_agent(vm_id, "guest-ping"),
            hypervisor.migrate(vm_id, NOWHERE),
            hypervisor.abort_move(vm_id),
            hypervisor.start_post_copy(vm_id),
            hypervisor.save(vm_id, "/none/there"),
        ]
        for call in calls:
            with pytest.raises(HypervisorRefused, match="not running"):
                await call
        assert (await hypervisor.sample()).stats == {}

    async def test_a_domain_that_goes_nowhere(self, world: World, define: Define) -> None:
        vm_id = await define()
        hypervisor = world.hypervisor
        assert await hypervisor.get_move(vm_id) is None
        await hypervisor.start(vm_id, paused=False)
        assert fromstring(await hypervisor.get_migratable_xml(vm_id)).findtext("uuid") == vm_id
        assert await hypervisor.get_move(vm_id) is None
        for call in (hypervisor.abort_move(vm_id), hypervisor.start_post_copy(vm_id)):
            with pytest.raises(HypervisorRefused) as refused:
                await call
            assert refused.value.kind == 55
        with pytest.raises(HypervisorRefused) as refused:
            await hypervisor.migrate(vm_id, NOWHERE)
        assert refused.value.kind in (38, 81), "nobody is there, and its disk is on no storage that could be shared"
        record = await hypervisor.get_domain(vm_id)
        assert (record.state, await hypervisor.get_move(vm_id)) == (DomainState.RUNNING, None)

    async def test_a_domain_is_saved_and_goes_on(self, world: World, define: Define, tmp_path: Path) -> None:
        vm_id, file = await define(), str(tmp_path / "memory")
        hypervisor = world.hypervisor
        await hypervisor.start(vm_id, paused=False)
        for call in (hypervisor.read_saved(file), hypervisor.restore(vm_id, file, "<domain/>")):
            with pytest.raises(HypervisorRefused):
                await call
        await hypervisor.save(vm_id, file)
        record = await hypervisor.get_domain(vm_id)
        assert (record.state, record.reason) == (DomainState.SHUT_OFF, 5)
        await world.events.wait_for(vm_id, EventKind.LIFECYCLE, (5, 4))
        saved = await hypervisor.read_saved(file)
        assert fromstring(saved).findtext("uuid") == vm_id
        await hypervisor.restore(vm_id, file, saved)
        assert (await hypervisor.get_domain(vm_id)).state is DomainState.RUNNING
        await world.events.wait_for(vm_id, EventKind.LIFECYCLE, (2, 2))
        with pytest.raises(HypervisorRefused):
            await hypervisor.restore(vm_id, file, saved)

    async def test_metadata_is_replaced_and_stays(self, world: World, define: Define) -> None:
        vm_id = await define()
        hypervisor = world.hypervisor

        async def read(element: str) -> str | None:
            xml = fromstring((await hypervisor.get_domain(vm_id)).xml)
            assert len(xml.findall(f"metadata/{{{METADATA_URI}}}vm")) == 1
            return xml.findtext(f"metadata/{{{METADATA_URI}}}vm/{{{METADATA_URI}}}{element}")

        await hypervisor.set_metadata(vm_id, "<vm><a>off</a></vm>", "ovirt-vm", METADATA_URI)
        assert (await read("a"), await read("startTime")) == ("off", None)
        await hypervisor.start(vm_id, paused=False)
        await hypervisor.set_metadata(vm_id, "<vm><a>on</a></vm>", "ovirt-vm", METADATA_URI)
        assert await read("a") == "on"
        await hypervisor.destroy(vm_id, graceful=False)
        assert await read("a") == "on"

    async def test_devices_are_updated(self, world: World, define: Define, tmp_path: Path) -> None:
        vm_id = await define()
        hypervisor = world.hypervisor
        await hypervisor.start(vm_id, paused=False)
        await hypervisor.update_device(vm_id, VNC.format(" passwd='second' passwdValidTo='2038-01-01T00:00:00'"))
        disc = tmp_path / "disc.iso"
        disc.write_bytes(bytes(4096))
        cdrom = make_cdrom(disc)
        await hypervisor.update_device(vm_id, cdrom, force=True)
        live = fromstring((await hypervisor.get_domain(vm_id)).xml)
        sources = {disk.find("target").get("dev"): disk.find("source") for disk in live.findall("devices/disk")}
        assert sources["hdc"].get("file") == str(disc)
        assert "passwd" not in live.find("devices/graphics").attrib
        assert int(live.find("devices/graphics").get("port")) >= 5900
        with pytest.raises(HypervisorRefused):
            await hypervisor.update_device(vm_id, cdrom.replace("hdc", "hdd"))

    async def test_devices_come_and_go(self, world: World, define: Define, tmp_path: Path) -> None:
        vm_id, hypervisor = await define(), world.hypervisor
        path = tmp_path / "plugged"
        path.write_bytes(bytes(1 << 20))
        disk = SCSI_DISK.format(path)
        await hypervisor.start(vm_id, paused=False)
        await hypervisor.attach_device(vm_id, disk)
        live = fromstring((await hypervisor.get_domain(vm_id)).xml)
        [plugged] = live.findall("devices/disk/target[@dev='sda']/..")
        assert plugged.find("alias").get("name")
        with pytest.raises(HypervisorRefused):
            await hypervisor.attach_device(vm_id, disk)
        with pytest.raises(HypervisorRefused):
            await hypervisor.attach_device(vm_id, "<disk")
        await hypervisor.detach_device(vm_id, disk)
        await world.events.wait_for(vm_id, EventKind.DEVICE_REMOVED)
        live = fromstring((await hypervisor.get_domain(vm_id)).xml)
        assert live.findall("devices/disk/target[@dev='sda']") == []
        with pytest.raises(HypervisorRefused) as refused:
            await hypervisor.detach_device(vm_id, disk)
        assert refused.value.kind == 99

    async def test_memory_is_asked_for(self, world: World, define: Define) -> None:
        vm_id = await define()
        await world.hypervisor.start(vm_id, paused=False)
        for size_kib in (8192, 16384):
            await world.hypervisor.set_memory(vm_id, size_kib)
        for size_kib, reason in ((0, "zero"), (16385, "max memory"), (2**63 - 1, None)):
            with pytest.raises(HypervisorRefused, match=reason):
                await world.hypervisor.set_memory(vm_id, size_kib)

    async def test_processors_are_plugged_and_pinned(self, world: World, define: Define) -> None:
        hypervisor, vm_id = world.hypervisor, await define()
        xml = (await hypervisor.get_domain(vm_id)).xml
        room = re.sub("<vcpu[^>]*>1</vcpu>", "<vcpu current='1'>3</vcpu>", xml)
        await hypervisor.define(room)
        await hypervisor.start(vm_id, paused=True)

        async def read() -> tuple[str, list[str]]:
            domain = fromstring((await hypervisor.get_domain(vm_id)).xml)
            count = domain.find("vcpu")
            pins = [pin.get("cpuset", "") for pin in domain.iterfind("cputune/vcpupin")]
            return ("" if count is None else count.get("current", count.text or "")), pins

        await hypervisor.set_cpu_count(vm_id, 3)
        assert await read() == ("3", [])
        for cpu in range(3):
            await hypervisor.pin_cpu(vm_id, cpu, (0,))
        assert await read() == ("3", ["0", "0", "0"])
        for count in (0, 4):
            with pytest.raises(HypervisorRefused):
                await hypervisor.set_cpu_count(vm_id, count)
        assert (await read())[0] == "3"

    async def test_disks_are_limited(self, world: World, define: Define) -> None:
        vm_id = await define()
        hypervisor = world.hypervisor
        await hypervisor.start(vm_id, paused=False)

        async def read() -> dict[str, int]:
            live = fromstring((await hypervisor.get_domain(vm_id)).xml)
            limits = {limit.tag: int(limit.text) for limit in live.iterfind("devices/disk[1]/iotune/*")}
            return {name: value for name, value in limits.items() if value}

        some = {"read_bytes_sec": 10**6, "write_bytes_sec": 10**15, "total_iops_sec": 1}
        await hypervisor.set_io_tune(vm_id, "vda", make_limits(**some))
        assert await read() == some
        await world.events.wait_for(vm_id, EventKind.TUNED)
        for target, limits in (
            ("vdb", make_limits()),
            ("vda", make_limits(total_bytes_sec=1, read_bytes_sec=1)),
            ("vda", make_limits(read_iops_sec=10**15 + 1)),
        ):
            with pytest.raises(HypervisorRefused):
                await hypervisor.set_io_tune(vm_id, target, limits)
        assert await read() == some
        await hypervisor.set_io_tune(vm_id, "vda", make_limits(total_bytes_sec=5))
        assert await read() == {"total_bytes_sec": 5}
        await hypervisor.set_io_tune(vm_id, "vda", make_limits())
        assert await read() == {}

    async def test_looking_into_a_running_domain(self, world: World, define: Define) -> None:
        vm_id = await define()
        hypervisor = world.hypervisor
        await hypervisor.start(vm_id, paused=False)
        assert await hypervisor.block_errors(vm_id) == {}
        await hypervisor.reset(vm_id)
        await world.events.wait_for(vm_id, EventKind.REBOOT)

    async def test_what_a_display_shows(self, world: World, define: Define) -> None:
        vm_id = await define()
        with pytest.raises(HypervisorRefused, match="not running"):
            await world.hypervisor.take_screenshot(vm_id)
        await world.hypervisor.start(vm_id, paused=False)
        picture = await world.hypervisor.take_screenshot(vm_id)
        magic = {"image/png": b"\x89PNG\r\n", "image/x-portable-pixmap": b"P6\n"}[picture.mime_type]
        assert picture.data.startswith(magic)

    async def test_secrets_are_kept_by_their_use(self, world: World) -> None:
        hypervisor, first, second = world.hypervisor, str(uuid4()), str(uuid4())
        usage = f"ovirt/{first}"
        xml = "<secret ephemeral='yes' private='yes'><uuid>{}</uuid><usage type='ceph'><name>{}</name></usage></secret>"
        await hypervisor.set_secret(first, xml.format(first, usage), b"\0one")
        await hypervisor.set_secret(first, xml.format(first, usage), b"two")
        assert (await hypervisor.list_secrets())[first] == usage
        for uuid, other in ((second, usage), (first, "other")):
            with pytest.raises(HypervisorRefused, match="already defined"):
                await hypervisor.set_secret(uuid, xml.format(uuid, other), b"three")
        for _ in range(2):
            await hypervisor.remove_secret(first)
        assert first not in await hypervisor.list_secrets()

    async def test_a_guest_without_agent_cannot_be_asked_through_it(self, world: World, define: Define) -> None:
        vm_id = await define()
        await world.hypervisor.start(vm_id, paused=False)
        for call in (world.hypervisor.shutdown, world.hypervisor.reboot):
            with pytest.raises(HypervisorRefused, match="agent"):
                await call(vm_id, ShutdownMode.AGENT)
        with pytest.raises(HypervisorRefused, match="agent") as refused:
            await world.hypervisor.ask_agent(vm_id, "guest-info")
        assert refused.value.kind == 86
        assert (await world.hypervisor.get_domain(vm_id)).state is DomainState.RUNNING

    async def test_sample(self, world: World, define: Define) -> None:
        off, first, second = await define(), await define(), await define()
        await world.hypervisor.start(first, paused=False)
        await world.hypervisor.start(second, paused=True)
        before = await world.hypervisor.sample()
        assert set(before.stats) == {first, second} and off not in before.missing
        after = await world.hypervisor.sample()
        assert after.taken_at_s >= before.taken_at_s
        stats = after.stats[first]
        expected = {"state.state": 1, "balloon.maximum": 16384, "vcpu.current": 1, "net.count": 0, "block.count": 2}
        assert {key: stats[key] for key in expected} == expected
        assert after.stats[second]["state.state"] == 3
        assert {"cpu.time", "cpu.user", "cpu.system", "block.0.rd.bytes", "block.0.fl.times"} <= set(stats)
        assert stats["block.0.name"] == "vda"
        assert int(stats["cpu.time"]) >= int(before.stats[first]["cpu.time"])

    async def test_frozen_qemu_is_missing_and_can_be_destroyed(self, world: World, define: Define) -> None:
        healthy, sick = await define(), await define()
        for vm_id in (healthy, sick):
            await world.hypervisor.start(vm_id, paused=False)
        world.freeze(sick)
        for _ in range(2):
            sample = await sample_with(world.hypervisor, healthy)
            assert (set(sample.stats), sample.missing) == ({healthy}, {sick})
        await world.hypervisor.suspend(healthy)
        await world.hypervisor.destroy(sick, graceful=False)
        await world.events.wait_for(sick, EventKind.LIFECYCLE, (5, 1))
        sample = await sample_with(world.hypervisor, healthy)
        assert (set(sample.stats), sample.missing) == ({healthy}, set())

    async def test_libvirtd_ends_and_comes_back(self, world: World, define: Define) -> None:
        vm_id = await define()
        hypervisor = world.hypervisor
        await hypervisor.start(vm_id, paused=False)
        connected = world.events.count("", EventKind.CONNECTED, ())
        world.go_down()
        await world.events.wait_for("", EventKind.DISCONNECTED)
        calls = [
            hypervisor.list_domains(),
            hypervisor.versions(),
            hypervisor.suspend(vm_id),
            hypervisor.destroy(vm_id, graceful=False),
            hypervisor.sample(),
        ]
        for call in calls:
            with pytest.raises(HypervisorDown):
                await call
        world.come_up()
        await world.events.wait_for("", EventKind.CONNECTED, count=connected + 1)
        [record] = await hypervisor.list_domains()
        assert (record.vm_id, record.state) == (vm_id, DomainState.RUNNING)
        await hypervisor.suspend(vm_id)
        await world.events.wait_for(vm_id, EventKind.LIFECYCLE, (3, 0))
        assert set((await hypervisor.sample()).stats) == {vm_id}

    async def test_what_the_host_can_do(self, world: World) -> None:
        host = fromstring(await world.hypervisor.capabilities_xml())
        assert is_uuid(host.findtext("host/uuid"))
        domain = fromstring(await world.hypervisor.domain_capabilities_xml("qemu"))
        assert domain.findtext("domain") == "qemu"
        libvirt, qemu = await world.hypervisor.versions()
        assert libvirt > 1_000_000 and qemu > 1_000_000


class TestFakeCpuTune(CpuTuneContract):
    @pytest.fixture
    async def world(self) -> AsyncIterator[World]:
        yield FakeWorld()


class TestFake(HypervisorContract):
    @pytest.fixture
    async def world(self) -> AsyncIterator[World]:
        yield FakeWorld()

    async def test_failing_on_demand(self, world: FakeWorld, define: Define) -> None:
        world.fake.fail_next("start", HypervisorRefused("no memory", 1))
        vm_id = await define()
        with pytest.raises(HypervisorRefused, match="no memory"):
            await world.hypervisor.start(vm_id, paused=False)
        await world.hypervisor.start(vm_id, paused=False)

    async def test_guest_that_obeys(self, world: FakeWorld, define: Define) -> None:
        vm_id = await define()
        await world.hypervisor.start(vm_id, paused=False)
        world.fake.agents.add(vm_id)
        await world.hypervisor.reboot(vm_id, ShutdownMode.AGENT)
        await world.events.wait_for(vm_id, EventKind.REBOOT)
        await world.hypervisor.shutdown(vm_id, ShutdownMode.ACPI)
        await world.events.wait_for(vm_id, EventKind.LIFECYCLE, (5, 0))
        assert (await world.hypervisor.get_domain(vm_id)).reason == 1

    async def test_disk_without_space(self, world: FakeWorld, define: Define) -> None:
        vm_id = await define()
        await world.hypervisor.start(vm_id, paused=False)
        world.fake.pause_on_error(vm_id, "vda")
        await world.events.wait_for(vm_id, EventKind.LIFECYCLE, (3, 2))
        assert await world.hypervisor.block_errors(vm_id) == {"vda": 2}
        record = await world.hypervisor.get_domain(vm_id)
        assert (record.state, record.reason) == (DomainState.PAUSED, 5)
