"""Before VMs are recovered every verb of every dialect says so; what needs no VM, such as the contract, is served."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.daemon.running import FakeMachine, Running, make_id, running, start_vm
from vdsm.wire.client import CallFailed


@pytest.fixture
async def waiting(root: Path, certificates: Path) -> AsyncIterator[Running]:
    """A daemon that cannot reach libvirt yet."""
    machine = FakeMachine()
    machine.may_open.clear()
    async with running(root, certificates, machine=machine) as daemon:
        yield daemon


@pytest.mark.parametrize("method", ["Host.ping2", "Host.getCapabilities", "VM.create", "Volume.create", "Host.bogus"])
async def test_json_rpc(method: str, waiting: Running) -> None:
    with pytest.raises(CallFailed) as caught:
        await waiting.rpc(method, {"stranger": 1})
    assert caught.value.code == 99
    assert "Recovering from crash or Initializing" in str(caught.value)


@pytest.mark.parametrize("call", [["ping"], ["getVdsCapabilities"], ["list"], ["getStorageDomainsList"]])
async def test_calls_of_2011(call: list[str], waiting: Running) -> None:
    answer = await waiting.xmlrpc(*call)
    assert list(answer) == ["status"]
    assert answer["status"]["code"] == 99


@pytest.mark.parametrize("path", ["/host/ping", "/vms", "/vms/stats", "/storage/domains", "/tasks/details"])
async def test_rest(path: str, waiting: Running) -> None:
    answer = await waiting.rest("GET", f"/api/v1{path}")
    assert (answer.status, answer.json["number"], answer.json["retry"]) == (503, 99, True)
    assert answer.headers["retry-after"].isdigit()
    assert (await waiting.rest("GET", "/api/v1/openapi.json")).status == 200
    assert (await waiting.rest("GET", "/api/v1/bogus")).status == 404


async def test_all_is_well_once_they_are_recovered(waiting: Running) -> None:
    waiting.machine.may_open.set()
    await waiting.node.vms.wait_ready()
    assert await waiting.rpc("Host.ping2") is True
    assert (await waiting.rest("GET", "/api/v1/vms")).json == []


async def test_a_new_daemon_knows_the_vms_of_the_one_before(root: Path, certificates: Path) -> None:
    machine, vm_id = FakeMachine(), make_id()
    async with running(root, certificates, machine=machine) as daemon:
        await daemon.node.vms.wait_ready()
        await start_vm(daemon, vm_id, vmName="survivor")
    machine.fake._listeners.clear()  # those of the one that ended
    async with running(root, certificates, machine=machine) as daemon:
        await daemon.node.vms.wait_ready()
        (vm,) = await daemon.rpc("Host.getVMList", {"fullStatus": True})
        assert (vm["vmId"], vm["vmName"], vm["status"]) == (vm_id, "survivor", "Up")
        await daemon.wait_until(lambda: daemon.list_statuses(vm_id) == ["Up"])
