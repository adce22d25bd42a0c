"""VMs move between two whole daemons, over their real doors."""

import asyncio
from pathlib import Path

import pytest

from tests.daemon.running import PATIENCE_S, FakeMachine, Running, make_id, running, start_vm
from vdsm.wire.client import CallFailed


async def test_a_vm_moves_from_door_to_door(root: Path, certificates: Path, daemon: Running) -> None:
    other = FakeMachine()
    daemon.machine.fake.neighbours = {"127.0.0.1": other.fake}
    async with running(root / "other", certificates, machine=other) as there:
        await there.node.vms.wait_ready()
        vm_id = make_id()
        await start_vm(daemon, vm_id)
        never = {"status": {"code": 0, "message": "Done"}, "progress": 0}
        assert await daemon.rpc("VM.getMigrationStatus", {"vmID": vm_id}) == never
        params = {"vmId": vm_id, "dst": f"127.0.0.1:{there.node.port}", "cpusets": [None]}
        assert await daemon.rpc("VM.migrate", {"vmID": vm_id, "params": params}) is True
        await daemon.wait_until(lambda: daemon.list_statuses(vm_id)[-1] == "Down")
        await there.wait_until(lambda: there.list_statuses(vm_id)[-1:] == ["Up"])
        assert daemon.list_statuses(vm_id)[-2:] == ["Migration Source", "Down"]
        status = await daemon.rpc("VM.getMigrationStatus", {"vmID": vm_id})
        assert status == {"status": {"code": 0, "message": "Migration done"}, "progress": 100, "downtime": 42}
        owner = there.machine.fake.domains[vm_id].xml.findtext("metadata/{*}vm/{*}owner")
        assert owner == str(there.paths.root), "it belongs to the other root now"


async def test_hosts_count_vms_on_their_way(root: Path, certificates: Path, daemon: Running) -> None:
    other = FakeMachine()
    daemon.machine.fake.neighbours = {"127.0.0.1": other.fake}
    daemon.machine.fake.moves_end = False
    names = ("vmMigrating", "outgoingVmMigrations", "incomingVmMigrations", "vmActive")
    async with running(root / "other", certificates, machine=other) as there:
        await there.node.vms.wait_ready()
        vm_id = make_id()
        await start_vm(daemon, vm_id)
        params = {"vmId": vm_id, "dst": f"127.0.0.1:{there.node.port}"}
        await daemon.rpc("VM.migrate", {"vmID": vm_id, "params": params})
        async with asyncio.timeout(PATIENCE_S):
            while vm_id not in daemon.machine.fake.moves:
                await asyncio.sleep(0)
        for host, figures in ((daemon, (1, 1, 0, 1)), (there, (0, 0, 1, 1))):
            stats = await host.rpc("Host.getStats")
            assert tuple(stats[name] for name in names) == figures
        daemon.machine.fake.moves[vm_id].ended.set()
        await there.wait_until(lambda: there.list_statuses(vm_id)[-1:] == ["Up"])


async def test_what_the_other_daemon_says_is_told(root: Path, certificates: Path, daemon: Running) -> None:
    async with running(root / "other", certificates) as there:
        await there.node.vms.wait_ready()
        vm_id = make_id()
        await start_vm(daemon, vm_id)
        await start_vm(there, vm_id)
        params = {"vmId": vm_id, "dst": f"127.0.0.1:{there.node.port}"}
        await daemon.rpc("VM.migrate", {"vmID": vm_id, "params": params})
        await daemon.wait_until(lambda: daemon.list_statuses(vm_id)[-1] == "Powering up")
        status = (await daemon.rpc("VM.getMigrationStatus", {"vmID": vm_id}))["status"]
        assert status["code"] == 4 and "already exists" in status["message"]


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({}, 91),
        ({"dst": 5}, 91),
        ({"dst": "a b"}, 91),
        ({"dst": "x", "cpusets": ["0", "1"]}, 91),
        ({"dst": "x", "maxBandwidth": -1}, 91),
        ({"dst": "x", "parallel": 2**40}, 91),
        ({"dst": "x", "mode": "file"}, 91),
        ({"dst": "x", "convergenceSchedule": {"init": [{"name": "dance", "params": []}], "stalling": []}}, 91),
    ],
)
async def test_requests_that_cannot_be(daemon: Running, params: dict[str, object], code: int) -> None:
    vm_id = make_id()
    await start_vm(daemon, vm_id)
    with pytest.raises(CallFailed) as refused:
        await daemon.rpc("VM.migrate", {"vmID": vm_id, "params": params})
    assert refused.value.code == code
    assert (await daemon.rpc("VM.getStats", {"vmID": vm_id}))[0]["status"] != "Migration Source"
