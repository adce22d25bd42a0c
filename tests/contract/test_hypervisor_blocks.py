"""What every hypervisor keeps of layers below disks, run here on the fake; `tests/system` runs it on real qemus."""

from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import pytest

from lab.commands import run
from tests.contract.test_hypervisor import FakeWorld, Suite, World, make_definition
from vdsm.virt.domain import DiskView, parse_domain
from vdsm.virt.ports import BlockJobFigures, DomainState, EventKind, HypervisorRefused

SIZE_BYTES = 4 << 20
_COPY, _COMMIT, _ACTIVE_COMMIT = 2, 3, 4  # virDomainBlockJobType


def make_layer(path: Path, below: Path | None = None, size_bytes: int = SIZE_BYTES) -> Path:
    """A qcow2 image, on another one beside it."""
    backing = () if below is None else ("-b", below.name, "-F", "qcow2")
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


async def start_chain(world: World, folder: Path, *names: str) -> str:
    """A VM that runs with one disk of these layers, the lowest first."""
    vm_id = await start(world, folder, names[:1])
    for below, name in pairwise(names):
        top = make_layer(folder / name, folder / below)
        await world.hypervisor.snapshot(vm_id, format_snapshot([("vda", top)], ""))
    return vm_id


def name_layers(disk: DiskView) -> dict[str, str]:
    """qemu's names of the layers, by those of their files."""
    return {Path(layer.path).name: f"{disk.target}[{layer.index}]" for layer in disk.layers}


async def wait_ready(world: World, vm_id: str, job: str) -> BlockJobFigures:
    """Until vda's mirror has all, and what its job tells then."""
    await world.events.wait_for(vm_id, EventKind.BLOCK_JOB, (_ACTIVE_COMMIT if job == "active-commit" else _COPY, 3))
    disk = (await look(world, vm_id))["vda"]
    assert (disk.mirror, disk.is_mirrored) == (job, True)
    figures = await world.hypervisor.find_block_job(vm_id, "vda")
    assert figures is not None
    return figures


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

    async def test_memory_of_the_same_moment(self, world: World, tmp_path: Path) -> None:
        vm_id = await start(world, tmp_path)
        top, memory = make_layer(tmp_path / "top", tmp_path / "base"), tmp_path / "memory"
        memory.write_bytes(bytes(64 << 20))
        xml = format_snapshot([("vda", top)])
        xml = xml.replace("<disks>", f"<memory snapshot='external' file='{memory}'/><disks>")
        await world.hypervisor.snapshot(vm_id, xml, has_memory=True)
        assert list_layers((await look(world, vm_id))["vda"]) == ["top", "base"]
        assert (await world.hypervisor.get_domain(vm_id)).state is DomainState.RUNNING
        saved = parse_domain(await world.hypervisor.read_saved(str(memory)))
        assert saved.vm_id == vm_id

    async def test_all_disks_or_none(self, world: World, tmp_path: Path) -> None:
        vm_id = await start(world, tmp_path)
        top = make_layer(tmp_path / "top", tmp_path / "base")
        documents = [format_snapshot([("vda", top), (name, tmp_path / "other")]) for name in ("vdz", "hdc")]
        for document in (*documents, format_snapshot([("vda", top)], "")):
            with pytest.raises(HypervisorRefused):
                await world.hypervisor.snapshot(vm_id, document)
        disks = await look(world, vm_id)
        assert (list_layers(disks["vda"]), list_layers(disks["vdb"])) == (["base"], ["other"])

    async def test_an_inner_layer_goes(self, world: World, tmp_path: Path) -> None:
        vm_id = await start_chain(world, tmp_path, "base", "first", "second", "third")
        layers = name_layers((await look(world, vm_id))["vda"])
        await world.hypervisor.commit_blocks(vm_id, "vda", layers["base"], layers["second"], 0, active=False)
        await world.events.wait_for(vm_id, EventKind.BLOCK_JOB, (_COMMIT, 0))
        assert await world.hypervisor.find_block_job(vm_id, "vda") is None
        assert list_layers((await look(world, vm_id))["vda"]) == ["third", "base"]

    async def test_the_top_goes_when_the_disk_pivots(self, world: World, tmp_path: Path) -> None:
        vm_id = await start_chain(world, tmp_path, "base", "first", "second")
        hypervisor = world.hypervisor
        layers = name_layers((await look(world, vm_id))["vda"])
        commit = (vm_id, "vda", layers["base"], layers["second"], 7)
        await hypervisor.commit_blocks(*commit, active=True)
        for wrong in (commit, (vm_id, "vda", layers["first"], layers["second"], 0)):
            with pytest.raises(HypervisorRefused):
                await hypervisor.commit_blocks(*wrong, active=True)
        job = await wait_ready(world, vm_id, "active-commit")
        assert job.done_bytes == job.end_bytes and job.bandwidth_mib == 7
        with pytest.raises(HypervisorRefused):
            await hypervisor.snapshot(vm_id, format_snapshot([("vda", make_layer(tmp_path / "x"))], ""))
        await hypervisor.end_block_job(vm_id, "vda", pivot=True)
        disk = (await look(world, vm_id))["vda"]
        assert (list_layers(disk), disk.mirror) == (["base"], "")
        assert await hypervisor.find_block_job(vm_id, "vda") is None
        await hypervisor.destroy(vm_id, graceful=False)
        assert (await look(world, vm_id))["vda"].path == str(tmp_path / "base")

    async def test_a_job_that_is_aborted_changes_nothing(self, world: World, tmp_path: Path) -> None:
        vm_id = await start_chain(world, tmp_path, "base", "first")
        layers = name_layers((await look(world, vm_id))["vda"])
        await world.hypervisor.commit_blocks(vm_id, "vda", layers["base"], layers["first"], 0, active=True)
        await wait_ready(world, vm_id, "active-commit")
        await world.hypervisor.end_block_job(vm_id, "vda", pivot=False)
        await world.events.wait_for(vm_id, EventKind.BLOCK_JOB, (_ACTIVE_COMMIT, 2))
        disk = (await look(world, vm_id))["vda"]
        assert (list_layers(disk), disk.mirror) == (["first", "base"], "")
        assert await world.hypervisor.find_block_job(vm_id, "vda") is None
        for pivot in (False, True):
            with pytest.raises(HypervisorRefused):
                await world.hypervisor.end_block_job(vm_id, "vda", pivot=pivot)

    async def test_layers_that_cannot_be_committed(self, world: World, tmp_path: Path) -> None:
        vm_id = await start_chain(world, tmp_path, "base", "first", "second")
        layers = name_layers((await look(world, vm_id))["vda"])
        for target, base, top in (
            ("vda", layers["second"], layers["first"]),
            ("vda", layers["first"], layers["first"]),
            ("vda", "vda[99]", layers["first"]),
            ("vda", layers["base"], "vda[99]"),
            ("vdz", layers["base"], layers["first"]),
        ):
            with pytest.raises(HypervisorRefused):
                await world.hypervisor.commit_blocks(vm_id, target, base, top, 0, active=False)
        assert await world.hypervisor.find_block_job(vm_id, "vda") is None

    @pytest.mark.parametrize("pivot", [False, True])
    async def test_a_disk_goes_elsewhere(self, world: World, tmp_path: Path, pivot: bool) -> None:
        vm_id = await start_chain(world, tmp_path, "base", "first")
        (elsewhere := tmp_path / "elsewhere").mkdir()
        make_layer(elsewhere / "base")
        copy = make_layer(elsewhere / "first", elsewhere / "base")
        xml = f"<disk type='file'><driver name='qemu' type='qcow2'/><source file='{copy}'/><target dev='vda'/></disk>"
        with pytest.raises(HypervisorRefused):
            await world.hypervisor.copy_blocks(vm_id, "vdz", xml)
        await world.hypervisor.copy_blocks(vm_id, "vda", xml)
        with pytest.raises(HypervisorRefused):
            await world.hypervisor.copy_blocks(vm_id, "vda", xml)
        job = await wait_ready(world, vm_id, "copy")
        assert job.done_bytes == job.end_bytes
        await world.hypervisor.end_block_job(vm_id, "vda", pivot=pivot)
        disk = (await look(world, vm_id))["vda"]
        assert (disk.path, disk.mirror) == (str(copy if pivot else tmp_path / "first"), "")
        assert await world.hypervisor.find_block_job(vm_id, "vda") is None

    async def test_a_disk_becomes_larger(self, world: World, tmp_path: Path) -> None:
        vm_id = await start_chain(world, tmp_path, "base", "first")
        for size_bytes in (2 * SIZE_BYTES, 2 * SIZE_BYTES, 3 * SIZE_BYTES):
            assert await world.hypervisor.resize_block(vm_id, "vda", size_bytes) == size_bytes
        assert await world.hypervisor.resize_block(vm_id, "vda", 4 * SIZE_BYTES + 1) == 4 * SIZE_BYTES + 512
        for target, size_bytes in (("vdz", 5 * SIZE_BYTES), ("vda", 1 << 62)):
            with pytest.raises(HypervisorRefused):
                await world.hypervisor.resize_block(vm_id, target, size_bytes)
        assert await world.hypervisor.resize_block(vm_id, "vda", 5 * SIZE_BYTES) == 5 * SIZE_BYTES

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
