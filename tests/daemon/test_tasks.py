"""Tasks as clients see them: their words and codes, stopping, clearing, reverting (facts: storage §8.1 to §8.3)."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.running import Furniture, Running, describe_volume, furnish_storage, make_id
from vdsm.storage import locks
from vdsm.wire.client import CallFailed

Stored = tuple[Running, Furniture]


@pytest.fixture
async def stored(daemon: Running, tmp_path: Path) -> AsyncIterator[Stored]:
    yield daemon, await furnish_storage(daemon, tmp_path / "storage")


async def fail(daemon: Running, method: str, params: dict[str, Any]) -> int:
    with pytest.raises(CallFailed) as caught:
        await daemon.rpc(method, params)
    return caught.value.code


async def end(daemon: Running, task_id: str) -> tuple[str, str, int, str]:
    """Wait for a task's end, and what is told of it then."""
    await daemon.wait_until(lambda: any(daemon._ends(event, task_id) for event in daemon.told))
    status = await daemon.rpc("Task.getStatus", {"taskID": task_id})
    assert status.pop("taskID") == task_id
    return status["taskState"], status["taskResult"], status["code"], status["message"]


async def list_volumes(daemon: Running, made: Furniture) -> set[str]:
    ids = {"storagedomainID": made.domain_id, "storagepoolID": made.pool_id}
    return set(await daemon.rpc("StorageDomain.getVolumes", {**ids, "imageID": "0" * 8 + "-0000" * 3 + "-" + "0" * 12}))


async def test_a_task_that_is_stopped(stored: Stored) -> None:
    daemon, made = stored
    image_id = make_id()
    repository_locks = daemon.node.storage.volumes._repository.volumes._locks
    with repository_locks.hold(locks.image(made.domain_id, image_id)):
        task_id = await daemon.rpc("Volume.create", describe_volume(made, imageID=image_id, volumeID=make_id()))
        task = {"taskID": task_id}
        await daemon.wait_until(lambda: daemon.node.storage.runner.get(task_id).message.startswith("running"))
        running = {"taskState": "running", "taskResult": "", "code": 0, "message": "running job 1 of 1"}
        assert await daemon.rpc("Task.getStatus", task) == {**task, **running}
        assert await daemon.rpc("Task.getInfo", task) == {"id": task_id, "verb": "createVolume"}
        assert (await daemon.rpc("Host.getAllTasksStatuses"))[task_id] == {**task, **running}
        details = (await daemon.rpc("Host.getAllTasks"))[task_id]
        assert (details["verb"], details["state"], details["tag"]) == ("createVolume", "running", "spm")
        assert await fail(daemon, "Task.clear", task) == 410
        assert await fail(daemon, "Task.revert", task) == 403
        await daemon.rpc("Task.stop", task)
        assert (await daemon.rpc("Task.getStatus", task))["taskState"] == "aborting"
        await daemon.rpc("Task.stop", task)
    message = "value=Task is aborted: stopped on request abortedcode=411"
    assert await end(daemon, task_id) == ("finished", "cleanSuccess", 411, message)
    assert await list_volumes(daemon, made) == {made.volume_id}
    await daemon.rpc("Task.clear", task)
    for verb in ("getStatus", "getInfo", "stop", "clear", "revert"):
        assert await fail(daemon, f"Task.{verb}", task) == 401


async def test_what_can_be_refused_at_once_starts_no_task(stored: Stored) -> None:
    daemon, made = stored
    before = await daemon.rpc("Host.getAllTasks")
    for changes, code in (({"diskType": "TAPE"}, 1000), ({"srcVolUUID": make_id(), "volFormat": "RAW"}, 202)):
        assert await fail(daemon, "Volume.create", describe_volume(made, volumeID=make_id(), **changes)) == code
    assert await daemon.rpc("Host.getAllTasks") == before


async def test_a_task_that_is_reverted(stored: Stored) -> None:
    daemon, made = stored
    done = ("finished", "success", 0, "1 jobs completed successfully")
    assert await end(daemon, made.task_id) == done
    task = {"taskID": made.task_id}
    await daemon.rpc("Task.stop", task)
    assert await end(daemon, made.task_id) == done
    daemon.told.clear()
    await daemon.rpc("Task.revert", task)
    assert (await end(daemon, made.task_id))[:2] == ("finished", "cleanSuccess")
    assert await list_volumes(daemon, made) == set()
    assert await fail(daemon, "Task.revert", task) == 441


@pytest.mark.parametrize("verb", ["Volume.delete", "Image.deleteVolumes"])
async def test_removals_are_named_as_managers_know_them(stored: Stored, verb: str) -> None:
    daemon, made = stored
    ids = {"storagedomainID": made.domain_id, "storagepoolID": made.pool_id, "imageID": made.image_id}
    for volume_id, ends in ((make_id(), ("cleanSuccess", 201)), (made.volume_id, ("success", 0))):
        volumes = {"volumeID": volume_id} if verb == "Volume.delete" else {"volumeList": [volume_id]}
        task_id = await daemon.rpc(verb, {**ids, **volumes, "postZero": False, "force": False})
        state, result, code, message = await end(daemon, task_id)
        assert (state, result, code) == ("finished", *ends)
        assert message.endswith(f"abortedcode={code}" if code else "1 jobs completed successfully")
        assert (await daemon.rpc("Task.getInfo", {"taskID": task_id}))["verb"] == "deleteVolume"
    assert await list_volumes(daemon, made) == set()


async def test_an_image_is_gone_at_once_and_purged_by_a_task(stored: Stored) -> None:
    daemon, made = stored
    ids = {"storagedomainID": made.domain_id, "storagepoolID": made.pool_id, "imageID": made.image_id}
    flags = {"postZero": False, "force": False}
    repository_locks = daemon.node.storage.volumes._repository.volumes._locks
    task_ids = [await daemon.rpc("Image.delete", {**ids, **flags})]
    with repository_locks.hold(locks.image(made.domain_id, made.image_id)):
        assert await list_volumes(daemon, made) == set()
    assert await end(daemon, task_ids[0]) == ("finished", "success", 0, "1 jobs completed successfully")
    assert (await daemon.rpc("Task.getInfo", {"taskID": task_ids[0]}))["verb"] == "deleteImage"
    [jobs] = [entry.jobs for id, entry in daemon.node.storage.runner._entries.items() if id == task_ids[0]]
    assert [job.name for job in jobs] == [f"purgeImage_{made.image_id}"]
    assert await fail(daemon, "Image.delete", {**ids, **flags}) == 268
    await daemon.finish(await daemon.rpc("Volume.create", describe_volume(made)))
    task_id = await daemon.rpc("Image.delete", {**ids, **flags, "discard": True})
    assert (await end(daemon, task_id))[1:3] == ("cleanSuccess", 349)
    assert await list_volumes(daemon, made) == set()


async def test_a_volume_becomes_larger(stored: Stored) -> None:
    daemon, made = stored
    volume = {name: make_id() for name in ("imageID", "volumeID")}
    await daemon.finish(await daemon.rpc("Volume.create", describe_volume(made, **volume, volFormat="RAW")))
    ids = {"storagedomainID": made.domain_id, "storagepoolID": made.pool_id, **volume}
    task_id = await daemon.rpc("Volume.extendSize", {**ids, "newSize": str(2 << 30)})
    await daemon.finish(task_id)
    assert (await daemon.rpc("Task.getInfo", {"taskID": task_id}))["verb"] == "extendVolumeSize"
    info = await daemon.rpc("Volume.getInfo", ids)
    assert info["capacity"] == info["apparentsize"] == str(2 << 30)
    for size in ("-1", "x", "1.5"):
        assert await fail(daemon, "Volume.extendSize", {**ids, "newSize": size}) == 1000
    assert (await end(daemon, await daemon.rpc("Volume.extendSize", {**ids, "newSize": "4096"})))[2] == 232
    assert await daemon.rpc("Volume.getInfo", ids) == info


async def test_nothing_is_set_aside_that_no_task_can_purge(stored: Stored) -> None:
    daemon, made = stored
    ids = {"storagedomainID": made.domain_id, "storagepoolID": made.pool_id, "imageID": made.image_id}
    await daemon.node.storage.pools._work.release()
    assert await fail(daemon, "Image.delete", {**ids, "postZero": False, "force": False}) == 405
    assert await list_volumes(daemon, made) == {made.volume_id}


async def test_tasks_of_the_pool_wait_on_disk_while_nobody_is_spm(stored: Stored) -> None:
    daemon, made = stored
    pool = {"storagepoolID": made.pool_id}
    everyone = await daemon.rpc("Host.getAllTasks")
    [start_id] = [task_id for task_id, task in everyone.items() if task["verb"] == "spmStart"]
    assert everyone[start_id]["tag"] == "hsm"
    assert set(await daemon.rpc("Host.getAllTasksInfo")) == {made.task_id}
    await daemon.rpc("StoragePool.spmStop", pool)
    for listing in ("Host.getAllTasksStatuses", "Host.getAllTasksInfo"):
        assert await fail(daemon, listing, {}) == 654
    assert await fail(daemon, "Task.getStatus", {"taskID": made.task_id}) == 401
    await daemon.rpc("Task.clear", {"taskID": start_id})
    assert await daemon.rpc("Host.getAllTasks") == {}
    start = {"prevID": -1, "prevLver": "-1", "enableScsiFencing": "false"}
    await daemon.finish(await daemon.rpc("StoragePool.spmStart", {**pool, **start}))
    daemon.told.clear()
    statuses = await daemon.rpc("Host.getAllTasksStatuses")
    assert statuses == {
        made.task_id: {
            "taskID": made.task_id,
            "taskState": "finished",
            "taskResult": "success",
            "code": 0,
            "message": "1 jobs completed successfully",
        }
    }
    assert await fail(daemon, "StoragePool.spmStart", {**pool, **start}) == 656
    assert await fail(daemon, "StoragePool.disconnect", {**pool, "hostID": 1, "scsiKey": ""}) == 656
