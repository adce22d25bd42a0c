"""A new daemon on running VMs, libvirt that goes and comes back, and domains of others."""

import pytest
from msgspec import UNSET

from tests.unit.virt.builders import VM_ID, VOLUME, domain_xml, parameters
from tests.unit.virt.world import World, create, settle, status, until
from vdsm.core.errors import GeneralFailure, NotReady
from vdsm.virt.metadata import VolumeRef
from vdsm.virt.ports import DomainState, HypervisorDown, HypervisorTimeout, PreparedImage

OTHER_ID = "cccccccc-0000-4000-8000-00000000000c"
VOLUME_METADATA = '<device devtype="disk" name="vda">{}</device>'.format(
    "".join(f"<{key[:-3]}ID>{value}</{key[:-3]}ID>" for key, value in VOLUME.items())
)
FOREIGN = domain_xml(OTHER_ID, "foreign", metadata="<owner>/elsewhere</owner>")


async def test_a_new_daemon_knows_all_of_a_running_vm() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME], display="vnc", custom={"a": "b"}, time_offset_s=7)
        await service.set_ticket(VM_ID, "secret", 100)
        before = await service.get_stats(VM_ID)
        info = await service.get_info(VM_ID)
    passwords = dict(world.hypervisor.domains[VM_ID].passwords)
    await world.clock.advance(1000)
    world.events.clear()
    async with world.ready() as service:
        stats = await service.get_stats(VM_ID)
        assert (stats.status, stats.elapsed_s, stats.time_offset_s) == ("Up", 1000, 7)
        assert (stats.display_info, stats.hash) == (before.display_info, before.hash)
        again = await service.get_info(VM_ID)
        assert (again.devices, again.custom, again.name) == (info.devices, info.custom, info.name)
        assert world.hypervisor.domains[VM_ID].passwords == passwords
        assert world.statuses() == ["Up"] and world.events[0].stats is not UNSET


async def test_paused_vms_come_back_with_their_reason() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        world.hypervisor.pause_on_error(VM_ID, "hda")
        await settle()
    async with world.ready() as service:
        assert (await service.get_stats(VM_ID)).pause_code == "ENOSPC"
    world.hypervisor.fail_next("block_errors", HypervisorTimeout(VM_ID, "block errors", 60.0))
    async with world.ready() as service:
        assert (await service.get_stats(VM_ID)).pause_code == "EOTHER"


async def test_a_vm_that_ended_meanwhile_tells_how() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
    world.hypervisor.end_guest(VM_ID)
    async with world.ready() as service:
        await settle()
        stats = await service.get_stats(VM_ID)
        assert (stats.status, stats.exit_code, stats.exit_reason) == ("Down", 0, 7)
        assert world.images.prepared == []
    async with world.ready() as service:
        assert (await service.get_stats(VM_ID)).exit_reason == 7


async def test_recovery_is_tried_until_libvirt_answers() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
    world.hypervisor.go_down()
    async with world.running() as service:
        await world.clock.advance(12)
        with pytest.raises(NotReady):
            await service.list_vms()
        world.hypervisor.come_up()
        await settle()
        assert service.list_statuses() == ["Up"]
        assert await status(service) == "Up"


async def test_what_happens_during_recovery_is_not_missed() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
    list_domains = world.hypervisor.list_domains

    async def list_and_end() -> object:
        records = await list_domains()
        world.hypervisor.end_guest(VM_ID)
        await settle()
        return records

    world.hypervisor.list_domains = list_and_end  # type: ignore[method-assign, assignment]
    async with world.ready() as service:
        await settle()
        assert (await service.get_stats(VM_ID)).exit_reason == 7


async def test_images_are_prepared_again_when_their_storage_is_back() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
    world.images.prepared.clear()
    world.images.failures += [GeneralFailure("no pool"), GeneralFailure("no pool")]
    async with world.ready() as service:
        await settle()
        assert world.images.prepared == []
        await world.clock.advance(20)
        assert world.images.prepared == [VOLUME["image_id"]]
        assert await status(service) == "Up"


async def test_one_image_that_waits_holds_up_no_other() -> None:
    world, other = World(), {**VOLUME, "image_id": VOLUME["pool_id"]}
    async with world.ready() as service:
        await create(service, drives=[VOLUME, other])
    world.images.prepared.clear()
    world.images.failures.append(GeneralFailure("its domain is away"))
    async with world.ready():
        await settle()
        assert world.images.prepared == [other["image_id"]]
        await world.clock.advance(10)
        assert world.images.prepared == [other["image_id"], VOLUME["image_id"]]


async def test_the_volume_that_is_the_vms_now_is_prepared() -> None:
    world, top = World(), VOLUME["pool_id"]
    asked, prepare = [], world.images.prepare

    async def remember(*ids: str) -> PreparedImage:
        asked.append(ids[3])
        return await prepare(*ids)

    async with world.ready() as service:
        await create(service, drives=[VOLUME])
    world.images.failures.append(GeneralFailure("its domain is away"))
    world.images.prepare = remember  # type: ignore[method-assign]
    async with world.ready() as service:
        await settle()
        vm = service._shared.vms[VM_ID]
        [device] = vm.metadata.devices
        vm.metadata = vm.metadata.with_device(device.with_volume(VolumeRef(**{**VOLUME, "volume_id": top})))
        await world.clock.advance(10)
        assert asked == [VOLUME["volume_id"], top]


async def test_an_image_that_is_not_the_vms_any_more_is_released() -> None:
    """Such as a replica that was dropped while its storage made it ready."""
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
    world.images.prepared.clear()
    world.images.may_go_on.clear()
    async with world.ready() as service:
        await until(lambda: world.images.waiting)
        vm = service._shared.vms[VM_ID]
        vm.metadata = vm.metadata.without_devices(lambda _: True)
        world.images.may_go_on.set()
        await settle()
        assert world.images.prepared == []


async def test_images_that_come_ready_after_the_end_are_released() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
    world.images.may_go_on.clear()
    async with world.ready() as service:
        await until(lambda: world.images.waiting)
        await service.destroy(VM_ID)
        world.images.may_go_on.set()
        await settle()
        assert world.images.prepared == []


async def test_domains_of_others_are_watched_while_they_run() -> None:
    world = World()
    await world.hypervisor.define(FOREIGN)
    async with world.ready() as service:
        assert await service.list_vms() == []
        await world.hypervisor.start(OTHER_ID, paused=False)
        await settle()
        assert [vm.vm_id for vm in await service.list_vms()] == [OTHER_ID]
        assert await status(service, OTHER_ID) == "Up"
        await service.sample()
        world.hypervisor.end_guest(OTHER_ID)
        await settle()
        assert await service.list_vms() == []
        assert world.statuses(OTHER_ID) == ["Up", "Down"]
    assert world.hypervisor.domains[OTHER_ID].state is DomainState.SHUT_OFF
    assert not [call for call in world.hypervisor.calls if call[0] in ("set_metadata", "undefine", "destroy")]


async def test_a_running_vm_that_cannot_be_understood_is_reported() -> None:
    world = World()
    await world.hypervisor.define(domain_xml(metadata='<startTime type="float">soon</startTime>'))
    await world.hypervisor.start(VM_ID, paused=False)
    async with world.ready() as service:
        stats = await service.get_stats(VM_ID)
        assert (stats.status, stats.name, stats.display_info) == ("Up", "vm1", UNSET)
        assert (await service.list_full())[0].vm_id == VM_ID
    assert world.hypervisor.domains[VM_ID].state is DomainState.RUNNING


async def test_libvirt_that_comes_back_is_compared_with_what_is_known() -> None:
    world = World()
    gone, paused, ended = (f"{number:08x}-0000-4000-8000-000000000000" for number in range(3))
    await world.hypervisor.define(FOREIGN)
    async with world.ready() as service:
        for vm_id in (VM_ID, gone, paused, ended):
            await create(service, vm_id, name=vm_id)
        domains = world.hypervisor.domains
        world.hypervisor._listeners.clear()
        await world.hypervisor.start(OTHER_ID, paused=False)
        world.hypervisor.end_guest(ended, 3, 2)
        await world.hypervisor.suspend(paused)
        del domains[gone]
        await settle()
        world.hypervisor.subscribe(service._watcher.on_event)
        world.hypervisor.come_up()
        await settle()
        found = {stats.vm_id: stats for stats in await service.list_stats()}
        assert {vm_id: stats.status for vm_id, stats in found.items()} == {
            VM_ID: "Powering up",
            gone: "Down",
            paused: "Paused",
            ended: "Down",
            OTHER_ID: "Up",
        }
        assert (found[gone].exit_reason, found[ended].exit_reason) == (9, 1)
        await service.destroy(gone)


async def test_samples_of_libvirt_find_vms_that_are_gone() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        world.hypervisor._listeners.clear()
        world.hypervisor.end_guest(VM_ID, 3, 2)
        await service.sample()
        await until(lambda: world.statuses()[-1] == "Down")


async def test_while_libvirt_is_away_figures_tell_their_age() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        await world.clock.advance(16)
        world.hypervisor.go_down()
        await settle()
        with pytest.raises(HypervisorDown):
            await service.pause(VM_ID)
        assert (await service.get_stats(VM_ID)).monitor_response == 0
        await world.clock.advance(75)
        stats = await service.get_stats(VM_ID)
        assert (stats.status, stats.monitor_response) == ("Up", -1)
        assert stats.sample_age_s is not UNSET and stats.sample_age_s >= 60
        world.hypervisor.come_up()
        await world.clock.advance(15)
        assert (await service.get_stats(VM_ID)).monitor_response == 0


async def test_a_start_that_outlived_the_daemon_is_found_and_its_images_are_prepared_again() -> None:
    world = World()
    disk = '<disk type="file" device="disk"><target dev="vda"/></disk>'
    await world.hypervisor.define(domain_xml(metadata="<owner>/</owner>" + VOLUME_METADATA, devices=disk))
    async with world.ready() as service:
        await settle()
        assert await status(service) == "Down" and world.images.prepared == []
        await world.hypervisor.start(VM_ID, paused=False)  # libvirtd had the request already
        await settle()
        assert world.statuses() == ["Down", "Up"]
        assert world.images.prepared == [VOLUME["image_id"]]
        world.hypervisor.end_guest(VM_ID)
    async with world.ready() as service:
        assert (await service.get_stats(VM_ID)).exit_reason == 7


async def test_what_others_define_is_left_alone_until_it_runs() -> None:
    world = World()
    async with world.ready() as service:
        await world.hypervisor.define(domain_xml(metadata=""))  # the root's by its metadata, which names no owner
        await settle()
        assert await service.list_vms() == []
        await world.hypervisor.start(VM_ID, paused=False)
        await settle()
        assert await status(service) == "Up"


async def test_samples_notice_what_no_event_told() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        await create(service, OTHER_ID, name="other")
        listeners, world.hypervisor._listeners = world.hypervisor._listeners, []
        world.hypervisor.pause_on_error(VM_ID, "hda")
        unheard = "dddddddd-0000-4000-8000-00000000000d"
        await world.hypervisor.define(domain_xml(unheard, "foreign", metadata="<owner>/elsewhere</owner>"))
        await world.hypervisor.start(unheard, paused=False)
        await settle()
        world.hypervisor._listeners = listeners
        await service.sample()
        await settle()
        stats = await service.get_stats(VM_ID)
        assert (stats.status, stats.pause_code) == ("Paused", "ENOSPC")
        assert await status(service, unheard) == "Up" and await status(service, OTHER_ID) == "Powering up"
        world.hypervisor._listeners = []
        await world.hypervisor.resume(VM_ID)
        await settle()
        await service.sample()
        await settle()
        assert await status(service) == "Powering up"


async def test_a_domain_that_is_none_of_our_business_is_looked_at_once() -> None:
    world = World()
    appliance = "dddddddd-0000-4000-8000-00000000000d"
    async with world.ready() as service:
        await create(service)
        listeners, world.hypervisor._listeners = world.hypervisor._listeners, []
        channel = '<channel><target name="org.libguestfs.channel.0"/></channel>'
        await world.hypervisor.define(domain_xml(appliance, "guestfs", metadata=None, devices=channel))
        await world.hypervisor.start(appliance, paused=False)
        await settle()
        world.hypervisor._listeners = listeners
        world.hypervisor.fail_next("get_domain", HypervisorTimeout(appliance, "look", 60.0))
        for _ in range(4):
            await service.sample()
            await settle()
        assert world.hypervisor.calls.count(("get_domain", appliance)) == 2  # one that failed, one that told
        assert [vm.vm_id for vm in await service.list_vms()] == [VM_ID]


async def test_a_definition_that_could_not_be_read_is_read_with_a_later_sample() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, OTHER_ID, name="other")
        world.images.may_go_on.clear()
        await service.create(VM_ID, parameters(drives=[VOLUME], display="vnc"))
        for _ in ("before it is up", "afterwards"):
            world.hypervisor.fail_next("get_domain", HypervisorTimeout(VM_ID, "look", 60.0))
        world.images.may_go_on.set()
        await settle()
        assert (await service.get_stats(VM_ID)).display_port == "-1"
        await service.sample()
        await settle()
        assert (await service.get_stats(VM_ID)).display_port != "-1"
