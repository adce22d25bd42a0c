"""What TPMs and firmware keep: told when it is stable or asked for now, and put back before a start."""

import asyncio

import pytest
from msgspec import UNSET

from tests.unit.virt.builders import VM_ID, domain_xml, parameters
from tests.unit.virt.world import World, create, settle, status
from vdsm.api.errors import ExternalDataFailed
from vdsm.virt.domain import parse_domain
from vdsm.virt.kept_data import encode, get_hash, has_device
from vdsm.virt.ports import FirmwareUnusable

TPM = '<tpm model="tpm-crb"><backend type="emulator" version="2.0"/></tpm>'
XML = domain_xml(devices=TPM).replace("</os>", "<nvram>/var/lib/libvirt/qemu/nvram/vm1.fd</nvram></os>")
FIRST, SECOND = (encode("nvram", data) for data in (b"first", b"second"))


async def test_what_was_the_same_twice_is_told_unless_asked_now() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, xml=XML)
        get = service.firmware.get_external_data
        world.firmware.kept["nvram", VM_ID] = b"first"
        assert (await get(VM_ID, "nvram", force_update=False)).hash == ""
        assert (await service.get_stats(VM_ID)).nvram_hash == ""
        await world.clock.advance(121)
        told = await get(VM_ID, "nvram", force_update=False)
        assert (told.hash, told.external_data) == (get_hash(FIRST), FIRST)
        assert (await service.get_stats(VM_ID)).nvram_hash == told.hash
        world.firmware.kept["nvram", VM_ID] = b"second"
        await world.clock.advance(60)
        assert (await get(VM_ID, "nvram", force_update=False)).hash == told.hash, "it may still change"
        now = await get(VM_ID, "nvram", told.hash)
        assert (now.hash, now.external_data) == (get_hash(SECOND), SECOND)
        again = await get(VM_ID, "nvram", now.hash)
        assert (again.hash, again.external_data) == (now.hash, UNSET)
        empty = await get(VM_ID, "tpm")
        assert (empty.hash, empty.external_data) == ("", UNSET)


async def test_a_vm_without_such_a_device() -> None:
    world = World()
    async with world.ready() as service:
        await create(service)
        for kind in ("tpm", "nvram", "floppy", ""):
            with pytest.raises(ExternalDataFailed):
                await service.firmware.get_external_data(VM_ID, kind)
        stats = await service.get_stats(VM_ID)
        assert (stats.tpm_hash, stats.nvram_hash) == (UNSET, UNSET)


async def test_what_was_saved_is_there_when_the_vm_starts() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, xml=XML, nvram_data=FIRST, tpm_data="QUJD")
        assert world.firmware.kept == {("nvram", VM_ID): b"first", ("tpm", VM_ID): b"ABC"}
        world.hypervisor.end_guest(VM_ID)
        await settle()
        assert (await service.firmware.get_external_data(VM_ID, "nvram")).external_data == FIRST


async def test_a_daemon_that_ends_after_it_wrote_leaves_a_domain_that_takes_it_along() -> None:
    """libvirt removes what the definition names; a mere placeholder names nothing."""
    world = World()
    written, write = asyncio.Event(), world.firmware.write

    async def write_and_hang(kind: str, vm_id: str, path: str, data: bytes) -> None:
        await write(kind, vm_id, path, data)
        written.set()
        await asyncio.Event().wait()

    world.firmware.write = write_and_hang  # type: ignore[method-assign]
    async with world.ready() as service:
        await service.create(VM_ID, parameters(xml=XML, nvram_data=FIRST, tpm_data="QUJD"))
        await written.wait()
    async with world.ready() as service:
        view = parse_domain(world.record())
        assert await status(service) == "Down" and has_device(view, "nvram") and has_device(view, "tpm")
        await service.destroy(VM_ID)
        assert world.hypervisor.domains == {} and world.firmware.clears == 2


async def test_data_that_is_none_is_refused_at_the_door() -> None:
    world = World()
    async with world.ready() as service:
        for given in ({"nvram_data": "=9=QUJD"}, {"tpm_data": "!"}):
            with pytest.raises(ExternalDataFailed):
                await create(service, xml=XML, **given)
        assert world.hypervisor.domains == {} and world.firmware.kept == {}
        await create(service, nvram_data=FIRST)
        assert world.firmware.kept == {}, "it has no such device any more"


async def test_data_that_cannot_be_written_ends_the_start() -> None:
    world = World()
    async with world.ready() as service:
        world.firmware.failures.append(FirmwareUnusable("nvram", "no space"))
        await create(service, xml=XML, nvram_data=FIRST)
        assert await status(service) == "Down"
        assert "no space" in str((await service.get_stats(VM_ID)).exit_message)


async def test_files_that_cannot_be_read_are_told_to_who_asks_and_harm_nobody_else() -> None:
    world = World()
    async with world.ready() as service:
        await create(service, xml=XML)
        world.firmware.failures = [FirmwareUnusable("nvram", "broken")] * 2
        await world.clock.advance(61)
        world.firmware.failures = [FirmwareUnusable("nvram", "broken")]
        with pytest.raises(FirmwareUnusable):
            await service.firmware.get_external_data(VM_ID, "nvram")
        assert await status(service) in ("Up", "Powering up")
