"""Sends VMs to other hosts (facts §2.19, "Source flow"); what is asked of libvirt is planned by `plans`.

Where the VM goes is written into its metadata before the other host hears of it, and removed when it is known what came
of that. So a daemon that is killed at any instant leaves word of a migration: the next one looks whether libvirt is
still at it, waits for its end, and has the other host forget a VM that stayed here.

Who has the VM is libvirt's to say, and never guessed: it is here while libvirt runs it, gone when libvirt says so.
Where libvirt itself was interrupted at the last moment it leaves a VM that stands still; then the other host is asked.
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from vdsm.api import errors
from vdsm.api.events import MigrationProgressed
from vdsm.core.children import wait_until
from vdsm.core.errors import NodeError
from vdsm.virt import ports
from vdsm.virt.guest.channels import AgentChannels
from vdsm.virt.lifecycle import ExitInfo, ExitReason, Happening, PauseCode, Request, Status
from vdsm.virt.migration.departure import CANCELED, Departure
from vdsm.virt.migration.plans import Journey, check_disks, parse_place, plan_move, read_handed_over
from vdsm.virt.migration.schedule import Action, Schedule, Steps, compute_progress
from vdsm.virt.migration.slots import Slots
from vdsm.virt.power import Power, check_possible
from vdsm.virt.recovery import exit_of, is_alive, state_of
from vdsm.virt.shared import Shared, attempt
from vdsm.virt.vm import Vm

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOK_S = 0.2
"""Between two looks for the beginning or the end of libvirt's part."""
FOLLOW_S = 2.0
FIRST_ROUND = 1
SURE_S = 1.0
"""What an earlier daemon asked for last may not have reached libvirt's threads yet."""
_PEER_TRIES = 360
"""With the usual pause between them an hour: machines that lost their power take their time to start."""
_OPERATION_FAILED, _ABORTED, _INVALID = 9, 78, 55  # libvirt's error numbers
_LIMIT_REACHED = 82
_NOT_ARRIVED = ("WaitForLaunch", Status.MIGRATION_DESTINATION, Status.DOWN)


class Source:
    """VMs on their way out of this host."""

    def __init__(self, shared: Shared, peers: ports.Peers, power: Power, agents: AgentChannels) -> None:
        self._shared = shared
        self._peers = peers
        self._power = power
        self._agents = agents
        self._settings = shared.settings.migration
        self.slots = Slots(min(self._settings.outgoing_limit, ports.MOST_MOVES))

    def begin(self, vm: Vm, journey: Journey) -> None:
        """Send the VM away, in the background; its status tells of it when this returns.

        Raises MigrationInProgress (51), VmIsDown (1), TransientDisks (59), VmRequestFailed (100).
        """
        check_leaving(self._shared, vm)
        if vm.state.pause_code is PauseCode.IO_ERROR:
            raise errors.VmRequestFailed("the VM is paused by an I/O error")
        if (limit := journey.request.outgoing_limit) is not None:
            self.slots.limit = min(limit, ports.MOST_MOVES)
        before, departure = vm.departure, Departure(journey.place)
        vm.departure = departure
        self._shared.apply(vm, Happening.LEAVES)
        self._spawn(vm, departure, self._run(vm, departure, journey, before))

    def follow(self, vm: Vm) -> None:
        """Wait, in the background, for the end of a migration that an earlier daemon began."""
        vm.departure = departure = Departure(None, has_asked=True, is_moving=True)
        with suppress(NodeError, msgspec.MsgspecError):
            departure.place = parse_place(vm.metadata.migrates_to or "")
            schedule = msgspec.json.decode(str(vm.metadata.values.get("convergence", "")), type=Schedule)
            departure.steps = Steps(schedule, FIRST_ROUND) if self._settings.monitor_interval_s > 0 else None
        self._spawn(vm, departure, self._run_on(vm, departure))

    async def cancel(self, vm: Vm) -> None:
        """Have the VM stay; raises MigrationCancelFailed (47) when it cannot."""
        departure = vm.departure
        if departure is None:
            return
        if departure.is_over:
            raise errors.MigrationCancelFailed("it is over")
        departure.canceled.set()
        if departure.is_moving:
            try:
                await self._shared.hypervisor.abort_move(vm.vm_id)
            except ports.HypervisorRefused as error:
                if error.kind != _INVALID:  # else it has not begun: the watch over it aborts it when it does
                    departure.canceled.clear()
                    raise errors.MigrationCancelFailed(error.reason) from error

    def _spawn(self, vm: Vm, departure: Departure, work: Coroutine[None, None, None]) -> None:
        def fail(error: BaseException) -> None:
            departure.fail(errors.MigrationFailed.number, f"it failed unexpectedly: {error!r}")
            if vm.state.status is Status.MIGRATION_SOURCE:
                self.follow(vm)

        self._shared.children.spawn(work, f"migrate VM {vm.vm_id}", fail)

    async def _run(self, vm: Vm, departure: Departure, journey: Journey, before: Departure | None) -> None:
        try:
            async with vm.changing:  # Whoever changes its devices is done then, and nobody begins any more.
                pass
            await self._clean_up_before(vm, before, journey.place)
            await self.until_canceled(departure, self._peers.ping(journey.place))
            convergence = msgspec.json.encode(journey.schedule).decode()
            await self._shared.store(vm, vm.metadata.changed(migratesTo=str(journey.place), convergence=convergence))
            await self._go(vm, departure, journey)
        except (ports.HypervisorDown, ports.HypervisorTimeout) as error:
            log.warning("VM %s: nobody knows what came of its migration: %s", vm.vm_id, error)
            await self._run_on(vm, departure)
        except NodeError as error:
            await self._stay(vm, departure, error)
        else:
            self._arrived(vm, departure)

    async def _run_on(self, vm: Vm, departure: Departure) -> None:
        """Libvirt may be at it, and no call tells of its end."""
        error = await self.wait_for_end(vm, departure)
        await self._stay(vm, departure, error)

    async def _clean_up_before(self, vm: Vm, before: Departure | None, place: ports.Place) -> None:
        """What an earlier try has left there would be in the way, and must not be mistaken for this one later."""
        if before is None or before.cleaning is None or before.cleaning.done() or before.place != place:
            return
        before.cleaning.cancel()
        await asyncio.wait({before.cleaning})
        await self._clean_once(vm, place)

    async def _go(self, vm: Vm, departure: Departure, journey: Journey) -> None:
        settings = self._settings
        while True:
            await self.until_canceled(departure, self.slots.enter())
            try:
                if journey.request.guest_events and not departure.has_announced:
                    departure.has_announced = True
                    await self.until_canceled(departure, self._agents.announce(vm, "before_migration"))
                xml = await self._ask_in(vm, departure, journey)
                if xml is not None:
                    await self._move(vm, departure, journey, xml)
                    return
            finally:
                self.slots.leave()
            await wait_until(departure.canceled, settings.retry_s, self._shared.clock)
            departure.check_wanted()

    async def _ask_in(self, vm: Vm, departure: Departure, journey: Journey) -> str | None:
        """Have the other host get ready; None when it has no room now."""
        shared = self._shared
        record = await shared.hypervisor.get_domain(vm.vm_id)
        traveller = ports.Traveller(
            vm_id=vm.vm_id,
            live_xml=record.xml,
            xml=vm.xml,
            elapsed_s=shared.find_elapsed_s(vm),
            guest=vm.guest_figures,
            guest_events=journey.request.guest_events,
        )
        departure.check_wanted()
        departure.has_asked = True
        asking = self._peers.create_incoming(journey.place, traveller, journey.request.incoming_limit)
        try:
            return await self.until_canceled(departure, asking)
        except ports.PeerRefused as error:
            if error.failure != _LIMIT_REACHED:
                raise
            log.info("VM %s waits: %s", vm.vm_id, error)
            return None

    async def _move(self, vm: Vm, departure: Departure, journey: Journey, their_xml: str) -> None:
        xml = await self._shared.hypervisor.get_migratable_xml(vm.vm_id)
        move = plan_move(journey, xml, read_handed_over(their_xml), self._settings)
        if departure.bandwidth_mib_per_s is not None:
            move = replace(move, bandwidth_mib_per_s=departure.bandwidth_mib_per_s)
        departure.check_wanted()
        departure.is_moving = True
        watching = asyncio.create_task(self._watch(vm, departure, journey.schedule))
        try:
            await self._shared.hypervisor.migrate(vm.vm_id, move)
        finally:
            watching.cancel()
            await asyncio.wait({watching})

    async def until_canceled(self, departure: Departure, work: Coroutine[None, None, T]) -> T:
        """The result of the work, which ends when the departure is canceled; MigrationFailed with 47 then."""
        task, waiter = asyncio.create_task(work), asyncio.create_task(departure.canceled.wait())
        try:
            await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                departure.check_wanted()
            return await task
        finally:
            waiter.cancel()
            task.cancel()
            await asyncio.wait({task, waiter})

    # While libvirt is at it.

    async def _watch(self, vm: Vm, departure: Departure, schedule: Schedule) -> None:
        """Tell how far it is, and do what the schedule says, until it is over."""
        clock, interval_s = self._shared.clock, self._settings.monitor_interval_s
        while await self._look(vm) is None:
            await clock.sleep(LOOK_S)
        if interval_s > 0:
            for action in schedule.init:
                await self._act(vm, action)
        departure.steps = Steps(schedule)
        while not await wait_until(departure.canceled, interval_s or 3600.0, clock):
            job = await self._look(vm) if interval_s > 0 else None
            if job is None:
                continue
            departure.progress = compute_progress(job.total_bytes, job.remaining_bytes, departure.progress)
            self._tell(vm, departure)
            await self._take_step(vm, departure, job)
        while True:
            await self._act(vm, Action("abort"))
            await clock.sleep(LOOK_S)

    async def _look(self, vm: Vm) -> ports.MoveJob | None:
        try:
            return await self._shared.hypervisor.get_move(vm.vm_id)
        except NodeError as error:
            log.debug("VM %s: its migration cannot be looked at: %s", vm.vm_id, error)
            return None

    async def _take_step(self, vm: Vm, departure: Departure, job: ports.MoveJob) -> None:
        due = None if departure.steps is None else departure.steps.find_due(job.iteration)
        if due is not None and not vm.state.post_copy:
            await self._act(vm, due)

    async def _act(self, vm: Vm, action: Action) -> None:
        hypervisor = self._shared.hypervisor
        try:
            match action.name:
                case "setDowntime":
                    await hypervisor.set_move_downtime(vm.vm_id, action.downtime_ms)
                case "postcopy":
                    await hypervisor.start_post_copy(vm.vm_id)
                case "abort":
                    await hypervisor.abort_move(vm.vm_id)
        except NodeError as error:
            log.warning("VM %s: %s failed during its migration: %s", vm.vm_id, action.name, error)
        else:
            log.info("VM %s migrates: %s %s", vm.vm_id, action.name, action.downtime_ms or "")

    def _tell(self, vm: Vm, departure: Departure) -> None:
        if self._shared.ready.is_set():
            post_copy = vm.state.post_copy
            self._shared.publish(MigrationProgressed(vm_id=vm.vm_id, progress=departure.progress, post_copy=post_copy))

    async def wait_for_end(self, vm: Vm, departure: Departure) -> errors.MigrationFailed:
        """Until libvirt is at it no more; what is told when the VM is still here then."""
        clock, told, quiet = self._shared.clock, -1, 0
        while vm.is_alive:
            vm.stirred.clear()
            try:
                job = await self._shared.hypervisor.get_move(vm.vm_id)
            except ports.HypervisorRefused:
                job = None
            except ports.NoSuchDomain:
                break
            except NodeError as error:
                log.warning("VM %s: libvirt does not tell of its migration: %s", vm.vm_id, error)
                await wait_until(vm.stopped, self._shared.settings.retry_s, clock)
                continue
            if job is None:
                quiet += 1
                if quiet > 1:
                    break
                await wait_until(vm.stopped, SURE_S, clock)
                continue
            quiet = 0
            departure.progress = compute_progress(job.total_bytes, job.remaining_bytes, departure.progress)
            if departure.progress != told:
                told = departure.progress
                self._tell(vm, departure)
            await self._take_step(vm, departure, job)
            await wait_until(vm.stirred, FOLLOW_S, clock)
        if departure.canceled.is_set():
            return errors.MigrationFailed("Migration canceled", CANCELED)
        return errors.MigrationFailed("the migration ended without the VM")

    # Afterwards.

    def _arrived(self, vm: Vm, departure: Departure) -> None:
        departure.finish()
        self._shared.end(vm, ExitInfo.of(ExitReason.MIGRATED))

    async def _stay(self, vm: Vm, departure: Departure, error: NodeError) -> None:
        """It did not work, says libvirt or somebody before it was asked: see who has the VM."""
        code = get_code(error, is_canceled=departure.canceled.is_set())
        log.warning("VM %s: its migration failed: %s", vm.vm_id, error)
        if await self._settle(vm, departure):
            self._arrived(vm, departure)
            return
        departure.fail(code, "Migration canceled" if code == CANCELED else str(error))
        if departure.has_announced:
            self._agents.say(vm, "lifecycle-event", {"type": "after_migration", "failure": True})
        departure.cleaning = self._shared.children.spawn(
            self._clean_up(vm, departure), f"clean up after the migration of VM {vm.vm_id}"
        )

    async def _settle(self, vm: Vm, departure: Departure) -> bool:
        """Whether the VM is there, and not here; one that is here has its state again when this returns."""
        while vm.is_alive:
            try:
                record = await self._shared.hypervisor.get_domain(vm.vm_id)
                found = state_of(record.state, record.reason)
                if not is_alive(record.state):
                    end = exit_of(record, None)
                    if end.reason is ExitReason.MIGRATED:
                        return True
                    self._shared.end(vm, end)
                elif found.post_copy or found.pause_code is PauseCode.POST_COPY:
                    await self._power.destroy(vm, 1, ExitReason.POST_COPY_FAILED)
                elif found.status is not Status.MIGRATION_SOURCE:
                    departure.is_over = True
                    self._shared.align(vm, record)
                    return False
                elif await self._is_there(vm, departure):
                    await self._power.destroy(vm, 1, ExitReason.MIGRATED)
                    return True
                else:
                    await self._shared.hypervisor.resume(vm.vm_id)
            except ports.NoSuchDomain:
                vm.has_domain = False
                self._shared.end(vm, ExitInfo.of(ExitReason.DOMAIN_MISSING))
            except NodeError as error:
                log.warning("VM %s: nobody can tell yet on which host it is: %s", vm.vm_id, error)
                await wait_until(vm.stopped, self._shared.settings.retry_s, self._shared.clock)
        ended = vm.state.exit
        return ended is not None and ended.reason is ExitReason.MIGRATED

    async def _is_there(self, vm: Vm, departure: Departure) -> bool:
        """Ask the other host for a VM that stands still here; one that is not there cannot come any more afterwards."""
        if departure.place is None:
            raise errors.MigrationFailed("the other host is not known")
        status = await self._peers.get_status(departure.place, vm.vm_id)
        if status is not None and status not in _NOT_ARRIVED:
            return True
        await self._peers.destroy(departure.place, vm.vm_id)
        return False

    async def _clean_up(self, vm: Vm, departure: Departure) -> None:
        if departure.place is not None and departure.has_asked:
            for number in range(_PEER_TRIES):
                level = logging.WARNING if number == 0 else logging.DEBUG
                work = self._clean_once(vm, departure.place)
                if await attempt(vm, f"it may be left on {departure.place}", work, level) is None:
                    break
                await self._shared.clock.sleep(self._settings.retry_s)
        if vm.departure is departure and vm.is_alive and vm.metadata.migrates_to is not None:
            await self._shared.save(vm, migratesTo=None, convergence=None)

    async def _clean_once(self, vm: Vm, place: ports.Place) -> None:
        """Have the other host forget a VM that never arrived there, and leave alone one that runs there."""
        status = await self._peers.get_status(place, vm.vm_id)
        if status in _NOT_ARRIVED:
            await self._peers.destroy(place, vm.vm_id)
        elif status is not None and vm.is_alive:
            log.error("VM %s is here and, says %s, there too: %s", vm.vm_id, str(place), status)


def check_leaving(shared: Shared, vm: Vm) -> None:
    """Raise MigrationInProgress (51), VmIsDown (1), TransientDisks (59), VmRequestFailed (100) for who cannot leave."""
    if vm.is_leaving:
        raise errors.MigrationInProgress(vm.vm_id)
    check_possible(shared, vm, Request.MIGRATE)
    if vm.is_external:
        raise errors.VmRequestFailed("the VM belongs to somebody else")
    check_disks(vm.metadata)


def get_code(error: NodeError, *, is_canceled: bool) -> int:
    """The number that the migration's status tells (facts §2.19): 12 unless more is known."""
    if isinstance(error, ports.HypervisorRefused):
        if error.kind == _ABORTED and is_canceled:
            return CANCELED
        return 102 if error.kind == _OPERATION_FAILED else errors.MigrationFailed.number
    if isinstance(error, ports.PeerRefused | errors.MigrationFailed):
        return error.failure
    return errors.MigrationFailed.number
