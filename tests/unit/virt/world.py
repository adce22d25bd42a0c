"""A VM service on fakes, with what it tells the world and what it does to images."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import pairwise

from msgspec.structs import replace

from tests.unit.virt.builders import HOST, VM_ID, parameters
from vdsm.api.errors import NoSuchVm
from vdsm.api.events import MigrationProgressed, VmEvent, VmStatusChanged
from vdsm.api.migration import IncomingVm
from vdsm.api.vm import VmInfo
from vdsm.core.errors import GeneralFailure, NodeError
from vdsm.testing import hypervisor_xml
from vdsm.testing.channels import FakeChannels
from vdsm.testing.clock import VirtualClock
from vdsm.testing.hypervisor import FakeHypervisor
from vdsm.virt.accelerator import Accelerator, AcceleratorSetting
from vdsm.virt.domain import parse_domain
from vdsm.virt.metadata import VmMetadata
from vdsm.virt.ports import (
    BackupPlace,
    PathKind,
    Payload,
    PeerRefused,
    PeerUnreachable,
    Place,
    PreparedImage,
    ProbeResult,
    Traveller,
    VolumeFigures,
    VolumeSize,
)
from vdsm.virt.service import VmService
from vdsm.virt.shared import Shared, VirtSettings


class FakeImages:
    """Prepares any image; counts who is prepared, and waits or fails when told to."""

    def __init__(self) -> None:
        self.format = "cow"
        self.prepared: list[str] = []
        self.failures: list[NodeError] = []
        self.teardown_failures: list[NodeError] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.waiting = 0
        self.folders: set[str] = set()
        self.sizes: dict[str, VolumeSize] = {}
        self.asked_sizes: list[str] = []
        self.hanging: set[str] = set()
        """Domains that do not answer."""
        self.contents: dict[str, bytes] = {}
        self.padded: list[str] = []
        self.missing: set[str] = set()
        self.parents: dict[str, str] = {}
        """What each volume lies on; those that are not there lie on none."""
        self.scratch: set[str] = set()
        self.figures: dict[str, VolumeFigures] = {}
        """Of volumes that are not qcow2 of 1 GiB."""
        self.illegal: set[str] = set()
        self.synced: list[tuple[str, tuple[str, ...]]] = []
        self.record_failures: list[NodeError] = []
        self.payloads: dict[tuple[str, str], Payload] = {}

    async def prepare(self, pool_id: str, domain_id: str, image_id: str, volume_id: str) -> PreparedImage:
        self.waiting += 1
        await self.may_go_on.wait()
        self.waiting -= 1
        if self.failures:
            raise self.failures.pop(0)
        if volume_id in self.illegal:
            raise GeneralFailure(f"volume {volume_id} is illegal")
        self.prepared.append(image_id)
        chain = [volume_id]
        while (parent := self.parents.get(chain[-1])) is not None:
            chain.append(parent)
        folder, ids = f"/run/{domain_id}/{image_id}", {"domainID": domain_id, "imageID": image_id}
        nodes = ({**ids, "volumeID": one, "path": f"{folder}/{one}"} for one in reversed(chain))
        return PreparedImage(f"{folder}/{volume_id}", "file", self.format, tuple(nodes))

    async def teardown(self, pool_id: str, domain_id: str, image_id: str) -> None:
        if self.teardown_failures:
            raise self.teardown_failures.pop(0)
        self.prepared = [other for other in self.prepared if other != image_id]

    async def get_size(self, pool_id: str, domain_id: str, image_id: str, volume_id: str) -> VolumeSize:
        self.asked_sizes.append(volume_id)
        if domain_id in self.hanging:
            await asyncio.Event().wait()
        if volume_id not in self.sizes:
            raise GeneralFailure("no such volume")
        return self.sizes[volume_id]

    async def get_volume(self, domain_id: str, image_id: str, volume_id: str) -> VolumeFigures:
        self._check_record()
        return self.figures.get(volume_id, VolumeFigures(1 << 30, "cow", False))

    async def read_sectors(self, domain_id: str, image_id: str, volume_id: str, first: int, count: int) -> bytes:
        self._check_record()
        return self.contents.get(volume_id, b"")[first * 512 : (first + count) * 512]

    async def set_capacity(self, domain_id: str, image_id: str, volume_id: str, capacity_bytes: int) -> None:
        self._check_record()
        old = self.figures.get(volume_id, VolumeFigures(1 << 30, "cow", False))
        self.figures[volume_id] = replace(old, capacity_bytes=capacity_bytes)

    async def sync_chain(self, domain_id: str, image_id: str, leaf_id: str, real: Sequence[str]) -> None:
        self._check_record()
        assert all(real), real
        self.synced.append((leaf_id, tuple(real)))
        self.parents |= dict(pairwise(real))
        self.illegal = self.illegal - {leaf_id} if leaf_id in real else self.illegal | {leaf_id}

    def _check_record(self) -> None:
        if self.record_failures:
            raise self.record_failures.pop(0)

    async def read(self, domain_id: str, path: str, length: int) -> bytes:
        return self.contents.get(path, b"")[:length]

    async def write(self, domain_id: str, path: str, content: bytes) -> None:
        self.contents[path] = content

    async def pad(self, domain_id: str, path: str) -> None:
        self._check_record()
        self.padded.append(path)

    async def find_lease(self, domain_id: str, lease_id: str) -> tuple[str, int]:
        if self.failures:
            raise self.failures.pop(0)
        return f"/run/{domain_id}/xleases", 1 << 20

    async def prepare_backup(self, vm_id: str, backup_id: str, sizes: Mapping[str, int]) -> BackupPlace:
        if self.failures:
            raise self.failures.pop(0)
        made = {target: f"/scratch/{vm_id}/{backup_id}.{target}" for target in sizes}
        self.scratch |= set(made.values())
        return BackupPlace(f"/run/backup/{backup_id}", made)

    async def clear_backup(self, vm_id: str, backup_id: str = "") -> None:
        self.scratch = {path for path in self.scratch if not path.startswith(f"/scratch/{vm_id}/{backup_id}")}

    async def make_payload(self, vm_id: str, target: str, payload: Payload) -> str:
        if self.failures:
            raise self.failures.pop(0)
        self.payloads[vm_id, target] = payload
        return f"/run/payload/{vm_id}-{target}.img"

    async def remove_payloads(self, vm_id: str) -> None:
        await self.keep_payloads({known for known, _ in self.payloads} - {vm_id})

    async def keep_payloads(self, vm_ids: Collection[str]) -> None:
        self.payloads = {key: payload for key, payload in self.payloads.items() if key[0] in vm_ids}

    async def find_kind(self, path: str) -> PathKind:
        return "folder" if path in self.folders else "missing" if path in self.missing else "file"


class FakeFirmware:
    """What TPMs and NVRAMs keep, by kind and VM."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], bytes] = {}
        self.clears = 0
        self.failures: list[NodeError] = []

    async def read(self, kind: str, vm_id: str, path: str) -> bytes | None:
        if self.failures:
            raise self.failures.pop(0)
        return self.kept.get((kind, vm_id))

    async def write(self, kind: str, vm_id: str, path: str, data: bytes) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.kept[kind, vm_id] = data

    async def clear(self) -> None:
        self.clears += 1


class FakeJobs:
    """Runs each job at once; tells what became of it: None while it goes on, then its failure or an empty text."""

    def __init__(self) -> None:
        self.ends: dict[str, str | None] = {}
        self.numbers: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, job_id: str, name: str, vm_id: str, work: Callable[[], Awaitable[None]]) -> None:
        if job_id in self.ends:
            raise GeneralFailure(f"job {job_id} exists")
        self.ends[job_id] = None
        task = asyncio.create_task(self._run(job_id, work))
        self._tasks.add(task)

    async def _run(self, job_id: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
            self.ends[job_id] = ""
        except NodeError as error:
            self.ends[job_id], self.numbers[job_id] = str(error), error.number

    async def close(self) -> None:
        """The daemon ends: so do its jobs, wherever they are."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self.ends.clear()

    async def wait(self, job_id: str) -> str:
        """How the job ended."""
        await until(lambda: self.ends.get(job_id) is not None)
        return self.ends[job_id] or ""


class NoProbe:
    async def measure(self) -> ProbeResult:
        raise AssertionError("nobody should measure")


class FakePeers:
    """Other hosts' services by name, called without a wire; `failures` come first."""

    def __init__(self) -> None:
        self.services: dict[str, VmService] = {}
        self.failures: list[NodeError] = []
        self.asked: list[str] = []

    async def ping(self, place: Place) -> None:
        self._find("ping", place)

    async def create_incoming(self, place: Place, traveller: Traveller, incoming_limit: int | None) -> str:
        service = self._find("create", place)
        given = IncomingVm(
            vm_id=traveller.vm_id,
            live_xml=traveller.live_xml,
            xml=traveller.xml,
            elapsed_offset_s=traveller.elapsed_s,
            guest_name=traveller.guest.fqdn,
            guest_user=traveller.guest.user,
            guest_interfaces=traveller.guest.interfaces,
            guest_events=traveller.guest_events,
        )
        try:
            answer = await service.migration.create_incoming(traveller.vm_id, given, incoming_limit)
        except NodeError as error:
            raise PeerRefused(str(place), error.number, str(error)) from error
        return str(answer.vm.xml)

    async def get_status(self, place: Place, vm_id: str) -> str | None:
        service = self._find("status", place)
        try:
            return (await service.get_stats(vm_id)).status
        except NoSuchVm:
            return None

    async def destroy(self, place: Place, vm_id: str) -> None:
        with suppress(NoSuchVm):
            await self._find("destroy", place).destroy(vm_id)

    def _find(self, call: str, place: Place) -> VmService:
        self.asked.append(call)
        if self.failures:
            raise self.failures.pop(0)
        if place.host not in self.services:
            raise PeerUnreachable(str(place), "nobody is there")
        return self.services[place.host]


class FakeNetworks:
    """Networks are bridges, but for one."""

    async def find_device(self, network: str) -> tuple[str, bool]:
        return ("eth1.7", False) if network == "plain" else (network, True)


class FakeProcessors:
    """Four cores of two threads each, CPU 4 beside CPU 0 and so on."""

    def list_online(self) -> dict[int, frozenset[int]]:
        return {cpu: frozenset((cpu % 4, cpu % 4 + 4)) for cpu in range(8)}


class World:
    """Hypervisor, images and clock outlive the services that run on them, as on a host."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.hypervisor = FakeHypervisor(self.clock)
        self.images = FakeImages()
        self.channels = FakeChannels()
        self.firmware = FakeFirmware()
        self.jobs = FakeJobs()
        self.peers = FakePeers()
        self.processors = FakeProcessors()
        self.events: list[VmStatusChanged] = []
        self.moves: list[MigrationProgressed] = []

    def make(self, **settings: object) -> VmService:
        accelerator = Accelerator(AcceleratorSetting.TCG, NoProbe())
        chosen = VirtSettings(host=HOST, **settings)  # type: ignore[arg-type]
        ports = (self.hypervisor, self.images, self.jobs, accelerator, self.clock)
        shared = Shared(*ports, self._hear, chosen)
        return VmService(shared, self.channels, self.peers, self.firmware, self.processors, FakeNetworks())

    def _hear(self, event: VmEvent) -> None:
        if isinstance(event, VmStatusChanged):
            self.events.append(event)
        else:
            self.moves.append(event)

    @asynccontextmanager
    async def running(self, **settings: object) -> AsyncIterator[VmService]:
        """A service from its start to its end; its end is as sudden as a crash, as far as VMs are concerned."""
        service = self.make(**settings)
        task = asyncio.create_task(service.run())
        try:
            yield service
        finally:
            task.cancel()
            await self.jobs.close()
            await asyncio.wait({task})
            self.hypervisor._listeners.clear()
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    @asynccontextmanager
    async def ready(self, **settings: object) -> AsyncIterator[VmService]:
        """A service that has recovered its VMs."""
        async with self.running(**settings) as service:
            await service.wait_ready()
            yield service

    def hang_after(self, count: int) -> Callable[[], None]:
        """Only so many more calls get to libvirt, as from a daemon that is killed; what is given ends that."""
        enter, begin = self.hypervisor._enter, len(self.hypervisor.calls)

        async def enter_or_hang(method: str, vm_id: str = "") -> None:
            if len(self.hypervisor.calls) - begin >= count:
                await asyncio.Event().wait()
            await enter(method, vm_id)

        def go_on() -> None:
            self.hypervisor._enter = enter  # type: ignore[method-assign]

        self.hypervisor._enter = enter_or_hang  # type: ignore[method-assign]
        return go_on

    def statuses(self, vm_id: str = VM_ID) -> list[str]:
        """The statuses told of that VM, in order."""
        return [event.status for event in self.events if event.vm_id == vm_id]

    def stored(self, vm_id: str = VM_ID) -> VmMetadata:
        """The metadata that libvirt holds."""
        metadata = parse_domain(self.record(vm_id)).metadata
        assert metadata is not None
        return metadata

    def record(self, vm_id: str = VM_ID) -> str:
        return hypervisor_xml.format_xml(self.hypervisor.domains[vm_id].xml)


async def until(holds: Callable[[], object]) -> None:
    """Let the loop turn until that holds."""
    for _ in range(2000):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never held")


async def settle() -> None:
    """Let the loop turn until everything that can happen without time has happened."""
    for _ in range(200):
        await asyncio.sleep(0)


async def status(service: VmService, vm_id: str = VM_ID) -> str:
    return (await service.get_stats(vm_id)).status


async def create(service: VmService, vm_id: str = VM_ID, **values: object) -> VmInfo:
    """Create a VM and wait for the end of its start."""
    info = await service.create(vm_id, parameters(**values))
    for _ in range(2000):
        if await status(service, vm_id) != "WaitForLaunch":
            await settle()
            return info
        await asyncio.sleep(0)
    raise AssertionError("it never started")
