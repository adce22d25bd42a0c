"""Disks of VMs over every dialect: what changed and what was refused looks as clients of each know it."""

import asyncio
import json
from typing import Any

import pytest

from tests.daemon.running import (
    BLANK,
    GIB,
    PATIENCE_S,
    Furniture,
    House,
    Running,
    describe_volume,
    furnish,
    make_id,
    on_the_shared_loop,
)
from tests.daemon.test_told import listening
from vdsm.api.events import JobEnded
from vdsm.wire.client import CallFailed

DISK = {"poolID": "p", "domainID": "d", "imageID": "\x00", "volumeID": "'"}


async def add_top(daemon: Running, made: Furniture, base_id: str) -> str:
    """A new volume on the VM's."""
    top = describe_volume(made, volumeID=make_id(), srcImgUUID=made.image_id, srcVolUUID=base_id)
    await daemon.finish(await daemon.rpc("Volume.create", top))
    return str(top["volumeID"])


def wish(made: Furniture, base_id: str, top_id: str) -> dict[str, str]:
    ids = {"domainID": made.domain_id, "imageID": made.image_id}
    return {**ids, "baseVolumeID": base_id, "volumeID": top_id}


async def end(daemon: Running, job_id: str) -> dict[str, Any]:
    """Wait for a job's end, and what Host.getJobs tells then."""
    await daemon.wait_until(lambda: any(isinstance(e, JobEnded) and e.job_id == job_id for e in daemon.told))
    jobs: dict[str, dict[str, Any]] = await daemon.rpc("Host.getJobs", {"job_type": "virt", "job_ids": [job_id]})
    assert list(jobs) == [job_id]
    return jobs[job_id]


async def test_snapshots_as_each_dialect_has_them(daemon: Running, tmp_path: Any) -> None:
    made = await furnish(daemon, tmp_path / "storage")
    daemon.machine.fake.agents.add(made.vm_id)
    chain = [made.volume_id]
    for _ in range(3):
        chain.append(await add_top(daemon, made, chain[-1]))
    job_id = make_id()
    done = {"id": job_id, "status": "done", "description": "snapshot_vm", "job_type": "virt"}
    async with listening(daemon) as visitor:
        given = {"vmID": made.vm_id, "snapDrives": [wish(made, *chain[:2])], "jobUUID": job_id}
        assert await daemon.rpc("VM.snapshot", given) is True
        assert await end(daemon, job_id) == done
        told = json.loads((await visitor.get()).body)
        assert told["method"] == f"|jobs|status|{job_id}" and done.items() <= told["params"].items()
    for job_type, found in (("storage", False), ("virt", True), (None, True)):
        jobs = await daemon.rpc("Host.getJobs", {} if job_type is None else {"job_type": job_type})
        assert (job_id in jobs) is found
    assert await daemon.rpc("VM.freeze", {"vmID": made.vm_id}) is True
    assert await daemon.rpc("VM.thaw", {"vmID": made.vm_id}) is True

    for name, parameters in (("freeze", []), ("snapshot", [[wish(made, *chain[1:3])], "", True]), ("thaw", [])):
        answer = await daemon.xmlrpc(name, made.vm_id, *parameters)
        assert answer["status"]["code"] == 0
    vm, view = f"/api/v1/vms/{made.vm_id}", daemon.node.vms._shared.vms[made.vm_id]
    await daemon.wait_until(lambda: view.metadata.devices[0].values["volumeID"] == chain[2])

    drive = {"domain_id": made.domain_id, "image_id": made.image_id}
    drive |= {"base_volume_id": chain[2], "volume_id": chain[3]}
    answer = await daemon.rest("POST", f"{vm}/snapshot", {"drives": [drive], "job_id": (job_id := make_id())})
    assert answer.status == 204, answer
    assert (await end(daemon, job_id))["status"] == "done"
    for verb in ("freeze", "thaw"):
        assert (await daemon.rest("POST", f"{vm}/{verb}")).status == 204
    jobs = (await daemon.rest("GET", "/api/v1/jobs", query={"job_type": "virt"})).json
    assert {job["description"] for job in jobs.values()} == {"snapshot_vm"} and len(jobs) == 3


async def wait_merged(daemon: Running, made: Furniture) -> None:
    """Ask until no merge is told any more."""
    async with asyncio.timeout(PATIENCE_S):
        while (await daemon.rpc("VM.getStats", {"vmID": made.vm_id}))[0]["vmJobs"]:
            pass


async def test_merges_as_each_dialect_has_them(daemon: Running, tmp_path: Any) -> None:
    made = await furnish(daemon, tmp_path / "storage")
    chain = [made.volume_id]
    for _ in range(4):
        chain.append(await add_top(daemon, made, chain[-1]))
        given = {"vmID": made.vm_id, "snapDrives": [wish(made, *chain[-2:])], "jobUUID": (job_id := make_id())}
        await daemon.rpc("VM.snapshot", given)
        assert (await end(daemon, job_id))["status"] == "done"
    disk = {"domainID": made.domain_id, "imageID": made.image_id, "poolID": made.pool_id, "device": "disk"}
    given = {"vmID": made.vm_id, "drive": {**disk, "volumeID": chain[-1]}, "baseVolUUID": chain[0]}
    daemon.machine.fake.blocks_move = False
    assert await daemon.rpc("VM.merge", {**given, "topVolUUID": chain[1], "jobUUID": job_id, "bandwidth": 9}) is True
    job = {"id": job_id, "jobType": "block", "blockJobType": "commit", "drive": "hda", "imgUUID": made.image_id}
    [stats] = await daemon.rpc("VM.getStats", {"vmID": made.vm_id})
    assert stats["vmJobs"] == {job_id: {**job, "bandwidth": 9, "cur": "0", "end": "1048576"}}
    daemon.machine.fake.finish_block_job(made.vm_id, "hda")
    vm = daemon.node.vms._shared.vms[made.vm_id]
    await wait_merged(daemon, made)
    daemon.machine.fake.blocks_move = True
    answer = await daemon.xmlrpc("merge", made.vm_id, {**disk, "volumeID": chain[-1]}, chain[0], chain[2], "0", job_id)
    assert answer["status"]["code"] == 0
    await wait_merged(daemon, made)
    body = {"disk": {"domain_id": made.domain_id, "image_id": made.image_id, "pool_id": made.pool_id}}
    body["disk"]["volume_id"] = chain[-1]
    path = f"/api/v1/vms/{made.vm_id}/merge"
    assert (await daemon.rest("POST", path, {**body, "base_id": chain[0], "top_id": chain[-1]})).status == 204
    await wait_merged(daemon, made)
    info = {"storagepoolID": made.pool_id, "storagedomainID": made.domain_id, "imageID": made.image_id}
    told = {one: (await daemon.rpc("Volume.getInfo", {**info, "volumeID": one}))["legality"] for one in chain}
    assert told == {**dict.fromkeys(chain, "LEGAL"), chain[-1]: "ILLEGAL"}
    assert vm.metadata.devices[0].values["volumeID"] == chain[0]


async def test_replicas_as_each_dialect_has_them(daemon: Running, tmp_path: Any) -> None:
    made = await furnish(daemon, tmp_path / "storage")
    twin = describe_volume(made, imageID=make_id(), volumeID=make_id())
    await daemon.finish(await daemon.rpc("Volume.create", twin))
    ids = {"domainID": made.domain_id, "poolID": made.pool_id, "device": "disk"}
    here = {**ids, "imageID": made.image_id, "volumeID": made.volume_id}
    there = {**ids, "imageID": twin["imageID"], "volumeID": twin["volumeID"]}
    source, replica = ({"pool_id": made.pool_id, "domain_id": made.domain_id} for _ in range(2))
    source |= {"image_id": made.image_id, "volume_id": made.volume_id}
    replica |= {"image_id": twin["imageID"], "volume_id": twin["volumeID"]}
    vm, known = f"/api/v1/vms/{made.vm_id}", daemon.node.vms._shared.vms[made.vm_id]

    given = {"vmID": made.vm_id, "srcDisk": here}
    assert await daemon.rpc("VM.diskReplicateStart", {**given, "dstDisk": there, "needExtend": False}) is True
    assert known.metadata.devices[0].find_part_volume("diskReplicate") is not None
    assert await daemon.rpc("VM.diskReplicateFinish", {**given, "dstDisk": here}) is True
    answer = await daemon.xmlrpc("diskReplicateStart", made.vm_id, here, there)
    assert answer["status"]["code"] == 0
    answer = await daemon.xmlrpc("diskReplicateFinish", made.vm_id, here, here)
    assert answer["status"]["code"] == 0
    assert (await daemon.rest("POST", f"{vm}/replicate", {"source": source, "replica": replica})).status == 204
    body = {"source": source, "target": replica}
    assert (await daemon.rest("POST", f"{vm}/finish-replication", body)).status == 204
    assert known.metadata.devices[0].values["volumeID"] == twin["volumeID"]
    assert known.metadata.devices[0].find_part("diskReplicate") is None
    assert (await daemon.rest("POST", f"{vm}/finish-replication", body)).json["code"] == "image-unknown"


async def test_sizes_as_each_dialect_has_them(daemon: Running, tmp_path: Any) -> None:
    made = await furnish(daemon, tmp_path / "storage")
    ids = {"domainID": made.domain_id, "imageID": made.image_id, "volumeID": made.volume_id}
    drive, vm = {**ids, "poolID": made.pool_id}, f"/api/v1/vms/{made.vm_id}"
    disk = {"pool_id": made.pool_id, "domain_id": made.domain_id}
    disk |= {"image_id": made.image_id, "volume_id": made.volume_id}
    given = {"vmID": made.vm_id, "driveSpecs": drive}
    assert await daemon.rpc("VM.diskSizeExtend", {**given, "newSize": str(2 * GIB)}) == str(2 * GIB)
    answer = await daemon.xmlrpc("diskSizeExtend", made.vm_id, drive, str(3 * GIB))
    assert (answer["status"]["code"], answer["size"]) == (0, str(3 * GIB))
    answer = await daemon.rest("POST", f"{vm}/extend-disk", {"disk": disk, "size_bytes": 4 * GIB})
    assert (answer.status, answer.json) == (200, str(4 * GIB))
    info = await daemon.rpc("Volume.getInfo", {**ids, "storagepoolID": made.pool_id, "storagedomainID": made.domain_id})
    assert info["capacity"] == str(4 * GIB)
    size = await daemon.rpc("VM.refresh_disk", {"vmID": made.vm_id, "drive": drive})
    assert size == {"apparentsize": info["apparentsize"], "truesize": info["truesize"]}
    answer = await daemon.rest("POST", f"{vm}/refresh-disk", {"disk": disk})
    assert answer.json == {"size_bytes": int(size["apparentsize"]), "allocated_bytes": int(size["truesize"])}


async def test_nobody_stops_what_a_vm_is_at(daemon: Running, tmp_path: Any) -> None:
    made, fake = await furnish(daemon, tmp_path / "storage"), daemon.machine.fake
    top_id, take, may_go_on = await add_top(daemon, made, made.volume_id), fake.snapshot, asyncio.Event()

    async def wait(vm_id: str, xml: str) -> None:
        await may_go_on.wait()
        await take(vm_id, xml)

    fake.snapshot = wait  # type: ignore[method-assign]
    given = {"vmID": made.vm_id, "snapDrives": [wish(made, made.volume_id, top_id)], "jobUUID": (job_id := make_id())}
    await daemon.rpc("VM.snapshot", given)
    await daemon.rpc("Task.stop", {"taskID": job_id})
    jobs = await daemon.rpc("Host.getJobs", {"job_ids": [job_id]})
    assert jobs[job_id]["status"] == "running"
    with pytest.raises(CallFailed) as refused:
        await daemon.rpc("Task.clear", {"taskID": job_id})
    assert refused.value.code == 410
    may_go_on.set()
    assert (await end(daemon, job_id))["status"] == "done"


async def test_a_failed_job_tells_why_and_cannot_be_stopped(daemon: Running, tmp_path: Any) -> None:
    made = await furnish(daemon, tmp_path / "storage")
    job_id = make_id()
    given = {"vmID": made.vm_id, "snapDrives": [wish(made, make_id(), make_id())], "jobUUID": job_id}
    await daemon.rpc("VM.snapshot", given)
    job = await end(daemon, job_id)
    assert (job["status"], job["error"]["code"]) == ("failed", 48) and "no disk" in job["error"]["message"]
    assert await daemon.rpc("Task.stop", {"taskID": job_id}) is True
    assert await end(daemon, job_id) == job
    with pytest.raises(CallFailed) as refused:
        await daemon.rpc("VM.snapshot", given)
    assert refused.value.code == 100
    await daemon.rpc("Task.clear", {"taskID": job_id})
    assert await daemon.rpc("Host.getJobs", {"job_ids": [job_id]}) == {}


@pytest.mark.parametrize(
    ("method", "parameters", "code"),
    [
        ("VM.snapshot", {}, 91),
        ("VM.snapshot", {"snapDrives": {}}, 91),
        ("VM.snapshot", {"snapDrives": ["disk"]}, 91),
        ("VM.snapshot", {"snapDrives": [], "timeout": 0}, 91),
        ("VM.snapshot", {"snapDrives": [], "timeout": "soon"}, 91),
        ("VM.snapshot", {"snapDrives": [], "freeze_timeout": -8}, 91),
        ("VM.snapshot", {"snapDrives": [], "jobUUID": "../../etc"}, 91),
        ("VM.snapshot", {"snapDrives": [], "snapMemory": "a,b,c,d,e,f"}, 100),
        ("VM.snapshot", {"snapDrives": [], "vmID": make_id()}, 1),
        ("VM.merge", {}, 91),
        ("VM.merge", {"drive": {}, "baseVolUUID": make_id(), "topVolUUID": make_id()}, 91),
        ("VM.merge", {"drive": DISK, "baseVolUUID": "", "topVolUUID": make_id()}, 91),
        ("VM.merge", {"drive": DISK, "baseVolUUID": "../x", "topVolUUID": make_id()}, 91),
        ("VM.merge", {"drive": DISK, "baseVolUUID": make_id(), "topVolUUID": make_id(), "bandwidth": 2**40}, 91),
        ("VM.merge", {"drive": DISK, "baseVolUUID": make_id(), "topVolUUID": make_id()}, 13),
        ("VM.diskReplicateStart", {"srcDisk": DISK, "dstDisk": DISK}, 13),
        ("VM.diskReplicateStart", {"srcDisk": DISK, "dstDisk": DISK, "vmID": make_id()}, 1),
        ("VM.diskReplicateStart", {"srcDisk": DISK, "dstDisk": DISK, "needExtend": 7}, 91),
        ("VM.diskReplicateStart", {"srcDisk": DISK}, 91),
        ("VM.diskReplicateFinish", {"srcDisk": DISK, "dstDisk": DISK}, 13),
        ("VM.diskReplicateFinish", {"srcDisk": "disk", "dstDisk": DISK}, 91),
        *(("VM.diskSizeExtend", {"driveSpecs": DISK, "newSize": size}, 58) for size in (1, "", "-1", "x", "9" * 30)),
        ("VM.diskSizeExtend", {"driveSpecs": DISK, "newSize": "1"}, 13),
        ("VM.diskSizeExtend", {"driveSpecs": DISK, "newSize": "1", "vmID": make_id()}, 1),
        ("VM.diskSizeExtend", {"driveSpecs": DISK, "newSize": "1", "vmID": BLANK}, 56),
        ("VM.refresh_disk", {"drive": DISK}, 13),
        ("VM.refresh_disk", {"drive": []}, 91),
        ("VM.freeze", {}, 19),
        ("VM.thaw", {}, 19),
        ("VM.thaw", {"vmID": make_id()}, 1),
    ],
)
@on_the_shared_loop
async def test_what_does_not_fit(house: House, method: str, parameters: dict[str, Any], code: int) -> None:
    daemon, made = house
    with pytest.raises(CallFailed) as refused:
        await daemon.rpc(method, {"vmID": made.vm_id, **parameters})
    assert refused.value.code == code
