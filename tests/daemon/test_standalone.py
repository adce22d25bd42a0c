"""The scripts under examples/, as users run them, against a whole daemon."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.daemon.running import PATIENCE_S, Running

HERE = Path(__file__).parents[2]
IMPATIENT = """
import runpy, sys, time
sleep = time.sleep
time.sleep = lambda seconds: sleep(min(seconds, 0.02))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script that waits for tasks in steps of seconds."""


async def run_script(daemon: Running, name: str, folder: Path) -> str:
    """What the script printed; it finds the daemon by VDSM_ROOT alone."""
    config = daemon.paths.config_file
    config.write_text(f"[addresses]\nmanagement_ip = 127.0.0.1\nmanagement_port = {daemon.node.port}\n")
    environment = {**os.environ, "VDSM_ROOT": str(daemon.paths.root), "PYTHONPATH": str(HERE / "src")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        IMPATIENT,
        str(HERE / "examples" / name),
        str(folder),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(PATIENCE_S):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


@pytest.mark.parametrize("name", ["standalone.py", "standalone_jsonrpc.py"])
async def test_a_vm_on_a_new_domain(name: str, daemon: Running, tmp_path: Path) -> None:
    folder = tmp_path / "localstoragedomain"
    folder.mkdir()
    printed = await run_script(daemon, name, folder)
    assert "finished" in printed
    (vm,) = await daemon.rpc("Host.getVMList", {"fullStatus": True})
    await daemon.wait_until(lambda: daemon.list_statuses(vm["vmId"]))
    (stats,) = await daemon.rpc("VM.getStats", {"vmID": vm["vmId"]})
    assert (stats["vmName"], stats["status"]) == ("vm1", "Powering up")
    (domain,) = await daemon.rpc("Host.getStorageDomains")
    info = await daemon.rpc("StorageDomain.getInfo", {"storagedomainID": domain})
    assert (info["version"], info["remotePath"], info["role"]) == ("5", str(folder), "Master")
    (disk,) = (device for device in vm["devices"] if device["device"] == "disk")
    assert disk["domainID"] == domain
    ids = {"storagedomainID": domain, "storagepoolID": disk["poolID"], "imageID": disk["imageID"]}
    volume = await daemon.rpc("Volume.getInfo", {**ids, "volumeID": disk["volumeID"]})
    assert (volume["capacity"], volume["format"], volume["type"]) == (str(100 << 30), "COW", "SPARSE")
    assert int(volume["truesize"]) < 1 << 20
    assert await daemon.rpc("Host.getAllTasksStatuses") == {}
