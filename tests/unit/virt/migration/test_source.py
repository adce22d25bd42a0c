"""VMs leave: what callers see, what becomes of them when something goes wrong, and who cleans up."""

import asyncio

import pytest

from tests.unit.virt.builders import VM_ID, VOLUME
from tests.unit.virt.migration.pair import IMAGE, Pair, migrate
from tests.unit.virt.world import World, create, parameters, settle, status, until
from vdsm.api import errors
from vdsm.api.migration import MigrationChange
from vdsm.core.errors import GeneralFailure
from vdsm.virt.lifecycle import Status, VmState
from vdsm.virt.migration.plans import MigrationSettings
from vdsm.virt.ports import (
    DomainRecord,
    DomainState,
    EventKind,
    HypervisorDown,
    HypervisorEvent,
    HypervisorRefused,
    MoveJob,
    PeerUnreachable,
)


async def tell(service: object) -> tuple[int, str, int]:
    stats = await service.migration.get_status(VM_ID)  # type: ignore[attr-defined]
    return stats.status.code, stats.status.message, stats.progress


async def test_a_vm_leaves_and_is_told_of() -> None:
    pair = Pair()
    async with pair.ready() as (source, destination):
        await create(source, drives=[VOLUME])
        assert await tell(source) == (0, "Done", 0)
        await migrate(source)
        assert await status(source) == "Migration Source" == pair.here.statuses()[-1]
        await until(lambda: pair.here.statuses()[-1] == "Down" and pair.there.statuses()[-1:] == ["Up"])
        await settle()
        assert pair.list_running() == ["there"]
        assert (pair.here.images.prepared, pair.there.images.prepared) == ([], [IMAGE])
        stats = await source.get_stats(VM_ID)
        assert (stats.exit_reason, stats.exit_code) == (4, 0)
        assert await tell(source) == (0, "Migration done", 100)
        assert (await source.migration.get_status(VM_ID)).downtime_ms == 42
        assert [(move.progress, move.downtime_ms) for move in pair.here.moves][-1] == (100, 42)
        values = pair.there.stored().values
        assert values["owner"] == "/" and "incoming" not in values and "migratesTo" not in values
        assert pair.there.hypervisor.domains[VM_ID].is_persistent
        await source.destroy(VM_ID)
        await migrate(destination, "here")
        await until(lambda: pair.here.statuses()[-1] == "Up" and pair.there.statuses()[-1] == "Down")
        assert pair.list_running() == ["here"]


async def test_a_paused_vm_stays_paused() -> None:
    pair = Pair()
    async with pair.ready() as (source, destination):
        await create(source)
        await source.pause(VM_ID)
        await migrate(source)
        await until(lambda: pair.there.statuses()[-1:] == ["Paused"])
        assert await status(source) == "Down"
        assert (await destination.get_stats(VM_ID)).pause_code == "NOERR"


async def test_figures_are_told_while_it_is_on_its_way() -> None:
    pair = Pair()
    async with pair.moving() as (source, _, move):
        move.job = MoveJob(1, 1000, 600)
        await pair.here.clock.advance(11)
        await settle()
        assert (await source.get_stats(VM_ID)).migration_progress == 40
        assert await tell(source) == (0, "Migration in progress", 40)
        assert pair.here.moves[-1].progress == 40
        assert move.downtimes_ms == [101]
        for number in range(2, 6):
            move.job = MoveJob(number, 1000, 800)
            await pair.here.clock.advance(10)
            await settle()
        assert move.downtimes_ms == [101, 104, 120, 189]
        assert (await source.get_stats(VM_ID)).migration_progress == 40
        await source.migration.change(VM_ID, MigrationChange(bandwidth_mib_per_s=9))
        assert move.bandwidths == [9]
        move.ended.set()
        await until(lambda: pair.there.statuses()[-1:] == ["Up"])
    with pytest.raises(errors.NotMigrating):
        async with pair.ready() as (source, _):
            await source.migration.change(VM_ID, MigrationChange(bandwidth_mib_per_s=9))


async def test_a_bandwidth_that_changes_before_its_memory_moves_counts() -> None:
    pair = Pair()
    pair.here.hypervisor.moves_end = False
    pair.there.images.may_go_on.clear()
    async with pair.ready() as (source, _):
        await create(source, drives=[VOLUME])
        await migrate(source)
        await until(lambda: pair.there.images.waiting)
        await source.migration.change(VM_ID, MigrationChange(bandwidth_mib_per_s=9))
        pair.there.images.may_go_on.set()
        await until(lambda: VM_ID in pair.here.hypervisor.moves)
        assert pair.here.hypervisor.moves[VM_ID].move.bandwidth_mib_per_s == 9


async def test_nothing_else_is_done_to_it_meanwhile() -> None:
    pair = Pair()
    async with pair.moving() as (source, _, move):
        for request in (source.reset, source.shutdown, migrate):
            with pytest.raises(errors.MigrationInProgress):
                await request(source if request is migrate else VM_ID)  # type: ignore[operator]
        written = pair.here.hypervisor.calls.count(("set_metadata", VM_ID))
        await source._shared.save(source._shared.vms[VM_ID], startTime=1.0)
        assert pair.here.hypervisor.calls.count(("set_metadata", VM_ID)) == written
        move.fail(HypervisorRefused("broken", 9))
        await until(lambda: "startTime" in pair.here.stored().values and pair.here.stored().values["startTime"] == 1.0)


async def test_a_failure_leaves_it_as_it_was() -> None:
    pair = Pair()
    async with pair.moving() as (source, destination, move):
        await source.pause(VM_ID)
        move.fail(HypervisorRefused("the network is gone", 9))
        await until(lambda: pair.here.statuses()[-1] == "Paused")
        await until(lambda: VM_ID not in pair.there.hypervisor.domains)
        await settle()
        assert (await tell(source))[:2] == (102, "the network is gone")
        assert (pair.here.images.prepared, pair.there.images.prepared) == ([IMAGE], [])
        assert "migratesTo" not in pair.here.stored().values
        with pytest.raises(errors.NoSuchVm):
            await destination.get_stats(VM_ID)
        pair.here.hypervisor.moves_end = True
        await source.resume(VM_ID)
        await migrate(source)
        await until(lambda: pair.there.statuses()[-1:] == ["Up"])


async def test_it_is_canceled_on_its_way() -> None:
    pair = Pair()
    async with pair.moving() as (source, _, _):
        await source.migration.cancel(VM_ID)
        await until(lambda: pair.here.statuses()[-1] == "Powering up")
        await until(lambda: VM_ID not in pair.there.hypervisor.domains)
        assert (await tell(source))[:2] == (47, "Migration canceled")
        with pytest.raises(errors.MigrationCancelFailed):
            await source.migration.cancel(VM_ID)


async def test_it_is_canceled_while_the_other_host_prepares() -> None:
    pair = Pair()
    pair.there.images.may_go_on.clear()
    async with pair.ready() as (source, _):
        await create(source, drives=[VOLUME])
        await migrate(source)
        await until(lambda: pair.there.images.waiting)
        await source.migration.cancel(VM_ID)
        await until(lambda: pair.here.statuses()[-1] == "Powering up")
        assert (await tell(source))[0] == 47
        pair.there.images.may_go_on.set()
        await until(lambda: VM_ID not in pair.there.hypervisor.domains and pair.there.images.prepared == [])
        assert "migrate" not in [call for call, _ in pair.here.hypervisor.calls]


async def test_a_vm_that_never_migrated_is_canceled_without_a_word() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        await service.migration.cancel(VM_ID)


async def test_a_host_without_room_is_asked_again() -> None:
    pair = Pair()
    async with pair.ready() as (source, _):
        await create(source)
        await migrate(source, incoming_limit=0)
        await until(lambda: "create" in pair.here.peers.asked)
        await settle()
        assert await status(source) == "Migration Source" and VM_ID not in pair.there.hypervisor.domains
        pair.here.peers.asked.clear()
        await pair.here.clock.advance(9)
        assert pair.here.peers.asked == []
        await pair.here.clock.advance(2)
        await settle()
        assert pair.here.peers.asked == ["create"]


async def test_so_many_at_once_go_out() -> None:
    pair = Pair()
    pair.here.hypervisor.moves_end = False
    other = VM_ID.replace("a", "b")
    async with pair.ready() as (source, _):
        await create(source)
        await create(source, other, name="vm2")
        await migrate(source, outgoing_limit=1)
        await until(lambda: VM_ID in pair.here.hypervisor.moves)
        await migrate(source, vm_id=other)
        await settle()
        assert list(pair.here.hypervisor.moves) == [VM_ID]
        pair.here.hypervisor.moves[VM_ID].ended.set()
        await until(lambda: other in pair.here.hypervisor.moves)
        pair.here.hypervisor.moves[other].ended.set()
        await until(lambda: pair.there.statuses(other)[-1:] == ["Up"])


@pytest.mark.parametrize(
    ("failure", "code"), [(PeerUnreachable("there", "no route"), 12), (GeneralFailure("broken"), 12)]
)
async def test_a_host_that_does_not_answer(failure: Exception, code: int) -> None:
    pair = Pair()
    async with pair.ready() as (source, _):
        await create(source)
        pair.here.peers.failures.append(failure)  # type: ignore[arg-type]
        await migrate(source)
        await until(lambda: pair.here.statuses()[-1] == "Powering up")
        assert (await tell(source))[0] == code and VM_ID not in pair.there.hypervisor.domains


async def test_what_the_other_host_refuses_is_told_with_its_number() -> None:
    pair = Pair()
    async with pair.ready() as (source, destination):
        await create(source)
        await create(destination)
        await migrate(source)
        await until(lambda: pair.here.statuses()[-1] == "Powering up")
        await settle()
        assert (await tell(source))[0] == 4
        assert await status(destination) == "Powering up", "whoever runs there is left alone"


async def test_a_host_that_vanished_meanwhile_is_cleaned_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    pair = Pair()
    async with pair.moving() as (_, destination, move):
        pair.here.peers.services = {}
        move.fail(HypervisorRefused("the connection is lost", 38))
        await until(lambda: pair.here.statuses()[-1] == "Powering up")
        await settle()
        await pair.here.clock.advance(3300)
        assert (
            sum("may be left on there" in record.message and record.levelname == "WARNING" for record in caplog.records)
            == 1
        )
        pair.here.peers.services = {"there": destination}
        await pair.here.clock.advance(11)
        await until(lambda: VM_ID not in pair.there.hypervisor.domains and pair.there.images.prepared == [])


async def test_libvirt_goes_away_and_the_vm_is_where_libvirt_says() -> None:
    pair = Pair()
    pair.here.hypervisor.moves_end = False
    async with pair.ready() as (source, _):
        await create(source, drives=[VOLUME])
        pair.here.hypervisor.fail_next("migrate", HypervisorDown("libvirtd ended"))
        await migrate(source)
        await settle()
        assert await status(source) == "Migration Source"
        await pair.here.clock.advance(2)
        await until(lambda: pair.here.statuses()[-1] in ("Powering up", "Up"))
        await until(lambda: VM_ID not in pair.there.hypervisor.domains)
        assert pair.list_running() == ["here"]


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_vm_that_stands_still_is_where_the_other_host_says(is_there: bool) -> None:
    pair = Pair()
    async with pair.moving() as (_, _, move):
        await settle()
        here, there = pair.here.hypervisor.domains[VM_ID], pair.there.hypervisor.domains[VM_ID]
        here.state, here.reason = DomainState.PAUSED, 2
        if is_there:
            there.state, there.reason = DomainState.RUNNING, 2
            pair.there.hypervisor.emit(HypervisorEvent(VM_ID, EventKind.LIFECYCLE, (4, 1)))
            await until(lambda: pair.there.statuses()[-1:] == ["Up"])
        move.fail(HypervisorRefused("libvirtd was killed", 38), leaves_it=True)
        await until(lambda: pair.here.statuses()[-1] == ("Down" if is_there else "Powering up"))
        await settle()
        assert pair.list_running() == (["there"] if is_there else ["here"])
        assert VM_ID in (pair.there if is_there else pair.here).hypervisor.domains


async def test_post_copy_and_its_failure() -> None:
    pair = Pair()
    pair.here.hypervisor.moves_end = False
    async with pair.ready() as (source, destination):
        await create(source, drives=[VOLUME])
        await migrate(source, schedule={"stalling": [{"limit": 0, "action": {"name": "postcopy"}}], "init": []})
        await until(lambda: VM_ID in pair.here.hypervisor.moves)
        move = pair.here.hypervisor.moves[VM_ID]
        for number in (1, 2, 3):
            move.job = MoveJob(number, 1000, 500)
            await pair.here.clock.advance(10)
            await settle()
        assert await status(source) == "Paused" == pair.here.statuses()[-1]
        assert (await source.get_stats(VM_ID)).pause_code == "POSTCOPY"
        assert [move.post_copy for move in pair.here.moves].count(True) >= 1, "the switch is told at once"
        assert await status(destination) == "Migration Destination"
        there = pair.there.hypervisor.domains[VM_ID]
        there.state, there.reason = DomainState.PAUSED, 13
        pair.here.hypervisor.domains[VM_ID].reason = 13
        move.fail(HypervisorRefused("the network is gone", 9), leaves_it=True)
        await settle()
        await pair.here.clock.advance(3)
        await until(lambda: pair.here.statuses()[-1] == pair.there.statuses()[-1] == "Down")
        assert (await source.get_stats(VM_ID)).exit_reason == 12
        await until(lambda: pair.here.images.prepared == [])
        assert pair.list_running() == []


@pytest.mark.parametrize("outcome", ["arrives", "fails"])
async def test_a_daemon_that_starts_again_meanwhile_goes_on(outcome: str) -> None:
    pair = Pair()
    async with pair.moving() as (_, _, move):
        pass
    assert pair.here.stored().migrates_to == "there:54321"
    async with pair.ready() as (source, _):
        assert await status(source) == "Migration Source"
        if outcome == "arrives":
            move.ended.set()
            await until(lambda: pair.there.statuses()[-1:] == ["Up"] and pair.here.statuses()[-1] == "Down")
            assert (await tell(source))[0] == 0 and pair.list_running() == ["there"]
        else:
            await source.migration.cancel(VM_ID)
            await settle()
            for _ in range(6):
                await pair.here.clock.advance(1)
                await settle()
            assert await status(source) == "Up" and (await tell(source))[0] == 47
            await until(lambda: VM_ID not in pair.there.hypervisor.domains)
            await until(lambda: pair.here.stored().migrates_to is None)


@pytest.mark.parametrize("interval_s", [10.0, 0.0])
async def test_the_next_daemon_goes_on_with_the_schedule(interval_s: float) -> None:
    pair = Pair()
    settings = MigrationSettings(monitor_interval_s=interval_s)
    async with pair.moving(migration=settings) as (_, _, move):
        await pair.here.clock.advance(1)
    begun = list(move.downtimes_ms)
    async with pair.ready(migration=settings) as (source, _):
        for iteration in (2, 3, 3, 4, 50, 51, 52, 53):
            move.job = MoveJob(iteration, 1000, 1000)
            await pair.here.clock.advance(2)
            await settle()
        for _ in range(6):
            await pair.here.clock.advance(1)
            await settle()
        if interval_s > 0:
            assert begun == [101] and move.downtimes_ms == [101, 104, 120, 189, 500, 500]
            assert await status(source) == "Up" and VM_ID not in pair.here.hypervisor.moves
            await until(lambda: "convergence" not in pair.here.stored().values)
        else:
            assert begun == move.downtimes_ms == [] and await status(source) == "Migration Source"


async def test_a_daemon_that_starts_again_after_the_end() -> None:
    pair = Pair()
    async with pair.moving() as (_, _, move):
        pass
    move.ended.set()
    await until(lambda: not pair.here.hypervisor.moves)
    async with pair.ready() as (source, destination):
        stats = await source.get_stats(VM_ID)
        assert (stats.status, stats.exit_reason) == ("Down", 4)
        assert await status(destination) == "Up" and pair.list_running() == ["there"]
        await settle()
        assert set(pair.there.images.prepared) == {IMAGE} and "incoming" not in pair.there.stored().values


async def test_a_daemon_that_ended_before_libvirt_was_asked() -> None:
    pair = Pair()
    async with pair.ready() as (source, _):
        await create(source, drives=[VOLUME])
        pair.here.hypervisor.fail_next("get_migratable_xml", HypervisorDown("x"))
        await migrate(source)
        await until(lambda: VM_ID in pair.there.hypervisor.domains)
    async with pair.ready() as (source, _):
        for _ in range(4):
            await pair.here.clock.advance(1)
            await settle()
        await until(lambda: VM_ID not in pair.there.hypervisor.domains)
        assert await status(source) == "Up" and pair.here.stored().migrates_to is None


async def test_what_cannot_leave() -> None:
    pair = Pair()
    async with pair.ready() as (source, _):
        with pytest.raises(errors.NoSuchVm):
            await migrate(source)
        await create(source)
        pair.here.hypervisor.pause_on_error(VM_ID, "hdc", "eio", 1)
        await until(lambda: pair.here.statuses()[-1] == "Paused")
        with pytest.raises(errors.VmRequestFailed):
            await migrate(source)
        pair.here.hypervisor.end_guest(VM_ID)
        await until(lambda: pair.here.statuses()[-1] == "Down")
        with pytest.raises(errors.VmIsDown):
            await migrate(source)


async def test_one_that_leaves_as_soon_as_it_is_up_is_on_its_way() -> None:
    pair = Pair()
    pair.here.hypervisor.moves_end = False
    look, may_tell = pair.here.hypervisor.get_domain, asyncio.Event()

    async def look_slowly(vm_id: str) -> DomainRecord:
        record = await look(vm_id)
        if source.list_statuses() == ["Up"]:
            await may_tell.wait()
        return record

    pair.here.hypervisor.get_domain = look_slowly  # type: ignore[method-assign]
    async with pair.ready() as (source, _):
        await source.create(VM_ID, parameters())
        await until(lambda: source.list_statuses() == ["Up"])
        await migrate(source)  # libvirt has not told yet how the VM does after its start
        may_tell.set()
        await until(lambda: VM_ID in pair.here.hypervisor.moves)
        assert await status(source) == "Migration Source"
        source._shared.vms[VM_ID].state = VmState(Status.UP)
        with pytest.raises(errors.MigrationInProgress):
            await migrate(source)


async def test_whoever_changes_its_devices_is_waited_for() -> None:
    pair = Pair()
    async with pair.ready() as (source, _):
        await create(source)
        async with source._shared.vms[VM_ID].changing:
            await migrate(source)
            await settle()
            assert pair.here.peers.asked == []
        await until(lambda: pair.there.statuses()[-1:] == ["Up"])


async def test_how_one_ended_on_its_way_is_written_down() -> None:
    pair = Pair()
    async with pair.moving() as (_, _, move):
        pair.here.hypervisor.end_guest(VM_ID, 3, 5)
        await until(lambda: pair.here.statuses()[-1] == "Down")
        await settle()
        end = pair.here.stored().exit
        assert end is not None and end.reason == 2
        move.ended.set()
        await until(lambda: VM_ID not in pair.there.hypervisor.domains)


async def test_a_vm_that_is_destroyed_on_its_way_is_nowhere() -> None:
    pair = Pair()
    async with pair.moving() as (source, _, move):
        await source.destroy(VM_ID)
        move.ended.set()
        await until(lambda: VM_ID not in pair.there.hypervisor.domains)
        await settle()
        assert pair.list_running() == [] and pair.there.images.prepared == pair.here.images.prepared == []
