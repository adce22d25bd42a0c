"""Network cards and displays are changed where they are; what fails leaves them, and what is told, as before."""

import asyncio

import pytest
from msgspec import UNSET

from tests.unit.virt.builders import VM_ID
from tests.unit.virt.world import World, create, settle
from vdsm.api import errors
from vdsm.api.tuning import TuningApi
from vdsm.api.updates import DeviceUpdate, UpdateApi
from vdsm.api.vm import Bandwidth, DeviceParameters, FilterParameter
from vdsm.core.errors import InvalidArgument, NodeError
from vdsm.virt.devices.updates import DUMMY_BRIDGE, UpdateService
from vdsm.virt.elements import format_xml
from vdsm.virt.metadata import CHANGE, VmMetadata
from vdsm.virt.ports import HypervisorRefused, HypervisorTimeout
from vdsm.virt.service import VmService
from vdsm.virt.tuning import plan_pinning

MAC = "02:00:00:00:00:01"
CARD = {"type": "interface", "device": "bridge", "network": "red", "mac_address": MAC, "nic_model": "virtio"}
DISPLAYS = [{"type": "graphics", "device": kind} for kind in ("spice", "vnc")]


def fits(service: UpdateService, tuning: TuningApi) -> UpdateApi:
    """For the type checker: the service implements the group."""
    return service


def card(**changes: object) -> DeviceUpdate:
    return DeviceUpdate(type="interface", alias="net0", **changes)  # type: ignore[arg-type]


def read(world: World, path: str = "") -> dict[str, str]:
    """An attribute of the card, or of something in it."""
    found = world.hypervisor.domains[VM_ID].xml.find(f"devices/interface{path}")
    return {} if found is None else dict(found.attrib)


def told(world: World) -> dict[str, object]:
    known = world.stored().device(mac_address=MAC)
    return {} if known is None else dict(known.values)


async def make(service: VmService) -> UpdateService:
    await create(service, devices=[CARD, *DISPLAYS])
    return service.updates


async def test_a_card_is_moved_cut_off_and_slowed_down() -> None:
    world = World()
    async with world.ready() as service:
        updates = await make(service)
        await updates.update_device(VM_ID, card(network="blue"))
        assert read(world, "/source")["bridge"] == "blue" and told(world)["network"] == "blue"
        assert read(world, "/link") == {"state": "up"}
        await updates.update_device(VM_ID, card(link_active=False))
        assert read(world, "/link") == {"state": "down"} and read(world, "/source")["bridge"] == "blue"
        limits = DeviceParameters(inbound=Bandwidth(average=1000, peak=2000), outbound=Bandwidth(average=500, burst=64))
        await updates.update_device(VM_ID, card(parameters=limits))
        assert read(world, "/bandwidth/inbound") == {"average": "1000", "peak": "2000"}
        assert read(world, "/bandwidth/outbound") == {"average": "500", "burst": "64"}
        await updates.update_device(VM_ID, card(parameters=DeviceParameters(inbound=Bandwidth())))
        assert read(world, "/bandwidth/inbound") == {} and read(world, "/bandwidth/outbound")
        values = [FilterParameter(name="IP", value="10.0.0.1")]
        await updates.update_device(
            VM_ID, card(filter="clean", filter_parameters=values, isolated=True, mtu=9000, custom={"queues": "2"})
        )
        assert read(world, "/filterref") == {"filter": "clean"}
        assert read(world, "/filterref/parameter") == {"name": "IP", "value": "10.0.0.1"}
        assert (read(world, "/mtu"), read(world, "/port")) == ({"size": "9000"}, {"isolated": "yes"})
        await updates.update_device(VM_ID, card(network=""))
        assert read(world, "/source")["bridge"] == DUMMY_BRIDGE and read(world, "/link") == {"state": "down"}
        known = world.stored().device(mac_address=MAC)
        assert known is not None and known.find_part("custom") == {"queues": "2"}


async def test_a_card_is_changed_by_its_xml() -> None:
    world = World()
    async with world.ready() as service:
        updates = await make(service)
        alias = read(world, "/alias")["name"]
        xml = f"<d><devices><interface type='bridge'><mac address='{MAC}'/><source bridge='green'/>"
        xml += f"<alias name='{alias}'/><model type='virtio'/></interface></devices></d>"
        await updates.update_device(VM_ID, DeviceUpdate(type="interface", xml=xml))
        assert read(world, "/source")["bridge"] == "green"
        other = DeviceUpdate(type="interface", xml=xml.replace(alias, "net7"))
        with pytest.raises(errors.UpdateDeviceFailed, match="no such"):
            await updates.update_device(VM_ID, other)


@pytest.mark.parametrize("method", ["get_domain", "update_device", "set_metadata"])
@pytest.mark.parametrize("error", [HypervisorRefused("no"), HypervisorTimeout(VM_ID, "update", 60)])
async def test_a_change_that_fails_is_taken_back(method: str, error: NodeError) -> None:
    world = World()
    async with world.ready() as service:
        updates = await make(service)
        before, known = read(world, "/source"), told(world)
        world.hypervisor.fail_next(method, error)
        with pytest.raises(errors.UpdateDeviceFailed):
            await updates.update_device(VM_ID, card(network="blue"))
        assert read(world, "/source") == before and told(world) == known


@pytest.mark.parametrize("number", range(8))
async def test_a_daemon_that_ends_at_any_call_leaves_a_card_and_its_network(number: int) -> None:
    """Before the first call to libvirt that the change makes, before the second, and so on: it makes six or so."""
    world = World()
    async with world.ready() as service:
        updates = await make(service)
        go_on = world.hang_after(number)
        work = asyncio.create_task(updates.update_device(VM_ID, card(network="blue", custom={"queues": "2"})))
        await settle()
    go_on()
    is_done = any(method == "update_device" for method, _ in world.hypervisor.calls)
    async with world.ready() as service:
        await settle()
        network = read(world, "/source")["bridge"]
        assert network == told(world).get("network", "red") == ("blue" if is_done else "red")
        known = world.stored().device(mac_address=MAC)
        assert known is None or known.find_part(CHANGE) is None
        await service.updates.update_device(VM_ID, card(network="green"))
        assert told(world)["network"] == "green"
    work.cancel()


async def test_the_password_of_a_display() -> None:
    world = World()
    async with world.ready() as service:
        updates = await make(service)
        for kind in ("spice", "vnc"):
            ticket = DeviceUpdate(
                type="graphics", graphics_type=kind, password=f"of-{kind}", ttl_s=60, ticket_parameters={}
            )
            await updates.update_device(VM_ID, ticket)
        assert world.hypervisor.domains[VM_ID].passwords == {"spice": "of-spice", "vnc": "of-vnc"}
        missing = DeviceUpdate(type="graphics", graphics_type="vnc", password="p", ttl_s=60)
        with pytest.raises(errors.MissingParameter, match="params"):
            await updates.update_device(VM_ID, missing)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (DeviceUpdate(), errors.MissingParameter),
        (DeviceUpdate(type="interface"), errors.MissingParameter),
        (DeviceUpdate(type="disk", alias="net0"), errors.DeviceNotUpdatable),
        (DeviceUpdate(type="interface", alias="net9", link_active=False), errors.UpdateDeviceFailed),
        (card(mtu=0), InvalidArgument),
        (card(mtu=1 << 40), InvalidArgument),
        (card(mirrored=["red"]), errors.UpdateDeviceFailed),
        (card(network="a\0b"), InvalidArgument),
        (card(custom={"<x>": "y"}), InvalidArgument),
        (card(filter="a\x01"), InvalidArgument),
        (card(parameters=DeviceParameters(inbound=Bandwidth(average=-1))), InvalidArgument),
        (DeviceUpdate(type="interface", xml="<a"), InvalidArgument),
        (DeviceUpdate(type="interface", xml="<d><devices><disk/></devices></d>"), InvalidArgument),
        (DeviceUpdate(type="graphics", graphics_type="vnc", ttl_s=1, ticket_parameters={}), errors.MissingParameter),
    ],
)
async def test_what_cannot_be_changes_nothing(change: DeviceUpdate, error: type[NodeError]) -> None:
    world = World()
    async with world.ready() as service:
        updates = await make(service)
        before = world.record()
        with pytest.raises(error):
            await updates.update_device(VM_ID, change)
        assert world.record() == before


async def test_a_vm_without_such_a_display() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, devices=DISPLAYS[:1])
        ticket = DeviceUpdate(type="graphics", graphics_type="vnc", password="p", ttl_s=60, ticket_parameters={})
        with pytest.raises(errors.UpdateDeviceFailed, match="vnc"):
            await service.updates.update_device(VM_ID, ticket)


async def test_processors_are_plugged_and_pinned() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, cpus=1, maximum_cpus=4)
        await service.tuning.set_cpu_count(VM_ID, 3)
        vm = await service.get_info(VM_ID)
        assert 'current="3"' in (vm.xml if vm.xml is not UNSET else "")
        await service.tuning.set_cpu_count(VM_ID, 2, ["0-1", "3"])
        pins = world.hypervisor.domains[VM_ID].xml.findall("cputune/vcpupin")
        assert [format_xml(pin).strip() for pin in pins] == [
            '<vcpupin vcpu="0" cpuset="0,1" />',
            '<vcpupin vcpu="1" cpuset="3" />',
        ]
        for count in (5, 2**40):
            with pytest.raises(errors.CpuCountFailed):
                await service.tuning.set_cpu_count(VM_ID, count)


@pytest.mark.parametrize(
    ("policy", "count", "sets", "error"),
    [
        ("none", 0, None, InvalidArgument),
        ("dedicated", 2, None, errors.MissingParameter),
        ("dedicated", 2, [], errors.MissingParameter),
        ("none", 2, ["0"], InvalidArgument),
        ("none", 1, ["zero"], InvalidArgument),
        ("none", 1, [""], InvalidArgument),
        ("none", 1, ["0-99999999999"], InvalidArgument),
    ],
)
def test_processors_that_cannot_be_bound(
    policy: str, count: int, sets: list[str] | None, error: type[NodeError]
) -> None:
    with pytest.raises(error):
        plan_pinning(VmMetadata({"cpuPolicy": policy}), count, sets)


@pytest.mark.parametrize("policy", ["none", "manual"])
def test_processors_that_float(policy: str) -> None:
    assert plan_pinning(VmMetadata({"cpuPolicy": policy}), 2, None) == []


async def test_devices_of_the_host() -> None:
    world = World()
    address = "<source><address domain='0' bus='3' slot='0' function='0'/></source>"
    documents = [f"<d><devices><hostdev mode='subsystem' type='pci'>{address}</hostdev></devices></d>"] * 2
    async with world.ready() as service:
        await create(service)
        world.hypervisor.fail_next("attach_device", HypervisorRefused("in use"))
        [taken] = await service.devices.plug_host_devices(VM_ID, documents)
        assert "hostdev0" in taken and 'managed="yes"' in taken
        alias = "<d><devices><hostdev mode='subsystem' type='pci'><alias name='{}'/></hostdev></devices></d>"
        bad = [alias.format("hostdev0"), "<d><devices><disk/></devices></d>"]
        with pytest.raises(InvalidArgument):
            await service.devices.unplug_host_devices(VM_ID, bad)
        documents = [alias.format(name) for name in ("hostdev9", "hostdev0")]
        [given] = await service.devices.unplug_host_devices(VM_ID, documents)
        assert "hostdev0" in given
        assert await service.devices.unplug_host_devices(VM_ID, documents) == []
