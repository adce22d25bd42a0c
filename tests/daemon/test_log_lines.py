"""What calls leave in the log: who asked, under which flow, how it ended, and never a secret."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.daemon.running import Running, make_id, running, start_vm
from vdsm.logs import open_logs
from vdsm.wire.client import CallFailed

Lines = Callable[[], list[str]]
SECRETS = [f"s3cret-{number}" for number in range(12)]


@pytest.fixture
async def told(root: Path, certificates: Path) -> AsyncIterator[tuple[Running, Lines]]:
    """A daemon that logs everything to a file, and that file's lines."""
    file = root / "vdsm.log"
    kept = {name: logging.getLogger(name).level for name in ("", "asyncio")}
    output = open_logs(file=file, level="DEBUG", queue_records=100_000)
    try:
        async with running(root, certificates) as daemon:
            await daemon.node.vms.wait_ready()

            def read() -> list[str]:
                output.close()
                return file.read_text().splitlines()

            yield daemon, read
    finally:
        output.close()
        for name, level in kept.items():
            logging.getLogger(name or None).setLevel(level)


async def test_flow_and_origin_of_every_carrier(told: tuple[Running, Lines]) -> None:
    daemon, read = told
    await daemon.rpc("Host.echo", {"message": "x"}, flow_id="flow-stomp")
    await daemon.xmlrpc("getVdsStats", headers={"FlowID": "flow-xmlrpc"})
    await daemon.rest("GET", "/api/v1/vms/stats", headers={"FlowID": "flow-rest"})
    await daemon.call("host.ping")
    await daemon.rpc("Host.getVMList")
    lines = read()

    def find(start: str) -> str:
        (line,) = (line for line in lines if start in line)
        return line

    assert " from=127.0.0.1," in find("START Host.echo(") and "flow_id=flow-stomp" in find("START Host.echo(")
    assert "flow_id=flow-xmlrpc" in find("START Host.getStats(") and "from=127.0.0.1," in find("FINISH Host.getStats")
    assert "flow_id=flow-rest" in find("START Host.getAllVmStats(") and "from=unix," in find("FINISH Host.getAllVmS")
    assert find("START Host.ping(").rstrip().split("from=")[1].startswith("internal ")
    assert "flow_id" not in find("START Host.getVMList(")


async def test_the_flow_goes_along_to_work_in_the_background(told: tuple[Running, Lines]) -> None:
    daemon, read = told
    vm_id = make_id()
    daemon.machine.fake.fail_next("start", ZeroDivisionError("no luck"))
    await daemon.rpc(
        "VM.create", {"vmID": vm_id, "vmParams": {"vmId": vm_id, "vmName": "a", "memSize": 64}}, flow_id="flow-vm"
    )
    await daemon.wait_until(lambda: daemon.list_statuses(vm_id) == ["Down"])
    assert any(vm_id in line and "flow_id=flow-vm" in line and "START" not in line for line in read())


async def test_failures_are_told_with_their_time(told: tuple[Running, Lines]) -> None:
    daemon, read = told
    logging.getLogger().setLevel("INFO")
    for attempt in (("VM.reset", {"vmID": "nobody"}), ("VM.reset", {})):
        with pytest.raises(CallFailed):
            await daemon.rpc(*attempt, flow_id="flow-fail")
    await daemon.rest("POST", "/api/v1/host/echo", {"message": 7})
    await daemon.xmlrpc("getTaskStatus", "no-task")
    lines = [line for line in read() if "FINISH" in line]
    assert len(lines) == 4
    assert "error=Virtual machine does not exist" in lines[0] and " s) (" not in lines[0] and "s) flow_id=" in lines[0]
    assert "error=vmID: missing from=127.0.0.1," in lines[1] and "flow_id=flow-fail" in lines[1]
    assert "FINISH Host.echo error=message: " in lines[2] and "from=unix," in lines[2]
    assert "FINISH Task.getStatus error=Task id unknown" in lines[3]


async def test_nobody_writes_lines_of_his_own(told: tuple[Running, Lines]) -> None:
    daemon, read = told
    await daemon.rpc("Host.echo", {"message": "x\nERROR forged"}, flow_id="f\\nforged")
    await daemon.rest("GET", "/api/v1/x%0aforged")
    with pytest.raises(CallFailed):
        await daemon.rpc("Host.x\nERROR forged", {})
    assert not [line for line in read() if line.lstrip().startswith(("ERROR", "forged"))]


async def test_secrets_are_in_no_line(told: tuple[Running, Lines]) -> None:
    daemon, read = told
    secrets = iter(SECRETS)
    vm_id, image = make_id(), make_id()
    graphics = f'<graphics type="vnc" passwd="{next(secrets)}" passwdValidTo="1970-01-01T00:00:01"/>'
    xml = f"<domain><name>a</name><uuid>{image}</uuid><memory>65536</memory><devices>{graphics}</devices></domain>"
    hidden = {"_X_tpmdata": next(secrets), "_X_nvramdata": next(secrets)}
    await start_vm(daemon, vm_id, **hidden)
    ticket = {"vmID": vm_id, "ttl": 60, "password": next(secrets)}
    await daemon.rpc("VM.setTicket", ticket)
    await daemon.xmlrpc("setVmTicket", vm_id, next(secrets), 60)
    rest = f"/api/v1/vms/{vm_id}/ticket"
    await daemon.rest("POST", rest, {"password": next(secrets), "ttl_s": 60})
    await daemon.rest("POST", rest, {"password": [next(secrets)], "ttl_s": 60})
    await daemon.call("vm.set_ticket", vm_id=vm_id, password=next(secrets), ttl_s=60)
    with pytest.raises(CallFailed):
        await daemon.rpc("VM.setTicket", {**ticket, "password": {"no": next(secrets)}})
    with pytest.raises(CallFailed):
        await daemon.rpc("VM.setTicket", [vm_id, [next(secrets)], 60])
    server = {"id": make_id(), "connection": "h:/p", "user": "u", "password": next(secrets)}
    await daemon.rpc(
        "StoragePool.connectStorageServer",
        {"storagepoolID": "", "domainType": "NFS", "connectionParams": [server]},
    )
    daemon.machine.fake.fail_next("update_device", ZeroDivisionError("no luck"))
    with pytest.raises(CallFailed):
        await daemon.rpc("VM.setTicket", {**ticket, "password": next(secrets)})
    await daemon.rpc("VM.create", {"vmID": image, "vmParams": {"xml": xml}})
    await asyncio.sleep(0)
    text = "\n".join(read())
    assert "START VM.setTicket(" in text and "START VM.create(" in text
    assert [secret for secret in SECRETS if secret in text] == []
    assert next(secrets, None) is None, "every secret was sent"


async def test_large_values_are_not_logged_whole(told: tuple[Running, Lines]) -> None:
    daemon, read = told
    await daemon.rpc("Host.echo", {"message": "x" * 100_000})
    with pytest.raises(CallFailed):
        await daemon.rpc("Task.getStatus", {"taskID": "y" * 100_000})
    with pytest.raises(CallFailed):
        await daemon.rpc("VM.getStats", {"vmID": ["z" * 100_000]})
    lines = [line for line in read() if " [api] " in line]
    assert sum("Host.echo" in line for line in lines) == 2
    assert max(map(len, lines)) < 3000
