"""Two hosts of fakes between which VMs move; either daemon may end and start again, the rest goes on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from tests.unit.virt.builders import VM_ID, VOLUME
from tests.unit.virt.world import World, create, until
from vdsm.api.migration import MigrationRequest
from vdsm.testing.hypervisor import FakeMove
from vdsm.virt.service import VmService

IMAGE = VOLUME["image_id"]


class Pair:
    """`here` has the VMs at first."""

    def __init__(self) -> None:
        self.here, self.there = World(), World()
        self.there.clock = self.there.hypervisor.clock = self.here.clock
        self.here.hypervisor.neighbours = {"there": self.there.hypervisor}
        self.there.hypervisor.neighbours = {"here": self.here.hypervisor}

    @asynccontextmanager
    async def ready(self, **settings: object) -> AsyncIterator[tuple[VmService, VmService]]:
        """Both daemons; VMs that were told to move arrive at once unless `moves_end` says else."""
        async with self.here.ready(**settings) as source, self.there.ready(**settings) as destination:
            self.here.peers.services = {"there": destination}
            self.there.peers.services = {"here": source}
            yield source, destination

    @asynccontextmanager
    async def moving(self, **settings: object) -> AsyncIterator[tuple[VmService, VmService, FakeMove]]:
        """A VM with a disk is on its way, and will not arrive by itself."""
        self.here.hypervisor.moves_end = False
        async with self.ready(**settings) as (source, destination):
            await create(source, drives=[VOLUME])
            await migrate(source)
            await until(lambda: VM_ID in self.here.hypervisor.moves)
            yield source, destination, self.here.hypervisor.moves[VM_ID]

    def list_running(self) -> list[str]:
        """On which hosts the VM's processors are, by libvirt."""
        found = {"here": self.here.hypervisor.domains, "there": self.there.hypervisor.domains}
        return [name for name, domains in found.items() if VM_ID in domains and domains[VM_ID].state.value == 1]


async def migrate(service: VmService, destination: str = "there", vm_id: str = VM_ID, **values: object) -> None:
    """Ask for it."""
    await service.migration.migrate(vm_id, msgspec.convert({"destination": destination, **values}, MigrationRequest))
