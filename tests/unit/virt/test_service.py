"""Lists, figures and tickets as callers get them."""

from xml.etree.ElementTree import fromstring

import pytest
from msgspec import UNSET

from tests.unit.virt.builders import VM_ID, VOLUME
from tests.unit.virt.world import World, create, settle, status, until
from vdsm.api.errors import TicketFailed, VmRequestFailed
from vdsm.api.host import VmListApi
from vdsm.api.vm import VmApi
from vdsm.core.errors import InvalidArgument
from vdsm.virt.ports import HypervisorRefused, HypervisorTimeout
from vdsm.virt.service import VmService
from vdsm.virt.ticket import build_ticket

OTHER_ID = "cccccccc-0000-4000-8000-00000000000c"


def fits(service: VmService) -> tuple[VmApi, VmListApi]:
    """For the type checker: the service implements both groups of verbs."""
    return service, service


async def test_lists() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        await create(service, OTHER_ID, name="other")
        assert {vm.vm_id for vm in await service.list_vms()} == {VM_ID, OTHER_ID}
        short = (await service.list_vms(vm_ids=[OTHER_ID, "unknown"]))[0]
        assert (short.vm_id, short.xml, short.name) == (OTHER_ID, UNSET, UNSET)
        full = await service.list_full([VM_ID])
        assert [(vm.name, vm.memory_mib) for vm in full] == [("vm1", 64)]
        assert len(await service.list_stats()) == 2


async def test_figures_come_from_the_last_two_samples() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, drives=[VOLUME], mac_addresses="00:16:3e:00:00:01")
        first = await service.get_stats(VM_ID)
        assert (first.disks, first.network, first.sample_age_s) == (UNSET, UNSET, UNSET)
        assert (first.cpu_user_percent, first.cpu_system_percent, first.cpu_actual) == (0.0, 0.0, False)
        await world.clock.advance(31)
        calls = len(world.hypervisor.calls)
        stats = await service.get_stats(VM_ID)
        assert len(world.hypervisor.calls) == calls
        assert stats.disks is not UNSET and stats.disks["hda"].image_id == VOLUME["image_id"]
        assert stats.disks["hda"].read_bytes_per_s == 4096 * 2
        assert stats.network is not UNSET and len(stats.network) == 1
        assert stats.cpu_user_percent == pytest.approx(4.0)
        assert stats.sample_age_s == 1.0 and stats.elapsed_s == 31


async def test_a_silent_vm_keeps_its_old_figures_and_costs_the_others_nothing() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        await create(service, OTHER_ID, name="other")
        await world.clock.advance(31)
        world.hypervisor.freeze(VM_ID)
        await world.clock.advance(75)
        frozen, other = await service.get_stats(VM_ID), await service.get_stats(OTHER_ID)
        assert (frozen.monitor_response, other.monitor_response) == (-1, 0)
        assert frozen.sample_age_s == 76.0 and frozen.status == "Up"
        world.hypervisor.thaw(VM_ID)
        await world.clock.advance(15)
        assert (await service.get_stats(VM_ID)).monitor_response == 0


async def test_without_vms_nobody_is_asked() -> None:
    world = World()
    async with world.ready():
        await world.clock.advance(60)
        assert ("sample", "") not in world.hypervisor.calls


async def test_a_ticket_opens_the_first_display_and_is_kept_nowhere() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, display="qxl")
        await service.set_ticket(VM_ID, "a <secret> & more", 120, "keep")
        assert world.hypervisor.domains[VM_ID].passwords["spice"] == "a <secret> & more"
        graphics = world.hypervisor.domains[VM_ID].xml.find("devices/graphics")
        assert graphics is not None
        assert graphics.get("passwdValidTo") == "2023-11-14T22:15:20"
        assert graphics.get("connected") == "keep"
        assert "secret" not in world.record() and "secret" not in str(await service.get_info(VM_ID))


async def test_a_ticket_without_end_and_a_long_one_for_vnc() -> None:
    live = '<domain><devices><graphics type="vnc" port="5901" passwdValidTo="1970-01-01T00:00:01"/></devices></domain>'
    device = fromstring(build_ticket(live, "123456789", None, "disconnect"))
    assert device.attrib == {"type": "vnc", "port": "5901", "passwd": "12345678"}
    assert fromstring(build_ticket(live, "1234567é", None, "disconnect")).get("passwd") == "1234567"  # eight bytes


@pytest.mark.parametrize("password", ["a\x00b", "a\x1bb"])
async def test_a_password_that_xml_cannot_carry(password: str) -> None:
    world = World()
    async with world.ready() as service:
        await create(service, display="vnc")
        with pytest.raises(TicketFailed) as caught:
            await service.set_ticket(VM_ID, password, 0)
        assert password not in str(caught.value)


async def test_tickets_that_fail() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, OTHER_ID, name="other")
        with pytest.raises(TicketFailed):
            await service.set_ticket(OTHER_ID, "x", 0)
        await create(service, display="vnc")
        with pytest.raises(InvalidArgument):
            await service.set_ticket(VM_ID, "x", -1)
        with pytest.raises(InvalidArgument):
            await service.set_ticket(VM_ID, "x", 2**63 - 1)  # beyond all dates
        world.hypervisor.fail_next("update_device", HypervisorTimeout(VM_ID, "update device", 60.0))
        with pytest.raises(TicketFailed):
            await service.set_ticket(VM_ID, "x", 0)
        world.hypervisor.fail_next("update_device", HypervisorRefused("bad: passwd='hush'", 1))
        with pytest.raises(VmRequestFailed) as caught:
            await service.set_ticket(VM_ID, "hush", 0)
        assert "hush" not in str(caught.value)


async def test_the_end_of_the_service_leaves_vms_running() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        world.hypervisor.guests_obey = False
        await service.shutdown(VM_ID)
        await settle()
    assert world.hypervisor.domains[VM_ID].live is not None


async def test_two_daemons_on_one_libvirt_leave_each_other_alone() -> None:
    world = World()
    async with world.ready(owner="/a") as first, world.ready(owner="/b") as second:
        await create(first)
        await until(lambda: len(world.statuses()) >= 2)
        assert await status(second) == "Up"
        assert [vm.vm_id for vm in await second.list_vms()] == [VM_ID]
        world.hypervisor.end_guest(VM_ID)
        await settle()
        assert await second.list_vms() == []
        assert await status(first) == "Down"
        assert world.stored().owner == "/a"
