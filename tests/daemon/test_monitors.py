"""The health of storage domains through a whole daemon: verbs, host statistics, pool info, events, and its checker."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.running import (
    PREFIX,
    FakeMachine,
    Furniture,
    Running,
    choose_settings,
    furnish_storage,
    make_id,
    running,
)
from tests.daemon.test_told import listening
from vdsm.adapters.checker import CheckerProcess
from vdsm.api.events import DomainStatusChanged
from vdsm.core.clock import SystemClock
from vdsm.storage.ports import PathCheck
from vdsm.testing.clock import VirtualClock
from vdsm.wire.client_session import CallFailed

REPO_STATS, START, STOP = "Host.getStorageRepoStats", "Host.startMonitoringDomain", "Host.stopMonitoringDomain"


def list_verdicts(daemon: Running, domain_id: str) -> list[int]:
    return [e.code for e in daemon.told if isinstance(e, DomainStatusChanged) and e.domain_id == domain_id]


async def furnish(daemon: Running, folder: Path) -> Furniture:
    made = await furnish_storage(daemon, folder)
    await daemon.wait_until(lambda: list_verdicts(daemon, made.domain_id) == [0])
    return made


async def test_a_domain_of_the_pool(daemon: Running, tmp_path: Path) -> None:
    made = await furnish(daemon, tmp_path / "storage")
    vitals = (await daemon.rpc(REPO_STATS))[made.domain_id]
    assert {**vitals, "lastCheck": ""} == {
        "code": 0,
        "lastCheck": "",
        "delay": "0.001",
        "valid": True,
        "version": 5,
        "acquired": True,
        "actual": True,
    }
    assert 0 <= float(vitals["lastCheck"]) < 60
    assert (await daemon.rpc("Host.getStats"))["storageDomains"][made.domain_id]["valid"] is True
    assert await daemon.rpc(REPO_STATS, {"domains": [make_id()]}) == {}
    assert set(await daemon.rpc(REPO_STATS, {"domains": [made.domain_id]})) == {made.domain_id}
    answer = await daemon.rest("GET", f"{PREFIX}/storage/monitors")
    assert answer.json[made.domain_id]["delay_s"] == 0.001
    with pytest.raises(CallFailed) as refused:
        await daemon.rpc(STOP, {"sdUUID": made.domain_id})
    assert refused.value.code == 900
    await daemon.rpc("StoragePool.spmStop", {"storagepoolID": made.pool_id})
    await daemon.rpc("StoragePool.disconnect", {"storagepoolID": made.pool_id, "hostID": 1, "scsiKey": ""})
    assert await daemon.rpc(REPO_STATS) == {} == (await daemon.rpc("Host.getStats"))["storageDomains"]


async def test_a_domain_that_becomes_sick_and_well_is_told_and_is_not_read_for_the_pool_s_info(
    root: Path, certificates: Path, tmp_path: Path
) -> None:
    clock, machine = VirtualClock(), FakeMachine()
    async with running(root, certificates, clock=clock, machine=machine) as daemon, listening(daemon) as visitor:
        await daemon.node.vms.wait_ready()
        made = await furnish(daemon, tmp_path / "storage")
        pool = {"storagepoolID": made.pool_id}
        described = (await daemon.rpc("StoragePool.getInfo", pool))["dominfo"][made.domain_id]
        assert {"version", "disktotal", "diskfree"} <= set(described) and described["alerts"] == []
        await clock.advance(5)
        machine.checker.tell(PathCheck(is_late=True))
        await daemon.wait_until(lambda: list_verdicts(daemon, made.domain_id) == [0, 2001])
        await clock.advance(20)
        vitals = (await daemon.rpc(REPO_STATS))[made.domain_id]
        assert (vitals["code"], vitals["valid"], vitals["actual"]) == (2001, False, True)
        assert float(vitals["lastCheck"]) >= 20
        described = (await daemon.rpc("StoragePool.getInfo", pool))["dominfo"][made.domain_id]
        assert described == {"status": "Active", "alerts": [], "isoprefix": ""}
        machine.checker.tell(PathCheck(25.0))
        await daemon.wait_until(lambda: list_verdicts(daemon, made.domain_id) == [0, 2001, 0])
        assert (await daemon.rpc(REPO_STATS))[made.domain_id]["delay"] == "25"

        told: list[dict[str, Any]] = []
        while len(told) < 3:
            message = json.loads((await visitor.get()).body)
            if message["method"] == f"|storage|domain_status|{made.domain_id}":
                told.append(message["params"])
        assert [(t["sdUUID"], t["valid"], t["code"]) for t in told] == [
            (made.domain_id, True, 0),
            (made.domain_id, False, 2001),
            (made.domain_id, True, 0),
        ]
        assert "read timeout" in told[1]["message"] and told[0]["message"] == ""


async def test_domains_that_callers_name(daemon: Running, tmp_path: Path) -> None:
    unknown = make_id()
    for _ in range(2):
        assert await daemon.rpc(START, {"sdUUID": unknown, "hostID": 3}) is True
    await daemon.wait_until(lambda: list_verdicts(daemon, unknown) == [358])
    vitals = (await daemon.rpc(REPO_STATS))[unknown]
    assert (vitals["code"], vitals["valid"], vitals["version"], vitals["delay"]) == (358, False, -1, "0")
    for _ in range(2):
        assert await daemon.rpc(STOP, {"sdUUID": unknown}) is True
    assert await daemon.rpc(REPO_STATS) == {}
    for parameters in ({"sdUUID": unknown, "hostID": 0}, {"sdUUID": "../../etc", "hostID": 1}, {"sdUUID": unknown}):
        with pytest.raises(CallFailed):
            await daemon.rpc(START, parameters)
    assert await daemon.rpc(REPO_STATS) == {}


async def test_monitors_come_back_with_the_pool_after_a_restart(root: Path, certificates: Path, tmp_path: Path) -> None:
    async with running(root, certificates) as daemon:
        await daemon.node.vms.wait_ready()
        made = await furnish(daemon, tmp_path / "storage")
    async with running(root, certificates) as daemon:
        await daemon.wait_until(lambda: list_verdicts(daemon, made.domain_id) == [0])
        assert set(await daemon.call("monitors.get_vitals")) == {made.domain_id}


async def test_a_real_checker_finds_a_domain_that_goes_and_comes(
    root: Path, certificates: Path, tmp_path: Path
) -> None:
    machine = FakeMachine()
    checker = machine.checker = CheckerProcess(0.1, SystemClock(), silence_s=60)
    settings = choose_settings()
    settings = replace(settings, irs=replace(settings.irs, sd_health_check_delay=0.2))
    async with running(root, certificates, machine=machine, settings=settings) as daemon:
        await daemon.node.vms.wait_ready()
        made = await furnish(daemon, tmp_path / "storage")
        metadata = tmp_path / "storage" / made.domain_id / "dom_md" / "metadata"
        content = metadata.read_bytes()
        metadata.unlink()
        await daemon.wait_until(lambda: list_verdicts(daemon, made.domain_id)[1:])
        metadata.write_bytes(content)
        await daemon.wait_until(lambda: list_verdicts(daemon, made.domain_id)[-1] == 0)
        process_id = checker.process_id
        assert process_id is not None
    assert not Path(f"/proc/{process_id}").exists()
