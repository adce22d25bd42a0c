"""Figures of the repository: making a volume on a domain of a few and of many volumes."""

import statistics
import time
import uuid
from pathlib import Path

from bench.report import Figure, at_most
from demo.node import Node
from demo.steps import BLANK, Ids
from vdsm.core.clock import SystemClock
from vdsm.core.ids import BLANK_UUID
from vdsm.storage.images.volume_metadata import format_volume_metadata
from vdsm.storage.model import Allocation, Legality, VolumeFormat, VolumeMetadata, VolumeRole

GIB = 1 << 30


def _fill(folder: Path, ids: Ids, count: int) -> None:
    """Add volumes with the metadata writer: records and empty files, as a full domain has them."""
    now_s = int(SystemClock().time())
    for _ in range(count):
        image_id, volume_id = str(uuid.uuid4()), str(uuid.uuid4())
        place = folder / ids.domain / "images" / image_id
        place.mkdir()
        record = VolumeMetadata(
            domain_id=ids.domain,
            image_id=image_id,
            parent_id=BLANK_UUID,
            capacity_bytes=GIB,
            format=VolumeFormat.RAW,
            allocation=Allocation.SPARSE,
            role=VolumeRole.LEAF,
            disk_type="DATA",
            description="",
            legality=Legality.LEGAL,
            created_s=now_s,
        )
        (place / f"{volume_id}.meta").write_bytes(format_volume_metadata(record, 5))
        (place / volume_id).touch()


def _create(node: Node, ids: Ids) -> float:
    volume = {**ids.disk, "imageID": str(uuid.uuid4()), "volumeID": str(uuid.uuid4())}
    shape = {"size": str(GIB), "volFormat": 4, "preallocate": 2, "diskType": "DATA", "desc": ""}
    start = time.perf_counter()
    task = {"taskID": node.call("Volume.create", {**volume, **shape, "srcImgUUID": BLANK, "srcVolUUID": BLANK})}
    while True:
        status = node.call("Task.getStatus", task)
        assert isinstance(status, dict)
        if status["taskState"] == "finished":
            break
        time.sleep(0.002)
    took_s = time.perf_counter() - start
    assert status["code"] == 0, status
    node.call("Task.clear", task)
    return took_s


def measure_create(node: Node, folder: Path, ids: Ids, rounds: int = 15) -> list[Figure]:
    """`Volume.create` until its task is finished, on a domain of 10 volumes and of 2,000."""
    _fill(folder, ids, 10)
    _create(node, ids)
    few = statistics.median(_create(node, ids) for _ in range(rounds)) * 1000
    _fill(folder, ids, 2000 - 10 - rounds)
    many = statistics.median(_create(node, ids) for _ in range(rounds)) * 1000
    return [Figure("Volume.create at 2,000 volumes", many, "ms", "at 10 volumes", few, *at_most(1.5, many / few, "x"))]
