"""Operations on images on NFS: after each, guests read what they wrote. there are few in quick runs."""

import os
from collections.abc import Callable

import pytest

from lab.loop import scratch
from lab.nfs import server
from tests.image_operations import CELLS, choose_cells, open_world, run_cells
from vdsm.adapters.files import NumericOwner
from vdsm.storage.model import DomainType

PLACE = 3
IN_CHECK = 5
ROOM_BYTES = 1 << 30  # for all that the whole table leaves
FIRST = ("make_sparse-RAW-1",)  # NFS likes to be asked for 1 MiB at once


@pytest.mark.timeout(0)  # in soak, all of the table
def test_guests_read_what_they_wrote_on_nfs(rounds: Callable[[int, int], int]) -> None:
    with (
        server() as serving,
        serving.export("domain", ROOM_BYTES, squashes_root=False) as export,
        scratch(ROOM_BYTES) as folder,
    ):
        os.chown(export.folder, 36, 36)
        world = open_world(folder, DomainType.NFS, export.source, NumericOwner())
        try:
            first = [cell for cell in CELLS if str(cell) in FIRST]
            assert list(run_cells(world, [*first, *choose_cells(rounds(IN_CHECK, len(CELLS)), PLACE)])) == []
            world.repository.spm.stop(world.pool_id)
            world.repository.pools.disconnect(world.pool_id)
        finally:
            world.repository.servers.disconnect(DomainType.NFS, export.source)
