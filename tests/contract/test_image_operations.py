"""Every operation on images, on local storage: after each, guests read what they wrote."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.image_operations import CELLS, OPERATIONS, Operation, Place, choose_cells, open_world
from vdsm.adapters.files import OwnOwner
from vdsm.storage.model import DomainType

NUMBER = 0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root: Path = tmp_path_factory.mktemp("operations")
    server = root / "server"
    server.mkdir()
    world = open_world(root, DomainType.LOCALFS, str(server), OwnOwner())
    yield world
    world.repository.spm.stop(world.pool_id)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_guests_read_what_they_wrote(world: Place, operation: Operation, rounds: Callable[[int, int], int]) -> None:
    chosen = choose_cells(rounds(len(OPERATIONS), len(CELLS)), NUMBER)
    for cell in (cell for cell in chosen if cell.operation is operation):
        cell.run(world)


def test_every_cell_is_chosen_once_and_a_few_are_of_every_kind() -> None:
    assert sorted(map(str, choose_cells(len(CELLS), 2))) == sorted(map(str, CELLS))
    few = choose_cells(len(OPERATIONS), 3)
    assert {cell.operation for cell in few} == set(OPERATIONS)
    assert len({(cell.format, cell.depth) for cell in few}) == 8
