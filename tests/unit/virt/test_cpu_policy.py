"""Where processors of VMs run: what is a VM's own, what is left for the others, and what a daemon asks libvirt for."""

import asyncio

import pytest

from tests.unit.virt.builders import VM_ID, domain_xml, plan
from tests.unit.virt.world import World, create, settle, until
from vdsm.api.vm import VmParameters
from vdsm.virt.domain import parse_domain
from vdsm.virt.ports import HypervisorRefused
from vdsm.virt.service import VmService

OTHER_ID = "cccccccc-0000-4000-8000-00000000000c"
CPUS = "<cputune>{}</cputune>"


def make_xml(policy: str, pins: dict[int, str], cpus: int = 2, vm_id: str = OTHER_ID, told: str = "") -> str:
    pinned = "".join(f"<vcpupin vcpu='{number}' cpuset='{text}'/>" for number, text in pins.items())
    policy = f"<cpuPolicy>{policy}</cpuPolicy>" if policy else ""
    xml = domain_xml(vm_id, f"vm-{vm_id[:4]}", metadata=policy + told, extra=f"<cputune>{pinned}</cputune>")
    return xml.replace("<vcpu>1", f"<vcpu>{cpus}")


def read_pins(world: World, vm_id: str = VM_ID) -> dict[int, list[int]]:
    return {number: sorted(cpus) for number, cpus in parse_domain(world.record(vm_id)).pins.items()}


async def start(service: VmService, xml: str) -> None:
    vm_id = (await service.create("", VmParameters(xml=xml))).vm_id
    await until(lambda: service._shared.vms[vm_id].is_alive)
    await settle()


async def pinned(world: World, wanted: dict[int, list[int]], vm_id: str = VM_ID) -> None:
    """Topologies are read in a thread."""
    async with asyncio.timeout(10):
        while read_pins(world, vm_id) != wanted:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("policy", "pins", "told"),
    [
        ("", {}, {"cpuPolicy": "none"}),
        ("", {1: "3"}, {"cpuPolicy": "manual", "manuallyPinedCPUs": "1"}),
        ("none", {1: "3"}, {"cpuPolicy": "none"}),
        ("dedicated", {0: "3", 1: "4"}, {"cpuPolicy": "dedicated", "manuallyPinedCPUs": "0,1"}),
    ],
)
def test_a_vm_that_tells_no_policy_has_one_by_its_xml(policy: str, pins: dict[int, str], told: dict[str, str]) -> None:
    values = plan(VmParameters(xml=make_xml(policy, pins))).metadata.values
    assert {key: text for key, text in values.items() if key in ("cpuPolicy", "manuallyPinedCPUs")} == told


def test_what_was_told_of_pinned_processors_stays() -> None:
    xml = make_xml("manual", {0: "0", 1: "1"}, told="<manuallyPinedCPUs>1</manuallyPinedCPUs>")
    assert plan(VmParameters(xml=xml)).metadata.values["manuallyPinedCPUs"] == "1"


@pytest.mark.parametrize(
    ("policy", "left"),
    [
        ("manual", None),
        ("dedicated", [0, 3, 4, 5, 6, 7]),
        ("siblings", [0, 3, 4, 7]),
        ("isolate-threads", [0, 3, 4, 7]),
    ],
)
async def test_others_leave_what_a_vm_has_for_itself(policy: str, left: list[int] | None) -> None:
    world = World()
    async with world.ready() as service:
        await create(service, cpus=2)
        await start(service, make_xml(policy, {0: "1", 1: "2"}))
        await pinned(world, {} if left is None else {0: left, 1: left})
        assert read_pins(world, OTHER_ID) == {0: [1], 1: [2]}
        await service.destroy(OTHER_ID)
        await pinned(world, {} if left is None else dict.fromkeys((0, 1), list(range(8))))


async def test_processors_pinned_by_hand_stay_and_the_others_follow() -> None:
    world = World()
    async with world.ready() as service:
        await start(service, make_xml("", {1: "1-2"}, vm_id=VM_ID, cpus=3))
        await start(service, make_xml("dedicated", {0: "1"}, cpus=1))
        await pinned(world, {0: [0, 2, 3, 4, 5, 6, 7], 1: [1, 2], 2: [0, 2, 3, 4, 5, 6, 7]})


async def test_a_host_that_is_taken_whole_is_left_to_all() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        await start(service, make_xml("dedicated", {0: "0-7"}, cpus=1))
        await settle()
        assert read_pins(world) == {}


async def test_a_refusal_is_not_asked_for_again_until_something_else_is_wanted() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        world.hypervisor.fail_next("pin_cpu", HypervisorRefused("no"))
        await start(service, make_xml("dedicated", {0: "1"}, cpus=1))
        async with asyncio.timeout(10):
            while world.hypervisor._failures["pin_cpu"]:
                await asyncio.sleep(0.001)
        await settle()
        assert read_pins(world) == {}
        await start(service, make_xml("dedicated", {0: "2"}, cpus=1, vm_id=VM_ID.replace("a", "d")))
        await pinned(world, {0: [0, 3, 4, 5, 6, 7]})


async def test_the_next_daemon_knows_who_has_what() -> None:
    world = World()
    async with world.ready() as service:
        await start(service, make_xml("dedicated", {0: "1"}, cpus=1))
    async with world.ready() as service:
        await create(service)
        await pinned(world, {0: [0, 2, 3, 4, 5, 6, 7]})
        await service.tuning.set_cpu_count(VM_ID, 1, ["1"])
        await settle()
        assert read_pins(world) == {0: [1]} and world.stored().values["cpuPolicy"] == "manual"
