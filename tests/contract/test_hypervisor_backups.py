"""What every hypervisor does of backups and checkpoints, run here on the fake; `tests/system` runs it on real qemus."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from lab.commands import run
from tests.contract.test_hypervisor import FakeWorld, Suite, World, make_definition
from vdsm.virt.elements import parse_xml
from vdsm.virt.ports import HypervisorRefused, NoSuchDomain

SIZE_BYTES = 1 << 20


def make_image(path: Path) -> Path:
    run("qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE_BYTES))
    path.chmod(0o666)
    return path


def format_backup(folder: Path, target: str = "vda", since: str | None = None) -> str:
    scratch = make_image(folder / f"scratch-{uuid4()}")
    mode = f"backupmode='incremental' incremental='{since}'" if since else "backupmode='full'"
    start = f"<incremental>{since}</incremental>" if since else ""
    return (
        f"<domainbackup mode='pull'>{start}<server transport='unix' socket='{folder}/socket'/><disks>"
        f"<disk name='{target}' type='file' {mode}><driver type='qcow2'/><scratch file='{scratch}'/></disk>"
        "</disks></domainbackup>"
    )


def format_checkpoint(name: str) -> str:
    return (
        f"<domaincheckpoint><name>{name}</name><disks><disk name='vda' checkpoint='bitmap' bitmap='{name}'/>"
        "</disks></domaincheckpoint>"
    )


async def start(world: World, folder: Path) -> str:
    folder.chmod(0o777)
    vm_id = str(uuid4())
    xml = make_definition(f"vm-{vm_id[:8]}", vm_id, make_image(folder / "disk")).replace("'raw'", "'qcow2'", 1)
    await world.hypervisor.define(xml)
    await world.hypervisor.start(vm_id, paused=False)
    return vm_id


async def wait_over(world: World, vm_id: str) -> None:
    async with asyncio.timeout(20):
        while await world.hypervisor.get_backup(vm_id) is not None:
            await asyncio.sleep(0.02)


class BackupContract(Suite):
    """The suite of every hypervisor."""

    async def test_a_backup_goes_on_until_it_is_ended(self, world: World, tmp_path: Path) -> None:
        hypervisor, vm_id = world.hypervisor, await start(world, tmp_path)
        assert await hypervisor.get_backup(vm_id) is None
        assert await hypervisor.get_disk_size(vm_id, "vda") == SIZE_BYTES
        await hypervisor.begin_backup(vm_id, format_backup(tmp_path), None)
        told = parse_xml(await hypervisor.get_backup(vm_id) or "")
        server, disk = told.find("server"), told.find("disks/disk[@name='vda']")
        assert server is not None and server.get("socket") == f"{tmp_path}/socket"
        assert disk is not None and disk.get("exportname", "vda") == "vda"
        await hypervisor.end_backup(vm_id)
        await wait_over(world, vm_id)
        with pytest.raises(HypervisorRefused):
            await hypervisor.end_backup(vm_id)

    async def test_checkpoints_stand_on_each_other(self, world: World, tmp_path: Path) -> None:
        hypervisor, vm_id = world.hypervisor, await start(world, tmp_path)
        assert await hypervisor.list_checkpoints(vm_id) == []
        since = None
        for name in ("first", "second"):
            await hypervisor.begin_backup(vm_id, format_backup(tmp_path, since=since), format_checkpoint(name))
            await hypervisor.end_backup(vm_id)
            await wait_over(world, vm_id)
            since = name
        assert await hypervisor.list_checkpoints(vm_id) == ["first", "second"]
        xml = await hypervisor.get_checkpoint(vm_id, "second")
        assert xml is not None and parse_xml(xml).findtext("parent/name") == "first"
        await hypervisor.redefine_checkpoint(vm_id, xml)
        await hypervisor.delete_checkpoint(vm_id, "first")
        assert await hypervisor.list_checkpoints(vm_id) == ["second"]
        assert await hypervisor.get_checkpoint(vm_id, "first") is None
        with pytest.raises(HypervisorRefused):
            await hypervisor.delete_checkpoint(vm_id, "first")

    async def test_what_is_not_there(self, world: World, tmp_path: Path) -> None:
        hypervisor, vm_id = world.hypervisor, await start(world, tmp_path)
        for xml in (format_backup(tmp_path, "vdz"), format_backup(tmp_path, since="nowhere")):
            with pytest.raises(HypervisorRefused):
                await hypervisor.begin_backup(vm_id, xml, format_checkpoint("first"))
        assert await hypervisor.get_backup(vm_id) is None and await hypervisor.list_checkpoints(vm_id) == []
        with pytest.raises(HypervisorRefused):
            await hypervisor.get_disk_size(vm_id, "vdz")
        with pytest.raises(NoSuchDomain):
            await hypervisor.get_backup(str(uuid4()))


class TestFake(BackupContract):
    @pytest.fixture
    async def world(self) -> AsyncIterator[World]:
        yield FakeWorld()
