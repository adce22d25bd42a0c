"""Jobs on volumes as clients see them: started, followed, told of, aborted (facts: storage §8.6, §10)."""

import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.running import BLANK, Furniture, Running, describe_volume, furnish_storage, make_id
from tests.daemon.test_told import listening
from vdsm.adapters import guestfs
from vdsm.api.events import JobEnded
from vdsm.wire.client import CallFailed

Stored = tuple[Running, Furniture]
MIB = 1 << 20


@pytest.fixture
async def stored(daemon: Running, tmp_path: Path) -> AsyncIterator[Stored]:
    yield daemon, await furnish_storage(daemon, tmp_path / "storage")


async def make_volume(daemon: Running, made: Furniture, **changes: Any) -> dict[str, Any]:
    """Another volume, as jobs name one."""
    image_id, volume_id = make_id(), make_id()
    request = describe_volume(made, imageID=image_id, volumeID=volume_id, **changes)
    await daemon.finish(await daemon.rpc("Volume.create", request))
    return {"sd_id": made.domain_id, "img_id": image_id, "vol_id": volume_id, "generation": 0}


async def end(daemon: Running, job_id: str, job_type: str = "storage") -> dict[str, Any]:
    """Wait for a job's end, and what Host.getJobs tells then."""
    await daemon.wait_until(lambda: any(isinstance(e, JobEnded) and e.job_id == job_id for e in daemon.told))
    jobs: dict[str, dict[str, Any]] = await daemon.rpc("Host.getJobs", {"job_type": job_type, "job_ids": [job_id]})
    assert list(jobs) == [job_id]
    return jobs[job_id]


async def fail(daemon: Running, method: str, params: dict[str, Any]) -> int:
    with pytest.raises(CallFailed) as caught:
        await daemon.rpc(method, params)
    return caught.value.code


async def read_volume(daemon: Running, volume: dict[str, Any]) -> dict[str, Any]:
    ids = {"storagedomainID": volume["sd_id"], "imageID": volume["img_id"], "volumeID": volume["vol_id"]}
    info: dict[str, Any] = await daemon.rpc("Volume.getInfo", {**ids, "storagepoolID": make_id()})
    return info


async def test_a_copy_from_its_start_to_the_word_of_its_end(stored: Stored) -> None:
    daemon, made = stored
    source, target = [await make_volume(daemon, made, size=str(MIB)) for _ in range(2)]
    ends = {"source": {"endpoint_type": "div", **source}, "destination": {"endpoint_type": "div", **target}}
    job_id = make_id()
    async with listening(daemon) as visitor:
        assert await daemon.rpc("SDM.copy_data", {"job_id": job_id, **ends}) is True
        described = {"id": job_id, "status": "done", "description": "copy_data", "job_type": "storage", "progress": 100}
        assert await end(daemon, job_id) == described
        while True:
            message = json.loads((await visitor.get()).body)
            if message["method"].startswith("|jobs|"):
                break
    assert message["method"] == f"|jobs|status|{job_id}"
    assert message["params"].pop("notify_time") > 0
    assert message["params"] == described
    info = await read_volume(daemon, target)
    assert (info["generation"], info["legality"]) == (1, "LEGAL")
    assert (await daemon.rpc("Host.getAllTasks"))[job_id]["tag"] == "sdm"
    assert (await daemon.rpc("Task.getStatus", {"taskID": job_id}))["taskResult"] == "success"
    # Once more: the id is in use, then the generation is another.
    assert await fail(daemon, "SDM.copy_data", {"job_id": job_id, **ends}) == 100
    again = make_id()
    await daemon.rpc("SDM.copy_data", {"job_id": again, **ends})
    failed = await end(daemon, again)
    assert (failed["status"], failed["error"]["code"]) == ("failed", 911)
    assert failed["error"]["message"].startswith("The provided generation")


async def test_every_job_by_its_verb(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon, made = stored
    monkeypatch.setattr(guestfs, "has_program", lambda _: False)  # whatever is installed
    volume = await make_volume(daemon, made, size=str(MIB))
    bitmap = make_id()
    for generation, (verb, more, status) in enumerate(
        (
            ("update_volume", {"vol_attr": {"description": "changed", "legality": "ILLEGAL"}}, "done"),
            ("update_volume", {"vol_attr": {"legality": "LEGAL", "generation": 2}}, "done"),
            ("add_bitmap", {"bitmap": bitmap}, "done"),
            ("remove_bitmap", {"bitmap": bitmap}, "done"),
            ("clear_bitmaps", {}, "done"),
            ("amend_volume", {"qcow2_attr": {"compat": "0.10"}}, "done"),
            ("sparsify_volume", {}, "failed"),
        )
    ):
        job_id = make_id()
        given = {"job_id": job_id, "vol_info": {**volume, "generation": generation}, **more}
        assert await daemon.rpc(f"SDM.{verb}", given) is True
        job = await end(daemon, job_id)
        assert (job["status"], job["description"]) == (status, verb), job
    assert job["error"]["code"] == 2009
    info = await read_volume(daemon, volume)
    assert (info["description"], info["generation"]) == ("changed", 6)


async def test_a_job_over_rest(stored: Stored) -> None:
    daemon, made = stored
    volume = await make_volume(daemon, made, size=str(MIB))
    job_id = make_id()
    ids = {"domain_id": volume["sd_id"], "image_id": volume["img_id"], "volume_id": volume["vol_id"], "generation": 0}
    body = {"job_id": job_id, "volume": ids, "attributes": {"description": "x"}}
    assert (await daemon.rest("POST", "/api/v1/storage/jobs/update-volume", body)).status == 204
    await end(daemon, job_id)
    jobs = (await daemon.rest("GET", "/api/v1/jobs", query={"job_ids": [job_id]})).json
    assert jobs[job_id]["status"] == "done"
    assert (await daemon.rest("POST", "/api/v1/storage/jobs/update-volume", body)).status == 409


async def test_an_aborted_copy_is_over_within_two_seconds(stored: Stored) -> None:
    daemon, made = stored
    source, target = [await make_volume(daemon, made, size=str(256 * MIB), volFormat="RAW") for _ in range(2)]
    path = Path(made.folder) / made.domain_id / "images" / source["img_id"] / source["vol_id"]
    block = os.urandom(MIB)
    with path.open("r+b") as file:
        for _ in range(256):
            file.write(block)
    job_id = make_id()
    await daemon.rpc("SDM.copy_data", {"job_id": job_id, "source": source, "destination": target})
    await daemon.wait_until(lambda: daemon.node.storage.runner.get(job_id).message.startswith("running"))
    start_s = time.monotonic()
    await daemon.rpc("Task.stop", {"taskID": job_id})
    job = await end(daemon, job_id)
    assert time.monotonic() - start_s < 2
    assert job["status"] == "aborted"
    assert "error" not in job
    info = await read_volume(daemon, target)
    assert (info["generation"], info["legality"]) == (0, "ILLEGAL")
    with path.open("rb") as file:
        file.seek(-MIB, os.SEEK_END)
        assert file.read() == block


async def begin_copy(daemon: Running, made: Furniture, source: dict[str, Any], **changes: Any) -> tuple[str, Any]:
    """Start `Volume.copy` into a new image; gives the task and where the copy is to be."""
    target = {"sd_id": made.domain_id, "img_id": make_id(), "vol_id": make_id()}
    given = {
        "storagepoolID": made.pool_id,
        "storagedomainID": made.domain_id,
        "imageID": source["img_id"],
        "volumeID": source["vol_id"],
        "dstSdUUID": BLANK,
        "dstImgUUID": target["img_id"],
        "dstVolUUID": target["vol_id"],
        "desc": "copied",
        "volType": "SHARED",
        "volFormat": "COW",
        "preallocate": "SPARSE",
        "postZero": False,
        "force": False,
        **changes,
    }
    return await daemon.rpc("Volume.copy", given), target


async def test_a_volume_becomes_a_template(stored: Stored) -> None:
    daemon, made = stored
    source = await make_volume(daemon, made, size=str(MIB))
    task_id, target = await begin_copy(daemon, made, source)
    await daemon.finish(task_id)
    assert (await daemon.rpc("Task.getInfo", {"taskID": task_id}))["verb"] == "copyImage"
    [job] = daemon.node.storage.runner._entries[task_id].jobs
    assert job.name == f"copyImage_{target['img_id']}"
    info = await read_volume(daemon, target)
    told = [info[name] for name in ("voltype", "legality", "description", "generation", "capacity")]
    assert told == ["SHARED", "LEGAL", "copied", 0, str(MIB)]
    bad = {"dstImgUUID": source["img_id"]}, {"volType": "INTERNAL"}, {"volFormat": "UNKNOWN"}, {"dstVolUUID": "../x"}
    before = await daemon.rpc("Host.getAllTasks")
    for changes in bad:
        with pytest.raises(CallFailed) as caught:
            await begin_copy(daemon, made, source, **changes)
        assert caught.value.code == 1000
    assert await daemon.rpc("Host.getAllTasks") == before
    again, _ = await begin_copy(daemon, made, source, dstImgUUID=target["img_id"])
    await daemon.wait_until(lambda: any(daemon._ends(event, again) for event in daemon.told))
    assert (await daemon.rpc("Task.getStatus", {"taskID": again}))["code"] == 265


@pytest.mark.parametrize("by", ["Task.stop", "StoragePool.spmStop"])
async def test_a_task_that_copies_is_over_within_two_seconds(stored: Stored, by: str) -> None:
    daemon, made = stored
    source = await make_volume(daemon, made, size=str(256 * MIB), volFormat="RAW")
    folder = Path(made.folder) / made.domain_id / "images"
    block = os.urandom(MIB)
    with (folder / source["img_id"] / source["vol_id"]).open("r+b") as file:
        for _ in range(256):
            file.write(block)
    task_id, target = await begin_copy(daemon, made, source)
    await daemon.wait_until((folder / target["img_id"] / f"{target['vol_id']}.meta").exists)
    start_s, pool = time.monotonic(), {"storagepoolID": made.pool_id}
    await daemon.rpc(by, {"taskID": task_id} if by == "Task.stop" else pool)
    if by == "Task.stop":
        await daemon.wait_until(lambda: any(daemon._ends(event, task_id) for event in daemon.told))
        assert (await daemon.rpc("Task.getStatus", {"taskID": task_id}))["taskResult"] == "cleanSuccess"
    else:
        assert (await read_volume(daemon, target))["legality"] == "ILLEGAL"
    assert time.monotonic() - start_s < 2
    if by != "Task.stop":
        start = {"prevID": -1, "prevLver": "-1", "enableScsiFencing": "false"}
        await daemon.finish(await daemon.rpc("StoragePool.spmStart", {**pool, **start}))
    assert not (folder / target["img_id"]).exists()


async def test_what_is_refused_starts_no_job(stored: Stored) -> None:
    daemon, made = stored
    volume = await make_volume(daemon, made, size=str(MIB))
    lease = {"sd_id": made.domain_id, "lease_id": make_id()}
    outside = {"endpoint_type": "external", "url": "nbd:evil:10809", "generation": 0, "lease": lease}
    cases: list[tuple[str, dict[str, Any], int]] = [
        ("copy_data", {"source": outside, "destination": outside}, 2009),
        ("copy_data", {"source": volume, "destination": outside, "copy_bitmaps": True}, 2009),
        ("copy_data", {"source": {**outside, "format": "vmdk"}, "destination": volume}, 1000),
        ("copy_data", {"source": {"endpoint_type": "external", "generation": 0}, "destination": volume}, 1000),
        ("copy_data", {"source": {"endpoint_type": "div"}, "destination": volume}, 1000),
        ("copy_data", {"source": volume}, 1000),
        ("copy_data", {"source": volume, "destination": {**volume, "vol_id": "../../x"}}, 1000),
        ("update_volume", {"vol_info": {**volume, "generation": 1000}, "vol_attr": {"description": "x"}}, 1000),
        ("update_volume", {"vol_info": volume, "vol_attr": {"type": "WHAT"}}, 1000),
        ("add_bitmap", {"vol_info": volume, "bitmap": "--help"}, 1000),
    ]
    before = await daemon.rpc("Host.getJobs")
    for verb, params, code in cases:
        assert await fail(daemon, f"SDM.{verb}", {"job_id": make_id(), **params}) == code, (verb, params)
    assert await fail(daemon, "SDM.clear_bitmaps", {"job_id": "no id", "vol_info": volume}) == 1000
    assert await daemon.rpc("Host.getJobs") == before


async def test_failures_are_the_jobs(stored: Stored) -> None:
    daemon, made = stored
    volume = await make_volume(daemon, made, size=str(MIB))
    for changes, code in (({"sd_id": make_id()}, 358), ({"img_id": make_id()}, 201), ({"vol_id": make_id()}, 201)):
        job_id = make_id()
        await daemon.rpc("SDM.clear_bitmaps", {"job_id": job_id, "vol_info": {**volume, **changes}})
        job = await end(daemon, job_id)
        assert (job["status"], job["error"]["code"]) == ("failed", code)


async def test_bitmaps_travel_as_lists(stored: Stored) -> None:
    daemon, made = stored
    volume = await make_volume(daemon, made, size=str(MIB))
    job_id, bitmap = make_id(), make_id()
    await daemon.rpc("SDM.add_bitmap", {"job_id": job_id, "vol_info": volume, "bitmap": bitmap})
    await end(daemon, job_id)
    ids = {"storagedomainID": made.domain_id, "imageID": volume["img_id"], "volumeID": volume["vol_id"]}
    info = await daemon.rpc("Volume.getQemuImageInfo", {**ids, "storagepoolID": made.pool_id})
    told = {"format": "qcow2", "virtualsize": MIB, "clustersize": 65536, "compat": "1.1"}
    assert info == {**told, "bitmaps": [[bitmap, 65536, ["auto"]]]}
    path = f"/api/v1/storage/domains/{made.domain_id}/images/{volume['img_id']}/volumes/{volume['vol_id']}"
    answer = (await daemon.rest("GET", f"{path}/qemu-info", query={"pool_id": made.pool_id})).json
    assert answer["bitmaps"] == [{"name": bitmap, "granularity_bytes": 65536, "flags": ["auto"]}]
    measured = await daemon.rpc("Volume.measure", {**ids, "storagepoolID": made.pool_id, "dstVolFormat": "COW"})
    assert set(measured) == {"required", "fully-allocated", "bitmaps"}


async def test_a_snapshot_is_merged(stored: Stored) -> None:
    daemon, made = stored
    base = await make_volume(daemon, made, size=str(MIB), volFormat="RAW")
    top_id, leaf_id = make_id(), make_id()
    place = {"imageID": base["img_id"], "srcImgUUID": base["img_id"], "size": str(2 * MIB)}
    for volume_id, parent_id in ((top_id, base["vol_id"]), (leaf_id, top_id)):
        request = describe_volume(made, **place, volumeID=volume_id, srcVolUUID=parent_id)
        await daemon.finish(await daemon.rpc("Volume.create", request))
    pool = {"storagepoolID": made.pool_id}
    subchain = {"sd_id": made.domain_id, "img_id": base["img_id"], "top_id": top_id, "base_id": base["vol_id"]}
    await daemon.finish(await daemon.rpc("StoragePool.prepareMerge", {**pool, "subchainInfo": subchain}))
    job_id = make_id()
    await daemon.rpc("SDM.merge", {"job_id": job_id, "subchain_info": {**subchain, "base_generation": 0}})
    assert (await end(daemon, job_id))["description"] == "merge_subchain"
    await daemon.finish(await daemon.rpc("StoragePool.finalizeMerge", {**pool, "subchainInfo": subchain}))
    info = await read_volume(daemon, base)
    assert (info["capacity"], info["generation"]) == (str(2 * MIB), 1)
    image = {**pool, "storagedomainID": made.domain_id, "imageID": base["img_id"]}
    chain = await daemon.rpc("Image.reconcileVolumeChain", {**image, "leafVolID": leaf_id})
    assert chain == [base["vol_id"], leaf_id]
    wrong = {**subchain, "top_id": base["vol_id"], "base_id": leaf_id}
    task_id = await daemon.rpc("StoragePool.prepareMerge", {**pool, "subchainInfo": wrong})
    await daemon.wait_until(lambda: any(daemon._ends(event, task_id) for event in daemon.told))
    status = await daemon.rpc("Task.getStatus", {"taskID": task_id})
    assert (status["taskResult"], status["code"]) == ("cleanSuccess", 921)
    stranger = {"storagepoolID": make_id(), "subchainInfo": subchain}
    for verb in ("prepareMerge", "finalizeMerge"):
        assert await fail(daemon, f"StoragePool.{verb}", stranger) == 309
