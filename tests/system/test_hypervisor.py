"""libvirt with real qemus: the contract of every hypervisor, and what happens when qemu or libvirtd hangs."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import pytest

from tests.contract.test_hypervisor import (
    CpuTuneContract,
    Events,
    HypervisorContract,
    World,
    make_cdrom,
    make_definition,
)
from tests.system.private_libvirtd import LimitingLibvirtd, PrivateLibvirtd
from vdsm.adapters.libvirt import LibvirtHypervisor
from vdsm.adapters.libvirt.calls import CallSettings
from vdsm.adapters.libvirt.hypervisor import connect
from vdsm.virt.ports import EventKind, HypervisorDown, HypervisorTimeout

LIMIT_S = 30.0


class LibvirtWorld:
    def __init__(self, libvirtd: PrivateLibvirtd, *, vm_command_timeout_s: float = 60.0) -> None:
        settings = CallSettings(vm_command_timeout_s=vm_command_timeout_s)
        self.libvirtd = libvirtd
        self.libvirt = LibvirtHypervisor(libvirtd.uri, settings=settings, keepalive_interval_s=1)
        self.hypervisor = self.libvirt
        self.events = Events()
        self.libvirt.subscribe(self.events.add)

    def freeze(self, vm_id: str) -> None:
        self._signal(vm_id, signal.SIGSTOP)

    def thaw(self, vm_id: str) -> None:
        self._signal(vm_id, signal.SIGCONT)

    def go_down(self) -> None:
        self.libvirtd.kill()

    def come_up(self) -> None:
        self.libvirtd.start()

    async def start_vms(self, count: int, folder: Path) -> list[str]:
        """Define and start so many, a few at a time."""
        vm_ids = [str(uuid4()) for _ in range(count)]
        for vm_id in vm_ids:
            (folder / vm_id).write_bytes(bytes(2**20))
            await self.hypervisor.define(make_definition(f"vm-{vm_id[:8]}", vm_id, folder / vm_id))
        async with asyncio.TaskGroup() as tasks:
            for vm_id in vm_ids:
                tasks.create_task(self.hypervisor.start(vm_id, paused=False))
        return vm_ids

    def _signal(self, vm_id: str, number: signal.Signals) -> None:
        pid = self.libvirtd.qemu_pid(f"vm-{vm_id[:8]}")
        assert pid is not None
        os.kill(pid, number)


class TestLibvirt(HypervisorContract):
    @pytest.fixture
    async def world(self, libvirtd: PrivateLibvirtd) -> AsyncIterator[World]:
        world = LibvirtWorld(libvirtd)
        async with connect(world.libvirt):
            yield world


class TestLibvirtCpuTune(CpuTuneContract):
    @pytest.fixture
    async def world(self, limiting_libvirtd: LimitingLibvirtd) -> AsyncIterator[World]:
        world = LibvirtWorld(limiting_libvirtd)
        async with connect(world.libvirt):
            yield world
        limiting_libvirtd.kill_guests()


@pytest.fixture
async def hasty(libvirtd: PrivateLibvirtd) -> AsyncIterator[LibvirtWorld]:
    """A hypervisor that waits one second for an answer."""
    world = LibvirtWorld(libvirtd, vm_command_timeout_s=1.0)
    async with connect(world.libvirt):
        yield world


async def test_stuck_vms_cost_others_nothing(hasty: LibvirtWorld, tmp_path: Path) -> None:
    # Six stuck calls on one connection would block it (max_client_requests), so would 20 libvirtd itself.
    vm_ids = await hasty.start_vms(8, tmp_path)
    healthy, sick = vm_ids[:2], vm_ids[2:]
    for vm_id in sick:
        hasty.freeze(vm_id)
    answers = await asyncio.gather(*(hasty.libvirt.suspend(vm_id) for vm_id in sick), return_exceptions=True)
    assert [type(answer) for answer in answers] == [HypervisorTimeout] * 6
    for vm_id in healthy:
        await hasty.libvirt.suspend(vm_id)
    with pytest.raises(HypervisorTimeout):
        await hasty.libvirt.resume(sick[0])
    assert len(hasty.libvirt.written_off) == 6  # the refused one did not reach libvirt
    sample = await hasty.libvirt.sample()
    assert (set(sample.stats), sample.missing) == (set(healthy), set(sick))

    for vm_id in sick:
        hasty.thaw(vm_id)
    async with asyncio.timeout(LIMIT_S):
        while hasty.libvirt.written_off:
            await asyncio.sleep(0.01)
    await hasty.libvirt.resume(sick[0])
    assert (await hasty.libvirt.sample()).missing == set()


@pytest.mark.timeout(300)
async def test_discs_are_changed_while_firmware_starts(
    libvirtd: PrivateLibvirtd, tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    """It closes trays amid that, in about every third of these VMs."""
    world = LibvirtWorld(libvirtd)
    discs = [tmp_path / name for name in ("one.iso", "two.iso")]
    for disc in discs:
        disc.write_bytes(bytes(4096))
    async with connect(world.libvirt):
        for _ in range(rounds(8, 80)):
            [vm_id] = await world.start_vms(1, tmp_path)
            for disc in discs * 10:
                await world.libvirt.update_device(vm_id, make_cdrom(disc), force=True)
            await world.libvirt.destroy(vm_id, graceful=False)


async def test_twenty_vms_one_stopped(hasty: LibvirtWorld, tmp_path: Path) -> None:
    vm_ids = await hasty.start_vms(20, tmp_path)
    assert set((await hasty.libvirt.sample()).stats) == set(vm_ids)
    hasty.freeze(vm_ids[7])
    for _ in range(2):
        sample = await hasty.libvirt.sample()
        assert sample.missing == {vm_ids[7]}
        assert len(sample.stats) == 19
    assert len(hasty.libvirt.written_off) == 1  # the second sample passed over it


async def test_several_stopped_at_once_are_all_found(hasty: LibvirtWorld, tmp_path: Path) -> None:
    vm_ids = await hasty.start_vms(6, tmp_path)
    for vm_id in vm_ids[:3]:
        hasty.freeze(vm_id)
    sample = await hasty.libvirt.sample()
    assert (set(sample.stats), sample.missing) == (set(vm_ids[3:]), set(vm_ids[:3]))


async def test_libvirtd_that_hangs(hasty: LibvirtWorld, tmp_path: Path) -> None:
    [vm_id] = await hasty.start_vms(1, tmp_path)
    hasty.libvirtd.freeze()
    with pytest.raises((HypervisorDown, HypervisorTimeout)):
        await hasty.libvirt.suspend(vm_id)
    await hasty.events.wait_for("", EventKind.DISCONNECTED)
    for _ in range(30):
        with pytest.raises(HypervisorDown):
            await hasty.libvirt.suspend(vm_id)
    hasty.libvirtd.thaw()
    await hasty.events.wait_for("", EventKind.CONNECTED, count=2)
    async with asyncio.timeout(LIMIT_S):
        while hasty.libvirt.written_off:
            await asyncio.sleep(0.01)
    await hasty.libvirt.suspend(vm_id)
    await hasty.events.wait_for(vm_id, EventKind.LIFECYCLE, (3, 0))


async def test_libvirtd_is_stopped_and_started_at_once(hasty: LibvirtWorld, tmp_path: Path) -> None:
    [vm_id] = await hasty.start_vms(1, tmp_path)
    hasty.libvirtd.stop()
    hasty.libvirtd.start()
    await hasty.events.wait_for("", EventKind.CONNECTED, count=2)
    await hasty.libvirt.suspend(vm_id)
    await hasty.events.wait_for(vm_id, EventKind.LIFECYCLE, (3, 0))


async def test_opening_without_libvirtd(libvirtd: PrivateLibvirtd) -> None:
    libvirtd.kill()
    world = LibvirtWorld(libvirtd)
    async with connect(world.libvirt):
        with pytest.raises(HypervisorDown):
            await world.libvirt.list_domains()
        libvirtd.start()
        await world.events.wait_for("", EventKind.CONNECTED)
        assert await world.libvirt.list_domains() == []


_PROGRAM = """
import asyncio, logging, sys
from vdsm.adapters.libvirt import LibvirtHypervisor
from vdsm.adapters.libvirt.calls import CallSettings

async def main():
    hypervisor = LibvirtHypervisor(sys.argv[1], settings=CallSettings(vm_command_timeout_s=0.5))
    await hypervisor.open()
    calls = [hypervisor.suspend(vm_id) for vm_id in sys.argv[2:]]
    print(*(type(answer).__name__ for answer in await asyncio.gather(*calls, return_exceptions=True)), flush=True)
    print(len(hypervisor.written_off), flush=True)
    await hypervisor.close()

logging.disable()
asyncio.run(main())
"""


async def test_a_process_with_stuck_threads_ends_cleanly(hasty: LibvirtWorld, tmp_path: Path) -> None:
    vm_ids = await hasty.start_vms(2, tmp_path)
    for vm_id in vm_ids:
        hasty.freeze(vm_id)
    command = [sys.executable, "-c", _PROGRAM, hasty.libvirtd.uri, *vm_ids]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["HypervisorTimeout", "HypervisorTimeout", "2"]
