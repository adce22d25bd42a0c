"""Any sequence of requests, failures, kills and lost connections: at peace again, what is told of VMs is the truth."""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random

import pytest

from tests.rounds import SOAK_FACTOR
from tests.unit.virt.builders import VOLUME, parameters
from tests.unit.virt.world import World, settle
from vdsm.core.errors import GeneralFailure, NodeError
from vdsm.testing.hypervisor import FakeDomain
from vdsm.virt.ports import DomainState, HypervisorDown, HypervisorRefused, HypervisorTimeout
from vdsm.virt.service import VmService

IDS = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(3)]
IMAGES = {vm_id: f"{vm_id[:8]}-0000-4000-8000-000000000003" for vm_id in IDS}
CALLS = "define start get_domain set_metadata undefine destroy suspend resume sample list_domains block_errors".split()
LIVES = max(40, round(20_000 * SOAK_FACTOR))


class Life:
    """One world, what is done in it by chance, and what must hold in the end."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.world = World()
        self.done: list[str] = []
        self.doomed: set[str] = set()
        self.is_down = False
        self.requests: list[asyncio.Task[object]] = []

    async def live(self, service: VmService, length: int) -> None:
        """So many things happen, each while the one before may still go on."""
        doings: list[Callable[[VmService, str], None]] = [self.create] * 4 + [self.destroy] * 2 + [self.fail] * 2
        doings += [self.pause, self.resume, self.shut_down, self.end, self.stop_on_error, self.lose_libvirt]
        doings += [self.find_libvirt, self.fail_image, self.hold_images, self.freeze, self.thaw, self.sample]
        for _ in range(length):
            doing, vm_id = self.random.choice(doings), self.random.choice(IDS)
            self.done.append(f"{doing.__name__} {IDS.index(vm_id)}")
            doing(service, vm_id)
            await self.turn()
            if self.random.random() < 0.1:
                await self.world.clock.advance(self.random.choice([1, 6, 16]))

    async def turn(self) -> None:
        for _ in range(self.random.randint(0, 12)):
            await asyncio.sleep(0)

    async def leave(self) -> None:
        """The requests end with the daemon that they were made of; only errors that are told are fine."""
        self.done.append("killed")
        for request in self.requests:
            request.cancel()
        for answer in await asyncio.gather(*self.requests, return_exceptions=True):
            assert not isinstance(answer, Exception) or isinstance(answer, NodeError), self.done
        self.requests.clear()

    def make_peace(self) -> None:
        world = self.world
        self.find_libvirt()
        world.hypervisor._failures.clear()
        world.images.failures.clear()
        world.images.may_go_on.set()
        for vm_id in IDS:
            world.hypervisor.thaw(vm_id)

    def ask(self, request: Coroutine[None, None, object]) -> None:
        self.requests.append(asyncio.create_task(request))

    def create(self, service: VmService, vm_id: str) -> None:
        name = vm_id if self.random.random() < 0.8 else "shared"
        self.ask(service.create(vm_id, parameters(name=name, drives=[{**VOLUME, "image_id": IMAGES[vm_id]}])))

    def destroy(self, service: VmService, vm_id: str) -> None:
        self.doomed.add(vm_id)
        self.ask(service.destroy(vm_id, self.random.choice([0, 1])))

    def pause(self, service: VmService, vm_id: str) -> None:
        self.ask(service.pause(vm_id))

    def resume(self, service: VmService, vm_id: str) -> None:
        self.ask(service.resume(vm_id))

    def sample(self, service: VmService, vm_id: str) -> None:
        self.ask(service.sample())

    def shut_down(self, service: VmService, vm_id: str) -> None:
        force = self.random.random() < 0.3
        if force:
            self.doomed.add(vm_id)
        self.ask(service.shutdown(vm_id, force=force, timeout_s=5, reboot=self.random.random() < 0.3))

    def end(self, service: VmService, vm_id: str) -> None:
        if self.find_live(vm_id) is not None:
            self.world.hypervisor.end_guest(vm_id, *self.random.choice([(1, 0), (3, 2)]))

    def stop_on_error(self, service: VmService, vm_id: str) -> None:
        domain = self.find_live(vm_id)
        if domain is not None and domain.state is DomainState.RUNNING:
            self.world.hypervisor.pause_on_error(vm_id, "hda")

    def lose_libvirt(self, service: VmService, vm_id: str) -> None:
        if not self.is_down:
            self.is_down = True
            self.world.hypervisor.go_down()

    def find_libvirt(self, *_: object) -> None:
        if self.is_down:
            self.is_down = False
            self.world.hypervisor.come_up()

    def fail(self, service: VmService, vm_id: str) -> None:
        call = self.random.choice(CALLS)
        errors = [HypervisorTimeout(vm_id, call, 60.0), HypervisorDown("gone"), HypervisorRefused("no", 9)]
        self.world.hypervisor.fail_next(call, self.random.choice(errors))

    def fail_image(self, service: VmService, vm_id: str) -> None:
        self.world.images.failures.append(GeneralFailure("no pool"))

    def hold_images(self, service: VmService, vm_id: str) -> None:
        gate = self.world.images.may_go_on
        self.random.choice([gate.clear, gate.set])()

    def freeze(self, service: VmService, vm_id: str) -> None:
        if self.find_live(vm_id) is not None:
            self.world.hypervisor.freeze(vm_id)

    def thaw(self, service: VmService, vm_id: str) -> None:
        self.world.hypervisor.thaw(vm_id)

    def find_live(self, vm_id: str) -> FakeDomain | None:
        domain = self.world.hypervisor.domains.get(vm_id)
        return None if domain is None or domain.live is None else domain

    async def check(self, service: VmService) -> None:
        """What is told is so, nobody was destroyed unasked, and destroying them leaves nothing behind."""
        told = {vm.vm_id: vm.status for vm in await service.list_vms()}
        for vm_id in IDS:
            domain = self.find_live(vm_id)
            if domain is None:
                assert told.get(vm_id, "Down") == "Down", self.done
            else:
                assert told[vm_id] not in ("Down", "WaitForLaunch"), self.done
                assert (told[vm_id] == "Paused") == (domain.state is DomainState.PAUSED), self.done
                assert IMAGES[vm_id] in self.world.images.prepared, self.done
        assert {vm_id for call, vm_id in self.world.hypervisor.calls if call == "destroy"} <= self.doomed, self.done
        for vm_id in told:
            await service.destroy(vm_id)
        await settle()
        assert (self.world.hypervisor.domains, self.world.images.prepared) == ({}, []), self.done
        assert await service.list_vms() == [], self.done


@pytest.mark.parametrize("first", range(0, LIVES, 10))
async def test_whatever_happens_the_truth_is_told_in_the_end(first: int) -> None:
    for seed in range(first, first + 10):
        life = Life(seed)
        for _ in range(life.random.randint(1, 4)):
            async with life.world.running() as service:
                await life.turn()
                await life.live(service, life.random.randint(1, 15))
            await life.leave()
        life.make_peace()
        async with life.world.running() as service:
            await life.live(service, life.random.choice([0, 8]))
            life.make_peace()
            for _ in range(10):
                await life.world.clock.advance(16)
                await settle()
            await service.wait_ready()
            assert all(request.done() for request in life.requests), life.done
            await life.leave()
            await life.check(service)
