"""libvirt with real qemus: the contract of backups and checkpoints."""

from collections.abc import AsyncIterator

import pytest

from tests.contract.test_hypervisor import World
from tests.contract.test_hypervisor_backups import BackupContract
from tests.system.private_libvirtd import PrivateLibvirtd
from tests.system.test_hypervisor import LibvirtWorld
from vdsm.adapters.libvirt.hypervisor import connect


class TestLibvirtBackups(BackupContract):
    @pytest.fixture
    async def world(self, libvirtd: PrivateLibvirtd) -> AsyncIterator[World]:
        world = LibvirtWorld(libvirtd)
        async with connect(world.libvirt):
            yield world
