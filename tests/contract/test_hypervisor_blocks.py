"""What every hypervisor keeps of layers below disks, run here on the fake; `tests/system` runs it on real qemus."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from uuid import uuid4

import pytest

from lab.commands import run
from tests.contract.test_hypervisor import FakeWorld, Suite, World, make_definition
from vdsm.virt.domain import DiskView, parse_domain
from vdsm.virt.ports import HypervisorRefused

SIZE_BYTES = 4 << 20


def make_layer(path: Path, below: Path | None = None, size_bytes: int = SIZE_BYTES) -> Path:
    """A qcow2 image, on another one."""
    backing = () if below is None else ("-b", below, "-F", "qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", *backing, path, str(size_bytes))
    return path


def format_snapshot(disks: Sequence[tuple[str, Path]], stay: str = "<disk name='vdb' snapshot='no'/>") -> str:
    """The document that puts these tops on these disks."""
    each = (
        f"<disk name='{target}' snapshot='external' type='file'><driver name='qemu' type='qcow2'/>"
        f"<source file='{path}'><seclabel model='dac' relabel='no'/></source></disk>"
        for target, path in disks
    )
    return f"<domainsnapshot><disks>{''.join(each)}{stay}</disks></domainsnapshot>"


async def look(world: World, vm_id: str) -> dict[str, DiskView]:
    """The disks that have something in them."""
    view = parse_domain((await world.hypervisor.get_domain(vm_id)).xml)
    return {disk.target: disk for disk in view.disks if disk.path}


async def start(world: World, folder: Path, names: Sequence[str] = ("base", "other")) -> str:
    """A VM that runs, with a disk of qcow2 for each name: vda, vdb and so on."""
    vm_id = str(uuid4())
    xml = make_definition(f"vm-{vm_id[:8]}", vm_id, make_layer(folder / names[0])).replace("'raw'", "'qcow2'", 1)
    for number, name in enumerate(names[1:]):
        path, target = make_layer(folder / name), "vd" + "bcde"[number]
        more = f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{path}'/>"
        xml = xml.replace("<controller", f"{more}<target dev='{target}' bus='virtio'/></disk><controller", 1)
    await world.hypervisor.define(xml)
    await world.hypervisor.start(vm_id, paused=False)
    return vm_id


def list_layers(disk: DiskView) -> list[str]:
    return [Path(layer.path).name for layer in disk.layers]


class BlockContract(Suite):
    """The suite of every hypervisor."""

    async def test_tops_of_several_disks(self, world: World, tmp_path: Path) -> None:
        vm_id = await start(world, tmp_path)
        tops = {"vda": make_layer(tmp_path / "top", tmp_path / "base")}
        tops["vdb"] = make_layer(tmp_path / "other-top", tmp_path / "other")
        await world.hypervisor.snapshot(vm_id, format_snapshot(list(tops.items()), ""))
        disks = await look(world, vm_id)
        assert list_layers(disks["vda"]) == ["top", "base"] and list_layers(disks["vdb"]) == ["other-top", "other"]
        assert {disk.format for disk in disks.values()} == {"qcow2"}
        assert len({layer.index for layer in disks["vda"].layers}) == 2
        third = make_layer(tmp_path / "third", tmp_path / "top")
        await world.hypervisor.snapshot(vm_id, format_snapshot([("vda", third)]))
        assert list_layers((await look(world, vm_id))["vda"]) == ["third", "top", "base"]

    async def test_all_disks_or_none(self, world: World, tmp_path: Path) -> None:
        vm_id = await start(world, tmp_path)
        top = make_layer(tmp_path / "top", tmp_path / "base")
        documents = [format_snapshot([("vda", top), (name, tmp_path / "other")]) for name in ("vdz", "hdc")]
        for document in (*documents, format_snapshot([("vda", top)], "")):
            with pytest.raises(HypervisorRefused):
                await world.hypervisor.snapshot(vm_id, document)
        disks = await look(world, vm_id)
        assert (list_layers(disks["vda"]), list_layers(disks["vdb"])) == (["base"], ["other"])

    async def test_a_guest_without_agent_freezes_nothing(self, world: World, tmp_path: Path) -> None:
        vm_id = await start(world, tmp_path)
        for call in (world.hypervisor.freeze_filesystems, world.hypervisor.thaw_filesystems):
            with pytest.raises(HypervisorRefused, match="agent") as refused:
                await call(vm_id)
            assert refused.value.kind == 86
        await world.hypervisor.destroy(vm_id, graceful=False)
        for call in (world.hypervisor.freeze_filesystems, world.hypervisor.thaw_filesystems):
            with pytest.raises(HypervisorRefused, match="not running"):
                await call(vm_id)

    async def test_a_top_outlives_the_guest(self, world: World, tmp_path: Path) -> None:
        vm_id = await start(world, tmp_path)
        tops = [make_layer(tmp_path / "top", tmp_path / "base"), make_layer(tmp_path / "next", tmp_path / "top")]
        await world.hypervisor.snapshot(vm_id, format_snapshot([("vda", tops[0])]))
        await world.hypervisor.destroy(vm_id, graceful=False)
        assert (await look(world, vm_id))["vda"].path == str(tops[0])
        await world.hypervisor.snapshot(vm_id, format_snapshot([("vda", tops[1])]))
        assert (await look(world, vm_id))["vda"].path == str(tops[1])


class TestFakeBlocks(BlockContract):
    @pytest.fixture
    async def world(self) -> AsyncIterator[World]:
        yield FakeWorld()

    async def test_an_agent_freezes(self, world: FakeWorld, tmp_path: Path) -> None:
        vm_id = await start(world, tmp_path)
        world.fake.agents.add(vm_id)
        await world.hypervisor.freeze_filesystems(vm_id)
        assert world.fake.held == {vm_id}
        await world.hypervisor.thaw_filesystems(vm_id)
        assert world.fake.held == set()
