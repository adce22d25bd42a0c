"""Devices come and go while a VM runs; whatever goes wrong meanwhile leaves nothing behind."""

import asyncio

import pytest

from tests.unit.virt.builders import VM_ID, VOLUME
from tests.unit.virt.world import World, create, settle, until
from vdsm.api import errors
from vdsm.api.devices import DiskChange, LeaseDevice, MemoryChange, MemoryModule
from vdsm.core.errors import GeneralFailure, InvalidArgument
from vdsm.virt.ports import EventKind, HypervisorEvent, HypervisorRefused, HypervisorTimeout

IMAGE = "55555555-0000-4000-8000-000000000005"
PLUGGED = {**VOLUME, "image_id": IMAGE}
MAC = "02:00:00:00:00:01"


def plug(device: str, metadata: str = "") -> DiskChange:
    told = f'<metadata><o:vm xmlns:o="http://ovirt.org/vm/1.0">{metadata}</o:vm></metadata>' if metadata else ""
    return DiskChange(vm_id=VM_ID, xml=f"<hotplug><devices>{device}</devices>{told}</hotplug>")


def plug_disk(target: str = "sda", volume: dict[str, str] = PLUGGED, more: str = "") -> DiskChange:
    device = f'<disk type="file" device="disk"><source file="guess"/><target dev="{target}" bus="scsi"/>{more}</disk>'
    ids = "".join(f"<o:{key[:-3]}ID>{value}</o:{key[:-3]}ID>" for key, value in volume.items())
    return plug(device, f'<o:device devtype="disk" name="{target}">{ids}</o:device>')


def plug_nic(mac: str = MAC) -> DiskChange:
    card = f'<interface type="bridge"><mac address="{mac}"/><source bridge="b"/><model type="virtio"/></interface>'
    return plug(card, f'<o:device mac_address="{mac}"><o:network>blue</o:network></o:device>')


def list_targets(world: World) -> list[str]:
    return [target.get("dev", "") for target in world.hypervisor.domains[VM_ID].xml.iterfind("devices/disk/target")]


def find(world: World, path: str) -> list[str]:
    return [found.get("name", "") for found in world.hypervisor.domains[VM_ID].xml.iterfind(path)]


async def test_a_disk_is_plugged_and_unplugged_with_its_image() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        await service.devices.plug_disk(VM_ID, plug_disk())
        assert sorted(world.images.prepared) == sorted([VOLUME["image_id"], IMAGE])
        [source] = world.hypervisor.domains[VM_ID].xml.findall("devices/disk/target[@dev='sda']/../source")
        assert source.get("file") == f"/run/{PLUGGED['domain_id']}/{IMAGE}/{PLUGGED['volume_id']}"
        assert source.find("seclabel") is not None
        known = world.stored().device(devtype="disk", name="sda")
        assert known is not None and known.volume is not None and known.volume.image_id == IMAGE
        [alias] = find(world, "devices/disk/target[@dev='sda']/../alias")
        named = f'<disk><target dev="sda"/><alias name="{alias}"/></disk>'
        await service.devices.unplug_disk(VM_ID, plug(named))
        assert world.images.prepared == [VOLUME["image_id"]]
        assert world.stored().device(devtype="disk", name="sda") is None


async def test_a_disk_is_found_by_its_volume_or_its_path() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        await service.devices.plug_disk(VM_ID, plug_disk())
        await service.devices.unplug_disk(VM_ID, plug_disk("sdz"))
        assert world.images.prepared == [] and list_targets(world) == ["hdc"]
        path = '<disk type="file"><source file="/dev/some"/><target dev="sdb"/></disk>'
        await service.devices.plug_disk(VM_ID, plug(path))
        await service.devices.unplug_disk(VM_ID, plug(path.replace("sdb", "x")))
        assert list_targets(world) == ["hdc"]
        with pytest.raises(errors.UnplugDiskFailed):
            await service.devices.unplug_disk(VM_ID, plug(path))


async def test_a_card_is_plugged_and_unplugged() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        done = await service.devices.plug_nic(VM_ID, plug_nic())
        assert [(card.mac_address, bool(card.alias)) for card in done.devices] == [(MAC, True)]
        assert MAC in done.xml
        known = world.stored().device(mac_address=MAC)
        assert known is not None and known.values["network"] == "blue"
        await service.devices.unplug_nic(VM_ID, plug(f'<interface><mac address="{MAC.upper()}"/></interface>'))
        assert world.stored().device(mac_address=MAC) is None
        with pytest.raises(errors.UnplugNicFailed):
            await service.devices.unplug_nic(VM_ID, plug_nic())


async def test_memory_and_leases() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        module = MemoryModule(size_mib=128, node=0)
        await service.devices.plug_memory(VM_ID, MemoryChange(vm_id=VM_ID, memory=module, guaranteed_memory_mib=100))
        [alias] = find(world, "devices/memory/alias")
        assert world.stored().guaranteed_memory_mib == 100
        await service.devices.unplug_memory(VM_ID, MemoryChange(vm_id=VM_ID, memory=MemoryModule(alias=alias)))
        assert find(world, "devices/memory/alias") == []
        lease = LeaseDevice(domain_id=VOLUME["domain_id"], lease_id=IMAGE)
        await service.devices.plug_lease(VM_ID, lease)
        [target] = world.hypervisor.domains[VM_ID].xml.findall("devices/lease/target")
        assert (target.get("path"), target.get("offset")) == (f"/run/{VOLUME['domain_id']}/xleases", str(1 << 20))
        await service.devices.unplug_lease(VM_ID, lease)
        assert world.hypervisor.domains[VM_ID].xml.findall("devices/lease") == []
        world.images.failures.append(GeneralFailure("no such lease"))
        with pytest.raises(errors.VmRequestFailed):
            await service.devices.plug_lease(VM_ID, lease)


@pytest.mark.parametrize("step", ["set_metadata", "attach_device"])
async def test_a_disk_that_is_refused_leaves_nothing(step: str) -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        before = world.stored()
        world.hypervisor.fail_next(step, HypervisorRefused("no", 1))
        with pytest.raises(errors.PlugDiskFailed, match="no"):
            await service.devices.plug_disk(VM_ID, plug_disk())
        assert (world.images.prepared, world.stored()) == ([], before)
        await service.devices.plug_disk(VM_ID, plug_disk())


async def test_an_image_that_cannot_be_prepared_leaves_nothing() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        before = world.stored()
        world.images.failures.append(GeneralFailure("gone"))
        with pytest.raises(errors.VmRequestFailed, match="Bad volume specification: sda"):
            await service.devices.plug_disk(VM_ID, plug_disk())
        assert (world.images.prepared, world.stored()) == ([], before)


async def test_what_is_used_already_stays_prepared() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        world.hypervisor.fail_next("attach_device", HypervisorRefused("in use", 1))
        with pytest.raises(errors.PlugDiskFailed):
            await service.devices.plug_disk(VM_ID, plug_disk(volume=VOLUME))
        assert VOLUME["image_id"] in world.images.prepared


async def test_nobody_knows_what_came_of_a_call_without_an_answer_until_the_monitor_answers() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        world.hypervisor.fail_next("attach_device", HypervisorTimeout(VM_ID, "attach", 60.0))
        with pytest.raises(errors.PlugDiskFailed, match="does not answer"):
            await service.devices.plug_disk(VM_ID, plug_disk())
        assert world.images.prepared == [IMAGE], "it may be there"
        await service.sample()
        await settle()
        assert world.images.prepared == [] and world.stored().device(devtype="disk", name="sda") is None


async def test_a_guest_that_keeps_its_disk_is_told_of_and_may_let_go_later() -> None:
    world = World()
    async with world.ready(unplug_timeout_s=30.0) as service:
        await create(service)
        await service.devices.plug_disk(VM_ID, plug_disk())
        world.hypervisor.guests_obey = False
        asked = asyncio.create_task(service.devices.unplug_disk(VM_ID, plug_disk()))
        await settle()
        await world.clock.advance(31)
        with pytest.raises(errors.UnplugDiskFailed, match="within 30 s"):
            await asked
        assert world.images.prepared == [IMAGE]
        [disk] = world.hypervisor.domains[VM_ID].xml.findall("devices/disk/target[@dev='sda']/..")
        world.hypervisor.remove_device(VM_ID, disk)
        await until(lambda: not world.images.prepared)
        await settle()
        assert world.stored().device(devtype="disk", name="sda") is None


@pytest.mark.parametrize("step", ["set_metadata", "prepare", "attach_device", "detach_device", "gone"])
async def test_a_daemon_that_ends_half_way_leaves_nothing_for_long(step: str) -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        before = world.stored()
        if step in ("detach_device", "gone"):
            await service.devices.plug_disk(VM_ID, plug_disk())
            world.hypervisor.guests_obey = step == "gone"
        work = service.devices.unplug_disk if step in ("detach_device", "gone") else service.devices.plug_disk
        if step == "prepare":
            world.images.may_go_on.clear()
        calls = len(world.hypervisor.calls)
        asked = asyncio.create_task(work(VM_ID, plug_disk()))
        name = "detach_device" if step == "gone" else step
        if step == "prepare":
            await until(lambda: world.images.waiting)
        else:
            await until(lambda: (name, VM_ID) in world.hypervisor.calls[calls:])
        asked.cancel()
        await asyncio.wait({asked})
    world.images.may_go_on.set()
    world.hypervisor.guests_obey = True
    is_there = "sda" in list_targets(world)
    async with world.ready() as service:
        await settle()
        assert (world.stored().device(devtype="disk", name="sda") is not None) == is_there
        assert (IMAGE in world.images.prepared) == is_there
        assert VOLUME["image_id"] in world.images.prepared
        if not is_there:
            assert world.stored().devices == before.devices


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "no xml",
        "<hotplug/>",
        "<hotplug><devices/></hotplug>",
        '<hotplug><devices><disk><target dev="a"/></disk><disk><target dev="b"/></disk></devices></hotplug>',
        '<hotplug><devices><interface type="bridge"/></devices></hotplug>',
        "<hotplug><devices><disk/></devices></hotplug>",
        '<hotplug><devices><disk><target dev="sdaaaaaaaaaa"/></disk></devices></hotplug>',
        '<!DOCTYPE x [<!ENTITY a "b">]><hotplug><devices><disk><target dev="&a;"/></disk></devices></hotplug>',
        '<hotplug><devices><disk><source file="PAYLOAD:"/><target dev="a"/></disk></devices></hotplug>',
    ],
)
async def test_bad_documents_change_nothing(xml: str) -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        before = world.record()
        with pytest.raises((InvalidArgument, errors.MissingParameter)):
            await service.devices.plug_disk(VM_ID, DiskChange(vm_id=VM_ID, xml=xml))
        assert world.record() == before and world.images.prepared == []


async def test_folders_taken_targets_and_missing_ids_are_refused() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME])
        world.images.folders.add("/data")
        with pytest.raises(errors.VmRequestFailed, match="folder"):
            await service.devices.plug_disk(
                VM_ID, plug('<disk type="file"><source file="/data"/><target dev="sda"/></disk>')
            )
        with pytest.raises(errors.VmRequestFailed, match="folder"):
            nvdimm = '<memory model="nvdimm"><source><path>/data</path></source></memory>'
            await service.devices.plug_memory(VM_ID, MemoryChange(vm_id=VM_ID, xml=str(plug(nvdimm).xml)))
        with pytest.raises(errors.PlugDiskFailed, match="hda already"):
            await service.devices.plug_disk(VM_ID, plug_disk("hda"))
        with pytest.raises(errors.MissingParameter):
            await service.devices.plug_disk(VM_ID, DiskChange(xml=plug_disk().xml))
        with pytest.raises(InvalidArgument):
            await service.devices.plug_memory(VM_ID, MemoryChange(vm_id=VM_ID, memory=MemoryModule(size_mib=2**60)))


async def test_a_vm_that_is_down_or_migrates_keeps_its_devices() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        world.hypervisor.end_guest(VM_ID)
        await settle()
        with pytest.raises(errors.VmIsDown):
            await service.devices.plug_disk(VM_ID, plug_disk())
        with pytest.raises(errors.NoSuchVm):
            await service.devices.plug_disk(IMAGE, plug_disk())


async def test_changes_of_one_vm_wait_for_each_other() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        world.images.may_go_on.clear()
        first = asyncio.create_task(service.devices.plug_disk(VM_ID, plug_disk()))
        await until(lambda: world.images.waiting)
        world.hypervisor.emit(HypervisorEvent(VM_ID, EventKind.DEVICE_REMOVED, names=("other",)))
        second = asyncio.create_task(service.devices.plug_disk(VM_ID, plug_disk()))
        await settle()
        world.images.may_go_on.set()
        await first
        with pytest.raises(errors.PlugDiskFailed):
            await second
        assert world.images.prepared == [IMAGE]
