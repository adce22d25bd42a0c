"""Images that go from one domain to another, as clients see it (facts: storage §9.6)."""

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.running import Furniture, Running, furnish_storage, make_id
from tests.daemon.test_jobs import MIB, fail, make_volume, read_volume
from vdsm.api.events import TaskChanged
from vdsm.storage.backends.file_volumes import FileVolumeStore
from vdsm.storage.errors import StorageDomainAccessError

Stored = tuple[Running, Furniture, str]


@pytest.fixture
async def stored(daemon: Running, tmp_path: Path) -> AsyncIterator[Stored]:
    """A pool of two active domains."""
    made, other_id, folder = await furnish_storage(daemon, tmp_path / "storage"), make_id(), tmp_path / "other"
    folder.mkdir()
    place = {"connectionParams": [{"id": make_id(), "connection": str(folder)}]}
    server = {"storagepoolID": made.pool_id, "domainType": "LOCALFS"}
    await daemon.rpc("StoragePool.connectStorageServer", {**server, **place})
    domain = {"storagedomainID": other_id, "domainType": "LOCALFS", "typeArgs": {"remotePath": str(folder)}}
    await daemon.rpc("StorageDomain.create", {**domain, "name": "other", "domainClass": "Data", "version": 5})
    ids = {"storagedomainID": other_id, "storagepoolID": made.pool_id}
    await daemon.rpc("StorageDomain.attach", ids)
    await daemon.rpc("StorageDomain.activate", ids)
    yield daemon, made, other_id


def name_image(made: Furniture, other_id: str, volume: dict[str, Any], **more: Any) -> dict[str, Any]:
    ids = {"imageID": volume["img_id"], "storagepoolID": made.pool_id, "storagedomainID": volume["sd_id"]}
    return {**ids, "dstSdUUID": other_id, **more}


async def test_moved_there_and_copied_back_by_the_old_name(stored: Stored) -> None:
    daemon, made, other_id = stored
    volume = await make_volume(daemon, made, size=str(MIB))
    order = {"operation": "MOVE", "postZero": False, "force": False}
    task_id = await daemon.rpc("Image.move", name_image(made, other_id, volume, **order))
    await daemon.finish(task_id)
    assert (await daemon.rpc("Task.getInfo", {"taskID": task_id}))["verb"] == "moveImage"
    [job] = daemon.node.storage.runner._entries[task_id].jobs
    assert job.name == f"moveImage_{volume['img_id']}"
    images = [
        await daemon.rpc("StorageDomain.getImages", {"storagedomainID": one}) for one in (made.domain_id, other_id)
    ]
    assert [volume["img_id"] in one for one in images] == [False, True]
    moved = {**volume, "sd_id": other_id}
    assert (await read_volume(daemon, moved))["legality"] == "LEGAL"
    answer = await daemon.xmlrpc("moveImage", made.pool_id, other_id, made.domain_id, volume["img_id"], "", 1)
    await daemon.finish(answer["uuid"])
    assert [(await read_volume(daemon, one))["legality"] for one in (volume, moved)] == ["LEGAL", "LEGAL"]


async def test_structure_and_data_by_rest(stored: Stored) -> None:
    daemon, made, other_id = stored
    volume = await make_volume(daemon, made, size=str(MIB), volFormat="RAW")
    path = f"/api/v1/storage/domains/{made.domain_id}/images/{volume['img_id']}"
    body = {"pool_id": made.pool_id, "target_domain_id": other_id}
    answer = await daemon.rest("POST", f"{path}/clone-structure", body)
    await daemon.finish(answer.json["task"])
    answer = await daemon.rest("POST", f"{path}/sync-data", {**body, "which": "ALL"})
    await daemon.finish(answer.json["task"])
    assert (await read_volume(daemon, {**volume, "sd_id": other_id}))["generation"] == 1


async def test_what_is_refused_starts_no_task(stored: Stored) -> None:
    daemon, made, other_id = stored
    volume = await make_volume(daemon, made, size=str(MIB))
    order = {"operation": "MOVE", "postZero": False, "force": False}
    before = await daemon.rpc("Host.getAllTasks")
    cases = (
        ({"operation": "UNKNOWN"}, 1000),
        ({"operation": 3}, 1000),
        ({"storagepoolID": make_id()}, 309),
        ({"imageID": "../x"}, 1000),
    )
    for changes, code in cases:
        assert await fail(daemon, "Image.move", {**name_image(made, other_id, volume, **order), **changes}) == code
    assert await fail(daemon, "Image.syncData", name_image(made, other_id, volume, syncType="NONE")) == 1000
    assert await daemon.rpc("Host.getAllTasks") == before


async def test_a_move_that_fails_when_the_copy_is_whole_ends_as_moved(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon, made, other_id = stored
    volume = await make_volume(daemon, made, size=str(MIB))

    def fail(self: FileVolumeStore, image_id: str) -> None:
        raise StorageDomainAccessError(made.domain_id)

    monkeypatch.setattr(FileVolumeStore, "set_aside", fail)
    order = {"operation": "MOVE", "postZero": False, "force": False}
    await daemon.finish(await daemon.rpc("Image.move", name_image(made, other_id, volume, **order)))
    images = [
        await daemon.rpc("StorageDomain.getImages", {"storagedomainID": one}) for one in (made.domain_id, other_id)
    ]
    assert [volume["img_id"] in one for one in images] == [False, True]


@pytest.mark.parametrize("by", ["Task.stop", "StoragePool.spmStop"])
async def test_a_move_that_is_stopped_is_over_within_two_seconds(stored: Stored, by: str) -> None:
    daemon, made, other_id = stored
    volume = await make_volume(daemon, made, size=str(256 * MIB), volFormat="RAW")
    place = Path("images") / volume["img_id"] / volume["vol_id"]
    block = os.urandom(MIB)
    with (Path(made.folder) / made.domain_id / place).open("r+b") as file:
        for _ in range(256):
            file.write(block)
    order = {"operation": "MOVE", "postZero": False, "force": False}
    task_id = await daemon.rpc("Image.move", name_image(made, other_id, volume, **order))
    made_there = Path(made.folder).parent / "other" / other_id / place.with_suffix(".meta")
    await daemon.wait_until(made_there.exists)
    start_s, pool = time.monotonic(), {"storagepoolID": made.pool_id}
    await daemon.rpc(by, {"taskID": task_id} if by == "Task.stop" else pool)
    if by == "Task.stop":
        await daemon.wait_until(lambda: any(daemon._ends(event, task_id) for event in daemon.told))
    assert time.monotonic() - start_s < 2
    if by != "Task.stop":
        start = {"prevID": -1, "prevLver": "-1", "enableScsiFencing": "false"}
        await daemon.finish(await daemon.rpc("StoragePool.spmStart", {**pool, **start}))
    assert not made_there.parent.exists()
    assert (await read_volume(daemon, volume))["legality"] == "LEGAL"
    told = [event.progress_percent for event in daemon.told if isinstance(event, TaskChanged)]
    assert all(not isinstance(one, float) or 0 <= one <= 100 for one in told)
