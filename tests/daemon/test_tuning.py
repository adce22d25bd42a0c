"""Limits of a VM over every dialect: what changed and what was refused looks as clients of each know it."""

from typing import Any

import pytest

from tests.daemon.running import House, Running, furnish, on_the_shared_loop
from vdsm.wire.client import CallFailed

DONE = {"code": 0, "message": "Done"}
NONE = {f"{way}_{kind}_sec": 0 for kind in ("bytes", "iops") for way in ("total", "read", "write")}
BALLOON = {"type": "balloon", "device": "memballoon", "specParams": {"model": "virtio"}}


async def test_what_clients_of_ovirt_see(daemon: Running, tmp_path: Any) -> None:
    made = await furnish(daemon, tmp_path / "storage")
    vm = {"vmID": made.vm_id}
    ids = {"poolID": made.pool_id, "domainID": made.domain_id, "imageID": made.image_id, "volumeID": made.volume_id}
    some, all_of = {"read_bytes_sec": 5, "total_iops_sec": 7}, {"total_bytes_sec": 9}
    for method, parameters in (
        ("VM.setBalloonTarget", {"target": 32768}),
        ("VM.setCpuTuneQuota", {"quota": -1}),
        ("VM.setCpuTunePeriod", {"period": 100_000}),
        ("VM.setIoTune", {"tunables": [{"name": "hda", "ioTune": some}]}),
        ("VM.updateVmPolicy", {"params": {"vmId": made.vm_id, "vcpuLimit": 50, "stranger": 1}}),
        ("VM.updateVmPolicy", {"params": {"ioTune": [{**ids, "maximum": some, "guaranteed": all_of}]}}),
    ):
        assert await daemon.rpc(method, {**vm, **parameters}) == DONE
    [disk] = await daemon.rpc("VM.getIoTune", vm)
    assert disk == {"name": "hda", "path": disk["path"], "ioTune": NONE | some}
    [policy] = await daemon.rpc("VM.getIoTunePolicy", vm)
    assert policy == {"name": "hda", "path": disk["path"], "maximum": some, "guaranteed": all_of}
    every = await daemon.rpc("Host.getAllVmIoTunePolicies", {})
    assert every == {made.vm_id: {"policy": [policy], "current_values": [disk]}}
    [stats] = await daemon.rpc("VM.getStats", vm)
    assert (stats["vcpuQuota"], stats["vcpuPeriod"], stats["vcpuUserLimit"]) == ("-1", 100_000, 50)

    assert await daemon.rpc("Host.dumpxmls", {}) == {} == await daemon.rpc("Host.dumpxmls", {"vmList": []})
    told = await daemon.rpc("Host.dumpxmls", {"vmList": [made.vm_id]})
    assert list(told) == [made.vm_id] and told[made.vm_id].startswith("<domain")
    assert "<quota>-1</quota>" in told[made.vm_id]

    assert await daemon.rpc("VM.setDestroyOnReboot", vm) is True
    await daemon.rpc("VM.reset", vm)
    await daemon.wait_until(lambda: daemon.list_statuses(made.vm_id)[-1] == "Down")
    assert (await daemon.rpc("VM.getStats", vm))[0]["exitReason"] == 13


@on_the_shared_loop
async def test_rest(house: House) -> None:
    daemon, made = house
    vm = f"/api/v1/vms/{made.vm_id}"
    limits = {"read_bytes_per_s": 5, "total_operations_per_s": 7}
    for method, path, body in (
        ("PUT", "/balloon", {"target_kib": 32768}),
        ("PUT", "/cpu-quota", {"quota_us": 50_000}),
        ("PUT", "/cpu-period", {"period_us": 100_000}),
        ("PATCH", "/io-tune", {"disks": [{"name": "hda", "limits": limits}]}),
        ("PATCH", "/policy", {"change": {"cpu_limit_percent": 50, "disks": [{"name": "hda", "maximum": limits}]}}),
    ):
        assert (await daemon.rest(method, vm + path, body)).status == 204
    [disk] = (await daemon.rest("GET", f"{vm}/io-tune")).json
    assert {name: value for name, value in disk["limits"].items() if value} == limits
    policy = (await daemon.rest("GET", f"{vm}/io-tune-policy")).json
    assert policy == [{"name": "hda", "path": disk["path"], "maximum": limits}]
    every = (await daemon.rest("GET", "/api/v1/vms/io-tune-policies")).json
    assert every[made.vm_id] == {"policy": policy, "current": [disk]}
    xml = (await daemon.rest("GET", "/api/v1/vms/definitions", query={"vm_ids": made.vm_id})).json[made.vm_id]
    assert "<quota>50000</quota>" in xml


@pytest.mark.parametrize(
    ("method", "parameters", "code"),
    [
        ("VM.setBalloonTarget", {"target": "much"}, 53),
        ("VM.setBalloonTarget", {"target": -1}, 53),
        ("VM.setBalloonTarget", {"target": 1.5}, 53),
        ("VM.setBalloonTarget", {"target": 2**63}, 53),
        ("VM.setBalloonTarget", {}, 53),
        ("VM.setCpuTuneQuota", {"quota": 5}, 62),
        ("VM.setCpuTuneQuota", {"quota": [1]}, 62),
        ("VM.setCpuTuneQuota", {"quota": 2**63 - 1}, 62),
        ("VM.setCpuTunePeriod", {"period": -1}, 62),
        ("VM.setCpuTunePeriod", {"period": "soon"}, 62),
        ("VM.setIoTune", {"tunables": [{"name": "hda", "ioTune": {"read_bytes_sec": -1}}]}, 64),
        ("VM.setIoTune", {"tunables": [{"name": "hda", "ioTune": {"read_bytes_sec": 10**15 + 1}}]}, 64),
        ("VM.setIoTune", {"tunables": [{"name": "hda", "ioTune": {"read_bytes_sec": 1, "total_bytes_sec": 1}}]}, 64),
        ("VM.setIoTune", {"tunables": [{"name": "../hda", "ioTune": {}}]}, 64),
        ("VM.setIoTune", {"tunables": [{"name": "hda"}]}, 64),
        ("VM.setIoTune", {"tunables": "hda"}, 64),
        ("VM.updateVmPolicy", {"params": {"vcpuLimit": "half"}}, 63),
        ("VM.updateVmPolicy", {"params": {"vcpuLimit": -5}}, 63),
        ("VM.updateVmPolicy", {"params": {"vcpuLimit": 5, "ioTune": [{"name": "</qos>"}]}}, 63),
        ("VM.updateVmPolicy", {"params": {"vcpuLimit": 5, "ioTune": [{"domainID": "x"}]}}, 63),
        ("VM.updateVmPolicy", {"params": {"stranger": 1}}, 11),
        ("VM.updateVmPolicy", {"params": {}}, 11),
    ],
)
@on_the_shared_loop
async def test_what_is_refused_changes_nothing(
    method: str, parameters: dict[str, Any], code: int, house: House
) -> None:
    daemon, made = house
    before = await daemon.rpc("Host.dumpxmls", {"vmList": [made.vm_id]})
    with pytest.raises(CallFailed) as caught:
        await daemon.rpc(method, {"vmID": made.vm_id, **parameters})
    assert caught.value.code == code
    assert await daemon.rpc("Host.dumpxmls", {"vmList": [made.vm_id]}) == before
    [stats] = await daemon.rpc("VM.getStats", {"vmID": made.vm_id})
    assert (stats["status"], stats["monitorResponse"]) in (("Up", "0"), ("Powering up", "0"))


@on_the_shared_loop
async def test_definitions_of_a_vm_that_nobody_knows(house: House) -> None:
    daemon, made = house
    with pytest.raises(CallFailed) as caught:
        await daemon.rpc("Host.dumpxmls", {"vmList": [made.vm_id, "nobody"]})
    assert caught.value.code == 1
