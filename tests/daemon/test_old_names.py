"""The calls of 2011 against a whole daemon: every name works, bends where old scripts need it, and tells its status."""

from pathlib import Path
from typing import Any
from xmlrpc.client import Fault

import pytest

from tests.daemon.running import (
    BLANK,
    GIB,
    Furniture,
    House,
    Running,
    furnish_storage,
    make_id,
    on_the_shared_loop,
    start_vm,
)
from vdsm.api.catalogue import list_all_verbs

OK, DONE = {"code": 0, "message": "OK"}, {"code": 0, "message": "Done"}
NAMES = {call.name for verb in list_all_verbs() for call in verb.xmlrpc}

# The numbers that scripts import as constants.
LOCALFS, DATA = 4, 1
COW, RAW, SPARSE, PREALLOCATED, LEAF = 4, 5, 2, 1, 8


class Script:
    """Calls like a script does, and remembers which names it used."""

    def __init__(self, daemon: Running) -> None:
        self.daemon = daemon
        self.used: set[str] = set()

    async def ok(self, name: str, *parameters: Any) -> dict[str, Any]:
        answer = await self.daemon.xmlrpc(name, *parameters)
        self.used.add(name)
        assert answer.pop("status") in (OK, DONE), (name, answer)
        return answer

    async def finish(self, name: str, *parameters: Any) -> str:
        """A call that starts a task, and the wait for its end."""
        answer = await self.ok(name, *parameters)
        assert list(answer) == ["uuid"]
        await self.daemon.finish(answer["uuid"])
        return str(answer["uuid"])


async def move_and_send(s: Script, pool: str, domain: str, other: str, image: str) -> None:
    """To the other domain in each of the ways; at last it is gone there."""
    await s.finish("cloneImageStructure", pool, domain, image, other)
    await s.finish("syncImageData", pool, domain, image, other, "ALL")
    await s.finish("deleteImage", other, pool, image, False, False)
    await s.finish("moveImage", pool, domain, other, image, "", 1)
    place = {"method": "http", "url": "file:///etc/shadow", "headers": {}}
    for name in ("uploadImage", "downloadImage"):
        refused = await s.daemon.xmlrpc(name, place, pool, other, image)
        assert refused["status"]["code"] == 261  # it has two volumes
        s.used.add(name)
    await s.finish("deleteImage", other, pool, image, False, False)


async def test_every_name_of_2011(daemon: Running, tmp_path: Path) -> None:
    s = Script(daemon)
    pool, domain, other, image, volume, leaf, vm = (make_id() for _ in range(7))
    place, other_place = str(tmp_path / "first"), str(tmp_path / "second")
    for folder in (place, other_place):
        Path(folder).mkdir()

    assert await s.ok("ping") == {}
    await s.ok("setLogLevel", 30, "http")
    for name, member in (("getVdsCapabilities", "info"), ("getVdsStats", "info"), ("getVdsHardwareInfo", "info")):
        assert list(await s.ok(name)) == [member]
    assert await s.ok("list") == {"vmList": []}
    assert await s.ok("getAllVmStats") == {"statsList": []}
    assert await s.ok("getConnectedStoragePoolsList") == {"poollist": []}

    connected = await s.ok("connectStorageServer", LOCALFS, "my favorite pet", [{"id": 1, "connection": place}])
    assert connected == {"statuslist": [{"id": "1", "status": 0}]}
    await s.ok("connectStorageServer", "LOCALFS", "", [{"id": "2", "spec": other_place}], {})
    await s.ok("createStorageDomain", LOCALFS, domain, "mine", place, DATA, 0)
    await s.ok("createStorageDomain", LOCALFS, other, "other", other_place, "Data", "5", {})
    await s.ok("createStoragePool", LOCALFS, pool, "pool", domain, [domain], 1, "", 5, 60, 10, 3, {})
    await s.ok("connectStoragePool", pool, 1, "scsikey", domain, 1, {})
    assert (await s.ok("getSpmStatus", pool))["spm_st"]["spmStatus"] == "Free"
    start = await s.finish("spmStart", pool, -1, -1, -1, 0)
    assert (await s.ok("getTaskStatus", start))["taskStatus"]["taskResult"] == "success"
    assert (await s.ok("getTaskInfo", start))["TaskInfo"] == {"id": start, "verb": "spmStart"}
    await s.ok("clearTask", start)
    assert list(await s.ok("getStoragePoolInfo", pool)) == ["info", "dominfo"]
    await s.ok("attachStorageDomain", other, pool, {})
    await s.ok("activateStorageDomain", other, pool)
    assert sorted((await s.ok("getStorageDomainsList", pool, "", "", "", {}))["domlist"]) == sorted([domain, other])
    await s.ok("validateStorageDomain", domain)
    assert (await s.ok("getStorageDomainInfo", domain))["info"]["version"] == "5"
    assert int((await s.ok("getStorageDomainStats", domain))["stats"]["disktotal"]) > GIB

    health = await s.ok("repoStats", {})
    assert set(health) == {domain, other}
    assert set(health[domain]) == {"code", "lastCheck", "delay", "valid", "version", "acquired", "actual"}
    await s.ok("startMonitoringDomain", make_id(), 1, {})
    await s.ok("stopMonitoringDomain", make_id(), {})

    # Sizes in GiB as numbers, in bytes as text.
    create = ("createVolume", domain, pool, image)
    made = await s.finish(*create, 100, COW, SPARSE, LEAF, volume, "volly", BLANK, BLANK)
    await s.finish(*create, str(100 * GIB), COW, SPARSE, "DATA", leaf, "a leaf", image, volume, "")
    info = (await s.ok("getVolumeInfo", domain, pool, image, volume))["info"]
    assert (info["capacity"], info["disktype"], info["format"]) == (str(100 * GIB), "DATA", "COW")
    assert set(await s.ok("getVolumeSize", domain, pool, image, leaf)) == {"truesize", "apparentsize"}
    assert (await s.ok("getImagesList", domain))["imageslist"] == [image]
    assert await s.ok("getImageDomainsList", pool, image) == {"domainslist": [domain]}
    leaf_ids = (domain, pool, image, leaf)
    await s.ok("setVolumeDescription", *leaf_ids, "described")
    await s.ok("setVolumeLegality", *leaf_ids, "ILLEGAL")
    await s.ok("setVolumeLegality", *leaf_ids, "LEGAL")
    await s.ok("refreshVolume", *leaf_ids)
    await s.ok("teardownVolume", *leaf_ids)
    assert (await s.ok("reconcileVolumeChain", pool, domain, image, leaf))["volumes"] == [volume, leaf]
    assert (await s.ok("getVolumeInfo", *leaf_ids))["info"]["description"] == "described"
    assert sorted((await s.ok("getVolumesList", domain, pool))["uuidlist"]) == sorted([volume, leaf])
    assert set(await s.ok("prepareImage", pool, domain, image, leaf)) == {"path", "info", "imgVolumesInfo"}
    await s.ok("teardownImage", pool, domain, image, "")
    for name, member in (
        ("getAllTasksStatuses", "allTasksStatus"),
        ("getAllTasksInfo", "allTasksInfo"),
        ("getAllTasks", "tasks"),
    ):
        assert made in (await s.ok(name))[member]
    assert await s.ok("getHostJobs", "storage", []) == {"jobs": {}}

    drive = {"poolID": pool, "domainID": domain, "imageID": image, "volumeID": leaf}
    disc = tmp_path / "disc"
    disc.touch()
    old = {"memSize": 64, "display": "vnc", "drives": [drive], "floppy": str(disc)}
    created = await s.ok("create", {"vmId": vm, "vmName": "vm1", **old})
    assert (created["vmList"]["vmId"], created["vmList"]["status"]) == (vm, "WaitForLaunch")
    await daemon.wait_until(lambda: daemon.list_statuses(vm))
    ((item,),) = ((await s.ok("list", True, [vm]))["vmList"],)
    assert (item["vmName"], item["memSize"]) == ("vm1", 64)
    assert set((await s.ok("list"))["vmList"][0]) == {"vmId", "status", "statusTime"}
    assert (await s.ok("getVmStats", vm))["statsList"][0]["vmId"] == vm
    await keep_secrets(s)
    await ask_nobody(s, vm)
    await tune(s, vm)
    assert await s.ok("pause", vm) == {"output": ""}
    await daemon.wait_until(lambda: daemon.list_statuses(vm)[-1] == "Paused")
    assert await s.ok("cont", vm) == {"output": ""}
    await s.ok("setVmTicket", vm, "secret", 120)
    await s.ok("setVmTicket", vm, "secret", "120", "keep", {"userName": "x"})
    await plug_and_unplug(s, vm)
    await move(s, vm)
    await change_devices(s, vm, str(disc))
    daemon.machine.fake.agents.add(vm)
    for name, more in (("freeze", []), ("snapshot", [[], "", True]), ("thaw", [])):
        await s.ok(name, vm, *more)
    nothing = dict.fromkeys(("poolID", "domainID", "imageID", "volumeID"), "")
    refused = await daemon.xmlrpc("merge", vm, nothing, make_id(), make_id(), 0, make_id())
    assert refused["status"]["code"] == 13
    for name in ("diskReplicateStart", "diskReplicateFinish"):
        refused = await daemon.xmlrpc(name, vm, nothing, nothing)
        assert refused["status"]["code"] == 13
    assert await s.ok("getDiskAlignment", BLANK, drive) == {"alignment": {}}
    refused = await daemon.xmlrpc("diskSizeExtend", vm, nothing, "1")
    assert refused["status"]["code"] == 13
    s.used |= {"merge", "diskReplicateStart", "diskReplicateFinish", "diskSizeExtend"}
    await s.ok("reset", vm)
    await s.ok("shutdown", vm, 0, "bye", False, 5, True)
    await s.ok("destroy", vm)

    await s.finish("extendVolumeSize", pool, domain, image, leaf, str(200 * GIB))
    copied, template = make_id(), make_id()
    ends = (domain, pool, vm, image, leaf, copied, template)
    await s.finish("copyImage", *ends, "golden", other, 6, RAW, SPARSE)
    info = (await s.ok("getVolumeInfo", other, pool, copied, template))["info"]
    assert (info["voltype"], info["format"], info["description"]) == ("SHARED", "RAW", "golden")
    assert (await daemon.xmlrpc("copyImage", *ends))["status"]["code"] == 1000  # formats must be named
    await s.finish("deleteImage", other, pool, copied, False, False)
    await move_and_send(s, pool, domain, other, image)
    await s.finish("deleteVolume", domain, pool, image, [leaf])
    await s.finish("deleteImage", domain, pool, image)
    assert (await s.ok("getImagesList", domain))["imageslist"] == []
    refused = await daemon.xmlrpc("revertTask", made)
    stopped = await daemon.xmlrpc("stopTask", made)
    s.used |= {"revertTask", "stopTask"}
    assert refused["status"]["code"] in (0, 402, 410) and stopped["status"]["code"] in (0, 410), (refused, stopped)
    await leave_pool(s, pool, domain, other)
    for name in ("extendStorageDomain", "resizePV"):
        refused = await daemon.xmlrpc(name, domain, pool, ["device"] if name[0] == "e" else "device")
        assert refused["status"]["code"] == 2009
        s.used.add(name)
    await s.ok("spmStop", pool)
    await s.ok("disconnectStoragePool", pool, 1, "scsikey")
    domains = {domain: "Active"}
    await s.ok("reconstructMaster", pool, "pool", domain, domains, 2, "", 5, 60, 10, 3)
    await s.ok("connectStoragePool", pool, 1, "scsikey", domain, 2)
    await s.ok("refreshStoragePool", pool, domain, 2, {})
    await s.ok("destroyStoragePool", pool, 1, "scsikey")
    assert (await s.ok("getStorageDomainInfo", domain))["info"]["pool"] == []
    await s.ok("formatStorageDomain", domain)
    await s.ok("disconnectStorageServer", LOCALFS, "", [{"id": 7, "connection": place}])
    assert s.used == NAMES


async def plug_and_unplug(s: Script, vm: str) -> None:
    def document(device: str) -> dict[str, str]:
        return {"vmId": vm, "xml": f"<hotplug><devices>{device}</devices></hotplug>"}

    disk = document("<disk type='file' device='disk'><source file='/disk'/><target dev='vdz'/></disk>")
    assert await s.ok("hotplugDisk", disk) == {"vmList": {}}
    assert await s.ok("hotunplugDisk", disk) == {"vmList": {}}
    card = document("<interface type='bridge'><mac address='02:00:00:00:00:01'/><source bridge='b'/></interface>")
    plugged = (await s.ok("hotplugNic", card))["vmList"]
    assert [device["macAddr"] for device in plugged["devices"]] == ["02:00:00:00:00:01"] and vm in plugged["xml"]
    assert await s.ok("hotunplugNic", card) == {"vmList": {}}
    assert await s.ok("hotplugMemory", {"vmId": vm, "memory": {"size": "64", "node": 0}}) == {"vmList": {}}
    device = document("<hostdev mode='subsystem' type='usb'><source><vendor id='1'/></source></hostdev>")["xml"]
    [taken] = (await s.ok("hostdevHotplug", vm, [device]))["assignedDevices"]
    named = document("<hostdev><alias name='hostdev0'/></hostdev>")["xml"]
    assert "hostdev0" in taken and len((await s.ok("hostdevHotunplug", vm, [named]))["unpluggedDevices"]) == 1


async def change_devices(s: Script, vm: str, disc: str) -> None:
    """Of a VM that has drives and a display."""
    assert await s.ok("changeCD", vm, disc) == {"vmList": {}}
    assert await s.ok("changeCD", vm, "") == {"vmList": {}}
    assert await s.ok("changeFloppy", vm, {"path": disc}) == {"vmList": {}}
    assert await s.ok("setNumberOfCpus", vm, "1") == {"vmList": {}}
    ticket = {"deviceType": "graphics", "graphicsType": "vnc", "password": "p", "ttl": "60", "params": {}}
    assert await s.ok("vmUpdateDevice", vm, ticket) == {"vmList": {}}


async def tune(s: Script, vm: str) -> None:
    """Limits of a VM with one disk and no balloon."""
    await s.ok("setBalloonTarget", vm, 32768)
    await s.ok("vmSetCpuTuneQuota", vm, 50_000)
    await s.ok("vmSetCpuTunePeriod", vm, "100000")
    await s.ok("setIoTune", vm, [{"name": "hda", "ioTune": {"total_bytes_sec": 1_000_000}}])
    await s.ok("updateVmPolicy", {"vmId": vm, "vcpuLimit": "50", "ioTune": [{"name": "hda", "maximum": {}}]})
    [disk] = (await s.ok("getIoTune", vm))["ioTuneList"]
    assert (disk["name"], disk["ioTune"]["total_bytes_sec"]) == ("hda", 1_000_000)
    policy = (await s.ok("getIoTunePolicy", vm))["ioTunePolicyList"]
    assert policy == [{"name": "hda", "path": disk["path"], "maximum": {}}]
    every = (await s.ok("getAllVmIoTunePolicies"))["io_tune_policies_dict"]
    assert every == {vm: {"policy": policy, "current_values": [disk]}}
    stats = (await s.ok("getVmStats", vm))["statsList"][0]
    assert (stats["vcpuQuota"], stats["vcpuPeriod"], stats["vcpuUserLimit"]) == ("50000", 100_000, 50)


async def move(s: Script, vm: str) -> None:
    """To a host that is none, and from one."""
    await s.ok("migrateCancel", vm)
    refused = await s.daemon.xmlrpc("hibernate", vm, "")
    assert refused["status"]["code"] == 100, refused
    s.used.add("hibernate")
    refused = await s.daemon.xmlrpc("migrateChangeParams", vm, {"maxBandwidth": "5"})
    assert refused["status"]["code"] == 81
    s.used.add("migrateChangeParams")
    await s.ok("migrate", {"vmId": vm, "dst": "nobody.invalid", "mode": "remote", "method": "online"})
    await s.daemon.wait_until(lambda: s.daemon.list_statuses(vm)[-1] != "Migration Source")
    assert (await s.ok("migrateStatus", vm))["migrationStats"]["status"]["code"] == 12
    xml = f"<domain type='qemu'><name>guest</name><uuid>{(other := make_id())}</uuid><memory>1024</memory></domain>"
    cards = [{"name": "eth0", "hw": "x", "inet": ["192.0.2.1"], "inet6": []}]
    inside = {"guestFQDN": "guest.lan", "username": "ann", "netIfaces": cards}
    made = await s.ok("migrationCreate", {"vmId": other, "_srcDomXML": xml, "migrationDest": "libvirt", **inside}, 5)
    assert (made["migrationPort"], made["params"]["vmId"]) == (0, other)
    assert made["params"]["status"] == "Migration Destination"
    [told] = (await s.ok("getVmStats", other))["statsList"]
    assert {name: told[name] for name in inside} == inside
    await s.ok("destroy", other)


async def ask_nobody(s: Script, vm: str) -> None:
    """A guest without an agent."""
    words = {"desktopLock": (), "desktopLogin": ("", "me", "secret"), "desktopLogoff": (True,)}
    for name, given in {**words, "sendHcCmdToDesktop": ("dance",)}.items():
        refused = await s.daemon.xmlrpc(name, vm, *given)
        assert refused["status"]["code"] == 19
        s.used.add(name)


async def keep_secrets(s: Script) -> None:
    uuid = make_id()
    secret = {"uuid": uuid, "usageType": "ceph", "usageID": "ovirt/x", "password": "eA==", "description": "of a test"}
    await s.ok("registerSecrets", [secret])
    await s.ok("registerSecrets", [secret], True)
    assert s.daemon.machine.fake.secrets == {uuid: ("ovirt/x", b"x")}
    await s.ok("unregisterSecrets", [uuid])
    for name, wrong in (("registerSecrets", [{**secret, "uuid": "x"}]), ("unregisterSecrets", ["x"])):
        assert (await s.daemon.xmlrpc(name, wrong))["status"]["code"] == 72


async def leave_pool(s: Script, pool: str, domain: str, other: str) -> None:
    vm = make_id()
    await s.ok("updateVM", pool, [{"vm": vm, "ovf": "<Envelope/>", "imglist": ""}])
    assert await s.ok("getVmsList", pool) == {"vmlist": [vm]}
    assert await s.ok("getVmsInfo", pool, BLANK) == {"vmlist": {vm: "<Envelope/>"}}
    assert await s.ok("getVmsInfo", pool, "", [vm], {}) == {"vmlist": {vm: "<Envelope/>"}}
    await s.ok("removeVM", pool, vm, "", {})
    assert await s.ok("getVmsList", pool, BLANK, {}) == {"vmlist": []}
    assert await s.ok("upgradeStoragePool", pool, "5") == {"upgradeStatus": "started"}
    await s.ok("setStoragePoolDescription", pool, "another")
    await s.ok("setStorageDomainDescription", other, "another")
    await s.ok("deactivateStorageDomain", other, pool, BLANK, 1)
    await s.ok("detachStorageDomain", other, pool, BLANK, 1)
    await s.ok("attachStorageDomain", other, pool)
    await s.ok("forcedDetachStorageDomain", other, pool)
    await s.ok("forcedDetachStorageDomain", other, BLANK)
    await s.ok("formatStorageDomain", other, "", {})
    refused = await s.daemon.xmlrpc("getFileStats", domain, "*.iso", False, {})
    assert refused["status"]["code"] == 330
    s.used.add("getFileStats")


@pytest.fixture
async def stored(daemon: Running, tmp_path: Path) -> Furniture:
    return await furnish_storage(daemon, tmp_path / "storage")


@pytest.mark.parametrize(
    ("storage_type", "connection"),
    [(6, {"vfs_type": "glusterfs", "mnt_options": ""}), ("SHAREDFS", {}), ("POSIXFS", {})],
)
async def test_the_shared_file_system_of_2012_is_posix(
    storage_type: Any, connection: dict[str, Any], daemon: Running
) -> None:
    """No such server exists here: that it is tried shows that type and place were understood."""
    place = {"id": 1, "spec": "nowhere.invalid:/export", **connection}
    answer = await daemon.xmlrpc("connectStorageServer", storage_type, "my gluster mount", [place])
    ((item,),) = (answer["statuslist"],)
    assert item["id"] == "1"
    assert item["status"] not in (0, 1000)


@pytest.mark.parametrize(
    ("domain_class", "version"), [(DATA, 0), ("1", "0"), ("Data", ""), ("DATA", None), ("data", 5), (1, "5")]
)
async def test_a_domain_without_a_version_has_the_newest(
    domain_class: Any, version: Any, daemon: Running, tmp_path: Path
) -> None:
    folder = tmp_path / "storage"
    folder.mkdir()
    domain = make_id()
    await daemon.xmlrpc("connectStorageServer", LOCALFS, "", [{"id": 1, "path": str(folder)}])
    given = (LOCALFS, domain, "name", str(folder), domain_class, version)
    assert (await daemon.xmlrpc("createStorageDomain", *given))["status"] == OK
    info = (await daemon.xmlrpc("getStorageDomainInfo", domain))["info"]
    assert (info["version"], info["class"]) == ("5", "Data")


@pytest.mark.parametrize("size", [-1, 1.5, True, "1.5", "ten", str(2**80), 2**31 - 1, [1]])
@on_the_shared_loop
async def test_sizes_that_are_none(size: Any, house: House) -> None:
    """The largest number of this dialect would be 2 EiB, and is understood: there is only no pool."""
    ids = [make_id() for _ in range(4)]
    daemon, _ = house
    answer = await daemon.xmlrpc("createVolume", *ids[:3], size, RAW, PREALLOCATED, 8, ids[3], "")
    assert answer["status"]["code"] == (309 if size == 2**31 - 1 else 1000), answer


async def test_figures_beyond_32_bits_travel_as_text(stored: Furniture, daemon: Running) -> None:
    await daemon.finish((await daemon.xmlrpc("createVolume", *_place(stored), 3000, *_kind(make_id())))["uuid"])
    stats = (await daemon.xmlrpc("getStorageDomainStats", stored.domain_id))["stats"]
    assert stats["disktotal"].isdigit()
    assert type(stats["mdasize"]) is int


def _place(made: Furniture) -> tuple[str, str, str]:
    return made.domain_id, made.pool_id, make_id()


def _kind(volume_id: str) -> tuple[Any, ...]:
    return COW, SPARSE, LEAF, volume_id, "large", BLANK, BLANK


@pytest.mark.parametrize(
    ("name", "parameters", "code"),
    [
        ("getVmStats", ["nobody"], 1),
        ("destroy", ["nobody"], 1),
        ("setVmTicket", ["nobody", "x", 1], 1),
        ("create", [{"memSize": 64}], 11),
        ("create", [{"vmId": ""}], 11),
        ("create", ["vm"], 11),
        ("create", [], 11),
        ("hotplugDisk", [{"xml": "<hotplug/>"}], 11),
        ("hotplugDisk", [{"vmId": "nobody", "xml": "<hotplug/>"}], 1),
        ("updateVmPolicy", [{"vcpuLimit": 5}], 11),
        ("updateVmPolicy", [{"vmId": "nobody", "vcpuLimit": 5}], 1),
        ("setBalloonTarget", ["nobody", 1], 1),
        ("setBalloonTarget", ["nobody", "much"], 53),
        ("getTaskStatus", [make_id()], 401),
        ("getStorageDomainInfo", [make_id()], 358),
        ("getStorageDomainInfo", ["no id"], 1000),
        ("getStorageDomainInfo", [], 1000),
        ("getStoragePoolInfo", [make_id()], 309),
        ("getVmStats", [], 91),
        ("getVmStats", ["a", "b", "c"], 91),
        ("setLogLevel", ["LOUD"], 91),
    ],
)
@on_the_shared_loop
async def test_failures_are_a_status_and_nothing_else(
    name: str, parameters: list[Any], code: int, house: House
) -> None:
    daemon, _ = house
    answer = await daemon.xmlrpc(name, *parameters)
    assert list(answer) == ["status"]
    assert answer["status"]["code"] == code, answer
    assert isinstance(answer["status"]["message"], str)


async def test_what_nobody_foresaw_is_16_in_this_dialect(daemon: Running) -> None:
    vm_id = make_id()
    await start_vm(daemon, vm_id)
    daemon.machine.fake.fail_next("reset", ZeroDivisionError("secret detail"))
    status = (await daemon.xmlrpc("reset", vm_id))["status"]
    assert status == {"code": 16, "message": "General Exception: ('ZeroDivisionError',)"}


async def test_tasks_of_a_pool_are_told_by_its_spm_only(daemon: Running) -> None:
    assert (await daemon.xmlrpc("getAllTasksStatuses"))["status"]["code"] == 654


@on_the_shared_loop
async def test_introspection(house: House) -> None:
    daemon, _ = house
    listed = await daemon.xmlrpc("system.listMethods")
    assert set(listed) >= NAMES
    assert "Press" in str(await daemon.xmlrpc("system.methodHelp", "reset"))
    assert await daemon.xmlrpc("system.methodHelp", "bogus") == ""


@pytest.mark.parametrize("name", ["bogus", "system.multicall", "system.bogus", "vm.get_stats"])
@on_the_shared_loop
async def test_an_unknown_name_is_a_fault(name: str, house: House) -> None:
    daemon, _ = house
    with pytest.raises(Fault, match="not supported"):
        await daemon.xmlrpc(name)


BODIES = {
    "nothing": b"",
    "no XML": b"hello",
    "another document": b"<html/>",
    "no method": b"<methodCall><params/></methodCall>",
    "an answer": b"<methodResponse><params><param><value>1</value></param></params></methodResponse>",
    "a fault": b"<methodResponse><fault><value>1</value></fault></methodResponse>",
    "an entity": b'<!DOCTYPE a [<!ENTITY b "c">]><methodCall><methodName>ping</methodName></methodCall>',
    "an outer entity": b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><methodCall><methodName>ping</methodName></methodCall>',
    "no number": b"<methodCall><methodName>ping</methodName><params><param><value><int>x</int></value></param>"
    b"</params></methodCall>",
    "deep": b"<methodCall><methodName>ping</methodName><params><param>"
    + b"<value><array><data>" * 100
    + b"</data></array></value>" * 100
    + b"</param></params></methodCall>",
}


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("path", ["/", "/RPC2"])
@on_the_shared_loop
async def test_a_body_that_is_no_call_is_status_400(kind: str, path: str, house: House) -> None:
    daemon, _ = house
    answer = await daemon.rest("POST", path, BODIES[kind])
    assert answer.status == 400
    assert len(answer.body) < 300


@on_the_shared_loop
async def test_a_call_that_is_too_large_is_refused(house: House) -> None:
    daemon, _ = house
    call = b"<methodCall><methodName>ping</methodName><params><param><value>%s</value></param></params></methodCall>"
    assert (await daemon.rest("POST", "/RPC2", call % (b"x" * (1 << 20)))).status == 413
    large = await daemon.rest("POST", "/RPC2", call % (b"x" * (1 << 19)))
    assert (large.status, b"takes 0 parameters" in large.body) == (200, True)
