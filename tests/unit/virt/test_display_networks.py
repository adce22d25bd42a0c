"""Networks that displays listen on: there before the VM starts, and gone after the last one that needs them."""

import pytest

from tests.unit.virt.builders import VM_ID, domain_xml
from tests.unit.virt.world import World, create, settle, until
from vdsm.api.vm import VmParameters
from vdsm.virt.display_networks import build_network
from vdsm.virt.lifecycle import ExitReason
from vdsm.virt.ports import HypervisorRefused

OTHER_ID = "cccccccc-0000-4000-8000-00000000000c"
DISPLAY = "<graphics type='vnc' passwdValidTo='1970-01-01T00:00:01'><listen type='network' network='{}'/></graphics>"


@pytest.mark.parametrize(
    ("is_bridge", "parts"),
    [
        (True, '<forward mode="bridge" /><bridge name="br" />'),
        (False, '<forward mode="passthrough"><interface dev="br" />'),
    ],
)
def test_what_libvirt_is_told(is_bridge: bool, parts: str) -> None:
    xml = build_network("vdsm-red", "br", is_bridge=is_bridge)
    assert xml.startswith("<network><name>vdsm-red</name>") and parts in xml


async def test_a_network_is_there_while_a_vm_needs_it() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, display="vnc", display_network="plain")
        assert 'dev="eth1.7"' in world.hypervisor.networks["vdsm-plain"]
        assert 'network="vdsm-plain"' in world.record().replace("'", '"')
        xml = domain_xml(OTHER_ID, "vm2", devices=DISPLAY.format("vdsm-plain"))
        await service.create(OTHER_ID, VmParameters(xml=xml))
        await until(lambda: service._shared.vms[OTHER_ID].is_alive)
        await service.destroy(VM_ID)
        await settle()
        assert list(world.hypervisor.networks) == ["vdsm-plain"]
    async with world.ready() as service:
        await service.destroy(OTHER_ID)
        await until(lambda: not world.hypervisor.networks)


async def test_a_vm_that_ended_while_there_was_no_daemon() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, display="vnc", display_network="red")
    await world.hypervisor.destroy(VM_ID, graceful=False)
    async with world.ready():
        await until(lambda: not world.hypervisor.networks)


async def test_networks_of_others_are_theirs() -> None:
    world = World()
    async with world.ready() as service:
        await service.create(VM_ID, VmParameters(xml=domain_xml(devices=DISPLAY.format("default"))))
        await until(lambda: service._shared.vms[VM_ID].is_alive)
        assert world.hypervisor.networks == {}


async def test_a_network_that_cannot_be_ends_the_start() -> None:
    world = World()
    world.hypervisor.fail_next("start_network", HypervisorRefused("no such device"))
    async with world.ready() as service:
        await service.create(VM_ID, VmParameters(xml=domain_xml(devices=DISPLAY.format("vdsm-red"))))
        await until(lambda: world.events)
        assert (world.events[-1].status, world.events[-1].exit_reason) == ("Down", ExitReason.GENERIC_ERROR)


async def test_a_display_with_an_address_needs_no_network() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, display="vnc", display_network="red", display_address="192.0.2.1")
        assert world.hypervisor.networks == {}
