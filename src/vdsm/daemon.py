"""vdsmd's composition root: reads settings, joins adapters to services and services to doors, starts and stops them."""

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import click

from vdsm import __version__, pki
from vdsm.adapters import systemd
from vdsm.adapters.accelerator import KvmProbe, find_closed_device
from vdsm.adapters.channels import UnixChannels
from vdsm.adapters.checker import CheckerProcess
from vdsm.adapters.curl import CurlCommand
from vdsm.adapters.discs import DiscMaker
from vdsm.adapters.files import choose_owner
from vdsm.adapters.firmware import FirmwareFiles
from vdsm.adapters.gluster import GlusterCommand
from vdsm.adapters.guestfs import Guestfs
from vdsm.adapters.imageio import ImageDaemon
from vdsm.adapters.libvirt.calls import CallSettings
from vdsm.adapters.libvirt.hypervisor import LibvirtHypervisor
from vdsm.adapters.memory import GIVE_BACK_EVERY_S, Heap, bound_allocator, bound_garbage
from vdsm.adapters.mount import KernelMounts
from vdsm.adapters.netconf import StoredNetworks
from vdsm.adapters.netlink import Netlink
from vdsm.adapters.packages import PackageDatabase
from vdsm.adapters.processors import HostProcessors
from vdsm.adapters.procfs import MachineFiles
from vdsm.adapters.qemuimg import QemuImgCommand
from vdsm.adapters.qemunbd import QemuNbd
from vdsm.adapters.sanlock import LIFE_IO_TIMEOUTS, LOST_SIGNAL, SanlockLeases, end_process
from vdsm.api.backup import BackupApi
from vdsm.api.devices import DeviceApi
from vdsm.api.disks import DiskApi
from vdsm.api.events import DomainStatusChanged, Event
from vdsm.api.firmware import FirmwareApi
from vdsm.api.guest import GuestApi
from vdsm.api.host import HostApi, MonitorApi, StorageListApi, VmListApi
from vdsm.api.migration import MigrationApi
from vdsm.api.sdm import SdmApi, SealApi
from vdsm.api.secrets import SecretApi
from vdsm.api.storage import DomainApi, ImageApi, PoolApi, VolumeApi
from vdsm.api.storage_leases import LeaseApi, LeaseName
from vdsm.api.storage_life import DefinitionApi, DomainLifeApi, PoolLifeApi
from vdsm.api.task import TaskApi
from vdsm.api.transfers import NbdApi, TicketApi, TransferApi
from vdsm.api.tuning import TuningApi
from vdsm.api.updates import UpdateApi
from vdsm.api.vm import VmApi
from vdsm.cli.accounts import find_usual_qemu_user
from vdsm.cli.group import CONTEXT, root_option
from vdsm.core.clock import Clock, SystemClock
from vdsm.core.errors import NodeError, NotReady
from vdsm.core.paths import Paths
from vdsm.core.periodic import repeat
from vdsm.core.root import lock_root, make_folders
from vdsm.host.capabilities import CapabilitySettings, Release
from vdsm.host.ports import VmCounts
from vdsm.host.service import HostPorts, HostService, HostSettings
from vdsm.host.system import read_hardware, read_operating_system
from vdsm.logs import LogOutput, open_logs
from vdsm.network.service import NetworkService
from vdsm.peers import HostPeers
from vdsm.settings import LoadedSettings, Settings, Vars, format_settings, load_settings
from vdsm.storage.backends.mounted import Outside
from vdsm.storage.lanes import Lanes
from vdsm.storage.leases.host_ids import LaneHostIds
from vdsm.storage.mail.delivery import Pace
from vdsm.storage.mail.service import MailService
from vdsm.storage.model import VolumeLocation, VolumeRef, VolumeRole
from vdsm.storage.pools.pool import ConnectedPool
from vdsm.storage.ports import PathChecker
from vdsm.storage.remembered import StorageMemory
from vdsm.storage.repository import Repository
from vdsm.storage.services.domains import DomainService, ServerService
from vdsm.storage.services.jobs import SdmService
from vdsm.storage.services.leases import LeaseService
from vdsm.storage.services.life import DefinitionService, DomainLifeService, PoolLifeService
from vdsm.storage.services.monitors import MonitorService
from vdsm.storage.services.pools import PoolService
from vdsm.storage.services.streams import StreamService
from vdsm.storage.services.transfers import NbdService, ScratchService, TicketService
from vdsm.storage.services.volumes import ImageService, VolumeService
from vdsm.tasks.entry import TaskSnapshot
from vdsm.tasks.model import VIRT
from vdsm.tasks.pool import PoolTasks
from vdsm.tasks.runner import TaskRunner
from vdsm.tasks.service import TaskService, format_events
from vdsm.tasks.work import Job, JobContext
from vdsm.virt.accelerator import Accelerator, AcceleratorSetting
from vdsm.virt.disks.alignment import SECTOR_BYTES
from vdsm.virt.hostedits import HostFacts
from vdsm.virt.legacy.devices import Defaults
from vdsm.virt.lifecycle import Status
from vdsm.virt.migration.plans import MigrationSettings
from vdsm.virt.ports import (
    AcceleratorProbe,
    BackupPlace,
    Hypervisor,
    NetworkDisk,
    PreparedImage,
    VolumeFigures,
    VolumeSize,
)
from vdsm.virt.service import VmService
from vdsm.virt.shared import Shared, VirtSettings
from vdsm.wire.bus import EventBus, Numbered
from vdsm.wire.dialects.events import EventDialect
from vdsm.wire.dispatch import Dispatcher, bind
from vdsm.wire.jsonrpc import JsonRpc, format_notification
from vdsm.wire.listener import Doors
from vdsm.wire.sse import format_message, make_stream_routes
from vdsm.wire.tls import ServerContexts, TlsFiles
from vdsm.wire.web import make_app

log = logging.getLogger("vds")

Tell = Callable[[Event], None]

RENEWAL_EVERY_S = 3600.0
RESTORE_PAUSE_S, LONGEST_RESTORE_PAUSE_S = 5.0, 300.0
STOP_S, FORGET_S = 2.0, 0.5


class Machine(Protocol):
    """The outside as the daemon uses it: tests hand in another one."""

    hypervisor: Hypervisor
    probe: AcceleratorProbe
    checker: PathChecker
    shared: Outside

    async def open(self) -> None: ...

    async def close(self) -> None: ...


class RealMachine:
    """libvirt and a measured accelerator."""

    def __init__(self, settings: Settings, paths: Paths) -> None:
        calls = CallSettings(vm_command_timeout_s=settings.vars.vm_command_timeout)
        self._libvirt = LibvirtHypervisor(settings.libvirt.uri, settings=calls)
        self.hypervisor: Hypervisor = self._libvirt
        leases = SanlockLeases(settings.sanlock.io_timeout)
        hardware_id = read_hardware(MachineFiles()).uuid
        self.shared = Outside(
            KernelMounts(),
            leases,
            GlusterCommand(),
            SystemClock(),
            end_process,
            hardware_id.lower() if isinstance(hardware_id, str) else "",
            accepts_false_zeroes=settings.storage.accept_false_zeroes,
        )
        self._qemu_user = find_usual_qemu_user()
        self.checker: PathChecker = CheckerProcess(settings.irs.sd_health_check_delay, SystemClock())
        self.probe: AcceleratorProbe = KvmProbe(paths.run / "accelerator.json", qemu_user=self._qemu_user)

    async def open(self) -> None:
        """Connect to libvirt; it is no failure when it does not answer yet."""
        await self._libvirt.open()
        trouble = find_closed_device(self._qemu_user)
        if trouble is not None:
            log.warning("%s", trouble)

    async def close(self) -> None:
        """Leave libvirt; VMs run on."""
        await self._libvirt.close()


class _Images:
    """Disk images as virt wants them, from the storage service."""

    def __init__(self, storage: "_Storage", discs: DiscMaker) -> None:
        self._images = storage.images
        self._volumes = storage.volumes
        self._leases = storage.leases
        self._scratch = storage.scratch
        self._run = storage.lanes.run
        self._repository = storage.repository
        self.teardown = storage.images.teardown
        self.read, self.write, self.pad = storage.images.read_start, storage.images.write_start, storage.images.pad
        self.find_kind = storage.images.find_kind
        self.make_payload = discs.make
        self.remove_payloads = discs.remove
        self.keep_payloads = discs.keep

    async def prepare(self, pool_id: str, domain_id: str, image_id: str, volume_id: str) -> PreparedImage:
        image = await self._images.prepare_image(pool_id, domain_id, image_id, volume_id)
        chain = tuple(_format_volume(volume) for volume in reversed(image.chain))
        place = image.network
        network = NetworkDisk(place.protocol, place.name, place.servers[0], place.transport) if place else None
        return PreparedImage(str(image.path), image.kind, image.format.value.lower(), chain, network)

    async def get_size(self, pool_id: str, domain_id: str, image_id: str, volume_id: str) -> VolumeSize:
        size = await self._volumes.get_size(volume_id, pool_id, domain_id, image_id)
        return VolumeSize(size.allocated_bytes, size.size_bytes)

    async def read_sectors(self, domain_id: str, image_id: str, volume_id: str, first: int, count: int) -> bytes:
        source, read = VolumeRef(domain_id, image_id, volume_id), self._repository.inspection.read_piece
        return await self._run(domain_id, read, source, first * SECTOR_BYTES, count * SECTOR_BYTES)

    async def find_lease(self, domain_id: str, lease_id: str) -> tuple[str, int]:
        found = await self._leases.get_info(LeaseName(domain_id=domain_id, lease_id=lease_id))
        return found.path, found.offset

    async def prepare_backup(self, vm_id: str, backup_id: str, sizes: Mapping[str, int]) -> BackupPlace:
        return BackupPlace(*await self._scratch.prepare(vm_id, backup_id, sizes))

    async def clear_backup(self, vm_id: str, backup_id: str = "") -> None:
        await self._scratch.clear(vm_id, backup_id)

    async def get_volume(self, domain_id: str, image_id: str, volume_id: str) -> VolumeFigures:
        look = self._repository.volumes.get_metadata
        found = await self._run(domain_id, look, domain_id, image_id, volume_id)
        return VolumeFigures(found.capacity_bytes, found.format.value.lower(), found.role is VolumeRole.SHARED)

    async def set_capacity(self, domain_id: str, image_id: str, volume_id: str, capacity_bytes: int) -> None:
        target = VolumeRef(domain_id, image_id, volume_id)
        await self._run(domain_id, self._repository.live_chains.set_capacity, target, capacity_bytes)

    async def sync_chain(self, domain_id: str, image_id: str, leaf_id: str, real: Sequence[str]) -> None:
        leaf = VolumeRef(domain_id, image_id, leaf_id)
        await self._run(domain_id, self._repository.live_chains.sync, leaf, real)


def _format_volume(volume: VolumeLocation) -> dict[str, str]:
    ids = {"domainID": volume.domain_id, "imageID": volume.image_id, "volumeID": volume.volume_id}
    lease = volume.lease
    place = {"leasePath": str(lease.path), "leaseOffset": str(lease.offset_bytes)} if lease else {}
    return {**ids, "path": str(volume.path), **place}


class _Jobs:
    """Jobs of virt, among those of storage."""

    def __init__(self, runner: TaskRunner) -> None:
        self._runner = runner

    async def start(self, job_id: str, name: str, vm_id: str, work: Callable[[], Awaitable[None]]) -> None:
        async def run(_context: JobContext) -> None:
            await work()

        await self._runner.start(name, [Job(name, run)], owner=vm_id, kind=VIRT, task_id=job_id)


class _VmCounter:
    """How many VMs there are, for the host's statistics."""

    def __init__(self, vms: VmService) -> None:
        self._vms = vms

    def count(self) -> VmCounts:
        statuses = self._vms.list_statuses()
        leaving = statuses.count(Status.MIGRATION_SOURCE)
        return VmCounts(
            vms=len(statuses),
            vms_active=sum(status is not Status.DOWN for status in statuses),
            vms_migrating=leaving,
            incoming_migrations=statuses.count(Status.MIGRATION_DESTINATION),
            outgoing_migrations=leaving,
        )


def _find_owner(settings: Settings) -> tuple[int, int] | None:
    """Whose disks are; only root may give files away, a daemon of another user keeps them."""
    return (settings.storage.owner_uid, settings.storage.owner_gid) if os.geteuid() == 0 else None


def _open_repository(
    paths: Paths, settings: Settings, shared: Outside, clock: Clock, owner: tuple[int, int] | None, tools: Guestfs
) -> Repository:
    life_s = LIFE_IO_TIMEOUTS * settings.sanlock.io_timeout
    return Repository(
        paths,
        qemu_img=QemuImgCommand(),
        ownership=choose_owner(owner),
        clock=clock,
        shared=shared,
        sparsify=tools.sparsify,
        seal=tools.seal,
        remote=CurlCommand(),
        nbd_servers=QemuNbd(),
        lock_timeout_s=settings.irs.task_resource_default_timeout / 1000,
        lease_notice_s=settings.spm.watchdog_interval + life_s,  # an SPM bears it so long that nothing answers
        lease_life_s=life_s,
    )


class _Storage:
    """The services of storage and tasks, joined to each other."""

    def __init__(
        self, paths: Paths, settings: Settings, machine: Machine, clock: Clock, tell: Tell, tools: Guestfs
    ) -> None:
        owner = _find_owner(settings)
        timeout_s = settings.irs.process_pool_timeout
        self.repository = repository = _open_repository(paths, settings, machine.shared, clock, owner, tools)

        async def recover(module: str, object: str, function: str, params: tuple[str, ...]) -> None:
            # In a thread of the runner's: it is waited for before the SPM role ends.
            await self.runner.run_in_thread(repository.recovery.recover, module, object, function, params)

        def on_change(task: TaskSnapshot) -> None:
            for event in format_events(task):
                tell(event)

        self.runner = TaskRunner(
            recover,
            clock,
            worker_count=settings.irs.thread_pool_size,
            queue_length=settings.irs.max_tasks,
            job_kept_s=settings.jobs.autodelete_delay,
            on_change=on_change,
        )
        work = PoolTasks(self.runner, owner)
        self.lanes = lanes = Lanes(timeout_s)
        memory = StorageMemory(paths.state / "storage.json")
        host_ids, interval_s = LaneHostIds(repository.domains, lanes), settings.irs.sd_health_check_delay
        self.monitors = MonitorService(repository, lanes, machine.checker, host_ids, clock, interval_s, tell)
        self.mail = MailService(
            repository,
            clock,
            Pace(settings.mailbox.events_enable, settings.mailbox.events_interval),
            run_to_end=work.run_in_thread,
            is_valid=self.monitors.is_valid,
            worker_count=max(1, settings.irs.thread_pool_size // 2),
            timeout_s=timeout_s,
        )
        servers = ServerService(repository, lanes, memory)
        self.pools = PoolService(repository, lanes, memory, servers, work, self.monitors.list_health, self.mail)
        self.pool_life = PoolLifeService(repository, lanes, self.pools)
        self.definitions = DefinitionService(repository, lanes)
        self.domains = DomainService(repository, lanes, memory)
        self.domain_life = DomainLifeService(repository, lanes, memory, self.pools)
        self.volumes = VolumeService(repository, lanes, work)
        self.images = ImageService(repository, lanes, self.volumes, work)
        self.streams = StreamService(repository, lanes, work)
        self.tickets = TicketService(ImageDaemon(paths.root / "run/ovirt-imageio/sock"), lanes)
        self.nbd = NbdService(repository, lanes)
        self.scratch = ScratchService(repository, lanes)
        self.leases = LeaseService(repository, lanes, work)
        self.jobs = SdmService(repository, work)
        loop = asyncio.get_running_loop()

        def follow(pool: ConnectedPool | None) -> None:
            # In the thread that changed the pool. The caller's result takes the same way to the loop and comes later.
            loop.call_soon_threadsafe(self.monitors.follow, pool)
            loop.call_soon_threadsafe(self.mail.follow, pool)

        repository.pools.on_change = follow


def _choose_migration(settings: Vars) -> MigrationSettings:
    return MigrationSettings(
        bandwidth_mib_per_s=settings.migration_max_bandwidth,
        downtime_ms=settings.migration_downtime,
        downtime_steps=settings.migration_downtime_steps,
        outgoing_limit=min(settings.max_outgoing_migrations, os.cpu_count() or 1),
        incoming_limit=settings.max_incoming_migrations,
        retry_s=settings.migration_retry_timeout,
        monitor_interval_s=settings.migration_monitor_interval,
        destination_timeout_s=settings.migration_destination_timeout,
        listener_timeout_s=settings.migration_listener_timeout,
        listener_disk_timeout_s=settings.migration_listener_prepare_disk_timeout,
        longest_listener_timeout_s=settings.max_migration_listener_timeout,
        uses_tls=settings.ssl,
    )


class Node:
    """One running daemon, without its process: `serve` runs it until cancelled."""

    def __init__(self, paths: Paths, settings: Settings, machine: Machine, clock: Clock | None = None) -> None:
        self.paths = paths
        self.settings = settings
        self.machine = machine
        self.clock = clock or SystemClock()
        self.bus: EventBus[Event] = EventBus(self.clock, format_message)
        self.accelerator = Accelerator(AcceleratorSetting(settings.virt.accelerator), machine.probe)
        tools = Guestfs(lambda: self.accelerator.is_kvm)
        self.storage = _Storage(paths, settings, machine, self.clock, self._tell, tools)
        self.vms = self._make_vms()
        self.host = self._make_host()
        self.doors = self._make_doors()
        self.port = 0
        self.is_listening = asyncio.Event()

    def _make_vms(self) -> VmService:
        settings = self.settings.vars
        files = MachineFiles()
        system = read_operating_system(files)
        hardware_id = read_hardware(files).uuid
        host = HostFacts(
            uuid=hardware_id.lower() if isinstance(hardware_id, str) else "",
            os_name=system.pretty_name or system.name,
            os_version=f"{system.version}-{system.release}",
        )
        virt = VirtSettings(
            owner=str(self.paths.root),
            host=host,
            defaults=Defaults(drive_cache=settings.qemu_drive_cache),
            sample_interval_s=settings.vm_sample_interval,
            jobs_interval_s=settings.vm_sample_jobs_interval,
            syncs_time=settings.time_sync_snapshot_enable,
            command_timeout_s=settings.vm_command_timeout,
            shutdown_timeout_s=settings.sys_shutdown_timeout,
            shutdown_delay_s=settings.user_shutdown_timeout,
            pause_limit_s=LIFE_IO_TIMEOUTS * self.settings.sanlock.io_timeout,
            relabel_disks=self.settings.storage.relabel,
            migration=_choose_migration(self.settings.vars),
        )
        discs = DiscMaker(self.paths.run / "payload", choose_owner(_find_owner(self.settings)))
        images = _Images(self.storage, discs)
        jobs = _Jobs(self.storage.runner)
        hypervisor = self.machine.hypervisor
        shared = Shared(hypervisor, images, jobs, self.accelerator, self.clock, self._tell, virt)
        pki = self.paths.pki if settings.ssl else None
        peers = HostPeers(pki, create_timeout_s=settings.migration_create_timeout)
        store, processors = FirmwareFiles(self.paths.root), HostProcessors(files)
        return VmService(shared, UnixChannels(), peers, store, processors, StoredNetworks(self.paths.state))

    def _make_host(self) -> HostService:
        settings = self.settings.vars
        files = MachineFiles()
        ports = HostPorts(
            files=files,
            hypervisor=self.machine.hypervisor,
            accelerator=self.accelerator,
            packages=PackageDatabase(),
            networks=NetworkService(Netlink(files), StoredNetworks(self.paths.state), self.clock),
            vms=_VmCounter(self.vms),
            storage=self.storage.monitors,
        )
        capabilities = CapabilitySettings(
            host_memory_reserve_mib=settings.host_mem_reserve,
            extra_memory_reserve_mib=settings.extra_mem_reserve,
            guest_overhead_mib=settings.guest_ram_overhead,
            threads_as_cores=settings.report_host_threads_as_cores,
            fake_kvm=settings.fake_kvm_support,
            fake_memory_mib=settings.fake_kvm_memory,
            mailbox_events=self.settings.mailbox.events_enable,
        )
        host = HostSettings(capabilities, settings.host_sample_stats_interval)
        return HostService(ports, self.paths, self.clock, host, Release(__version__, "1", "Vdsm"))

    def _make_doors(self) -> Doors:
        storage = self.storage
        bindings = bind(
            {
                HostApi: self.host,
                VmListApi: self.vms,
                StorageListApi: storage.domains,
                MonitorApi: storage.monitors,
                VmApi: self.vms,
                DeviceApi: self.vms.devices,
                DiskApi: self.vms.disks,
                TuningApi: self.vms.tuning,
                UpdateApi: self.vms.updates,
                GuestApi: self.vms.guests,
                MigrationApi: self.vms.migration,
                BackupApi: self.vms.backups,
                SecretApi: self.vms.secrets,
                FirmwareApi: self.vms.firmware,
                PoolApi: storage.pools,
                PoolLifeApi: storage.pool_life,
                DefinitionApi: storage.definitions,
                DomainApi: storage.domains,
                DomainLifeApi: storage.domain_life,
                VolumeApi: storage.volumes,
                ImageApi: storage.images,
                TransferApi: storage.streams,
                TicketApi: storage.tickets,
                NbdApi: storage.nbd,
                LeaseApi: storage.leases,
                SdmApi: storage.jobs,
                SealApi: storage.jobs,
                TaskApi: TaskService(storage.runner, storage.pools.require_spm),
            }
        )
        self.dispatcher = Dispatcher(bindings, self._gate)
        limits = self.settings.wire
        app = make_app(self.dispatcher, bindings, make_stream_routes(self.bus), limits, storage.streams)
        contexts = ServerContexts(TlsFiles.below(self.paths.pki)) if self.settings.vars.ssl else None
        calls = JsonRpc(self.dispatcher.invoke, limits)
        verify, queues = self.settings.vars.verify_client_cert, self.settings.addresses.request_queues
        doors = Doors(calls, app, limits, contexts, verify, request_queues=queues)
        dialect = EventDialect(self.clock)
        queue = self.settings.addresses.event_queue

        def tell(event: Numbered[Event]) -> None:
            doors.stomp.publish(queue, format_notification(*dialect.format_ovirt(event.event)))

        self.bus.listen(tell)
        return doors

    def _tell(self, event: Event) -> None:
        self.bus.publish(event)
        if isinstance(event, DomainStatusChanged):
            self.vms.on_storage(event.domain_id, event.valid)

    def _gate(self) -> NodeError | None:
        return None if self.vms.is_ready else NotReady()

    async def serve(self) -> None:
        """Open the doors, then recover VMs and storage, and go on until cancelled. VMs are left running."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.machine.close)
            stack.push_async_callback(self._forget_secrets)
            await stack.enter_async_context(self.storage.runner)
            stack.callback(self.storage.lanes.close)
            stack.push_async_callback(self.storage.mail.close)
            await self._open_doors(stack)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_vms(), name="VMs")
                group.create_task(self.host.run(), name="host")
                group.create_task(self.storage.monitors.run(), name="monitors")
                group.create_task(self._restore_storage(), name="storage")
                spm = self.settings.spm
                if spm.watchdog_enable:
                    watch, every_s = self.storage.pools.watch_lease, spm.watchdog_interval
                    watchdog = repeat(watch, every_s=every_s, clock=self.clock, name="lease watchdog")
                    group.create_task(watchdog, name="lease watchdog")
                if self.settings.vars.ssl:
                    renewal = repeat(
                        self._renew, every_s=RENEWAL_EVERY_S, clock=self.clock, name="renewal of certificates"
                    )
                    group.create_task(renewal, name="certificates")

    async def _open_doors(self, stack: contextlib.AsyncExitStack) -> None:
        addresses = self.settings.addresses
        if self.settings.vars.ssl:
            await self._renew()
        stack.push_async_callback(self.doors.close, STOP_S)
        stack.callback(self.bus.close)
        await self.doors.open_unix(self.paths.socket, _find_group(addresses.socket_group))
        self.port = await self.doors.open_tcp(
            addresses.management_ip, addresses.management_port, tls=self.settings.vars.ssl
        )
        self.is_listening.set()
        systemd.notify("READY=1")

    async def _forget_secrets(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FORGET_S):
                await self.vms.secrets.clear()

    async def _keep_vms(self) -> None:
        await self.machine.open()
        await self.vms.run()

    async def _restore_storage(self) -> None:
        pause_s = RESTORE_PAUSE_S
        is_whole = await self.storage.pools.begin(restore=self.settings.storage.restore)
        while not is_whole:
            await self.clock.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_RESTORE_PAUSE_S)
            is_whole = await self.storage.pools.restore()

    async def _renew(self) -> None:
        for finding in await asyncio.to_thread(pki.ensure, self.paths.pki):
            log.info("certificates: %s", finding)


def _find_group(name: str) -> int | None:
    if not name:
        return None
    import grp

    return grp.getgrnam(name).gr_gid


@contextlib.asynccontextmanager
async def _until_signal() -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(LOST_SIGNAL, end_process, "sanlock tells that a lease is lost")
    yield stop
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)


async def run(paths: Paths, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    async with _until_signal() as stop:
        node = Node(paths, settings, RealMachine(settings, paths))
        bound_garbage()
        serving = asyncio.create_task(node.serve(), name="serve")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        giving_back = asyncio.create_task(
            repeat(Heap().look, every_s=GIVE_BACK_EVERY_S, clock=node.clock, name="giving memory back"), name="memory"
        )
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        giving_back.cancel()
        if not serving.done():
            log.info("stopping; VMs are left running")
            systemd.notify("STOPPING=1")
            serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving


def _start_log(paths: Paths, loaded: LoadedSettings, foreground: bool) -> LogOutput:
    settings = loaded.settings.log
    to_file = settings.to == "file" and not foreground
    output = open_logs(
        file=paths.log / "vdsm.log" if to_file else None,
        level=settings.level,
        levels=settings.levels,
        queue_records=settings.queue_records,
    )
    for warning in loaded.warnings:
        log.warning("%s", warning)
    return output


@click.command(context_settings=CONTEXT)
@root_option
@click.option(
    "--config", type=click.Path(path_type=Path), help="Read this configuration file instead of ROOT/etc/vdsm/vdsm.conf."
)
@click.option("--port", type=click.IntRange(0, 65535), help="Listen on this port instead of the configured one.")
@click.option("--foreground", is_flag=True, help="Log to standard error whatever the configuration says.")
@click.option(
    "--settings", "show_settings", is_flag=True, help="Print every setting with its default and reason, and exit."
)
@click.version_option(__version__, prog_name="vdsmd")
def main(root: Path | None, config: Path | None, port: int | None, foreground: bool, show_settings: bool) -> None:
    """The virtualization node daemon. It needs no configuration; SIGTERM ends it and leaves VMs running."""
    if show_settings:
        click.echo(format_settings(Settings()))
        return
    faulthandler.enable()  # a crash in a library of C tells where, on standard error
    bound_allocator()
    paths = Paths((root or Path("/")).absolute())
    try:
        loaded = load_settings(paths, config)
        settings = loaded.settings if port is None else loaded.settings.with_port(port)
        make_folders(paths)
        held = lock_root(paths)
    except (NodeError, OSError) as error:
        sys.exit(f"vdsmd: {error}")
    output = _start_log(paths, loaded, foreground)
    try:
        log.info("vdsmd %s starts under %s", __version__, paths.root)
        asyncio.run(run(paths, settings))
    except (NodeError, OSError) as error:
        log.critical("vdsmd cannot go on: %s", error)
        sys.exit(1)
    finally:
        output.close()
        held.close()


if __name__ == "__main__":
    main()
