"""Servers that hosts share as clients connect them: what each connection is told, and what a restart remembers."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.running import BLANK, PATIENCE_S, FakeMachine, Running, choose_settings, make_id, running, start_vm
from vdsm.settings import Spm
from vdsm.storage.ports import MountFailed
from vdsm.wire.client import CallFailed

NFS = "server:/exports/vms"
SPELLED = "server://exports/vms/"
DEFAULT_OPTIONS = "soft,nosharecache,timeo=100,retrans=3,nfsvers=3,nolock"


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    made = FakeMachine()
    for name in (NFS, "gl1:/vol0", "/dev/vg/lv"):
        folder = tmp_path / "servers" / name.replace("/", "_")
        folder.mkdir(parents=True)
        made.mounts.servers[name] = folder
    return made


async def look(condition: Callable[[], bool]) -> None:
    """Until there is something to see that no event tells of."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def change(daemon: Running, type: str, *connections: dict[str, Any], verb: str = "connect") -> dict[str, int]:
    """The status of each connection by its id."""
    params = {"storagepoolID": BLANK, "domainType": type, "connectionParams": list(connections)}
    answers = await daemon.rpc(f"StoragePool.{verb}StorageServer", params)
    return {answer["id"]: answer["status"] for answer in answers}


async def refuse(daemon: Running, type: str, *connections: dict[str, Any]) -> int:
    """The failure of the whole verb."""
    with pytest.raises(CallFailed) as caught:
        await change(daemon, type, *connections)
    return caught.value.code


def list_options(machine: FakeMachine) -> dict[str, str]:
    return {one.source: machine.mounts.options[one.target] for one in machine.mounts.list_mounted()}


async def test_each_connection_tells_its_own_status(root: Path, certificates: Path, machine: FakeMachine) -> None:
    async with running(root, certificates, machine=machine) as daemon:
        places = [
            {"id": "a", "connection": NFS},
            {"id": "b", "connection": "nobody:/x"},
            {"id": "c", "connection": SPELLED},
        ]
        assert await change(daemon, "1", *places) == {"a": 0, "b": 477, "c": 0}
        gluster = {"id": "d", "connection": "gl1:/vol0", "vfs_type": "glusterfs", "mnt_options": "log-level=DEBUG"}
        assert await change(daemon, "GLUSTERFS", gluster) == {"d": 0}
        posix = {"id": "e", "connection": "/dev/vg/lv", "vfs_type": "xfs"}
        assert await change(daemon, "6", posix) == {"e": 0}
        assert list_options(machine) == {NFS: DEFAULT_OPTIONS, "gl1:/vol0": "log-level=DEBUG", "/dev/vg/lv": ""}
        machine.mounts.fail_next("unmount", MountFailed("it hangs"))
        assert await change(daemon, "6", posix, verb="disconnect") == {"e": 477}
        assert await change(daemon, "6", posix, verb="disconnect") == {"e": 0}
        assert await change(daemon, "1", places[0], verb="disconnect") == {"a": 0}
        assert NFS in list_options(machine), "another connection uses it"
        assert await change(daemon, "1", places[2], verb="disconnect") == {"c": 0}
        assert list(list_options(machine)) == ["gl1:/vol0"]


async def test_what_makes_no_sense_fails_the_verb_and_connects_nothing(
    root: Path, certificates: Path, machine: FakeMachine
) -> None:
    good = {"id": "good", "connection": NFS}
    async with running(root, certificates, machine=machine) as daemon:
        for bad in (
            {"mnt_options": "exec,suid,dev"},
            {"mnt_options": "ro bind"},
            {"connection": "-obind:/x"},
            {"connection": "a:/b\nc"},
            {"connection": ""},
            {"protocol_version": "4.1.2"},
            {"retrans": "many"},
            {"timeout": "1.5"},
            {"timeout": -1},
        ):
            assert await refuse(daemon, "1", good, {**good, "id": "bad", **bad}) == 1000, bad
        assert await refuse(daemon, "1", good, {"connection": NFS}) == 1000
        assert machine.mounts.list_mounted() == ()


async def test_a_restart_connects_with_the_same_parameters(
    root: Path, certificates: Path, machine: FakeMachine
) -> None:
    connection = {"connection": NFS, "protocol_version": "4.2", "retrans": 6, "timeout": 600, "mnt_options": "sec=sys"}
    first, second = make_id(), make_id()
    options = "soft,nosharecache,timeo=600,retrans=6,nfsvers=4,minorversion=2,sec=sys"
    async with running(root, certificates, machine=machine) as daemon:
        await change(daemon, "1", {"id": first, **connection}, {"id": second, **connection})
        assert list_options(machine) == {NFS: options}
    machine.mounts.unmount(machine.mounts.list_mounted()[0].target)  # as if the host had started anew
    async with running(root, certificates, machine=machine) as daemon:
        await look(lambda: list_options(machine) == {NFS: options})
        await look(lambda: len(users(daemon)) == 2)
        assert await change(daemon, "1", {"id": first, **connection}, verb="disconnect") == {first: 0}
        assert list_options(machine) == {NFS: options}
        remembered = json.loads((daemon.paths.state / "storage.json").read_text())["connections"]
        assert [(type, one["id"]) for type, one in remembered] == [("NFS", second)]
        assert await change(daemon, "1", {"id": second, **connection}, verb="disconnect") == {second: 0}
        assert list_options(machine) == {}
        assert json.loads((daemon.paths.state / "storage.json").read_text())["connections"] == []


def users(daemon: Running) -> set[str]:
    """Ids of the connections to the one server."""
    kind = daemon.node.storage.pools._repository.servers._kinds["NFS"]  # type: ignore[index]
    return {id for users in kind._users.values() for _, id in users}  # type: ignore[attr-defined]


async def test_a_daemon_that_lost_its_lease_is_ended(root: Path, certificates: Path, machine: FakeMachine) -> None:
    settings = replace(choose_settings(), spm=Spm(watchdog_interval=0.1))
    async with running(root, certificates, machine=machine, settings=settings) as daemon:
        domain_id, pool_id = make_id(), make_id()
        await change(daemon, "1", {"id": make_id(), "connection": NFS})
        domain = {"domainType": "1", "typeArgs": {"remotePath": NFS}, "name": "n", "domainClass": 1, "version": 5}
        await daemon.rpc("StorageDomain.create", {"storagedomainID": domain_id, **domain})
        pool = {"storagepoolID": pool_id, "masterSdUUID": domain_id, "masterVersion": 1}
        await daemon.rpc("StoragePool.create", {**pool, "name": "pool", "domainList": [domain_id]})
        await daemon.rpc(
            "StoragePool.connect", {**pool, "hostID": 1, "scsiKey": "", "domainDict": {domain_id: "Active"}}
        )
        start = {"storagepoolID": pool_id, "prevID": -1, "prevLver": "-1", "enableScsiFencing": "false"}
        await daemon.finish(await daemon.rpc("StoragePool.spmStart", start))
        status = await daemon.rpc("StoragePool.getSpmStatus", {"storagepoolID": pool_id})
        assert status == {"spmStatus": "SPM", "spmId": 1, "spmLver": 2}
        assert machine.lost == [] and set(machine.leases.judge.members[domain_id]) == {1}
        machine.leases.held.clear()
        await look(lambda: bool(machine.lost))
        assert domain_id in machine.lost[0]


TEXTS = dict(
    zip(
        "description disktype format image legality parent type voltype".split(),
        "DESCRIPTION DISKTYPE FORMAT IMAGE LEGALITY PUUID TYPE VOLTYPE".split(),
        strict=True,
    )
)
NUMBERS = dict(zip("capacity ctime generation sequence".split(), "CAP CTIME GEN SEQ".split(), strict=True))
"""What a dump tells of a volume, and the keys of its record."""


def read_volume(data: Path) -> dict[str, Any]:
    """A volume as a dump must tell it, read from its files by this test alone."""
    *lines, end = data.with_name(f"{data.name}.meta").read_text().splitlines()
    record, status = dict(line.split("=", 1) for line in lines), data.stat()
    assert end == "EOF"
    texts = {name: record[key] for name, key in TEXTS.items()}
    numbers = {name: int(record[key]) for name, key in NUMBERS.items()}
    sizes = {"apparentsize": status.st_size, "truesize": status.st_blocks * 512}
    return {"status": "OK", **texts, **numbers, **sizes}


async def test_a_disk_of_gluster_with_its_lease(root: Path, certificates: Path, machine: FakeMachine) -> None:
    async with running(root, certificates, machine=machine) as daemon:
        ids = {name: make_id() for name in ("poolID", "domainID", "imageID", "volumeID")}
        pool_id, domain_id, image_id, volume_id = ids.values()
        await change(daemon, "7", {"id": make_id(), "connection": "gl1:/vol0"})
        domain = {"domainType": "7", "typeArgs": {"remotePath": "gl1:/vol0"}, "name": "n", "domainClass": 1}
        await daemon.rpc("StorageDomain.create", {"storagedomainID": domain_id, **domain, "version": 5})
        pool = {"storagepoolID": pool_id, "masterSdUUID": domain_id, "masterVersion": 1}
        await daemon.rpc("StoragePool.create", {**pool, "name": "pool", "domainList": [domain_id]})
        await daemon.rpc("StoragePool.connect", {**pool, "hostID": 1, "scsiKey": ""})
        start = {"storagepoolID": pool_id, "prevID": -1, "prevLver": "-1", "enableScsiFencing": "false"}
        await daemon.finish(await daemon.rpc("StoragePool.spmStart", start))
        place = {"storagepoolID": pool_id, "storagedomainID": domain_id, "imageID": image_id}
        base_id, kind = make_id(), {"volFormat": "COW", "preallocate": "SPARSE", "diskType": "DATA", "desc": ""}
        for new_id, parent_id in ((base_id, BLANK), (volume_id, base_id)):
            sources = {"srcImgUUID": image_id if parent_id == base_id else BLANK, "srcVolUUID": parent_id}
            volume = {**place, "volumeID": new_id, "size": str(1 << 20), **kind, **sources}
            await daemon.finish(await daemon.rpc("Volume.create", volume))

        prepared = await daemon.xmlrpc("prepareImage", pool_id, domain_id, image_id, volume_id)
        name = f"vol0/{domain_id}/images/{image_id}/{volume_id}"
        hosts = [{"name": "gl1", "port": "0", "transport": "tcp"}]
        assert prepared["info"] == {"type": "network", "path": name, "protocol": "gluster", "hosts": hosts}
        leases = {one["volumeID"]: (one["leasePath"], one["leaseOffset"]) for one in prepared["imgVolumesInfo"]}
        assert leases == {id: (f"{prepared['path'].rpartition('/')[0]}/{id}.lease", 0) for id in (base_id, volume_id)}

        dump = await daemon.rpc("StorageDomain.dump", {"sd_id": domain_id, "full": True})
        assert set(dump["volumes"]) == {base_id, volume_id} and dump["lockspace"] == [] and dump["xleases"] == {}
        writer = {"offset": 1 << 20, "lockspace": domain_id, "resource": "SDM"}
        assert dump["leases"] == [{**writer, "timestamp": 0, "own": 0, "gen": 0, "lver": 0}]
        folder = Path(prepared["path"]).parent
        assert dump["volumes"] == {id: read_volume(folder / id) for id in (base_id, volume_id)}
        assert not {"leases", "xleases"} & set(await daemon.rpc("StorageDomain.dump", {"sd_id": domain_id}))

        vm_id = make_id()
        disk = {"type": "disk", "device": "disk", "diskType": "network", "iface": "virtio", "format": "cow", **ids}
        await start_vm(daemon, vm_id, devices=[disk])
        [found] = machine.hypervisor.domains[vm_id].xml.iterfind("devices/disk[@device='disk']")
        assert found.get("type") == "network" and found.find("source").get("name") == name  # type: ignore[union-attr]
