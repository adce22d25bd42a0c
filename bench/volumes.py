"""Figures of the repository: what verbs cost on a domain of a few and of many volumes.

Whatever is compared takes turns, so that a disk that is busy for a while is busy for both.
"""

import statistics
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench import machines
from bench.report import Figure, at_most
from demo.node import Node
from demo.steps import BLANK, Ids, create_storage
from vdsm.core.clock import SystemClock
from vdsm.core.ids import BLANK_UUID
from vdsm.storage.images.volume_metadata import format_volume_metadata
from vdsm.storage.model import Allocation, Legality, VolumeFormat, VolumeMetadata, VolumeRole
from vdsm.wire.client import Client

GIB = 1 << 30
FEW, MANY = 10, 5000
SCAN_S = 1.3 * MANY / 3000
"""The original scans 3,000 disks in 1.3 s."""
GROWTH_MIB = 16


class Repository:
    """One connection to the SPM of two domains in one pool: one domain of a few volumes, one of many."""

    def __init__(self, node: Node, client: Client, folders: Sequence[Path]) -> None:
        """Makes the domains in two folders, which are empty, and fills them."""
        self.node, self.client = node, client
        self.few = Ids()
        self.many = replace(self.few, domain=str(uuid.uuid4()))
        place, self.folder = folders
        create_storage(node, self.few, place)
        self._add_domain()
        _fill(place, self.few, FEW - 1)
        _fill(self.folder, self.many, MANY - 1)

    def _add_domain(self) -> None:
        pool = {"storagepoolID": self.many.pool}
        server = [{"id": str(uuid.uuid4()), "connection": str(self.folder)}]
        place = {"domainType": "LOCALFS", "connectionParams": server}
        self.client.call("StoragePool.connectStorageServer", {**pool, **place})
        domain = {"storagedomainID": self.many.domain}
        shape = {"domainType": "LOCALFS", "name": "many", "domainClass": "Data", "version": 5}
        self.client.call("StorageDomain.create", {**domain, "typeArgs": {"remotePath": str(self.folder)}, **shape})
        self.client.call("StorageDomain.attach", {**domain, **pool})
        self.client.call("StorageDomain.activate", {**domain, **pool})

    def create_volume(self, ids: Ids, size_bytes: int = GIB) -> Ids:
        """One more raw volume in an image of its own, on disk and its task over."""
        made = replace(ids, image=str(uuid.uuid4()), volume=str(uuid.uuid4()))
        shape = {"size": str(size_bytes), "volFormat": 5, "preallocate": 2, "diskType": "DATA", "desc": ""}
        origin = {"srcImgUUID": BLANK, "srcVolUUID": BLANK}
        task = {"taskID": self.client.call("Volume.create", {**made.disk, **shape, **origin})}
        while (status := self.client.call("Task.getStatus", task))["taskState"] != "finished":
            time.sleep(0.002)
        assert status["code"] == 0, status
        self.client.call("Task.clear", task)
        return made

    def list_volumes(self) -> None:
        """All volumes of the full domain."""
        ids = {"storagedomainID": self.many.domain, "storagepoolID": self.many.pool, "imageID": BLANK}
        assert len(self.client.call("StorageDomain.getVolumes", ids)) >= MANY

    def list_images(self) -> None:
        """All images of the full domain."""
        assert len(self.client.call("StorageDomain.getImages", {"storagedomainID": self.many.domain})) >= MANY

    def dump(self) -> None:
        """All records of the full domain, the largest answer that there is."""
        assert len(self.client.call("StorageDomain.dump", {"sd_id": self.many.domain})["volumes"]) >= MANY

    def prepare(self, ids: Ids) -> None:
        """An image made ready, and put away again."""
        self.client.call("Image.prepare", ids.disk)
        self.client.call("Image.teardown", {name: ids.disk[name] for name in ids.disk if name != "volumeID"})


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


def _time(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def compare(rounds: int, *acts: Callable[[], object]) -> list[float]:
    """Median seconds of each, taking turns; a first turn of all is not counted."""
    turns = [[_time(act) for act in acts] for _ in range(rounds + 1)][1:]
    return [statistics.median(times) for times in zip(*turns, strict=True)]


def measure_volumes(repository: Repository) -> list[Figure]:
    """Creating, preparing and listing on 10 and on 5,000 volumes, and what that does to the daemon's memory."""
    few, many = repository.few, repository.many
    made = [repository.create_volume(one) for one in (few, many)]
    before_mib = machines.get_resident_mib(repository.node)
    figures = [
        _compare_sizes("Volume.create", 31, repository.create_volume, few, many),
        _compare_sizes("Image.prepare and teardown", 31, repository.prepare, *made),
        *_measure_lists(repository),
    ]
    repository.dump()
    growth_mib = machines.get_resident_mib(repository.node) - before_mib
    name = f"memory gained by all that at {MANY:,} volumes"
    return [*figures, Figure(name, growth_mib, "MiB", "", None, *at_most(GROWTH_MIB, growth_mib, "MiB"))]


def _compare_sizes(name: str, rounds: int, act: Callable[[Ids], object], few: Ids, many: Ids) -> Figure:
    few_s, many_s = compare(rounds, lambda: act(few), lambda: act(many))
    floor = at_most(1.5, many_s / few_s, "x")
    return Figure(f"{name} at {MANY:,} volumes", many_s * 1000, "ms", f"at {FEW} volumes", few_s * 1000, *floor)


def _measure_lists(repository: Repository) -> list[Figure]:
    images = repository.folder / repository.many.domain / "images"
    figures = []
    for verb, act, rival, command in (
        ("getVolumes", repository.list_volumes, "find", ("find", images, "-name", "*.meta")),
        ("getImages", repository.list_images, "grep", ("grep", "-rh", "--include=*.meta", "^IMAGE=", images)),
    ):
        ours_s, theirs_s = compare(7, act, partial(_run, *command))
        floor = at_most(SCAN_S, ours_s, "s")
        figures.append(Figure(f"StorageDomain.{verb} at {MANY:,} volumes", ours_s, "s", rival, theirs_s, *floor))
    return figures


def _run(*command: str | Path) -> None:
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
