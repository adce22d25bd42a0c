"""A world in memory for each test."""

from pathlib import Path

import pytest

from vdsm.testing.storage import World, make_world_in_memory


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Nothing is connected yet."""
    return make_world_in_memory(tmp_path)


@pytest.fixture
def spm(world: World) -> World:
    """This host is the SPM of a pool with one domain."""
    return world.start_spm()
