"""Whole daemons for tests: one that a test may do everything to, and a furnished one that is only looked at."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.daemon.hostile_node import Ground, ground_of
from tests.daemon.running import Furniture, Running, furnish, furnish_iso, running
from vdsm import pki
from vdsm.testing.clock import VirtualClock


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of certificates, made once."""
    folder = tmp_path_factory.mktemp("pki")
    pki.ensure(folder, names=("localhost", "127.0.0.1"))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A root whose socket's path is short enough."""
    with tempfile.TemporaryDirectory(prefix="vdsm-") as folder:
        yield Path(folder)


@pytest.fixture
async def daemon(root: Path, certificates: Path) -> AsyncIterator[Running]:
    """A daemon that is ready, with nothing on it yet."""
    async with running(root, certificates) as daemon:
        await daemon.node.vms.wait_ready()
        yield daemon


@pytest.fixture(scope="session")
def ground(certificates: Path) -> Iterator[Ground]:
    """A furnished daemon that is attacked, again and again, and watched closely."""
    with ground_of(certificates) as ground:
        yield ground


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def house(certificates: Path) -> AsyncIterator[tuple[Running, Furniture]]:
    """A furnished daemon whose clock stands still, shared by all who only look; they run on the session's loop."""
    clock = VirtualClock()
    with tempfile.TemporaryDirectory(prefix="vdsm-") as folder:
        async with running(Path(folder), certificates, clock=clock) as daemon:
            await daemon.node.vms.wait_ready()
            furniture = await furnish(daemon, Path(folder) / "storage")
            furniture = await furnish_iso(daemon, furniture, Path(folder) / "iso")
            definition = {"vm": furniture.vm_id, "ovf": "<Envelope/>", "imglist": ""}
            await daemon.rpc("StoragePool.updateVMs", {"storagepoolID": furniture.pool_id, "vmList": [definition]})
            await daemon.node.host.sample()
            await clock.advance(10)  # less than between samples: these two are the only ones
            await daemon.node.vms.sample()
            await daemon.node.host.sample()
            yield daemon, furniture
